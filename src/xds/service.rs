//! Which path is which service; and opening a stream.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Duration;

use atlas_core::xds::messages::Variant;
use atlas_core::xds::resource::ResourceType;
use atlas_core::xds::session::Session;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;
use tonic::Status;

use super::Xds;
use super::requests::Requests;
use super::responses::{self, Responses};
use super::stream::Task;
use crate::process::clock;
use crate::xds::streams::{Cause, Connection};

/// Why a stream is refused on a connection that was once let in.
pub const REFUSED: &str = "this credential no longer counts: carry the new ones to its Envoy (`atlas bootstrap`, `atlas cluster-values`)";

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// A stream; of one type alone, or of all.
    Stream(Variant, Option<ResourceType>),
    /// One answer without a stream.
    Fetch,
}

/// The services that Atlas has: name, and the end of its methods' names.
const SERVICES: [(&str, &str, Option<ResourceType>); 6] = [
    ("envoy.service.discovery.v3.AggregatedDiscoveryService", "AggregatedResources", None),
    ("envoy.service.secret.v3.SecretDiscoveryService", "Secrets", Some(ResourceType::Secret)),
    ("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters", Some(ResourceType::Cluster)),
    (
        "envoy.service.endpoint.v3.EndpointDiscoveryService",
        "Endpoints",
        Some(ResourceType::Endpoints),
    ),
    (
        "envoy.service.listener.v3.ListenerDiscoveryService",
        "Listeners",
        Some(ResourceType::Listener),
    ),
    ("envoy.service.route.v3.RouteDiscoveryService", "Routes", Some(ResourceType::Route)),
];

fn asked(path: &str) -> Option<Asked> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (_, suffix, only) = SERVICES.iter().find(|(name, ..)| *name == service)?;
    match method.strip_suffix(suffix)? {
        "Stream" => Some(Asked::Stream(Variant::StateOfTheWorld, *only)),
        "Delta" => Some(Asked::Stream(Variant::Delta, *only)),
        "Fetch" if only.is_some() => Some(Asked::Fetch),
        _ => None,
    }
}

/// The service on one connection.
pub struct OnConnection {
    /// Everything that streams need.
    pub xds: Arc<Xds>,
    /// Whose connection it is.
    pub connection: Arc<Connection>,
}

impl Service<Request<Incoming>> for OnConnection {
    type Response = Response<Responses>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        ready(Ok(self.answer(request)))
    }
}

impl OnConnection {
    fn answer(&self, request: Request<Incoming>) -> Response<Responses> {
        let grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        if request.method() != Method::POST
            || !request.headers().get(CONTENT_TYPE).is_some_and(grpc)
        {
            let mut response = Response::new(Responses::default());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return response;
        }
        let path = request.uri().path().to_owned();
        let opened = match asked(&path) {
            Some(Asked::Stream(variant, only)) => self.open(request, variant, only),
            Some(Asked::Fetch) => Err(Status::unimplemented(
                "Atlas has streams only: set api_type to DELTA_GRPC or GRPC, as `atlas bootstrap` writes it",
            )),
            None => Err(Status::unimplemented(
                "Atlas serves aggregated discovery, and secrets, clusters, endpoints, listeners and routes by services of their own",
            )),
        };
        match opened {
            Ok(body) => {
                let mut response = Response::new(body);
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                response
            }
            Err(status) => status.into_http(),
        }
    }

    fn open(
        &self,
        request: Request<Incoming>,
        variant: Variant,
        only: Option<ResourceType>,
    ) -> Result<Responses, Status> {
        let xds = &self.xds;
        let peer = &self.connection.peer;
        let now = clock::now();
        let session = Session::new(variant, only).with_limits(xds.limits.session(&peer.node));
        let registration =
            xds.streams.register(&self.connection, session, now, xds.drain.child_token());
        // After registering: whoever is refused from now on is found in the list and ended.
        if !xds.client_authorizer.still_admits(peer, now) {
            xds.metrics.stream_refused("credential");
            self.connection.end(Cause::Credential);
            return Err(Status::permission_denied(REFUSED));
        }
        let (outbox, body) = responses::pair(variant, Arc::clone(&registration.stream.share));
        let requests = Requests::new(request.into_body(), registration.stream.share.charge());
        let (deadline, by_certificate) = deadline(xds.max_age, now, peer.not_after);
        let task =
            Task::new(Arc::clone(xds), registration, variant, outbox, deadline, by_certificate);
        tokio::spawn(task.run(requests));
        Ok(body)
    }
}

/// When a stream that opens now must end: at its maximum age less up to a fifth, or with its certificate (then `true`).
fn deadline(max_age: Duration, now: i64, not_after: i64) -> (Instant, bool) {
    let age = max_age.mul_f64(1.0 - 0.2 * fastrand::f64());
    let certificate = Duration::from_secs(u64::try_from(not_after - now).unwrap_or(0));
    (Instant::now() + age.min(certificate), certificate < age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_service_of_its_own_in_both_variants() {
        let of = |path: &str| asked(path);
        assert_eq!(
            of("/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"),
            Some(Asked::Stream(Variant::Delta, None))
        );
        assert_eq!(
            of("/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"),
            Some(Asked::Stream(Variant::StateOfTheWorld, None))
        );
        let secrets = "/envoy.service.secret.v3.SecretDiscoveryService";
        assert_eq!(
            of(&format!("{secrets}/DeltaSecrets")),
            Some(Asked::Stream(Variant::Delta, Some(ResourceType::Secret)))
        );
        assert_eq!(
            of(&format!("{secrets}/StreamSecrets")),
            Some(Asked::Stream(Variant::StateOfTheWorld, Some(ResourceType::Secret)))
        );
        assert_eq!(of(&format!("{secrets}/FetchSecrets")), Some(Asked::Fetch));
        assert!(of("/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners").is_some());
        for path in [
            "/",
            "",
            "/x/DeltaSecrets",
            &format!("{secrets}/DeltaClusters"),
            &format!("{secrets}/"),
            &secrets[1..],
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn a_stream_ends_at_its_age_or_with_its_certificate() {
        let age = Duration::from_secs(1000);
        for _ in 0..100 {
            let (end, by_certificate) = deadline(age, 0, 1_000_000);
            let left = end - Instant::now();
            assert!(!by_certificate && left <= age && left > Duration::from_secs(799), "{left:?}");
        }
        let (end, by_certificate) = deadline(age, 100, 160);
        assert!(by_certificate && end - Instant::now() <= Duration::from_secs(60));
        assert!(deadline(age, 100, 50).0 <= Instant::now());
    }
}
