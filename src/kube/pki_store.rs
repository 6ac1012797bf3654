//! The PKI store of a process on Kubernetes. It is read-only until the process leads; then each
//! write is compared with the version that was read, and carries the term of the leadership. Up to
//! [`WRITES`] Secrets are written at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use atlas_core::kubernetes::lease::WriteResult;
use atlas_core::kubernetes::lease::fence::{Fence, KnownVersion, WritePermit};
use atlas_core::name::{ClusterName, Identity, TrustDomain};
use atlas_core::pki::Authority;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::WRITES;
use super::election::Candidate;
use super::errors::error_with_causes;
use super::pki_secret::{PkiSecret, StoredSecret, adopt};
use crate::pki::{Contents, PkiStore};

mod compare_and_swap;
mod effective;
mod own_writes;
mod repair;
mod set_aside;
mod take_over;

use compare_and_swap::{REQUEST_TIMEOUT, write};
pub use effective::EffectiveSecrets;
use own_writes::OwnWrites;

/// Selects the Secrets that every replica watches. Those with the keys of authorities aren't among
/// them.
pub const WATCHED: &str = "goatlas.io/part=pki";

/// The store of one process.
#[derive(Default)]
pub struct SecretStore {
    leadership: Option<LeaderStore>,
}

impl SecretStore {
    /// The store of this leadership; `None`: this process doesn't lead.
    pub fn leadership(&mut self) -> Option<&mut LeaderStore> {
        self.leadership.as_mut()
    }

    /// Begins to write, as the leadership allows, or (`None`) ends it.
    pub fn set_leadership(&mut self, leadership: Option<LeaderStore>) {
        self.leadership = leadership;
    }

    fn writable(&mut self) -> anyhow::Result<&mut LeaderStore> {
        self.leadership.as_mut().context("BUG: a replica that doesn't lead writes nothing")
    }
}

impl PkiStore for SecretStore {
    fn load(&mut self, _: &TrustDomain) -> anyhow::Result<Contents> {
        bail!("BUG: what Secrets hold comes from watches, and from the take-over of a leadership")
    }

    fn save_authority(&mut self, all: &Contents, authority: Authority) -> anyhow::Result<()> {
        let secret = PkiSecret::of_authority(authority);
        self.writable()?.put(all, [secret.clone()].into()).remove(&secret).unwrap_or(Ok(()))
    }

    fn save_identities(&mut self, all: &Contents, which: &[&Identity]) -> Vec<anyhow::Result<()>> {
        let secrets = which.iter().map(|identity| PkiSecret::of_identity(identity)).collect();
        let results = match self.writable() {
            Ok(store) => store.put(all, secrets),
            Err(error) => {
                let error = |_: &&Identity| Err(anyhow!("{error:#}"));
                return which.iter().map(error).collect();
            }
        };
        let result = |identity: &&Identity| match results.get(&PkiSecret::of_identity(identity)) {
            Some(Err(error)) => Err(anyhow!("{error:#}")),
            _ => Ok(()),
        };
        which.iter().map(result).collect()
    }

    fn save_ledger(&mut self, all: &Contents, of: &BTreeSet<ClusterName>) -> anyhow::Result<()> {
        let secrets = of.iter().cloned().map(PkiSecret::Cluster).collect();
        self.writable()?.put(all, secrets).into_values().collect()
    }

    /// Keys are removed with the list that no longer names them.
    fn remove_keys(&mut self, _: &ClusterName) -> anyhow::Result<()> {
        self.writable().map(drop)
    }

    /// As for [`PkiStore::remove_keys`].
    fn remove_bootstrap(&mut self, _: &ClusterName) -> anyhow::Result<()> {
        self.writable().map(drop)
    }

    fn set_aside_notices(&self) -> Vec<String> {
        self.leadership.as_ref().map(LeaderStore::set_aside_notices).unwrap_or_default()
    }

    fn is_unreadable(&self, cluster: &ClusterName) -> bool {
        self.leadership.as_ref().is_some_and(|store| {
            store.unreadable.contains_key(&PkiSecret::Cluster(cluster.clone()))
        })
    }
}

/// Reads and writes the Secrets in one leadership.
pub struct LeaderStore {
    api: Api<Secret>,
    handle: Handle,
    candidate: Arc<Candidate>,
    domain: TrustDomain,
    fence: Fence,
    versions: BTreeMap<PkiSecret, KnownVersion>,
    own_writes: BTreeMap<PkiSecret, OwnWrites>,
    /// Secrets that this process wrote, or whose version it doesn't know: they are compared with
    /// the watch next time.
    suspects: BTreeSet<PkiSecret>,
    /// The clusters' Services when they were last valid, as JSON.
    services: BTreeMap<ClusterName, String>,
    /// Secrets that differ from what they should hold.
    unsaved: BTreeSet<PkiSecret>,
    /// When the Secrets that aren't watched were last read.
    unwatched_read: Instant,
    /// Broken certificates, by the keys under which they will be written.
    to_set_aside: BTreeMap<PkiSecret, BTreeMap<&'static str, String>>,
    /// Keys of Secrets under which broken certificates are.
    set_aside: BTreeMap<PkiSecret, BTreeSet<&'static str>>,
    /// Secrets that can't be read, and why. Nothing is issued for these clusters, and nothing
    /// overwritten.
    unreadable: BTreeMap<PkiSecret, String>,
}

impl LeaderStore {
    /// Why Secrets can't be read.
    pub fn unreadable(&self) -> impl Iterator<Item = &String> {
        self.unreadable.values()
    }

    fn set_version(&mut self, secret: &PkiSecret, version: KnownVersion) {
        self.own_writes.entry(secret.clone()).or_default().record(&version);
        self.suspects.insert(secret.clone());
        self.versions.insert(secret.clone(), version);
    }

    /// Ingests a Secret as it was read; `None`: there is none.
    fn ingest(
        &mut self,
        contents: &mut Contents,
        secret: &PkiSecret,
        stored: Option<StoredSecret>,
    ) {
        let version = stored.as_ref().map_or(KnownVersion::Absent, StoredSecret::known_version);
        self.set_version(secret, version);
        self.unreadable.remove(secret);
        let Some(stored) = stored else { return };
        if let Some(term) = &stored.term {
            self.candidate.observe_term(term);
        }
        let mut data = match stored.data {
            Ok(data) => data,
            Err(error) => {
                self.unreadable.insert(secret.clone(), error);
                return;
            }
        };
        self.set_broken_aside(contents, secret, &mut data);
        if *secret == PkiSecret::Leaves && !data.authorities.contains_key(&Authority::Root) {
            // The other replicas read the root there.
            self.unsaved.insert(secret.clone());
        }
        if let PkiSecret::Cluster(name) = secret {
            let known = contents.ledger.revision(name);
            let read = data.ledger.as_ref().map_or(1, |ledger| ledger.revision(name));
            if known > read {
                tracing::warn!(
                    secret = secret.name(),
                    known,
                    read,
                    "an older copy of one of Atlas's own Secrets was put in its place: revisions never go backwards, so it is written again"
                );
                self.unsaved.insert(secret.clone());
                return;
            }
            match &data.service {
                Some(service) => _ = self.services.insert(name.clone(), service.clone()),
                None => _ = self.services.remove(name),
            }
        }
        adopt(contents, secret, data);
    }

    async fn read_again(
        &mut self,
        contents: &mut Contents,
        secret: &PkiSecret,
    ) -> anyhow::Result<()> {
        let name = secret.name();
        let read = timeout(REQUEST_TIMEOUT, self.api.get_opt(&name))
            .await
            .with_context(|| format!("no answer for the Secret {name}"))?;
        let read = read.map_err(|error| {
            anyhow!("cannot read the Secret {name}: {}", error_with_causes(&error))
        })?;
        let mut stored = read.map(|object| StoredSecret::read(object, &self.domain));
        if let Some(StoredSecret { data: Ok(data), .. }) = &mut stored {
            data.reject_other_roots(secret, contents.authorities.get(&Authority::Root));
        }
        self.ingest(contents, secret, stored);
        Ok(())
    }

    /// Notes the Services of clusters as they are valid (as JSON); `None`: a Service isn't to be
    /// kept any more. They are written with other changes of the same Secrets, or by
    /// [`LeaderStore::save_services`].
    pub fn keep_services(&mut self, services: BTreeMap<ClusterName, Option<String>>) {
        for (name, service) in services {
            if self.services.get(&name) == service.as_ref() {
                continue;
            }
            match service {
                Some(service) => _ = self.services.insert(name.clone(), service),
                None => _ = self.services.remove(&name),
            }
            self.unsaved.insert(PkiSecret::Cluster(name));
        }
    }

    /// The clusters whose Services are kept.
    pub fn kept_services(&self) -> impl Iterator<Item = &ClusterName> {
        self.services.keys()
    }

    /// Writes the Secrets that differ from what they should hold. Returns what could not be
    /// written.
    pub fn save_services(&mut self, contents: &Contents) -> Vec<String> {
        let unsaved = self
            .unsaved
            .iter()
            .filter(|secret| !self.unreadable.contains_key(secret))
            .cloned()
            .collect();
        self.put(contents, unsaved)
            .into_values()
            .filter_map(|result| Some(format!("{:#}", result.err()?)))
            .collect()
    }

    /// Writes Secrets; each result is of one of them.
    fn put(
        &mut self,
        all: &Contents,
        secrets: BTreeSet<PkiSecret>,
    ) -> BTreeMap<PkiSecret, anyhow::Result<()>> {
        let mut writes = Vec::new();
        let mut results = BTreeMap::new();
        for secret in secrets {
            match self.prepare(all, &secret) {
                Ok(prepared) => writes.push((secret, prepared)),
                Err(error) => _ = results.insert(secret, Err(error)),
            }
        }
        let (api, candidate) = (&self.api, &self.candidate);
        let write = |(secret, (permit, data)): (PkiSecret, (WritePermit, _))| async move {
            // The write may have waited for others, and the leadership may have ended meanwhile.
            let result = match candidate.leads() {
                Some(term) if term == permit.term => write(api, &secret, &data, &permit).await,
                _ => Err((WriteResult::Conflict, anyhow!("this Atlas no longer leads"))),
            };
            let removed: Vec<&str> =
                data.iter().filter(|(_, text)| text.is_none()).map(|(key, _)| *key).collect();
            (secret, removed, result)
        };
        let written = futures::stream::iter(writes.into_iter().map(write))
            .buffer_unordered(WRITES)
            .collect::<Vec<_>>();
        for (secret, removed, result) in self.handle.block_on(written) {
            let (write_result, result) = match result {
                Ok(version) => {
                    self.unsaved.remove(&secret);
                    if let Some(written) = self.to_set_aside.remove(&secret) {
                        let set_aside = self.set_aside.entry(secret.clone()).or_default();
                        set_aside.extend(written.into_keys());
                    }
                    if let Some(set_aside) = self.set_aside.get_mut(&secret) {
                        set_aside.retain(|key| !removed.contains(key));
                    }
                    (WriteResult::Done(version), Ok(()))
                }
                Err((write_result, error)) => (write_result, Err(error)),
            };
            self.set_version(&secret, KnownVersion::written(write_result, self.fence.term()));
            results.insert(secret, result);
        }
        results
    }

    fn prepare(
        &mut self,
        all: &Contents,
        secret: &PkiSecret,
    ) -> anyhow::Result<(WritePermit, BTreeMap<&'static str, Option<String>>)> {
        if let Some(reason) = self.unreadable.get(secret) {
            bail!("{reason}");
        }
        // A cluster whose Secret no list and no watch showed has none yet.
        let known = self.versions.entry(secret.clone()).or_insert(KnownVersion::Absent);
        let permit = self.fence.permit_write(known, self.candidate.leads().as_ref())?;
        let service =
            if let PkiSecret::Cluster(name) = secret { self.services.get(name) } else { None };
        let mut data = secret.data(all, service)?;
        for (key, text) in self.to_set_aside.get(secret).into_iter().flatten() {
            // Where the cluster has no credentials, `data` already removes this key.
            data.entry(*key).or_insert_with(|| Some(text.clone()));
        }
        Ok((permit, data))
    }
}

fn log_deleted(secret: &PkiSecret) {
    tracing::warn!(
        secret = secret.name(),
        "somebody deleted one of Atlas's own Secrets: it is written again"
    );
}
