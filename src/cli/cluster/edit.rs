//! Edits one manifest file atomically: a running Atlas reads the old text or the new one.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use atlas_core::manifest::ManifestError;
use atlas_core::yaml;

/// A change to a file, not yet applied.
#[derive(Debug, PartialEq, Eq)]
pub enum Edit {
    /// A new file.
    Create(PathBuf, String),
    /// A file that gets another text.
    Replace(PathBuf, String),
    /// A file that would be empty.
    Delete(PathBuf),
}

impl Edit {
    /// Removes the Service called `name` from `dir/file`.
    ///
    /// # Errors
    /// It can't be removed; the error says what to do by hand.
    pub fn remove(dir: &Path, file: &str, name: &str) -> anyhow::Result<Self> {
        let path = dir.join(file);
        Ok(match rest(&path, file, name)? {
            None => Self::Delete(path),
            Some(rest) => Self::Replace(path, rest),
        })
    }

    /// Replaces the Service called `name` in `dir/file` by `document`, which is put after other
    /// documents.
    ///
    /// # Errors
    /// As [`Edit::remove`].
    pub fn substitute(dir: &Path, file: &str, name: &str, document: &str) -> anyhow::Result<Self> {
        let path = dir.join(file);
        let text = match rest(&path, file, name)? {
            None => document.to_owned(),
            Some(rest) if rest.ends_with('\n') => format!("{rest}---\n{document}"),
            Some(rest) => format!("{rest}\n---\n{document}"),
        };
        yaml::parse(file, &text)
            .map_err(|errors| anyhow!("BUG: the new text is wrong: {}", lines(&errors)))?;
        Ok(Self::Replace(path, text))
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Create(path, _) | Self::Replace(path, _) | Self::Delete(path) => path,
        }
    }

    /// Writes the change.
    ///
    /// # Errors
    /// The file can't be written, or a file that is to be new is there already.
    pub fn apply(&self) -> anyhow::Result<()> {
        match self {
            Self::Create(path, text) => {
                create(path, text).with_context(|| format!("cannot make {}", path.display()))
            }
            Self::Replace(path, text) => {
                replace(path, text).with_context(|| format!("cannot write {}", path.display()))
            }
            Self::Delete(path) => {
                fs::remove_file(path).with_context(|| format!("cannot delete {}", path.display()))
            }
        }
    }
}

/// A file's text without the Service called `name`; `None`: nothing remains.
fn rest(path: &Path, file: &str, name: &str) -> anyhow::Result<Option<String>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    yaml::remove_document(file, &text, name).map_err(|errors| anyhow!(lines(&errors)))
}

/// The errors, one a line.
pub fn lines(errors: &[ManifestError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn create(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = beside(path, Permissions::from_mode(0o666), text)?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    Ok(())
}

/// Replaces a file's text. Of a link, the file that it leads to is replaced. Mode and, where
/// possible, owner stay, so that the same users can read it.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let path = fs::canonicalize(path)?;
    let old = fs::metadata(&path)?;
    let file = beside(&path, old.permissions(), text)?;
    let _ = std::os::unix::fs::fchown(file.as_file(), Some(old.uid()), Some(old.gid()));
    file.as_file().set_permissions(old.permissions())?;
    file.persist(&path)?;
    Ok(())
}

/// A temporary file in the same directory, with a name that Atlas ignores. Its mode follows the
/// umask.
fn beside(
    path: &Path,
    permissions: Permissions,
    text: &str,
) -> anyhow::Result<tempfile::NamedTempFile> {
    let dir = path.parent().context("BUG: a file without a directory")?;
    let mut file =
        tempfile::Builder::new().prefix(".atlas-").permissions(permissions).tempfile_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKYO: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: tokyo\n";
    const PARIS: &str = "# by hand\napiVersion: v1\nkind: Service\nmetadata: {name: paris}\n";

    fn dir(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), text).unwrap();
        dir
    }

    fn read(dir: &tempfile::TempDir) -> String {
        fs::read_to_string(dir.path().join("a.yaml")).unwrap()
    }

    #[test]
    fn a_removed_document_leaves_the_others_byte_for_byte() {
        let dir = dir(&format!("{TOKYO}---\n{PARIS}"));
        Edit::remove(dir.path(), "a.yaml", "tokyo").unwrap().apply().unwrap();
        assert_eq!(read(&dir), format!("---\n{PARIS}"));
        let last = Edit::remove(dir.path(), "a.yaml", "paris").unwrap();
        assert!(matches!(last, Edit::Delete(_)));
        last.apply().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_substituted_document_stands_after_the_others() {
        let new = format!("{TOKYO}  namespace: monitoring\n");
        let dir = dir(&format!("---\n{TOKYO}---\n{}", PARIS.trim_end()));
        Edit::substitute(dir.path(), "a.yaml", "tokyo", &new).unwrap().apply().unwrap();
        assert_eq!(read(&dir), format!("---\n{PARIS}---\n{new}"));
        let alone = self::dir(TOKYO);
        Edit::substitute(alone.path(), "a.yaml", "tokyo", &new).unwrap().apply().unwrap();
        assert_eq!(read(&alone), new);
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_a_link_stays_one() {
        let dir = dir(TOKYO);
        let (file, link) = (dir.path().join("a.yaml"), dir.path().join("link.yaml"));
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("a.yaml", &link).unwrap();
        Edit::Replace(link.clone(), PARIS.into()).apply().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&dir), PARIS);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_new_file_replaces_no_other() {
        let dir = dir(PARIS);
        let error = Edit::Create(dir.path().join("a.yaml"), TOKYO.into()).apply().unwrap_err();
        assert!(format!("{error:#}").contains("a.yaml"), "{error:#}");
        assert_eq!(read(&dir), PARIS);
    }
}
