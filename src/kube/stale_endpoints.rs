//! Deletes the Endpoints and EndpointSlices of stores' Services that selected pods in an earlier
//! version.
//!
//! ```text
//! Service tokyo-thanos-sidecar0: headless ─▶ ExternalName       (the writer)
//! its Endpoints, its EndpointSlices       ─▶ stale              (deleted here)
//! ```
//!
//! Kubernetes' controllers make neither for an ExternalName, but leave those that they made before:
//! addresses of pods that are long gone. From such Endpoints the mirroring controller even makes
//! new EndpointSlices. Both have the labels of their Service, by which they are found. Once none is
//! left, nothing is listed any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atlas_core::annotations;
use atlas_core::kubernetes::object::ObjectPart;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, PartialObjectMeta, Preconditions,
};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::WRITES;
use super::election::Candidate;
use super::errors::error_with_causes;

/// The first pause between two lists while something is left, and after a failure; doubled each
/// time, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause, and the one before the last list: a controller that lags may have made
/// something meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Deletes them until none is left, while this process leads. `problem` is why that fails.
pub async fn remove(
    client: Client,
    namespace: String,
    candidate: Arc<Candidate>,
    problem: watch::Sender<Option<String>>,
    stop: CancellationToken,
) {
    let selector = format!("{}={}", atlas_core::object_names::PART, ObjectPart::Store.label());
    let labelled = ListParams::default().labels(&selector);
    let (mut empty_lists, mut pause) = (0, FIRST_PAUSE);
    while empty_lists < 2 {
        let left = delete_stale(&client, &namespace, &labelled, &candidate).await;
        let failed = left.as_ref().err().map(|error| {
            format!("cannot remove what is left in {namespace} of Services that once selected the hub's Envoys: {error:#} (Atlas's Role must allow it)")
        });
        problem.send_if_modified(|before| std::mem::replace(before, failed.clone()) != failed);
        empty_lists = if matches!(left, Ok(0)) { empty_lists + 1 } else { 0 };
        pause = if empty_lists > 0 { LONGEST_PAUSE } else { pause.min(LONGEST_PAUSE) };
        if empty_lists < 2 && stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        pause *= 2;
    }
}

/// Deletes those whose Service selects no pods. Returns how many there were, with those whose
/// Service still does.
async fn delete_stale(
    client: &Client,
    namespace: &str,
    labelled: &ListParams,
    candidate: &Candidate,
) -> anyhow::Result<usize> {
    let api = |kind: &ApiResource| -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, kind)
    };
    // Endpoints first, or the mirroring controller makes new EndpointSlices of them.
    let mut left: Vec<(Api<DynamicObject>, PartialObjectMeta<DynamicObject>)> = Vec::new();
    for kind in
        [ApiResource::erase::<core::Endpoints>(&()), ApiResource::erase::<EndpointSlice>(&())]
    {
        let api = api(&kind);
        let listed = api
            .list_metadata(labelled)
            .await
            .map_err(explain)
            .with_context(|| format!("cannot list {}", kind.plural))?;
        left.extend(listed.items.into_iter().map(|object| (api.clone(), object)));
    }
    if left.is_empty() {
        return Ok(0);
    }
    let services: Api<core::Service> = Api::namespaced(client.clone(), namespace);
    let services =
        services.list(labelled).await.map_err(explain).context("cannot list services")?;
    let selecting = services.items.iter().filter(|service| {
        service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) != Some("ExternalName")
    });
    let selecting: BTreeSet<String> = selecting.map(ResourceExt::name_any).collect();
    let count = left.len();
    let stale = left.into_iter().filter(|(_, object)| !selecting.contains(&service_of(object)));
    let delete = |(api, object): (Api<DynamicObject>, PartialObjectMeta<DynamicObject>)| async move {
        anyhow::ensure!(candidate.leads().is_some(), "this Atlas no longer leads");
        let exactly = Preconditions { uid: object.uid(), resource_version: None };
        match api
            .delete(
                &object.name_any(),
                &DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() },
            )
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            result => result
                .map(drop)
                .map_err(explain)
                .with_context(|| format!("cannot delete {}", object.name_any())),
        }
    };
    futures::stream::iter(stale.map(delete)).buffered(WRITES).try_collect::<()>().await?;
    Ok(count)
}

fn explain(error: kube::Error) -> anyhow::Error {
    anyhow::anyhow!(error_with_causes(&error))
}

/// The name of the Service. Endpoints have the same name, EndpointSlices a label.
fn service_of(object: &PartialObjectMeta<DynamicObject>) -> String {
    object.labels().get(annotations::SERVICE_NAME).cloned().unwrap_or_else(|| object.name_any())
}
