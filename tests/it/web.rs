//! The web UIs through the hub: pages for what isn't there, what is refused, redirects, one replica
//! for a person, WebSockets.

mod backend;
mod credentials;
mod redirects;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use atlas_lab::http::{self, Response};
use atlas_lab::parts::Part;
use atlas_lab::process::wait_until;
use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place, Scene};
use atlas_lab::world_test;

use crate::atlas;

/// One HTTP/1.1 request to the letter: clients of the kind that people use tidy paths up before
/// they send them.
fn raw(hub: &Hub, method: &str, path: &str, headers: &str) -> Result<String> {
    let at = SocketAddr::new(hub.place.envoy, 10904);
    hub.place.host.within(|| {
        let mut stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    })
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

fn location(answer: &str) -> Option<&str> {
    answer.lines().find_map(|line| line.strip_prefix("location: "))
}

fn with_cookie(hub: &Hub, path: &str, cookie: &str) -> Result<Response> {
    let url = hub.web_url(path);
    hub.place.host.within(|| http::Request::new("GET", &url)?.header("cookie", cookie).send())
}

/// Which replica answered, by its own word.
pub(crate) fn replica(answer: &Response) -> Result<String> {
    let flags: serde_json::Value = answer.json()?;
    Ok(flags["data"]["web.listen-address"]
        .as_str()
        .or(flags["data"]["web.listen-address"][0].as_str())
        .unwrap_or_default()
        .to_owned())
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn paths_are_refused_redirected_and_answered_as_they_should(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        let tokyo = &mut scene.clusters[0];
        let hub = &scene.hub;
        // Names that aren't there, and the hub's own page.
        let page = hub.web("/prom/osaka/")?;
        assert_eq!((page.status, page.header("content-type")), (404, Some("text/html; charset=utf-8")));
        assert!(page.text().contains("no such cluster"), "{}", page.text());
        assert_eq!(hub.web("/prom/tokyo%22/")?.status, 404);
        let index = hub.web("/")?.text();
        assert!(index.contains("/prom/tokyo/") && index.contains("/alertmanager/paris/"), "{index}");
        // The bare name is redirected; a redirect of the backend keeps its base, once.
        let bare = raw(hub, "GET", "/prom/tokyo", "")?;
        assert_eq!((status(&bare), location(&bare)), (308, Some("tokyo/")), "{bare}");
        let root = raw(hub, "GET", "/prom/tokyo/", "")?;
        let to = location(&root).with_context(|| root.clone())?;
        assert!(to.starts_with("/prom/tokyo") && to.matches("/prom/tokyo").count() == 1, "{to}");
        // Refused, however it is spelt.
        for path in [
            "/prom/tokyo/-/quit", "/prom/tokyo/-/reload", "/prom/tokyo//-/quit", "/prom/tokyo/./-/quit", "/prom/tokyo/x/../-/quit",
            "/prom/tokyo/-/quit/", "/prom/tokyo/%2d/quit", "/prom/tokyo/-/%71uit", "/prom/tokyo/%2e/-/quit", "/prom/tokyo/-%2fquit",
            "/prom/tokyo/-%2Fquit", "/prom/tokyo/%252d/quit", "/prom/tokyo/-/quit?x=1", "/prom/tokyo\\-\\quit", "/prom/tokyo/-/quit%3f",
            "/prom/paris/%2e%2e/tokyo/-/quit", "/prom/tokyo/api/v1/admin/tsdb/snapshot", "/prom/tokyo/api/v1/write", "/prom/tokyo/api/v1/otlp/v1/metrics",
            "/prom/tokyo/debug/pprof/", "/alertmanager/tokyo/-/reload", "/alertmanager/tokyo/debug/pprof/", "/prom/tokyo/-/qui%74",
        ] {
            let answer = raw(hub, "POST", path, "")?;
            println!("POST {path}: {}", status(&answer));
            assert!(matches!(status(&answer), 307 | 400 | 403 | 404 | 405), "{path}: {answer}");
        }
        thread::sleep(Duration::from_millis(500));
        for prometheus in &mut tokyo.prometheus {
            assert!(prometheus.process.is_running(), "a POST through the hub stopped it");
        }
        let refused = raw(hub, "POST", "/prom/tokyo/-/quit", "")?;
        assert!(status(&refused) == 403 && refused.contains("goatlas.io/allow-paths"), "{refused}");
        // Paths of other clusters are other clusters'.
        assert!(matches!(status(&raw(hub, "GET", "/prom/tokyo/%2e%2e/osaka/", "")?), 404), "normalised before it is routed");
        // Nothing but posting alerts on 10903's paths, nothing but its two paths on 9001.
        let nine = |path: &str| {
            let url = format!("http://{}{path}", SocketAddr::new(hub.place.envoy, 9001));
            hub.place.host.within(|| http::get(&url))
        };
        assert_eq!(nine("/ready")?.status, 200);
        assert!(nine("/stats/prometheus")?.text().contains("envoy_cluster_upstream_cx_total"));
        for path in ["/", "/config_dump", "/quitquitquit", "/ready/../config_dump", "/certs"] {
            assert_eq!(nine(path)?.status, 404, "{path}");
        }
        // A dead backend has a page too.
        tokyo.alertmanager.process.kill()?;
        let dead = hub.web("/alertmanager/tokyo/")?;
        assert!(dead.status == 503 && dead.text().contains("can't be reached"), "{} {}", dead.status, dead.text());
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn a_person_stays_on_one_replica_and_so_does_who_brings_no_cookie(world) {
        let options = HubOptions { atlas_extra: vec!["--trusted-hops=1".into()], ..HubOptions::new(atlas()) };
        let mut hub = Hub::start(Place::in_world(world, "hub")?, options)?;
        let tokyo = Cluster::start(Place::in_world(world, "tokyo")?, &mut hub, ClusterOptions::new("tokyo"))?;
        let mut scene = Scene { hub, clusters: vec![tokyo] };
        scene.wait_connected()?;
        let flags = "/prom/tokyo/api/v1/status/flags";
        // Without a cookie: by the client's address. Each has one replica, and all together have
        // both.
        let client = |address: &str| -> Result<BTreeSet<String>> {
            let url = scene.hub.web_url(flags);
            let ask = |_| replica(&scene.hub.place.host.within(|| http::Request::new("GET", &url)?.header("x-forwarded-for", address).send())?);
            (0..6).map(ask).collect()
        };
        let mut all = BTreeSet::new();
        for n in 1..=24 {
            let seen = client(&format!("192.0.2.{n}"))?;
            assert_eq!(seen.len(), 1, "192.0.2.{n}: {seen:?}");
            all.extend(seen);
        }
        assert_eq!(all.len(), 2, "{all:?}");
        // What stands before the last proxy's word is the client's own, and counts for nothing.
        assert_eq!(client("198.51.100.1, 192.0.2.1")?, client("198.51.100.2, 192.0.2.1")?);
        let first = scene.hub.web(flags)?;
        let cookie = first.header("set-cookie").context("a cookie")?.to_owned();
        println!("{cookie}");
        assert!(cookie.starts_with("atlas-replica=") && cookie.contains("; Path=/prom/tokyo"), "{cookie}");
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        let mine = replica(&first)?;
        for _ in 0..12 {
            let again = with_cookie(&scene.hub, flags, &format!("session=x; {cookie}"))?;
            assert_eq!((replica(&again)?, again.header("set-cookie")), (mine.clone(), None));
        }
        // The cookie says nothing of the replica. That gone, the person gets the other one.
        let at = scene.clusters[0].prometheus.iter_mut().find(|p| p.listen.to_string() == mine).context("the replica")?;
        at.process.kill()?;
        let moved = wait_until("the other replica", Duration::from_secs(20), || {
            let answer = with_cookie(&scene.hub, flags, &cookie)?;
            Ok((answer.status == 200).then_some(answer))
        })?;
        assert_ne!(replica(&moved)?, mine);
    }
}

/// A server that upgrades to a WebSocket and echoes one line: none of the real programs has a
/// WebSocket to offer. Connections that say nothing are Envoy's health checks.
fn echo_websocket(listener: TcpListener) -> Result<()> {
    let mut byte = [0];
    let mut stream = loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        if stream.read(&mut byte)? == 1 {
            break stream;
        }
    };
    let mut head = byte.to_vec();
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    anyhow::ensure!(
        String::from_utf8_lossy(&head).to_lowercase().contains("upgrade: websocket"),
        "no upgrade"
    );
    stream.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    )?;
    let mut line = [0; 6];
    stream.read_exact(&mut line)?;
    stream.write_all(&line)?;
    Ok(())
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn a_websocket_passes_and_allowed_paths_and_prefixes_count(world) {
        let mut hub = Hub::start(Place::in_world(world, "hub")?, HubOptions::new(atlas()))?;
        let place = Place::in_world(world, "tokyo")?;
        let echo = SocketAddr::new(place.programs[4], 9090);
        let annotations = [
            ("goatlas.io/alertmanager-service", echo.ip().to_string()),
            ("goatlas.io/alertmanager-service-port", echo.port().to_string()),
            ("goatlas.io/allow-paths", "/-/reload,/debug/pprof/cmdline".to_owned()),
        ];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value)).to_vec();
        let tokyo = Cluster::start(place, &mut hub, ClusterOptions { annotations, replicas: 1, ..ClusterOptions::new("tokyo") })?;
        hub.wait_synced(["tokyo"])?;
        let prometheus = tokyo.prometheus.first().context("one")?;
        wait_until("the web UI", Duration::from_secs(10), || Ok((hub.web("/prom/tokyo/-/healthy")?.status == 200).then_some(())))?;
        assert_eq!(status(&raw(&hub, "GET", "/prom/tokyo/debug/pprof/cmdline", "")?), 200, "allowed by its annotation");
        assert_eq!(status(&raw(&hub, "GET", "/prom/tokyo/debug/pprof/heap", "")?), 403, "its neighbour isn't");
        let reload = status(&raw(&hub, "POST", "/prom/tokyo/-/reload", "")?);
        assert_eq!(reload, http_status_of_reload(prometheus)?, "what Prometheus itself says");
        assert_eq!(status(&raw(&hub, "POST", "/prom/tokyo/-/quit", "")?), 403);

        let listener = tokyo.place.host.within(|| Ok(TcpListener::bind(echo)?))?;
        let echoing = thread::spawn(move || echo_websocket(listener));
        wait_until("the server is found", Duration::from_secs(20), || {
            Ok((tokyo.envoy.stat("cluster.backend/alertmanager.membership_healthy")? == 1).then_some(()))
        })?;
        let at = SocketAddr::new(hub.place.envoy, 10904);
        let answer = hub.place.host.within(|| {
            let mut stream = TcpStream::connect(at)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"GET /alertmanager/tokyo/ws HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")?;
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
            stream.write_all(b"hello\n")?;
            let mut line = [0; 6];
            stream.read_exact(&mut line)?;
            Ok(format!("{}{}", String::from_utf8_lossy(&head), String::from_utf8_lossy(&line)))
        })?;
        assert!(answer.starts_with("HTTP/1.1 101") && answer.ends_with("hello\n"), "{answer}");
        echoing.join().expect("no panic")?;
    }
}

fn http_status_of_reload(prometheus: &atlas_lab::run::Prometheus) -> Result<u16> {
    // Without --web.enable-lifecycle it answers 403 itself, with it 200: its own word is what must
    // come through.
    let enabled = prometheus.get("/api/v1/status/flags")?.json::<serde_json::Value>()?["data"]["web.enable-lifecycle"]
        == "true";
    Ok(if enabled { 200 } else { 403 })
}
