//! The scripts of the hub's Envoy, but for the one that has a file of its own.

use super::*;

#[test]
fn a_store_is_its_clusters() {
    let script = Script::load(&cluster_of_store());
    for (authority, cluster) in [
        ("tokyo-thanos-sidecar0", "cluster/tokyo"),
        ("tokyo-thanos-sidecar12.sidecars.thanos.atlas", "cluster/tokyo"),
        ("eu-west-1-thanos-sidecar0.monitoring.svc:10901", "cluster/eu-west-1"),
        ("tokyo", "nowhere"),
        ("tokyo-thanos-sidecar123", "nowhere"),
        ("Tokyo-thanos-sidecar0", "nowhere"),
        ("to.kyo-thanos-sidecar0", "nowhere"),
        ("atlas/web-thanos-sidecar0", "nowhere"),
        ("10.0.0.1:10901", "nowhere"),
        ("", "nowhere"),
    ] {
        assert_eq!(script.route(&[(":authority", authority)]), cluster, "{authority}");
    }
}

#[test]
fn a_web_ui_is_its_clusters_with_and_without_the_path_in_front() {
    let (plain, below) =
        (Script::load(&cluster_of_web_ui("")), Script::load(&cluster_of_web_ui("/a-b/c")));
    for (path, cluster) in [
        ("/prom/tokyo/", "cluster/tokyo"),
        ("/alertmanager/tokyo/api/v2/status?x=/prom/paris", "cluster/tokyo"),
        ("/prom/tokyo", "cluster/tokyo"),
        ("/prom/Tokyo/", "nowhere"),
        ("/prom/tokyo%22/", "nowhere"),
        ("/prom/atlas/web", "cluster/atlas"),
        ("/prom//tokyo/", "nowhere"),
        ("/prom/", "nowhere"),
        ("/other/tokyo/", "nowhere"),
        ("/", "nowhere"),
    ] {
        assert_eq!(plain.route(&[(":path", path)]), cluster, "{path}");
        assert_eq!(below.route(&[(":path", path)]), cluster, "{path}");
        assert_eq!(below.route(&[(":path", &format!("/a-b/c{path}"))]), cluster, "{path}");
        assert_eq!(plain.route(&[(":path", &format!("/a-b/c{path}"))]), "nowhere", "{path}");
    }
}

#[test]
fn a_clusters_share_is_counted_by_alertmanager_and_given_back() {
    let script = Script::load(&alert_share());
    let post = |id: &str, path: &str, bytes: &str, now: i64| {
        let stream = script.stream();
        let id = format!("spiffe://atlas/cluster/{id}/1");
        let handle = stream.run(
            "envoy_on_request",
            &[(":method", "POST"), (":path", path), ("content-length", bytes)],
            |options| {
                options.set("id", id).unwrap();
                options.set("now", now).unwrap();
            },
        );
        let responded: Option<Table> = handle.get("responded").unwrap();
        (responded.is_none(), stream)
    };
    let first = "/alertmanager/0/api/v2/alerts";
    let under_way: Vec<_> =
        (0..limits::ALERT_POSTS_OF_A_CLUSTER).map(|_| post("tokyo", first, "10", 0)).collect();
    assert!(under_way.iter().all(|(passes, _)| *passes));
    assert!(!post("tokyo", first, "10", 0).0, "one too many");
    assert!(post("paris", first, "10", 0).0, "another cluster");
    assert!(post("tokyo", "/alertmanager/1/api/v2/alerts", "10", 0).0, "another Alertmanager");
    under_way[3].1.response(&[(":status", "200")]);
    assert!(post("tokyo", first, "10", 0).0, "one has been answered");
    assert!(!post("tokyo", first, "10", 0).0);
    assert!(post("tokyo", first, "10", 60_000).0, "those without an answer are forgotten");
    assert!(post("osaka", first, "999999999", 0).0, "one alone may be as large as it likes here");
    assert!(!post("osaka", first, "1", 0).0, "beside it there is no room");
}

#[test]
fn what_a_page_asks_for_at_the_root_is_beneath_its_alertmanager() {
    let script = Script::load(&api_beneath_page());
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
        let answer = script
            .stream()
            .answer(&[(":path", "/api/v2/alerts?active=true"), ("referer", referer)], "location");
        let expected =
            location.map(|location| ("307".to_owned(), Some(location.to_owned()), String::new()));
        assert_eq!(answer, expected, "{referer}");
    }
    assert_eq!(script.stream().answer(&[(":path", "/api/v2/alerts")], "location"), None);
}

#[test]
fn a_plain_answer_under_an_offer_is_200_again_but_to_http2() {
    let script = Script::load(&websocket_answers_on_hub());
    for (protocol, status, plain, said) in [
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
            [owned((":status", said))],
            "{protocol} {status} {plain}"
        );
    }
}
