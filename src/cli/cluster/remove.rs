//! `atlas cluster-remove`: removes a cluster from a directory of manifests ([`super::hub`]: from
//! Kubernetes).
//!
//! ```text
//! remove the manifest ──▶ wait until the running Atlas has noticed ──▶ forget the credentials, which ends streams
//! ```
//!
//! In this order, since an Atlas that still sees the manifest would issue the next credential at
//! once.

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

/// How long a running Atlas may take to notice that a manifest is gone. It reads at the latest one
/// second after a change.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two requests for the status.
const POLL: Duration = Duration::from_millis(50);

const EXAMPLE: &str = "\
Example:
  atlas cluster-remove tokyo                                  from the hub's Kubernetes cluster
  atlas cluster-remove tokyo --from clusters --state state    from a directory of manifests
Whoever only deletes the Service or manifest ends the cluster's streams too, but its credential then sleeps for 7 days.";

/// Remove a cluster: delete its Service or manifest, forget its credential, and end its streams
///
/// Other documents in the same file stay as they are, byte for byte. The credential counts no more
/// at once, whether or not an Atlas runs; should a cluster of this name come back, it gets a new
/// one.
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

/// A removal from a directory of manifests.
struct Removal {
    from: PathBuf,
    state: PathBuf,
    namespace: String,
    trust_domain: TrustDomain,
    dry_run: bool,
}

/// The state directory, and the credentials in it.
struct OpenState {
    dir: StateDir,
    /// Whether an Atlas runs with it.
    is_running: bool,
    pki: Pki<PkiDirectory>,
    /// Held while no Atlas runs, so that none starts meanwhile.
    _lock: Option<Lock>,
}

impl ClusterRemove {
    /// Removes the manifest, and forgets the credential.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let name = self.name.get()?;
        let (Some(from), Some(state)) = (self.from, self.state) else {
            return hub::remove(&self.hub.connect()?, &name, &self.trust_domain, self.dry_run);
        };
        Removal {
            from,
            state,
            namespace: self.hub.namespace,
            trust_domain: self.trust_domain,
            dry_run: self.dry_run,
        }
        .remove(&name)
    }
}

impl Removal {
    fn remove(self, name: &ClusterName) -> anyhow::Result<Outcome> {
        let report = watch::read_once(&self.from)?;
        let mut state = self.open_state()?;
        let manifest = self.next_edit(&report, name)?;
        if manifest.is_none() {
            self.check_known(&report, &state, name)?;
        }
        if self.dry_run {
            return self.print_dry_run(manifest.as_ref(), &state, name);
        }
        let has_something_to_forget =
            manifest.is_some() && state.is_running || state.has_credential(name);
        let report = self.remove_all(manifest, report, name)?;
        if state.is_running {
            wait_until_noticed(&state.dir, name)?;
        }
        if has_something_to_forget {
            state
                .forget(name)
                .with_context(|| format!("the manifest of {name} is gone, but its credential still counts: run the same command again"))?;
            show(&format!("forgot the credential of {name}\n"))?;
        } else {
            say(format_args!(
                "there was no credential of {name} in {} to forget",
                state.dir.root().display()
            ));
        }
        Ok(complain(&report.errors, &[], Severity::Rejected))
    }

    fn open_state(&self) -> anyhow::Result<OpenState> {
        let dir = StateDir::at(&self.state)?;
        let is_running = socket::is_running(&dir);
        // Taking the lock would create a directory that is not there.
        let lock = if is_running || self.dry_run || !dir.path("pki").is_dir() {
            None
        } else {
            Some(dir.lock()?)
        };
        let open = if lock.is_some() { PkiDirectory::new } else { PkiDirectory::read_only };
        let pki = Pki::load(open(dir.clone()), self.trust_domain.clone(), Lifetimes::default())?;
        Ok(OpenState { dir, is_running, pki, _lock: lock })
    }

    /// The edit that removes the cluster's first manifest; `None`: there is none.
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

    /// Removes the manifest, then duplicates of it in other files. Returns what the directory has
    /// afterwards.
    fn remove_all(
        &self,
        first: Option<Edit>,
        mut report: DirectoryContents,
        name: &ClusterName,
    ) -> anyhow::Result<DirectoryContents> {
        let mut next = first;
        while let Some(edit) = next {
            edit.apply()?;
            show(&format!("{}\n", description(&edit, name)))?;
            report = watch::read_once(&self.from)?;
            next = self.next_edit(&report, name)?;
        }
        Ok(report)
    }

    /// Where no manifest was found: checks that every file could be read, and that there is a
    /// credential to forget.
    fn check_known(
        &self,
        report: &DirectoryContents,
        state: &OpenState,
        name: &ClusterName,
    ) -> anyhow::Result<()> {
        ensure!(
            report.errors.is_empty(),
            "no manifest of {name} can be read from {}, but it may be in what can't be read: mend that first:\n{}",
            self.from.display(),
            edit::lines(&report.errors)
        );
        if state.has_credential(name) {
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
        let there: Vec<String> = names(report).union(&state.clusters()).cloned().collect();
        let there = if there.is_empty() {
            "there is none at all".to_owned()
        } else {
            format!("there are {}", there.join(", "))
        };
        bail!("there is no cluster {name} in {}: {there}", self.from.display())
    }

    fn print_dry_run(
        &self,
        manifest: Option<&Edit>,
        state: &OpenState,
        name: &ClusterName,
    ) -> anyhow::Result<Outcome> {
        if let Some(edit) = manifest {
            show(&format!("would have {}\n", description(edit, name)))?;
        }
        if state.has_credential(name) {
            let how = if state.is_running { " and ended its streams" } else { "" };
            show(&format!("would have forgotten the credential of {name}{how}\n"))?;
        }
        Ok(Outcome::Done)
    }
}

fn description(edit: &Edit, name: &ClusterName) -> String {
    match edit {
        Edit::Delete(path) => format!("deleted {}", path.display()),
        _ => format!("removed {name} from {}", edit.path().display()),
    }
}

impl OpenState {
    /// Whether there is a credential to forget.
    fn has_credential(&self, name: &ClusterName) -> bool {
        self.clusters().contains(name.as_str())
            || self.pki.bootstrap_credential(&NodeId::Cluster(name.clone())).is_some()
    }

    /// The clusters that have a credential.
    fn clusters(&self) -> BTreeSet<String> {
        self.pki.ledger().credentials().map(|credential| credential.cluster.clone()).collect()
    }

    fn forget(&mut self, name: &ClusterName) -> anyhow::Result<()> {
        if self.is_running {
            return socket::ask(&self.dir, "POST", &format!("/api/v1/forget/{name}")).map(drop);
        }
        LastGoodFiles::load(self.dir.clone()).forget(name)?;
        self.pki.forget(name)
    }
}

/// Waits until the running Atlas has noticed that the manifest is gone.
fn wait_until_noticed(state: &StateDir, name: &ClusterName) -> anyhow::Result<()> {
    let deadline = Instant::now() + NOTICE_TIMEOUT;
    loop {
        let status: Status = serde_json::from_str(&socket::ask(state, "GET", "/api/v1/status")?)?;
        if status.ready && status.clusters.iter().all(|cluster| cluster.name != name.as_str()) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "no manifest of {name} is left, but after {} s the running atlas still has that cluster, so its credential was not \
             forgotten: does it read another directory (`atlas run --from`)? `atlas status` says what it can't read",
            NOTICE_TIMEOUT.as_secs()
        );
        std::thread::sleep(POLL);
    }
}
