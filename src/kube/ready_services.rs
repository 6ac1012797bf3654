//! Which Services of the hub's Envoys have a ready pod: a store's name is led only to such a one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atlas_core::annotations;
use atlas_core::kubernetes::object::Part;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::watch::watch_with_retries;

/// So long after a Service has a pod it counts as having one: DNS servers learn of it by watches of their own.
const DNS_LAG: Duration = Duration::from_secs(3);

/// Watches the EndpointSlices that Kubernetes makes of them, which have their labels, until cancelled; `tell` hears all names
/// each time.
pub async fn watch(
    client: Client,
    namespace: String,
    tell: impl Fn(BTreeSet<String>) + Send + 'static,
    stop: CancellationToken,
) {
    let api: Api<EndpointSlice> = Api::namespaced(client, &namespace);
    let selector = format!("{}={}", atlas_core::object_names::PART, Part::HubStores.label());
    let (ready_in, mut ready_out) = watch::channel(BTreeSet::new());
    tokio::spawn(async move {
        while ready_out.changed().await.is_ok() {
            // From the last change on.
            while tokio::time::timeout(DNS_LAG, ready_out.changed())
                .await
                .is_ok_and(|changed| changed.is_ok())
            {}
            tell(ready_out.borrow_and_update().clone());
        }
    });
    let mut ready = BTreeMap::new();
    let handle = move |event: Event<EndpointSlice>| {
        match event {
            Event::Init => return ready.clear(),
            Event::InitApply(slice) | Event::Apply(slice) => {
                let name = slice.name_any();
                ready.remove(&name);
                ready.extend(service_with_pods(&slice).map(|service| (name, service)));
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

/// The Service of a slice in which a pod is ready.
fn service_with_pods(slice: &EndpointSlice) -> Option<String> {
    // What is not said is to be taken for ready (the API's documentation of `conditions.ready`).
    let ready = slice.endpoints.iter().any(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    slice.labels().get(annotations::SERVICE_NAME).filter(|_| ready).cloned()
}
