//! Atlas itself.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http::{self, Response};
use crate::process::Proc;
use crate::run::START;
use crate::world::Host;

/// How Atlas is started.
#[derive(Clone, Debug)]
pub struct AtlasOptions {
    /// The binary.
    pub program: PathBuf,
    /// Directory of manifests.
    pub from: PathBuf,
    /// State directory.
    pub state: PathBuf,
    /// Where it listens.
    pub listen: IpAddr,
    /// More arguments of `atlas run`.
    pub extra: Vec<String>,
}

/// A running Atlas.
#[derive(Debug)]
pub struct Atlas {
    pub process: Proc,
    /// How it was started.
    pub options: AtlasOptions,
    host: Host,
}

impl Atlas {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It doesn't start; the error has the end of its log.
    pub fn start(host: &Host, name: &str, options: AtlasOptions) -> Result<Self> {
        let mut command = Command::new(&options.program);
        command.arg("run").arg("--from").arg(&options.from).arg("--state").arg(&options.state);
        command.arg("--listen-address").arg(options.listen.to_string()).args(&options.extra);
        let process = host.spawn(name, &command)?;
        let mut atlas = Self { process, options, host: host.clone() };
        atlas.wait_ready()?;
        Ok(atlas)
    }

    /// Waits for `/readyz`.
    ///
    /// # Errors
    /// It ends, or takes too long.
    pub fn wait_ready(&mut self) -> Result<()> {
        let (host, url) = (self.host.clone(), self.url(6309, "/readyz"));
        self.process.wait_until("Atlas is ready", START, || {
            let answer = host.within(|| http::get(&url))?;
            ensure!(answer.status == 200, "{}", answer.text());
            Ok(Some(()))
        })
    }

    /// `GET` on one of its ports.
    ///
    /// # Errors
    /// No answer.
    pub fn get(&self, port: u16, path: &str) -> Result<Response> {
        let url = self.url(port, path);
        self.host.within(|| http::get(&url))
    }

    /// `atlas status -o json`.
    ///
    /// # Errors
    /// The command fails; "something is rejected" (3) is no failure.
    pub fn status(&self) -> Result<Value> {
        serde_json::from_str(&self.command(&["status", "-o", "json"])?)
            .context("atlas status printed no JSON")
    }

    /// Runs another command of Atlas on the same state directory; returns what it prints.
    ///
    /// # Errors
    /// Exit codes other than 0 (done) and 3 (done, something is rejected).
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.options.program)
            .args(arguments)
            .arg("--state")
            .arg(&self.options.state)
            .output()?;
        let code = output.status.code();
        ensure!(
            matches!(code, Some(0 | 3)),
            "atlas {arguments:?} ended with {code:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The bootstrap file of a node, which the running Atlas writes.
    pub fn bootstrap(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("envoy.yaml")
    }

    /// The directory of a node's files.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.options.state.join("nodes").join(node)
    }

    /// Writes a manifest into its directory, atomically.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write_manifest(&self, name: &str, text: &str) -> Result<()> {
        let path = self.options.from.join(name);
        let half = self.options.from.join(format!(".{name}.new"));
        std::fs::write(&half, text)
            .and_then(|()| std::fs::rename(&half, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes a manifest.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn remove_manifest(&self, name: &str) -> Result<()> {
        let path = self.options.from.join(name);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Kills it (SIGKILL) and starts it again.
    ///
    /// # Errors
    /// It doesn't get ready in time.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.restart()?;
        self.wait_ready()
    }

    fn url(&self, port: u16, path: &str) -> String {
        format!("http://{}{path}", std::net::SocketAddr::new(self.options.listen, port))
    }
}
