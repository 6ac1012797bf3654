use super::*;

#[test]
fn a_client_without_the_cookie_gets_one_made_of_its_address() {
    let script = Script::load(&replica_cookie());
    for (path, cookies, address, forwarded, sets_cookie) in [
        ("/prom/tokyo/graph", None, "192.0.2.7:4711", Some("atlas-replica=192-0-2-7"), true),
        ("/prom/tokyo/graph", None, "192.0.2.7:4712", Some("atlas-replica=192-0-2-7"), true),
        (
            "/prom/tokyo/",
            Some("lang=en"),
            "[fd00::7]:1",
            Some("lang=en; atlas-replica=-fd00-7-"),
            true,
        ),
        (
            "/prom/tokyo/",
            Some("a=b; atlas-replica=mine"),
            "192.0.2.7:1",
            Some("a=b; atlas-replica=mine"),
            false,
        ),
        (
            "/prom/tokyo/",
            Some("my-atlas-replica=x"),
            "192.0.2.7:1",
            Some("my-atlas-replica=x; atlas-replica=192-0-2-7"),
            true,
        ),
        ("/thanos.Store/Series", None, "192.0.2.7:1", None, false),
        ("/.atlas/health", None, "192.0.2.7:1", None, false),
        ("/prom/tokyo/", None, "", None, false),
    ] {
        let stream = script.stream();
        let headers: Vec<(&str, &str)> = [(":path", path)]
            .into_iter()
            .chain(cookies.map(|cookies| ("cookie", cookies)))
            .collect();
        let handle = stream
            .run("envoy_on_request", &headers, |options| options.set("address", address).unwrap());
        assert_eq!(
            value(&read(&handle.get("list").unwrap()), "cookie").as_deref(),
            forwarded,
            "{path} {cookies:?}"
        );
        let back = value(&stream.response(&[(":status", "200")]), "set-cookie");
        assert_eq!(
            back.is_some_and(|cookie| cookie.ends_with("; Path=/prom/tokyo; HttpOnly")),
            sets_cookie,
            "{path} {cookies:?}"
        );
    }
}
