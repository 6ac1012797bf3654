//! What a change costs on the wire in the standalone mode.

use std::path::PathBuf;

use atlas_core::model::Settings;
use atlas_core::pki::Lifetimes;
use tempfile::TempDir;

use super::*;
use crate::engine::publisher::Publisher;
use crate::engine::reconcile::Reconciler;
use crate::engine::tests::{self, ClusterManifest, TestAtlas};
use crate::metrics::Metrics;
use crate::standalone::state_dir::{Lock, StateDir};
use crate::standalone::watch::read_index;
use crate::state::{Nodes, StateStore};
use crate::xds::ClientAuthorizer;
use crate::xds::open_streams::Streams;

/// A standalone Atlas without its servers.
struct Standalone {
    directory: TempDir,
    state: TempDir,
    lifetimes: Lifetimes,
    updates: Arc<UpdateQueue>,
    nodes: Arc<Nodes>,
    reconciler: Reconciler<DirectoryProvider>,
    _lock: Lock,
}

impl Standalone {
    async fn start_in(directory: TempDir, state: TempDir, lifetimes: Lifetimes) -> Self {
        let mut atlas = Self::new(directory, state, lifetimes);
        let everything = read_index(atlas.directory.path()).unwrap().1;
        atlas.reconcile(everything).await;
        atlas
    }

    /// Has read no manifest yet.
    fn new(directory: TempDir, state: TempDir, lifetimes: Lifetimes) -> Self {
        let state_dir = StateDir::at(state.path()).unwrap();
        let lock = state_dir.lock().unwrap();
        let settings = Settings::default();
        let store = PkiDirectory::new(state_dir.clone());
        let pki = Pki::load(store, settings.trust_domain.clone(), lifetimes).unwrap();
        let nodes = Arc::new(Nodes::default());
        let publisher = Publisher {
            client_authorizer: Arc::new(ClientAuthorizer::new(settings.trust_domain.clone())),
            streams: Arc::new(Streams::default()),
            nodes: Arc::clone(&nodes),
            metrics: Arc::new(Metrics::new()),
            state_store: Arc::new(StateStore::default()),
        };
        let updates = Arc::new(UpdateQueue::default());
        let last_good = LastGoodFiles::load(state_dir.clone());
        let outputs = OutputFiles::new(state_dir, None);
        let provider = DirectoryProvider::new(Arc::clone(&updates), last_good, outputs);
        let reconciler = Reconciler::new(settings, provider, pki, publisher);
        Self { directory, state, lifetimes, updates, nodes, reconciler, _lock: lock }
    }

    fn file(&self, cluster: &str) -> PathBuf {
        self.directory.path().join(format!("{cluster}.yaml"))
    }

    /// A reconcile about an update; returns how many clusters were planned.
    async fn reconcile(&mut self, update: DirectoryUpdate) -> usize {
        self.updates.push(update);
        let reconciled = self.reconciler.reconcile().await.unwrap().unwrap();
        assert!(reconciled.complete, "nothing failed");
        reconciled.planned
    }

    /// As if this cluster's file alone had been written or deleted.
    async fn reconcile_file(&mut self, cluster: &str) -> usize {
        let file = format!("{cluster}.yaml");
        let state = read_index(self.directory.path()).unwrap().1.files.remove(&file).flatten();
        self.reconcile(DirectoryUpdate { files: [(file, state)].into(), directories: None }).await
    }
}

fn text(manifest: &ClusterManifest) -> String {
    let ClusterManifest { name, address, comment } = manifest;
    let labels = "{goatlas.io/cluster: \"true\", goatlas.io/replicas: \"2\"}";
    format!(
        "# {comment}\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, labels: {labels}}}\n\
         spec: {{externalIPs: [{address}]}}\n"
    )
}

impl TestAtlas for Standalone {
    async fn start(manifests: &[ClusterManifest], lifetimes: Lifetimes) -> Self {
        let (directory, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for manifest in manifests {
            let file = directory.path().join(format!("{}.yaml", manifest.name));
            std::fs::write(file, text(manifest)).unwrap();
        }
        Self::start_in(directory, state, lifetimes).await
    }

    async fn restart(self) -> Self {
        let Self { directory, state, lifetimes, reconciler, _lock, .. } = self;
        drop((reconciler, _lock));
        Self::start_in(directory, state, lifetimes).await
    }

    async fn write(&mut self, manifest: &ClusterManifest) -> usize {
        std::fs::write(self.file(&manifest.name), text(manifest)).unwrap();
        self.reconcile_file(&manifest.name).await
    }

    async fn remove(&mut self, cluster: &str) -> usize {
        std::fs::remove_file(self.file(cluster)).unwrap();
        self.reconcile_file(cluster).await
    }

    fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    fn issuing_authority(&self) -> Vec<u8> {
        std::fs::read(self.state.path().join("pki/issuing.pem")).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_change_sends_does_not_grow_with_the_fleet() {
    tests::what_a_change_sends_does_not_grow_with_the_fleet::<Standalone>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_due_with_a_change_costs_other_clusters_nothing() {
    tests::an_authority_due_with_a_change_costs_other_clusters_nothing::<Standalone>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_cluster_can_be_removed_while_its_manifest_is_missing() {
    let manifest = ClusterManifest {
        name: "tokyo".into(),
        address: "10.0.0.1".into(),
        comment: String::new(),
    };
    let atlas = Standalone::start(&[manifest], Lifetimes::default()).await;
    std::fs::remove_file(atlas.file("tokyo")).unwrap();
    let Standalone { directory, state, lifetimes, reconciler, _lock, .. } = atlas;
    drop((reconciler, _lock));
    let mut atlas = Standalone::new(directory, state, lifetimes);
    atlas.updates.push(read_index(atlas.directory.path()).unwrap().1);
    let error = atlas.reconciler.reconcile().await.unwrap_err();
    assert!(error.to_string().contains("there is not one manifest"), "{error}");
    atlas.reconciler.forget("tokyo".parse().unwrap()).unwrap();
    assert!(atlas.reconciler.reconcile().await.unwrap().unwrap().complete);
    assert_eq!(atlas.nodes.ids(), [atlas_core::name::NodeId::Hub]);
}
