//! Pods as a kubelet would report them: an object and its status, without a container.
//!
//! All are on [`NODE`], a Node object without a machine, since the EndpointSlice controller ignores
//! Pods of unknown nodes.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Client, wait_default_service_account};

/// The node that Pods are on.
pub const NODE: &str = "lab";

/// A container port: a name for Services' `targetPort`, and the number.
pub type NamedPort<'a> = (&'a str, u16);

impl Client {
    /// Makes a running, ready Pod with this address, so that Services that select it get it as an
    /// endpoint. An equal Pod that exists already is reused.
    pub fn pod_with_ip(
        &self,
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
        ip: IpAddr,
        ports: &[NamedPort<'_>],
    ) -> Result<Value> {
        let ports: Vec<Value> = ports
            .iter()
            .map(|(name, port)| json!({ "name": name, "containerPort": port }))
            .collect();
        let template = json!({
            "metadata": { "labels": crate::run::labels(labels.iter().copied()) },
            "spec": {
                "containers": [{ "name": "main", "image": "example.invalid/none", "ports": ports }],
                // Otherwise its deletion would wait for a kubelet.
                "terminationGracePeriodSeconds": 0,
            },
        });
        let pod = self.pod_of_template(namespace, name, &template)?;
        self.report_pod(namespace, name, ip, true)?;
        Ok(pod)
    }

    /// Makes the Pod of a template, such as a Deployment's; its status is Pending.
    pub(in crate::run) fn pod_of_template(
        &self,
        namespace: &str,
        name: &str,
        template: &Value,
    ) -> Result<Value> {
        wait_default_service_account(self, namespace)?;
        let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"] });
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["namespace"] = json!(namespace);
        pod["spec"]["nodeName"] = json!(NODE);
        let mut applied = self.apply_as("kubelet", true, namespace, &[pod])?;
        applied.pop().context("BUG: one object applied, none returned")
    }

    pub(super) fn make_node(&self) -> Result<()> {
        self.apply(&format!("{{apiVersion: v1, kind: Node, metadata: {{name: {NODE}}}}}")).map(drop)
    }

    /// Writes the status of a running Pod.
    pub fn report_pod(&self, namespace: &str, name: &str, ip: IpAddr, ready: bool) -> Result<()> {
        let condition = |kind: &str, is_so: bool| json!({ "type": kind, "status": if is_so { "True" } else { "False" } });
        let conditions = [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ];
        let status = json!({ "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "hostIP": ip, "conditions": conditions });
        self.patch_status(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), &status).map(drop)
    }
}
