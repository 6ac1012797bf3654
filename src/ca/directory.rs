//! The vault that is a state directory: one PEM file each, and for each cluster one with what the list says of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use atlas_core::name::{ClusterName, Identity, TrustDomain};
use atlas_core::pki::Authority;

use super::{Contents, Ledger, Signed, Vault, pem};
use crate::state_dir::StateDir;

/// What the list says, a file for each cluster.
const LIST: &str = "pki/issued";

/// Keeps everything below `pki/`.
pub struct Directory(pub StateDir);

impl Vault for Directory {
    fn load(&mut self, domain: &TrustDomain) -> anyhow::Result<Contents> {
        let authorities = self.authorities()?;
        let identities = self.identities(domain)?;
        let ledger = self.list(!authorities.is_empty())?;
        let mut contents = Contents { authorities, identities, ledger };
        contents.mend_revisions();
        Ok(contents)
    }

    fn save_authority(&mut self, all: &Contents, authority: Authority) -> anyhow::Result<()> {
        let signed = all.authorities.get(&authority).context("BUG: an authority is saved that isn't there")?;
        self.save(authority_file(authority), signed)
    }

    fn save_identities(&mut self, all: &Contents, which: &[&Identity]) -> Vec<anyhow::Result<()>> {
        let save = |identity: &&Identity| {
            // First the list: a credential that somebody may hold is always known.
            if let Identity::Bootstrap(name, _) = identity {
                self.save_of(all, name)?;
            }
            self.save(&identity_file(identity), all.identities.get(identity).context("BUG: an identity is saved that isn't there")?)
        };
        which.iter().map(save).collect()
    }

    fn save_list(&mut self, all: &Contents, of: &BTreeSet<ClusterName>) -> anyhow::Result<()> {
        of.iter().try_for_each(|cluster| self.save_of(all, cluster))
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

    fn save_of(&self, all: &Contents, cluster: &ClusterName) -> anyhow::Result<()> {
        let list = all.ledger.only(cluster);
        if list == Ledger::default() {
            return self.0.remove(&list_file(cluster.as_str()));
        }
        self.0.write(&list_file(cluster.as_str()), &list.to_json()?).map(drop)
    }

    /// Reads the list. What is missing of it is empty only where no credential was ever issued: otherwise every credential that
    /// was handed out would die in silence, and revisions would begin again.
    fn list(&self, something_was_issued: bool) -> anyhow::Result<Ledger> {
        let mut ledger = Ledger::default();
        let files = self.0.list(LIST)?;
        for file in files.iter().filter(|file| file.ends_with(".json")) {
            let file = format!("{LIST}/{file}");
            let Some(text) = self.0.read(&file)? else { continue };
            ledger.extend(Ledger::from_json(&text).with_context(|| self.broken(&file))?);
        }
        for cluster in if something_was_issued { self.bootstraps()? } else { Vec::new() } {
            let file = list_file(&cluster);
            if self.0.read(&file)?.is_none() {
                bail!(
                    "{} is missing, although a credential was issued: restore it from a backup. To do without it, remove {} too; then every                      credential that was handed out to {cluster} opens nothing, and it needs a new one (`atlas bootstrap`)",
                    self.0.path(&file).display(),
                    self.0.path(&format!("pki/bootstrap.{cluster}.pem")).display(),
                );
            }
        }
        Ok(ledger)
    }

    /// The clusters that a bootstrap credential was issued to here, for whichever trust domain.
    fn bootstraps(&self) -> anyhow::Result<Vec<String>> {
        let files = self.0.list("pki")?;
        Ok(files.iter().filter_map(|file| Some(file.strip_prefix("bootstrap.")?.strip_suffix(".pem")?.to_owned())).collect())
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

fn list_file(cluster: &str) -> String {
    format!("{LIST}/{cluster}.json")
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
