//! Requests to web UIs that stay open: WebSockets and event streams.
//!
//! A request that offers to become a WebSocket and is for an ordinary path must get the response
//! that it would get without the offer (RFC 9110 §7.8). But an Envoy that speaks HTTP/1.1 to the
//! backend drops the body of any response to it except 101, 4xx and 5xx, and between Envoys, where
//! the offer is an extended CONNECT (RFC 8441), 200 accepts the WebSocket. So the hub's Envoy asks
//! again:
//!
//! ```text
//! browser ──GET, Upgrade──▶ hub ══CONNECT, attempt 1══▶ cluster ──GET, Upgrade──▶ backend
//!    a WebSocket ◀── 200 ◀──────────────────────────────── 101 ◀───────────────────── 101
//!                           503, x-atlas-websocket-declined ◀──────────────────────── 200
//!                       hub ══CONNECT, attempt 2══▶ cluster ──GET──────────────────▶ backend
//!      200, body ◀────────── 299, x-atlas-plain-answer ◀───────────────────────── 200, body
//! ```
//!
//! Envoy can't tell where such a request ends: it takes all bytes that follow for the WebSocket's.
//! So an offer is passed on only by the routes for WebSockets. On all others a script removes the
//! offer, and the bytes that follow it (`lua/remove_websocket_offer.lua`).

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use route::{HeaderMatcher, Route, RouteAction, RouteMatch};

use super::limits::{CLUSTER_EXTRA_SECONDS, MAX_LONG_LIVED_SECONDS};
use super::matcher::{header_absent_or, header_ignoring_case, header_present, method};
use super::{http_filter, uint32};

/// The header of a response to the hub's Envoy: the backend has declined the WebSocket.
const DECLINED: &str = "x-atlas-websocket-declined";
/// Envoy's header with the number of the attempt.
const ATTEMPT_COUNT: &str = "x-envoy-attempt-count";

/// The limits of a request, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamLimits {
    /// From the first byte of the request to the last one of the response.
    pub max_duration: i64,
    /// Without a byte in either direction; `None`: as the listener says.
    pub idle_timeout: Option<i64>,
}

/// The limits of a WebSocket or an event stream. Both may be idle all the time.
fn long_lived(extra_seconds: i64) -> StreamLimits {
    let seconds = MAX_LONG_LIVED_SECONDS + extra_seconds;
    StreamLimits { max_duration: seconds, idle_timeout: Some(seconds) }
}

/// On the hub: the routes of `matches` for WebSockets, for event streams and for other requests.
/// `action` makes the routes' actions.
pub(super) fn routes_on_hub(
    matches: &RouteMatch,
    max_request_seconds: i64,
    action: impl Fn(StreamLimits) -> RouteAction,
) -> Vec<Route> {
    // What RFC 6455 and RFC 8441 both require. Other requests are ordinary, whatever they offer.
    let handshake = [
        websocket_offer(),
        method("GET"),
        header_present("sec-websocket-version"),
        // A body couldn't be sent a second time.
        header_absent_or("content-length", "0"),
    ];
    let retry_if_declined = route::RetryPolicy {
        retry_on: "retriable-headers".into(),
        num_retries: uint32(1),
        retriable_headers: vec![header_present(DECLINED)],
        ..Default::default()
    };
    let websocket = RouteAction { retry_policy: Some(retry_if_declined), ..action(long_lived(0)) };
    let mut routes = vec![keeping_offer(route_to(with_headers(matches, handshake), websocket))];
    routes.extend(event_streams_and_others(matches, 0, max_request_seconds, action));
    routes
}

/// In a cluster: the same for requests of the hub's Envoy.
pub(super) fn routes_in_cluster(
    matches: &RouteMatch,
    max_request_seconds: i64,
    action: impl Fn(StreamLimits) -> RouteAction,
) -> Vec<Route> {
    let extra = CLUSTER_EXTRA_SECONDS;
    let second = header_ignoring_case(ATTEMPT_COUNT, MatchPattern::Exact("2".into()));
    let not_second = HeaderMatcher { invert_match: true, ..second };
    let first_attempt = with_headers(matches, [websocket_offer(), not_second]);
    let mut routes = vec![keeping_offer(route_to(first_attempt, action(long_lived(extra))))];
    routes.extend(event_streams_and_others(matches, extra, max_request_seconds, action));
    routes
}

/// On the hub: the route of a path that is an event stream whatever the request's `accept`.
pub(super) fn event_stream_on_hub(
    matches: RouteMatch,
    action: impl Fn(StreamLimits) -> RouteAction,
) -> Route {
    route_to(matches, action(long_lived(0)))
}

/// In a cluster: the same.
pub(super) fn event_stream_in_cluster(
    matches: RouteMatch,
    action: impl Fn(StreamLimits) -> RouteAction,
) -> Route {
    route_to(matches, action(long_lived(CLUSTER_EXTRA_SECONDS)))
}

fn event_streams_and_others(
    matches: &RouteMatch,
    extra_seconds: i64,
    max_request_seconds: i64,
    action: impl Fn(StreamLimits) -> RouteAction,
) -> [Route; 2] {
    // Every browser's EventSource sends this.
    let accepts_events =
        header_ignoring_case("accept", MatchPattern::Contains("text/event-stream".into()));
    let others =
        StreamLimits { max_duration: max_request_seconds + extra_seconds, idle_timeout: None };
    [
        route_to(with_headers(matches, [accepts_events]), action(long_lived(extra_seconds))),
        route_to(matches.clone(), action(others)),
    ]
}

/// Passes offers of a WebSocket on.
fn keeping_offer(route: Route) -> Route {
    Route { typed_per_filter_config: http_filter::keep_websocket_offer(), ..route }
}

/// The request offers to become a WebSocket.
fn websocket_offer() -> HeaderMatcher {
    header_ignoring_case("upgrade", MatchPattern::Exact("websocket".into()))
}

fn with_headers<const N: usize>(matches: &RouteMatch, headers: [HeaderMatcher; N]) -> RouteMatch {
    RouteMatch { headers: headers.into(), ..matches.clone() }
}

fn route_to(matches: RouteMatch, action: RouteAction) -> Route {
    Route {
        r#match: Some(matches),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}
