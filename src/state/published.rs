//! The engine's latest result, as people, DNS and metrics read it. The xDS resources of each node
//! are in [`super::Nodes`].

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use atlas_core::manifest::ManifestError;
use atlas_core::model::Fleet;
use atlas_core::name::NodeId;
use atlas_core::pki::{Authority, Time};
use atlas_core::thanos::zone::{Zone, zone};
use atlas_core::validate::{Finding, Severity};

use crate::pki::Expiries;
use crate::process::lock::{read, write};

/// The state that is in force.
#[derive(Clone, Debug)]
pub struct PublishedState {
    /// The clusters and Alertmanagers that are served.
    pub fleet: Fleet,
    /// What people should know about their objects.
    pub findings: Vec<Finding>,
    /// Files that can't be read.
    pub errors: Vec<ManifestError>,
    /// When the certificates of each node expire.
    pub expiries: BTreeMap<NodeId, Expiries>,
    /// When the certificate of each authority expires.
    pub authorities: BTreeMap<Authority, Time>,
    /// When Atlas's own certificate expires.
    pub own_expiry: Option<Time>,
    /// The version of the DNS zone of `fleet`.
    pub zone: ZoneVersion,
    /// What failed for single nodes, certificates or files while everything else was applied; and
    /// what people must know of the root certificate and the clock.
    pub problems: Vec<String>,
    /// Why the latest reconcile failed. Everything else here is the result of the last one that
    /// succeeded.
    pub last_error: Option<String>,
}

/// Identifies the content of a DNS zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneVersion {
    /// The version of the stores from which the records are made
    /// ([`Stores::version`](atlas_core::thanos::stores::Stores::version)).
    pub records: u64,
    /// The serial number of the SOA record.
    pub serial: u32,
}

/// Returns the DNS zone and its version, if it is another version than the given one.
pub type ZoneSource = Arc<dyn Fn(Option<ZoneVersion>) -> Option<(ZoneVersion, Zone)> + Send + Sync>;

impl PublishedState {
    /// A state with this fleet and nothing else.
    pub fn new(fleet: Fleet) -> Self {
        Self {
            fleet,
            findings: Vec::new(),
            errors: Vec::new(),
            expiries: BTreeMap::new(),
            authorities: BTreeMap::new(),
            own_expiry: None,
            zone: ZoneVersion::default(),
            problems: Vec::new(),
            last_error: None,
        }
    }

    /// The number of files that can't be read and of findings by which something is rejected.
    pub fn rejected(&self) -> usize {
        let is_rejected = |finding: &&Finding| finding.severity == Severity::Rejected;
        self.errors.len() + self.findings.iter().filter(is_rejected).count()
    }
}

/// Holds the [`PublishedState`]. The engine changes it in place; every server reads it.
#[derive(Default)]
pub struct StateStore {
    published: RwLock<Option<PublishedState>>,
    leader: RwLock<Option<String>>,
}

impl StateStore {
    /// Calls `read_state` with the state; with `None` before the first complete reconcile.
    pub fn read<R>(&self, read_state: impl FnOnce(Option<&PublishedState>) -> R) -> R {
        read_state(read(&self.published).as_ref())
    }

    /// Whether there has been a complete reconcile.
    pub fn is_ready(&self) -> bool {
        self.read(|published| published.is_some())
    }

    /// The DNS zone, as the DNS server asks for it. The zone is made when it is asked for.
    pub fn zone_source(self: &Arc<Self>) -> ZoneSource {
        let state_store = Arc::clone(self);
        Arc::new(move |known_version| {
            state_store.read(|published| {
                let published = published?;
                if known_version == Some(published.zone) {
                    return None;
                }
                Some((published.zone, zone(&published.fleet, published.zone.serial)))
            })
        })
    }

    /// The name of the process that leads. `None` where there is no election (standalone); empty
    /// while no process leads.
    pub fn leader(&self) -> Option<String> {
        read(&self.leader).clone()
    }

    /// Notes which process leads.
    pub fn set_leader(&self, leader: Option<String>) {
        *write(&self.leader) = leader;
    }

    /// Changes the state.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Option<PublishedState>) -> R) -> R {
        change(&mut write(&self.published))
    }
}
