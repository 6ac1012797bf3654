//! Imitates a kubelet: runs a Deployment's first container as a process on a [`Host`], with a Pod
//! object.
//!
//! ```text
//! rendered Deployment ─▶ Pod object ─▶ with the token volume ─▶ env, command, volumes ─▶ process
//!                           ▲          (by admission)                        ▲
//!                           └─ status: Ready by the readiness probe          └─ Secrets, every 200 ms
//! ```
//!
//! Like a kubelet it waits for Secrets and ConfigMaps that are not optional; mounts volumes in a
//! mount namespace of the Pod, as directories whose files change atomically (by the `..data` link);
//! requests a token bound to the Pod; resolves `env` with `fieldRef` and `$(NAME)`; probes
//! readiness; and ends a Pod by SIGTERM within its grace period.
//!
//! It has no images (the caller names the program, which replaces the image's entrypoint or
//! `command[0]`), users, capabilities, read-only root file systems, limits, liveness probes,
//! further containers and `subPath`. It ignores a probe's thresholds. It restarts nothing by
//! itself: see [`Pod::restart`].
//!
//! It reaches the API server from the API server's own host, so it works while the link of the
//! Pod's host is down.

mod mounts;
mod probe;
mod spec;
mod volume;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::kube::{Client, Kube};
use crate::process::{Proc, wait_until};
use crate::world::Host;
use probe::Probe;
use volume::Volume;

/// Between two reads of the API, and between two readiness probes.
const POLL: Duration = Duration::from_millis(200);

/// How long it waits for a Secret, a ConfigMap or a Pod's namespace.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Kubelet;

/// Options of a Pod.
#[derive(Debug, Clone, Default)]
pub struct PodOptions {
    /// The Pod's address, one that the host has; `None`: the host's first.
    pub ip: Option<IpAddr>,
    /// Variables beside those of the template, such as `RUST_LOG`.
    pub env: Vec<(String, String)>,
}

/// A running Pod. Dropping it kills the process and leaves the Pod object unchanged, like the loss
/// of a node.
#[derive(Debug)]
pub struct Pod {
    /// Its process. Its log is `<pod name>.log` in the host's directory.
    pub process: Proc,
    shared: Arc<Shared>,
    state: PathBuf,
    volumes: Vec<(PathBuf, PathBuf)>,
    grace: Duration,
    thread: Option<JoinHandle<()>>,
}

/// The state that the Pod shares with its thread.
#[derive(Debug)]
struct Shared {
    client: Client,
    host: Host,
    namespace: String,
    name: String,
    ip: IpAddr,
    probe: Probe,
    readiness: Mutex<Readiness>,
    ended: AtomicBool,
}

#[derive(Debug)]
struct Readiness {
    /// Set by [`Pod::set_ready`]; overrides the probe.
    forced: Option<bool>,
    /// False once the process was stopped or killed here.
    alive: bool,
    reported: Option<bool>,
}

impl Kubelet {
    /// Runs the first container of a Deployment (or whatever else has a Pod template) as `program`
    /// on `host`. Its ServiceAccount and its RBAC must have been applied before.
    ///
    /// # Errors
    /// The Pod is rejected or uses something that isn't imitated, or a Secret that it mounts
    /// doesn't appear in time.
    pub fn run(
        kube: &Kube,
        host: &Host,
        deployment: &Value,
        pod_name: &str,
        program: &Path,
    ) -> Result<Pod> {
        Self::run_with(kube, host, deployment, pod_name, program, &PodOptions::default())
    }

    /// [`Kubelet::run`] with options.
    ///
    /// # Errors
    /// As [`Kubelet::run`].
    pub fn run_with(
        kube: &Kube,
        host: &Host,
        deployment: &Value,
        pod_name: &str,
        program: &Path,
        options: &PodOptions,
    ) -> Result<Pod> {
        run(kube.client(), host, deployment, pod_name, program, options)
            .with_context(|| format!("the Pod {pod_name}"))
    }
}

fn run(
    client: &Client,
    host: &Host,
    deployment: &Value,
    name: &str,
    program: &Path,
    options: &PodOptions,
) -> Result<Pod> {
    let namespace = deployment["metadata"]["namespace"]
        .as_str()
        .context("the Deployment names no metadata.namespace")?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    // A Pod object that a dropped `Pod` left.
    if client.find(&path)?.is_some() {
        client.delete(&format!("{path}?gracePeriodSeconds=0"))?;
        client.wait_gone(&path, PATIENCE)?;
    }
    let pod = client.pod_of_template(namespace, name, &deployment["spec"]["template"])?;
    ensure!(
        pod["spec"]["initContainers"].is_null(),
        "this imitation of a kubelet runs no init containers"
    );
    let container = &pod["spec"]["containers"][0];
    let ip = options.ip.unwrap_or(host.ip().into());

    let state = host.dir().join("pods").join(name);
    let mut volumes = Volume::of_pod(&pod, container, &state)?;
    for volume in &mut volumes {
        let what = format!("all that is mounted at {} is there", volume.mount_path.display());
        wait_until(&what, PATIENCE, || volume.refresh(client).map(Some))?;
    }

    let api = client.address();
    let service = [
        ("KUBERNETES_SERVICE_HOST".to_owned(), api.ip().to_string()),
        ("KUBERNETES_SERVICE_PORT".into(), api.port().to_string()),
    ];
    let mut env = spec::env(&pod, container, ip, service)?;
    env.extend(options.env.iter().cloned());
    let arguments = spec::arguments(container, &env);
    let command = mounts::command(host, &state, &volumes, &env, program, &arguments)?;
    mounts::forget_start(&state)?;
    let mut process = host.spawn(name, &command)?;
    mounts::wait_started(&mut process, &state)?;

    let readiness = Readiness { forced: None, alive: true, reported: None };
    let shared = Arc::new(Shared {
        client: client.clone(),
        host: host.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ip,
        probe: Probe::of(container, ip)?,
        readiness: Mutex::new(readiness),
        ended: AtomicBool::new(false),
    });
    shared.report()?;
    let mounted = volumes
        .iter()
        .map(|volume| (volume.mount_path.clone(), volume.directory.clone()))
        .collect();
    let thread = thread::spawn({
        let shared = Arc::clone(&shared);
        move || shared.keep(&mut volumes)
    });
    let grace =
        Duration::from_secs(pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30));
    Ok(Pod { process, shared, state, volumes: mounted, grace, thread: Some(thread) })
}

impl Shared {
    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name)
    }

    fn readiness(&self) -> MutexGuard<'_, Readiness> {
        self.readiness.lock().expect("BUG: a thread panicked with the readiness in hand")
    }

    /// Writes its readiness to the API if it has changed.
    fn report(&self) -> Result<()> {
        let mut readiness = self.readiness();
        let ready = readiness.forced.unwrap_or_else(|| {
            readiness.alive && self.host.within(|| Ok(self.probe.succeeds())).unwrap_or(false)
        });
        if readiness.reported != Some(ready) {
            self.client.report_pod(&self.namespace, &self.name, self.ip, ready)?;
            readiness.reported = Some(ready);
        }
        Ok(())
    }

    /// Updates the mounted files and the status. Failed requests are tried again at the next poll.
    fn keep(&self, volumes: &mut [Volume]) {
        while !self.ended.load(Ordering::Relaxed) {
            for volume in volumes.iter_mut() {
                let _ = volume.refresh(&self.client);
            }
            let _ = self.report();
            thread::sleep(POLL);
        }
    }
}

impl Pod {
    /// The Pod object's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.shared.ip
    }

    /// The Pod object as it is in the API.
    ///
    /// # Errors
    /// It is gone.
    pub fn object(&self) -> Result<Value> {
        self.shared.client.get(&self.shared.path())
    }

    /// The directory, for the test itself, of the volume that the container has at `mount_path`.
    pub fn volume(&self, mount_path: &str) -> Option<&Path> {
        self.volumes
            .iter()
            .find(|(at, _)| at == Path::new(mount_path))
            .map(|(_, directory)| directory.as_path())
    }

    /// Waits until the API says that it is ready.
    ///
    /// # Errors
    /// It isn't in time, or the process ended.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<()> {
        let shared = &self.shared;
        self.process.wait_until("the Pod is ready", timeout, || {
            Ok((shared.readiness().reported == Some(true)).then_some(()))
        })
    }

    /// Reports it as ready or not, independent of its probe, until [`Pod::follow_probe`].
    ///
    /// # Errors
    /// The API server rejects the report; it is tried again.
    pub fn set_ready(&self, ready: bool) -> Result<()> {
        self.shared.readiness().forced = Some(ready);
        self.shared.report()
    }

    /// Reports the probe's result again.
    ///
    /// # Errors
    /// As [`Pod::set_ready`].
    pub fn follow_probe(&self) -> Result<()> {
        self.shared.readiness().forced = None;
        self.shared.report()
    }

    /// Kills the process, as the kernel does when memory runs out; the Pod is then not ready. A
    /// kubelet would next do [`Pod::restart`].
    ///
    /// # Errors
    /// It can't be killed, or the report is rejected.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.shared.readiness().alive = false;
        self.shared.report()
    }

    /// Starts the container again in the same Pod: same name, address, volumes and token.
    ///
    /// # Errors
    /// It can't be started.
    pub fn restart(&mut self) -> Result<()> {
        mounts::forget_start(&self.state)?;
        self.process.restart()?;
        mounts::wait_started(&mut self.process, &self.state)?;
        self.shared.readiness().alive = true;
        Ok(())
    }

    /// Ends the Pod as its deletion does: it is no longer an endpoint, gets SIGTERM, and SIGKILL
    /// after its grace period. Then the object is deleted, which ends the token's validity. Returns
    /// the exit status.
    ///
    /// # Errors
    /// The API server does not answer, or the process has ended before.
    pub fn stop(mut self) -> Result<ExitStatus> {
        let (client, path) = (&self.shared.client, self.shared.path());
        client.delete(&path)?;
        let status = self.process.stop(self.grace)?;
        self.shared.ended.store(true, Ordering::Relaxed);
        client.delete(&format!("{path}?gracePeriodSeconds=0"))?;
        Ok(status)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread's panic is reported by the failing test.
            let _ = thread.join();
        }
    }
}
