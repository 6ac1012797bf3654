//! What the standalone mode writes into its state directory for others: Envoys' bootstrap files,
//! and what Thanos Query and DNS servers read.

use std::path::PathBuf;

use anyhow::Context;
use atlas_core::name::NodeId;
use atlas_core::thanos::stores::Stores;
use atlas_core::thanos::zone::ZoneFileVersion;

use super::bootstrap_files::NodeFiles;
use super::pki_directory::PkiDirectory;
use super::state_dir::{StateDir, write_derived, write_public};
use crate::engine::provider::Outputs;
use crate::process::clock;

/// The DNS zone, in the state directory.
const ZONE_FILE: &str = "atlas.zone";
/// Thanos Query's endpoints.
const ENDPOINTS_FILE: &str = "endpoints.yaml";

/// Writes them.
pub struct OutputFiles {
    state: StateDir,
    /// Where what Thanos and CoreDNS read is written too, readable by everyone.
    public_dir: Option<PathBuf>,
    node_files: NodeFiles,
    /// The DNS zone's file, as it was last written.
    zone: Option<ZoneFileVersion>,
}

impl OutputFiles {
    /// Nothing has been written yet.
    pub fn new(state: StateDir, public_dir: Option<PathBuf>) -> Self {
        Self { node_files: NodeFiles::new(state.clone()), state, public_dir, zone: None }
    }

    /// The serial number of the zone as it was last written.
    pub fn zone_serial(&self) -> u32 {
        self.zone.map_or(0, |zone| zone.serial)
    }

    /// Brings them up to date. Returns what couldn't be written; all the rest was.
    pub fn write(&mut self, outputs: &Outputs<'_, PkiDirectory>) -> Vec<String> {
        let mut failed = Vec::new();
        if outputs.full
            && let Err(error) = self.state.keep_private()
        {
            failed.push(format!("{error:#}"));
        }
        if outputs.full || outputs.stores_differ {
            failed.append(&mut self.write_stores(outputs));
        }
        for node in self.nodes(outputs) {
            let Some(credential) = outputs.pki.bootstrap_credential(&node) else { continue };
            let fleet = outputs.manifests.fleet();
            let written = self
                .node_files
                .write(fleet, outputs.trust, &node, &credential)
                .with_context(|| format!("the files that the Envoy of {node} starts from"));
            failed.extend(written.err().map(|error| format!("{error:#}")));
        }
        failed
    }

    /// What Thanos Query and DNS servers read.
    fn write_stores(&mut self, outputs: &Outputs<'_, PkiDirectory>) -> Vec<String> {
        let (stores, settings): (&Stores, _) =
            (outputs.stores, &outputs.manifests.fleet().settings);
        // Before anything was written, the file of an earlier process counts: its serial number
        // must not fall.
        let before = self.zone.or_else(|| {
            ZoneFileVersion::of(&std::fs::read_to_string(self.state.path(ZONE_FILE)).ok()?)
        });
        let zone = ZoneFileVersion::next_file(before, clock::now(), |serial| {
            stores.zone_file(settings, serial)
        });
        self.zone = ZoneFileVersion::of(&zone);
        let mut results = Vec::new();
        for (file, text) in [(ENDPOINTS_FILE, stores.endpoints()), (ZONE_FILE, zone)] {
            // Known to differ, they needn't be compared with what is there: with many clusters they
            // are long.
            results.push(if outputs.stores_differ {
                write_derived(&self.state.path(file), &text)
            } else {
                self.state.write(file, &text).map(drop)
            });
            if let Some(dir) = &self.public_dir {
                results.push(write_public(&dir.join(file), &text));
            }
        }
        results.into_iter().filter_map(|result| Some(format!("{:#}", result.err()?))).collect()
    }

    /// The nodes whose files may differ or, where everything is looked at, are missing.
    fn nodes(&self, outputs: &Outputs<'_, PkiDirectory>) -> Vec<NodeId> {
        let fleet = outputs.manifests.fleet();
        let mut nodes = Vec::new();
        if outputs.all || outputs.full {
            for name in fleet.clusters.keys() {
                let node = NodeId::Cluster(name.clone());
                let may_differ = outputs.all || outputs.clusters.contains(name);
                if may_differ || self.node_files.are_missing(&node) {
                    nodes.push(node);
                }
            }
        } else {
            let there = outputs.clusters.iter().filter(|name| fleet.clusters.contains_key(*name));
            nodes.extend(there.cloned().map(NodeId::Cluster));
        }
        let is_missing = outputs.full && self.node_files.are_missing(&NodeId::Hub);
        if outputs.all || outputs.hub || is_missing {
            nodes.push(NodeId::Hub);
        }
        nodes
    }
}
