//! Maps the paths of HTTP/2 requests to xDS methods, and opens streams.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;

use atlas_core::xds::messages::Variant;
use atlas_core::xds::resource::ResourceType;
use atlas_core::xds::session::Session;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::Service;
use hyper::{Request, Response, StatusCode};
use tonic::Status;

use super::connection::{CloseReason, Connection};
use super::request_reader::RequestReader;
use super::response_body::{self, ResponseBody};
use super::server::XdsServer;
use super::stream::{Deadline, StreamTask};
use super::stream_end::CREDENTIAL_NOT_ACCEPTED;
use crate::process::clock;

/// A method of an xDS service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// A stream: of one type, or of all types (ADS).
    Stream(Variant, Option<ResourceType>),
    /// A single response without a stream.
    Fetch,
}

/// The services: name, suffix of the names of its methods, and type (`None`: all types).
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

/// The method with this path; `None`: Atlas has none.
fn method_of(path: &str) -> Option<Method> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (_, suffix, only) = SERVICES.iter().find(|(name, ..)| *name == service)?;
    match method.strip_suffix(suffix)? {
        "Stream" => Some(Method::Stream(Variant::StateOfTheWorld, *only)),
        "Delta" => Some(Method::Stream(Variant::Delta, *only)),
        "Fetch" if only.is_some() => Some(Method::Fetch),
        _ => None,
    }
}

/// Handles the requests of one connection.
pub struct ConnectionService {
    pub server: Arc<XdsServer>,
    pub connection: Arc<Connection>,
}

impl Service<Request<Incoming>> for ConnectionService {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        ready(Ok(self.respond(request)))
    }
}

impl ConnectionService {
    fn respond(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        if request.method() != hyper::Method::POST
            || !request.headers().get(CONTENT_TYPE).is_some_and(is_grpc)
        {
            let mut response = Response::new(ResponseBody::default());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return response;
        }
        let path = request.uri().path().to_owned();
        let opened = match method_of(&path) {
            Some(Method::Stream(variant, only)) => self.open_stream(request, variant, only),
            Some(Method::Fetch) => Err(Status::unimplemented(
                "Atlas has streams only: set api_type to DELTA_GRPC or GRPC, as `atlas bootstrap` \
                 writes it",
            )),
            None => Err(Status::unimplemented(
                "Atlas serves aggregated discovery, and secrets, clusters, endpoints, listeners \
                 and routes by services of their own",
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

    fn open_stream(
        &self,
        request: Request<Incoming>,
        variant: Variant,
        only: Option<ResourceType>,
    ) -> Result<ResponseBody, Status> {
        let server = &self.server;
        let client = &self.connection.client;
        let now = clock::now();
        let session = Session::new(variant, only).with_limits(server.limits.session(&client.node));
        let cancel = server.drain.child_token();
        let registered = server.streams.add_stream(&self.connection, session, now, cancel);
        // Asked after the stream has been registered: if the credential is revoked from now on, the
        // stream is found in the registry and ended.
        if !server.client_authorizer.still_allows(client, now) {
            server.metrics.stream_refused("credential");
            self.connection.close(CloseReason::Credential);
            return Err(Status::permission_denied(CREDENTIAL_NOT_ACCEPTED));
        }
        let memory = &registered.stream.memory;
        let requests = RequestReader::new(request.into_body(), memory.reservation());
        let (responses, body) = response_body::channel(variant, Arc::clone(memory));
        let deadline = Deadline::new(server.max_stream_age, now, client.not_after);
        let task = StreamTask::new(Arc::clone(server), registered, variant, responses, deadline);
        tokio::spawn(task.run(requests));
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_own_service_in_both_variants() {
        assert_eq!(
            method_of(
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
            ),
            Some(Method::Stream(Variant::Delta, None))
        );
        assert_eq!(
            method_of(
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
            ),
            Some(Method::Stream(Variant::StateOfTheWorld, None))
        );
        let secrets = "/envoy.service.secret.v3.SecretDiscoveryService";
        assert_eq!(
            method_of(&format!("{secrets}/DeltaSecrets")),
            Some(Method::Stream(Variant::Delta, Some(ResourceType::Secret)))
        );
        assert_eq!(
            method_of(&format!("{secrets}/StreamSecrets")),
            Some(Method::Stream(Variant::StateOfTheWorld, Some(ResourceType::Secret)))
        );
        assert_eq!(method_of(&format!("{secrets}/FetchSecrets")), Some(Method::Fetch));
        assert!(
            method_of("/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners")
                .is_some()
        );
        for path in [
            "/",
            "",
            "/x/DeltaSecrets",
            &format!("{secrets}/DeltaClusters"),
            &format!("{secrets}/"),
            &secrets[1..],
        ] {
            assert_eq!(method_of(path), None, "{path}");
        }
    }
}
