//! The vault that is a state directory: one PEM file each, and one file with the list.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow, bail};
use atlas_core::name::{ClusterName, Identity, TrustDomain};
use atlas_core::pki::Authority;

use super::{Contents, Ledger, Signed, Vault, pem};
use crate::state_dir::StateDir;

const LIST: &str = "pki/issued.json";

/// Keeps everything below `pki/`.
pub struct Directory(pub StateDir);

impl Vault for Directory {
    fn load(&mut self, domain: &TrustDomain) -> anyhow::Result<Contents> {
        let authorities = self.authorities()?;
        let identities = self.identities(domain)?;
        let ledger = self.list(!authorities.is_empty() && self.any_bootstrap()?)?;
        let mut contents = Contents { authorities, identities, ledger };
        contents.mend_revisions();
        Ok(contents)
    }

    fn save_authority(&mut self, all: &Contents, authority: Authority) -> anyhow::Result<()> {
        let signed = all.authorities.get(&authority).context("BUG: an authority is saved that isn't there")?;
        self.save(authority_file(authority), signed)
    }

    fn save_identities(&mut self, all: &Contents, which: &[&Identity]) -> Vec<anyhow::Result<()>> {
        let credentials = which.iter().any(|identity| matches!(identity, Identity::Bootstrap(..)));
        // First the list: a credential that somebody may hold is always known.
        let listed = if credentials { self.save_all(&all.ledger) } else { Ok(()) };
        let save = |identity: &&Identity| {
            if let (Identity::Bootstrap(..), Err(error)) = (identity, &listed) {
                return Err(anyhow!("{error:#}"));
            }
            self.save(&identity_file(identity), all.identities.get(identity).context("BUG: an identity is saved that isn't there")?)
        };
        which.iter().map(save).collect()
    }

    fn save_list(&mut self, all: &Contents, _of: &BTreeSet<ClusterName>) -> anyhow::Result<()> {
        self.save_all(&all.ledger)
    }

    /// The node directory goes first: as long as that can't be removed, the others tell that there is something left to do.
    fn remove_keys(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        self.0.remove(&format!("nodes/{cluster}"))?;
        self.0.remove(&identity_file(&Identity::Cluster(cluster.clone(), 0)))?;
        self.remove_bootstrap(cluster)
    }

    fn remove_bootstrap(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        self.0.remove(&identity_file(&Identity::Bootstrap(cluster.clone(), 0)))
    }
}

impl Directory {
    fn save(&self, file: &str, signed: &Signed) -> anyhow::Result<()> {
        self.0.write(file, &pem::text(signed)).map(drop)
    }

    fn save_all(&self, ledger: &Ledger) -> anyhow::Result<()> {
        self.0.write(LIST, &ledger.to_json()?).map(drop)
    }

    /// Reads the list. A missing one is empty only where no credential was ever issued: otherwise every credential that
    /// was handed out would die in silence, and revisions would begin again.
    fn list(&self, something_was_issued: bool) -> anyhow::Result<Ledger> {
        let Some(text) = self.0.read(LIST)? else {
            if something_was_issued {
                bail!(
                    "{} is missing, although credentials were issued: restore it from a backup. To do without it, remove {} too; then \
                     every credential that was handed out opens nothing, and each cluster needs a new one (`atlas bootstrap`)",
                    self.0.path(LIST).display(),
                    self.0.path("pki/bootstrap.*.pem").display(),
                );
            }
            return Ok(Ledger::default());
        };
        Ledger::from_json(&text).with_context(|| self.broken(LIST))
    }

    /// Whether any bootstrap credential was ever issued here, for whichever trust domain.
    fn any_bootstrap(&self) -> anyhow::Result<bool> {
        Ok(self.0.list("pki")?.iter().any(|file| file.starts_with("bootstrap.") && file.ends_with(".pem")))
    }

    fn authorities(&self) -> anyhow::Result<BTreeMap<Authority, Signed>> {
        let mut authorities = BTreeMap::new();
        for authority in [Authority::Root, Authority::Issuing, Authority::Bootstrap] {
            let file = authority_file(authority);
            if let Some(text) = self.0.read(file)? {
                let (signed, _) = pem::parse(&text).with_context(|| self.broken(file))?;
                authorities.insert(authority, signed);
            }
        }
        if !authorities.is_empty() && !authorities.contains_key(&Authority::Root) {
            bail!(
                "{} is missing, although certificates signed by it are there: restore it from a backup, or start with an empty --state",
                self.0.path("pki/root.pem").display()
            );
        }
        Ok(authorities)
    }

    /// Identities of another trust domain are left where they are and count for nothing.
    fn identities(&self, domain: &TrustDomain) -> anyhow::Result<BTreeMap<Identity, Signed>> {
        let mut identities = BTreeMap::new();
        let authorities = ["root.pem", "issuing.pem", "bootstrap-ca.pem"];
        for file in self.0.list("pki")?.iter().filter(|file| file.ends_with(".pem") && !authorities.contains(&file.as_str())) {
            let file = format!("pki/{file}");
            let Some(text) = self.0.read(&file)? else { continue };
            let (signed, uri) = pem::parse(&text).with_context(|| self.broken(&file))?;
            if let Some(identity) = uri.and_then(|uri| Identity::parse(&uri, domain)) {
                identities.insert(identity, signed);
            }
        }
        Ok(identities)
    }

    fn broken(&self, file: &str) -> String {
        format!("{} is broken: restore it from a backup", self.0.path(file).display())
    }
}

fn authority_file(authority: Authority) -> &'static str {
    match authority {
        Authority::Root => "pki/root.pem",
        Authority::Issuing => "pki/issuing.pem",
        Authority::Bootstrap => "pki/bootstrap-ca.pem",
    }
}

/// One file per node and purpose; a new revision takes the old one's place.
fn identity_file(identity: &Identity) -> String {
    match identity {
        Identity::Atlas => "pki/atlas.pem".into(),
        Identity::Hub => "pki/hub.pem".into(),
        Identity::Cluster(name, _) => format!("pki/cluster.{name}.pem"),
        Identity::Bootstrap(name, _) => format!("pki/bootstrap.{name}.pem"),
    }
}
