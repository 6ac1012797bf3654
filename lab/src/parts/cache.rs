//! The cache of parts: `$ATLAS_CACHE`, else `$XDG_CACHE_HOME/atlas`, else `~/.cache/atlas`.
//!
//! ```text
//! parts/NAME-VERSION-HASH/   one finished part; appears by a rename, so it is whole or absent
//! work/NAME-VERSION-HASH/    a build under way, or what a killed one left; cleared by the next
//! logs/NAME-VERSION-HASH.log what the tools said
//! locks/NAME…                one file lock each
//! ```

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The cache directory.
pub(super) struct Cache {
    root: PathBuf,
}

/// The directories of one build.
pub(super) struct Bench {
    /// For intermediate files; removed at the end.
    pub work: PathBuf,
    /// Becomes the finished part. It exists and is empty at the start.
    pub part: PathBuf,
    /// Output of the tools.
    pub log: PathBuf,
}

impl Cache {
    /// The cache that the environment names. Creates no directory.
    pub fn open() -> Result<Cache> {
        let root = choose_root(
            env::var_os("ATLAS_CACHE"),
            env::var_os("XDG_CACHE_HOME"),
            env::home_dir(),
        )?;
        // Absolute, since tools run in other working directories.
        let root = std::path::absolute(&root)
            .with_context(|| format!("the cache directory {}", root.display()))?;
        Ok(Cache { root })
    }

    /// The directory of the finished part with this key.
    pub fn part(&self, key: &str) -> PathBuf {
        self.root.join("parts").join(key)
    }

    /// The log of the tools that made the part with this key.
    pub fn log(&self, key: &str) -> Result<PathBuf> {
        Ok(self.directory("logs")?.join(format!("{key}.log")))
    }

    /// Takes the lock of this name, which is released when the file is dropped. Calls `waiting`
    /// first if another process holds it.
    pub fn lock(&self, name: &str, waiting: impl FnOnce()) -> Result<File> {
        let path = self.directory("locks")?.join(name);
        let file = File::create(&path)
            .with_context(|| format!("cannot create the lock file {}", path.display()))?;
        let locked = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        locked.with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    /// Runs `build` and moves its result into the cache by one rename. The caller holds the part's
    /// lock.
    pub fn install(&self, key: &str, build: impl FnOnce(&Bench) -> Result<()>) -> Result<()> {
        let work = self.directory("work")?.join(key);
        remove(&work)?;
        let bench = Bench { part: work.join("part"), log: self.log(key)?, work };
        fs::create_dir_all(&bench.part)
            .with_context(|| format!("cannot create {}", bench.part.display()))?;
        fs::write(&bench.log, "")
            .with_context(|| format!("cannot write {}", bench.log.display()))?;
        let moved = build(&bench).and_then(|()| {
            self.directory("parts")?;
            let target = self.part(key);
            remove(&target)?;
            fs::rename(&bench.part, &target)
                .with_context(|| format!("cannot move the part to {}", target.display()))
        });
        remove(&bench.work)?;
        moved
    }

    fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).with_context(|| {
            format!("cannot create {}; ATLAS_CACHE names another place", path.display())
        })?;
        Ok(path)
    }
}

/// The first of the three places that is set; empty variables count as unset, and so does a
/// relative `XDG_CACHE_HOME` (XDG Base Directory Specification).
fn choose_root(
    atlas: Option<OsString>,
    xdg: Option<OsString>,
    home: Option<PathBuf>,
) -> Result<PathBuf> {
    if let Some(atlas) = atlas.filter(|value| !value.is_empty()) {
        return Ok(atlas.into());
    }
    if let Some(xdg) = xdg.map(PathBuf::from).filter(|path| path.is_absolute()) {
        return Ok(xdg.join("atlas"));
    }
    let home = home.context(
        "there is no home directory for the cache of parts; set ATLAS_CACHE to a directory",
    )?;
    Ok(home.join(".cache/atlas"))
}

/// Twelve hexadecimal digits of a hash of all inputs. Each input is hashed with its length, so that
/// moving bytes from one to the next changes the hash.
pub(super) fn fingerprint(inputs: &[impl AsRef<[u8]>]) -> String {
    let mut hash = Sha256::new();
    for input in inputs {
        let input = input.as_ref();
        hash.update(input.len().to_le_bytes());
        hash.update(input);
    }
    let mut hex = format!("{:x}", hash.finalize());
    hex.truncate(12);
    hex
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// The contents of a pin file.
pub(super) fn pin(path: &str) -> Result<Vec<u8>> {
    let path = super::peers().join(path);
    fs::read(&path).with_context(|| format!("cannot read the pins in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_chooses_the_place() {
        let choose = |atlas: &str, xdg: &str| {
            choose_root(Some(atlas.into()), Some(xdg.into()), Some("/home/ada".into())).unwrap()
        };
        assert_eq!(choose("/big/disk", "/xdg"), Path::new("/big/disk"));
        assert_eq!(choose("", "/xdg"), Path::new("/xdg/atlas"));
        assert_eq!(choose("", "relative"), Path::new("/home/ada/.cache/atlas"));
        assert!(choose_root(None, None, None).unwrap_err().to_string().contains("set ATLAS_CACHE"));
    }

    #[test]
    fn a_fingerprint_sees_every_input_and_their_borders() {
        let all = [
            fingerprint(&["go.mod", "go.sum"]),
            fingerprint(&["go.mod", "go.sum 2"]),
            fingerprint(&["go.modgo.sum", ""]),
            fingerprint(&["go.mod"]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert_eq!(one.len(), 12);
            assert!(!all[..index].contains(one), "{all:?}");
        }
    }

    #[test]
    fn a_part_appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache { root: directory.path().into() };
        let failed = cache.install("broken-1", |bench| {
            fs::write(bench.part.join("half"), "").unwrap();
            anyhow::bail!("the network went away")
        });
        assert_eq!(failed.unwrap_err().to_string(), "the network went away");
        assert!(!cache.part("broken-1").exists());

        cache.install("whole-1", |bench| Ok(fs::write(bench.part.join("program"), "")?)).unwrap();
        assert!(cache.part("whole-1").join("program").exists());
        assert_eq!(fs::read_dir(directory.path().join("work")).unwrap().count(), 0);
    }

    #[test]
    fn the_second_to_lock_is_told_that_it_waits() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache { root: directory.path().into() };
        let first = cache.lock("thanos", || panic!("nobody holds it")).unwrap();
        let mut first = Some(first);
        let mut waited = false;
        cache
            .lock("thanos", || {
                waited = true;
                first.take();
            })
            .unwrap();
        assert!(waited);
    }
}
