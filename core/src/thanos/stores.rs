//! The endpoint file and the zone file, kept up to date cluster by cluster.

use std::collections::BTreeMap;

use super::{endpoints, zone};
use crate::model::{Cluster, Fleet, Settings};
use crate::name::ClusterName;

/// Each cluster's part of both files.
#[derive(Clone, Debug, Default)]
pub struct Stores {
    pieces: BTreeMap<ClusterName, Piece>,
    /// See [`Stores::version`].
    sum: u64,
}

/// One cluster's part of both files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    endpoints: Box<str>,
    zone: Box<str>,
    hash: u64,
}

impl Stores {
    /// No stores.
    pub fn new() -> Self {
        Self::default()
    }

    /// The stores of a fleet.
    pub fn of(fleet: &Fleet) -> Self {
        let mut stores = Self::new();
        stores.update(fleet, fleet.clusters.keys());
        stores
    }

    /// Updates these clusters; returns whether anything changed.
    pub fn update<'a>(
        &mut self,
        fleet: &Fleet,
        clusters: impl IntoIterator<Item = &'a ClusterName>,
    ) -> bool {
        let mut differs = false;
        for name in clusters {
            let piece =
                fleet.clusters.get(name).and_then(|cluster| piece(&fleet.settings, cluster));
            if self.pieces.get(name) == piece.as_ref() {
                continue;
            }
            differs = true;
            let hash = |piece: &Option<Piece>| piece.as_ref().map_or(0, |piece| piece.hash);
            let (new, old) = (hash(&piece), hash(&self.pieces.remove(name)));
            self.sum = self.sum.wrapping_sub(old).wrapping_add(new);
            self.pieces.extend(piece.map(|piece| (name.clone(), piece)));
        }
        differs
    }

    /// Every cluster that has stores in the files.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        self.pieces.keys()
    }

    /// Thanos Query's endpoint SD file.
    pub fn endpoints(&self) -> String {
        let length = self.pieces.values().map(|piece| piece.endpoints.len()).sum();
        endpoints::file(length, self.pieces.values().map(|piece| &*piece.endpoints))
    }

    /// The zone as a master file, for CoreDNS's plugin `file`, BIND and others.
    pub fn zone_file(&self, settings: &Settings, serial: u32) -> String {
        let length = self.pieces.values().map(|piece| piece.zone.len()).sum();
        zone::file(settings, serial, length, self.pieces.values().map(|piece| &*piece.zone))
    }

    /// A number that changes with the zone's content. It is a sum of hashes, so updating it after a
    /// change to one cluster reads no other cluster's records.
    pub fn version(&self) -> u64 {
        self.sum
    }
}

/// `None` for a cluster that awaits its address, see [`endpoints::endpoints`].
fn piece(settings: &Settings, cluster: &Cluster) -> Option<Piece> {
    let records = zone::cluster_records(settings, cluster);
    let zone: String = records.iter().map(|record| format!("{record}\n")).collect();
    let piece = Piece {
        endpoints: endpoints::cluster_lines(settings, cluster).into(),
        hash: zone::hash(&zone),
        zone: zone.into(),
    };
    (!piece.endpoints.is_empty()).then_some(piece)
}
