//! Certificates in Atlas's own Secrets that are broken: kept under another key, and written or issued again.

use atlas_core::pki::Authority;

use super::Secrets;
use crate::kube::record::{self, Parsed, Record};
use crate::pki::{self, Contents, IssuerVerifier};

impl Secrets {
    /// Of a certificate that is broken: what this process knows of it counts, or it is due; either way its record is written.
    pub(super) fn set_aside(&mut self, record: &Record, parsed: &mut Parsed) {
        self.aside.insert(record.clone(), parsed.aside.clone());
        self.spoilt.remove(record);
        for (key, broken) in std::mem::take(&mut parsed.broken) {
            self.keep_aside(record, key, broken.why, broken.text);
            let known = record.identity(key, &self.contents.ledger);
            let known = known.and_then(|identity| {
                self.contents.identities.get(&identity).map(|signed| (identity, signed.clone()))
            });
            parsed.identities.extend(known);
        }
    }

    /// Of certificates that were issued below another root, which nobody here trusts: a restore of some Secrets of two backups.
    pub(super) fn set_foreign_aside(&mut self) {
        let Contents { authorities, identities, ledger } = &self.contents;
        let mut trusted = IssuerVerifier::new(authorities.get(&Authority::Root));
        let foreign = identities.iter().filter_map(|(identity, signed)| {
            Some((identity.clone(), pki::to_pem(signed), trusted.verify(signed).err()?))
        });
        let foreign: Vec<_> = foreign.collect();
        let ledger = ledger.clone();
        for (identity, text, why) in foreign {
            let record = Record::of_identity(&identity);
            let Some(key) = record.key(&identity, &ledger) else { continue };
            let why = format!("{why:#}");
            self.contents.identities.remove(&identity);
            self.keep_aside(&record, key, why, text);
        }
    }

    fn keep_aside(&mut self, record: &Record, key: &'static str, why: String, text: String) {
        let Some(aside) = record::aside(key) else { return };
        tracing::warn!(
            secret = record.secret(),
            key,
            why,
            kept = aside,
            "a certificate in one of Atlas's own Secrets is broken: it is set aside, and the one that is known is written again or another one issued"
        );
        self.spoilt.entry(record.clone()).or_default().insert(aside, text);
        self.unsaved.insert(record.clone());
    }

    /// What is kept for people to look at.
    pub(super) fn told_aside(&self) -> Vec<String> {
        let kept = self
            .aside
            .iter()
            .flat_map(|(record, keys)| keys.iter().map(|key| (record.secret(), *key)));
        let told = |(secret, key): (String, &str)| {
            let was = key.trim_end_matches(".broken");
            format!(
                "{was} in the Secret {secret} was broken, so it was set aside as {key} and issued anew: remove that key once you know why"
            )
        };
        kept.map(told).collect()
    }
}
