//! A small protocol language: requests in, responses out, both as one line.
//!
//! `CDS + *` subscribes, `CDS - a` unsubscribes, `CDS has a=1` is what a client says on reconnect, `CDS ack 1` and
//! `CDS nack 1 why` answer. A response reads `1 CDS a=1 b=2 gone c`.

use super::*;

/// A client and a server without a socket between.
struct Stream {
    session: Session,
    snapshot: Snapshot,
}

fn kind_of(text: &str) -> ResourceType {
    ResourceType::ALL.into_iter().find(|kind| kind.to_string() == text).expect("a type")
}

/// A resource whose version is what the test says.
fn resource(kind: ResourceType, name: &str, version: &str) -> Arc<Resource> {
    let body = envoy_types::pb::google::protobuf::Any { type_url: kind.url().into(), value: version.as_bytes().to_vec() };
    Resource::with_version(kind, name, Version::of(version.as_bytes()), &body)
}

/// `CDS a=1 b=1, RDS r=1`
fn snapshot(text: &str) -> Snapshot {
    let of_type = |part: &str| {
        let (kind, rest) = part.trim().split_once(' ').expect("a type and resources");
        let pair = |pair: &str| pair.split_once('=').map(|(name, version)| resource(kind_of(kind), name, version)).expect("name=version");
        rest.split_whitespace().map(pair).collect::<Vec<_>>()
    };
    text.split(',').filter(|part| !part.trim().is_empty()).flat_map(of_type).collect()
}

fn request(text: &str) -> Request {
    let mut words = text.split_whitespace().peekable();
    let kind = kind_of(words.next().expect("a type"));
    let mut request = Request { type_url: kind.url().into(), ..Request::default() };
    while let Some(word) = words.next() {
        match word {
            "+" => request.subscribe.push(words.next().unwrap().into()),
            "-" => request.unsubscribe.push(words.next().unwrap().into()),
            "has" => {
                let (name, version) = words.next().unwrap().split_once('=').unwrap();
                request.initial_versions.insert(name.into(), Version::of(version.as_bytes()).to_string());
            }
            "ack" => request.nonce = words.next().unwrap().into(),
            "nack" => {
                request.nonce = words.next().unwrap().into();
                request.error = Some(words.by_ref().collect::<Vec<_>>().join(" "));
            }
            other => panic!("{other}?"),
        }
    }
    request
}

fn line(response: &Response) -> String {
    let kind = ResourceType::of_url(&response.type_url).expect("a known type");
    let mut line = format!("{} {kind}", response.nonce);
    response.resources.iter().for_each(|r| line.push_str(&format!(" {}={}", r.name, String::from_utf8(r.body().value).unwrap())));
    response.removed.iter().for_each(|name| line.push_str(&format!(" gone {name}")));
    line
}

impl Stream {
    fn new(text: &str) -> Self {
        Self { session: Session::new(), snapshot: snapshot(text) }
    }

    fn hears(&mut self, text: &str) -> Vec<String> {
        self.session.on_request(request(text), &self.snapshot, &mut Quarantine).expect("no abuse").iter().map(line).collect()
    }

    fn becomes(&mut self, text: &str) -> Vec<String> {
        self.snapshot = snapshot(text);
        self.session.on_change(&self.snapshot, &Quarantine).iter().map(line).collect()
    }

    fn standing(&self, kind: &str) -> Standing {
        self.session.standing(&self.snapshot, &Quarantine)[&kind_of(kind)].clone()
    }
}

#[test]
fn a_first_request_without_names_means_all_for_clusters_and_listeners() {
    let mut stream = Stream::new("CDS a=1 b=1, LDS l=1");
    assert_eq!(stream.hears("CDS"), ["1 CDS a=1 b=1"]);
    assert_eq!(stream.hears("LDS"), ["2 LDS l=1"]);
    assert_eq!(stream.hears("CDS ack 1"), [""; 0]);
    assert_eq!(stream.standing("CDS"), Standing::Synced);
    assert_eq!(stream.standing("LDS"), Standing::Stale);
}

#[test]
fn an_empty_fleet_is_answered_too() {
    let mut stream = Stream::new("");
    assert_eq!(stream.hears("CDS + *"), ["1 CDS"]);
    assert_eq!(stream.hears("CDS ack 1"), [""; 0]);
}

#[test]
fn a_name_that_does_not_exist_is_answered_at_once() {
    let mut stream = Stream::new("SDS leaf=1");
    assert_eq!(stream.hears("SDS + leaf + other"), ["1 SDS leaf=1 gone other"]);
    stream.hears("SDS ack 1");
    assert_eq!(stream.becomes("SDS leaf=1 other=1"), ["2 SDS other=1"], "and sent when it comes to exist");
}

#[test]
fn names_may_come_in_several_requests() {
    let mut stream = Stream::new("SDS a=1 b=1");
    assert_eq!(stream.hears("SDS + a"), ["1 SDS a=1"]);
    assert_eq!(stream.hears("SDS + b"), [""; 0], "one response at a time");
    assert_eq!(stream.hears("SDS ack 1"), ["2 SDS b=1"]);
    assert_eq!(stream.hears("SDS ack 2"), [""; 0]);
    assert_eq!(stream.hears("SDS + a"), ["3 SDS a=1"], "asked for again, sent again");
}

#[test]
fn an_equal_snapshot_sends_nothing() {
    let mut stream = Stream::new("CDS a=1");
    stream.hears("CDS");
    stream.hears("CDS ack 1");
    assert_eq!(stream.becomes("CDS a=1"), [""; 0]);
}

#[test]
fn only_what_changed_is_sent() {
    let mut stream = Stream::new("CDS a=1 b=1");
    stream.hears("CDS");
    stream.hears("CDS ack 1");
    assert_eq!(stream.becomes("CDS a=1 b=2 c=1"), ["2 CDS b=2 c=1"]);
}

#[test]
fn changes_during_a_response_are_sent_once_in_their_latest_form() {
    let mut stream = Stream::new("CDS a=1");
    stream.hears("CDS");
    assert_eq!(stream.becomes("CDS a=2"), [""; 0]);
    assert_eq!(stream.becomes("CDS a=3"), [""; 0]);
    assert_eq!(stream.hears("CDS ack 1"), ["2 CDS a=3"]);
}

#[test]
fn additions_go_by_type_and_removals_wait_for_every_answer() {
    let mut stream = Stream::new("CDS old=1, RDS r=1");
    stream.hears("CDS");
    stream.hears("RDS + r");
    stream.hears("CDS ack 1");
    stream.hears("RDS ack 2");
    assert_eq!(stream.becomes("CDS new=1, RDS r=2"), ["3 CDS new=1", "4 RDS r=2"]);
    assert_eq!(stream.hears("CDS ack 3"), [""; 0], "routes may still point at the old one");
    assert_eq!(stream.hears("RDS ack 4"), ["5 CDS gone old"]);
}

#[test]
fn a_reconnect_sends_only_differences_and_removes_zombies() {
    let mut stream = Stream::new("CDS same=1 changed=2 new=1");
    assert_eq!(stream.hears("CDS + * has same=1 has changed=1 has zombie=1"), ["1 CDS changed=2 new=1"]);
    assert_eq!(stream.hears("CDS ack 1"), ["2 CDS gone zombie"]);
}

#[test]
fn a_server_that_may_know_less_takes_nothing_away_that_the_client_brought() {
    let mut stream = Stream::new("CDS same=1");
    stream.session.hold();
    assert_eq!(stream.hears("CDS + * has same=1 has unknown=1 has late=1"), ["1 CDS"]);
    assert_eq!(stream.hears("CDS ack 1"), [""; 0]);
    assert_eq!(stream.standing("CDS"), Standing::Synced);
    // What it learns and then loses is really gone; and so is what it knew from the beginning.
    assert_eq!(stream.becomes("CDS same=1 late=1"), [""; 0]);
    assert_eq!(stream.becomes(""), ["2 CDS gone late gone same"]);
    assert_eq!(stream.hears("CDS ack 2"), [""; 0]);
    stream.session.let_go();
    assert_eq!(stream.becomes(""), ["3 CDS gone unknown"]);
}

#[test]
fn a_reconnect_with_nothing_to_say_is_greeted() {
    let mut stream = Stream::new("CDS a=1, SDS leaf=1");
    assert_eq!(stream.hears("CDS + * has a=1"), ["1 CDS"]);
    assert_eq!(stream.hears("SDS + leaf has leaf=1"), ["2 SDS"]);
}

#[test]
fn a_refused_version_is_never_sent_again_and_the_next_is() {
    let mut stream = Stream::new("LDS l=1");
    stream.hears("LDS");
    stream.hears("LDS ack 1");
    assert_eq!(stream.becomes("LDS l=bad"), ["2 LDS l=bad"]);
    assert_eq!(stream.hears("LDS nack 2 no such filter"), [""; 0]);
    assert_eq!(stream.standing("LDS"), Standing::Nack("no such filter".into()));
    assert_eq!(stream.becomes("LDS l=bad"), [""; 0]);
    assert_eq!(stream.session.nacks(), 1);
    assert_eq!(stream.becomes("LDS l=3"), ["3 LDS l=3"]);
    stream.hears("LDS ack 3");
    assert_eq!(stream.standing("LDS"), Standing::Synced);
}

#[test]
fn the_good_part_of_a_refused_response_is_removed_when_its_time_comes() {
    let mut stream = Stream::new("");
    stream.hears("CDS");
    stream.hears("CDS ack 1");
    stream.becomes("CDS good=1 bad=1");
    stream.hears("CDS nack 2 bad");
    assert_eq!(stream.becomes(""), ["3 CDS gone bad gone good"]);
}

#[test]
fn an_answer_to_an_older_response_settles_nothing() {
    let mut stream = Stream::new("CDS a=1");
    stream.hears("CDS");
    assert_eq!(stream.hears("CDS ack 77"), [""; 0]);
    assert_eq!(stream.becomes("CDS a=2"), [""; 0], "the first is still under way");
    assert_eq!(stream.hears("CDS ack 1"), ["2 CDS a=2"]);
}

#[test]
fn what_is_unsubscribed_is_forgotten() {
    let mut stream = Stream::new("SDS a=1 b=1");
    stream.hears("SDS + a + b");
    stream.hears("SDS ack 1");
    assert_eq!(stream.hears("SDS - a"), [""; 0]);
    assert_eq!(stream.becomes("SDS a=2 b=1"), [""; 0]);
    assert_eq!(stream.hears("SDS + a"), ["2 SDS a=2"]);
}

#[test]
fn an_unknown_type_is_answered_as_absent() {
    let mut session = Session::new();
    let request = Request { type_url: "type.googleapis.com/some.Other".into(), subscribe: vec!["x".into()], ..Request::default() };
    let responses = session.on_request(request, &Snapshot::default(), &mut Quarantine).unwrap();
    assert_eq!(responses[0].removed, ["x"]);
}

#[test]
fn more_names_than_anyone_needs_end_the_stream() {
    let mut session = Session::new();
    let subscribe = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
    let request = Request { type_url: ResourceType::Secret.url().into(), subscribe, ..Request::default() };
    assert!(matches!(session.on_request(request, &Snapshot::default(), &mut Quarantine), Err(Abuse::TooManyNames(_))));
}

/// What becomes of a stream's first request.
fn first(request: Request) -> Result<Vec<Response>, Abuse> {
    Session::new().on_request(request, &Snapshot::default(), &mut Quarantine)
}

#[test]
fn a_name_longer_than_any_ends_the_stream() {
    let (long, most) = ("n".repeat(MAX_NAME + 1), "n".repeat(MAX_NAME));
    for type_url in [ResourceType::Secret.url(), "type.googleapis.com/some.Other"] {
        let of = |name: &str| Request { type_url: type_url.into(), subscribe: vec![name.into()], ..Request::default() };
        let unsubscribing = Request { subscribe: vec![], unsubscribe: vec![long.clone()], ..of("") };
        let having = |name: &str, version: &str| Request { initial_versions: [(name.into(), version.into())].into(), ..of("n") };
        for request in [of(&long), unsubscribing, having(&long, "1"), having("n", &long)] {
            assert_eq!(first(request), Err(Abuse::LongName(MAX_NAME + 1)), "{type_url}");
        }
        assert!(first(of(&most)).is_ok() && first(having(&most, &most)).is_ok(), "{type_url}");
    }
    assert_eq!(first(Request { type_url: long, ..Request::default() }), Err(Abuse::LongName(MAX_NAME + 1)));
}

#[test]
fn names_of_an_unknown_type_are_bounded_like_others() {
    let subscribe = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
    let request = Request { type_url: "type.googleapis.com/some.Other".into(), subscribe, ..Request::default() };
    assert_eq!(first(request), Err(Abuse::TooManyNames(MAX_NAMES + 1)));
}

#[test]
fn long_names_add_up_over_requests() {
    let mut session = Session::new();
    let names = |from: usize| (from..from + 4096).map(|n| format!("{n:0>width$}", width = MAX_NAME)).collect();
    let mut ask = |from| {
        let request = Request { type_url: ResourceType::Secret.url().into(), subscribe: names(from), ..Request::default() };
        session.on_request(request, &Snapshot::default(), &mut Quarantine).map(drop)
    };
    let wanted = MAX_BYTES / MAX_NAME;
    for from in (0..wanted).step_by(4096) {
        assert_eq!(ask(from), Ok(()));
    }
    assert!(matches!(ask(wanted), Err(Abuse::TooManyBytes(_))));
}

#[test]
fn a_refusal_is_kept_in_plain_and_few_words() {
    let mut stream = Stream::new("LDS l=bad");
    stream.hears("LDS");
    let error = format!("no \x1b[2Jsuch\nfilter\u{9b}\u{202e}{}", "é".repeat(3 * MAX_REASON));
    let request = Request { error: Some(error), ..request("LDS ack 1") };
    stream.session.on_request(request, &stream.snapshot, &mut Quarantine).unwrap();
    let Standing::Nack(words) = stream.standing("LDS") else { panic!("no NACK") };
    assert!(words.starts_with("no  [2Jsuch filter  é"), "{words}");
    assert_eq!(words.chars().count(), MAX_REASON);
}

mod convergence {
    //! Whatever the order of events, a client that answers everything ends with exactly the snapshot.

    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Event {
        /// Resource n of the type gets version v; 0 removes it.
        Change(usize, u8, u8),
        /// The client takes the oldest outstanding response.
        Answer {
            refuse: bool,
        },
        Reconnect,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..4usize, 0..4u8, 0..4u8).prop_map(|(kind, name, version)| Event::Change(kind, name, version)),
            4 => prop::bool::weighted(0.1).prop_map(|refuse| Event::Answer { refuse }),
            1 => Just(Event::Reconnect),
        ]
    }

    const KINDS: [ResourceType; 4] = [ResourceType::Secret, ResourceType::Cluster, ResourceType::Listener, ResourceType::Route];
    type Has = BTreeMap<ResourceType, BTreeMap<String, String>>;

    /// A client that refuses responses whole, but applies them all the same where they are removals.
    struct Client {
        has: Has,
        inbox: std::collections::VecDeque<Response>,
    }

    fn connect(session: &mut Session, snapshot: &Snapshot, client: &mut Client) {
        *session = Session::new();
        client.inbox.clear();
        for kind in KINDS {
            let subscribe = match kind {
                ResourceType::Cluster | ResourceType::Listener => vec!["*".to_owned()],
                _ => (0..4).map(|n| format!("n{n}")).collect(),
            };
            let initial_versions = client.has.get(&kind).cloned().unwrap_or_default();
            let request = Request { type_url: kind.url().into(), subscribe, initial_versions, ..Request::default() };
            client.inbox.extend(session.on_request(request, snapshot, &mut Quarantine).unwrap());
        }
    }

    fn answer(session: &mut Session, snapshot: &Snapshot, client: &mut Client, refuse: bool) {
        let Some(response) = client.inbox.pop_front() else { return };
        let kind = ResourceType::of_url(&response.type_url).unwrap();
        let refuse = refuse && !response.resources.is_empty();
        if !refuse {
            let has = client.has.entry(kind).or_default();
            response.removed.iter().for_each(|name| drop(has.remove(name)));
            response.resources.iter().for_each(|r| drop(has.insert(r.name.to_string(), r.version.to_string())));
        }
        let error = refuse.then(|| "no".to_owned());
        let request = Request { type_url: response.type_url, nonce: response.nonce, error, ..Request::default() };
        client.inbox.extend(session.on_request(request, snapshot, &mut Quarantine).unwrap());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn client_and_server_converge(events in prop::collection::vec(event(), 0..80)) {
            let mut snapshot = Snapshot::default();
            let mut session = Session::new();
            let mut client = Client { has: Has::new(), inbox: Default::default() };
            connect(&mut session, &snapshot, &mut client);
            let mut state: BTreeMap<(usize, u8), u8> = BTreeMap::new();
            for event in events {
                match event {
                    Event::Change(kind, name, version) => {
                        state.insert((kind, name), version);
                        let there = state.iter().filter(|(_, version)| **version > 0);
                        snapshot = there.map(|((kind, name), version)| resource(KINDS[*kind], &format!("n{name}"), &version.to_string())).collect();
                        client.inbox.extend(session.on_change(&snapshot, &Quarantine));
                    }
                    Event::Answer { refuse } => answer(&mut session, &snapshot, &mut client, refuse),
                    Event::Reconnect => connect(&mut session, &snapshot, &mut client),
                }
                // At most one response per type is under way.
                for kind in KINDS {
                    prop_assert!(client.inbox.iter().filter(|r| r.type_url == kind.url()).count() <= 1);
                }
            }
            // A refused version is sent again only on another stream; then the client has nothing against it.
            connect(&mut session, &snapshot, &mut client);
            for _ in 0..64 {
                answer(&mut session, &snapshot, &mut client, false);
            }
            for kind in KINDS {
                let wanted: BTreeMap<String, String> = snapshot.of(kind).iter().map(|r| (r.name.to_string(), r.version.to_string())).collect();
                prop_assert_eq!(client.has.get(&kind).cloned().unwrap_or_default(), wanted);
                prop_assert_eq!(&session.standing(&snapshot, &Quarantine)[&kind], &Standing::Synced);
            }
        }
    }
}
