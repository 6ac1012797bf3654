//! The watched Secrets with the PKI as they take effect on this replica. They are those that the
//! watch shows, with two exceptions that last until the leader has repaired the Secret:
//!
//! | The watch shows | In effect |
//! | --- | --- |
//! | a Secret that is gone, while its cluster's Service is there | the Secret as it was: somebody deleted it by hand |
//! | a Secret that is unreadable, or has a broken certificate | the Secret as it was when it was sound |
//!
//! Without them the streams of Envoys would end for a mistake that the leader repairs within
//! seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atlas_core::kubernetes::lease::{ResourceVersion, Term};
use atlas_core::name::ClusterName;

use crate::kube::pki_secret::{PkiSecret, StoredSecret, adopt};
use crate::kube::reflector::Change;
use crate::pki::Contents;

/// See the module.
#[derive(Default)]
pub struct EffectiveSecrets {
    shown: BTreeMap<PkiSecret, Arc<StoredSecret>>,
    effective: BTreeMap<PkiSecret, Arc<StoredSecret>>,
    /// Why Secrets that are shown, or in effect, can't be read.
    unreadable: BTreeMap<PkiSecret, String>,
    greatest_term: Option<Term>,
}

fn is_sound(stored: &StoredSecret) -> bool {
    stored.data.as_ref().is_ok_and(|data| data.broken.is_empty())
}

impl EffectiveSecrets {
    /// Applies what the watch showed. `services`: clusters whose Service came or went;
    /// `has_service`: whether a cluster's Service is there. Returns the Secrets of which something
    /// else is in effect.
    pub fn update(
        &mut self,
        changes: &BTreeMap<String, Change<StoredSecret>>,
        services: &BTreeSet<ClusterName>,
        has_service: impl Fn(&ClusterName) -> bool,
    ) -> BTreeSet<PkiSecret> {
        let mut affected: BTreeSet<PkiSecret> =
            services.iter().cloned().map(PkiSecret::Cluster).collect();
        for (name, change) in changes {
            let Some(secret) = PkiSecret::from_name(name) else { continue };
            match &change.now {
                Some(stored) => _ = self.shown.insert(secret.clone(), Arc::clone(stored)),
                None => _ = self.shown.remove(&secret),
            }
            affected.insert(secret);
        }
        affected.retain(|secret| self.update_one(secret, &has_service));
        affected
    }

    fn update_one(
        &mut self,
        secret: &PkiSecret,
        has_service: impl Fn(&ClusterName) -> bool,
    ) -> bool {
        let (shown, before) = (self.shown.get(secret), self.effective.get(secret));
        let keeps_deleted = match secret {
            PkiSecret::Cluster(cluster) => has_service(cluster),
            _ => true,
        };
        let now = match (shown, before) {
            (Some(shown), Some(before)) if is_sound(before) && !is_sound(shown) => Some(before),
            (Some(shown), _) => Some(shown),
            (None, before) => before.filter(|_| keeps_deleted),
        };
        let reason = shown
            .and_then(|stored| stored.data.as_ref().err())
            .or_else(|| now.and_then(|stored| stored.data.as_ref().err()));
        match reason {
            Some(reason) => _ = self.unreadable.insert(secret.clone(), reason.clone()),
            None => _ = self.unreadable.remove(secret),
        }
        self.greatest_term =
            self.greatest_term.take().max(now.and_then(|stored| stored.term.clone()));
        if now == before {
            return false;
        }
        match now.cloned() {
            Some(now) => _ = self.effective.insert(secret.clone(), now),
            None => _ = self.effective.remove(secret),
        }
        true
    }

    /// Whether no Secret is in effect.
    pub fn is_empty(&self) -> bool {
        self.effective.is_empty()
    }

    /// The Secrets in effect.
    pub fn iter(&self) -> impl Iterator<Item = (PkiSecret, &StoredSecret)> {
        self.effective.iter().map(|(secret, stored)| (secret.clone(), &**stored))
    }

    /// Every Secret that the watch shows.
    pub fn shown(&self) -> impl Iterator<Item = PkiSecret> {
        self.shown.keys().cloned()
    }

    /// The version of a Secret that the watch shows.
    pub fn shown_version(&self, secret: &PkiSecret) -> Option<&ResourceVersion> {
        self.shown.get(secret).map(|stored| &stored.version)
    }

    /// The greatest term in which one of them was written.
    pub fn greatest_term(&self) -> Option<&Term> {
        self.greatest_term.as_ref()
    }

    /// Why Secrets can't be read.
    pub fn unreadable(&self) -> impl Iterator<Item = &String> {
        self.unreadable.values()
    }

    /// All of them together.
    pub fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        for secret in self.effective.keys() {
            self.adopt_into(&mut contents, secret);
        }
        contents
    }

    /// Replaces what `contents` has of one Secret.
    pub fn adopt_into(&self, contents: &mut Contents, secret: &PkiSecret) {
        let data = match self.effective.get(secret).map(|stored| &stored.data) {
            Some(Ok(data)) => data.clone(),
            // An unreadable Secret that was never sound holds nothing.
            Some(Err(_)) | None => Default::default(),
        };
        adopt(contents, secret, data);
    }
}

#[cfg(test)]
mod tests {
    use atlas_core::kubernetes::lease::Epoch;

    use super::*;
    use crate::kube::pki_secret::SecretData;

    fn tokyo() -> ClusterName {
        "tokyo".parse().unwrap()
    }

    fn stored(version: &str, data: Result<SecretData, String>) -> Arc<StoredSecret> {
        let epoch = Epoch(version.parse().unwrap());
        let term = Some(Term { epoch, holder: "atlas-0".into() });
        Arc::new(StoredSecret { version: ResourceVersion(version.into()), term, data })
    }

    fn sound(version: &str) -> Option<Arc<StoredSecret>> {
        Some(stored(version, Ok(SecretData::default())))
    }

    struct World {
        secrets: EffectiveSecrets,
        has_service: bool,
    }

    impl World {
        /// Shows tokyo's Secret; returns the version in effect, and whether it is another than
        /// before.
        fn show(&mut self, now: Option<Arc<StoredSecret>>) -> (Option<String>, bool) {
            let change = Change { now, deleted: None };
            let changes = [("tokyo.atlas-cluster".to_owned(), change)].into();
            self.update(&changes, &BTreeSet::new())
        }

        fn update(
            &mut self,
            changes: &BTreeMap<String, Change<StoredSecret>>,
            services: &BTreeSet<ClusterName>,
        ) -> (Option<String>, bool) {
            let has_service = self.has_service;
            let changed = self.secrets.update(changes, services, |_| has_service);
            let effective = self.secrets.effective.get(&PkiSecret::Cluster(tokyo()));
            (effective.map(|stored| stored.version.0.clone()), !changed.is_empty())
        }
    }

    #[test]
    fn a_secret_deleted_by_hand_stays_in_effect_while_its_service_is_there() {
        let mut world = World { secrets: EffectiveSecrets::default(), has_service: true };
        assert_eq!(world.show(sound("1")), (Some("1".into()), true));
        assert_eq!(world.show(None), (Some("1".into()), false));
        assert_eq!(world.show(sound("2")), (Some("2".into()), true));
        assert_eq!(world.show(None), (Some("2".into()), false));
        world.has_service = false;
        assert_eq!(world.update(&BTreeMap::new(), &[tokyo()].into()), (None, true));
        world.has_service = true;
        assert_eq!(world.update(&BTreeMap::new(), &[tokyo()].into()), (None, false));
        assert_eq!(world.secrets.greatest_term().map(|term| term.epoch), Some(Epoch(2)));
    }

    #[test]
    fn a_secret_that_was_spoilt_stays_in_effect_as_it_was() {
        let mut world = World { secrets: EffectiveSecrets::default(), has_service: true };
        let spoilt = |version| Some(stored(version, Err("why".to_owned())));
        assert_eq!(world.show(spoilt("1")), (Some("1".into()), true), "nothing better is known");
        assert_eq!(world.secrets.unreadable().count(), 1);
        assert_eq!(world.show(sound("2")), (Some("2".into()), true));
        assert_eq!(world.secrets.unreadable().count(), 0);
        assert_eq!(world.show(spoilt("3")), (Some("2".into()), false));
        assert_eq!(world.secrets.unreadable().count(), 1);
        assert_eq!(world.show(sound("4")), (Some("4".into()), true));
        assert_eq!(world.secrets.unreadable().count(), 0);
    }
}
