//! The state directory: what a standalone Atlas keeps across restarts.
//!
//! ```text
//! lock               held while Atlas runs
//! pki/               authorities, leaves, credentials (one PEM file each: certificates, then key)
//! pki/issued/        the ledger: accepted credentials and each cluster's revision, a file for each cluster
//! nodes/<node>/      what that node's Envoy starts from: envoy.yaml and its credential
//! endpoints.yaml     Thanos Query's endpoint SD file
//! atlas.zone         the DNS zone as a master file
//! last-good/         each file's manifests when it was last valid, in case it is wrong at the next start
//! status.sock        `atlas status` and `atlas cluster-remove` ask here
//! ```
//!
//! Every write is atomic (temporary file, rename): after a SIGKILL a file has its old text or its
//! new one. What can't be made again is synced to disk (fsync) before Atlas goes on; derived files
//! are not. Only the owner may read anything; where others may, Atlas changes the mode.

use std::fs::{self, DirBuilder, DirEntry, File, FileType, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

mod modes;

/// Prefix of temporary files; six letters and digits follow.
const TEMPORARY_FILE: &str = ".atlas-tmp-";
/// Prefix of temporary directories ([`swap_files`]); six letters and digits follow, so it is never
/// `..data`.
const TEMPORARY_DIR: &str = "..";

/// A state directory. Reading needs no lock.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
}

/// The lock of a state directory, released when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl StateDir {
    /// A state directory at this path. Nothing is read or written yet.
    pub fn at(root: &Path) -> anyhow::Result<Self> {
        let root = std::path::absolute(root)
            .with_context(|| format!("cannot make {} absolute", root.display()))?;
        Ok(Self { root })
    }

    /// Takes the lock. Makes the directory if need be.
    ///
    /// # Errors
    /// Another Atlas runs on it, it can't be written, or others may read keys in it and its modes
    /// can't be changed.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        for dir in [
            self.root.clone(),
            self.path("pki"),
            self.path("pki/issued"),
            self.path("nodes"),
            self.path("last-good"),
        ] {
            make_private_dir(&dir)?;
        }
        let path = self.path("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                self.sweep();
                self.make_private()?;
                Ok(Lock { _file: file })
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                bail!(
                    "another atlas runs with the state directory {}: stop it, or give this one a directory of its own (--state)",
                    self.root.display()
                )
            }
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// Removes temporary files of a killed process, since keys may be in them. The lock is held, so
    /// nobody is writing them.
    fn sweep(&self) {
        for dir in
            [self.root.clone(), self.path("pki"), self.path("pki/issued"), self.path("last-good")]
        {
            sweep(&dir, TEMPORARY_FILE, |kind| kind.is_file(), |path| fs::remove_file(path));
        }
        for node in entries(&self.path("nodes")) {
            let live = fs::read_link(node.path().join("..data")).ok();
            let remove = |path: &Path| {
                if path.file_name() == live.as_deref().map(Path::as_os_str) {
                    Ok(())
                } else {
                    fs::remove_dir_all(path)
                }
            };
            sweep(&node.path(), TEMPORARY_DIR, |kind| kind.is_dir(), remove);
        }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a file in it.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The directory of a node's bootstrap files.
    pub fn node(&self, node: &str) -> PathBuf {
        self.path("nodes").join(node)
    }

    /// The socket of the running Atlas.
    pub fn socket(&self) -> PathBuf {
        self.path("status.sock")
    }

    /// Reads a file; `None` if it isn't there.
    pub fn read(&self, relative: &str) -> anyhow::Result<Option<String>> {
        let path = self.path(relative);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Replaces a file atomically, unless it has this text already. Returns whether it was written.
    pub fn write(&self, relative: &str, text: &str) -> anyhow::Result<bool> {
        let path = self.path(relative);
        if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(false);
        }
        write_private(&path, text)?;
        Ok(true)
    }

    /// Removes a file or directory, if it is there.
    pub fn remove(&self, relative: &str) -> anyhow::Result<()> {
        let path = self.path(relative);
        let result = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match result {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Names of the files directly in a directory.
    pub fn list(&self, relative: &str) -> anyhow::Result<Vec<String>> {
        let path = self.path(relative);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot list {}", path.display()))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

/// Whether a file is synced to disk before Atlas goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Safe {
    /// Yes: it can't be made again.
    Now,
    /// No: it is derived from files that are synced, and made again after a loss of power.
    Later,
}

/// Replaces a file atomically, readable by its owner alone.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    replace(path, text, 0o600, Safe::Now)
}

/// As [`write_private`], without syncing to disk, for files that can be made again.
pub fn write_derived(path: &Path, text: &str) -> anyhow::Result<()> {
    replace(path, text, 0o600, Safe::Later)
}

/// As [`write_derived`], readable by everyone. Writes nothing if the file has this text and mode
/// already.
pub fn write_public(path: &Path, text: &str) -> anyhow::Result<()> {
    let is_public =
        fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o444 == 0o444);
    if is_public && fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    replace(path, text, 0o644, Safe::Later)
}

fn replace(path: &Path, text: &str, mode: u32, safe: Safe) -> anyhow::Result<()> {
    let what = || format!("cannot write {}", path.display());
    let dir = path.parent().unwrap_or(Path::new("."));
    let mode = Permissions::from_mode(mode);
    let mut file = tempfile::Builder::new()
        .prefix(TEMPORARY_FILE)
        .rand_bytes(6)
        .permissions(mode.clone())
        .tempfile_in(dir)
        .with_context(what)?;
    // The umask restricts the mode at creation.
    file.as_file().set_permissions(mode).with_context(what)?;
    file.write_all(text.as_bytes()).with_context(what)?;
    if safe == Safe::Later {
        return file.persist(path).map(drop).with_context(what);
    }
    file.as_file().sync_all().with_context(what)?;
    file.persist(path).with_context(what)?;
    File::open(dir).and_then(|dir| dir.sync_all()).with_context(what)
}

/// Makes a directory that only its owner may enter. One that is there keeps its mode: it may be
/// `/tmp`.
pub fn make_private_dir(path: &Path) -> anyhow::Result<()> {
    let what = || format!("cannot make the directory {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(what)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.with_context(what),
    }
}

/// The entries of a directory; none if it can't be read.
fn entries(dir: &Path) -> impl Iterator<Item = DirEntry> {
    fs::read_dir(dir).into_iter().flatten().flatten()
}

/// Removes the entries of a kind whose names are `prefix` and six letters and digits.
fn sweep(
    dir: &Path,
    prefix: &str,
    is_kind: impl Fn(&FileType) -> bool,
    remove: impl Fn(&Path) -> std::io::Result<()>,
) {
    for entry in entries(dir) {
        let name = entry.file_name();
        let random = name.to_str().and_then(|name| name.strip_prefix(prefix));
        let ours = random.is_some_and(|random| {
            random.len() == 6 && random.bytes().all(|b| b.is_ascii_alphanumeric())
        });
        // The type of the entry itself: Atlas makes no links of such names.
        if !ours || !entry.file_type().is_ok_and(|kind| is_kind(&kind)) {
            continue;
        }
        if let Err(error) = remove(&entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "cannot remove what a killed process left behind");
        }
    }
}

/// Reads files that [`swap_files`] wrote, all of the same write, so that certificate and key belong
/// together.
///
/// # Errors
/// They can't be read.
pub fn read_swapped(dir: &Path, names: &[&str]) -> anyhow::Result<Vec<(String, String)>> {
    let what = || format!("cannot read the files in {}", dir.display());
    let mut data = fs::read_link(dir.join("..data")).with_context(what)?;
    loop {
        let read =
            |name: &&str| Ok(((*name).to_owned(), fs::read_to_string(dir.join(&data).join(name))?));
        let files: std::io::Result<Vec<_>> = names.iter().map(read).collect();
        let now = fs::read_link(dir.join("..data")).with_context(what)?;
        // The link was replaced meanwhile, so files may be of two writes, or gone.
        if files.is_ok() || now == data {
            return files.with_context(what);
        }
        data = now;
    }
}

/// Replaces a directory's files together, as Kubernetes does with a mounted Secret: the files are
/// links through `..data`, which one rename replaces. That rename is what Envoy's
/// `watched_directory` notices, and certificate and key always belong together. Returns whether
/// anything changed.
pub fn swap_files(dir: &Path, files: &[(String, String)]) -> anyhow::Result<bool> {
    let same = |(name, text): &(String, String)| {
        fs::read(dir.join(name)).is_ok_and(|old| old == text.as_bytes())
    };
    if files.iter().all(same) {
        return Ok(false);
    }
    make_private_dir(dir)?;
    let what = || format!("cannot write the files in {}", dir.display());
    let fresh = tempfile::Builder::new()
        .prefix(TEMPORARY_DIR)
        .rand_bytes(6)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(dir)
        .with_context(what)?;
    for (name, text) in files {
        // No link leads to this directory yet, so plain writes do; they aren't synced, since these
        // files can be made again.
        let file =
            File::options().write(true).create_new(true).mode(0o600).open(fresh.path().join(name));
        file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(what)?;
    }
    let data = dir.join("..data");
    let old = fs::read_link(&data).ok();
    let name =
        fresh.path().file_name().context("BUG: a temporary directory without a name")?.to_owned();
    let _kept = fresh.keep();
    let turning = dir.join("..data_tmp");
    let _ = fs::remove_file(&turning);
    symlink(&name, &turning).with_context(what)?;
    fs::rename(&turning, &data).with_context(what)?;
    for (name, _) in files {
        let link = dir.join(name);
        if fs::read_link(&link).is_err() {
            let _ = fs::remove_file(&link);
            symlink(Path::new("..data").join(name), &link).with_context(what)?;
        }
    }
    if let Some(old) = old {
        let _ = fs::remove_dir_all(dir.join(old));
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
