//! What a change costs a leader, and on the wire: the real engine and provider, watches that are
//! fed by hand, and an API server in memory.

mod api_server;

use std::time::Instant;

use atlas_core::annotations;
use atlas_core::kubernetes::lease::LeaseTiming;
use atlas_core::pki::Lifetimes;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::publisher::Publisher;
use crate::engine::reconcile::{Reconciled, Reconciler};
use crate::engine::tests::{self, ClusterManifest, TestAtlas};
use crate::kube::convert;
use crate::kube::pki_secret::StoredSecret;
use crate::pki::Contents;
use crate::state::{Nodes, StateStore};
use crate::xds::ClientAuthorizer;
use crate::xds::open_streams::Streams;
use api_server::ApiServer;

/// The size for which the counts hold: decision 17.
const CLUSTERS: usize = 1000;
const SECRETS: &str = "/api/v1/namespaces/monitoring/secrets/";

/// A leader without its servers.
struct Leader {
    server: Arc<ApiServer>,
    watches: Watches,
    work: Arc<WorkCounts>,
    reconciler: Reconciler<KubernetesProvider>,
    settings: Settings,
    nodes: Arc<Nodes>,
    lifetimes: Lifetimes,
    election: JoinHandle<()>,
    stop: CancellationToken,
}

/// What one reconcile did.
#[derive(Debug, PartialEq, Eq)]
struct Work {
    planned: usize,
    secrets_compared: usize,
    secrets_read: usize,
    secrets_written: usize,
    objects_made: usize,
    objects_sent: usize,
}

impl Leader {
    /// Begins to lead, and knows no object yet.
    async fn lead(server: Arc<ApiServer>, lifetimes: Lifetimes) -> Self {
        let settings = Settings::default();
        let candidate = Candidate::new("atlas-0", LeaseTiming::default());
        let stop = CancellationToken::new();
        let election = tokio::spawn(Arc::clone(&candidate).run(
            server.client(),
            "monitoring".into(),
            "atlas".into(),
            LeaseTiming::default(),
            false,
            stop.clone(),
        ));
        let began = Instant::now();
        while candidate.leads().is_none() {
            assert!(began.elapsed() < Duration::from_secs(20), "nobody else wants to lead");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let watches = Watches::default();
        let metrics = Arc::new(Metrics::new());
        let (events, mut received) = mpsc::channel(256);
        tokio::spawn(async move { while received.recv().await.is_some() {} });
        let provider = KubernetesProvider::new(
            settings.clone(),
            server.client(),
            candidate,
            watches.clone(),
            Arc::clone(&metrics),
            events,
            None,
        );
        let work = Arc::clone(&provider.work);
        let nodes = Arc::new(Nodes::default());
        let publisher = Publisher {
            client_authorizer: Arc::new(ClientAuthorizer::new(settings.trust_domain.clone())),
            streams: Arc::new(Streams::default()),
            nodes: Arc::clone(&nodes),
            metrics,
            state_store: Arc::new(StateStore::default()),
        };
        let pki = Pki::with(
            SecretStore::default(),
            settings.trust_domain.clone(),
            lifetimes,
            Contents::default(),
        );
        let mut reconciler = Reconciler::new(settings.clone(), provider, pki, publisher);
        assert!(reconciler.reconcile().await.unwrap().is_none(), "nothing is known yet");
        Self { server, watches, work, reconciler, settings, nodes, lifetimes, election, stop }
    }

    /// Shows these Services and all Secrets, as the first lists of a watch do.
    fn show_everything(&self, services: impl IntoIterator<Item = Manifest>) {
        let named = |service: Manifest| (service.meta().name.clone(), service);
        self.watches.clusters.replace(services.into_iter().map(named).collect());
        self.watches.alertmanagers.replace(BTreeMap::new());
        self.watches.endpoint_slices.replace(BTreeMap::new());
        self.watches.zone.replace(BTreeMap::new());
        self.show_secrets();
    }

    /// Shows the Secrets as they are, as a watch does.
    fn show_secrets(&self) {
        let read = |object: Value| {
            let is_watched = object["metadata"]["labels"]["goatlas.io/part"] == "pki";
            let name = object["metadata"]["name"].as_str()?.to_owned();
            let secret = serde_json::from_value(object).ok().filter(|_| is_watched)?;
            Some((name, StoredSecret::read(secret, &self.settings.trust_domain)))
        };
        self.watches
            .secrets
            .replace(self.server.objects(SECRETS).into_iter().filter_map(read).collect());
    }

    async fn reconcile(&mut self) -> Work {
        let (work, server) = (Arc::clone(&self.work), Arc::clone(&self.server));
        let counts = || {
            [
                work.secrets_compared.load(Ordering::Relaxed),
                server.requests("GET pki secrets"),
                server.requests("POST pki secrets") + server.requests("PATCH pki secrets"),
                work.objects_made.load(Ordering::Relaxed),
                work.objects_sent.load(Ordering::Relaxed),
            ]
        };
        let before = counts();
        let Reconciled { complete, planned, .. } =
            self.reconciler.reconcile().await.unwrap().unwrap();
        assert!(complete, "nothing failed");
        let after = counts();
        let [secrets_compared, secrets_read, secrets_written, objects_made, objects_sent] =
            std::array::from_fn(|n| after[n] - before[n]);
        Work {
            planned,
            secrets_compared,
            secrets_read,
            secrets_written,
            objects_made,
            objects_sent,
        }
    }

    /// Reconciles, and again when the watch shows the Secrets that this has written. Returns how
    /// many clusters were planned.
    async fn follow_own_writes(&mut self) -> usize {
        let first = self.reconcile().await;
        self.show_secrets();
        let second = self.reconcile().await;
        first.planned + second.planned
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A cluster's Service, as a watch shows it.
fn service(name: &str, address: &str, comment: &str) -> Manifest {
    let service = json!({
        "metadata": {
            "name": name,
            "namespace": "monitoring",
            "uid": format!("uid of {name}"),
            "labels": {annotations::CLUSTER: "true", annotations::REPLICAS: "2"},
            "annotations": {"comment": comment},
        },
        "spec": {"externalIPs": [address]},
    });
    convert::service(serde_json::from_value(service).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_costs_a_leader_what_it_concerns() {
    let mut leader = Leader::lead(Arc::default(), Lifetimes::default()).await;
    let address = |n: usize| format!("10.{}.{}.1", n / 250, n % 250);
    leader.show_everything((0..CLUSTERS).map(|n| service(&format!("c{n}"), &address(n), "")));
    let first = leader.reconcile().await;
    assert_eq!((first.planned, leader.nodes.ids().len()), (CLUSTERS, CLUSTERS + 1));
    assert!(first.objects_sent > 2 * CLUSTERS, "{first:?}");
    leader.show_secrets();
    let echo = leader.reconcile().await;
    assert_eq!((echo.planned, echo.secrets_read, echo.objects_made), (0, 0, 0), "{echo:?}");

    // One more: its own objects, and the hub's, since the zone and the endpoints have all stores.
    leader.watches.clusters.apply("one-more".into(), Some(service("one-more", "10.99.0.1", "")));
    let added = leader.reconcile().await;
    println!("added {added:?}");
    assert_eq!((added.planned, added.secrets_written, added.secrets_read), (1, 1, 0), "{added:?}");
    assert!(added.objects_made <= 10 && added.objects_sent <= 10, "{added:?}");
    assert!(added.secrets_compared <= 2, "{added:?}");

    // The watch shows what was written.
    leader.show_secrets();
    let shown = leader.reconcile().await;
    let nothing = Work {
        planned: 0,
        secrets_compared: 1,
        secrets_read: 0,
        secrets_written: 0,
        objects_made: 0,
        objects_sent: 0,
    };
    assert_eq!(shown, nothing);

    // Another address is nothing that the store's names depend on.
    leader.watches.clusters.apply("c7".into(), Some(service("c7", "10.99.0.7", "")));
    let edited = leader.reconcile().await;
    println!("edited {edited:?}");
    assert_eq!((edited.planned, edited.secrets_written), (1, 1), "service.json: {edited:?}");
    assert!(edited.objects_made <= 10 && edited.objects_sent <= 10, "{edited:?}");
    leader.show_secrets();
    assert_eq!(leader.reconcile().await, nothing);

    // Somebody edits one Secret: it is read again, and its cluster is planned again.
    let annotation = json!({"metadata": {"annotations": {"note": "mine"}}});
    leader.server.merge(&format!("{SECRETS}c9.atlas-cluster"), &annotation);
    leader.show_secrets();
    let touched = leader.reconcile().await;
    assert_eq!((touched.planned, touched.secrets_compared, touched.secrets_read), (1, 1, 1));

    // A cluster goes.
    leader.watches.clusters.apply("c8".into(), None);
    let removed = leader.reconcile().await;
    println!("removed {removed:?}");
    assert!(removed.planned <= 1 && removed.secrets_compared <= 2, "{removed:?}");
    assert!(removed.objects_made <= 10 && removed.objects_sent <= 10, "{removed:?}");
    assert_eq!(leader.nodes.ids().len(), CLUSTERS + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_writes_again_what_is_gone_from_atlas_leaves() {
    let mut leader = Leader::lead(Arc::default(), Lifetimes::default()).await;
    leader.show_everything([service("tokyo", "10.0.0.1", "")]);
    leader.follow_own_writes().await;
    let removed = json!({"data": {"hub.pem": null, "roots.pem": null}});
    leader.server.merge(&format!("{SECRETS}atlas-leaves"), &removed);
    leader.show_secrets();
    leader.follow_own_writes().await;
    let leaves = leader.server.objects(&format!("{SECRETS}atlas-leaves"));
    for key in ["atlas.pem", "hub.pem", "roots.pem"] {
        assert!(leaves[0]["data"][key].is_string(), "{key}");
    }
}

/// What a change costs on the wire.
impl TestAtlas for Leader {
    async fn start(manifests: &[ClusterManifest], lifetimes: Lifetimes) -> Self {
        let mut leader = Self::lead(Arc::default(), lifetimes).await;
        let services = manifests.iter().map(|one| service(&one.name, &one.address, &one.comment));
        leader.show_everything(services);
        leader.follow_own_writes().await;
        leader
    }

    async fn restart(mut self) -> Self {
        self.stop.cancel();
        (&mut self.election).await.unwrap();
        let services = self.watches.clusters.all();
        let mut leader = Self::lead(Arc::clone(&self.server), self.lifetimes).await;
        drop(self);
        leader.show_everything(services.into_iter().map(|(_, service)| (*service).clone()));
        leader.follow_own_writes().await;
        leader
    }

    async fn write(&mut self, manifest: &ClusterManifest) -> usize {
        let ClusterManifest { name, address, comment } = manifest;
        self.watches.clusters.apply(name.clone(), Some(service(name, address, comment)));
        self.follow_own_writes().await
    }

    async fn remove(&mut self, cluster: &str) -> usize {
        self.watches.clusters.apply(cluster.to_owned(), None);
        self.follow_own_writes().await
    }

    fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    fn issuing_authority(&self) -> Vec<u8> {
        let issuers = self.server.objects(&format!("{SECRETS}atlas-issuers"));
        issuers[0]["data"]["issuing.pem"].as_str().unwrap().into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_change_sends_does_not_grow_with_the_fleet() {
    tests::what_a_change_sends_does_not_grow_with_the_fleet::<Leader>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_due_with_a_change_costs_other_clusters_nothing() {
    tests::an_authority_due_with_a_change_costs_other_clusters_nothing::<Leader>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_a_wrong_service_stays_although_it_cannot_be_read() {
    let leader = <Leader as TestAtlas>::start(
        &[ClusterManifest { name: "tokyo".into(), address: "10.0.0.1".into(), comment: "".into() }],
        Lifetimes::default(),
    )
    .await;
    let secret = format!("{SECRETS}tokyo.atlas-cluster");
    let kept = |leader: &Leader| leader.server.objects(&secret)[0]["data"]["service.json"].clone();
    assert!(kept(&leader).is_string());

    // As another version of Atlas may write it: `{}`.
    leader.server.merge(&secret, &json!({"data": {"service.json": "e30="}}));
    let Manifest::Service(mut wrong) = service("tokyo", "10.0.0.1", "") else { unreachable!() };
    wrong.meta.labels.insert(annotations::REPLICAS.into(), "two".into());
    leader.watches.clusters.apply("tokyo".into(), Some(Manifest::Service(wrong)));
    let mut leader = leader.restart().await;
    assert_eq!(kept(&leader), "e30=");

    leader.remove("tokyo").await;
    assert_eq!(kept(&leader), Value::Null, "nothing is kept of a Service that is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_service_that_is_no_cluster_gets_no_secret() {
    let mut leader = Leader::lead(Arc::default(), Lifetimes::default()).await;
    let Manifest::Service(mut replica) = service("tokyo-0", "10.0.0.1", "") else { unreachable!() };
    replica.meta.annotations.insert(annotations::THANOS_SIDECAR.into(), "tokyo".into());
    leader.show_everything([Manifest::Service(replica)]);
    leader.reconcile().await;
    let secrets = leader.server.objects(&format!("{SECRETS}tokyo-0.atlas-cluster"));
    assert!(secrets.is_empty(), "{secrets:?}");
}
