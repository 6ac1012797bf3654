//! Which files of a directory are manifests, and their text.

use std::fs::{self, DirEntry, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Largest manifest. A thousand clusters in one file are some 400 KiB.
const MAX_BYTES: u64 = 4 << 20;

/// Deepest directory, the watched one being 1.
const MAX_DEPTH: usize = 16;

/// What tells a directory from another that takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    /// Where the file system keeps it: tmpfs and ext4 give a freed inode number out again at once.
    created: Option<SystemTime>,
}

impl Identity {
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), created: metadata.created().ok() }
    }
}

/// What a directory holds.
#[derive(Default)]
pub(super) struct Listing {
    /// Manifests, by their path within the directory.
    pub files: Vec<PathBuf>,
    /// Directories within it that could not be read.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

/// Lists the manifests below a directory: `*.yaml`, `*.yml`, `*.json`.
///
/// Hidden files and directories are passed over, and with them editors' swap files and the `..data` directories of
/// Kubernetes' mounted ConfigMaps, whose files are linked to from above. Links are followed, to directories too.
///
/// # Errors
/// Where the directory itself cannot be read.
pub(super) fn list(dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let above = vec![Identity::of(&fs::metadata(dir)?)];
    list_below(dir, Path::new(""), &above, &mut listing)?;
    listing.files.sort();
    Ok(listing)
}

/// Adds what is below `dir/within`; `above` are the directories on the way, so that a link to one of them ends there.
fn list_below(
    dir: &Path,
    within: &Path,
    above: &[Identity],
    listing: &mut Listing,
) -> io::Result<()> {
    for entry in fs::read_dir(dir.join(within))? {
        let entry = entry?;
        let path = within.join(entry.file_name());
        if is_passed_over(&path) {
            continue;
        }
        match directory(&entry) {
            Some(identity) if above.contains(&identity) || above.len() >= MAX_DEPTH => {}
            Some(identity) => {
                let above = [above, &[identity]].concat();
                match list_below(dir, &path, &above, listing) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        listing.unreadable.push((path, error))
                    }
                    // Gone since it was listed.
                    _ => {}
                }
            }
            None if is_manifest(&path) => listing.files.push(path),
            None => {}
        }
    }
    Ok(())
}

/// The directory that an entry is or links to.
fn directory(entry: &DirEntry) -> Option<Identity> {
    let metadata = fs::metadata(entry.path()).ok()?;
    metadata.is_dir().then(|| Identity::of(&metadata))
}

/// What a path within the directory may be, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Manifest,
    /// Hidden, or an editor's.
    PassedOver,
    /// A directory, another file, or one of those names by which Kubernetes turns a whole mount.
    Other,
}

/// See [`Sort`].
pub(super) fn sort(within: &Path) -> Sort {
    let turns = |part: &std::ffi::OsStr| part.as_encoded_bytes().starts_with(b"..");
    if within.iter().any(turns) {
        // The link `..data` is what turns; what happens below is done by then.
        return if within.iter().count() == 1 { Sort::Other } else { Sort::PassedOver };
    }
    if within.ancestors().filter(|path| path.file_name().is_some()).any(is_passed_over) {
        return Sort::PassedOver;
    }
    if is_manifest(within) { Sort::Manifest } else { Sort::Other }
}

fn is_passed_over(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b".") || name.ends_with(b"~")
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["yaml", "yml", "json"].iter().any(|wanted| extension.eq_ignore_ascii_case(wanted))
}

/// What came of reading a file.
pub(super) enum Reading {
    Text(Text),
    /// It was written while it was read.
    Changing,
    /// It went away since it was listed.
    Gone,
    /// In words that follow the file's name.
    Unreadable(String),
}

/// The text of a file.
pub(super) struct Text {
    pub text: String,
    /// Which file it is.
    pub identity: Identity,
    /// How long nobody has changed it, by the clock of its file system.
    pub age: Duration,
}

/// Reads a manifest.
pub(super) fn read(path: &Path) -> Reading {
    match try_read(path) {
        Ok(Ok(Some(text))) => Reading::Text(text),
        Ok(Ok(None)) => Reading::Changing,
        Ok(Err(why)) => Reading::Unreadable(why),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Reading::Unreadable(format!("cannot be read: {error}"))
        }
        Err(_) if fs::symlink_metadata(path).is_ok() => {
            Reading::Unreadable("cannot be read: it links to a file that is not there".into())
        }
        Err(_) => Reading::Gone,
    }
}

fn try_read(path: &Path) -> io::Result<Result<Option<Text>, String>> {
    // Asked before opening, since opening a named pipe would wait for its writer.
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
    // Of its state, not of its text: who copies a file sets the time of its text to whatever that was elsewhere.
    let changed = UNIX_EPOCH
        + Duration::new(
            after.ctime().try_into().unwrap_or(0),
            after.ctime_nsec().try_into().unwrap_or(0),
        );
    let age = SystemTime::now().duration_since(changed).unwrap_or_default();
    let text = |text| Some(Text { text, identity: Identity::of(&after), age });
    Ok(String::from_utf8(bytes).map(text).map_err(|error| {
        format!("is not UTF-8: byte {} is wrong", error.utf8_error().valid_up_to() + 1)
    }))
}
