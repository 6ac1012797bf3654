use super::*;

#[test]
fn the_offer_and_the_body_are_removed_or_the_request_is_refused() {
    let script = Script::load(&remove_websocket_offer());
    for (method, length, refused) in [
        ("GET", None, false),
        ("HEAD", None, false),
        ("GET", Some("0"), false),
        ("POST", Some("0"), false),
        ("DELETE", None, false),
        ("GET", Some("5"), true),
        ("GET", Some("0,5"), true),
        ("POST", None, true),
        ("PUT", None, true),
        ("PATCH", Some("7"), true),
    ] {
        let length = length.map(|length| ("content-length", length));
        let headers: Vec<_> = [
            (":method", method),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("accept", "*/*"),
        ]
        .into_iter()
        .chain(length)
        .collect();
        let chunks = script.0.create_sequence_from(["POST /-/quit HTTP/1.1", "more"]).unwrap();
        let handle = script
            .stream()
            .run("envoy_on_request", &headers, |options| options.set("chunks", &chunks).unwrap());
        let response: Option<Table> = handle.get("responded").unwrap();
        let status = response.map(|response| {
            response.get::<Table>("headers").unwrap().get::<String>(":status").unwrap()
        });
        assert_eq!(status.as_deref(), refused.then_some("400"), "{method} {length:?}");
        if !refused {
            let kept: Headers =
                [(":method", method), ("accept", "*/*"), ("content-length", "0")].map(owned).into();
            let mut seen = read(&handle.get("list").unwrap());
            seen.sort();
            assert_eq!(seen, kept, "{method} {length:?}");
            assert_eq!(
                chunks.sequence_values::<String>().collect::<mlua::Result<Vec<_>>>().unwrap(),
                ["", ""]
            );
        }
    }
}
