use super::*;

#[test]
fn posts_under_way_are_limited_by_cluster_and_alertmanager() {
    let script = Script::load(&limit_alert_posts());
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
