//! Offers of a WebSocket that nobody takes, as a proxy in front makes them of every request.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use atlas_lab::process::wait_until;
use atlas_lab::scene::{Cluster, Hub};

use super::{BARE, LIVE, WEBSOCKET, answer, ask, connect, listen, listeners};

/// What is answered must be what is answered without the offer.
pub fn answers_are_those_without_one(hub: &Hub, web: SocketAddr) -> Result<()> {
    let host = &hub.place.host;
    for path in [
        "/prom/tokyo/api/v1/status/buildinfo",
        "/prom/tokyo/",
        "/prom/tokyo/nowhere",
        "/prom/tokyo/-/quit",
        "/prom/tokyo",
        "/prom/osaka/",
        "/api/v1/status",
    ] {
        let plain = ask(host, web, &format!("GET {path} HTTP/1.1\r\nHost: hub\r\n\r\n"))?;
        for offer in [WEBSOCKET, BARE] {
            let offered =
                ask(host, web, &format!("GET {path} HTTP/1.1\r\nHost: hub\r\n{offer}\r\n"))?;
            println!("{path}: {} and with an offer {}", plain.status(), offered.status());
            assert_eq!(offered.status(), plain.status(), "{path}: {offered:?}");
            assert_eq!(offered.header("location"), plain.header("location"), "{path}");
            assert_eq!(offered.header("x-atlas-plain-answer"), None, "{offered:?}");
            if path != "/api/v1/status" {
                assert_eq!(offered.body, plain.body, "{path}");
            }
        }
    }
    // A stream of events has no end, so no body to compare.
    for offer in [WEBSOCKET, BARE] {
        drop(
            listen(host, hub.place.envoy, LIVE, offer)
                .with_context(|| format!("{LIVE} with {offer:?}"))?,
        );
    }
    // Where a body ends is not to be found out under an offer.
    for (method, offer, body) in [
        ("POST", WEBSOCKET, "Content-Length: 8\r\n\r\nquery=up"),
        ("GET", WEBSOCKET, "Content-Length: 8\r\n\r\nquery=up"),
        ("POST", BARE, "Content-Length: 8\r\n\r\nquery=up"),
        ("POST", BARE, "Transfer-Encoding: chunked\r\n\r\n8\r\nquery=up\r\n0\r\n\r\n"),
    ] {
        let posted = ask(
            host,
            web,
            &format!(
                "{method} /alertmanager/tokyo/with-body HTTP/1.1\r\nHost: hub\r\n{offer}{body}"
            ),
        )?;
        assert!(
            posted.status() == 400 && posted.body.contains("remove its header Upgrade"),
            "{method} {offer} {body}: {posted:?}"
        );
    }
    let seen = hub.web("/alertmanager/tokyo/seen")?.text();
    assert!(!seen.contains("with-body"), "{seen}");
    // None is no body, whether a client says so or not.
    for (method, offer) in [("POST", BARE), ("GET", WEBSOCKET)] {
        let request = format!(
            "{method} /alertmanager/tokyo/ HTTP/1.1\r\nHost: hub\r\n{offer}Content-Length: 0\r\n\r\n"
        );
        assert_eq!(ask(host, web, &request)?.status(), 200, "{request}");
    }
    Ok(())
}

/// What follows an offer that isn't taken, on the same connection, reaches nobody, and ends nothing
/// of others.
pub fn what_follows_is_nobodys_request(hub: &Hub, tokyo: &Cluster, web: SocketAddr) -> Result<()> {
    let host = &hub.place.host;
    let sent_to_atlas = || -> Result<f64> {
        let at = SocketAddr::new(hub.place.envoy, 9001);
        let stats = ask(host, at, "GET /stats/prometheus HTTP/1.1\r\nHost: hub\r\n\r\n")?.body;
        let mut lines =
            stats.lines().filter_map(|line| line.split_once("upstream_cx_tx_bytes_total{"));
        let (_, line) = lines
            .find(|(_, line)| line.contains("\"atlas/web\""))
            .context("no statistics of atlas/web")?;
        Ok(line.rsplit(' ').next().context("no value")?.parse()?)
    };
    wait_until("nobody listens", Duration::from_secs(20), || {
        Ok((listeners(tokyo)? == 0.0).then_some(()))
    })?;
    // On both of the worker threads' connections to tokyo.
    let others: Vec<_> =
        (0..8).map(|_| listen(host, hub.place.envoy, LIVE, "")).collect::<Result<_>>()?;
    wait_until("all listen", Duration::from_secs(20), || {
        Ok((listeners(tokyo)? == 8.0).then_some(()))
    })?;
    let before = sent_to_atlas()?;

    let long = "a".repeat(40_000);
    let smuggled = format!(
        "POST /smuggled HTTP/1.1\r\nHost: hub\r\nX-Long: {long}\r\nContent-Length: 0\r\n\r\n"
    );
    for path in
        ["/alertmanager/tokyo/once", "/", "/prom/tokyo/api/v1/status/buildinfo", "/.atlas/health"]
    {
        for offer in [BARE, WEBSOCKET] {
            for _ in 0..4 {
                let mut stream = connect(host, web)?;
                write!(
                    stream.get_mut(),
                    "GET {path} HTTP/1.1\r\nHost: hub\r\n{offer}\r\n{smuggled}"
                )?;
                let one = answer(&mut stream, false)?;
                assert_eq!(one.status(), 200, "{path} with {offer:?}: {one:?}");
                let mut rest = Vec::new();
                // An end, or a reset since not everything was read.
                let _ = stream.read_to_end(&mut rest);
                assert_eq!(
                    String::from_utf8_lossy(&rest),
                    "",
                    "{path} with {offer:?}: a second answer"
                );
            }
        }
    }
    // While the backend has the request and thinks.
    for offer in [BARE, WEBSOCKET] {
        let mut stream = connect(host, web)?;
        let asked = |seen: &str| seen.lines().filter(|line| line.starts_with("GET /slow ")).count();
        let earlier = asked(&hub.web("/alertmanager/tokyo/seen")?.text());
        write!(
            stream.get_mut(),
            "GET /alertmanager/tokyo/slow HTTP/1.1\r\nHost: hub\r\n{offer}\r\n"
        )?;
        wait_until("the request is there", Duration::from_secs(20), || {
            Ok((asked(&hub.web("/alertmanager/tokyo/seen")?.text()) > earlier).then_some(()))
        })?;
        write!(stream.get_mut(), "{smuggled}")?;
        // Long enough for it to arrive, if anything lets it.
        thread::sleep(Duration::from_secs(1));
    }
    let seen = hub.web("/alertmanager/tokyo/seen")?.text();
    let sent = sent_to_atlas()? - before;
    println!("{sent} bytes to Atlas; {seen}");
    assert!(!seen.contains("smuggled") && !seen.contains("aaaa"), "{seen}");
    let once = seen.lines().filter(|line| line.starts_with("GET /once ")).count();
    assert!(
        (8..=12).contains(&once),
        "one request without an offer, two with one that is declined: {seen}"
    );
    assert!(sent < 40_000.0, "{sent} bytes to Atlas");
    assert_eq!(listeners(tokyo)?, 8.0, "streams of others ended");
    drop(others);
    Ok(())
}
