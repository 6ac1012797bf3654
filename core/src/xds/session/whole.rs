//! What is peculiar to the state of the world.
//!
//! - **Envoy clusters and listeners** are told all at once, and what a response lacks is gone. So each response repeats what stays;
//!   also what is going, until nothing is under way; and what the client had before a version that was refused. Such a response
//!   is of any size.
//!   Where the first ones of a stream are refused, the last one says what is left, since the client may have more from before.
//! - **Other types** are told in part, as the protocol allows: what is new or changed. Nothing can be taken away there; the client
//!   drops what it names no longer.
//! - **The version** of a response is a hash of the names and versions in it. A counter would begin anew with each stream and process,
//!   and say of the same state something else each time; this is equal where the state is, for whoever compares Envoys.
//!   Atlas itself never relies on what a client returns, but for whether it returns one.
//! - **After a reconnect** everything is sent again, since the client can't say what it has; nor can anything be
//!   [held](super::Session::hold) for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Variant;
use super::held::Held;
use super::news::View;
use super::subscription::Subscription;
use crate::xds::snapshot::{Resource, ResourceType, Version};

impl Subscription {
    /// Whether a response must repeat all that the client is to keep.
    pub(super) fn is_whole(&self, view: &View) -> bool {
        view.variant == Variant::StateOfTheWorld
            && matches!(self.kind, ResourceType::Cluster | ResourceType::Listener)
    }

    /// All that the client is to have: what it was sent, and what it had before suspects that are still to be tried.
    pub(super) fn whole(&self) -> Vec<Arc<Resource>> {
        let had = self
            .suspects
            .iter()
            .flatten()
            .filter(|suspect| self.wants(&suspect.name))
            .filter_map(|suspect| suspect.before.as_ref());
        let all = had.chain(self.held.iter()).filter_map(Held::resource);
        let all: BTreeMap<&Arc<str>, &Arc<Resource>> =
            all.map(|resource| (&resource.name, resource)).collect();
        all.into_values().cloned().collect()
    }
}

/// The `version_info` of a response.
pub(super) fn version(resources: &[Arc<Resource>]) -> String {
    let text: String = resources
        .iter()
        .map(|resource| format!("{}\n{}\n", resource.version, resource.name))
        .collect();
    Version::of(text.as_bytes()).to_string()
}
