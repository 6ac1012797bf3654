use super::*;

#[test]
fn an_ordinary_response_is_200_again_except_to_http2() {
    let script = Script::load(&websocket_responses_on_hub());
    for (protocol, status, plain, expected_status) in [
        ("HTTP/1.1", "299", true, "200"),
        ("HTTP/1.1", "299", false, "299"),
        ("HTTP/1.1", "101", false, "101"),
        ("HTTP/1.1", "503", false, "503"),
        ("HTTP/2", "299", true, "501"),
        ("HTTP/2", "200", false, "501"),
        ("HTTP/2", "404", false, "404"),
    ] {
        let headers: Vec<_> = [(":status", status)]
            .into_iter()
            .chain(plain.then_some(("x-atlas-plain-answer", "true")))
            .collect();
        let handle = script.stream().run("envoy_on_response", &headers, |options| {
            options.set("protocol", protocol).unwrap()
        });
        assert_eq!(
            read(&handle.get("list").unwrap()),
            [owned((":status", expected_status))],
            "{protocol} {status} {plain}"
        );
    }
}
