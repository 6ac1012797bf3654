use super::*;
use crate::envoy::web::WebUi;
use crate::model::HostHeader;
use crate::name::HostPort;

/// 11901 of tokyo, whose Prometheus is at `at`, has a path prefix and gets the `Host` of `host`.
fn tokyo(prefix: &str, at: &str, host: &HostHeader) -> Script {
    let at = HostPort::parse(at, 9090).unwrap();
    Script::load(&web_in_cluster(&[WebUi {
        kind: "prometheus",
        base: "/prom/tokyo",
        backend_prefix: prefix,
        address: &at,
        host,
    }]))
}

#[test]
fn a_redirect_stays_below_its_ui() {
    const NAME: &str = "prometheus-operated.monitoring.svc.cluster.local";
    let own = "/prom/tokyo/login?to=%2F&a=b#top";
    for (prefix, requested, location, expected) in [
        // A backend without a path prefix.
        ("", "/", "/query", "/prom/tokyo/query"),
        ("", "/", "/", "/prom/tokyo/"),
        ("", "/", "/prom/tokyo/query", "/prom/tokyo/query"),
        ("", "/", "/prom/tokyo", "/prom/tokyo"),
        ("", "/", "/prom/tokyo2/x", "/prom/tokyo/prom/tokyo2/x"),
        ("", "/", "query?x=1", "query?x=1"),
        ("", "/", "../query", "../query"),
        ("", "/", "?x=1", "?x=1"),
        // The path of --web.external-url, whatever the route prefix: Prometheus 2.42 and 3.15.
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
        // A path below which the request itself was.
        ("", "/prometheus", "/prometheus/query", "/prom/tokyo/prometheus/query"),
        ("", "/tenant/", "/tenant/graph", "/prom/tokyo/tenant/graph"),
        ("", "/", "/graph/targets/x", "/prom/tokyo/graph/targets/x"),
        ("", "/a", "/other/page", "/prom/tokyo/other/page"),
        // An external URL that is the hub's, behind a path that a proxy removes.
        ("", "/", "/observability/prom/tokyo/query", "/prom/tokyo/query"),
        ("", "/", "/observability/prom/tokyo?x=1", "/prom/tokyo?x=1"),
        ("", "/x", "/login?to=/prom/tokyo/", "/prom/tokyo/login?to=/prom/tokyo/"),
        // A backend with a path prefix.
        ("/prometheus", "/", "/prometheus/query", "/prom/tokyo/query"),
        ("/prometheus", "/", "/prometheus", "/prom/tokyo"),
        ("/prometheus", "/", "/prometheus2/x", "/prom/tokyo/prometheus2/x"),
        ("/prom/tokyo", "/", "/prom/tokyo/query", "/prom/tokyo/query"),
        // The backend's own host, by each of its names and schemes.
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
        // The host that the browser asked for, which backends know from x-forwarded-host.
        ("", "/", "https://hub.example.com/login?to=%2F&a=b#top", own),
        ("", "/", "https://hub.example.com:8443/login?to=%2F&a=b#top", own),
        ("", "/", "http://tools.example.com/observability/prom/tokyo/login?to=%2F&a=b#top", own),
        // Other hosts.
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
        let path = format!("/prom/tokyo{requested}");
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
        assert_eq!(value(&back, "location").unwrap(), expected, "{prefix} {requested}: {location}");
        assert_eq!(value(&back, "content-location").unwrap(), expected);
        assert_eq!(value(&back, "refresh").unwrap(), format!("0;url={expected}"));
    }
}

#[test]
fn only_a_prometheus_has_pages_below_its_external_url() {
    let at = HostPort::parse("am:9093", 9093).unwrap();
    let ui = WebUi {
        kind: "alertmanager",
        base: "/alertmanager/tokyo",
        backend_prefix: "",
        address: &at,
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
fn a_backend_with_host_header_hub_gets_the_last_forwarded_host() {
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
    // Requests for stores and for other clusters stay as they are.
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
