//! How a removed cluster's credential is forgotten.
//!
//! ```text
//! the Service is gone ──▶ the leader has noticed ──▶ its record is emptied, compared with what was read
//! ```
//!
//! In this order, because a leader that still sees the Service would issue the next credential at once.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use atlas_core::name::{ClusterName, TrustDomain};
use kube::api::{Patch, PatchParams};

use super::{Admin, MANAGER, POLL};
use crate::cli::output::say;
use crate::kube::record::{Record, Stored, TERM, adopt};
use crate::pki::Contents;

/// So often a record is read again because somebody else wrote it meanwhile.
const TRIES: usize = 10;
/// How long a leader may take to notice that a Service is gone.
const NOTICING: Duration = Duration::from_secs(5);

/// What became of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// It counts no more.
    Yes,
    /// There was none.
    NothingKnown,
}

enum Written {
    Yes,
    Conflict,
}

impl Admin {
    /// Forgets a cluster's credential, once its Service is gone: the list of what counts is emptied, and the revision is the
    /// next. The leader sees it by its watch.
    ///
    /// # Errors
    /// The record can't be read or written.
    pub fn forget(&self, name: &ClusterName, domain: &TrustDomain) -> anyhow::Result<Forgotten> {
        self.wait_until_noticed(name, domain)?;
        for _ in 0..TRIES {
            let Some((stored, contents)) = self.record(name, domain)? else {
                return Ok(Forgotten::NothingKnown);
            };
            if !contents.ledger.has_credentials(name) {
                return Ok(Forgotten::NothingKnown);
            }
            match self.empty(name, &stored, contents)? {
                Written::Yes => return Ok(Forgotten::Yes),
                Written::Conflict => std::thread::sleep(POLL),
            }
        }
        bail!(
            "others wrote the Secret {} {TRIES} times meanwhile: run the same command again",
            Record::Cluster(name.clone()).secret()
        )
    }

    /// Whether there is a credential to forget.
    ///
    /// # Errors
    /// The record can't be read.
    pub fn has_credential(&self, name: &ClusterName, domain: &TrustDomain) -> anyhow::Result<bool> {
        Ok(self
            .record(name, domain)?
            .is_some_and(|(_, contents)| contents.ledger.has_credentials(name)))
    }

    /// A leader that notices clears what it kept of the Service. One that hasn't would issue the next credential at once.
    fn wait_until_noticed(&self, name: &ClusterName, domain: &TrustDomain) -> anyhow::Result<()> {
        let deadline = Instant::now() + NOTICING;
        while Instant::now() < deadline {
            match self.record(name, domain)? {
                Some((Stored { parsed: Ok(parsed), .. }, _)) if parsed.service.is_some() => {
                    std::thread::sleep(POLL)
                }
                _ => return Ok(()),
            }
        }
        say(format_args!(
            "no Atlas has noticed yet that {name} is gone: if one runs and still has that cluster, run the same command again"
        ));
        Ok(())
    }

    fn record(
        &self,
        name: &ClusterName,
        domain: &TrustDomain,
    ) -> anyhow::Result<Option<(Stored, Contents)>> {
        let record = Record::Cluster(name.clone());
        let Some(secret) = self.get_secret(&record.secret())? else { return Ok(None) };
        let stored = Stored::read(secret, domain);
        let parsed = stored.parsed.clone().map_err(|error| anyhow!(error))?;
        let mut contents = Contents::default();
        adopt(&mut contents, &record, parsed);
        Ok(Some((stored, contents)))
    }

    fn empty(
        &self,
        name: &ClusterName,
        stored: &Stored,
        mut contents: Contents,
    ) -> anyhow::Result<Written> {
        let record = Record::Cluster(name.clone());
        contents.ledger.forget(name);
        let lacks = || {
            format!(
                "the Secret {} lacks Atlas's annotation {TERM}: restore it from a backup",
                record.secret()
            )
        };
        let term = stored.term.clone().with_context(lacks)?;
        // Neither certificate is of the new revision, so both keys go.
        let data = record.data(&contents, None)?;
        let patch = record.manifest(&data, &term, Some(&stored.version));
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let secrets = self.secrets();
        let write = async {
            match secrets.patch(&record.secret(), &params, &Patch::Merge(&patch)).await {
                Ok(_) => Ok(Written::Yes),
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {
                    Ok(Written::Conflict)
                }
                Err(error) => Err(error),
            }
        };
        self.block(&format!("write the Secret {}", record.secret()), write)
    }
}
