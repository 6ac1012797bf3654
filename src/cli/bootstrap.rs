//! `atlas bootstrap`

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use atlas_core::install::bootstrap_files::FILES;
use atlas_core::install::helm_values::VALUES;
use atlas_core::install::manifests::{files_in_values, replace_directory};
use atlas_core::kubernetes::derived_objects::values_secret_name;
use atlas_core::name::NodeId;
use clap::Args;

use super::Outcome;
use super::flags::kubernetes::HubArgs;
use super::output::{say, wrong_usage};
use crate::standalone::bootstrap_files;
use crate::standalone::state_dir::{StateDir, make_private_dir, write_private};

const EXAMPLE: &str = "\
Example:
  atlas bootstrap tokyo --out tokyo --credential-dir /etc/envoy                   of the hub's Kubernetes cluster
  atlas bootstrap tokyo --state state --out tokyo --credential-dir /etc/envoy     of a state directory
For an Envoy in Kubernetes, `atlas cluster-values` prints what Helm needs.";

/// Say what the Envoy of a node starts from: envoy.yaml with the credential that opens its xDS
/// stream.
///
/// With --out, the files are written there with private permissions, to be carried to the node's
/// machine; keep them secret, and write them again before the credential ends (`atlas status` says
/// when). Without --out, the files stay in the state directory, where a running Atlas renews the
/// credential and an Envoy on this machine notices.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Bootstrap {
    /// `hub`, or a cluster's name.
    node: NodeId,
    /// The state directory of `atlas run`. It may be running. Without it: the hub's Kubernetes
    /// cluster.
    #[arg(long, value_name = "DIR", env = "ATLAS_STATE")]
    state: Option<PathBuf>,
    /// Write the files to this directory.
    #[arg(long, value_name = "DIR", env = "ATLAS_OUT")]
    out: Option<PathBuf>,
    /// The directory as the Envoy will see it, e.g. /etc/envoy [default: where --out is].
    #[arg(long, value_name = "PATH", requires = "out", env = "ATLAS_CREDENTIAL_DIR")]
    credential_dir: Option<String>,
    #[command(flatten)]
    hub: HubArgs,
}

impl Bootstrap {
    /// Prints the path of the bootstrap file.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let out = self
            .out
            .as_ref()
            .map(|out| std::path::absolute(out).with_context(|| format!("--out {}", out.display())))
            .transpose()?;
        let seen_as = out
            .as_ref()
            .map(|out| self.credential_dir.clone().unwrap_or_else(|| out.display().to_string()))
            .unwrap_or_default();
        let seen_as = seen_as.trim_end_matches('/');
        let dir = match (&self.state, out) {
            (Some(state), None) => bootstrap_files::existing(&StateDir::at(state)?, &self.node)?,
            (Some(state), Some(out)) => {
                bootstrap_files::copy(&StateDir::at(state)?, &self.node, &out, seen_as)?;
                out
            }
            (None, Some(out)) => {
                self.write(&out, seen_as)?;
                out
            }
            (None, None) => {
                return Err(wrong_usage(
                    "--out is missing: say where to write the files (or give --state DIR)",
                ));
            }
        };
        println!("{}", dir.join("envoy.yaml").display());
        say(format_args!("start its Envoy with: envoy -c {}", dir.join("envoy.yaml").display()));
        Ok(Outcome::Done)
    }

    /// Writes the files from the node's Secret, with `seen_as` as their directory.
    fn write(&self, out: &Path, seen_as: &str) -> anyhow::Result<()> {
        let hub = self.hub.connect()?;
        let secret = values_secret_name(&self.node);
        let data = hub.secret(&secret)?.with_context(|| {
            format!(
                "the Secret {secret} is not in {}: Atlas writes it once there is such a cluster (`atlas cluster-list`) and it knows where \
                 the hub is (--hub-address)",
                hub.namespace
            )
        })?;
        let files = files_in_values(data.get(VALUES).map(String::as_str).unwrap_or_default());
        let missing: Vec<&str> =
            FILES.into_iter().filter(|file| !files.contains_key(*file)).collect();
        ensure!(
            missing.is_empty(),
            "the Secret {secret} in {} lacks {}: is an Atlas of this version running?",
            hub.namespace,
            missing.join(", ")
        );
        let files = replace_directory(files, atlas_core::object_names::ENVOY_DIR, seen_as)
            .with_context(|| format!("the Secret {secret} is broken"))?;
        make_private_dir(out)?;
        for name in FILES {
            write_private(
                &out.join(name),
                files.get(name).map(String::as_str).unwrap_or_default(),
            )?;
        }
        Ok(())
    }
}
