//! Discovery requests and responses, without what Atlas ignores.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::limits::{LimitExceeded, SessionLimits, memory};
use super::resource::{Resource, Version};

/// The variant of the xDS protocol that a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Incremental ("delta xDS"): a response has what changed, and the names of what was removed.
    Delta,
    /// State of the world ("SotW"): a CDS or LDS response has all resources of its type.
    StateOfTheWorld,
}

/// A `DeltaDiscoveryRequest` or a `DiscoveryRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The resources' type.
    pub type_url: String,
    /// The nonce of the response that this request ACKs or NACKs; empty: none.
    pub nonce: String,
    /// `error_detail.message`: this request is a NACK.
    pub error: Option<String>,
    /// Incremental: `resource_names_subscribe`; `*` is the wildcard.
    pub subscribe: Vec<String>,
    /// Incremental: `resource_names_unsubscribe`.
    pub unsubscribe: Vec<String>,
    /// Incremental: `initial_resource_versions`, name to version. Only on a type's first request of
    /// a stream.
    pub initial_versions: BTreeMap<String, String>,
    /// State of the world: `resource_names`, all names that the client subscribes to.
    pub names: Vec<String>,
    /// State of the world: the last version that the client accepted; empty: none.
    pub version_info: String,
}

impl Request {
    /// Checks what the request contains, whatever the session remembers already.
    pub(super) fn check(&self, limits: &SessionLimits) -> Result<(), LimitExceeded> {
        let lists = [&self.subscribe, &self.unsubscribe, &self.names];
        let versions = self.initial_versions.iter().flat_map(|(name, version)| [name, version]);
        let names = lists.into_iter().flatten();
        let texts = names.clone().chain(versions).chain([&self.type_url, &self.version_info]);
        limits.check_name_length(texts.map(String::len).max().unwrap_or_default())?;
        let longest_list = lists.map(Vec::len).into_iter().max().unwrap_or_default();
        limits.check_total(
            longest_list.max(self.initial_versions.len()),
            names.map(String::len).sum(),
        )
    }
}

/// A `DeltaDiscoveryResponse` or a `DiscoveryResponse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The resources' type.
    pub type_url: Cow<'static, str>,
    /// State of the world: [`version_info`] of the resources. Incremental: empty, since each
    /// resource has a version.
    pub version_info: String,
    /// Unique within the stream.
    pub nonce: String,
    /// New and changed resources; in the state of the world perhaps unchanged ones too.
    pub resources: Vec<Arc<Resource>>,
    /// Incremental: names of resources that don't exist, or no longer.
    pub removed: Vec<Arc<str>>,
}

impl Response {
    /// A response with the `version_info` that its variant has.
    pub(super) fn new(
        variant: Variant,
        type_url: Cow<'static, str>,
        nonce: u64,
        resources: Vec<Arc<Resource>>,
        removed: Vec<Arc<str>>,
    ) -> Self {
        let version_info = match variant {
            Variant::Delta => String::new(),
            Variant::StateOfTheWorld => version_info(&resources),
        };
        Self { type_url, version_info, nonce: nonce.to_string(), resources, removed }
    }

    /// About how many bytes of memory it takes until it has been sent, beside the resources, which
    /// are the snapshot's.
    pub fn queued_bytes(&self) -> usize {
        self.removed.iter().map(|name| memory::NAME + 2 * name.len()).sum()
    }
}

/// The `version_info` of a state-of-the-world response with these resources.
///
/// It is a hash of names and versions, so equal resources have an equal `version_info` on every
/// stream and replica and after a restart. People can compare Envoys by it; Atlas itself reads only
/// whether a client sends one.
pub(super) fn version_info(resources: &[Arc<Resource>]) -> String {
    let text: String = resources
        .iter()
        .map(|resource| format!("{}\n{}\n", resource.version, resource.name))
        .collect();
    Version::of(text.as_bytes()).to_string()
}
