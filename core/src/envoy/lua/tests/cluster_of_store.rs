use super::*;

#[test]
fn a_store_belongs_to_the_cluster_in_its_name() {
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
