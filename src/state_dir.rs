//! The state directory: everything that a standalone Atlas must find again after a restart.
//!
//! ```text
//! lock               held while Atlas runs
//! pki/               authorities, leaves, credentials (one PEM file each: certificates, then key), issued.json
//! nodes/<node>/      what that node's Envoy starts from: envoy.yaml and its credential
//! endpoints.yaml     Thanos Query's endpoint SD file
//! atlas.zone         the DNS zone as a master file
//! status.sock        `atlas status` and `atlas cluster-remove` ask here
//! ```
//!
//! Every write is atomic (temporary file, fsync, rename), so a SIGKILL at any moment leaves old or new, never half.
//! Everything is readable by its owner alone.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

/// Where things lie in a state directory. Reading needs no lock.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
}

/// Holds the lock; dropped, another process may run.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl StateDir {
    /// Names a directory; touches nothing.
    pub fn at(root: &Path) -> anyhow::Result<Self> {
        let root = std::path::absolute(root).with_context(|| format!("cannot make {} absolute", root.display()))?;
        Ok(Self { root })
    }

    /// Makes the directory where needed and takes its lock.
    ///
    /// # Errors
    /// Another Atlas runs on it, or it can't be written.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        for dir in [self.root.clone(), self.path("pki"), self.path("nodes")] {
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
            Ok(()) => Ok(Lock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                bail!(
                    "another atlas runs with the state directory {}: stop it, or give this one a directory of its own (--state)",
                    self.root.display()
                )
            }
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// What one node's Envoy starts from.
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

    /// Replaces a file atomically, unless it says the same already. Returns whether it was written.
    pub fn write(&self, relative: &str, text: &str) -> anyhow::Result<bool> {
        let path = self.path(relative);
        if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(false);
        }
        write_private(&path, text)?;
        Ok(true)
    }

    /// Removes a file or directory; it may be gone already.
    pub fn remove(&self, relative: &str) -> anyhow::Result<()> {
        let path = self.path(relative);
        let result = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match result {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| format!("cannot remove {}", path.display())),
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

/// Replaces a file atomically, readable by its owner alone.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    replace(path, text, 0o600)
}

/// Replaces a file atomically, readable by everyone, unless it says the same already.
pub fn write_public(path: &Path, text: &str) -> anyhow::Result<()> {
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    replace(path, text, 0o644)
}

fn replace(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let what = || format!("cannot write {}", path.display());
    let dir = path.parent().unwrap_or(Path::new("."));
    let mode = Permissions::from_mode(mode);
    let mut file = tempfile::Builder::new().permissions(mode.clone()).tempfile_in(dir).with_context(what)?;
    // The mode at creation is subject to the umask.
    file.as_file().set_permissions(mode).with_context(what)?;
    file.write_all(text.as_bytes()).with_context(what)?;
    file.as_file().sync_all().with_context(what)?;
    file.persist(path).with_context(what)?;
    File::open(dir).and_then(|dir| dir.sync_all()).with_context(what)
}

/// Makes a directory that only its owner may enter.
pub fn make_private_dir(path: &Path) -> anyhow::Result<()> {
    let what = || format!("cannot make the directory {}", path.display());
    fs::create_dir_all(path).with_context(what)?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).with_context(what)
}

/// Replaces a directory's files together, as Kubernetes does with a mounted Secret: the files are links through `..data`,
/// which is turned by one rename. That rename is what Envoy's `watched_directory` notices, and certificate and key always
/// belong together. Returns whether anything changed.
pub fn swap_files(dir: &Path, files: &[(String, String)]) -> anyhow::Result<bool> {
    let same = |(name, text): &(String, String)| fs::read(dir.join(name)).is_ok_and(|old| old == text.as_bytes());
    if files.iter().all(same) {
        return Ok(false);
    }
    make_private_dir(dir)?;
    let what = || format!("cannot write the files in {}", dir.display());
    let fresh = tempfile::Builder::new().prefix("..").tempdir_in(dir).with_context(what)?;
    for (name, text) in files {
        write_private(&fresh.path().join(name), text)?;
    }
    let data = dir.join("..data");
    let old = fs::read_link(&data).ok();
    let name = fresh.path().file_name().context("BUG: a temporary directory without a name")?.to_owned();
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
    File::open(dir).and_then(|dir| dir.sync_all()).with_context(what)?;
    if let Some(old) = old {
        let _ = fs::remove_dir_all(dir.join(old));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(&dir.path().join("state")).unwrap();
        (dir, state)
    }

    #[test]
    fn a_second_process_is_turned_away() {
        let (_dir, state) = state();
        let lock = state.lock().unwrap();
        assert!(state.lock().unwrap_err().to_string().contains("another atlas"));
        drop(lock);
        state.lock().unwrap();
    }

    #[test]
    fn what_is_written_is_private_and_written_once() {
        let (_dir, state) = state();
        let _lock = state.lock().unwrap();
        assert!(state.write("pki/x.pem", "key").unwrap());
        assert!(!state.write("pki/x.pem", "key").unwrap());
        let mode = |path: &str| fs::metadata(state.path(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("pki/x.pem"), mode("pki")), (0o600, 0o700));
    }

    #[test]
    fn files_are_swapped_together_through_one_link() {
        let (_dir, state) = state();
        let dir = state.node("tokyo");
        let files = |text: &str| [("a".to_owned(), text.to_owned()), ("b".to_owned(), text.to_owned())];
        assert!(swap_files(&dir, &files("1")).unwrap());
        assert!(!swap_files(&dir, &files("1")).unwrap());
        let before = fs::read_link(dir.join("..data")).unwrap();
        assert!(swap_files(&dir, &files("2")).unwrap());
        assert_ne!(fs::read_link(dir.join("..data")).unwrap(), before);
        assert_eq!(fs::read_to_string(dir.join("b")).unwrap(), "2");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 4, "..data, its directory, and two links");
    }
}
