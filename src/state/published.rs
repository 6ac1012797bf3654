//! What is in force, as people, DNS and metrics read it. What nodes should have is in [`crate::state`].

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use atlas_core::manifest::ManifestError;
use atlas_core::model::Fleet;
use atlas_core::name::NodeId;
use atlas_core::pki::{Authority, Time};
use atlas_core::thanos::zone::zone;
use atlas_core::validate::{Finding, Severity};

use crate::dns::{ZoneVersion, Zones};
use crate::pki::Expiries;
use crate::process::lock::{read, write};

/// The result of the controller's rounds so far.
#[derive(Clone, Debug)]
pub struct PublishedState {
    /// What was understood.
    pub fleet: Fleet,
    /// What people should know about their objects.
    pub findings: Vec<Finding>,
    /// Files that can't be read.
    pub errors: Vec<ManifestError>,
    /// When each node's certificates end.
    pub expiries: BTreeMap<NodeId, Expiries>,
    /// When each authority's ends.
    pub authorities: BTreeMap<Authority, Time>,
    /// When Atlas's own ends.
    pub own_end: Option<Time>,
    /// The stores by which the DNS zone is made, and its serial number.
    pub zone: ZoneVersion,
    /// What went wrong for one node, certificate or file of the state directory while the others got theirs, and what
    /// people must know of the root and the clock.
    pub problems: Vec<String>,
    /// Why the latest round failed; all the rest is of the last one that succeeded.
    pub last_error: Option<String>,
}

impl PublishedState {
    /// Nothing yet, of this fleet.
    pub fn new(fleet: Fleet) -> Self {
        Self {
            fleet,
            findings: Vec::new(),
            errors: Vec::new(),
            expiries: BTreeMap::new(),
            authorities: BTreeMap::new(),
            own_end: None,
            zone: ZoneVersion::default(),
            problems: Vec::new(),
            last_error: None,
        }
    }

    /// How many things are wrong: files, and objects that are rejected.
    pub fn rejected(&self) -> usize {
        self.errors.len()
            + self.findings.iter().filter(|finding| finding.severity == Severity::Rejected).count()
    }
}

/// Where it is posted: changed in place by the controller, read by everyone.
#[derive(Default)]
pub struct StateStore(RwLock<Option<PublishedState>>);

impl StateStore {
    /// Looks at it; `None` before the first complete round.
    pub fn read<R>(&self, look: impl FnOnce(Option<&PublishedState>) -> R) -> R {
        look(read(&self.0).as_ref())
    }

    /// Whether there has been a complete round.
    pub fn is_ready(&self) -> bool {
        self.read(|published| published.is_some())
    }

    /// The DNS zone, for who knows one already.
    pub fn zones(self: &Arc<Self>) -> Zones {
        let state_store = Arc::clone(self);
        Arc::new(move |known| {
            let other = |published: &&PublishedState| known != Some(published.zone);
            state_store.read(|published| {
                published.filter(other).map(|published| {
                    (published.zone, zone(&published.fleet, published.zone.serial))
                })
            })
        })
    }

    /// Changes it.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Option<PublishedState>) -> R) -> R {
        change(&mut write(&self.0))
    }
}
