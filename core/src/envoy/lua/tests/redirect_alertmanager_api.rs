use super::*;

#[test]
fn the_referer_says_which_alertmanager_is_meant() {
    let script = Script::load(&redirect_alertmanager_api());
    for (referer, location) in [
        ("https://hub/alertmanager/tokyo/", Some("/alertmanager/tokyo/api/v2/alerts?active=true")),
        (
            "http://hub:10904/alertmanager/eu-west-1/x?y#z",
            Some("/alertmanager/eu-west-1/api/v2/alerts?active=true"),
        ),
        (
            "https://t/a_b/C~.d/alertmanager/tokyo/",
            Some("/a_b/C~.d/alertmanager/tokyo/api/v2/alerts?active=true"),
        ),
        ("https://hub/alertmanager/tokyo", None),
        ("https://hub/prom/tokyo/", None),
        ("https://hub/?x=/alertmanager/tokyo/", None),
        ("https://hub/alertmanager/Tokyo/", None),
        ("https://hub/alertmanager/-tokyo/", None),
        // Another host, or something that isn't a path.
        ("https://hub//evil.example/alertmanager/tokyo/", None),
        ("https://hub/a\"b/alertmanager/tokyo/", None),
        ("https://hub/a%0d%0a/alertmanager/tokyo/", None),
        ("javascript:/alertmanager/tokyo/", None),
        ("https:///alertmanager/tokyo/", None),
        ("/alertmanager/tokyo/", None),
        ("", None),
    ] {
        let response = script.stream().local_response(
            &[(":path", "/api/v2/alerts?active=true"), ("referer", referer)],
            "location",
        );
        let expected =
            location.map(|location| ("307".to_owned(), Some(location.to_owned()), String::new()));
        assert_eq!(response, expected, "{referer}");
    }
    assert_eq!(script.stream().local_response(&[(":path", "/api/v2/alerts")], "location"), None);
}
