//! Which files of a directory are manifests, and how a file is read.

use std::fs::{self, DirEntry, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Largest manifest in bytes. A thousand clusters in one file are some 400 KiB.
const MAX_BYTES: u64 = 4 << 20;

/// Deepest directory, the watched one being 1.
const MAX_DEPTH: usize = 16;

/// Tells a file or directory from another one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
    /// Where the file system has it. tmpfs and ext4 use the inode number of a removed file again at
    /// once.
    created: Option<SystemTime>,
}

impl FileId {
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), created: metadata.created().ok() }
    }
}

/// The manifests below a directory.
#[derive(Default)]
pub(super) struct Listing {
    /// Their paths within the directory, sorted.
    pub files: Vec<PathBuf>,
    /// Directories within it that could not be read.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

impl Listing {
    /// Whether there is nothing, and everything could be read.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.unreadable.is_empty()
    }
}

/// Lists the manifests below a directory: `*.yaml`, `*.yml`, `*.json`.
///
/// Hidden files and directories are ignored: among them are editors' swap files, and the `..data`
/// directories of mounted ConfigMaps, whose files are links at the top. Links are followed, to
/// directories too.
///
/// # Errors
/// The directory itself can't be read.
pub(super) fn list(dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let above = vec![FileId::of(&fs::metadata(dir)?)];
    list_below(dir, Path::new(""), &above, &mut listing)?;
    listing.files.sort();
    Ok(listing)
}

/// Adds what is below `dir/within`. `above` are the directories on the way; a link to one of them
/// is not followed.
fn list_below(
    dir: &Path,
    within: &Path,
    above: &[FileId],
    listing: &mut Listing,
) -> io::Result<()> {
    for entry in fs::read_dir(dir.join(within))? {
        let entry = entry?;
        let path = within.join(entry.file_name());
        if is_ignored_name(&path) {
            continue;
        }
        match directory(&entry) {
            Some(id) if above.contains(&id) || above.len() >= MAX_DEPTH => {}
            Some(id) => {
                let above = [above, &[id]].concat();
                match list_below(dir, &path, &above, listing) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        listing.unreadable.push((path, error))
                    }
                    // Removed since it was listed.
                    _ => {}
                }
            }
            None if is_manifest(&path) => listing.files.push(path),
            None => {}
        }
    }
    Ok(())
}

/// The directory that an entry is, or links to.
fn directory(entry: &DirEntry) -> Option<FileId> {
    let metadata = fs::metadata(entry.path()).ok()?;
    metadata.is_dir().then(|| FileId::of(&metadata))
}

/// What a path within the directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathKind {
    Manifest,
    /// Hidden, or an editor's backup.
    Ignored,
    /// A directory, another file, or the link `..data` by which Kubernetes replaces a whole mount.
    Other,
}

/// Says what a path is.
pub(super) fn classify(within: &Path) -> PathKind {
    let is_of_mount = |part: &std::ffi::OsStr| part.as_encoded_bytes().starts_with(b"..");
    if within.iter().any(is_of_mount) {
        // Kubernetes writes a new directory first and then replaces the link `..data`, which is the
        // change.
        return if within.iter().count() == 1 { PathKind::Other } else { PathKind::Ignored };
    }
    if within.ancestors().filter(|path| path.file_name().is_some()).any(is_ignored_name) {
        return PathKind::Ignored;
    }
    if is_manifest(within) { PathKind::Manifest } else { PathKind::Other }
}

/// Whether a path is one of these, or below one of them.
pub fn is_below(path: impl AsRef<Path>, directories: &[impl AsRef<Path>]) -> bool {
    directories.iter().any(|directory| path.as_ref().starts_with(directory))
}

fn is_ignored_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b".") || name.ends_with(b"~")
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["yaml", "yml", "json"].iter().any(|wanted| extension.eq_ignore_ascii_case(wanted))
}

/// What reading a file gave.
pub(super) enum ReadResult {
    Text(FileText),
    /// It was written to while it was read.
    Changing,
    /// It was removed since it was listed.
    Gone,
    /// Why it can't be read, in words that follow the file's name.
    Unreadable(String),
}

pub(super) struct FileText {
    pub text: String,
    pub id: FileId,
    /// How long it has been unchanged, by the clock of its file system.
    pub age: Duration,
}

/// Reads a manifest.
pub(super) fn read(path: &Path) -> ReadResult {
    match try_read(path) {
        Ok(Ok(Some(text))) => ReadResult::Text(text),
        Ok(Ok(None)) => ReadResult::Changing,
        Ok(Err(why)) => ReadResult::Unreadable(why),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            ReadResult::Unreadable(format!("cannot be read: {error}"))
        }
        Err(_) if fs::symlink_metadata(path).is_ok() => {
            ReadResult::Unreadable("cannot be read: it links to a file that is not there".into())
        }
        Err(_) => ReadResult::Gone,
    }
}

fn try_read(path: &Path) -> io::Result<Result<Option<FileText>, String>> {
    // Checked before opening: opening a named pipe waits for its writer.
    if !fs::metadata(path)?.is_file() {
        return Ok(Err("is not a regular file".into()));
    }
    let mut bytes = Vec::new();
    let mut file = File::open(path)?;
    let stamp = |metadata: &Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    let before = file.metadata()?;
    (&mut file).take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    let after = file.metadata()?;
    if stamp(&before) != stamp(&after) {
        return Ok(Ok(None));
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Ok(Err(format!("is larger than {} MiB: split it", MAX_BYTES >> 20)));
    }
    // The time of the inode's last change, not of the text's: whoever copies a file can set the
    // latter to anything.
    let changed = UNIX_EPOCH
        + Duration::new(
            after.ctime().try_into().unwrap_or(0),
            after.ctime_nsec().try_into().unwrap_or(0),
        );
    let age = SystemTime::now().duration_since(changed).unwrap_or_default();
    let text = |text| Some(FileText { text, id: FileId::of(&after), age });
    Ok(String::from_utf8(bytes).map(text).map_err(|error| {
        format!("is not UTF-8: byte {} is wrong", error.utf8_error().valid_up_to() + 1)
    }))
}
