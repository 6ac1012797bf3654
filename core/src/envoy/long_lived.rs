//! Requests to web UIs that are more than a question and an answer: offers of a WebSocket, and event streams.
//!
//! An offer that is made to an ordinary path must get the answer that it would get without it (RFC 9110 §7.8). An Envoy that speaks
//! HTTP/1.1 to the backend throws away the body of any answer but 101, 4xx and 5xx, and between Envoys, where the offer is an extended
//! CONNECT (RFC 8441), 200 *is* the acceptance. So:
//!
//! ```text
//! browser ──GET, Upgrade──▶ hub ══CONNECT, attempt 1══▶ cluster ──GET, Upgrade──▶ backend: 101 ─▶ a WebSocket
//!                            │                                                    backend: 200 ─▶ 503 with DECLINED to the hub
//!                            └═════CONNECT, attempt 2══▶ cluster ──GET──────────▶ backend: 200 ─▶ 299 with PLAIN ─▶ hub: 200
//! ```
//!
//! The request under the offer never ends, as a WebSocket's doesn't, so the backend is told that it has no body.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::matcher::{header, method, present};
use super::{MAX_WEBSOCKET_SECONDS, number};

use route::Route;

/// The header of an answer to the hub that says: the backend has declined the offer, ask without it.
const DECLINED: &str = "x-atlas-websocket-declined";
/// Which attempt of the hub's this is: Envoy's own header.
const ATTEMPT: &str = "x-envoy-attempt-count";

/// What the hub's Envoy does with answers under an offer, as a script.
pub(super) const ANSWERS_ON_HUB: &str = include_str!("lua/websocket_answers_on_hub.lua");
/// What a cluster's Envoy does with them.
pub(super) const ANSWERS_IN_CLUSTER: &str = include_str!("lua/websocket_answers_in_cluster.lua");

/// How long a request may take, and how long it may be silent: in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// From its first byte to the answer's last.
    pub longest: i64,
    /// Without a byte in either direction; `None`: as the listener says.
    pub idle: Option<i64>,
}

/// Lives long, and may be silent all the time.
fn long(margin: i64) -> Limit {
    Limit { longest: MAX_WEBSOCKET_SECONDS + margin, idle: Some(MAX_WEBSOCKET_SECONDS + margin) }
}

/// On the hub: routes for offers, for event streams and for all the rest. `longest` is in seconds.
pub(super) fn on_hub(matches: Option<route::RouteMatch>, longest: i64, action: impl Fn(Limit) -> route::RouteAction) -> Vec<Route> {
    let matches = matches.unwrap_or_default();
    // What RFC 6455 and RFC 8441 both ask for. All else is an ordinary request with a header too many.
    let handshake = [offer(), method("GET"), present("sec-websocket-version")];
    let asked_twice = route::RetryPolicy {
        retry_on: "retriable-headers".into(),
        num_retries: number(1),
        retriable_headers: vec![present(DECLINED)],
        ..Default::default()
    };
    let websocket = route::RouteAction { upgrade_configs: upgrades(), retry_policy: Some(asked_twice), ..action(long(0)) };
    let mut routes = vec![
        to(with_headers(&matches, handshake), websocket),
        without_the_offer(to(with_headers(&matches, [offer()]), action(Limit { longest, idle: None }))),
    ];
    routes.extend(streams_and_the_rest(matches, 0, longest, action));
    routes
}

/// In a cluster: the same, for what comes from the hub, which ends a request `margin` seconds earlier.
pub(super) fn in_cluster(
    matches: Option<route::RouteMatch>,
    margin: i64,
    longest: i64,
    action: impl Fn(Limit) -> route::RouteAction,
) -> Vec<Route> {
    let matches = matches.unwrap_or_default();
    let websocket = route::RouteAction { upgrade_configs: upgrades(), ..action(long(margin)) };
    let again = [offer(), saying(ATTEMPT, MatchPattern::Exact("2".into()))];
    let mut routes = vec![
        without_the_offer(to(with_headers(&matches, again), action(Limit { longest: longest + margin, idle: None }))),
        to(with_headers(&matches, [offer()]), websocket),
    ];
    routes.extend(streams_and_the_rest(matches, margin, longest, action));
    routes
}

/// A path that is an event stream whatever the client says it accepts.
pub(super) fn events(matches: Option<route::RouteMatch>, margin: i64, action: impl Fn(Limit) -> route::RouteAction) -> Route {
    to(matches.unwrap_or_default(), action(long(margin)))
}

fn streams_and_the_rest(matches: route::RouteMatch, margin: i64, longest: i64, action: impl Fn(Limit) -> route::RouteAction) -> [Route; 2] {
    // As every browser's EventSource says.
    let accepted = saying("accept", MatchPattern::Contains("text/event-stream".into()));
    [to(with_headers(&matches, [accepted]), action(long(margin))), to(matches, action(Limit { longest: longest + margin, idle: None }))]
}

/// Passes an offer on as an ordinary request.
pub(super) fn without_the_offer(route: Route) -> Route {
    let no_body = core::HeaderValueOption {
        header: Some(core::HeaderValue { key: "content-length".into(), value: "0".into(), ..Default::default() }),
        append_action: HeaderAppendAction::AddIfAbsent.into(),
        ..Default::default()
    };
    Route {
        request_headers_to_remove: ["upgrade", "connection"].map(str::to_owned).to_vec(),
        request_headers_to_add: vec![no_body],
        ..route
    }
}

/// Whether a request offers to become a WebSocket.
pub(super) fn offer() -> route::HeaderMatcher {
    saying("upgrade", MatchPattern::Exact("websocket".into()))
}

fn upgrades() -> Vec<route::route_action::UpgradeConfig> {
    vec![route::route_action::UpgradeConfig { upgrade_type: "websocket".into(), ..Default::default() }]
}

/// As HTTP compares such values: without regard to case.
fn saying(name: &str, pattern: MatchPattern) -> route::HeaderMatcher {
    header(name, StringMatcher { match_pattern: Some(pattern), ignore_case: true })
}

fn with_headers<const N: usize>(matches: &route::RouteMatch, headers: [route::HeaderMatcher; N]) -> route::RouteMatch {
    route::RouteMatch { headers: headers.into(), ..matches.clone() }
}

fn to(matches: route::RouteMatch, action: route::RouteAction) -> Route {
    Route { r#match: Some(matches), action: Some(route::route::Action::Route(action)), ..Default::default() }
}
