//! Arbitrary requests cause no panic, no response and no memory beyond the limits, and no endless
//! exchange.

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use proptest::prelude::*;
use prost::Message;

use super::notation::resource;
use super::random_cases::Seeds;
use crate::xds::limits::SessionLimits;
use crate::xds::messages::{Request, Variant};
use crate::xds::quarantine::{MAX_ENTRIES, Quarantine};
use crate::xds::resource::ResourceType;
use crate::xds::session::Session;
use crate::xds::snapshot::{Change, Snapshot};

const LIMITS: SessionLimits =
    SessionLimits { names: 12, name_length: 40, bytes: 200, response_bytes: 300 };

fn delta_request(request: DeltaDiscoveryRequest) -> Request {
    Request {
        type_url: request.type_url,
        nonce: request.response_nonce,
        error: request.error_detail.map(|status| status.message),
        subscribe: request.resource_names_subscribe,
        unsubscribe: request.resource_names_unsubscribe,
        initial_versions: request.initial_resource_versions.into_iter().collect(),
        ..Request::default()
    }
}

fn sotw_request(request: DiscoveryRequest) -> Request {
    Request {
        type_url: request.type_url,
        nonce: request.response_nonce,
        error: request.error_detail.map(|status| status.message),
        names: request.resource_names,
        version_info: request.version_info,
        ..Request::default()
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => (0..10u8).prop_map(|n| format!("n{n}")),
        2 => Just("*".to_owned()),
        1 => unusual_text(),
    ]
}

fn unusual_text() -> impl Strategy<Value = String> {
    let odd = ["", " ", "n", "n1 n2", "\n", "\u{0}", "é\u{202e}", "*n", "38", "0"]
        .map(str::to_owned)
        .into_iter();
    let long = [39, 40, 41, 300].map(|length| "x".repeat(length)).into_iter();
    prop::sample::select(odd.chain(long).collect::<Vec<_>>())
}

fn error_message() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..10u8, 0..10u8).prop_map(|(one, other)| format!("(s) n{one}: no, n{other}: no")),
        Just("no".to_owned())
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let url = prop_oneof![
        12 => prop::sample::select(ResourceType::ALL.as_slice())
            .prop_map(|kind| kind.url().to_owned()),
        1 => unusual_text(),
    ];
    let names = || prop::collection::vec(name(), 0..4);
    let nonce = prop_oneof![
        6 => (0..60u8).prop_map(|nonce| nonce.to_string()),
        3 => Just(String::new()),
        1 => unusual_text(),
    ];
    let error = prop::option::of(prop_oneof![error_message(), unusual_text()]);
    let versions = prop::collection::btree_map(
        name(),
        prop_oneof![any::<u128>().prop_map(|version| format!("{version:032x}")), unusual_text()],
        0..3,
    );
    (url, nonce, error, names(), names(), versions, names(), unusual_text()).prop_map(
        |(
            type_url,
            nonce,
            error,
            subscribe,
            unsubscribe,
            initial_versions,
            names,
            version_info,
        )| Request {
            type_url,
            nonce,
            error,
            subscribe,
            unsubscribe,
            initial_versions,
            names,
            version_info,
        },
    )
}

/// A step of a case.
#[derive(Clone, Debug)]
enum Event {
    Request(Request),
    /// An encoded request of arbitrary bytes.
    Bytes(Vec<u8>),
    /// An ACK, or a NACK with this message, of the latest response.
    Answer(Option<String>),
    Change(usize, u8, u8),
    KeepUnknown(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => request().prop_map(Event::Request),
        2 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Event::Bytes),
        6 => prop::option::of(error_message()).prop_map(Event::Answer),
        4 => (0..5usize, 0..10u8, 0..5u8)
            .prop_map(|(kind, name, content)| Event::Change(kind, name, content)),
        1 => any::<bool>().prop_map(Event::KeepUnknown),
    ]
}

fn run(
    variant: Variant,
    only: Option<ResourceType>,
    events: &[Event],
) -> Result<(), TestCaseError> {
    let mut snapshot = Snapshot::default();
    let mut quarantine = Quarantine::default();
    let new = || Session::new(variant, only).with_limits(LIMITS);
    let mut session = new();
    let mut latest = (String::new(), String::new());
    for event in events {
        let request = match event {
            Event::Request(request) => Some(request.clone()),
            Event::Bytes(bytes) if variant == Variant::Delta => {
                DeltaDiscoveryRequest::decode(&**bytes).ok().map(delta_request)
            }
            Event::Bytes(bytes) => DiscoveryRequest::decode(&**bytes).ok().map(sotw_request),
            Event::Answer(error) => {
                let (type_url, nonce) = latest.clone();
                Some(Request {
                    type_url,
                    nonce,
                    error: error.clone(),
                    names: vec!["n1".into()],
                    ..Request::default()
                })
            }
            Event::Change(kind, name, content) => {
                let (kind, name) = (ResourceType::ALL[*kind], format!("n{name}"));
                let change = match content {
                    0 => Change::Remove(kind, name.into()),
                    _ => Change::Set(resource(kind, &name, &content.to_string().repeat(30))),
                };
                snapshot.apply(vec![change]);
                None
            }
            Event::KeepUnknown(true) => {
                session.keep_unknown_resources();
                None
            }
            Event::KeepUnknown(false) => {
                session.remove_unknown_resources();
                None
            }
        };
        let responses = match request {
            None => session.on_change(&snapshot, &quarantine),
            Some(request) => match session.on_request(request, &snapshot, &mut quarantine) {
                Ok(responses) => responses,
                // A server ends the stream.
                Err(exceeded) => {
                    prop_assert!(!exceeded.to_string().is_empty());
                    session = new();
                    continue;
                }
            },
        };
        prop_assert!(
            responses.len() <= ResourceType::ALL.len() + 1,
            "{} responses at once",
            responses.len()
        );
        for response in responses {
            let bytes: usize =
                response.resources.iter().map(|resource| resource.wire().len()).sum();
            if variant == Variant::Delta {
                prop_assert!(
                    bytes <= LIMITS.response_bytes
                        || response.resources.len() == 1
                        || session.nacks() > 0,
                    "{} bytes",
                    bytes
                );
            }
            latest = (response.type_url.into_owned(), response.nonce);
        }
        session.status(&snapshot, &quarantine);
        prop_assert!(quarantine.len() <= MAX_ENTRIES);
        for (kind, subscription) in &session.subscriptions {
            let names = [subscription.names.len(), subscription.names.pending_response().len()];
            prop_assert!(names.iter().all(|count| *count <= LIMITS.names), "{:?} names", names);
            let most = snapshot.of_type(*kind).len() + LIMITS.names + 10;
            let resources = [
                subscription.client.len(),
                subscription.nacks.rejected_count(),
                subscription.nacks.candidates().count(),
            ];
            prop_assert!(resources.iter().all(|count| *count <= most), "{:?} resources", resources);
        }
    }
    Ok(())
}

/// The event as Rust code of a test.
fn code(event: &Event) -> String {
    let request = match event {
        Event::Request(request) => request,
        Event::Bytes(bytes) => return format!("Event::Bytes(vec!{bytes:?})"),
        Event::Answer(Some(message)) => return format!("Event::Answer(Some({message:?}.into()))"),
        other => return format!("Event::{other:?}"),
    };
    let Request {
        type_url,
        nonce,
        error,
        subscribe,
        unsubscribe,
        initial_versions,
        names,
        version_info,
    } = request;
    let text = |text: &str| format!("{text:?}.into()");
    let list = |list: &[String]| format!("{list:?}.map(String::from).into()");
    let versions = || {
        let versions: Vec<_> = initial_versions.iter().collect();
        format!("{versions:?}.map(|(name, version)| (name.into(), version.into())).into()")
    };
    let fields = [
        ("type_url", (!type_url.is_empty()).then(|| text(type_url))),
        ("nonce", (!nonce.is_empty()).then(|| text(nonce))),
        ("error", error.as_ref().map(|error| format!("Some({})", text(error)))),
        ("subscribe", (!subscribe.is_empty()).then(|| list(subscribe))),
        ("unsubscribe", (!unsubscribe.is_empty()).then(|| list(unsubscribe))),
        ("initial_versions", (!initial_versions.is_empty()).then(versions)),
        ("names", (!names.is_empty()).then(|| list(names))),
        ("version_info", (!version_info.is_empty()).then(|| text(version_info))),
    ];
    let fields: String = fields
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}: {}, ", value?)))
        .collect();
    format!("Event::Request(Request {{ {fields}..Request::default() }})")
}

#[test]
fn arbitrary_requests_break_nothing() {
    let variant = prop_oneof![Just(Variant::Delta), Just(Variant::StateOfTheWorld)];
    let only = prop::option::weighted(0.1, prop::sample::select(ResourceType::ALL.as_slice()));
    let cases = ((variant, only), prop::collection::vec(event(), 0..200));
    let paste = |(variant, only): &(Variant, Option<ResourceType>), events: &[Event]| {
        let events: Vec<String> = events.iter().map(code).collect();
        let only = only.map_or("None".to_owned(), |only| format!("Some(ResourceType::{only:?})"));
        format!("run(Variant::{variant:?}, {only}, &[{}]).unwrap();", events.join(", "))
    };
    let run = |(variant, only): &(Variant, Option<ResourceType>), events: &[Event]| {
        run(*variant, *only, events)
    };
    Seeds { fixed: 200, new: 500 }.check("arbitrary_requests_break_nothing", &cases, run, paste);
}
