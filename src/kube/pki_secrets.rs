//! The pki_store that is a set of Secrets, as the leader writes it: each write compared with what was read, in the term of this
//! leadership, many at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use atlas_core::kubernetes::lease::fence::{Fence, KnownVersion, WritePermit};
use atlas_core::kubernetes::lease::{Term, WriteResult};
use atlas_core::name::{ClusterName, Identity, TrustDomain};
use atlas_core::pki::Authority;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::WRITES;
use super::election::Candidate;
use super::errors::error_with_causes;
use super::record::{Record, Stored, adopt};
use crate::pki::{Contents, PkiStore};

mod aside;
mod cas;
mod echo;

use cas::{PATIENCE, claim, ensure_remembered, write};
use echo::Echo;

/// Which Secrets are watched: never those with the keys of authorities.
pub const WATCHED: &str = "goatlas.io/part=pki";

/// So often the records that nobody watches are looked at.
const LOOK: Duration = Duration::from_secs(60);

/// One leadership's.
pub struct Secrets {
    api: Api<Secret>,
    handle: Handle,
    candidate: Arc<Candidate>,
    domain: TrustDomain,
    fence: Fence,
    known: BTreeMap<Record, KnownVersion>,
    echoes: BTreeMap<Record, Echo>,
    /// What is kept of the clusters' Services.
    services: BTreeMap<ClusterName, String>,
    unsaved: BTreeSet<Record>,
    /// When the records that nobody watches were last looked at.
    looked: Instant,
    /// Broken certificates that are to be kept under other keys when their record is written.
    spoilt: BTreeMap<Record, BTreeMap<&'static str, String>>,
    /// Keys of records under which broken ones are kept.
    aside: BTreeMap<Record, BTreeSet<&'static str>>,
    /// Records that can't be read: nothing is issued for these clusters, and nothing written over.
    pub broken: BTreeMap<Record, String>,
    contents: Contents,
}

impl Secrets {
    /// Takes over in a term: claims the issuers, then reads everything.
    ///
    /// # Errors
    /// Another leads, the API server doesn't answer, or a record with an authority's key is missing or broken.
    pub async fn take_over(
        client: Client,
        namespace: &str,
        domain: &TrustDomain,
        candidate: &Arc<Candidate>,
        term: Term,
        had_root: bool,
    ) -> anyhow::Result<Self> {
        let api: Api<Secret> = Api::namespaced(client, namespace);
        if had_root {
            ensure_remembered(&api).await?;
        }
        let fence = claim(&api, candidate, term, domain).await?;
        let mut pki_store = Self {
            api,
            handle: Handle::current(),
            candidate: Arc::clone(candidate),
            domain: domain.clone(),
            fence,
            known: BTreeMap::new(),
            echoes: BTreeMap::new(),
            services: BTreeMap::new(),
            unsaved: BTreeSet::new(),
            looked: Instant::now(),
            spoilt: BTreeMap::new(),
            aside: BTreeMap::new(),
            broken: BTreeMap::new(),
            contents: Contents::default(),
        };
        for record in [Record::Root, Record::Issuers] {
            pki_store.refresh(&record).await?;
        }
        let listed = timeout(PATIENCE, pki_store.api.list(&ListParams::default().labels(WATCHED)))
            .await
            .context("no answer")?;
        let listed = listed.context("cannot list Atlas's own Secrets")?;
        pki_store.known.insert(Record::Leaves, KnownVersion::Absent);
        let names: Vec<String> = listed.items.iter().map(ResourceExt::name_any).collect();
        for (name, secret) in names.iter().zip(listed.items) {
            if let Some(record) = Record::of_secret(name) {
                pki_store.took(&record, Some(Stored::read(secret, domain)));
            }
        }
        pki_store.set_foreign_aside();
        pki_store.check()?;
        Ok(pki_store)
    }

    /// An authority that is missing is never made anew where something signed by it is there.
    fn check(&self) -> anyhow::Result<()> {
        for record in [Record::Root, Record::Issuers, Record::Leaves] {
            if let Some(broken) = self.broken.get(&record) {
                bail!("{broken}");
            }
        }
        self.contents.ensure_one_root()?;
        let root = self.contents.authorities.get(&Authority::Root);
        let issued = self.contents.authorities.len() > 1 || !self.contents.identities.is_empty();
        if issued && root.is_none_or(|root| root.key.expose().is_empty()) {
            bail!(
                "the Secret {} is missing, although certificates signed by it are there: restore it from a backup. To start anew instead, \
                 delete every Secret with the label goatlas.io/part in (issuers, pki); then each cluster needs new values",
                Record::Root.secret()
            );
        }
        Ok(())
    }

    /// Writes again what this process remembers and the API server no longer has: somebody deleted it while nobody led. The
    /// root is there, so this is no server that has lost its memory.
    pub fn restore(&mut self, remembered: &BTreeMap<String, Stored>) {
        let mut contents = std::mem::take(&mut self.contents);
        let mut missing = BTreeSet::new();
        for (name, stored) in remembered {
            let Some(record) = Record::of_secret(name) else { continue };
            let absent = matches!(self.known.get(&record), None | Some(KnownVersion::Absent));
            if let (true, Ok(parsed)) = (absent, &stored.parsed) {
                if let (Record::Cluster(cluster), Some(service)) = (&record, &parsed.service) {
                    self.services.insert(cluster.clone(), service.clone());
                }
                adopt(&mut contents, &record, parsed.clone());
                missing.insert(record);
            }
        }
        for (record, result) in self.put(&contents, missing) {
            match result {
                Ok(()) => tracing::warn!(
                    secret = record.secret(),
                    "somebody deleted one of Atlas's own Secrets: it is written again"
                ),
                Err(error) => tracing::warn!(
                    secret = record.secret(),
                    error = format!("{error:#}"),
                    "cannot write again what was deleted"
                ),
            }
        }
        self.contents = contents;
    }

    /// What was read when it took over.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// What is kept of the clusters' Services.
    pub fn services(&self) -> &BTreeMap<ClusterName, String> {
        &self.services
    }

    fn learn(&mut self, record: &Record, known: KnownVersion) {
        self.echoes.entry(record.clone()).or_default().known(&known);
        self.known.insert(record.clone(), known);
    }

    /// Takes what was read of a record.
    fn took(&mut self, record: &Record, stored: Option<Stored>) {
        self.learn(record, stored.as_ref().map_or(KnownVersion::Absent, Stored::known));
        self.broken.remove(record);
        let Some(stored) = stored else { return };
        if let Some(term) = &stored.term {
            self.candidate.observe_term(term);
        }
        match stored.parsed {
            Ok(mut parsed) => {
                self.set_aside(record, &mut parsed);
                if let Record::Cluster(name) = record {
                    let (known, read) = (
                        self.contents.ledger.revision(name),
                        parsed.ledger.as_ref().map_or(1, |list| list.revision(name)),
                    );
                    if known > read {
                        tracing::warn!(
                            secret = record.secret(),
                            known,
                            read,
                            "an older copy of one of Atlas's own Secrets was put in its place: revisions never go backwards, so it is written again"
                        );
                        self.unsaved.insert(record.clone());
                        return;
                    }
                    match &parsed.service {
                        Some(service) => _ = self.services.insert(name.clone(), service.clone()),
                        None => _ = self.services.remove(name),
                    }
                }
                adopt(&mut self.contents, record, parsed);
            }
            Err(error) => _ = self.broken.insert(record.clone(), error),
        }
    }

    /// Reads a record again.
    async fn refresh(&mut self, record: &Record) -> anyhow::Result<()> {
        let name = record.secret();
        let read = timeout(PATIENCE, self.api.get_opt(&name))
            .await
            .with_context(|| format!("no answer for the Secret {name}"))?;
        let secret = read.map_err(|error| {
            anyhow!("cannot read the Secret {name}: {}", error_with_causes(&error))
        })?;
        let mut stored = secret.map(|secret| Stored::read(secret, &self.domain));
        if let Some(Stored { parsed: Ok(parsed), .. }) = &mut stored {
            parsed.doubt_foreign(record, self.contents.authorities.get(&Authority::Root));
        }
        self.took(record, stored);
        Ok(())
    }

    /// Looks after what others did to the records, as far as a watch shows it (`seen`: name and version): what was changed is
    /// read again into `contents`; what was deleted (`removed`: as it was) is written again from them. Returns what could not be done.
    pub fn heal(
        &mut self,
        contents: &mut Contents,
        seen: &BTreeMap<String, Stored>,
        removed: &BTreeMap<String, Stored>,
    ) -> Vec<String> {
        let mut suspects = Vec::new();
        let look = self.looked.elapsed() >= LOOK;
        if look {
            self.looked = Instant::now();
        }
        for (name, stored) in removed {
            if let Some(echo) =
                Record::of_secret(name).and_then(|record| self.echoes.get_mut(&record))
            {
                echo.saw_removed(&stored.version);
            }
        }
        for (record, known) in &self.known {
            let watched = matches!(record, Record::Leaves | Record::Cluster(_));
            let shown = seen.get(&record.secret()).map(|stored| &stored.version);
            let strange = if watched {
                self.echoes.entry(record.clone()).or_default().is_strange(known, shown)
            } else {
                look
            };
            if strange || *known == KnownVersion::Unread {
                suspects.push(record.clone());
            }
        }
        let unknown = seen
            .keys()
            .filter_map(|name| Record::of_secret(name))
            .filter(|record| !self.known.contains_key(record));
        suspects.extend(unknown.collect::<Vec<_>>());
        let mut failed = Vec::new();
        for record in suspects {
            if self.candidate.leads().is_none() {
                failed.push("this Atlas no longer leads".into());
                break;
            }
            let before = self.known.get(&record).cloned();
            self.contents = std::mem::take(contents);
            let handle = self.handle.clone();
            let result = handle.block_on(self.refresh(&record));
            *contents = std::mem::take(&mut self.contents);
            failed.extend(result.err().map(|error| format!("{error:#}")));
            let vanished = before != Some(KnownVersion::Absent)
                && self.known.get(&record) == Some(&KnownVersion::Absent);
            let revision = if let Record::Cluster(name) = &record {
                contents.ledger.revision(name)
            } else {
                1
            };
            let kept = revision > 1
                || record.data(contents, None).is_ok_and(|data| {
                    data.iter().any(|(key, text)| key.ends_with(".pem") && text.is_some())
                });
            let deleted = vanished && kept;
            if deleted {
                tracing::warn!(
                    secret = record.secret(),
                    "somebody deleted one of Atlas's own Secrets: it is written again"
                );
            }
            if deleted
                && let Err(error) =
                    self.put(contents, [record.clone()].into()).remove(&record).unwrap_or(Ok(()))
            {
                failed.push(format!("{error:#}"));
            }
        }
        failed
    }

    /// What clusters' Services said when they were right is to be kept, or (`None`) is not any more. It is written with what
    /// else changes of their records, or by [`Secrets::save_services`].
    pub fn keep_services(&mut self, services: BTreeMap<ClusterName, Option<String>>) {
        for (name, service) in services {
            if self.services.get(&name) == service.as_ref() {
                continue;
            }
            match service {
                Some(service) => _ = self.services.insert(name.clone(), service),
                None => _ = self.services.remove(&name),
            }
            self.unsaved.insert(Record::Cluster(name));
        }
    }

    /// Writes what [`Secrets::keep_services`] left. Returns what could not be written.
    pub fn save_services(&mut self, contents: &Contents) -> Vec<String> {
        let unsaved = self
            .unsaved
            .iter()
            .filter(|record| !self.broken.contains_key(record))
            .cloned()
            .collect();
        self.put(contents, unsaved)
            .into_values()
            .filter_map(|result| Some(format!("{:#}", result.err()?)))
            .collect()
    }

    /// Writes records, each by itself.
    fn put(
        &mut self,
        all: &Contents,
        records: BTreeSet<Record>,
    ) -> BTreeMap<Record, anyhow::Result<()>> {
        let mut writes = Vec::new();
        let mut results = BTreeMap::new();
        for record in records {
            match self.prepare(all, &record) {
                Ok(write) => writes.push((record, write)),
                Err(error) => _ = results.insert(record, Err(error)),
            }
        }
        let (api, candidate) = (&self.api, &self.candidate);
        let write = |(record, (permit, data)): (Record, (WritePermit, _))| async move {
            // Many may be waiting: asked again for each.
            let result = match candidate.leads() {
                Some(term) if term == permit.term => write(api, &record, &data, &permit).await,
                _ => Err((WriteResult::Conflict, anyhow!("this Atlas no longer leads"))),
            };
            let removed: Vec<&str> =
                data.iter().filter(|(_, text)| text.is_none()).map(|(key, _)| *key).collect();
            (record, removed, result)
        };
        let written = futures::stream::iter(writes.into_iter().map(write))
            .buffer_unordered(WRITES)
            .collect::<Vec<_>>();
        for (record, removed, result) in self.handle.block_on(written) {
            let (outcome, result) = match result {
                Ok(version) => {
                    self.unsaved.remove(&record);
                    let kept = self.spoilt.remove(&record).unwrap_or_default();
                    let aside = self.aside.entry(record.clone()).or_default();
                    aside.extend(kept.into_keys());
                    aside.retain(|key| !removed.contains(key));
                    (WriteResult::Done(version), Ok(()))
                }
                Err((outcome, error)) => (outcome, Err(error)),
            };
            self.learn(&record, KnownVersion::written(outcome, self.fence.term()));
            results.insert(record, result);
        }
        results
    }

    fn prepare(
        &mut self,
        all: &Contents,
        record: &Record,
    ) -> anyhow::Result<(WritePermit, BTreeMap<&'static str, Option<String>>)> {
        if let Some(broken) = self.broken.get(record) {
            bail!("{broken}");
        }
        // A cluster that nobody has listed has none yet.
        let known = self.known.entry(record.clone()).or_insert(KnownVersion::Absent);
        let permit = self.fence.permit_write(known, self.candidate.leads().as_ref())?;
        let service =
            if let Record::Cluster(name) = record { self.services.get(name) } else { None };
        let mut data = record.data(all, service)?;
        let spoilt = self.spoilt.get(record).into_iter().flatten();
        for (key, text) in spoilt {
            // Of a cluster that is gone nothing is kept.
            data.entry(*key).or_insert_with(|| Some(text.clone()));
        }
        Ok((permit, data))
    }
}

impl PkiStore for Secrets {
    fn load(&mut self, _domain: &TrustDomain) -> anyhow::Result<Contents> {
        Ok(std::mem::take(&mut self.contents))
    }

    fn save_authority(&mut self, all: &Contents, authority: Authority) -> anyhow::Result<()> {
        let record = Record::of_authority(authority);
        self.put(all, [record.clone()].into()).remove(&record).unwrap_or(Ok(()))
    }

    fn save_identities(&mut self, all: &Contents, which: &[&Identity]) -> Vec<anyhow::Result<()>> {
        let results =
            self.put(all, which.iter().map(|identity| Record::of_identity(identity)).collect());
        let result = |identity: &&Identity| match results.get(&Record::of_identity(identity)) {
            Some(Err(error)) => Err(anyhow!("{error:#}")),
            _ => Ok(()),
        };
        which.iter().map(result).collect()
    }

    fn save_ledger(&mut self, all: &Contents, of: &BTreeSet<ClusterName>) -> anyhow::Result<()> {
        self.put(all, of.iter().cloned().map(Record::Cluster).collect()).into_values().collect()
    }

    /// Keys go with the list that no longer names them.
    fn remove_keys(&mut self, _cluster: &ClusterName) -> anyhow::Result<()> {
        Ok(())
    }

    fn remove_bootstrap(&mut self, _cluster: &ClusterName) -> anyhow::Result<()> {
        Ok(())
    }

    fn set_aside_notices(&self) -> Vec<String> {
        self.told_aside()
    }
}
