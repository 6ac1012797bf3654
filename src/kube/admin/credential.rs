//! How a removed cluster's credential is forgotten.
//!
//! ```text
//! the Service is gone ──▶ the leader has noticed ──▶ its Secret is emptied, compared with the version that was read
//! ```
//!
//! In this order, because a leader that still sees the Service would issue the next credential at
//! once.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use atlas_core::name::{ClusterName, TrustDomain};
use kube::api::{Patch, PatchParams};

use super::{Admin, MANAGER, POLL};
use crate::kube::pki_secret::{PkiSecret, StoredSecret, TERM, adopt};
use crate::pki::Contents;

/// How often a Secret is read again because somebody else wrote it meanwhile.
const TRIES: usize = 10;
/// How long a leader may take to notice that a Service is gone.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a credential was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// Whether there was a credential.
    pub had_credential: bool,
    /// Whether the leader, if there is one, has noticed that the Service is gone.
    pub is_noticed: bool,
}

impl Admin {
    /// Forgets a cluster's credential, once its Service is gone: the list of accepted credentials
    /// is emptied, and the revision is the next. The leader learns it by its watch.
    ///
    /// # Errors
    /// Its Secret can't be read or written.
    pub fn forget(&self, name: &ClusterName, domain: &TrustDomain) -> anyhow::Result<Forgotten> {
        let is_noticed = self.wait_until_noticed(name, domain)?;
        for _ in 0..TRIES {
            let Some((stored, contents)) = self.read_secret(name, domain)? else {
                return Ok(Forgotten { had_credential: false, is_noticed });
            };
            if !contents.ledger.has_credentials(name) {
                return Ok(Forgotten { had_credential: false, is_noticed });
            }
            if self.empty(name, &stored, contents)? {
                return Ok(Forgotten { had_credential: true, is_noticed });
            }
            std::thread::sleep(POLL);
        }
        bail!(
            "others wrote the Secret {} {TRIES} times meanwhile: run the same command again",
            PkiSecret::Cluster(name.clone()).name()
        )
    }

    /// Whether there is a credential to forget.
    ///
    /// # Errors
    /// Its Secret can't be read.
    pub fn has_credential(&self, name: &ClusterName, domain: &TrustDomain) -> anyhow::Result<bool> {
        Ok(self
            .read_secret(name, domain)?
            .is_some_and(|(_, contents)| contents.ledger.has_credentials(name)))
    }

    /// Waits until the leader has noticed that the Service is gone: it then clears `service.json`.
    /// Returns whether it has. One that hasn't would issue the next credential at once.
    fn wait_until_noticed(&self, name: &ClusterName, domain: &TrustDomain) -> anyhow::Result<bool> {
        let deadline = Instant::now() + NOTICE_TIMEOUT;
        while Instant::now() < deadline {
            match self.read_secret(name, domain)? {
                Some((StoredSecret { data: Ok(data), .. }, _)) if data.service.is_some() => {
                    std::thread::sleep(POLL)
                }
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    fn read_secret(
        &self,
        name: &ClusterName,
        domain: &TrustDomain,
    ) -> anyhow::Result<Option<(StoredSecret, Contents)>> {
        let secret = PkiSecret::Cluster(name.clone());
        let Some(object) = self.get_secret(&secret.name())? else { return Ok(None) };
        let stored = StoredSecret::read(object, domain);
        let data = stored.data.clone().map_err(|error| anyhow!(error))?;
        let mut contents = Contents::default();
        adopt(&mut contents, &secret, data);
        Ok(Some((stored, contents)))
    }

    /// Returns false if somebody else wrote the Secret meanwhile.
    fn empty(
        &self,
        name: &ClusterName,
        stored: &StoredSecret,
        mut contents: Contents,
    ) -> anyhow::Result<bool> {
        let secret = PkiSecret::Cluster(name.clone());
        contents.ledger.forget(name);
        let lacks = || {
            format!(
                "the Secret {} lacks Atlas's annotation {TERM}: restore it from a backup",
                secret.name()
            )
        };
        let term = stored.term.clone().with_context(lacks)?;
        // Neither certificate is of the new revision, so both keys go.
        let data = secret.data(&contents, None)?;
        let patch = secret.manifest(&data, &term, Some(&stored.version));
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let secrets = self.secrets();
        let write = async {
            match secrets.patch(&secret.name(), &params, &Patch::Merge(&patch)).await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.block(&format!("write the Secret {}", secret.name()), write)
    }
}
