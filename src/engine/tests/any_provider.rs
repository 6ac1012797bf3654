//! What the engine does with what a provider tells it, whatever the mode: a provider without files
//! or an API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atlas_core::annotations;
use atlas_core::manifest::{Manifest, Service};
use atlas_core::model::Settings;
use atlas_core::name::{ClusterName, Identity, NodeId, TrustDomain};
use atlas_core::pki::{Authority, Lifetimes, Time};
use atlas_core::xds::resource::ResourceType;

use crate::engine::last_good::{LastGood, LastGoodManifests};
use crate::engine::provider::{Changes, Outputs, Provider};
use crate::engine::publisher::Publisher;
use crate::engine::reconcile::Reconciler;
use crate::metrics::Metrics;
use crate::pki::{Contents, Pki, PkiStore};
use crate::state::{Nodes, StateStore};
use crate::xds::ClientAuthorizer;
use crate::xds::open_streams::Streams;

/// Saves everything, nowhere.
struct NoStore;

impl PkiStore for NoStore {
    fn load(&mut self, _: &TrustDomain) -> anyhow::Result<Contents> {
        Ok(Contents::default())
    }

    fn save_authority(&mut self, _: &Contents, _: Authority) -> anyhow::Result<()> {
        Ok(())
    }

    fn save_identities(&mut self, _: &Contents, which: &[&Identity]) -> Vec<anyhow::Result<()>> {
        which.iter().map(|_| Ok(())).collect()
    }

    fn save_ledger(&mut self, _: &Contents, _: &BTreeSet<ClusterName>) -> anyhow::Result<()> {
        Ok(())
    }

    fn remove_keys(&mut self, _: &ClusterName) -> anyhow::Result<()> {
        Ok(())
    }

    fn remove_bootstrap(&mut self, _: &ClusterName) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Hands over one change at a time.
#[derive(Default)]
struct OneChange(Arc<std::sync::Mutex<Next>>);

type Edit = Box<dyn FnOnce(&mut Contents) + Send>;

#[derive(Default)]
struct Next {
    changes: Changes,
    /// What somebody else does to the PKI.
    edit: Option<Edit>,
}

impl Provider for OneChange {
    type Store = NoStore;

    async fn changed(&mut self) {}

    async fn take_changes(
        &mut self,
        pki: &mut Pki<NoStore>,
        _: bool,
    ) -> anyhow::Result<Option<Changes>> {
        let mut next = self.0.lock().unwrap();
        if let Some(edit) = next.edit.take() {
            edit(pki.contents_and_store().0);
        }
        let leads = next.changes.leads;
        let changes = std::mem::take(&mut next.changes);
        next.changes.leads = leads;
        Ok(Some(changes))
    }

    fn last_good(&self) -> LastGoodManifests {
        BTreeMap::new()
    }

    fn note_last_good(&mut self, _: &mut Pki<NoStore>, _: &LastGood, _: Option<&BTreeSet<String>>) {
    }

    fn write_last_good(&mut self, _: &mut Pki<NoStore>) -> Vec<String> {
        Vec::new()
    }

    fn write_outputs(&mut self, _: &Outputs<'_, NoStore>) -> Vec<String> {
        Vec::new()
    }

    fn zone_serial(&self) -> u32 {
        0
    }
}

struct World {
    next: Arc<std::sync::Mutex<Next>>,
    nodes: Arc<Nodes>,
    reconciler: Reconciler<OneChange>,
}

impl World {
    /// Leads, with two clusters.
    async fn start() -> Self {
        let (settings, provider) = (Settings::default(), OneChange::default());
        let (next, nodes) = (Arc::clone(&provider.0), Arc::new(Nodes::default()));
        let publisher = Publisher {
            client_authorizer: Arc::new(ClientAuthorizer::new(settings.trust_domain.clone())),
            streams: Arc::new(Streams::default()),
            nodes: Arc::clone(&nodes),
            metrics: Arc::new(Metrics::new()),
            state_store: Arc::new(StateStore::default()),
        };
        let domain = settings.trust_domain.clone();
        let pki = Pki::with(NoStore, domain, Lifetimes::default(), Contents::default());
        let reconciler = Reconciler::new(settings, provider, pki, publisher);
        let mut world = Self { next, nodes, reconciler };
        world.change(|next| {
            next.changes.leads = true;
            next.changes.manifests = ["tokyo", "osaka"].map(service).into();
        });
        assert_eq!(world.reconcile().await, Some(2));
        world
    }

    fn change(&self, change: impl FnOnce(&mut Next)) {
        change(&mut self.next.lock().unwrap());
    }

    /// How many clusters were planned; `None`: it failed.
    async fn reconcile(&mut self) -> Option<usize> {
        Some(self.reconciler.reconcile().await.ok()?.unwrap().planned)
    }
}

fn service(name: &str) -> (atlas_core::manifest::ManifestKey, Option<Arc<Manifest>>) {
    let mut service = Service::default();
    service.meta.name = name.into();
    service.meta.labels = [(annotations::CLUSTER, "true"), (annotations::REPLICAS, "2")]
        .map(|(key, value)| (key.into(), value.into()))
        .into();
    service.external_ips = vec!["10.0.0.1".into()];
    let manifest = Manifest::Service(service);
    (manifest.key(), Some(Arc::new(manifest)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_no_longer_leads_waits_for_no_due_time() {
    let mut world = World::start().await;
    let leader = world.reconciler.reconcile().await.unwrap().unwrap();
    assert!(leader.next_due < Time::MAX);
    world.change(|next| next.changes.leads = false);
    let follower = world.reconciler.reconcile().await.unwrap().unwrap();
    assert_eq!(follower.next_due, Time::MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_is_planned_for_everybody() {
    let mut world = World::start().await;
    assert_eq!(world.reconcile().await, Some(0));
    world.change(|next| {
        next.edit = Some(Box::new(|contents| {
            // A root that is written otherwise is another one as far as Envoys' resources go.
            let root = contents.authorities.get_mut(&Authority::Root).unwrap();
            root.chain = format!("# another\n{}", root.chain);
        }));
    });
    assert_eq!(world.reconcile().await, Some(2));
    let tokyo = world.nodes.get(&"tokyo".parse().unwrap()).unwrap();
    let trust = {
        let resources = tokyo.resources();
        let name = atlas_core::envoy::secret::TRUST;
        resources.snapshot.get(ResourceType::Secret, name).cloned().unwrap()
    };
    assert!(String::from_utf8_lossy(trust.wire()).contains("# another"));
    assert_eq!(world.reconcile().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_goes_while_a_reconcile_fails_is_gone_after_the_next() {
    let mut world = World::start().await;
    let (key, _) = service("tokyo");
    let saved = Arc::new(std::sync::Mutex::new(None));
    let own = Arc::clone(&saved);
    world.change(|next| {
        next.changes.manifests = vec![(key, None)];
        next.edit = Some(Box::new(move |contents| {
            // Atlas's own certificate with another's key can't be installed.
            let hub = contents.identities[&Identity::Hub].clone();
            let atlas = contents.identities.get_mut(&Identity::Atlas).unwrap();
            *own.lock().unwrap() = Some(atlas.clone());
            atlas.key = hub.key;
            atlas.chain = format!("# broken\n{}", atlas.chain);
        }));
    });
    assert_eq!(world.reconcile().await, None);
    world.change(|next| {
        next.edit = Some(Box::new(move |contents| {
            let atlas = saved.lock().unwrap().take().unwrap();
            contents.identities.insert(Identity::Atlas, atlas);
        }));
    });
    assert_eq!(world.reconcile().await, Some(1));
    assert_eq!(world.nodes.ids(), [NodeId::Hub, "osaka".parse().unwrap()]);
}
