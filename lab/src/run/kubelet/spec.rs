//! The environment and the arguments of a container.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Variables in order; of two with the same name the later one is used.
pub type Env = Vec<(String, String)>;

/// The container's environment, after the variables that every container gets. It inherits nothing
/// from the test.
pub fn env(
    pod: &Value,
    container: &Value,
    ip: IpAddr,
    cluster: impl IntoIterator<Item = (String, String)>,
) -> Result<Env> {
    let mut env: Env = vec![
        ("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
        ("HOME".into(), "/".into()),
        ("HOSTNAME".into(), pod["metadata"]["name"].as_str().unwrap_or_default().into()),
    ];
    env.extend(cluster);
    ensure!(container["envFrom"].is_null(), "this imitation of a kubelet knows no envFrom");
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().context("a variable without a name")?;
        let source = &variable["valueFrom"];
        let value = match source["fieldRef"]["fieldPath"].as_str() {
            Some(path) => field(pod, ip, path).with_context(|| format!("the variable {name}"))?,
            None if source.is_null() => {
                expanded(variable["value"].as_str().unwrap_or_default(), &env)
            }
            None => bail!(
                "the variable {name} has a source that this imitation of a kubelet does not know: {source}"
            ),
        };
        env.push((name.to_owned(), value));
    }
    Ok(env)
}

/// A field of the downward API: <https://kubernetes.io/docs/concepts/workloads/pods/downward-api/>.
pub fn field(pod: &Value, ip: IpAddr, path: &str) -> Result<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let in_map = |map: &str| path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = in_map("metadata.labels") {
        return Ok(text(&pod["metadata"]["labels"][key]));
    }
    if let Some(key) = in_map("metadata.annotations") {
        return Ok(text(&pod["metadata"]["annotations"][key]));
    }
    match path {
        "metadata.name" => Ok(text(&pod["metadata"]["name"])),
        "metadata.namespace" => Ok(text(&pod["metadata"]["namespace"])),
        "metadata.uid" => Ok(text(&pod["metadata"]["uid"])),
        "spec.serviceAccountName" => Ok(text(&pod["spec"]["serviceAccountName"])),
        "spec.nodeName" => Ok(text(&pod["spec"]["nodeName"])),
        "status.podIP" | "status.podIPs" | "status.hostIP" | "status.hostIPs" => Ok(ip.to_string()),
        _ => bail!("there is no field {path} in the downward API"),
    }
}

/// The program's arguments: `command` without its first element, and `args`.
pub fn arguments(container: &Value, env: &Env) -> Vec<String> {
    let texts =
        |key: &str| container[key].as_array().into_iter().flatten().filter_map(Value::as_str);
    texts("command").skip(1).chain(texts("args")).map(|argument| expanded(argument, env)).collect()
}

/// `$(NAME)` becomes the variable's value where there is such a variable, `$$` a dollar sign.
fn expanded(text: &str, env: &Env) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        result.push_str(&rest[..start]);
        let behind = &rest[start + 1..];
        let name = behind.strip_prefix('(').and_then(|behind| behind.split_once(')'));
        let value = name.and_then(|(name, _)| env.iter().rev().find(|(key, _)| key == name));
        rest = match (name, value) {
            _ if behind.starts_with('$') => {
                result.push('$');
                &behind[1..]
            }
            (Some((_, behind)), Some((_, value))) => {
                result.push_str(value);
                behind
            }
            _ => {
                result.push('$');
                behind
            }
        };
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variables_and_arguments_are_resolved() {
        let container = json!({
            "command": ["/usr/bin/envoy", "--config-path"],
            "args": ["$(DIR)/envoy.yaml", "$$(DIR)", "$(NOBODY) $"],
            "env": [
                {"name": "BASE", "value": "/etc"},
                {"name": "DIR", "value": "$(BASE)/atlas"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app.kubernetes.io/name']"}}},
            ],
        });
        let pod =
            json!({"metadata": {"name": "atlas-0", "labels": {"app.kubernetes.io/name": "atlas"}}});
        let env = env(
            &pod,
            &container,
            [10, 91, 1, 1].into(),
            [("KUBERNETES_SERVICE_PORT".to_owned(), "6443".to_owned())],
        )
        .unwrap();
        let of =
            |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        assert_eq!((of("HOSTNAME"), of("DIR")), (Some("atlas-0"), Some("/etc/atlas")));
        assert_eq!(
            (of("IP"), of("APP"), of("KUBERNETES_SERVICE_PORT")),
            (Some("10.91.1.1"), Some("atlas"), Some("6443"))
        );
        assert_eq!(
            arguments(&container, &env),
            ["--config-path", "/etc/atlas/envoy.yaml", "$(DIR)", "$(NOBODY) $"]
        );
    }

    #[test]
    fn what_is_not_known_is_named() {
        let source = json!({"env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]});
        let error = env(&json!({}), &source, [10, 91, 1, 1].into(), []).unwrap_err().to_string();
        assert!(error.contains("KEY") && error.contains("secretKeyRef"), "{error}");
    }
}
