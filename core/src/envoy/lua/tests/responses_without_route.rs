use super::*;

#[test]
fn urls_in_responses_are_below_the_web_path() {
    let script = Script::load(&responses_without_route("/observability"));
    for (name, before, after) in [
        ("location", "/prom/a/b", "/observability/prom/a/b"),
        ("location", "/observability/prom/a/b", "/observability/prom/a/b"),
        ("location", "https://elsewhere/prom/a/b", "https://elsewhere/prom/a/b"),
        ("content-location", "/", "/observability/"),
        ("refresh", "0;url=/prom/", "0;url=/observability/prom/"),
        ("content-type", "/", "/"),
    ] {
        let response = script.stream().response(&[(":status", "307"), (name, before)]);
        assert_eq!(response, [owned((":status", "307")), owned((name, after))]);
    }
}

#[test]
fn without_a_web_path_there_is_no_script() {
    assert_eq!(responses_without_route(""), "");
}
