//! An OCI image layout: blobs by digest, and an index.
//!
//! ```text
//! oci-layout, index.json, blobs/sha256/<digest>…
//! ```
//!
//! The same content gives the same bytes, as a directory and as an archive: names in order, no
//! times, no owners. Specification:
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The file that says that a directory is a layout.
pub const MARKER: &str = "oci-layout";

/// A layout in memory, by path.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Layout {
    files: BTreeMap<String, Vec<u8>>,
}

impl Layout {
    /// Adds a blob and returns its descriptor (media type, digest, size), which the caller may
    /// extend.
    pub fn add(&mut self, media_type: &str, blob: Vec<u8>) -> Value {
        let digest = sha256(&blob);
        let descriptor = json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": blob.len() });
        self.files.insert(format!("blobs/sha256/{digest}"), blob);
        descriptor
    }

    /// Adds a blob of JSON.
    pub fn add_json(&mut self, media_type: &str, value: Value) -> Value {
        self.add(media_type, to_json(value))
    }

    /// Adds the index and the marker file.
    pub fn finish(&mut self, index: Value) {
        self.files.insert(MARKER.into(), to_json(json!({ "imageLayoutVersion": "1.0.0" })));
        self.files.insert("index.json".into(), to_json(index));
    }

    /// Reads a layout from a directory.
    ///
    /// # Errors
    /// It has no layout, or can't be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let blobs = dir.join("blobs/sha256");
        let mut files = BTreeMap::new();
        for name in [MARKER, "index.json"] {
            let path = dir.join(name);
            files.insert(
                name.to_owned(),
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?,
            );
        }
        for entry in
            fs::read_dir(&blobs).with_context(|| format!("cannot read {}", blobs.display()))?
        {
            let path = entry?.path();
            let name = path.strip_prefix(dir)?.to_string_lossy().into_owned();
            files.insert(
                name,
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?,
            );
        }
        Ok(Self { files })
    }

    /// Writes the layout and the files `beside` to `dir`; replaces an existing layout.
    ///
    /// # Errors
    /// `dir` has something else, or can't be written.
    pub fn write(&self, dir: &Path, beside: &BTreeMap<String, Vec<u8>>) -> Result<()> {
        let parent =
            dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        // Written under another name first, since a partial directory looks like an image.
        let fresh = tempfile::Builder::new().prefix(".image-").tempdir_in(parent)?;
        for (name, bytes) in self.files.iter().chain(beside) {
            let path = fresh.path().join(name);
            fs::create_dir_all(path.parent().context("BUG: a file without a directory")?)?;
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        check_replaceable(dir)?;
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        let fresh = fresh.keep();
        open_to_all(&fresh)?;
        fs::rename(&fresh, dir)
            .with_context(|| format!("cannot rename {} to {}", fresh.display(), dir.display()))
    }

    /// The files, by path.
    pub fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// The blob of a digest.
    ///
    /// # Errors
    /// There is no such blob.
    pub fn blob(&self, digest: &str) -> Result<&[u8]> {
        let path = digest.split_once(':').map(|(kind, digest)| format!("blobs/{kind}/{digest}"));
        let blob = path.and_then(|path| self.files.get(&path));
        blob.map(Vec::as_slice).with_context(|| format!("there is no blob {digest}"))
    }

    /// Changes a file, so that tests see a broken layout.
    #[cfg(test)]
    pub fn files_mut(&mut self) -> &mut BTreeMap<String, Vec<u8>> {
        &mut self.files
    }
}

/// # Errors
/// The directory exists and has no image layout.
pub fn check_replaceable(dir: &Path) -> Result<()> {
    if dir.exists() {
        let empty = fs::read_dir(dir)
            .with_context(|| format!("--out {}: is no directory", dir.display()))?
            .next()
            .is_none();
        ensure!(
            empty || dir.join(MARKER).is_file(),
            "--out {}: holds something else than an image; choose another",
            dir.display()
        );
    }
    Ok(())
}

/// Makes the directory readable for all: temporary directories are readable for their owner only.
fn open_to_all(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot open {} to others", dir.display()))
}

/// A tar archive of files, without times and owners, so that equal files give equal bytes.
///
/// # Errors
/// A name is too long for a header.
pub fn tar<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8], u32)>) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).with_context(|| format!("{name}: no name for an archive"))?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        archive.append(&header, bytes)?;
    }
    Ok(archive.into_inner()?)
}

/// JSON with sorted keys, independent of the features of `serde_json`.
pub fn to_json(mut value: Value) -> Vec<u8> {
    value.sort_all_objects();
    value.to_string().into_bytes()
}

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let mut layout = Layout::default();
        let descriptor = layout.add("text/plain", b"hello".to_vec());
        layout.finish(json!({ "schemaVersion": 2, "manifests": [descriptor] }));
        layout
    }

    #[test]
    fn a_layout_is_read_as_it_was_written_and_replaces_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/image");
        let beside = BTreeMap::from([("sbom.cdx.json".to_owned(), b"{}".to_vec())]);
        let mut other = layout();
        other.add("text/plain", b"older".to_vec());
        other.write(&out, &BTreeMap::new()).unwrap();
        layout().write(&out, &beside).unwrap();
        assert_eq!(Layout::read(&out).unwrap(), layout());
        assert_eq!(fs::read(out.join("sbom.cdx.json")).unwrap(), b"{}");
        assert_eq!(
            fs::read_dir(out.parent().unwrap()).unwrap().count(),
            1,
            "nothing temporary stays"
        );
    }

    #[test]
    fn what_is_no_image_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "").unwrap();
        let error = layout().write(dir.path(), &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("something else than an image"), "{error}");
        assert!(dir.path().join("thesis.tex").exists());
    }

    #[test]
    fn json_has_its_keys_in_order() {
        assert_eq!(
            to_json(json!({ "b": { "d": 1, "c": 2 }, "a": [] })),
            br#"{"a":[],"b":{"c":2,"d":1}}"#
        );
    }
}
