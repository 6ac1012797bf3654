//! All wiring of Atlas on Kubernetes: what runs, in which order it starts, in which it stops.
//!
//! Stop: say so to every stream and let them end, then the writers, then give the Lease back, so that another replica
//! writes within seconds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atlas_core::annotations;
use atlas_core::kubernetes::lease::LeaseTiming;
use atlas_core::kubernetes::object::OwnerReference;
use atlas_core::model::Settings;
use atlas_core::thanos::zone::ZoneFileVersion;
use atlas_core::validate::CLUSTER_SELECTOR;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::controller::{Controller, Reflectors, Rounds};
use super::election::Candidate;
use super::errors::error_with_causes;
use super::record::Stored;
use super::watch::Reflector;
use super::{connect, convert, events, pki_secrets};
use crate::config::{Config, KubernetesConfig, Role};
use crate::dns;
use crate::engine::publisher::Publisher;
use crate::metrics::Metrics;
use crate::process::debounce::Debouncer;
use crate::process::listen::bind_tcp;
use crate::process::open_files;
use crate::process::shutdown::{DRAIN_TIMEOUT, wait_for_signal};
use crate::process::tasks::Tasks;
use crate::state::{Nodes, StateStore};
use crate::web::http::{self, Server};
use crate::web::{self, Web};
use crate::xds::streams::Streams;
use crate::xds::{self, ClientAuthorizer, XdsServer};

/// How long a new stream keeps resources that this replica doesn't know yet, because another replica
/// is ahead of it.
const KEEP_UNKNOWN_FOR: Duration = Duration::from_secs(30);

/// Runs until a signal, or until something that must run can't.
///
/// # Errors
/// No cluster is configured, a port is taken, or a part ended.
pub async fn run(config: Config, kubernetes: KubernetesConfig) -> anyhow::Result<()> {
    let limits = config.limits.for_open_files(open_files::raise_limit());
    let (listen, settings) = (config.listen, config.settings.clone());
    let client = connect::client(&kubernetes.cluster).await?;
    let metrics_port = bind_tcp(listen.ip, listen.metrics).await?;
    let serving = match kubernetes.role {
        Role::Writes => None,
        Role::Both | Role::Serves => Some((
            bind_tcp(listen.ip, listen.xds).await?,
            bind_tcp(listen.ip, listen.web).await?,
            dns::Sockets::bind(SocketAddr::new(listen.ip, listen.dns)).await?,
        )),
    };
    let (state_store, nodes) = (Arc::new(StateStore::default()), Arc::new(Nodes::default()));
    let (said, said_out) = mpsc::channel(256);
    let client_authorizer = Arc::new(ClientAuthorizer::new(settings.trust_domain.clone()));
    let (metrics, streams) = (Arc::new(Metrics::new()), Arc::new(Streams::default()));
    let (drain, stop, resign) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let candidate = Candidate::new(&kubernetes.identity, LeaseTiming::default());
    let mut tasks = Tasks::default();

    let web = Web {
        path: config.settings.web_path().to_owned(),
        state_store: Arc::clone(&state_store),
        nodes: Arc::clone(&nodes),
        streams: Arc::clone(&streams),
        metrics: Arc::clone(&metrics),
    };
    let server =
        |router, port| Server { router, port, metrics: Arc::clone(&metrics), stop: stop.clone() };
    tasks.spawn(
        "the metrics server",
        http::serve(metrics_port, server(web::operations(web.clone()), "metrics")),
    );
    if let Some((xds_port, web_port, dns_sockets)) = serving {
        let service = Arc::new(XdsServer {
            nodes: Arc::clone(&nodes),
            state_store: Arc::clone(&state_store),
            streams: Arc::clone(&streams),
            client_authorizer: Arc::clone(&client_authorizer),
            metrics: Arc::clone(&metrics),
            limits,
            max_stream_age: config.max_stream_age,
            keep_unknown_for: KEEP_UNKNOWN_FOR,
            drain: drain.clone(),
        });
        tasks.spawn("the xDS server", xds::accept(xds_port, service));
        tasks.spawn(
            "the DNS server",
            dns::serve(dns_sockets, state_store.zone_source(), Arc::clone(&metrics), stop.clone()),
        );
        tasks.spawn("the web server", http::serve(web_port, server(web::public(web), "web")));
    }
    let reflectors = watch_all(&client, &settings, &mut tasks, &stop);
    tasks.spawn(
        "the writer of Events",
        events::publish(
            client.clone(),
            settings.namespace.clone(),
            kubernetes.identity.clone(),
            said_out,
            stop.clone(),
        ),
    );
    let connections = events::connections(
        Arc::clone(&streams),
        reflectors.clusters.clone(),
        said.clone(),
        stop.clone(),
    );
    tasks.spawn("the watch over connections", connections);
    let election = Arc::clone(&candidate).run(
        client.clone(),
        settings.namespace.clone(),
        kubernetes.lease_name.clone(),
        LeaseTiming::default(),
        kubernetes.role == Role::Serves,
        resign.clone(),
    );
    let mut election = tokio::spawn(election);
    tasks.spawn(
        "the publisher of the leader's name",
        publish_leader(Arc::clone(&candidate), Arc::clone(&state_store), stop.clone()),
    );
    tracing::info!(namespace = settings.namespace, role = ?kubernetes.role, listen = %listen.ip, "atlas runs");

    let stopping = stop.clone();
    let gauge = Arc::clone(&streams);
    let controller = async move {
        let owner =
            owner(&client, &settings.namespace, kubernetes.service_account.as_deref()).await;
        let publisher =
            Publisher { client_authorizer, streams: gauge, nodes, metrics, state_store };
        let controller = Controller {
            settings,
            lifetimes: config.lifetimes,
            client: client.clone(),
            candidate,
            reflectors,
            publisher,
            said,
            owner,
            records: Arc::default(),
            unable: None,
            greatest: None,
            rounds: Rounds::default(),
            debouncer: Debouncer::new(config.debounce),
        };
        controller.run(stopping).await;
    };
    // A task of its own: it blocks while it writes, and signals must be heard meanwhile.
    let mut controller = tokio::spawn(controller);
    let result = tokio::select! {
        _ = &mut controller => Err(anyhow::anyhow!("the controller has ended, which it never should: please report this")),
        ended = tasks.first_ended() => Err(anyhow::anyhow!("{ended} has ended, which it never should: please report this")),
        _ = &mut election => Err(anyhow::anyhow!("the election has ended, which it never should: please report this")),
        signal = wait_for_signal() => {
            tracing::info!(signal, "stopping: ending {} streams", streams.open().len());
            Ok(())
        }
    };
    drain.cancel();
    streams.wait_closed(DRAIN_TIMEOUT).await;
    stop.cancel();
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, async {
        if !controller.is_finished() {
            let _ = controller.await;
        }
        tasks.join_all().await;
    })
    .await;
    // Last of all: whoever leads next may write at once.
    resign.cancel();
    if !election.is_finished() {
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, election).await;
    }
    tracing::info!("stopped");
    result
}

/// Writes the name of the process that leads into the state, for the web server.
async fn publish_leader(
    candidate: Arc<Candidate>,
    state_store: Arc<StateStore>,
    stop: CancellationToken,
) {
    let mut sightings = candidate.sightings();
    loop {
        let holder = sightings.borrow_and_update().holder.clone();
        state_store.set_leader(Some(holder.unwrap_or_default()));
        tokio::select! {
            Ok(()) = sightings.changed() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Starts to watch everything that manifests come from.
fn watch_all(
    client: &Client,
    settings: &Settings,
    tasks: &mut Tasks,
    stop: &CancellationToken,
) -> Reflectors {
    let changed = Arc::new(Notify::new());
    let reflectors = Reflectors {
        clusters: Reflector::new(Arc::clone(&changed)),
        alertmanagers: Reflector::new(Arc::clone(&changed)),
        slices: Reflector::new(Arc::clone(&changed)),
        records: Reflector::new(Arc::clone(&changed)),
        zone: Reflector::new(Arc::clone(&changed)),
        changed,
    };
    let labels = |selector: &str| watcher::Config::default().labels(selector);
    let own = settings.namespace.as_str();
    let theirs = settings.alertmanager_namespace.as_str();

    let clusters: Api<Service> = Api::namespaced(client.clone(), own);
    let reflector = reflectors.clusters.clone();
    let task = reflector.run(
        "cluster Services",
        clusters,
        labels(CLUSTER_SELECTOR),
        |service| Some(convert::service(service)),
        stop.clone(),
    );
    tasks.spawn("the watch of clusters", task);

    let alertmanagers: Api<Service> = Api::namespaced(client.clone(), theirs);
    let pairs: Vec<String> = settings
        .alertmanager_selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let reflector = reflectors.alertmanagers.clone();
    let read = |service| Some(convert::service(service));
    let task = reflector.run(
        "the hub's Alertmanager Services",
        alertmanagers,
        labels(&pairs.join(",")),
        read,
        stop.clone(),
    );
    tasks.spawn("the watch of Alertmanagers", task);

    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), theirs);
    let selector = format!("{}={}", annotations::SERVICE_NAME, settings.alertmanager_endpoints);
    let reflector = reflectors.slices.clone();
    let read = |slice| Some(convert::endpoint_slice(slice));
    let task = reflector.run(
        "the hub's Alertmanager EndpointSlices",
        slices,
        labels(&selector),
        read,
        stop.clone(),
    );
    tasks.spawn("the watch of EndpointSlices", task);

    let secrets: Api<Secret> = Api::namespaced(client.clone(), own);
    let domain = settings.trust_domain.clone();
    let read = move |secret| Some(Stored::read(secret, &domain));
    let task = reflectors.records.clone().run(
        "Atlas's own Secrets",
        secrets,
        labels(pki_secrets::WATCHED),
        read,
        stop.clone(),
    );
    tasks.spawn("the watch of Atlas's own Secrets", task);

    let zone: Api<ConfigMap> = Api::namespaced(client.clone(), own);
    let (name, file) = atlas_core::object_names::ZONE_CONFIG_MAP;
    let read = move |map: ConfigMap| ZoneFileVersion::of(map.data?.get(file)?);
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let task = reflectors.zone.clone().run(
        "the ConfigMap of the DNS zone",
        zone,
        only,
        read,
        stop.clone(),
    );
    tasks.spawn("the watch of the DNS zone", task);
    reflectors
}

/// The ServiceAccount with which what belongs to the installation goes. Without it everything works, and stays after an
/// uninstallation.
async fn owner(client: &Client, namespace: &str, name: Option<&str>) -> Option<OwnerReference> {
    let name = name?;
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    loop {
        match api.get(name).await.context("no answer") {
            Ok(account) => {
                let uid = account.metadata.uid?;
                return Some(OwnerReference { kind: "ServiceAccount", name: name.to_owned(), uid });
            }
            Err(error) => match error.downcast_ref::<kube::Error>() {
                Some(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                    tracing::warn!(name, %status, "cannot read Atlas's ServiceAccount: what Atlas writes for the hub will stay when it is uninstalled");
                    return None;
                }
                _ => {
                    tracing::warn!(
                        error = error_with_causes(error.as_ref()),
                        "waiting for the API server"
                    );
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            },
        }
    }
}
