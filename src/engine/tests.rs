//! What a change costs on the wire: the real engine with the provider of one mode, and simulated
//! Envoys that acknowledge everything. The tests of each provider run these functions with their
//! own [`TestAtlas`]; the same numbers are asserted for every provider.

mod any_provider;

use std::collections::BTreeMap;
use std::time::Duration;

use atlas_core::envoy::secret::LEAF;
use atlas_core::name::NodeId;
use atlas_core::pki::Lifetimes;
use atlas_core::xds::messages::{Request, Response, Variant};
use atlas_core::xds::resource::ResourceType;
use atlas_core::xds::session::Session;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, Resource as WireResource,
};
use prost::Message;

use crate::state::{NodeResources, Nodes};

/// As many as the counts are promised for.
const CLUSTERS: usize = 1000;

/// The manifest of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterManifest {
    /// The cluster's name.
    pub name: String,
    /// Where its Envoys are.
    pub address: String,
    /// What people write beside it and Atlas doesn't read.
    pub comment: String,
}

/// Without a comment.
fn manifest(name: &str, address: &str) -> ClusterManifest {
    ClusterManifest { name: name.into(), address: address.into(), comment: String::new() }
}

/// An Atlas of one mode without its servers: it issues and writes.
pub trait TestAtlas: Sized {
    /// Starts with these manifests, and reconciles.
    async fn start(manifests: &[ClusterManifest], lifetimes: Lifetimes) -> Self;

    /// Ends, and starts again with what the first one left.
    async fn restart(self) -> Self;

    /// Somebody writes a manifest. Reconciles until Atlas has seen its own writes too; returns how
    /// many clusters were planned.
    async fn write(&mut self, manifest: &ClusterManifest) -> usize;

    /// Somebody deletes the manifest of a cluster. Else as [`TestAtlas::write`].
    async fn remove(&mut self, cluster: &str) -> usize;

    /// What each Envoy should have.
    fn nodes(&self) -> &Nodes;

    /// The stored authority that issues leaves.
    fn issuing_authority(&self) -> Vec<u8>;
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
        nodes: &Nodes,
        node: NodeId,
        has: BTreeMap<ResourceType, BTreeMap<String, String>>,
        counts: &mut Counts,
    ) -> Self {
        let mut envoy = Self { node, session: Session::new(Variant::Delta, None), has };
        let names = |kind| {
            let node = nodes.get(&envoy.node).unwrap();
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
                nodes,
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

    fn ask(&mut self, nodes: &Nodes, request: Request, counts: &mut Counts) {
        let node = nodes.get(&self.node).unwrap();
        let responses = {
            let mut state = node.resources();
            let NodeResources { snapshot, quarantine } = &mut *state;
            self.session.on_request(request, snapshot, quarantine).unwrap()
        };
        self.accept(nodes, responses, counts);
    }

    /// Hears of whatever has changed, and accepts it.
    fn hear(&mut self, nodes: &Nodes, counts: &mut Counts) {
        let node = nodes.get(&self.node).unwrap();
        let responses = {
            let state = node.resources();
            self.session.on_change(&state.snapshot, &state.quarantine)
        };
        self.accept(nodes, responses, counts);
    }

    fn accept(&mut self, nodes: &Nodes, responses: Vec<Response>, counts: &mut Counts) {
        for response in responses {
            counts.messages += 1;
            counts.bytes += encoded(&response);
            counts.resources += response.resources.len();
            counts.removed += response.removed.len();
            let has =
                self.has.entry(ResourceType::of_url(&response.type_url).unwrap()).or_default();
            for name in &response.removed {
                has.remove(&**name);
            }
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
            self.ask(nodes, ack, counts);
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

/// Lets all Envoys hear of what has changed.
fn hear(nodes: &Nodes, envoys: &mut [Envoy]) -> Counts {
    let mut counts = Counts::default();
    for envoy in envoys {
        envoy.hear(nodes, &mut counts);
    }
    counts
}

/// A change is sent to the Envoys that it concerns alone, at any number of clusters.
pub async fn what_a_change_sends_does_not_grow_with_the_fleet<A: TestAtlas>() {
    let address = |n: usize| format!("10.{}.{}.1", n / 250, n % 250);
    let clusters: Vec<ClusterManifest> =
        (0..CLUSTERS).map(|n| manifest(&format!("c{n}"), &address(n))).collect();
    let mut atlas = A::start(&clusters, Lifetimes::default()).await;
    let nodes = atlas.nodes().ids();
    assert_eq!(nodes.len(), CLUSTERS + 1);
    let mut all = Counts::default();
    let mut envoys: Vec<Envoy> = nodes
        .into_iter()
        .map(|node| Envoy::connect(atlas.nodes(), node, BTreeMap::new(), &mut all))
        .collect();
    assert!(all.resources > 10 * CLUSTERS, "{all:?}");
    assert_eq!(hear(atlas.nodes(), &mut envoys), Counts::default());

    let one_more = manifest("one-more", "10.99.0.1");
    assert_eq!(atlas.write(&one_more).await, 1);
    let added = hear(atlas.nodes(), &mut envoys);
    assert!(added.messages <= 8 && added.bytes <= 12 * 1024 && added.resources == 1, "{added:?}");

    // Written again, with a comment or as it was: nobody hears of it.
    for comment in ["the same", ""] {
        let same = ClusterManifest { comment: comment.into(), ..one_more.clone() };
        assert_eq!(atlas.write(&same).await, 0);
        assert_eq!(hear(atlas.nodes(), &mut envoys), Counts::default());
    }

    assert_eq!(atlas.write(&manifest("c7", "10.99.0.7")).await, 1);
    let edited = hear(atlas.nodes(), &mut envoys);
    assert!(
        edited.messages <= 2 && edited.bytes <= 8 * 1024 && edited.resources == 1,
        "{edited:?}"
    );

    atlas.remove("one-more").await;
    let removed = hear(atlas.nodes(), &mut envoys);
    assert!(
        removed.messages == 1 && removed.bytes <= 1024 && removed.resources == 0,
        "{removed:?}"
    );
    assert_eq!(removed.removed, 1, "{removed:?}");

    // Every stream returns with what it has.
    let atlas = atlas.restart().await;
    let mut returned = Counts::default();
    let mut envoys: Vec<Envoy> = envoys
        .into_iter()
        .map(|envoy| Envoy::connect(atlas.nodes(), envoy.node, envoy.has, &mut returned))
        .collect();
    assert_eq!((returned.resources, returned.removed), (0, 0), "{returned:?}");
    assert_eq!(hear(atlas.nodes(), &mut envoys), Counts::default());
    println!("add {added:?}\nedit {edited:?}\nremove {removed:?}\nrestart {returned:?}");
}

/// An authority that is due is issued when one cluster changes, and the others keep certificates.
pub async fn an_authority_due_with_a_change_costs_other_clusters_nothing<A: TestAtlas>() {
    let clusters = ["tokyo", "osaka"].map(|name| manifest(name, "10.0.0.1"));
    let lifetimes = Lifetimes { issuing: 4, leaf: 4, ..Lifetimes::default() };
    let mut atlas = A::start(&clusters, lifetimes).await;
    let before = atlas.issuing_authority();
    // Half its life.
    tokio::time::sleep(Duration::from_millis(3100)).await;
    atlas.write(&manifest("paris", "10.0.0.2")).await;
    assert_ne!(atlas.issuing_authority(), before, "the authority was due");
    let nodes: Vec<String> = atlas.nodes().ids().iter().map(ToString::to_string).collect();
    assert_eq!(nodes.len(), 4, "{nodes:?}");
    let tokyo = atlas.nodes().get(&"tokyo".parse().unwrap()).unwrap();
    assert!(tokyo.resources().snapshot.get(ResourceType::Secret, LEAF).is_some());
}
