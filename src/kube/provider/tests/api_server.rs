//! An API server in memory: it keeps objects by their path, and does what Atlas's client asks of a
//! real one. A watch shows nothing; tests feed the reflectors themselves.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use crate::kube::pki_secret::PkiSecret;
use crate::process::lock::lock;

/// See the module.
#[derive(Default)]
pub struct ApiServer(Mutex<State>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// How many requests of a method there were for objects of a kind, by `GET services`. The PKI's
    /// Secrets count as `pki secrets`.
    requests: BTreeMap<String, usize>,
}

impl ApiServer {
    pub fn client(self: &Arc<Self>) -> Client {
        let server = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = Arc::clone(&server);
            async move { Ok::<_, Infallible>(server.serve(request).await) }
        });
        Client::new(service, "monitoring")
    }

    /// How many requests of this method there were so far for objects of this kind.
    pub fn requests(&self, method_and_kind: &str) -> usize {
        lock(&self.0).requests.get(method_and_kind).copied().unwrap_or(0)
    }

    /// The objects whose path begins so.
    pub fn objects(&self, prefix: &str) -> Vec<Value> {
        let state = lock(&self.0);
        let all = state.objects.iter().filter(|(path, _)| path.starts_with(prefix));
        all.map(|(_, object)| object.clone()).collect()
    }

    /// Somebody changes an object by hand.
    pub fn merge(&self, path: &str, patch: &Value) {
        let (status, _) = lock(&self.0).merge(path, patch);
        assert_eq!(status, 200, "{path}");
    }

    async fn serve(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        if query.contains("watch=true") {
            return std::future::pending().await;
        }
        let body = body.collect_bytes().await.expect("a body");
        let body = serde_json::from_slice(&body).unwrap_or_default();
        let is_apply = parts.headers.get("content-type").is_some_and(|kind| {
            kind.to_str().is_ok_and(|kind| kind.starts_with("application/apply-patch"))
        });
        let (status, answer) =
            lock(&self.0).answer(&parts.method, parts.uri.path(), &query, body, is_apply);
        let reason = if status == 404 { "NotFound" } else { "Conflict" };
        let failure = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "code": status, "reason": reason, "message": reason,
        });
        let answer = if status < 400 { answer } else { failure };
        let body = Body::from(answer.to_string().into_bytes());
        Response::builder().status(status).body(body).expect("a response")
    }
}

impl State {
    fn answer(
        &mut self,
        method: &Method,
        path: &str,
        query: &str,
        body: Value,
        is_apply: bool,
    ) -> (u16, Value) {
        let (_, in_namespace) = path.split_once("/namespaces/").expect("a namespace");
        let words: Vec<&str> = in_namespace.split('/').collect();
        let kind = words[1];
        let name = words.get(2).copied().or(body["metadata"]["name"].as_str()).unwrap_or_default();
        // The writer writes Secrets too, at any time.
        let is_pki = PkiSecret::from_name(name).is_some()
            || [PkiSecret::Root, PkiSecret::Issuers].iter().any(|secret| secret.name() == name);
        let counted = if is_pki { "pki secrets" } else { kind };
        *self.requests.entry(format!("{method} {counted}")).or_default() += 1;
        match (method.as_str(), words.len()) {
            ("GET", 3) => {
                self.objects.get(path).map_or((404, Value::Null), |object| (200, object.clone()))
            }
            ("GET", _) => (200, self.list(path, query)),
            ("POST", _) => {
                let name = body["metadata"]["name"].as_str().expect("a name");
                let path = format!("{path}/{name}");
                if self.objects.contains_key(&path) {
                    return (409, Value::Null);
                }
                (201, self.put(&path, body))
            }
            ("PATCH", _) if is_apply => (200, self.put(path, body)),
            ("PATCH", _) => self.merge(path, &body),
            ("DELETE", _) => {
                self.objects.remove(path);
                (200, json!({"kind": "Status", "status": "Success"}))
            }
            other => panic!("{other:?} {path}"),
        }
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let prefix = format!("{path}/");
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(path, object)| path.starts_with(&prefix) && is_selected(object, query))
            .map(|(_, object)| object)
            .collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
    }

    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        object["metadata"]["uid"] = path.into();
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn merge(&mut self, path: &str, patch: &Value) -> (u16, Value) {
        let Some(object) = self.objects.get(path) else { return (404, Value::Null) };
        let expected = &patch["metadata"]["resourceVersion"];
        if !expected.is_null() && *expected != object["metadata"]["resourceVersion"] {
            return (409, Value::Null);
        }
        let mut object = object.clone();
        merge_patch(&mut object, patch);
        (200, self.put(path, object))
    }
}

/// Whether an object has a label that the query asks for: `key=value`, or `key in (one,other)`.
fn is_selected(object: &Value, query: &str) -> bool {
    let Some((_, selector)) = query.split_once("labelSelector=") else { return true };
    let mut selector = selector.split('&').next().unwrap_or_default().replace('+', " ");
    for (encoded, decoded) in [("%2F", "/"), ("%3D", "="), ("%28", "("), ("%29", ")"), ("%2C", ",")]
    {
        selector = selector.replace(encoded, decoded);
    }
    let (key, values) = selector
        .split_once(" in ")
        .or_else(|| selector.split_once('='))
        .expect("a selector of one label");
    let label = object["metadata"]["labels"][key].as_str();
    values.trim_matches(['(', ')']).split(',').any(|value| label == Some(value))
}

/// RFC 7396.
fn merge_patch(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        object.clone_from(patch);
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            object.as_object_mut().expect("an object").remove(key);
        } else {
            merge_patch(&mut object[key], value);
        }
    }
}
