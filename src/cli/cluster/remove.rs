//! `atlas cluster-remove`: from a directory here, from a Kubernetes cluster in [`super::hub`].
//!
//! ```text
//! manifest goes ──▶ the running Atlas has noticed ──▶ credentials are forgotten, streams end
//! ```
//!
//! In this order, because an Atlas that still sees the manifest would issue the next credential at once.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use atlas_core::model::Settings;
use atlas_core::name::{ClusterName, NodeId, TrustDomain};
use atlas_core::pki::Lifetimes;
use atlas_core::validate::Severity;
use clap::Args;
use clap::builder::BoolishValueParser;

use super::edit::{self, Edit};
use super::{NameArgs, file, hub, is_cluster, names, services};
use crate::cli::flags::kubernetes::HubArgs;
use crate::cli::output::{complain, say, show};
use crate::cli::{Outcome, socket};
use crate::pki::Pki;
use crate::standalone::last_good_files::LastGoodFiles;
use crate::standalone::pki_directory::PkiDirectory;
use crate::standalone::state_dir::{Lock, StateDir};
use crate::standalone::watch::{self, DirectoryContents};
use crate::web::status::Status;

/// How long a running Atlas may take to notice that a manifest is gone. It reads after a second of changes at the latest.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two questions.
const POLL: Duration = Duration::from_millis(50);

const EXAMPLE: &str = "\
Example:
  atlas cluster-remove tokyo                                  from the hub's Kubernetes cluster
  atlas cluster-remove tokyo --from clusters --state state    from a directory of manifests
Whoever only deletes the Service or manifest ends the cluster's streams too, but its credential then sleeps for 7 days.";

/// Remove a cluster: delete its Service or manifest, forget its credential, and end its streams
///
/// Other documents in the same file stay as they are, byte for byte. The credential counts no more at once, whether or
/// not an Atlas runs; should a cluster of this name come back, it gets a new one.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct ClusterRemove {
    #[command(flatten)]
    name: NameArgs,
    /// Directory of manifests, as in `atlas run`. Without it: the hub's Kubernetes cluster.
    #[arg(long, value_name = "DIR", env = "ATLAS_FROM", requires = "state")]
    from: Option<PathBuf>,
    /// With --from: the state directory of `atlas run`. It may be running.
    #[arg(long, value_name = "DIR", env = "ATLAS_STATE", requires = "from")]
    state: Option<PathBuf>,
    /// First part of every SPIFFE ID, as in `atlas run`.
    #[arg(long, value_name = "DOMAIN", default_value_t = Settings::default().trust_domain, env = "ATLAS_TRUST_DOMAIN")]
    trust_domain: TrustDomain,
    /// Say what would be done, and do nothing.
    #[arg(long, value_parser = BoolishValueParser::new(), env = "ATLAS_DRY_RUN")]
    dry_run: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// What a removal from a directory needs.
struct Desk {
    from: PathBuf,
    state: PathBuf,
    namespace: String,
    trust_domain: TrustDomain,
    dry_run: bool,
}

/// What Atlas keeps of its clusters.
struct Memory {
    state: StateDir,
    running: bool,
    pki: Pki<PkiDirectory>,
    /// Held where no Atlas runs, so that none starts meanwhile.
    _lock: Option<Lock>,
}

impl ClusterRemove {
    /// Removes, forgets, and says so.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let name = self.name.get()?;
        let (Some(from), Some(state)) = (self.from, self.state) else {
            return hub::remove(&self.hub.connect()?, &name, &self.trust_domain, self.dry_run);
        };
        Desk {
            from,
            state,
            namespace: self.hub.namespace,
            trust_domain: self.trust_domain,
            dry_run: self.dry_run,
        }
        .remove(&name)
    }
}

impl Desk {
    fn remove(self, name: &ClusterName) -> anyhow::Result<Outcome> {
        let report = watch::read_once(&self.from)?;
        let mut memory = self.memory()?;
        let manifest = self.next_edit(&report, name)?;
        if manifest.is_none() {
            self.check_known(&report, &memory, name)?;
        }
        if self.dry_run {
            return self.say(manifest.as_ref(), &memory, name);
        }
        let has_something = manifest.is_some() && memory.running || memory.knows(name);
        let report = self.remove_all(manifest, report, name)?;
        if memory.running {
            wait_until_unlisted(&memory.state, name)?;
        }
        if has_something {
            memory
                .forget(name)
                .with_context(|| format!("the manifest of {name} is gone, but its credential still counts: run the same command again"))?;
            show(&format!("forgot the credential of {name}\n"))?;
        } else {
            say(format_args!(
                "there was no credential of {name} in {} to forget",
                memory.state.root().display()
            ));
        }
        Ok(complain(&report.errors, &[], Severity::Rejected))
    }

    fn memory(&self) -> anyhow::Result<Memory> {
        let state = StateDir::at(&self.state)?;
        let running = socket::is_running(&state);
        // Taking the lock makes the directory, which is none of a removal's business.
        let lock = if running || self.dry_run || !state.path("pki").is_dir() {
            None
        } else {
            Some(state.lock()?)
        };
        let directory = if lock.is_some() { PkiDirectory::new } else { PkiDirectory::read_only };
        let pki =
            Pki::load(directory(state.clone()), self.trust_domain.clone(), Lifetimes::default())?;
        Ok(Memory { state, running, pki, _lock: lock })
    }

    /// How the first manifest of the cluster that there is would go.
    fn next_edit(
        &self,
        report: &DirectoryContents,
        name: &ClusterName,
    ) -> anyhow::Result<Option<Edit>> {
        let in_namespace = |namespace: &Option<String>| {
            namespace.as_ref().is_none_or(|namespace| *namespace == self.namespace)
        };
        let found = services(report, name)
            .find(|service| is_cluster(service) && in_namespace(&service.meta.namespace));
        found.map(|service| Edit::remove(&self.from, file(service), name.as_str())).transpose()
    }

    /// Removes the manifest, and then those that only counted less. Returns what there is afterwards.
    fn remove_all(
        &self,
        first: Option<Edit>,
        mut report: DirectoryContents,
        name: &ClusterName,
    ) -> anyhow::Result<DirectoryContents> {
        let mut next = first;
        while let Some(edit) = next {
            edit.apply()?;
            show(&format!("{}\n", done(&edit, name)))?;
            report = watch::read_once(&self.from)?;
            next = self.next_edit(&report, name)?;
        }
        Ok(report)
    }

    /// Without a manifest, there must be something else to remove, and no doubt that there is no manifest.
    fn check_known(
        &self,
        report: &DirectoryContents,
        memory: &Memory,
        name: &ClusterName,
    ) -> anyhow::Result<()> {
        ensure!(
            report.errors.is_empty(),
            "no manifest of {name} can be read from {}, but it may be in what can't be read: mend that first:\n{}",
            self.from.display(),
            edit::lines(&report.errors)
        );
        if memory.knows(name) {
            say(format_args!(
                "there is no manifest of {name} in {}, but Atlas still has its credential",
                self.from.display()
            ));
            return Ok(());
        }
        let elsewhere = services(report, name)
            .filter(|service| is_cluster(service))
            .find_map(|service| service.meta.namespace.as_deref());
        if let Some(other) = elsewhere {
            bail!(
                "there is no cluster {name} in the namespace {}, but one in {other}: say --namespace {other}",
                self.namespace
            );
        }
        let there: Vec<String> = names(report).union(&memory.names()).cloned().collect();
        let there = if there.is_empty() {
            "there is none at all".to_owned()
        } else {
            format!("there are {}", there.join(", "))
        };
        bail!("there is no cluster {name} in {}: {there}", self.from.display())
    }

    fn say(
        &self,
        manifest: Option<&Edit>,
        memory: &Memory,
        name: &ClusterName,
    ) -> anyhow::Result<Outcome> {
        if let Some(edit) = manifest {
            show(&format!("would have {}\n", done(edit, name)))?;
        }
        if memory.knows(name) {
            let how = if memory.running { " and ended its streams" } else { "" };
            show(&format!("would have forgotten the credential of {name}{how}\n"))?;
        }
        Ok(Outcome::Done)
    }
}

fn done(edit: &Edit, name: &ClusterName) -> String {
    match edit {
        Edit::Delete(path) => format!("deleted {}", path.display()),
        _ => format!("removed {name} from {}", edit.path().display()),
    }
}

impl Memory {
    /// Whether there is something to forget.
    fn knows(&self, name: &ClusterName) -> bool {
        self.names().contains(name.as_str())
            || self.pki.bootstrap_credential(&NodeId::Cluster(name.clone())).is_some()
    }

    /// The clusters that have a credential.
    fn names(&self) -> BTreeSet<String> {
        self.pki.ledger().credentials().map(|credential| credential.cluster.clone()).collect()
    }

    fn forget(&mut self, name: &ClusterName) -> anyhow::Result<()> {
        if self.running {
            return socket::ask(&self.state, "POST", &format!("/api/v1/forget/{name}")).map(drop);
        }
        LastGoodFiles::load(self.state.clone()).forget(name)?;
        self.pki.forget(name)
    }
}

/// Waits until the running Atlas has noticed that the manifest is gone.
fn wait_until_unlisted(state: &StateDir, name: &ClusterName) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status: Status = serde_json::from_str(&socket::ask(state, "GET", "/api/v1/status")?)?;
        if status.ready && status.clusters.iter().all(|cluster| cluster.name != name.as_str()) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "no manifest of {name} is left, but after {} s the running atlas still has that cluster, so its credential was not \
             forgotten: does it read another directory (`atlas run --from`)? `atlas status` says what it can't read",
            PATIENCE.as_secs()
        );
        std::thread::sleep(POLL);
    }
}
