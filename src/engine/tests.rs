//! What a change costs on the wire: the real engine on a real directory, and simulated Envoys that
//! acknowledge everything.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atlas_core::name::NodeId;
use atlas_core::pki::Lifetimes;
use atlas_core::xds::messages::{Request, Response, Variant};
use atlas_core::xds::resource::ResourceType;
use atlas_core::xds::session::Session;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, Resource as WireResource,
};
use prost::Message;

use super::*;
use crate::metrics::Metrics;
use crate::standalone::last_good_files::LastGoodFiles;
use crate::standalone::output_files::OutputFiles;
use crate::standalone::pki_directory::PkiDirectory;
use crate::standalone::provider::DirectoryProvider;
use crate::standalone::state_dir::StateDir;
use crate::standalone::watch::{DirectoryUpdate, UpdateQueue, read_index};
use crate::state::{NodeResources, Nodes, StateStore};
use crate::xds::ClientAuthorizer;
use crate::xds::open_streams::Streams;

/// As many as the counts are promised for.
const CLUSTERS: usize = 1000;

fn manifest(name: &str, address: &str) -> String {
    let labels = "{goatlas.io/cluster: \"true\", goatlas.io/replicas: \"2\"}";
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, labels: {labels}}}\nspec: {{externalIPs: [{address}]}}\n"
    )
}

/// An Atlas without its servers.
struct Atlas {
    reconciler: Reconciler<DirectoryProvider>,
    updates: Arc<UpdateQueue>,
    nodes: Arc<Nodes>,
    _lock: crate::standalone::state_dir::Lock,
}

impl Atlas {
    async fn start(state: &Path, from: &Path) -> Self {
        Self::start_with(state, from, Lifetimes::default()).await
    }

    async fn start_with(state: &Path, from: &Path, lifetimes: Lifetimes) -> Self {
        let state = StateDir::at(state).unwrap();
        let lock = state.lock().unwrap();
        let settings = Settings::default();
        let pki =
            Pki::load(PkiDirectory::new(state.clone()), settings.trust_domain.clone(), lifetimes)
                .unwrap();
        let nodes = Arc::new(Nodes::default());
        let publisher = Publisher {
            client_authorizer: Arc::new(ClientAuthorizer::new(settings.trust_domain.clone())),
            streams: Arc::new(Streams::default()),
            nodes: Arc::clone(&nodes),
            metrics: Arc::new(Metrics::new()),
            state_store: Arc::new(StateStore::default()),
        };
        let updates = Arc::new(UpdateQueue::default());
        let last_good = LastGoodFiles::load(state.clone());
        let provider =
            DirectoryProvider::new(Arc::clone(&updates), last_good, OutputFiles::new(state, None));
        let reconciler = Reconciler::new(settings, provider, pki, publisher);
        let mut atlas = Self { reconciler, updates, nodes, _lock: lock };
        atlas.take(read_index(from).unwrap().1).await;
        atlas
    }

    /// A reconcile about an update.
    async fn take(&mut self, update: DirectoryUpdate) -> Reconciled {
        self.updates.push(update);
        let reconciled = self.reconciler.reconcile().await.unwrap().unwrap();
        assert!(reconciled.complete, "nothing failed");
        reconciled
    }

    /// As if this file alone had been written; returns how many clusters were planned.
    async fn write(&mut self, from: &Path, name: &str, text: &str) -> usize {
        let file = format!("{name}.yaml");
        std::fs::write(from.join(&file), text).unwrap();
        let mut update = read_index(from).unwrap().1;
        update.files.retain(|path, _| *path == file);
        update.directories = None;
        self.take(update).await.planned
    }
}

/// What went over the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    messages: usize,
    bytes: usize,
    resources: usize,
    removed: usize,
}

/// One Envoy, as far as the protocol goes.
struct Envoy {
    node: NodeId,
    session: Session,
    has: BTreeMap<ResourceType, BTreeMap<String, String>>,
}

impl Envoy {
    /// Connects and settles. `has` is what it holds already.
    fn connect(
        atlas: &Atlas,
        node: NodeId,
        has: BTreeMap<ResourceType, BTreeMap<String, String>>,
        counts: &mut Counts,
    ) -> Self {
        let mut envoy = Self { node, session: Session::new(Variant::Delta, None), has };
        let names = |kind| {
            let node = atlas.nodes.get(&envoy.node).unwrap();
            let state = node.resources();
            state
                .snapshot
                .of_type(kind)
                .iter()
                .map(|resource| resource.name.to_string())
                .collect::<Vec<_>>()
        };
        let (secrets, routes) = (names(ResourceType::Secret), names(ResourceType::Route));
        let all = || vec!["*".to_owned()];
        let subscriptions = [
            (ResourceType::Cluster, all()),
            (ResourceType::Secret, secrets),
            (ResourceType::Listener, all()),
            (ResourceType::Route, routes),
        ];
        for (kind, subscribe) in subscriptions {
            let initial_versions =
                envoy.has.get(&kind).cloned().unwrap_or_default().into_iter().collect();
            envoy.ask(
                atlas,
                Request {
                    type_url: kind.url().into(),
                    subscribe,
                    initial_versions,
                    ..Request::default()
                },
                counts,
            );
        }
        envoy
    }

    fn ask(&mut self, atlas: &Atlas, request: Request, counts: &mut Counts) {
        let node = atlas.nodes.get(&self.node).unwrap();
        let responses = {
            let mut state = node.resources();
            let NodeResources { snapshot, quarantine } = &mut *state;
            self.session.on_request(request, snapshot, quarantine).unwrap()
        };
        self.accept(atlas, responses, counts);
    }

    /// Hears of whatever has changed, and accepts it.
    fn hear(&mut self, atlas: &Atlas, counts: &mut Counts) {
        let node = atlas.nodes.get(&self.node).unwrap();
        let responses = {
            let state = node.resources();
            self.session.on_change(&state.snapshot, &state.quarantine)
        };
        self.accept(atlas, responses, counts);
    }

    fn accept(&mut self, atlas: &Atlas, responses: Vec<Response>, counts: &mut Counts) {
        for response in responses {
            counts.messages += 1;
            counts.bytes += encoded(&response);
            counts.resources += response.resources.len();
            counts.removed += response.removed.len();
            let has =
                self.has.entry(ResourceType::of_url(&response.type_url).unwrap()).or_default();
            response.removed.iter().for_each(|name| drop(has.remove(&**name)));
            has.extend(
                response
                    .resources
                    .iter()
                    .map(|resource| (resource.name.to_string(), resource.version.to_string())),
            );
            let ack = Request {
                type_url: response.type_url.to_string(),
                nonce: response.nonce,
                ..Request::default()
            };
            self.ask(atlas, ack, counts);
        }
    }
}

/// Bytes of the gRPC message.
fn encoded(response: &Response) -> usize {
    let message = DeltaDiscoveryResponse {
        type_url: response.type_url.to_string(),
        nonce: response.nonce.clone(),
        resources: response
            .resources
            .iter()
            .map(|resource| WireResource::decode(resource.wire()).unwrap())
            .collect(),
        removed_resources: response.removed.iter().map(|name| name.to_string()).collect(),
        ..Default::default()
    };
    5 + message.encoded_len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_change_sends_does_not_grow_with_the_fleet() {
    let (from, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = |n: usize| format!("c{n}");
    let address = |n: usize| format!("10.{}.{}.1", n / 250, n % 250);
    for n in 0..CLUSTERS {
        std::fs::write(
            from.path().join(format!("{}.yaml", name(n))),
            manifest(&name(n), &address(n)),
        )
        .unwrap();
    }
    let mut atlas = Atlas::start(state.path(), from.path()).await;
    let nodes = atlas.nodes.ids();
    assert_eq!(nodes.len(), CLUSTERS + 1);
    let mut all = Counts::default();
    let mut envoys: Vec<Envoy> = nodes
        .into_iter()
        .map(|node| Envoy::connect(&atlas, node, BTreeMap::new(), &mut all))
        .collect();
    assert!(all.resources > 10 * CLUSTERS, "{all:?}");
    let hear = |atlas: &Atlas, envoys: &mut Vec<Envoy>| {
        let mut counts = Counts::default();
        envoys.iter_mut().for_each(|envoy| envoy.hear(atlas, &mut counts));
        counts
    };
    assert_eq!(hear(&atlas, &mut envoys), Counts::default());

    let one_more = manifest("one-more", "10.99.0.1");
    assert_eq!(atlas.write(from.path(), "one-more", &one_more).await, 1);
    let added = hear(&atlas, &mut envoys);
    assert!(added.messages <= 8 && added.bytes <= 12 * 1024 && added.resources == 1, "{added:?}");

    // Written again, with a comment or as it was: nobody hears of it.
    let same = format!("# the same\n{one_more}");
    assert_eq!(atlas.write(from.path(), "one-more", &same).await, 0);
    assert_eq!(hear(&atlas, &mut envoys), Counts::default());

    let other = manifest(&name(7), "10.99.0.7");
    assert_eq!(atlas.write(from.path(), &name(7), &other).await, 1);
    let edited = hear(&atlas, &mut envoys);
    assert!(
        edited.messages <= 2 && edited.bytes <= 8 * 1024 && edited.resources == 1,
        "{edited:?}"
    );

    // A restart, and every stream returns with what it has.
    drop(atlas);
    let atlas = Atlas::start(state.path(), from.path()).await;
    let mut returned = Counts::default();
    let mut envoys: Vec<Envoy> = envoys
        .into_iter()
        .map(|envoy| Envoy::connect(&atlas, envoy.node, envoy.has, &mut returned))
        .collect();
    assert_eq!((returned.resources, returned.removed), (0, 0), "{returned:?}");
    assert_eq!(hear(&atlas, &mut envoys), Counts::default());
    println!("add {added:?}\nedit {edited:?}\nrestart {returned:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_due_while_one_cluster_changes_costs_the_others_nothing() {
    let (from, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["tokyo", "osaka"] {
        std::fs::write(from.path().join(format!("{name}.yaml")), manifest(name, "10.0.0.1"))
            .unwrap();
    }
    let lifetimes = Lifetimes { issuing: 4, leaf: 4, ..Lifetimes::default() };
    let mut atlas = Atlas::start_with(state.path(), from.path(), lifetimes).await;
    let issuing = || std::fs::read(state.path().join("pki/issuing.pem")).unwrap();
    let before = issuing();
    // Half its life.
    std::thread::sleep(Duration::from_millis(3100));
    atlas.write(from.path(), "paris", &manifest("paris", "10.0.0.2")).await;
    assert_ne!(issuing(), before, "the authority was due");
    let nodes: Vec<String> = atlas.nodes.ids().iter().map(ToString::to_string).collect();
    assert_eq!(nodes.len(), 4, "{nodes:?}");
    let tokyo = atlas.nodes.get(&"tokyo".parse().unwrap()).unwrap();
    assert!(
        tokyo
            .resources()
            .snapshot
            .get(ResourceType::Secret, atlas_core::envoy::secret::LEAF)
            .is_some()
    );
}
