//! Which Services of the hub's Envoys have a ready pod. Only such a Service gets stores' Services
//! as other names of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atlas_core::annotations;
use atlas_core::kubernetes::object::ObjectPart;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::reflector::watch_with_retries;

/// How long after the last change of EndpointSlices it counts: DNS servers learn of it by watches
/// of their own.
const DNS_LAG: Duration = Duration::from_secs(3);

/// Watches the EndpointSlices of these Services, which have their labels, until cancelled.
/// `on_change` gets the names of all Services that have a ready pod.
pub async fn watch(
    client: Client,
    namespace: String,
    on_change: impl Fn(BTreeSet<String>) + Send + 'static,
    stop: CancellationToken,
) {
    let api: Api<EndpointSlice> = Api::namespaced(client, &namespace);
    let selector = format!("{}={}", atlas_core::object_names::PART, ObjectPart::HubStores.label());
    let (ready_in, mut ready_out) = watch::channel(BTreeSet::new());
    tokio::spawn(async move {
        while ready_out.changed().await.is_ok() {
            while tokio::time::timeout(DNS_LAG, ready_out.changed())
                .await
                .is_ok_and(|changed| changed.is_ok())
            {}
            on_change(ready_out.borrow_and_update().clone());
        }
    });
    let mut ready = BTreeMap::new();
    let handle = move |event: Event<EndpointSlice>| {
        match event {
            Event::Init => return ready.clear(),
            Event::InitApply(slice) | Event::Apply(slice) => {
                let name = slice.name_any();
                ready.remove(&name);
                ready.extend(ready_service(&slice).map(|service| (name, service)));
            }
            Event::InitDone => {}
            Event::Delete(slice) => _ = ready.remove(&slice.name_any()),
        }
        ready_in.send_replace(ready.values().cloned().collect());
    };
    watch_with_retries(
        "the pods of the hub's Envoys",
        api,
        watcher::Config::default().labels(&selector),
        handle,
        stop,
    )
    .await;
}

/// The Service of a slice; `None`: no pod in it is ready.
fn ready_service(slice: &EndpointSlice) -> Option<String> {
    // An absent condition means ready (the API's documentation of `conditions.ready`).
    let ready = slice.endpoints.iter().any(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    slice.labels().get(annotations::SERVICE_NAME).filter(|_| ready).cloned()
}
