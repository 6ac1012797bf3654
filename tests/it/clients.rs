//! What programs in front of the hub really send: HTTP/1.0, headers with underscores, offers of
//! other protocols, probes, streams of events; and what they hear while Atlas is stopped or an
//! answer takes too long.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atlas_lab::parts::Part;
use atlas_lab::process::wait_until;
use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place};
use atlas_lab::world::Host;
use atlas_lab::world_test;

use crate::atlas;

mod offers;

/// An answer as it came: its head, and its body as far as its length says, or until the end of the
/// connection.
#[derive(Debug)]
struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// Reads one answer.
fn answer(stream: &mut BufReader<TcpStream>, to_head: bool) -> Result<Answer> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(stream.read_line(&mut head)? > 0, "the connection ended after {head:?}");
    }
    let answer = Answer { head, body: String::new() };
    let mut body = Vec::new();
    if to_head || matches!(answer.status(), 204 | 304) {
    } else if let Some(length) = answer.header("content-length") {
        body.resize(length.parse()?, 0);
        stream.read_exact(&mut body)?;
    } else if answer.header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16)?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else {
        stream.read_to_end(&mut body)?;
    }
    Ok(Answer { body: String::from_utf8_lossy(&body).into_owned(), ..answer })
}

fn connect(host: &Host, at: SocketAddr) -> Result<BufReader<TcpStream>> {
    let stream = host.within(|| Ok(TcpStream::connect(at)?))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(BufReader::new(stream))
}

/// One request to the letter.
fn ask(host: &Host, at: SocketAddr, request: &str) -> Result<Answer> {
    let mut stream = connect(host, at)?;
    stream.get_mut().write_all(request.as_bytes())?;
    answer(&mut stream, request.starts_with("HEAD ")).with_context(|| format!("{at}: {request:?}"))
}

/// A web UI that answers each request with its head, but `/slow` never, `/events` with a stream in
/// which nothing happens, and `/seen` with the first lines of all requests. Connections that say
/// nothing are Envoy's health checks.
fn echo(listener: &TcpListener) -> Result<()> {
    let seen = Arc::new(Mutex::new(String::new()));
    loop {
        let (stream, _) = listener.accept()?;
        let seen = Arc::clone(&seen);
        let see = move |line: &str| {
            let mut seen = seen.lock().expect("no panic");
            seen.push_str(line);
            seen.clone()
        };
        thread::spawn(move || -> Result<()> {
            let mut stream = BufReader::new(stream);
            loop {
                let mut head = String::new();
                ensure!(stream.read_line(&mut head)? > 0);
                let all = see(&head);
                while !head.ends_with("\r\n\r\n") {
                    ensure!(stream.read_line(&mut head)? > 0);
                }
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
                    .unwrap_or(0);
                let mut body = vec![0; length];
                stream.read_exact(&mut body)?;
                if head.starts_with("GET /events ") {
                    write!(
                        stream.get_mut(),
                        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                    )?;
                }
                if head.starts_with("GET /slow ") || head.starts_with("GET /events ") {
                    // Whatever comes behind the request, until its end.
                    let mut line = String::new();
                    while stream.read_line(&mut line)? > 0 {
                        see(&line);
                        line.clear();
                    }
                }
                let text = if head.starts_with("GET /seen ") {
                    all
                } else {
                    head + &String::from_utf8_lossy(&body)
                };
                write!(
                    stream.get_mut(),
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
                    text.len()
                )?;
            }
        });
    }
}

/// A hub, and tokyo with a Prometheus 3, whose Alertmanager's web UI is [`echo`].
fn hub_and_tokyo(
    world: &atlas_lab::world::World,
    envoy: Part,
    extra: &[&str],
) -> Result<(Hub, Cluster)> {
    let options = HubOptions {
        envoy,
        atlas_extra: extra.iter().map(|&flag| flag.to_owned()).collect(),
        ..HubOptions::new(atlas())
    };
    let mut hub = Hub::start(Place::in_world(world, "hub")?, options)?;
    let place = Place::in_world(world, "tokyo")?;
    let at = SocketAddr::new(place.programs[4], 9090);
    let listener = place.host.within(|| Ok(TcpListener::bind(at)?))?;
    thread::spawn(move || echo(&listener));
    let annotations = vec![
        ("goatlas.io/alertmanager-service".into(), at.ip().to_string()),
        ("goatlas.io/alertmanager-service-port".into(), at.port().to_string()),
    ];
    let tokyo = Cluster::start(
        place,
        &mut hub,
        ClusterOptions { annotations, envoy, replicas: 1, ..ClusterOptions::new("tokyo") },
    )?;
    hub.wait_synced(["tokyo"])?;
    hub.query.wait_stores(1, Duration::from_secs(60))?;
    for path in ["/prom/tokyo/-/healthy", "/alertmanager/tokyo/"] {
        wait_until(path, Duration::from_secs(30), || {
            Ok((hub.web(path)?.status == 200).then_some(()))
        })?;
    }
    Ok((hub, tokyo))
}

/// An offer that is no handshake, as a proxy makes it of everything.
const BARE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn every_kind_of_client(world: &atlas_lab::world::World, envoy: Part) -> Result<()> {
    let (mut hub, tokyo) = hub_and_tokyo(world, envoy, &[])?;
    let web = SocketAddr::new(hub.place.envoy, 10904);
    let of_hub = |port| (hub.place.host.clone(), SocketAddr::new(hub.place.envoy, port));
    let of_tokyo = |port| (tokyo.place.host.clone(), SocketAddr::new(tokyo.place.envoy, port));
    let places = [
        (of_hub(10904), "/"),
        (of_hub(10904), "/.atlas/health"),
        (of_hub(10904), "/prom/tokyo/-/healthy"),
        (of_hub(9001), "/ready"),
        (of_hub(9001), "/stats/prometheus"),
        (of_tokyo(9001), "/ready"),
        (of_tokyo(11903), "/alertmanagers"),
    ];
    for ((host, at), path) in &places {
        let usual = ask(host, *at, &format!("GET {path} HTTP/1.1\r\nHost: {at}\r\n\r\n"))?;
        assert_eq!(usual.status(), 200, "{path}: {usual:?}");
        // nginx by default: HTTP/1.0, and no more than one request on a connection.
        let one = ask(
            host,
            *at,
            &format!("GET {path} HTTP/1.0\r\nHost: {at}\r\nConnection: close\r\n\r\n"),
        )?;
        assert!(one.status() == 200 && one.head.starts_with("HTTP/1.0"), "{path}: {one:?}");
        assert_eq!(one.header("transfer-encoding"), None, "HTTP/1.0 knows no chunks");
        // An old probe says no name at all.
        let nameless = ask(host, *at, &format!("GET {path} HTTP/1.0\r\n\r\n"))?;
        if *path == "/alertmanagers" {
            assert!(
                nameless.status() == 400 && nameless.body.contains("Host"),
                "targets are made of the name: {nameless:?}"
            );
            assert_eq!(one.body, usual.body);
        } else {
            assert_eq!(nameless.status(), 200, "{path}: {nameless:?}");
        }
        // Offers of other protocols: of Java clients, of old browsers, of a proxy that makes them
        // of everything.
        for offer in [
            "Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
            "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n",
            BARE,
            "Connection: upgrade\r\n",
            WEBSOCKET,
        ] {
            let offered =
                ask(host, *at, &format!("GET {path} HTTP/1.1\r\nHost: {at}\r\n{offer}\r\n"))?;
            assert_eq!(offered.status(), 200, "{path} with {offer:?}: {offered:?}");
            if *path != "/stats/prometheus" && *path != "/" {
                assert_eq!(offered.body, usual.body, "{path} with {offer:?}");
            }
        }
    }
    println!("HTTP/1.0 and offers of other protocols are answered on 10904, 9001 and 11903");
    let head = ask(&hub.place.host, web, "HEAD /.atlas/health HTTP/1.0\r\n\r\n")?;
    assert_eq!(head.status(), 200, "{head:?}");

    // Two requests on one connection of HTTP/1.0, where the client asks for it.
    let mut lasting = connect(&hub.place.host, web)?;
    for _ in 0..2 {
        write!(lasting.get_mut(), "GET /.atlas/health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")?;
        let kept = answer(&mut lasting, false)?;
        assert!(
            kept.status() == 200 && kept.header("connection") == Some("keep-alive"),
            "{kept:?}"
        );
    }
    // Alerts, too: a proxy between Prometheus and its Envoy.
    let (host, at) = of_tokyo(11903);
    let alert = r#"[{"labels": {"alertname": "ByHttp10", "cluster": "tokyo"}}]"#;
    let post = format!(
        "POST /alertmanager/0/api/v2/alerts HTTP/1.0\r\nOIDC_CLAIM_email: a@b\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{alert}",
        alert.len()
    );
    assert_eq!(ask(&host, at, &post)?.status(), 200);

    // An authenticating proxy's headers.
    let claim = "GET /alertmanager/tokyo/ HTTP/1.1\r\nHost: hub\r\nOIDC_CLAIM_email: a@b\r\nX-Requested-With: yes\r\n\r\n";
    let claimed = ask(&hub.place.host, web, claim)?;
    assert_eq!(claimed.status(), 200, "{claimed:?}");
    let seen = claimed.body.to_lowercase();
    assert!(seen.contains("x-requested-with: yes") && !seen.contains("oidc_claim"), "{seen}");
    let (host, at) = of_hub(10901);
    host.within(|| info_with_underscore(at))
        .context("gRPC with a header that has an underscore")?;

    offers::answers_are_those_without_one(&hub, web)?;
    offers::what_follows_is_nobodys_request(&hub, &tokyo, web)?;

    // 10900: a load balancer in front of it with PROXY protocol switched on.
    let (host, at) = of_hub(10900);
    let mut balancer = connect(&host, at)?;
    balancer.get_mut().write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 10900\r\n\x16\x03\x01")?;
    let _ = balancer.read(&mut [0]);
    let status = hub.atlas.status()?;
    let notes = status["findings"].as_array().context("findings")?;
    let note = notes
        .iter()
        .find(|note| note["object"] == "port 10900")
        .with_context(|| format!("{notes:?}"))?;
    println!("{note}");
    assert!(
        note["problem"]
            .as_str()
            .is_some_and(|text| text.contains("began with a PROXY protocol header, not TLS: 1,")),
        "{note}"
    );

    // Without Atlas: what a load balancer asks goes on, and each page says who is away.
    hub.atlas.process.kill()?;
    for request in
        ["GET /.atlas/health HTTP/1.1\r\nHost: hub\r\n\r\n", "HEAD /.atlas/health HTTP/1.0\r\n\r\n"]
    {
        assert_eq!(ask(&hub.place.host, web, request)?.status(), 200, "{request}");
    }
    let page = hub.web("/")?;
    assert!(
        page.status == 503 && page.text().contains("Atlas doesn't answer"),
        "{} {}",
        page.status,
        page.text()
    );
    assert_eq!(hub.web("/prom/tokyo/-/healthy")?.status, 200);
    tokyo.place.host.link_down()?;
    let page = wait_until("tokyo is known to be away", Duration::from_secs(60), || {
        let page = hub.web("/prom/tokyo/")?;
        Ok((page.status == 503).then_some(page))
    })?;
    assert!(page.text().contains("This cluster can't be reached"), "{}", page.text());
    Ok(())
}

/// A store's Info, asked with a header that has an underscore.
fn info_with_underscore(at: SocketAddr) -> Result<()> {
    let origin = "http://tokyo-thanos-sidecar0.sidecars.thanos.atlas:10901".parse()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{at}"))?
            .origin(origin)
            .connect()
            .await?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await?;
        let mut request = tonic::Request::new(());
        request.metadata_mut().insert("oidc_claim_email", "a@b".parse()?);
        client
            .unary(
                request,
                "/thanos.info.Info/Info".parse()?,
                tonic_prost::ProstCodec::<(), ()>::default(),
            )
            .await?;
        Ok(())
    })
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn every_kind_of_client_is_answered(world) {
        every_kind_of_client(world, Part::Envoy)?;
    }
}

world_test! {
    needs [EnvoyOldest, Thanos, Prometheus, Alertmanager, CoreDns],
    fn every_kind_of_client_is_answered_by_the_oldest_envoy(world) {
        every_kind_of_client(world, Part::EnvoyOldest)?;
    }
}

/// Prometheus 3's stream of notifications.
const LIVE: &str = "/prom/tokyo/api/v1/notifications/live";

/// How many listen to a Prometheus's notifications.
fn listeners(tokyo: &Cluster) -> Result<f64> {
    let metrics = tokyo.prometheus[0].get("/metrics")?.text();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("prometheus_api_notification_active_subscribers "));
    Ok(line.context("no metric of subscribers")?.parse()?)
}

/// Opens a stream of events through the hub.
fn listen(host: &Host, hub: IpAddr, path: &str, headers: &str) -> Result<BufReader<TcpStream>> {
    let mut stream = connect(host, SocketAddr::new(hub, 10904))?;
    write!(stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: hub\r\n{headers}\r\n")?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    ensure!(line.starts_with("HTTP/1.1 200"), "{line}");
    Ok(stream)
}

/// Whether a stream that has begun has no end yet.
fn lasts(mut stream: BufReader<TcpStream>) -> Result<bool> {
    stream.get_ref().set_nonblocking(true)?;
    let mut read = Vec::new();
    match stream.read_to_end(&mut read) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Ok(!String::from_utf8_lossy(&read).contains("\r\n0\r\n"))
        }
        Err(error) => Err(error.into()),
        Ok(_) => Ok(false),
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    /// A request may take 2 s here, and 12 s by a cluster's Envoy.
    fn events_outlive_requests_and_who_is_cut_off_hears_why(world) {
        let (hub, mut tokyo) = hub_and_tokyo(world, Part::Envoy, &["--max-request-duration=2s"])?;
        let began = Instant::now();
        // As a browser asks, and as curl does.
        let browser = listen(&hub.place.host, hub.place.envoy, LIVE, "Accept: text/event-stream\r\n")?;
        let curl = listen(&hub.place.host, hub.place.envoy, LIVE, "Accept: */*\r\n")?;
        // Behind a proxy that makes offers of everything.
        let offered = listen(&hub.place.host, hub.place.envoy, LIVE, WEBSOCKET)?;
        let other_path = listen(
            &hub.place.host,
            hub.place.envoy,
            "/alertmanager/tokyo/events",
            &format!("{WEBSOCKET}Accept: text/event-stream\r\n"),
        )?;
        wait_until("three listen", Duration::from_secs(20), || Ok((listeners(&tokyo)? == 3.0).then_some(())))?;

        let slow = hub.web("/alertmanager/tokyo/slow")?;
        println!("{} {}", slow.status, slow.text());
        assert_eq!(slow.status, 504);
        assert!(slow.text().contains("longer than 2 s") && slow.text().contains("--max-request-duration"), "{}", slow.text());

        // Its sidecar goes on, and waits for it.
        tokyo.prometheus[0].process.pause()?;
        let answer = hub.query.query("up")?;
        let said = format!("{:?} {:?}", answer.warnings, answer.error);
        println!("Thanos Query after {:?}: {said}", answer.took);
        tokyo.prometheus[0].process.resume()?;
        assert!(said.contains("longer than 2 s") && said.contains("--max-request-duration"), "{said}");

        thread::sleep(Duration::from_secs(14).saturating_sub(began.elapsed()));
        assert_eq!(listeners(&tokyo)?, 3.0, "cut after {:?}", began.elapsed());
        assert!(lasts(other_path)?, "cut after {:?}", began.elapsed());
        drop((browser, curl, offered));
        wait_until("who goes away is gone", Duration::from_secs(20), || Ok((listeners(&tokyo)? == 0.0).then_some(())))?;
    }
}
