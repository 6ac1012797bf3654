//! The pki_store that is a state directory: one PEM file each, and for each cluster one with what the list says of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use atlas_core::name::{ClusterName, Identity, TrustDomain};
use atlas_core::pki::Authority;

use crate::pki::IssuerVerifier;
use crate::pki::{CertificateAndKey, Contents, Ledger, PkiStore, pem};
use crate::standalone::state_dir::StateDir;

/// What the list says, a file for each cluster.
const LIST: &str = "pki/issued";

/// How the name of a file that was set aside goes on after its own; a number follows.
const ASIDE: &str = ".broken-";

/// Keeps everything below `pki/`.
///
/// What nobody could make again (authorities, the list) must be right. A certificate that these can issue at any time is issued again
/// where its file is broken, and the file is kept under another name.
pub struct PkiDirectory {
    state: StateDir,
    /// Whether the lock is held, so that a broken file may be set aside.
    is_locked: bool,
    /// Files that were set aside, ever.
    aside: Vec<String>,
}

impl PkiStore for PkiDirectory {
    fn load(&mut self, domain: &TrustDomain) -> anyhow::Result<Contents> {
        let mut contents = Contents { authorities: self.authorities()?, ..Contents::default() };
        contents.ensure_one_root()?;
        // First the list: also a broken file shows that a credential was issued.
        contents.ledger = self.list(!contents.authorities.is_empty())?;
        contents.identities =
            self.identities(domain, contents.authorities.get(&Authority::Root))?;
        contents.raise_revisions();
        Ok(contents)
    }

    fn save_authority(&mut self, all: &Contents, authority: Authority) -> anyhow::Result<()> {
        let signed = all
            .authorities
            .get(&authority)
            .context("BUG: an authority is saved that isn't there")?;
        self.save(authority_file(authority), signed)
    }

    fn save_identities(&mut self, all: &Contents, which: &[&Identity]) -> Vec<anyhow::Result<()>> {
        let save = |identity: &&Identity| {
            // First the list: a credential that somebody may hold is always known.
            if let Identity::Bootstrap(name, _) = identity {
                self.save_of(all, name)?;
            }
            self.save(
                &identity_file(identity),
                all.identities
                    .get(identity)
                    .context("BUG: an identity is saved that isn't there")?,
            )
        };
        which.iter().map(save).collect()
    }

    fn save_ledger(&mut self, all: &Contents, of: &BTreeSet<ClusterName>) -> anyhow::Result<()> {
        of.iter().try_for_each(|cluster| self.save_of(all, cluster))
    }

    /// The node directory goes first: as long as that can't be removed, the others tell that there is something left to do.
    fn remove_keys(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        self.state.remove(&format!("nodes/{cluster}"))?;
        self.remove_identity(&Identity::Cluster(cluster.clone(), 0))?;
        self.remove_bootstrap(cluster)
    }

    fn remove_bootstrap(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        self.remove_identity(&Identity::Bootstrap(cluster.clone(), 0))
    }

    fn set_aside_notices(&self) -> Vec<String> {
        let there =
            self.aside.iter().map(|file| self.state.path(file)).filter(|path| path.exists());
        there
            .map(|path| format!("{} was broken, so it was set aside and issued anew: delete it once you know why", path.display()))
            .collect()
    }
}

impl PkiDirectory {
    /// Keeps it in this state directory, whose lock is held.
    pub fn new(state: StateDir) -> Self {
        Self { state, is_locked: true, aside: Vec::new() }
    }

    /// Reads it beside whoever holds the lock: what is broken is passed over.
    pub fn read_only(state: StateDir) -> Self {
        Self { is_locked: false, ..Self::new(state) }
    }

    /// Its keys, whole or broken.
    fn remove_identity(&mut self, identity: &Identity) -> anyhow::Result<()> {
        let file = identity_file(identity);
        self.state.remove(&file)?;
        let aside = format!("{file}{ASIDE}");
        for one in self.aside.iter().filter(|one| one.starts_with(&aside)) {
            self.state.remove(one)?;
        }
        self.aside.retain(|one| !one.starts_with(&aside));
        Ok(())
    }

    fn save(&self, file: &str, signed: &CertificateAndKey) -> anyhow::Result<()> {
        self.state.write(file, &pem::to_pem(signed)).map(drop)
    }

    fn save_of(&self, all: &Contents, cluster: &ClusterName) -> anyhow::Result<()> {
        let list = all.ledger.of_cluster(cluster);
        if list == Ledger::default() {
            return self.state.remove(&list_file(cluster.as_str()));
        }
        self.state.write(&list_file(cluster.as_str()), &list.to_json()?).map(drop)
    }

    /// Reads the list. What is missing of it is empty only where no credential was ever issued: otherwise every credential that
    /// was handed out would die in silence, and revisions would begin again.
    fn list(&self, something_was_issued: bool) -> anyhow::Result<Ledger> {
        let mut ledger = Ledger::default();
        let files = self.state.list(LIST)?;
        for file in files.iter().filter(|file| file.ends_with(".json")) {
            let file = format!("{LIST}/{file}");
            let Some(text) = self.state.read(&file)? else { continue };
            ledger.extend(Ledger::from_json(&text).with_context(|| self.broken(&file))?);
        }
        for cluster in if something_was_issued { self.bootstraps()? } else { Vec::new() } {
            let file = list_file(&cluster);
            if self.state.read(&file)?.is_none() {
                bail!(
                    "{} is missing, although a credential was issued: restore it from a backup. To do without it, remove {} too; then every credential that was handed out to {cluster} opens nothing, and it needs a new one (`atlas bootstrap`)",
                    self.state.path(&file).display(),
                    self.state.path(&format!("pki/bootstrap.{cluster}.pem")).display(),
                );
            }
        }
        Ok(ledger)
    }

    /// The clusters that a bootstrap credential was issued to here, for whichever trust domain.
    fn bootstraps(&self) -> anyhow::Result<Vec<String>> {
        let files = self.state.list("pki")?;
        Ok(files
            .iter()
            .filter_map(|file| {
                Some(file.strip_prefix("bootstrap.")?.strip_suffix(".pem")?.to_owned())
            })
            .collect())
    }

    fn authorities(&self) -> anyhow::Result<BTreeMap<Authority, CertificateAndKey>> {
        let mut authorities = BTreeMap::new();
        for authority in [Authority::Root, Authority::Issuing, Authority::Bootstrap] {
            let file = authority_file(authority);
            if let Some(text) = self.state.read(file)? {
                let (signed, _) = pem::from_pem(&text).with_context(|| self.broken(file))?;
                authorities.insert(authority, signed);
            }
        }
        if !authorities.is_empty() && !authorities.contains_key(&Authority::Root) {
            bail!(
                "{} is missing, although certificates signed by it are there: restore it from a backup, or start with an empty --state",
                self.state.path("pki/root.pem").display()
            );
        }
        Ok(authorities)
    }

    /// Identities of another trust domain are left where they are and count for nothing.
    fn identities(
        &mut self,
        domain: &TrustDomain,
        root: Option<&CertificateAndKey>,
    ) -> anyhow::Result<BTreeMap<Identity, CertificateAndKey>> {
        let mut identities = BTreeMap::new();
        let mut trusted = IssuerVerifier::new(root);
        for name in self.state.list("pki")? {
            let file = format!("pki/{name}");
            if name.contains(ASIDE) {
                self.aside.push(file);
                continue;
            }
            if !is_identity_file(&name) {
                continue;
            }
            let text = match std::fs::read(self.state.path(&file)) {
                Ok(bytes) => String::from_utf8(bytes).unwrap_or_default(),
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot read {}", self.state.path(&file).display())
                    });
                }
            };
            match parse_identity_file(&text, &file, domain, &mut trusted) {
                Ok(Some((identity, signed))) => _ = identities.insert(identity, signed),
                Ok(None) => {}
                Err(error) if self.is_locked => self.set_aside(file, &error)?,
                Err(_) => {}
            }
        }
        Ok(identities)
    }

    /// Keeps a broken file under another name, so that what it held is issued again.
    fn set_aside(&mut self, file: String, why: &anyhow::Error) -> anyhow::Result<()> {
        let free = |n: &u32| !self.state.path(&format!("{file}{ASIDE}{n}")).exists();
        let aside = format!("{file}{ASIDE}{}", (1..).find(free).unwrap_or_default());
        let (from, to) = (self.state.path(&file), self.state.path(&aside));
        std::fs::rename(&from, &to).with_context(|| {
            format!("{} is broken ({why:#}), and can't be set aside", from.display())
        })?;
        tracing::warn!(
            file = %from.display(), why = format!("{why:#}"), kept = %to.display(),
            "a certificate's file is broken: it is set aside, and another one is issued"
        );
        self.aside.push(aside);
        Ok(())
    }

    fn broken(&self, file: &str) -> String {
        format!(
            "{} is broken, and can't be made again: restore the whole directory pki from a backup (docs/backup.md)",
            self.state.path(file).display()
        )
    }
}

/// Whose certificate and key a file holds; `None`: somebody's of another trust domain.
///
/// # Errors
/// It is of no use here.
pub fn parse_identity_file(
    text: &str,
    file: &str,
    domain: &TrustDomain,
    trusted: &mut IssuerVerifier,
) -> anyhow::Result<Option<(Identity, CertificateAndKey)>> {
    let (signed, uri) = pem::from_pem(text)?;
    let Some(identity) = uri.and_then(|uri| Identity::parse(&uri, domain)) else { return Ok(None) };
    if identity_file(&identity) != file {
        bail!("it holds the certificate of {}", identity.spiffe_id(domain));
    }
    trusted.verify(&signed)?;
    Ok(Some((identity, signed)))
}

fn is_identity_file(name: &str) -> bool {
    let of_cluster =
        |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.ends_with(".pem"));
    matches!(name, "atlas.pem" | "hub.pem") || of_cluster("cluster.") || of_cluster("bootstrap.")
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
