//! Requests to single pods, through the API server: each replica has a status of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{bail, ensure};
use atlas_core::annotations;
use axum::http::{Request, header};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;

use super::Admin;
use crate::kube::errors::error_with_causes;

/// How long a replica may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A pod behind a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRef {
    /// `metadata.name`.
    pub name: String,
    /// Whether it is ready, as its EndpointSlice says.
    pub ready: bool,
}

/// What a pod answered, or why it didn't.
pub type Answer = Result<String, String>;

impl Admin {
    /// The pods behind a Service.
    ///
    /// # Errors
    /// The API server refuses or doesn't answer, or there is no such Service.
    pub fn pods_of(&self, service: &str) -> anyhow::Result<Vec<PodRef>> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let selector = format!("{}={service}", annotations::SERVICE_NAME);
        let slices = self
            .block("list the EndpointSlices", api.list(&ListParams::default().labels(&selector)))?;
        let mut pods = BTreeMap::new();
        for endpoint in slices.items.into_iter().flat_map(|slice| slice.endpoints) {
            let ready =
                endpoint.conditions.is_none_or(|conditions| conditions.ready.unwrap_or(true));
            let Some(target) =
                endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"))
            else {
                continue;
            };
            if let Some(name) = target.name {
                *pods.entry(name).or_insert(false) |= ready;
            }
        }
        ensure!(
            !pods.is_empty(),
            "there is no pod behind the Service {service} in {}: is Atlas installed there? --service and --namespace say where it is",
            self.namespace
        );
        Ok(pods.into_iter().map(|(name, ready)| PodRef { name, ready }).collect())
    }

    /// `GET` of a pod, through the API server.
    ///
    /// # Errors
    /// The person has no right to it.
    pub fn ask_pod(&self, pod: &str, port: u16, path: &str) -> anyhow::Result<Answer> {
        let uri = format!("/api/v1/namespaces/{}/pods/{pod}:{port}/proxy{path}", self.namespace);
        let answer = match self.get(&uri, None) {
            // The API server hands on the name by which it was called, and Atlas answers only to
            // addresses and to its own name.
            Err(kube::Error::Api(status)) if status.code == 421 => {
                self.get(&uri, Some(atlas_core::envoy::ATLAS_AUTHORITY))
            }
            other => other,
        };
        match answer {
            Ok(text) => Ok(Ok(text)),
            Err(kube::Error::Api(status)) if status.code == 403 => bail!(
                "cannot ask Atlas's pods: {}: you need the right to `get` `pods/proxy` in {}, or open Atlas's web page instead",
                status.message,
                self.namespace
            ),
            Err(kube::Error::Api(status)) => Ok(Err(status.message.trim().to_owned())),
            Err(error) => Ok(Err(error_with_causes(&error))),
        }
    }

    fn get(&self, uri: &str, host: Option<&str>) -> kube::Result<String> {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
        let late = || {
            kube::Error::Service(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()).into())
        };
        let answer = async {
            tokio::time::timeout(ANSWER_TIMEOUT, self.client.request_text(request))
                .await
                .unwrap_or_else(|_| Err(late()))
        };
        self.runtime.block_on(answer)
    }
}
