//! A [`PkiStore`] in the state directory: a PEM file for each certificate, and a JSON file for each
//! cluster's ledger entry.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use atlas_core::name::{ClusterName, Identity, TrustDomain};
use atlas_core::pki::Authority;

use crate::pki::IssuerVerifier;
use crate::pki::{CertificateAndKey, Contents, Ledger, PkiStore, pem};
use crate::standalone::state_dir::StateDir;

/// Directory of the ledger, a file for each cluster.
const LEDGER_DIR: &str = "pki/issued";

/// Appended to the name of a broken file that is set aside, with a number.
const SET_ASIDE_SUFFIX: &str = ".broken-";

/// The files below `pki/`.
///
/// Authorities and the ledger can't be made again, so a broken file of theirs is an error. Where a
/// certificate's file is broken, the certificate is issued again, and the file is set aside under
/// another name.
pub struct PkiDirectory {
    state: StateDir,
    /// Whether this process holds the lock of the state directory, so that it may set broken files
    /// aside.
    is_locked: bool,
    /// Files that are set aside, also by earlier processes.
    set_aside_files: Vec<String>,
}

impl PkiStore for PkiDirectory {
    fn load(&mut self, domain: &TrustDomain) -> anyhow::Result<Contents> {
        let mut contents =
            Contents { authorities: self.read_authorities()?, ..Contents::default() };
        contents.ensure_one_root()?;
        // Before the identities: reading these sets broken files aside, and a broken file shows
        // that a credential was issued.
        contents.ledger = self.read_ledger(!contents.authorities.is_empty())?;
        contents.identities =
            self.read_identities(domain, contents.authorities.get(&Authority::Root))?;
        contents.raise_revisions();
        Ok(contents)
    }

    fn save_authority(&mut self, contents: &Contents, authority: Authority) -> anyhow::Result<()> {
        let signed = contents
            .authorities
            .get(&authority)
            .context("BUG: an authority is saved that isn't there")?;
        self.save_certificate(authority_file(authority), signed)
    }

    fn save_identities(
        &mut self,
        contents: &Contents,
        which: &[&Identity],
    ) -> Vec<anyhow::Result<()>> {
        let save = |identity: &&Identity| {
            // The ledger first: every credential that somebody may hold is known.
            if let Identity::Bootstrap(name, _) = identity {
                self.save_entry(contents, name)?;
            }
            self.save_certificate(
                &identity_file(identity),
                contents
                    .identities
                    .get(identity)
                    .context("BUG: an identity is saved that isn't there")?,
            )
        };
        which.iter().map(save).collect()
    }

    fn save_ledger(
        &mut self,
        contents: &Contents,
        of: &BTreeSet<ClusterName>,
    ) -> anyhow::Result<()> {
        of.iter().try_for_each(|cluster| self.save_entry(contents, cluster))
    }

    /// Removes the node directory first: while that fails, the other files show that something is
    /// left to do.
    fn remove_keys(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        self.state.remove(&format!("nodes/{cluster}"))?;
        self.remove_identity(&Identity::Cluster(cluster.clone(), 0))?;
        self.remove_bootstrap(cluster)
    }

    fn remove_bootstrap(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        self.remove_identity(&Identity::Bootstrap(cluster.clone(), 0))
    }

    fn set_aside_notices(&self) -> Vec<String> {
        let paths = self.set_aside_files.iter().map(|file| self.state.path(file));
        paths
            .filter(|path| path.exists())
            .map(|path| format!("{} was broken, so it was set aside and issued anew: delete it once you know why", path.display()))
            .collect()
    }
}

impl PkiDirectory {
    /// In a state directory whose lock this process holds.
    pub fn new(state: StateDir) -> Self {
        Self { state, is_locked: true, set_aside_files: Vec::new() }
    }

    /// In a state directory whose lock another process may hold. Broken files are ignored.
    pub fn read_only(state: StateDir) -> Self {
        Self { is_locked: false, ..Self::new(state) }
    }

    /// Removes an identity's file, and those that were set aside.
    fn remove_identity(&mut self, identity: &Identity) -> anyhow::Result<()> {
        let file = identity_file(identity);
        self.state.remove(&file)?;
        let aside = format!("{file}{SET_ASIDE_SUFFIX}");
        for one in self.set_aside_files.iter().filter(|one| one.starts_with(&aside)) {
            self.state.remove(one)?;
        }
        self.set_aside_files.retain(|one| !one.starts_with(&aside));
        Ok(())
    }

    fn save_certificate(&self, file: &str, signed: &CertificateAndKey) -> anyhow::Result<()> {
        self.state.write(file, &pem::to_pem(signed)).map(drop)
    }

    fn save_entry(&self, contents: &Contents, cluster: &ClusterName) -> anyhow::Result<()> {
        let entry = contents.ledger.of_cluster(cluster);
        if entry == Ledger::default() {
            return self.state.remove(&ledger_file(cluster.as_str()));
        }
        self.state.write(&ledger_file(cluster.as_str()), &entry.to_json()?).map(drop)
    }

    /// Reads the ledger. A missing file is an error if a credential was issued to its cluster:
    /// otherwise that credential would no longer be accepted, without anybody being told, and
    /// revisions would begin again.
    fn read_ledger(&self, something_was_issued: bool) -> anyhow::Result<Ledger> {
        let mut ledger = Ledger::default();
        let files = self.state.list(LEDGER_DIR)?;
        for file in files.iter().filter(|file| file.ends_with(".json")) {
            let file = format!("{LEDGER_DIR}/{file}");
            let Some(text) = self.state.read(&file)? else { continue };
            ledger.extend(Ledger::from_json(&text).with_context(|| self.broken(&file))?);
        }
        for cluster in
            if something_was_issued { self.clusters_with_credentials()? } else { Vec::new() }
        {
            let file = ledger_file(&cluster);
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

    /// The clusters that have a bootstrap credential here, of any trust domain.
    fn clusters_with_credentials(&self) -> anyhow::Result<Vec<String>> {
        let files = self.state.list("pki")?;
        Ok(files
            .iter()
            .filter_map(|file| {
                Some(file.strip_prefix("bootstrap.")?.strip_suffix(".pem")?.to_owned())
            })
            .collect())
    }

    fn read_authorities(&self) -> anyhow::Result<BTreeMap<Authority, CertificateAndKey>> {
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

    /// Reads the certificates of this trust domain. Those of others are left alone.
    fn read_identities(
        &mut self,
        domain: &TrustDomain,
        root: Option<&CertificateAndKey>,
    ) -> anyhow::Result<BTreeMap<Identity, CertificateAndKey>> {
        let mut identities = BTreeMap::new();
        let mut verifier = IssuerVerifier::new(root);
        for name in self.state.list("pki")? {
            let file = format!("pki/{name}");
            if name.contains(SET_ASIDE_SUFFIX) {
                self.set_aside_files.push(file);
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
            match parse_identity_file(&text, &file, domain, &mut verifier) {
                Ok(Some((identity, signed))) => _ = identities.insert(identity, signed),
                Ok(None) => {}
                Err(error) if self.is_locked => self.set_aside(file, &error)?,
                Err(_) => {}
            }
        }
        Ok(identities)
    }

    /// Renames a broken file, so that its certificate is issued again.
    fn set_aside(&mut self, file: String, why: &anyhow::Error) -> anyhow::Result<()> {
        let free = |n: &u32| !self.state.path(&format!("{file}{SET_ASIDE_SUFFIX}{n}")).exists();
        let aside = format!("{file}{SET_ASIDE_SUFFIX}{}", (1..).find(free).unwrap_or_default());
        let (from, to) = (self.state.path(&file), self.state.path(&aside));
        std::fs::rename(&from, &to).with_context(|| {
            format!("{} is broken ({why:#}), and can't be set aside", from.display())
        })?;
        tracing::warn!(
            file = %from.display(), why = format!("{why:#}"), kept = %to.display(),
            "a certificate's file is broken: it is set aside, and another one is issued"
        );
        self.set_aside_files.push(aside);
        Ok(())
    }

    fn broken(&self, file: &str) -> String {
        format!(
            "{} is broken, and can't be made again: restore the whole directory pki from a backup (docs/backup.md)",
            self.state.path(file).display()
        )
    }
}

/// The identity and certificate in a file; `None`: it is of another trust domain.
///
/// # Errors
/// It is broken, of another identity than the file's name says, or below another root.
pub fn parse_identity_file(
    text: &str,
    file: &str,
    domain: &TrustDomain,
    verifier: &mut IssuerVerifier,
) -> anyhow::Result<Option<(Identity, CertificateAndKey)>> {
    let (signed, uri) = pem::from_pem(text)?;
    let Some(identity) = uri.and_then(|uri| Identity::parse(&uri, domain)) else { return Ok(None) };
    if identity_file(&identity) != file {
        bail!("it holds the certificate of {}", identity.spiffe_id(domain));
    }
    verifier.verify(&signed)?;
    Ok(Some((identity, signed)))
}

fn is_identity_file(name: &str) -> bool {
    let of_cluster =
        |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.ends_with(".pem"));
    matches!(name, "atlas.pem" | "hub.pem") || of_cluster("cluster.") || of_cluster("bootstrap.")
}

fn ledger_file(cluster: &str) -> String {
    format!("{LEDGER_DIR}/{cluster}.json")
}

fn authority_file(authority: Authority) -> &'static str {
    match authority {
        Authority::Root => "pki/root.pem",
        Authority::Issuing => "pki/issuing.pem",
        Authority::Bootstrap => "pki/bootstrap-ca.pem",
    }
}

/// One file for each node and purpose: a new revision replaces the old one's.
fn identity_file(identity: &Identity) -> String {
    match identity {
        Identity::Atlas => "pki/atlas.pem".into(),
        Identity::Hub => "pki/hub.pem".into(),
        Identity::Cluster(name, _) => format!("pki/cluster.{name}.pem"),
        Identity::Bootstrap(name, _) => format!("pki/bootstrap.{name}.pem"),
    }
}
