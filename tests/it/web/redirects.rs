//! Redirects of web UIs lead where a person can go: of real programs with external URLs and
//! prefixes of every kind, of backends that say their own host, and below a path that a proxy in
//! front takes away or not.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atlas_lab::parts::{self, Part};
use atlas_lab::process::wait_until;
use atlas_lab::run::{Alertmanager, AlertmanagerOptions, Prometheus, PrometheusOptions};
use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place};
use atlas_lab::world_test;

use super::backend::{Backend, manifest, spare, wait_web};
use super::{location, raw, status};
use crate::atlas;

/// Where a browser ends up that opens `path` at the hub, and with which status.
fn follow(hub: &Hub, path: &str) -> Result<(String, u16)> {
    let mut at = path.to_owned();
    for _ in 0..6 {
        let answer = raw(hub, "GET", &at, "")?;
        if !(300..400).contains(&status(&answer)) {
            return Ok((at, status(&answer)));
        }
        let to = location(&answer).with_context(|| answer.clone())?;
        ensure!(!to.contains("//"), "{at} leads to another host: {to}");
        let before = at.split('?').next().unwrap_or_default();
        let directory = before.rsplit_once('/').map_or("", |(directory, _)| directory);
        at = if to.starts_with('/') { to.to_owned() } else { format!("{directory}/{to}") };
    }
    anyhow::bail!("{path} is redirected without an end, at last to {at}")
}

world_test! {
    needs [Envoy, EnvoyOldest, Thanos, Prometheus, PrometheusClassic, Alertmanager, CoreDns],
    fn whatever_its_external_url_a_servers_redirects_land_on_its_pages(world) {
        let options = HubOptions { envoy: Part::EnvoyOldest, ..HubOptions::new(atlas()) };
        let mut hub = Hub::start(Place::in_world(world, "hub")?, options)?;
        let options = ClusterOptions { replicas: 1, envoy: Part::EnvoyOldest, ..ClusterOptions::new("tokyo") };
        let tokyo = Cluster::start(Place::in_world(world, "tokyo")?, &mut hub, options)?;
        hub.wait_synced(["tokyo"])?;
        let place = &tokyo.place;
        // --web.external-url, --web.route-prefix, goatlas.io/prometheus-path-prefix.
        let kinds = [
            ("https://tokyo.example.com/prometheus", "/", "/"),
            ("https://tokyo.example.com", "/", "/"),
            ("https://tokyo.example.com/a/b/", "/", "/"),
            ("https://tools.example.com/observability/prom/tokyo", "/", "/"),
            ("https://hub.example.com/prom/tokyo", "/prom/tokyo", "/prom/tokyo"),
            ("https://tokyo.example.com/prometheus", "/prometheus", "/prometheus"),
            ("https://tokyo.example.com/other", "/prometheus", "/prometheus"),
        ];
        let pages = [(Part::Prometheus, "/query", "/query?g0.expr=up"), (Part::PrometheusClassic, "/classic/graph", "/classic/graph?g0.expr=up")];
        let mut port = 9100;
        for (part, home, graph) in pages {
            for (external, prefix, path_prefix) in kinds {
                port += 1;
                let at = SocketAddr::new(spare(place), port);
                let options = PrometheusOptions {
                    external_url: Some(external.into()),
                    route_prefix: Some(prefix.into()),
                    ..PrometheusOptions::new(at)
                };
                let mut server = Prometheus::start(&place.host, &format!("prometheus-{port}"), &parts::get(part)?, &options)?;
                server.wait_ready()?;
                let own = SocketAddr::new(place.programs[2], 9093);
                hub.atlas.write_manifest("tokyo.yaml", &manifest(place, "tokyo", at, own, &[("prometheus-path-prefix", path_prefix)]))?;
                let ours = at.to_string();
                wait_web(&hub, "/prom/tokyo/api/v1/status/flags", |answer| answer.status == 200 && answer.text().contains(&ours))?;
                let what = format!("{part:?} at {external}, {prefix}");
                // As the server itself answers: the tests' Prometheus 3 has no pages.
                let page = server.get(home)?.status;
                for start in ["/prom/tokyo", "/prom/tokyo/"] {
                    assert_eq!(follow(&hub, start)?, (format!("/prom/tokyo{home}"), page), "{what}: {start}");
                }
                let (landed, _) = follow(&hub, "/prom/tokyo/graph?g0.expr=up")?;
                assert_eq!(landed, format!("/prom/tokyo{graph}"), "{what}");
                println!("{what}: {landed} {page}");
            }
        }
        for (external, prefix, path_prefix) in [
            ("https://tokyo.example.com/alerts", "/", "/"),
            ("https://tokyo.example.com/alerts", "/alerts", "/alerts"),
            ("https://hub.example.com/alertmanager/tokyo", "/", "/"),
        ] {
            port += 1;
            let at = SocketAddr::new(spare(place), port);
            let options = AlertmanagerOptions {
                external_url: Some(external.into()),
                route_prefix: Some(prefix.into()),
                ..AlertmanagerOptions::new(at)
            };
            let mut server = Alertmanager::start(&place.host, &format!("alertmanager-{port}"), &parts::get(Part::Alertmanager)?, &options)?;
            server.wait_ready()?;
            let prometheus = SocketAddr::new(place.programs[0], 9090);
            hub.atlas.write_manifest("tokyo.yaml", &manifest(place, "tokyo", prometheus, at, &[("alertmanager-path-prefix", path_prefix)]))?;
            let route = format!("backend/alertmanager::{at}::");
            wait_until("the Envoy knows the new address", Duration::from_secs(30), || {
                Ok(tokyo.envoy.admin_get("/clusters")?.text().contains(&format!("{route}health_flags::healthy")).then_some(()))
            })?;
            wait_web(&hub, "/alertmanager/tokyo/", |answer| answer.status == 200 && answer.text().contains("Alertmanager"))?;
            assert_eq!(follow(&hub, "/alertmanager/tokyo")?, ("/alertmanager/tokyo/".into(), 200), "{external}, {prefix}");
            assert_eq!(hub.web("/alertmanager/tokyo/api/v2/status")?.status, 200);
        }
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn a_backend_sees_its_own_host_and_what_it_says_of_that_leads_back(world) {
        let mut hub = Hub::start(Place::in_world(world, "hub")?, HubOptions::new(atlas()))?;
        let tokyo = Cluster::start(Place::in_world(world, "tokyo")?, &mut hub, ClusterOptions { replicas: 1, ..ClusterOptions::new("tokyo") })?;
        hub.wait_synced(["tokyo"])?;
        let place = &tokyo.place;
        let backend = Backend::start(&place.host, SocketAddr::new(spare(place), 9090))?;
        let own = backend.at.to_string();
        let alertmanager = SocketAddr::new(place.programs[2], 9093);
        for (key, host) in [("", own.as_str()), ("hub", "hub"), ("metrics.tokyo.example:8443", "metrics.tokyo.example:8443")] {
            let more = [("prometheus-host-header", key), ("prometheus-path-prefix", "/own")];
            hub.atlas.write_manifest("tokyo.yaml", &manifest(place, "tokyo", backend.at, alertmanager, &more))?;
            backend.answer("");
            wait_until("the backend hears its host", Duration::from_secs(30), || {
                let answer = raw(&hub, "GET", "/prom/tokyo/x", "")?;
                let head = backend.last()?;
                ensure!(status(&answer) == 200 && head.contains(&format!("\r\nhost: {host}\r\n")), "{key:?}: {answer}\n{head}");
                Ok(Some(()))
            })?;
            for (says, expected) in [
                (format!("http://{host}/own/login?a=b&c=%2F#d"), "/prom/tokyo/login?a=b&c=%2F#d"),
                (format!("https://{own}/login"), "/prom/tokyo/login"),
                (format!("//{}/login", backend.at.ip()), "/prom/tokyo/login"),
                ("http://hub/prom/tokyo/login".into(), "/prom/tokyo/login"),
                ("/own".into(), "/prom/tokyo"),
                ("login?a=b".into(), "login?a=b"),
                ("https://sso.example.com/login?to=x".into(), "https://sso.example.com/login?to=x"),
            ] {
                backend.answer(&format!("Location: {says}\r\nContent-Location: {says}\r\nRefresh: 5; url={says}\r\n"));
                let answer = raw(&hub, "GET", "/prom/tokyo/a?q=1", "X-Forwarded-Host: somebody.example\r\n")?;
                let head = backend.last()?;
                assert_eq!((status(&answer), location(&answer)), (302, Some(expected)), "{key:?}: {says}");
                for other in [format!("\ncontent-location: {expected}\r"), format!("\nrefresh: 5; url={expected}\r")] {
                    assert!(answer.contains(&other), "{other}: {answer}");
                }
                assert!(head.starts_with("GET /own/a?q=1 ") && head.contains(&format!("\r\nhost: {host}\r\n")), "{key:?}: {head}");
            }
        }
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn below_a_path_everything_works_whether_the_front_takes_it_away_or_not(world) {
        let url = "--web-url=https://tools.example.com/observability/".to_owned();
        let mut hub = Hub::start(Place::in_world(world, "hub")?, HubOptions { atlas_extra: vec![url], ..HubOptions::new(atlas()) })?;
        let _tokyo = Cluster::start(Place::in_world(world, "tokyo")?, &mut hub, ClusterOptions { replicas: 1, ..ClusterOptions::new("tokyo") })?;
        hub.wait_synced(["tokyo"])?;
        wait_web(&hub, "/prom/tokyo/-/healthy", |answer| answer.status == 200)?;
        for front in ["", "/observability"] {
            let get = |path: &str| raw(&hub, "GET", &format!("{front}{path}"), "");
            // The page, its links, and the pages of errors.
            let index = get("/")?;
            assert_eq!(status(&index), 200, "{front}: {index}");
            for link in ["/observability/prom/tokyo/", "/observability/alertmanager/tokyo/", "/observability/api/v1/status"] {
                assert!(index.contains(&format!("href=\"{link}\"")), "{front}: {index}");
            }
            assert_eq!(status(&get("/api/v1/status")?), 200);
            let unknown = get("/prom/osaka/")?;
            assert!(status(&unknown) == 404 && unknown.contains("href=\"/observability/\""), "{front}: {unknown}");
            // Redirects: the hub's own, those of Envoy for escaped slashes, those of a server.
            let bare = get("/prom/tokyo?x=1")?;
            assert_eq!((status(&bare), location(&bare)), (308, Some("tokyo/?x=1")), "{front}: {bare}");
            let escaped = get("/prom/tokyo%2Fgraph?x=1")?;
            assert_eq!((status(&escaped), location(&escaped)), (307, Some("/observability/prom/tokyo/graph?x=1")), "{front}: {escaped}");
            let home = get("/prom/tokyo/")?;
            assert_eq!((status(&home), location(&home)), (302, Some("/observability/prom/tokyo/query")), "{front}: {home}");
            // The cookie is for where the browser sees the page.
            let page = get("/prom/tokyo/api/v1/status/flags")?;
            assert!(status(&page) == 200 && page.contains("; Path=/observability/prom/tokyo\r\n"), "{front}: {page}");
            assert_eq!(status(&get("/alertmanager/tokyo/api/v2/status")?), 200);
            assert_eq!(status(&raw(&hub, "POST", &format!("{front}/prom/tokyo/-/quit"), "")?), 403);
            assert_eq!(status(&get("/observability2/")?), 404);
        }
        assert_eq!(status(&raw(&hub, "GET", "/observability", "")?), 200);
    }
}
