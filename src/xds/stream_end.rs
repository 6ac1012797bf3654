//! Why streams end: the label of the metric, and the gRPC status that the client gets.

use atlas_core::name::NodeId;
use atlas_core::xds::limits::LimitExceeded;
use tonic::Status;

/// The message to a client whose credential was accepted when it connected, and no longer is.
pub const CREDENTIAL_NOT_ACCEPTED: &str = "this credential no longer counts: carry the new ones \
    to its Envoy (`atlas bootstrap`, `atlas cluster-values`)";

/// Why a stream ends.
pub enum StreamEnd {
    /// The client has ended it.
    Client,
    /// The connection has broken.
    ConnectionLost(String),
    /// Another connection has replaced the stream's.
    Replaced,
    /// It has reached its maximum age.
    Age,
    /// The client's certificate has expired.
    Certificate,
    /// Atlas stops.
    Stopping,
    /// The client's credential is no longer accepted.
    Credential,
    /// The node has been removed.
    NodeRemoved(NodeId),
    /// The client doesn't read its responses.
    NotReading,
    /// The client subscribes to more than the session's limits allow.
    SessionLimit(LimitExceeded),
    /// A request is too large.
    RequestTooLarge(Status),
    /// The memory budget of the node is exhausted, and this stream used most of it.
    OutOfMemory,
    /// The client violates the protocol.
    Malformed(Status),
}

impl StreamEnd {
    /// The value of the metric's label.
    pub fn metric_label(&self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::ConnectionLost(_) => "lost",
            Self::Replaced => "replaced",
            Self::Age => "age",
            Self::Certificate => "certificate",
            Self::Stopping => "stopping",
            Self::Credential => "credential",
            Self::NodeRemoved(_) => "removed",
            Self::NotReading => "slow",
            Self::SessionLimit(_) => "names",
            Self::RequestTooLarge(_) => "request_bytes",
            Self::OutOfMemory => "memory",
            Self::Malformed(_) => "nonsense",
        }
    }

    /// The status for the client; its message is also logged.
    pub fn status(self) -> Status {
        match self {
            Self::Client => Status::ok("the client ended it"),
            Self::ConnectionLost(why) => Status::ok(format!("connection lost: {why}")),
            Self::Replaced => Status::ok("another connection of its node took its place"),
            Self::Age => Status::unavailable("this stream has reached its age; come back"),
            Self::Certificate => Status::unavailable(
                "the certificate of this connection ends; come back with a new one",
            ),
            Self::Stopping => Status::unavailable("Atlas is stopping; come back"),
            Self::Credential => Status::permission_denied(CREDENTIAL_NOT_ACCEPTED),
            Self::NodeRemoved(node) => Status::not_found(format!("the manifest of {node} is gone")),
            Self::NotReading => {
                Status::resource_exhausted("this client doesn't read its responses")
            }
            Self::SessionLimit(exceeded) => Status::resource_exhausted(exceeded.to_string()),
            Self::OutOfMemory => Status::resource_exhausted(
                "the streams of this node ask for more names, or larger requests, than all of \
                 them together may; this one for most",
            ),
            Self::RequestTooLarge(status) | Self::Malformed(status) => status,
        }
    }
}
