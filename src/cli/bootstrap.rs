//! `atlas bootstrap`

use std::path::PathBuf;

use anyhow::Context;
use atlas_core::name::NodeId;
use clap::Args;

use super::Outcome;
use crate::nodefiles;
use crate::state_dir::StateDir;

/// Say what the Envoy of a node starts from: envoy.yaml with the credential that opens its xDS stream.
///
/// Without --out, the files stay in the state directory, where a running Atlas renews the credential and an Envoy on this
/// machine notices. With --out, they are copied there with private permissions, to be carried to the node's machine; keep
/// them secret, and copy them again before the credential ends (`atlas status` says when).
#[derive(Debug, Args)]
pub struct Bootstrap {
    /// `hub`, or a cluster's name.
    node: NodeId,
    /// The state directory of `atlas run`. It may be running.
    #[arg(long, value_name = "DIR", env = "ATLAS_STATE")]
    state: PathBuf,
    /// Copy the files to this directory.
    #[arg(long, value_name = "DIR", env = "ATLAS_OUT")]
    out: Option<PathBuf>,
    /// The directory as the Envoy will see it, e.g. /etc/envoy [default: where --out is].
    #[arg(long, value_name = "PATH", requires = "out", env = "ATLAS_CREDENTIAL_DIR")]
    credential_dir: Option<String>,
}

impl Bootstrap {
    /// Prints the path of the bootstrap file.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let state = StateDir::at(&self.state)?;
        let dir = match self.out {
            None => nodefiles::existing(&state, &self.node)?,
            Some(out) => {
                let out = std::path::absolute(&out).with_context(|| format!("--out {}", out.display()))?;
                let seen_as = self.credential_dir.unwrap_or_else(|| out.display().to_string());
                nodefiles::copy(&state, &self.node, &out, seen_as.trim_end_matches('/'))?;
                out
            }
        };
        println!("{}", dir.join("envoy.yaml").display());
        eprintln!("start its Envoy with: envoy -c {}", dir.join("envoy.yaml").display());
        Ok(Outcome::Done)
    }
}
