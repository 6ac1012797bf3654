//! Modes in the state directory: only its owner may read, also after a restore or a `chmod -R`.
//!
//! Wider modes are changed, and a warning is logged. Where that isn't possible and keys may be
//! read, Atlas doesn't start: files of another owner, who can change their modes at any time, and
//! links to files that others may read. Access control lists need no check: the group's bits are
//! their mask (acl(5)).

use std::fs::{self, Metadata};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{Mode, OFlags};

use super::{StateDir, entries};

/// Bits of the group and of others.
const OTHERS: u32 = 0o077;
/// The sticky bit: only a file's owner may rename or remove it.
const STICKY: u32 = 0o1000;

/// Atlas's own files in a state directory, and whether keys are in them.
const PARTS: &[(&str, bool)] = &[
    ("pki", true),
    ("nodes", true),
    ("last-good", false),
    ("endpoints.yaml", false),
    ("atlas.zone", false),
    ("lock", false),
];

/// The modes that were changed.
#[derive(Default)]
struct Mended {
    count: usize,
    /// The first, and the mode that it had.
    first: Option<(PathBuf, u32)>,
}

impl StateDir {
    /// Changes modes so that only the owner may read any file. The lock is held.
    ///
    /// # Errors
    /// Others may read keys and a mode can't be changed; the error says what to do.
    pub(super) fn make_private(&self) -> anyhow::Result<()> {
        self.look_at_root()?;
        let mut mended = Mended::default();
        for (part, has_keys) in PARTS {
            if let Err(error) = self.make_part_private(&self.path(part), *has_keys, &mut mended) {
                if *has_keys {
                    return Err(error);
                }
                tracing::warn!(
                    error = format!("{error:#}"),
                    "others may read a part of the state directory that has no keys"
                );
            }
        }
        if let Some((path, mode)) = mended.first {
            tracing::warn!(
                count = mended.count, first = %path.display(), mode = format!("{mode:o}"),
                "others could read files in the state directory; now they can't. Keys that somebody may have read meanwhile are known to \
                 them: docs/troubleshooting.md says what follows"
            );
        }
        Ok(())
    }

    /// As [`StateDir::make_private`], while Atlas runs: checks the directories that lead to all
    /// files, and the rest if one was opened to others.
    ///
    /// # Errors
    /// As [`StateDir::make_private`].
    pub fn keep_private(&self) -> anyhow::Result<()> {
        let is_open = |dir: &str| {
            fs::metadata(self.path(dir)).is_ok_and(|metadata| metadata.mode() & OTHERS != 0)
        };
        if ["pki", "pki/issued", "nodes", "last-good"].into_iter().any(is_open) {
            self.make_private()
        } else {
            Ok(())
        }
    }

    /// Checks that `--public-dir` is outside the state directory.
    ///
    /// # Errors
    /// It is inside, where only the owner may read.
    pub fn ensure_apart(&self, public: &Path) -> anyhow::Result<()> {
        let real = |path: &Path| {
            fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))
        };
        let (within, root) = (real(public)?, real(&self.root)?);
        let is_private = PARTS.iter().any(|(part, _)| within.starts_with(root.join(part)));
        if within == root || is_private {
            bail!(
                "--public-dir: {} is the state directory's own, whose files only Atlas's user may read: name another one",
                public.display()
            );
        }
        Ok(())
    }

    /// The state directory itself keeps its mode if it was there before: others may rely on it, and
    /// every file in it is private.
    fn look_at_root(&self) -> anyhow::Result<()> {
        let what = || format!("cannot look at {}", self.root.display());
        let mode = fs::metadata(&self.root).with_context(what)?.permissions().mode();
        let (dir, shown) = (self.root.display(), format!("{:o}", mode & 0o777));
        if mode & 0o002 != 0 && mode & STICKY == 0 {
            bail!(
                "everybody may write to the state directory {dir} (mode {shown}), and so put other keys in the place of Atlas's: chmod o-w {dir}"
            );
        }
        if mode & 0o020 != 0 && mode & STICKY == 0 {
            tracing::warn!(%dir, mode = shown, "its group may write to the state directory, and so put other keys in the place of Atlas's: chmod g-w");
        } else if mode & OTHERS != 0 {
            tracing::info!(%dir, mode = shown, "others may enter the state directory; all that Atlas keeps in it is readable by its owner alone");
        }
        Ok(())
    }

    fn make_part_private(
        &self,
        path: &Path,
        has_keys: bool,
        mended: &mut Mended,
    ) -> anyhow::Result<()> {
        let what = || format!("cannot look at {}", path.display());
        let metadata = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            metadata => metadata.with_context(what)?,
        };
        if metadata.is_symlink() {
            return self.look_at_link(path, has_keys);
        }
        // Its owner may change its mode at any time.
        if let Err(error) = ensure_own(path, &metadata, has_keys) {
            if is_used(path, metadata.is_dir()) {
                return Err(error);
            }
            tracing::warn!(path = %path.display(), owner = metadata.uid(), "another user's file lies among Atlas's keys; Atlas doesn't read it");
            return Ok(());
        }
        if metadata.is_dir() {
            make_private(path, 0o700, &metadata, mended)?;
            entries(path)
                .try_for_each(|entry| self.make_part_private(&entry.path(), has_keys, mended))
        } else if metadata.is_file() {
            make_private(path, 0o600, &metadata, mended)
        } else {
            Ok(())
        }
    }

    /// Checks a link. One to Atlas's own directories needs no check, since these are checked
    /// themselves. The mode of any other file is never changed: it may be anything.
    fn look_at_link(&self, path: &Path, has_keys: bool) -> anyhow::Result<()> {
        let Ok(real) = fs::canonicalize(path) else { return Ok(()) };
        if real.starts_with(fs::canonicalize(self.path("nodes")).unwrap_or_default())
            && path.starts_with(self.path("nodes"))
        {
            return Ok(());
        }
        let mut below = vec![real.clone()];
        while let Some(one) = below.pop() {
            let metadata = fs::symlink_metadata(&one)
                .with_context(|| format!("cannot look at {}", one.display()))?;
            ensure_own(&one, &metadata, has_keys)?;
            let mode = metadata.mode() & 0o777;
            if mode & OTHERS != 0 && !metadata.is_symlink() {
                let (path, real) = (path.display(), real.display());
                bail!(
                    "{path} leads to {real}, where others may read {} (mode {mode:o}): chmod -R go= {real}",
                    one.display()
                );
            }
            if metadata.is_dir() {
                below.extend(entries(&one).map(|entry| entry.path()));
            }
        }
        Ok(())
    }
}

/// Whether a file is Atlas's own, and not a volume's `lost+found`, a file manager's or NFS
/// client's, or somebody's notes.
pub(super) fn is_used(path: &Path, is_dir: bool) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if is_dir {
        return name != "lost+found";
    }
    let extension = path.extension().unwrap_or_default();
    let is_kept = ["pem", "json", "key", "crt", "yaml"].iter().any(|kept| extension == *kept)
        || name.contains(".pem.broken-");
    is_kept && !name.starts_with('.')
}

fn ensure_own(path: &Path, metadata: &Metadata, has_keys: bool) -> anyhow::Result<()> {
    ensure_owned_by(rustix::process::geteuid().as_raw(), path, metadata.uid(), has_keys)
}

pub(super) fn ensure_owned_by(
    own: u32,
    path: &Path,
    owner: u32,
    has_keys: bool,
) -> anyhow::Result<()> {
    if owner != own && has_keys {
        bail!(
            "{} belongs to user {owner}, who can read the keys in it, and Atlas runs as user {own}: run it as user {owner}, or give the whole \
             state directory to this one (chown -R {own})",
            path.display()
        );
    }
    Ok(())
}

fn make_private(
    path: &Path,
    private: u32,
    seen: &Metadata,
    mended: &mut Mended,
) -> anyhow::Result<()> {
    if seen.mode() & OTHERS == 0 {
        return Ok(());
    }
    let what = || format!("cannot take {} from others", path.display());
    // By its descriptor: another file may have its name by now.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: OwnedFd = rustix::fs::open(path, flags, Mode::empty()).with_context(what)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(private)).with_context(what)?;
    let mode = rustix::fs::fstat(&file).with_context(what)?.st_mode;
    if mode & OTHERS != 0 {
        bail!(
            "others may read {}, and its mode stays {:o}: its file system keeps none (mount it with umask=077, or move the state directory)",
            path.display(),
            mode & 0o777
        );
    }
    mended.count += 1;
    mended.first.get_or_insert_with(|| (path.to_owned(), seen.mode() & 0o777));
    Ok(())
}
