use super::*;

#[test]
fn a_web_ui_belongs_to_the_cluster_in_its_path() {
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
