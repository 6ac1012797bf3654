//! Downstream clusters see nothing of what a person's browser and a proxy in front send for
//! themselves, and what their backends answer concerns their own path only.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use atlas_lab::parts::Part;
use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place};
use atlas_lab::world_test;

use super::backend::{Backend, manifest, spare, wait_web};
use super::{raw, status};
use crate::atlas;

/// What an authenticating proxy puts before the hub.
const PROXY: &str = "Authorization: Bearer secret\r\nProxy-Authorization: Basic secret\r\nX-Forwarded-Access-Token: secret\r\n\
    X-Auth-Request-Access-Token: secret\r\nX-AMZN-OIDC-Data: secret\r\nCf-Access-Jwt-Assertion: secret\r\nX-Forwarded-User: secret\r\n\
    X-Ms-Token-Aad-Id-Token: secret\r\nX-Forwarded-Client-Cert: secret\r\nRemote-User: secret\r\nX-Forwarded-For: 192.0.2.7\r\n\
    Cookie: _oauth2_proxy=secret; lang=en; other=secret\r\ncookie: _oauth2_proxy_1=secret; atlas.sid=7\r\nCOOKIE: Lang=secret\r\n";

/// What a hostile backend answers.
const HOSTILE: &str = "Set-Cookie: sid=7; Path=/; Domain=hub; HttpOnly\r\nset-cookie: _oauth2_proxy=stolen; Path=/\r\n\
    SET-COOKIE: __Host-x=1; Path=/; Secure\r\nClear-Site-Data: \"*\"\r\nService-Worker-Allowed: /\r\nStrict-Transport-Security: max-age=9\r\n\
    Alt-Svc: h3=\":443\"\r\nNEL: {}\r\nReport-To: {}\r\nWWW-Authenticate: Basic\r\nX-Accel-Redirect: /secret\r\nContent-Type: text/plain\r\n";

/// The cookies that an answer sets, but for that of the replica.
fn set_cookies(answer: &str) -> Vec<&str> {
    answer
        .lines()
        .filter_map(|line| line.strip_prefix("set-cookie: "))
        .filter(|cookie| !cookie.starts_with("atlas-replica="))
        .collect()
}

fn is_confined(answer: &str) {
    let expected = [
        "atlas.sid=7; HttpOnly; Path=/prom/tokyo",
        "atlas._oauth2_proxy=stolen; Path=/prom/tokyo",
        "atlas.__Host-x=1; Secure; Path=/prom/tokyo",
    ];
    assert_eq!(set_cookies(answer), expected, "{answer}");
    let lower = answer.to_lowercase();
    for header in [
        "clear-site-data",
        "service-worker",
        "strict-transport",
        "alt-svc",
        "nel:",
        "report-to",
        "www-auth",
        "x-accel",
        "domain=",
    ] {
        assert!(!lower.contains(header), "{header}: {answer}");
    }
}

/// One request over HTTP/2, whose cookies are in a header each; the answer's status.
fn http2(hub: &Hub, path: &str, cookies: &[&str]) -> Result<u16> {
    let at = SocketAddr::new(hub.place.envoy, 10904);
    let mut request =
        http::Request::get(format!("http://hub{path}")).header("authorization", "Bearer secret");
    for cookie in cookies {
        request = request.header("cookie", *cookie);
    }
    let request = request.body(())?;
    hub.place.host.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut client, connection) =
                h2::client::handshake(tokio::net::TcpStream::connect(at).await?).await?;
            let connection = tokio::spawn(connection);
            let (answer, _) = client.send_request(request, true)?;
            let status = answer.await?.status().as_u16();
            connection.abort();
            Ok(status)
        })
    })
}

/// Opens a WebSocket, sends a line and reads it back; all that came.
fn websocket(hub: &Hub, path: &str, headers: &str) -> Result<String> {
    let at = SocketAddr::new(hub.place.envoy, 10904);
    hub.place.host.within(|| {
        let mut stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let upgrade =
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        write!(stream, "GET {path} HTTP/1.1\r\nHost: hub\r\n{upgrade}{headers}\r\n")?;
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
        stream.write_all(b"hello\n")?;
        let mut line = [0; 6];
        stream.read_exact(&mut line)?;
        Ok(String::from_utf8_lossy(&[answer, line.to_vec()].concat()).into_owned())
    })
}

fn nothing_passes_that_is_no_business_of_a_cluster(
    world: &atlas_lab::world::World,
    envoy: Part,
) -> Result<()> {
    let extra =
        ["--web-pass-cookies=lang", "--web-pass-headers=x-scope-orgid"].map(str::to_owned).to_vec();
    let mut hub = Hub::start(
        Place::in_world(world, "hub")?,
        HubOptions { atlas_extra: extra, envoy, ..HubOptions::new(atlas()) },
    )?;
    let options = ClusterOptions { replicas: 1, envoy, ..ClusterOptions::new("tokyo") };
    let tokyo = Cluster::start(Place::in_world(world, "tokyo")?, &mut hub, options)?;
    let backend = Backend::start(&tokyo.place.host, SocketAddr::new(spare(&tokyo.place), 9090))?;
    hub.atlas.write_manifest(
        "tokyo.yaml",
        &manifest(
            &tokyo.place,
            "tokyo",
            backend.at,
            SocketAddr::new(tokyo.place.programs[2], 9093),
            &[],
        ),
    )?;
    hub.wait_synced(["tokyo"])?;
    wait_web(&hub, "/prom/tokyo/", |answer| answer.status == 200 && answer.text() == "ok\n")?;

    backend.answer(HOSTILE);
    let clean = |head: &str, cookie: &str| {
        assert!(!head.to_lowercase().contains("secret"), "{head}");
        let seen = head.lines().find_map(|line| line.strip_prefix("cookie: ")).unwrap_or_default();
        // The cluster's Envoy adds the replica's, where there is none.
        assert_eq!(
            seen.split_once("; atlas-replica=").map_or(seen, |(before, _)| before),
            cookie,
            "{head}"
        );
    };
    let answer = raw(
        &hub,
        "POST",
        "/prom/tokyo/api/v1/query",
        &format!("{PROXY}X-Scope-OrgID: team\r\nAccept: */*\r\n"),
    )?;
    let head = backend.last()?;
    clean(&head, "lang=en; sid=7");
    for kept in [
        "x-scope-orgid: team",
        "accept: */*",
        "x-forwarded-for: 192.0.2.7,",
        "x-forwarded-host: hub",
    ] {
        assert!(head.contains(kept), "{kept}: {head}");
    }
    assert_eq!(status(&answer), 200);
    is_confined(&answer);
    // What a browser has from this UI it sends to no other one, by its path; and none of it by its
    // name reaches another proxy.
    let answer = websocket(&hub, "/prom/tokyo/ws", PROXY)?;
    clean(&backend.last()?, "lang=en; sid=7");
    assert!(answer.starts_with("HTTP/1.1 101") && answer.ends_with("hello\n"), "{answer}");
    is_confined(&answer);
    // Cookies in a header each, as HTTP/2 has them.
    assert_eq!(
        http2(
            &hub,
            "/prom/tokyo/",
            &["_oauth2_proxy=secret", "atlas.sid=7", "lang=en", "a=secret"]
        )?,
        200
    );
    clean(&backend.last()?, "sid=7; lang=en");
    // A session in very many cookies.
    let long = format!("Cookie: {}lang=en\r\n", "_oauth2_proxy_0=secret; ".repeat(2_000));
    assert_eq!(status(&raw(&hub, "GET", "/prom/tokyo/", &long)?), 200);
    clean(&backend.last()?, "lang=en");
    // Atlas's own page needs none of it.
    assert_eq!(status(&raw(&hub, "GET", "/", PROXY)?), 200);
    assert_eq!(status(&raw(&hub, "GET", "/api/v1/status", PROXY)?), 200);

    // With a real server, and its cookie of the replica.
    let real = raw(&hub, "GET", "/alertmanager/tokyo/", PROXY)?;
    let cookie = real
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .context("the cookie of the replica")?;
    assert!(
        cookie.starts_with("atlas-replica=") && cookie.ends_with("; Path=/alertmanager/tokyo"),
        "{cookie}"
    );
    Ok(())
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn a_cluster_sees_no_credential_and_touches_nobody_elses_cookie(world) {
        nothing_passes_that_is_no_business_of_a_cluster(world, Part::Envoy)?;
    }
}

world_test! {
    needs [EnvoyOldest, Thanos, Prometheus, Alertmanager, CoreDns],
    fn a_cluster_sees_no_credential_with_the_oldest_envoy_either(world) {
        nothing_passes_that_is_no_business_of_a_cluster(world, Part::EnvoyOldest)?;
    }
}
