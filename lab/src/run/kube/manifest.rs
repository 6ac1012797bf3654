//! Manifests: texts of YAML documents, and where in the API an object belongs.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

/// The documents of a YAML or JSON text, without empty ones.
pub fn parse(text: &str) -> Result<Vec<Value>> {
    let mut documents = Vec::new();
    for (number, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let document = Value::deserialize(document)
            .with_context(|| format!("document {} is not YAML", number + 1))?;
        if !document.is_null() {
            documents.push(document);
        }
    }
    Ok(documents)
}

/// The API path of an object. `resources` yields the APIResourceList at a path such as
/// `/apis/apps/v1`, which says what the kind is called there and whether it lies in namespaces.
pub fn path(
    object: &Value,
    default_namespace: &str,
    mut resources: impl FnMut(&str) -> Result<Value>,
) -> Result<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let version =
        text(&object["apiVersion"]).with_context(|| format!("no apiVersion in {object}"))?;
    let kind = text(&object["kind"]).with_context(|| format!("no kind in {object}"))?;
    let name = text(&object["metadata"]["name"])
        .with_context(|| format!("no metadata.name in {object}"))?;
    let group_path =
        if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let list = resources(&group_path)?;
    // Subresources (`pods/status`) are of the same list, some of them with the kind of their
    // resource.
    let is_it = |resource: &&Value| {
        resource["kind"] == kind.as_str()
            && !resource["name"].as_str().is_some_and(|name| name.contains('/'))
    };
    let Some(resource) = list["resources"].as_array().into_iter().flatten().find(is_it) else {
        bail!("the API server has no kind {kind} in {version}");
    };
    let plural = resource["name"].as_str().context("a resource without a name")?;
    if resource["namespaced"] != true {
        return Ok(format!("{group_path}/{plural}/{name}"));
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or(default_namespace);
    Ok(format!("{group_path}/namespaces/{namespace}/{plural}/{name}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn empty_documents_are_skipped_and_json_is_yaml() {
        let documents = parse("---\n# only a comment\n---\na: 1\n---\n{\"b\": [2]}\n").unwrap();
        assert_eq!(documents, [json!({"a": 1}), json!({"b": [2]})]);
    }

    #[test]
    fn a_path_is_made_of_what_the_api_server_calls_the_kind() {
        let lists = |path: &str| -> Result<Value> {
            Ok(match path {
                "/api/v1" => json!({"resources": [
                    {"name": "namespaces", "kind": "Namespace", "namespaced": false},
                    {"name": "services/status", "kind": "Service", "namespaced": true},
                    {"name": "services", "kind": "Service", "namespaced": true},
                ]}),
                _ => {
                    json!({"resources": [{"name": "leases", "kind": "Lease", "namespaced": true}]})
                }
            })
        };
        let of = |object: Value| path(&object, "default", lists);
        let service =
            |metadata: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata});
        assert_eq!(
            of(service(json!({"name": "tokyo"}))).unwrap(),
            "/api/v1/namespaces/default/services/tokyo"
        );
        assert_eq!(
            of(service(json!({"name": "tokyo", "namespace": "m"}))).unwrap(),
            "/api/v1/namespaces/m/services/tokyo"
        );
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "m"}});
        assert_eq!(of(namespace).unwrap(), "/api/v1/namespaces/m");
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "atlas"}});
        assert_eq!(
            of(lease).unwrap(),
            "/apis/coordination.k8s.io/v1/namespaces/default/leases/atlas"
        );
        let unknown = json!({"apiVersion": "v1", "kind": "Servise", "metadata": {"name": "tokyo"}});
        assert!(of(unknown).unwrap_err().to_string().contains("no kind Servise in v1"));
    }
}
