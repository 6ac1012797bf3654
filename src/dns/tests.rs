//! Queries over sockets, as Thanos Query and CoreDNS send them.

use std::net::{Ipv4Addr, UdpSocket as StdUdpSocket};

use atlas_core::thanos::zone::{self, RecordData, Zone};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::*;

const SERVICE: &str = "_thanos._tcp.sidecars.thanos.atlas.";
const STORE: &str = "tokyo-thanos-sidecar0.sidecars.thanos.atlas.";

/// A running server, and ways to query it.
struct Served {
    address: SocketAddr,
    zone: Arc<Mutex<Option<Zone>>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Served {
    async fn start() -> Self {
        let sockets = Sockets::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = sockets.tcp.local_addr().unwrap();
        let zone: Arc<Mutex<Option<Zone>>> = Arc::default();
        let current = Arc::clone(&zone);
        let version = |zone: &Zone| ZoneVersion { records: 0, serial: zone.serial };
        let zone_source: ZoneSource = Arc::new(move |known| {
            lock(&current)
                .clone()
                .filter(|zone| known != Some(version(zone)))
                .map(|zone| (version(&zone), zone))
        });
        let (metrics, stop) = (Arc::new(Metrics::new()), CancellationToken::new());
        tokio::spawn(serve(sockets, zone_source, Arc::clone(&metrics), stop.clone()));
        Self { address, zone, metrics, stop }
    }

    /// A server whose zone has that many stores.
    async fn with_stores(count: usize) -> Self {
        let served = Self::start().await;
        served.publish(zone_of(count)).await;
        served
    }

    async fn publish(&self, zone: Zone) {
        let serial = zone.serial;
        *lock(&self.zone) = Some(zone);
        let is_served = |answer: &Message| {
            answer
                .answers
                .iter()
                .any(|record| matches!(&record.data, RData::SOA(soa) if soa.serial == serial))
        };
        while !is_served(&self.ask("atlas.", RecordType::SOA).await) {}
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.ask_udp(&question(name, kind)).await
    }

    async fn ask_udp(&self, query: &Message) -> Message {
        let bytes = self.exchange_udp(&query.to_vec().unwrap()).await;
        Message::from_vec(&bytes).unwrap()
    }

    async fn exchange_udp(&self, query: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.send_to(query, self.address).await.unwrap();
        let mut answer = vec![0; 65_535];
        let received =
            tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut answer)).await;
        answer.truncate(received.expect("an answer").unwrap());
        answer
    }

    async fn ask_tcp(&self, query: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        send(&mut stream, query).await;
        receive(&mut stream).await
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn send(stream: &mut TcpStream, query: &Message) {
    let bytes = query.to_vec().unwrap();
    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> Message {
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// A question with EDNS and this payload size.
fn question_edns(name: &str, kind: RecordType, size: u16) -> Message {
    let mut message = question(name, kind);
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.set_edns(edns);
    message
}

/// A zone as [`zone::zone`] makes it; its serial number is the number of stores.
fn zone_of(stores: usize) -> Zone {
    let record = |name: &str, data| zone::DnsRecord { name: name.into(), data };
    let mut records = vec![record("atlas.", RecordData::Ns("ns.dns.atlas.".into()))];
    for n in 0..stores {
        let target = format!("tokyo-thanos-sidecar{n}.sidecars.thanos.atlas.");
        records.push(record(&target, RecordData::A(Ipv4Addr::new(10, 1, 0, 10))));
        records.push(record(
            SERVICE,
            RecordData::Srv { priority: 10, weight: 100, port: 10901, target },
        ));
    }
    Zone { origin: "atlas.".into(), serial: stores.try_into().unwrap(), records }
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

fn has_soa(message: &Message) -> bool {
    let is_soa = |record: &Record| record.record_type() == RecordType::SOA && record.ttl == 30;
    matches!(message.authorities.as_slice(), [record] if is_soa(record))
}

#[tokio::test]
async fn stores_and_their_addresses_are_answered() {
    let served = Served::with_stores(2).await;
    let services = served.ask(SERVICE, RecordType::SRV).await;
    assert_eq!(code(&services), ResponseCode::NoError);
    assert!(
        services.metadata.authoritative
            && !services.metadata.recursion_available
            && services.metadata.recursion_desired
    );
    let targets: Vec<String> =
        services.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(
        targets,
        [
            format!("10 100 10901 {STORE}"),
            "10 100 10901 tokyo-thanos-sidecar1.sidecars.thanos.atlas.".into()
        ]
    );
    let address = served.ask(STORE, RecordType::A).await;
    assert_eq!(address.answers[0].data.to_string(), "10.1.0.10");
    assert_eq!(address.answers[0].ttl, 30);
    assert!(address.authorities.is_empty() && address.additionals.is_empty());
    let server = served.ask("atlas.", RecordType::NS).await;
    assert_eq!(server.answers[0].data.to_string(), "ns.dns.atlas.");
    assert_eq!(served.ask("atlas.", RecordType::ANY).await.answers.len(), 2);
    assert!(served.metrics.dns_queries.get() >= 5);
}

#[tokio::test]
async fn a_long_answer_is_truncated_over_udp_and_complete_over_tcp() {
    let served = Served::with_stores(100).await;
    let plain = served.exchange_udp(&question(SERVICE, RecordType::SRV).to_vec().unwrap()).await;
    assert!(plain.len() <= 512, "{}", plain.len());
    let plain = Message::from_vec(&plain).unwrap();
    assert!(plain.metadata.truncation && !plain.answers.is_empty() && plain.edns.is_none());
    let large =
        served.exchange_udp(&question_edns(SERVICE, RecordType::SRV, 4096).to_vec().unwrap()).await;
    assert!(large.len() <= usize::from(MAX_UDP), "{}", large.len());
    let large = Message::from_vec(&large).unwrap();
    assert!(large.metadata.truncation && large.answers.len() > plain.answers.len());
    assert_eq!(
        large.edns.expect("an OPT record also in a truncated answer").max_payload(),
        MAX_UDP
    );
    // Below 512 counts as 512 (RFC 6891 §6.2.3).
    let tiny = served.ask_udp(&question_edns(SERVICE, RecordType::SRV, 100)).await;
    assert!(tiny.metadata.truncation && !tiny.answers.is_empty() && tiny.edns.is_some());
    for query in [question(SERVICE, RecordType::SRV), question_edns(SERVICE, RecordType::SRV, 512)]
    {
        let whole = served.ask_tcp(&query).await;
        assert_eq!(
            (whole.metadata.truncation, whole.answers.len(), whole.edns.is_some()),
            (false, 100, query.edns.is_some())
        );
    }
}

#[tokio::test]
async fn an_answer_that_fits_only_with_edns_is_complete() {
    let served = Served::with_stores(10).await;
    assert!(served.ask(SERVICE, RecordType::SRV).await.metadata.truncation);
    let whole = served.ask_udp(&question_edns(SERVICE, RecordType::SRV, 4096)).await;
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 10));
}

/// The limit that docs/reference.md states: 64 KiB, some 800 records.
#[tokio::test]
async fn tcp_answers_up_to_64_kib() {
    let served = Served::with_stores(800).await;
    let whole = served.ask_tcp(&question(SERVICE, RecordType::SRV)).await;
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 800));
    let served = Served::with_stores(2000).await;
    let cut = served.ask_tcp(&question_edns(SERVICE, RecordType::SRV, 1232)).await;
    assert!(cut.metadata.truncation && cut.answers.len() > 800 && cut.edns.is_some());
}

#[test]
fn answers_keep_their_limit_and_say_if_truncated() {
    for stores in 0..20 {
        let answers = PreparedZone::new(&zone_of(stores)).unwrap();
        for size in (512..1300).step_by(3) {
            let query = question_edns(SERVICE, RecordType::SRV, size).to_vec().unwrap();
            let bytes = respond(Some(&answers), &query, Transport::Udp).unwrap();
            assert!(
                bytes.len() <= usize::from(size.min(MAX_UDP)),
                "{stores} stores, {size}: {}",
                bytes.len()
            );
            let message = Message::from_vec(&bytes).unwrap();
            assert_eq!(
                message.metadata.truncation,
                message.answers.len() < stores,
                "{stores} stores, {size}"
            );
            assert!(message.edns.is_some());
        }
    }
}

#[test]
fn corrupt_queries_do_no_harm() {
    let answers = PreparedZone::new(&zone_of(3)).unwrap();
    let whole = question_edns(SERVICE, RecordType::SRV, 1232).to_vec().unwrap();
    let mut random = fastrand::Rng::with_seed(5353);
    for _ in 0..20_000 {
        let mut query = whole.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..query.len());
            query[at] = random.u8(..);
        }
        query.truncate(random.usize(..=query.len()));
        if let Some(answer) = respond(Some(&answers), &query, Transport::Udp) {
            assert_eq!(answer[..2], query[..2], "its id");
            Message::from_vec(&answer)
                .unwrap_or_else(|error| panic!("{error}: {query:?} is answered {answer:?}"));
        }
    }
}

#[tokio::test]
async fn several_queries_share_a_connection() {
    let served = Served::with_stores(2).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let (one, other) = (question(STORE, RecordType::A), question("nowhere.atlas.", RecordType::A));
    send(&mut stream, &one).await;
    send(&mut stream, &other).await;
    assert_eq!(receive(&mut stream).await.metadata.id, one.metadata.id);
    assert_eq!(receive(&mut stream).await.metadata.id, other.metadata.id);
}

#[tokio::test]
async fn a_silent_connection_is_closed_within_a_query_too() {
    let (address, _metrics) = serving_tcp(Duration::from_millis(50), 4).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[0]).await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "closed");
}

/// A server without a zone, with these limits.
async fn serving_tcp(tcp_idle: Duration, tcp_connections: usize) -> (SocketAddr, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let dns = DnsServer {
        zone_source: Arc::new(|_| None),
        cache: Arc::default(),
        metrics: Arc::clone(&metrics),
        tcp_idle,
        tcp_connections,
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { dns.serve_tcp(listener).await });
    (address, metrics)
}

#[tokio::test]
async fn busy_tcp_clients_cannot_lock_others_out() {
    let (address, metrics) = serving_tcp(TCP_IDLE, 8).await;
    let query = question(STORE, RecordType::A);
    let mut greedy = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        send(&mut stream, &query).await;
        receive(&mut stream).await;
        greedy.push(stream);
    }
    // One of them goes on asking while others connect.
    for _ in 0..3 {
        let mut another = TcpStream::connect(address).await.unwrap();
        send(&mut another, &query).await;
        let answer = tokio::time::timeout(Duration::from_secs(10), receive(&mut another))
            .await
            .expect("an answer");
        assert_eq!(code(&answer), ResponseCode::ServFail);
        let mut last = greedy.pop().unwrap();
        send(&mut last, &query).await;
        receive(&mut last).await;
        greedy.insert(0, another);
        greedy.push(last);
    }
    assert!(
        metrics.render().contains("atlas_port_connections_dropped_total{port=\"dns\"} 3"),
        "{}",
        metrics.render()
    );
}

#[tokio::test]
async fn a_too_long_query_over_tcp_ends_the_connection() {
    let (address, _metrics) = serving_tcp(TCP_IDLE, 4).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[0x10, 0x01]).await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "closed");
}

#[tokio::test]
async fn missing_names_differ_from_names_with_other_records() {
    let served = Served::with_stores(1).await;
    for name in ["nowhere.atlas.", "x.tokyo-thanos-sidecar0.sidecars.thanos.atlas.", "_tcp.atlas."]
    {
        let answer = served.ask(name, RecordType::A).await;
        assert!(
            code(&answer) == ResponseCode::NXDomain
                && answer.metadata.authoritative
                && has_soa(&answer),
            "{name}: {answer}"
        );
    }
    let other_type =
        [(STORE, RecordType::AAAA), (SERVICE, RecordType::A), ("atlas.", RecordType::A)];
    let only_others_below =
        ["thanos.atlas.", "sidecars.thanos.atlas.", "_tcp.sidecars.thanos.atlas."]
            .map(|name| (name, RecordType::A));
    for (name, kind) in other_type.into_iter().chain(only_others_below) {
        let answer = served.ask(name, kind).await;
        assert!(
            code(&answer) == ResponseCode::NoError && answer.answers.is_empty() && has_soa(&answer),
            "{name}: {answer}"
        );
    }
}

#[tokio::test]
async fn names_are_case_insensitive_and_echoed_as_asked() {
    let served = Served::with_stores(1).await;
    let answer = served.ask("_THANOS._tcp.Sidecars.Thanos.ATLAS.", RecordType::SRV).await;
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(answer.queries[0].name().to_ascii(), "_THANOS._tcp.Sidecars.Thanos.ATLAS.");
    assert_eq!(answer.answers[0].name.to_ascii(), "_THANOS._tcp.Sidecars.Thanos.ATLAS.");
}

#[tokio::test]
async fn queries_for_other_zones_and_transfers_are_refused() {
    let served = Served::with_stores(1).await;
    let mut chaos = question("atlas.", RecordType::SOA);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let queries = [
        question("example.com.", RecordType::A),
        question("notatlas.", RecordType::A),
        question(".", RecordType::NS),
        question("atlas.", RecordType::AXFR),
        chaos,
    ];
    for query in queries {
        for answer in [served.ask_udp(&query).await, served.ask_tcp(&query).await] {
            assert!(
                code(&answer) == ResponseCode::Refused
                    && !answer.metadata.authoritative
                    && answer.answers.is_empty(),
                "{answer}"
            );
        }
    }
}

#[tokio::test]
async fn malformed_queries_are_answered_with_their_error() {
    let served = Served::with_stores(1).await;
    let mut update = question("atlas.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&served.ask_udp(&update).await), ResponseCode::NotImp);
    let mut two = question("atlas.", RecordType::SOA);
    two.add_query(Query::query(Name::from_ascii("atlas.").unwrap(), RecordType::NS));
    assert_eq!(code(&served.ask_udp(&two).await), ResponseCode::FormErr);
    let mut newer = question_edns("atlas.", RecordType::SOA, 1232);
    newer.edns.as_mut().unwrap().set_version(1);
    let answer = served.ask_udp(&newer).await;
    assert_eq!(
        (code(&answer).high(), answer.answers.len(), answer.edns.unwrap().version()),
        (ResponseCode::BADVERS.high(), 0, 0)
    );
    let mut signed = question_edns("atlas.", RecordType::SOA, 1232);
    signed.edns.as_mut().unwrap().flags_mut().dnssec_ok = true;
    assert!(served.ask_udp(&signed).await.edns.unwrap().flags().dnssec_ok);
    // The header of a query whose question is cut off.
    let cut = &question(STORE, RecordType::A).to_vec().unwrap()[..20];
    assert_eq!(
        code(&Message::from_vec(&served.exchange_udp(cut).await).unwrap()),
        ResponseCode::FormErr
    );
}

#[test]
fn responses_and_garbage_are_not_answered() {
    let mut answer = question("atlas.", RecordType::SOA);
    answer.metadata.message_type = MessageType::Response;
    assert_eq!(respond(None, &answer.to_vec().unwrap(), Transport::Udp), None);
    assert_eq!(respond(None, b"hello", Transport::Udp), None);
    assert_eq!(respond(None, b"", Transport::Tcp), None);
}

#[tokio::test]
async fn a_new_zone_is_served_at_once() {
    let served = Served::start().await;
    assert_eq!(
        code(&served.ask(SERVICE, RecordType::SRV).await),
        ResponseCode::ServFail,
        "nothing is known yet"
    );
    for stores in [1, 3, 0] {
        served.publish(zone_of(stores)).await;
        let answer = served.ask(SERVICE, RecordType::SRV).await;
        assert_eq!((answer.answers.len(), has_soa(&answer)), (stores, stores == 0));
    }
}

#[tokio::test]
async fn only_a_port_that_another_program_shares_is_shared() {
    let exclusive = StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let refused = Sockets::bind(exclusive.local_addr().unwrap()).await.unwrap_err();
    assert!(refused.to_string().contains("--dns-port"), "{refused}");
    let daemon: StdUdpSocket = bind_shared_udp((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap().into();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, daemon.local_addr().unwrap().port()));
    let sockets = Sockets::bind(address).await.unwrap();
    // Of the two, the more specific address gets what is sent to it.
    StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().send_to(b"?", address).unwrap();
    assert_eq!(sockets.udp.recv(&mut [0; 8]).await.unwrap(), 1);
}
