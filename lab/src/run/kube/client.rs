//! A client of an API server: paths and JSON in, JSON out, under one token and from one host.
//!
//! Objects are addressed by API path, as by `kubectl get --raw`, so that tests see the API's JSON
//! and not a library's types.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::manifest;
use crate::http::{Request, Response, agent_trusting};
use crate::process::wait_until;
use crate::world::Host;

/// The field manager of objects that a test applies.
pub const PERSON: &str = "person";

/// Time limit of a request. With a paused API server it is exceeded.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client. Clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    host: Host,
    address: SocketAddr,
    ca: String,
    token: String,
    agent: ureq::Agent,
}

impl Client {
    /// A client on `host` for the API server at `address`, whose certificate was issued by `ca`
    /// (PEM).
    pub fn new(host: &Host, address: SocketAddr, ca: &str, token: &str) -> Result<Self> {
        Ok(Self {
            host: host.clone(),
            address,
            ca: ca.to_owned(),
            token: token.to_owned(),
            agent: agent_trusting(ca)?,
        })
    }

    /// The same client with another token.
    pub fn with_token(&self, token: &str) -> Result<Self> {
        Self::new(&self.host, self.address, &self.ca, token)
    }

    /// Where the API server is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of the authority that issued the API server's, in PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// Its bearer token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Any request; no status is an error. `body` is a media type and the bytes.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<Response> {
        let mut request = Request::new(method, format!("https://{}{path}", self.address))?
            .header("authorization", format!("Bearer {}", self.token))
            .header("accept", "application/json")
            .timeout(TIMEOUT);
        if let Some((media_type, bytes)) = body {
            request = request.header("content-type", media_type).body(bytes);
        }
        self.host.within(|| request.send_by(&self.agent))
    }

    /// `GET` of an object that must exist:
    /// `kube.get("/api/v1/namespaces/monitoring/services/tokyo")`.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.ok("GET", path, None)
    }

    /// `GET`; `None` if there is no such object.
    pub fn find(&self, path: &str) -> Result<Option<Value>> {
        let answer = self.request("GET", path, None)?;
        if answer.status == 404 {
            return Ok(None);
        }
        Ok(Some(answer.ok().with_context(|| format!("GET {path}"))?.json()?))
    }

    /// The items of a collection, which may have a query: `…/secrets?labelSelector=a%3Db`.
    pub fn list(&self, path: &str) -> Result<Vec<Value>> {
        match self.get(path)?["items"].take() {
            Value::Array(items) => Ok(items),
            _ => bail!("{path} is no collection"),
        }
    }

    /// `DELETE` with background propagation: the garbage collector deletes dependants afterwards.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.ok("DELETE", path, None).map(drop)
    }

    /// `POST` of an object, or of a subresource such as `…/serviceaccounts/atlas/token`.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.ok("POST", path, Some(("application/json", object)))
    }

    /// A JSON merge patch (RFC 7386): null removes a key.
    pub fn merge_patch(&self, path: &str, patch: &Value) -> Result<Value> {
        self.ok("PATCH", path, Some(("application/merge-patch+json", patch)))
    }

    /// A merge patch of an object's `status`, as kubelets and controllers write it.
    pub fn patch_status(&self, path: &str, status: &Value) -> Result<Value> {
        self.merge_patch(&format!("{path}/status"), &serde_json::json!({ "status": status }))
    }

    /// Applies every document of a YAML (or JSON) text server-side as [`PERSON`], in order. Objects
    /// without a namespace go into `default`. A field that another manager owns with another value
    /// is a conflict, and an error.
    pub fn apply(&self, documents: &str) -> Result<Vec<Value>> {
        self.apply_objects("default", &manifest::parse(documents)?)
    }

    /// [`Client::apply`] of objects, such as a rendered chart's, where those without a namespace go
    /// into `namespace`.
    pub fn apply_objects(&self, namespace: &str, objects: &[Value]) -> Result<Vec<Value>> {
        self.apply_as(PERSON, false, namespace, objects)
    }

    /// Applies objects as any field manager; `force` takes over fields of other managers.
    pub fn apply_as(
        &self,
        manager: &str,
        force: bool,
        namespace: &str,
        objects: &[Value],
    ) -> Result<Vec<Value>> {
        let mut groups = BTreeMap::new();
        let apply = |object: &Value| {
            let path = manifest::path(object, namespace, |group_path| {
                if !groups.contains_key(group_path) {
                    groups.insert(group_path.to_owned(), self.get(group_path)?);
                }
                Ok(groups[group_path].clone())
            })?;
            let url = format!("{path}?fieldManager={manager}&force={force}");
            // JSON is YAML too.
            self.ok("PATCH", &url, Some(("application/apply-patch+yaml", object)))
        };
        objects.iter().map(apply).collect()
    }

    /// Waits until the answer to `GET path` satisfies `is_so`, and returns it.
    pub fn wait_for(
        &self,
        path: &str,
        timeout: Duration,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        wait_until(&format!("{path} is as expected"), timeout, || {
            let object = self.get(path)?;
            ensure!(is_so(&object), "it is {object:#}");
            Ok(Some(object))
        })
    }

    /// Waits until there is no object at `path`.
    pub fn wait_gone(&self, path: &str, timeout: Duration) -> Result<()> {
        wait_until(&format!("{path} is gone"), timeout, || match self.find(path)? {
            Some(object) => bail!("it is {object:#}"),
            None => Ok(Some(())),
        })
    }

    /// Requests a token of a ServiceAccount (TokenRequest); with `pod` (name and uid) bound to that
    /// Pod, as a kubelet does.
    pub fn token_of(
        &self,
        namespace: &str,
        service_account: &str,
        pod: Option<(&str, &str)>,
    ) -> Result<String> {
        let mut spec = serde_json::json!({ "expirationSeconds": 3600 });
        if let Some((name, uid)) = pod {
            spec["boundObjectRef"] =
                serde_json::json!({ "apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid });
        }
        let request = serde_json::json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
        let path =
            format!("/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token");
        let answer = self.create(&path, &request)?;
        Ok(answer["status"]["token"]
            .as_str()
            .context("a TokenRequest without a token in its status")?
            .to_owned())
    }

    fn ok(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> Result<Value> {
        let body = body.map(|(media_type, value)| (media_type, value.to_string().into_bytes()));
        self.request(method, path, body)?
            .ok()
            .and_then(|answer| answer.json())
            .with_context(|| format!("{method} {path}"))
    }
}
