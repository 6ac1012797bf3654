//! The beginning of a leadership: it claims the issuers, reads everything, and restores Secrets
//! that were deleted while nobody led.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use atlas_core::kubernetes::lease::Term;
use atlas_core::kubernetes::lease::fence::KnownVersion;
use atlas_core::name::TrustDomain;
use atlas_core::pki::Authority;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::compare_and_swap::{REQUEST_TIMEOUT, claim, ensure_root_exists};
use super::{EffectiveSecrets, LeaderStore, WATCHED, log_deleted};
use crate::kube::election::Candidate;
use crate::kube::pki_secret::{PkiSecret, StoredSecret, adopt};
use crate::pki::Contents;

impl LeaderStore {
    /// Takes over in a term: claims the issuers, then reads everything. `had_root`: whether this
    /// process knows that there was a root.
    ///
    /// # Errors
    /// Another leads, the API server doesn't answer, or a Secret with an authority's key is missing
    /// or broken.
    pub async fn take_over(
        client: Client,
        namespace: &str,
        domain: &TrustDomain,
        candidate: &Arc<Candidate>,
        term: Term,
        had_root: bool,
    ) -> anyhow::Result<(Self, Contents)> {
        let api: Api<Secret> = Api::namespaced(client, namespace);
        if had_root {
            ensure_root_exists(&api).await?;
        }
        let fence = claim(&api, candidate, term, domain).await?;
        let mut store = Self {
            api,
            handle: Handle::current(),
            candidate: Arc::clone(candidate),
            domain: domain.clone(),
            fence,
            versions: BTreeMap::new(),
            own_writes: BTreeMap::new(),
            suspects: BTreeSet::new(),
            services: BTreeMap::new(),
            unsaved: BTreeSet::new(),
            unwatched_read: Instant::now(),
            to_set_aside: BTreeMap::new(),
            set_aside: BTreeMap::new(),
            unreadable: BTreeMap::new(),
        };
        let mut contents = Contents::default();
        for secret in [PkiSecret::Root, PkiSecret::Issuers] {
            store.read_again(&mut contents, &secret).await?;
        }
        let watched = ListParams::default().labels(WATCHED);
        let listed =
            timeout(REQUEST_TIMEOUT, store.api.list(&watched)).await.context("no answer")?;
        let listed = listed.context("cannot list Atlas's own Secrets")?;
        store.versions.insert(PkiSecret::Leaves, KnownVersion::Absent);
        for object in listed.items {
            if let Some(secret) = PkiSecret::from_name(&object.name_any()) {
                let stored = StoredSecret::read(object, domain);
                store.ingest(&mut contents, &secret, Some(stored));
            }
        }
        store.set_other_roots_aside(&mut contents);
        store.ensure_complete(&contents)?;
        Ok((store, contents))
    }

    /// Ensures that no authority is missing that has issued certificates: it is never made anew.
    fn ensure_complete(&self, contents: &Contents) -> anyhow::Result<()> {
        for secret in [PkiSecret::Root, PkiSecret::Issuers, PkiSecret::Leaves] {
            if let Some(reason) = self.unreadable.get(&secret) {
                bail!("{reason}");
            }
        }
        contents.ensure_one_root()?;
        let root = contents.authorities.get(&Authority::Root);
        let has_issued = contents.authorities.len() > 1 || !contents.identities.is_empty();
        if has_issued && root.is_none_or(|root| root.key.expose().is_empty()) {
            bail!(
                "the Secret {} is missing, although certificates signed by it are there: restore it from a backup. To start anew instead, \
                 delete every Secret with the label goatlas.io/part in (issuers, pki); then each cluster needs new values",
                PkiSecret::Root.name()
            );
        }
        Ok(())
    }

    /// Writes Secrets again that this process remembers and the API server no longer has: somebody
    /// deleted them while nobody led. (The root is there, so the API server hasn't lost its data.)
    pub fn restore(&mut self, contents: &mut Contents, remembered: &EffectiveSecrets) {
        let mut missing = BTreeSet::new();
        for (secret, stored) in remembered.iter() {
            let is_absent = matches!(self.versions.get(&secret), None | Some(KnownVersion::Absent));
            let Ok(data) = &stored.data else { continue };
            if !is_absent {
                continue;
            }
            if let (PkiSecret::Cluster(cluster), Some(service)) = (&secret, &data.service) {
                self.services.insert(cluster.clone(), service.clone());
            }
            adopt(contents, &secret, data.clone());
            missing.insert(secret);
        }
        for (secret, result) in self.put(contents, missing) {
            match result {
                Ok(()) => log_deleted(&secret),
                Err(error) => tracing::warn!(
                    secret = secret.name(),
                    error = format!("{error:#}"),
                    "cannot write again what was deleted"
                ),
            }
        }
    }
}
