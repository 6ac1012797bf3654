use super::*;

#[test]
fn the_web_path_is_put_before_paths_that_lack_it() {
    for (web_path, location, expected) in [
        ("/observability", "/prom/tokyo/query?x=1", "/observability/prom/tokyo/query?x=1"),
        ("/observability", "/observability/prom/tokyo/", "/observability/prom/tokyo/"),
        ("/observability", "/observability", "/observability"),
        ("/observability", "/observability?x=1", "/observability?x=1"),
        ("/observability", "/observability2/x", "/observability/observability2/x"),
        ("/observability", "query", "query"),
        ("/observability", "", ""),
        ("/observability", "//elsewhere/x", "//elsewhere/x"),
        ("/observability", "https://elsewhere/x", "https://elsewhere/x"),
        ("", "/prom/tokyo/", "/prom/tokyo/"),
    ] {
        let script = Script::load_with_libraries(&below_web_path(web_path));
        let list = script.entries(&[("location", location)]);
        script.correct_headers("below_web_path", &list, None);
        assert_eq!(read(&list), [owned(("location", expected))], "{web_path:?} {location:?}");
    }
}
