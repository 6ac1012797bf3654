//! The scripts of a cluster's Envoy.

use super::*;
use crate::envoy::web::WebUi;
use crate::model::HostHeader;
use crate::name::HostPort;

/// 11901 of tokyo: a Prometheus at `at` with a prefix of its own, asked by `host`.
fn tokyo(prefix: &str, at: &str, host: &HostHeader) -> Script {
    let at = HostPort::parse(at, 9090).unwrap();
    Script::load(&web_in_cluster(&[WebUi {
        kind: "prometheus",
        base: "/prom/tokyo",
        backend_prefix: prefix,
        at: &at,
        host,
    }]))
}

#[test]
fn the_targets_are_called_as_the_envoy_was_asked() {
    let script = Script::load(&alert_targets("[\"AUTHORITY\", \"AUTHORITY\"]\n"));
    let asked =
        |authority: &str| script.stream().answer(&[(":authority", authority)], "content-type");
    let answer = asked("envoy.monitoring:11903").unwrap();
    assert_eq!(
        answer,
        (
            "200".into(),
            Some("application/json".into()),
            "[\"envoy.monitoring:11903\", \"envoy.monitoring:11903\"]\n".into()
        )
    );
    assert!(asked("[fd00::1]:11903").unwrap().2.contains("[fd00::1]:11903"));
    assert_eq!(asked("a\"b"), None);
    assert_eq!(asked(""), None);
    assert_eq!(asked(NO_HOST).unwrap().0, "400");
}

#[test]
fn who_brings_no_cookie_gets_one_of_their_address() {
    let script = Script::load(&replica());
    for (path, cookies, address, asked, set) in [
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
            asked,
            "{path} {cookies:?}"
        );
        let back = value(&stream.response(&[(":status", "200")]), "set-cookie");
        assert_eq!(
            back.is_some_and(|cookie| cookie.ends_with("; Path=/prom/tokyo; HttpOnly")),
            set,
            "{path} {cookies:?}"
        );
    }
}

#[test]
fn a_redirect_stays_below_its_ui() {
    const NAME: &str = "prometheus-operated.monitoring.svc.cluster.local";
    let own = "/prom/tokyo/login?to=%2F&a=b#top";
    for (prefix, asked, location, expected) in [
        // Without a path of its own.
        ("", "/", "/query", "/prom/tokyo/query"),
        ("", "/", "/", "/prom/tokyo/"),
        ("", "/", "/prom/tokyo/query", "/prom/tokyo/query"),
        ("", "/", "/prom/tokyo", "/prom/tokyo"),
        ("", "/", "/prom/tokyo2/x", "/prom/tokyo/prom/tokyo2/x"),
        ("", "/", "query?x=1", "query?x=1"),
        ("", "/", "../query", "../query"),
        ("", "/", "?x=1", "?x=1"),
        // The path of --web.external-url, whatever is served: Prometheus 2.42 and 3.15.
        ("", "/", "/prometheus/query", "/prom/tokyo/query"),
        ("", "/", "/prometheus/graph", "/prom/tokyo/graph"),
        ("", "/", "/a/b/classic/graph", "/prom/tokyo/classic/graph"),
        (
            "",
            "/graph?g0.expr=up",
            "/prometheus/query?g0.expr=up&x=/graph",
            "/prom/tokyo/query?g0.expr=up&x=/graph",
        ),
        ("", "/new/alerts", "/prometheus/alerts?", "/prom/tokyo/alerts?"),
        ("", "/consoles/", "/prometheus/consoles/index.html", "/prom/tokyo/consoles/index.html"),
        ("", "/", "/prometheus/agent", "/prom/tokyo/agent"),
        ("/prometheus", "/", "/other/query", "/prom/tokyo/query"),
        // A path that is there: whoever asks below it is answered below it.
        ("", "/prometheus", "/prometheus/query", "/prom/tokyo/prometheus/query"),
        ("", "/tenant/", "/tenant/graph", "/prom/tokyo/tenant/graph"),
        ("", "/", "/graph/targets/x", "/prom/tokyo/graph/targets/x"),
        ("", "/a", "/other/page", "/prom/tokyo/other/page"),
        // An external URL that is the hub's, behind a path that a proxy takes away.
        ("", "/", "/observability/prom/tokyo/query", "/prom/tokyo/query"),
        ("", "/", "/observability/prom/tokyo?x=1", "/prom/tokyo?x=1"),
        ("", "/x", "/login?to=/prom/tokyo/", "/prom/tokyo/login?to=/prom/tokyo/"),
        // The backend's own prefix.
        ("/prometheus", "/", "/prometheus/query", "/prom/tokyo/query"),
        ("/prometheus", "/", "/prometheus", "/prom/tokyo"),
        ("/prometheus", "/", "/prometheus2/x", "/prom/tokyo/prometheus2/x"),
        ("/prom/tokyo", "/", "/prom/tokyo/query", "/prom/tokyo/query"),
        // Its own host, by every name and scheme.
        (
            "",
            "/",
            "http://prometheus-operated.monitoring.svc.cluster.local:9090/login?to=%2F&a=b#top",
            own,
        ),
        (
            "",
            "/",
            "http://prometheus-operated.monitoring.svc.cluster.local/login?to=%2F&a=b#top",
            own,
        ),
        ("", "/", "HTTPS://Prometheus-Operated.monitoring:9090/login?to=%2F&a=b#top", own),
        ("", "/", "//prometheus-operated/login?to=%2F&a=b#top", own),
        (
            "/prometheus",
            "/",
            "http://prometheus-operated:9090/prometheus/login?to=%2F&a=b#top",
            own,
        ),
        ("", "/", "http://prometheus-operated:9090", "/prom/tokyo/"),
        ("", "/", "http://prometheus-operated:9090?a=b", "/prom/tokyo/?a=b"),
        ("", "/", "http://prometheus-operated:9090/prometheus/query", "/prom/tokyo/query"),
        // What people asked for, where a backend heeds x-forwarded-host.
        ("", "/", "https://hub.example.com/login?to=%2F&a=b#top", own),
        ("", "/", "https://hub.example.com:8443/login?to=%2F&a=b#top", own),
        ("", "/", "http://tools.example.com/observability/prom/tokyo/login?to=%2F&a=b#top", own),
        // Somebody else's.
        ("", "/", "http://prometheus-operated:9091/login", "http://prometheus-operated:9091/login"),
        ("", "/", "https://hub.example.com:3000/login", "https://hub.example.com:3000/login"),
        (
            "",
            "/",
            "https://sso.example.com/login?to=http://prometheus-operated:9090/",
            "https://sso.example.com/login?to=http://prometheus-operated:9090/",
        ),
        ("", "/", "//sso.example.com/", "//sso.example.com/"),
        (
            "",
            "/",
            "http://prometheus-operated@sso.example.com/",
            "http://prometheus-operated@sso.example.com/",
        ),
        ("", "/", "mailto:prometheus-operated", "mailto:prometheus-operated"),
        ("", "/", "", ""),
    ] {
        let script = tokyo(prefix, &format!("{NAME}:9090"), &HostHeader::Own);
        let stream = script.stream();
        let path = format!("/prom/tokyo{asked}");
        let request = stream.request(&[
            (":path", &path),
            (":authority", "web"),
            ("x-forwarded-host", "tools.example.com, hub.example.com:8443"),
        ]);
        assert_eq!(value(&request, ":authority").unwrap(), "web", "the route rewrites it");
        let headers = [
            (":status", "302"),
            ("location", location),
            ("content-location", location),
            ("refresh", &format!("0;url={location}")),
        ];
        let back = stream.response(&headers);
        assert_eq!(value(&back, "location").unwrap(), expected, "{prefix} {asked}: {location}");
        assert_eq!(value(&back, "content-location").unwrap(), expected);
        assert_eq!(value(&back, "refresh").unwrap(), format!("0;url={expected}"));
    }
}

#[test]
fn only_a_prometheus_redirects_to_pages_below_its_external_url() {
    let at = HostPort::parse("am:9093", 9093).unwrap();
    let ui = WebUi {
        kind: "alertmanager",
        base: "/alertmanager/tokyo",
        backend_prefix: "",
        at: &at,
        host: &HostHeader::Own,
    };
    let stream_of = Script::load(&web_in_cluster(&[ui]));
    let stream = stream_of.stream();
    stream.request(&[(":path", "/alertmanager/tokyo/")]);
    for location in ["/teams/alerts", "/a/status", "/x/config"] {
        let back = stream.response(&[(":status", "302"), ("location", location)]);
        assert_eq!(value(&back, "location").unwrap(), format!("/alertmanager/tokyo{location}"));
    }
}

#[test]
fn a_backend_that_is_asked_as_the_hub_sees_the_last_host_in_front() {
    let script = tokyo("", "10.0.0.1:9090", &HostHeader::Hub);
    for (forwarded, authority) in [
        (Some("hub.example.com:10904"), "hub.example.com:10904"),
        (Some("spoofed.example.com, hub.example.com"), "hub.example.com"),
        (Some("a,hub"), "hub"),
        (Some("a,hub  "), "hub"),
        (Some("a hub"), "hub"),
        (Some("a,"), "web"),
        (Some(""), "web"),
        (None, "web"),
    ] {
        let mut headers = vec![(":path", "/prom/tokyo/"), (":authority", "web")];
        headers.extend(forwarded.map(|value| ("x-forwarded-host", value)));
        assert_eq!(
            value(&script.stream().request(&headers), ":authority").unwrap(),
            authority,
            "{forwarded:?}"
        );
    }
    // A store's request, and another cluster's path, are none of its business.
    for path in ["/thanos.Store/Series", "/prom/paris/"] {
        let stream = script.stream();
        let request =
            stream.request(&[(":path", path), (":authority", "web"), ("x-forwarded-host", "hub")]);
        assert_eq!(value(&request, ":authority").unwrap(), "web");
        assert_eq!(
            value(&stream.response(&[(":status", "302"), ("location", "/x")]), "location").unwrap(),
            "/x"
        );
    }
}

#[test]
fn a_backend_that_declines_a_websocket_is_asked_again_without_the_offer() {
    // Two filters, of which the first is off where the offer goes on to the backend.
    let script = Script::load(&[offer_removed(), websocket_answers_in_cluster()].concat());
    for (removed, status, said, with) in [
        (false, "101", "101", None),
        (false, "200", "503", Some("x-atlas-websocket-declined")),
        (false, "302", "503", Some("x-atlas-websocket-declined")),
        (false, "404", "404", None),
        (false, "500", "500", None),
        // The hub's second attempt is an ordinary request.
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
        // Nobody else says such a thing to the hub.
        let sent = [
            (":status", status),
            ("x-atlas-plain-answer", "mine"),
            ("x-atlas-websocket-declined", "mine"),
        ];
        let expected: Headers = [(":status", said)]
            .into_iter()
            .chain(with.map(|name| (name, "true")))
            .map(owned)
            .collect();
        assert_eq!(stream.response(&sent), expected, "{removed} {status}");
    }
}

#[test]
fn nothing_follows_a_request_whose_offer_is_removed_and_one_with_a_body_is_refused() {
    let script = Script::load(&offer_removed());
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
        let answer: Option<Table> = handle.get("responded").unwrap();
        let status = answer.map(|answer| {
            answer.get::<Table>("headers").unwrap().get::<String>(":status").unwrap()
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
