//! The command lines of etcd, kube-apiserver and kube-controller-manager.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::files::{Files, SERVICE_RANGE};
use crate::parts::{self, Part};
use crate::world::Host;

/// etcd's address: on its host's loopback, since it has no authentication.
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";

/// The controllers that Atlas and its charts need. Without nodes, the controllers that create Pods
/// (of Deployments, StatefulSets, …) would only create Pods that stay pending.
const CONTROLLERS: [&str; 6] = [
    "clusterrole-aggregation-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
];

pub fn etcd(data: &Path) -> Result<Command> {
    let mut command = Command::new(parts::get(Part::Etcd)?);
    command.arg(format!("--data-dir={}", data.display()));
    command
        .args([format!("--listen-client-urls={ETCD}"), format!("--advertise-client-urls={ETCD}")]);
    command.args([
        format!("--listen-peer-urls={ETCD_PEERS}"),
        format!("--initial-advertise-peer-urls={ETCD_PEERS}"),
    ]);
    command.arg(format!("--initial-cluster=default={ETCD_PEERS}"));
    // A world's data needn't survive a crash of the machine.
    command.args(["--unsafe-no-fsync", "--log-level=warn"]);
    Ok(command)
}

pub fn api_server(host: &Host, address: SocketAddr, files: &Files) -> Result<Command> {
    let mut command = Command::new(parts::get(Part::KubeApiserver)?);
    let file = |path: &Path| path.to_str().map(str::to_owned).context("a path that is not UTF-8");
    for (flag, value) in [
        ("etcd-servers", ETCD.to_owned()),
        ("bind-address", "::".to_owned()),
        ("secure-port", address.port().to_string()),
        ("advertise-address", host.ip().to_string()),
        ("tls-cert-file", file(&files.certificate)?),
        ("tls-private-key-file", file(&files.key)?),
        ("authorization-mode", "RBAC".to_owned()),
        ("anonymous-auth", "false".to_owned()),
        ("token-auth-file", file(&files.tokens)?),
        ("service-account-issuer", "https://kubernetes.default.svc.cluster.local".to_owned()),
        ("service-account-signing-key-file", file(&files.service_account_key)?),
        ("service-account-key-file", file(&files.service_account_public_key)?),
        ("service-cluster-ip-range", SERVICE_RANGE.to_owned()),
        ("v", "0".to_owned()),
    ] {
        command.arg(format!("--{flag}={value}"));
    }
    Ok(command)
}

/// The controllers for Endpoints, which most clusters have beside EndpointSlices.
const OLDER_CONTROLLERS: [&str; 2] = ["endpoints-controller", "endpointslice-mirroring-controller"];

/// How fast kube-controller-manager may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Without rate limits, so that tests needn't wait for it.
    Hurried,
    /// The default of 20 requests a second for each controller, and with the controllers for
    /// Endpoints.
    AsShipped,
}

pub fn controller_manager(files: &Files, pace: Pace) -> Result<Command> {
    let mut command = Command::new(parts::get(Part::KubeControllerManager)?);
    command.arg(format!("--kubeconfig={}", files.admin_kubeconfig.display()));
    command.arg(format!("--root-ca-file={}", files.ca_file.display()));
    let mut controllers = CONTROLLERS.to_vec();
    command.args(["--leader-elect=false", "--secure-port=0"]);
    match pace {
        Pace::Hurried => _ = command.args(["--kube-api-qps=1000", "--kube-api-burst=1000"]),
        Pace::AsShipped => controllers.extend(OLDER_CONTROLLERS),
    }
    command.arg(format!("--controllers={}", controllers.join(",")));
    Ok(command)
}
