use super::*;

#[test]
fn a_path_names_a_web_ui_with_or_without_the_web_path_before_it() {
    for (web_path, path, expected) in [
        ("", "/prom/tokyo/graph?x=1", Some(("/prom/tokyo", "tokyo", "/graph?x=1"))),
        ("", "/alertmanager/eu-west-1/", Some(("/alertmanager/eu-west-1", "eu-west-1", "/"))),
        ("", "/prom/tokyo", Some(("/prom/tokyo", "tokyo", ""))),
        ("", "/prom/tokyo?x=1", Some(("/prom/tokyo", "tokyo", "?x=1"))),
        ("", "/thanos/tokyo/", None),
        ("", "/prom/Tokyo/", None),
        ("", "/prom/-tokyo/", None),
        ("", "/prom//tokyo/", None),
        ("", "/prom", None),
        ("", "/", None),
        ("", "/observability/prom/tokyo/", None),
        ("/observability", "/observability/prom/tokyo/x", Some(("/prom/tokyo", "tokyo", "/x"))),
        ("/observability", "/prom/tokyo/x", Some(("/prom/tokyo", "tokyo", "/x"))),
        ("/observability", "/observability2/prom/tokyo/x", None),
        ("/observability", "/observability", None),
    ] {
        let script = Script::load_with_libraries(&paths(web_path));
        let web_ui: (Option<String>, Option<String>, Option<String>) =
            script.library("web_ui").call(path).unwrap();
        let expected = match expected {
            Some((base, cluster, rest)) => {
                (Some(base.into()), Some(cluster.into()), Some(rest.into()))
            }
            None => (None, None, None),
        };
        assert_eq!(web_ui, expected, "{web_path:?} {path}");
    }
    let longest = format!("/prom/{}/", "a".repeat(63));
    let script = Script::load_with_libraries(&paths(""));
    let web_ui = script.library("web_ui");
    assert!(web_ui.call::<Option<String>>(longest.as_str()).unwrap().is_some());
    assert_eq!(web_ui.call::<Option<String>>(longest.replace("/a", "/aa")).unwrap(), None);
}
