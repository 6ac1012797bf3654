//! Starts and stops everything that a process runs on Kubernetes.
//!
//! When it stops, first the xDS streams end, then the engine and the servers. Last the Lease is given back, so that another
//! replica writes within seconds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atlas_core::kubernetes::lease::LeaseTiming;
use atlas_core::kubernetes::object::OwnerReference;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::election::Candidate;
use super::errors::error_with_causes;
use super::pki_store::SecretStore;
use super::provider::KubernetesProvider;
use super::watches::Watches;
use super::{connect, events};
use crate::config::{Config, KubernetesConfig, Role};
use crate::dns;
use crate::engine::Engine;
use crate::engine::publisher::Publisher;
use crate::metrics::Metrics;
use crate::pki::{Contents, Pki};
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
    let (events_sender, events_receiver) = mpsc::channel(256);
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
    let watches = Watches::default();
    watches.spawn(&client, &settings, &mut tasks, &stop);
    let write_events = events::write_events(
        client.clone(),
        settings.namespace.clone(),
        kubernetes.identity.clone(),
        events_receiver,
        stop.clone(),
    );
    tasks.spawn("the writer of Events", write_events);
    let report_connections = events::report_connections(
        Arc::clone(&streams),
        watches.clusters.clone(),
        events_sender.clone(),
        stop.clone(),
    );
    tasks.spawn("the watch over connections", report_connections);
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
    let publisher = Publisher {
        client_authorizer,
        streams: Arc::clone(&streams),
        nodes,
        metrics: Arc::clone(&metrics),
        state_store,
    };
    let engine = async move {
        let owner =
            owner(&client, &settings.namespace, kubernetes.service_account.as_deref()).await;
        let pki = Pki::with(
            SecretStore::default(),
            settings.trust_domain.clone(),
            config.lifetimes,
            Contents::default(),
        );
        let provider = KubernetesProvider::new(
            settings.clone(),
            client,
            candidate,
            watches,
            metrics,
            events_sender,
            owner,
        );
        let engine = Engine::new(settings, provider, pki, publisher, config.debounce, None);
        engine.run(stopping).await;
    };
    // A task of its own: it blocks while it writes, and signals must be noticed meanwhile.
    let mut engine = tokio::spawn(engine);
    let result = tokio::select! {
        _ = &mut engine => Err(anyhow::anyhow!("the engine has ended, which it never should: please report this")),
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
        if !engine.is_finished() {
            let _ = engine.await;
        }
        tasks.join_all().await;
    })
    .await;
    // Nothing here writes any more, so the next leader may.
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
    let mut status = candidate.lease_status();
    loop {
        let holder = status.borrow_and_update().holder.clone();
        state_store.set_leader(Some(holder.unwrap_or_default()));
        tokio::select! {
            Ok(()) = status.changed() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Atlas's ServiceAccount as the owner of what belongs to the installation; `None`: there is none, and these objects stay after
/// an uninstallation.
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
