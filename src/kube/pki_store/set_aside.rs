//! Broken certificates in Atlas's own Secrets: they are set aside under another key, and replaced.

use atlas_core::pki::Authority;

use super::LeaderStore;
use crate::kube::pki_secret::{PkiSecret, SecretData, set_aside_key};
use crate::pki::{self, Contents, IssuerVerifier};

impl LeaderStore {
    /// Sets the broken certificates of a Secret aside. This process writes the certificate that it
    /// knows again; where it knows none, another one is issued.
    pub(super) fn set_broken_aside(
        &mut self,
        contents: &Contents,
        secret: &PkiSecret,
        data: &mut SecretData,
    ) {
        if data.set_aside.is_empty() {
            self.set_aside.remove(secret);
        } else {
            self.set_aside.insert(secret.clone(), data.set_aside.clone());
        }
        self.to_set_aside.remove(secret);
        for (key, broken) in std::mem::take(&mut data.broken) {
            self.set_one_aside(secret, key, broken.reason, broken.text);
            if let Some(identity) = secret.identity(key, &contents.ledger)
                && let Some(known) = contents.identities.get(&identity)
            {
                data.identities.insert(identity, known.clone());
            }
        }
    }

    /// Sets certificates aside that were issued below another root: Secrets of two backups were
    /// restored.
    pub(super) fn set_other_roots_aside(&mut self, contents: &mut Contents) {
        let mut verifier = IssuerVerifier::new(contents.authorities.get(&Authority::Root));
        let mut rejected = Vec::new();
        for (identity, certificate) in &contents.identities {
            if let Err(reason) = verifier.verify(certificate) {
                rejected.push((identity.clone(), pki::to_pem(certificate), format!("{reason:#}")));
            }
        }
        for (identity, text, reason) in rejected {
            let secret = PkiSecret::of_identity(&identity);
            if let Some(key) = secret.key(&identity, &contents.ledger) {
                contents.identities.remove(&identity);
                self.set_one_aside(&secret, key, reason, text);
            }
        }
    }

    fn set_one_aside(
        &mut self,
        secret: &PkiSecret,
        key: &'static str,
        reason: String,
        text: String,
    ) {
        let Some(other_key) = set_aside_key(key) else { return };
        tracing::warn!(
            secret = secret.name(),
            key,
            why = reason,
            kept = other_key,
            "a certificate in one of Atlas's own Secrets is broken: it is set aside, and the one that is known is written again or another one issued"
        );
        self.to_set_aside.entry(secret.clone()).or_default().insert(other_key, text);
        self.unsaved.insert(secret.clone());
    }

    /// A sentence for each broken certificate that is kept.
    pub(super) fn set_aside_notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        for (secret, keys) in &self.set_aside {
            for key in keys {
                let (before, secret) = (key.trim_end_matches(".broken"), secret.name());
                notices.push(format!(
                    "{before} in the Secret {secret} was broken, so it was set aside as {key} and issued anew: remove that key once you know why"
                ));
            }
        }
        notices
    }
}
