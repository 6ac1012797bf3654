//! Starts and stops everything that a process runs on Kubernetes.
//!
//! When it stops, first the xDS streams end, then the engine and the servers. Last the Lease is
//! given back, so that another replica writes within seconds.

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
use crate::app::{App, has_ended};
use crate::config::{Config, KubernetesConfig, Role};
use crate::engine::Engine;
use crate::pki::{Contents, Pki};
use crate::process::shutdown::DRAIN_TIMEOUT;
use crate::state::StateStore;

/// How long a new stream keeps resources that this replica doesn't know yet, because another
/// replica is ahead of it.
const KEEP_UNKNOWN_FOR: Duration = Duration::from_secs(30);

/// Runs until a signal, or until something that must run can't.
///
/// # Errors
/// No cluster is configured, a port is taken, or a part ended.
pub async fn run(config: Config, kubernetes: KubernetesConfig) -> anyhow::Result<()> {
    let settings = config.settings.clone();
    let client = connect::client(&kubernetes.cluster).await?;
    let serves = kubernetes.role != Role::Writes;
    let mut app = App::start(&config, serves, KEEP_UNKNOWN_FOR).await?;
    let watches = Watches::default();
    watches.spawn(&client, &settings, &mut app.tasks, &app.stop);
    let (events_sender, events_receiver) = mpsc::channel(256);
    let write_events = events::write_events(
        client.clone(),
        settings.namespace.clone(),
        kubernetes.identity.clone(),
        events_receiver,
        app.stop.clone(),
    );
    app.tasks.spawn("the writer of Events", write_events);
    let report_connections = events::report_connections(
        Arc::clone(&app.streams),
        watches.clusters.clone(),
        events_sender.clone(),
        app.stop.clone(),
    );
    app.tasks.spawn("the watch over connections", report_connections);
    let candidate = Candidate::new(&kubernetes.identity, LeaseTiming::default());
    let publish_leader =
        publish_leader(Arc::clone(&candidate), Arc::clone(&app.state_store), app.stop.clone());
    app.tasks.spawn("the publisher of the leader's name", publish_leader);
    let resign = CancellationToken::new();
    let mut election = tokio::spawn(Arc::clone(&candidate).run(
        client.clone(),
        settings.namespace.clone(),
        kubernetes.lease_name.clone(),
        LeaseTiming::default(),
        kubernetes.role == Role::Serves,
        resign.clone(),
    ));
    tracing::info!(
        namespace = settings.namespace,
        role = ?kubernetes.role,
        listen = %config.listen.ip,
        "atlas runs"
    );

    let (publisher, metrics, stop) = (app.publisher(), Arc::clone(&app.metrics), app.stop.clone());
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
        Engine::new(settings, provider, pki, publisher, config.debounce, None).run(stop).await;
    };
    let election_ended = async {
        let _ = (&mut election).await;
        has_ended("the election")
    };
    let result = app.run(engine, election_ended).await;
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

/// Atlas's ServiceAccount as the owner of what belongs to the installation; `None`: there is none,
/// and these objects stay after an uninstallation.
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
