//! Kubernetes without nodes: the real etcd, kube-apiserver and kube-controller-manager.
//!
//! ```text
//! etcd (loopback, no fsync) ◀─ kube-apiserver (TLS, RBAC) ◀─ kube-controller-manager
//!                                   ▲ address(), kubeconfigs, Client
//! ```
//!
//! It has the API with validation, admission (PodSecurity too), RBAC, watches, ServiceAccount
//! tokens, the garbage collector, EndpointSlices of Services, and the deletion of namespaces. It
//! has no scheduler, no kubelets, no kube-proxy (so cluster IPs don't work), and no controllers
//! that create Pods. [`Client::pod_with_ip`] writes a Pod as a kubelet would, and
//! [`Kubelet`](super::Kubelet) imitates one.
//!
//! A [`Kube`] dereferences to its admin's [`Client`]: `kube.get(path)`, `kube.apply(yaml)`.

mod client;
mod files;
pub mod manifest;
mod pods;
mod programs;

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process::{Proc, wait_until};
use crate::world::Host;
use files::Files;

pub use client::{Client, PERSON};
pub use pods::{NODE, NamedPort};
pub use programs::Pace;

/// The port of the API server.
pub const PORT: u16 = 6443;

/// Time limit until Kubernetes is ready. On a busy machine that takes several times as long as on
/// an idle one.
const START: Duration = Duration::from_secs(90);

/// A running Kubernetes. Dropping it ends its processes.
#[derive(Debug)]
pub struct Kube {
    /// kube-controller-manager.
    pub controllers: Proc,
    /// kube-apiserver.
    pub api: Proc,
    pub etcd: Proc,
    host: Host,
    files: Files,
    client: Client,
}

impl Deref for Kube {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Kube {
    /// Starts it on a host of a private world, waits until it is ready, and prints on standard
    /// error how long that took.
    ///
    /// # Errors
    /// A part can't be fetched, or a program doesn't start; the error has the end of its log.
    pub fn start(host: &Host) -> Result<Self> {
        Self::start_at(host, Pace::Hurried)
    }

    /// [`Kube::start`] with a given pace of the controllers.
    ///
    /// # Errors
    /// As [`Kube::start`].
    pub fn start_at(host: &Host, pace: Pace) -> Result<Self> {
        let started = Instant::now();
        let address = SocketAddr::new(host.ip().into(), PORT);
        let files = Files::write(host, address)?;
        let client = Client::new(host, address, &files.ca, files::ADMIN_TOKEN)?;
        let etcd = host.spawn("etcd", &programs::etcd(&data(host))?)?;
        // It waits for etcd itself.
        let mut api =
            host.spawn("kube-apiserver", &programs::api_server(host, address, &files)?)?;
        wait_api(&mut api, &client)?;
        client.make_node()?;
        // This one waits for the API server only briefly.
        let mut controllers =
            host.spawn("kube-controller-manager", &programs::controller_manager(&files, pace)?)?;
        wait_controllers(&mut controllers, &client)?;
        eprintln!(
            "Kubernetes is ready on {address} after {:.1} s",
            started.elapsed().as_secs_f32()
        );
        Ok(Self { controllers, api, etcd, host: host.clone(), files, client })
    }

    /// The admin's client; clone it to keep it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// A kubeconfig of a member of `system:masters`.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.files.admin_kubeconfig.clone()
    }

    /// A kubeconfig with a token of a ServiceAccount; its namespace is the ServiceAccount's.
    ///
    /// # Errors
    /// There is no such ServiceAccount.
    pub fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self.token_of(namespace, name, None)?;
        let text = files::kubeconfig(self.address(), self.ca(), namespace, &token);
        self.host.write(&format!("kube/{namespace}-{name}.kubeconfig"), text)
    }

    /// A client with a token of a ServiceAccount.
    ///
    /// # Errors
    /// There is no such ServiceAccount.
    pub fn client_for_service_account(&self, namespace: &str, name: &str) -> Result<Client> {
        self.client.with_token(&self.token_of(namespace, name, None)?)
    }

    /// Kills the API server (SIGKILL): connections break, new ones are refused. etcd keeps the
    /// objects.
    ///
    /// # Errors
    /// It can't be killed.
    pub fn stop_api(&mut self) -> Result<()> {
        self.api.kill()
    }

    /// Starts the API server again, and waits until it is ready.
    ///
    /// # Errors
    /// It isn't ready in time.
    pub fn start_api(&mut self) -> Result<()> {
        self.api.restart()?;
        wait_api(&mut self.api, &self.client)
    }

    /// Sends the API server SIGSTOP: the kernel still accepts connections, but nothing answers.
    ///
    /// # Errors
    /// It isn't running.
    pub fn pause_api(&mut self) -> Result<()> {
        self.api.pause()
    }

    /// Sends SIGCONT, after [`Kube::pause_api`].
    ///
    /// # Errors
    /// It isn't running.
    pub fn resume_api(&mut self) -> Result<()> {
        self.api.resume()
    }

    /// Restarts all programs with an empty etcd, as a cluster that was set up anew under the same
    /// address. The keys stay, but tokens of deleted ServiceAccounts are refused.
    ///
    /// # Errors
    /// A program doesn't start.
    pub fn restart_empty(&mut self) -> Result<()> {
        self.controllers.kill()?;
        self.api.kill()?;
        self.etcd.kill()?;
        let data = data(&self.host);
        match fs::remove_dir_all(&data) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", data.display()))?
            }
            _ => {}
        }
        self.etcd.restart()?;
        self.start_api()?;
        self.client.make_node()?;
        self.controllers.restart()?;
        wait_controllers(&mut self.controllers, &self.client)
    }

    /// Creates a namespace with these labels and waits until Pods can be made in it.
    ///
    /// # Errors
    /// It can't be created.
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let labels = crate::run::labels(labels.iter().copied());
        let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.apply_objects(name, &[namespace])?;
        wait_default_service_account(&self.client, name)
    }
}

fn data(host: &Host) -> PathBuf {
    Path::new(host.dir()).join("kube/etcd")
}

fn wait_api(api: &mut Proc, client: &Client) -> Result<()> {
    api.wait_until("GET /readyz says ok", START, || {
        let answer = client.request("GET", "/readyz", None)?;
        ensure!(answer.status == 200, "status {}: {}", answer.status, answer.text());
        Ok(Some(()))
    })
}

/// Waits for the first object that the controllers create, since their health port isn't served.
fn wait_controllers(controllers: &mut Proc, client: &Client) -> Result<()> {
    controllers.wait_until("the controllers work", START, || {
        client.find(&default_service_account("default")).map(|found| found.map(drop))
    })
}

/// Waits for a namespace's default ServiceAccount, which a controller creates and Pods need.
fn wait_default_service_account(client: &Client, namespace: &str) -> Result<()> {
    let path = default_service_account(namespace);
    wait_until(&format!("{path} is there"), START, || {
        client.find(&path).map(|found| found.map(drop))
    })
}

fn default_service_account(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/serviceaccounts/default")
}
