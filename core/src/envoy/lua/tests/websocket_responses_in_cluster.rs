use super::*;

#[test]
fn a_declined_websocket_is_reported_to_the_hub() {
    // In Envoy these are two filters. The first is disabled on routes that keep the offer.
    let script =
        Script::load(&[remove_websocket_offer(), websocket_responses_in_cluster()].concat());
    for (removed, status, expected_status, header) in [
        (false, "101", "101", None),
        (false, "200", "503", Some("x-atlas-websocket-declined")),
        (false, "302", "503", Some("x-atlas-websocket-declined")),
        (false, "404", "404", None),
        (false, "500", "500", None),
        // The second attempt of the hub is an ordinary request.
        (true, "200", "299", Some("x-atlas-plain-answer")),
        (true, "302", "302", None),
        (true, "404", "404", None),
    ] {
        let stream = script.stream();
        if removed {
            stream.request(&[
                (":method", "GET"),
                (":path", "/prom/tokyo/"),
                ("upgrade", "websocket"),
            ]);
        }
        // A backend can't send these headers.
        let sent = [
            (":status", status),
            ("x-atlas-plain-answer", "mine"),
            ("x-atlas-websocket-declined", "mine"),
        ];
        let expected: Headers = [(":status", expected_status)]
            .into_iter()
            .chain(header.map(|name| (name, "true")))
            .map(owned)
            .collect();
        assert_eq!(stream.response(&sent), expected, "{removed} {status}");
    }
}
