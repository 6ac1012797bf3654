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
//! Of a request under an offer an Envoy can't tell the end: all bytes that follow are the WebSocket's. So a route passes an offer on only
//! where it says so ([`passes_offers`]); on all others a script removes it, and with it whatever follows.

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::{LuaPerRoute, lua_per_route};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::matcher::{header, method, none_or, present};
use super::{MAX_WEBSOCKET_SECONDS, any, number};

use route::Route;

/// The header of an answer to the hub that says: the backend has declined the offer, ask without it.
const DECLINED: &str = "x-atlas-websocket-declined";
/// Which attempt of the hub's this is: Envoy's own header.
const ATTEMPT: &str = "x-envoy-attempt-count";

/// The filter that removes offers, among those for requests under one.
pub(super) const OFFER_REMOVED: &str = "atlas.offer_removed";

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
pub(super) fn on_hub(
    matches: Option<route::RouteMatch>,
    longest: i64,
    action: impl Fn(Limit) -> route::RouteAction,
) -> Vec<Route> {
    let matches = matches.unwrap_or_default();
    // What RFC 6455 and RFC 8441 both ask for. All else is an ordinary request with a header too many.
    let handshake = [
        offer(),
        method("GET"),
        present("sec-websocket-version"),
        // Without a body, which couldn't be sent a second time.
        none_or("content-length", "0"),
    ];
    let asked_twice = route::RetryPolicy {
        retry_on: "retriable-headers".into(),
        num_retries: number(1),
        retriable_headers: vec![present(DECLINED)],
        ..Default::default()
    };
    let websocket = route::RouteAction { retry_policy: Some(asked_twice), ..action(long(0)) };
    let mut routes = vec![passes_offers(to(with_headers(&matches, handshake), websocket))];
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
    let second = saying(ATTEMPT, MatchPattern::Exact("2".into()));
    let first = route::HeaderMatcher { invert_match: true, ..second };
    let mut routes =
        vec![passes_offers(to(with_headers(&matches, [offer(), first]), action(long(margin))))];
    routes.extend(streams_and_the_rest(matches, margin, longest, action));
    routes
}

/// A path that is an event stream whatever the client says it accepts.
pub(super) fn events(
    matches: Option<route::RouteMatch>,
    margin: i64,
    action: impl Fn(Limit) -> route::RouteAction,
) -> Route {
    to(matches.unwrap_or_default(), action(long(margin)))
}

fn streams_and_the_rest(
    matches: route::RouteMatch,
    margin: i64,
    longest: i64,
    action: impl Fn(Limit) -> route::RouteAction,
) -> [Route; 2] {
    // As every browser's EventSource says.
    let accepted = saying("accept", MatchPattern::Contains("text/event-stream".into()));
    [
        to(with_headers(&matches, [accepted]), action(long(margin))),
        to(matches, action(Limit { longest: longest + margin, idle: None })),
    ]
}

/// Passes offers of a WebSocket on.
fn passes_offers(route: Route) -> Route {
    let kept = LuaPerRoute {
        r#override: Some(lua_per_route::Override::Disabled(true)),
        ..Default::default()
    };
    Route { typed_per_filter_config: [(OFFER_REMOVED.to_owned(), any(&kept))].into(), ..route }
}

/// Whether a request offers to become a WebSocket.
fn offer() -> route::HeaderMatcher {
    saying("upgrade", MatchPattern::Exact("websocket".into()))
}

/// As HTTP compares such values: without regard to case.
fn saying(name: &str, pattern: MatchPattern) -> route::HeaderMatcher {
    header(name, StringMatcher { match_pattern: Some(pattern), ignore_case: true })
}

fn with_headers<const N: usize>(
    matches: &route::RouteMatch,
    headers: [route::HeaderMatcher; N],
) -> route::RouteMatch {
    route::RouteMatch { headers: headers.into(), ..matches.clone() }
}

fn to(matches: route::RouteMatch, action: route::RouteAction) -> Route {
    Route {
        r#match: Some(matches),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}
