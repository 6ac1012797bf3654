//! The checks of `cargo xtask image --check` beside the layout: the program is static and small,
//! contains no paths of this machine, starts in an empty directory, and has the same bytes when it
//! is built elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::build::Place;
use super::elf;
use super::pack::PROGRAM;
use super::platform::Platform;
use super::verify::Image;

/// The largest size of an image in bytes, both as pulled and on disk.
const LIMIT: usize = 25 << 20;

/// # Errors
/// The image is larger than it may be.
pub fn size(image: &Image) -> Result<()> {
    let largest = image.pulled.max(image.unpacked);
    ensure!(
        largest <= LIMIT,
        "the image for {} has {largest} bytes, more than {LIMIT}",
        image.platform
    );
    Ok(())
}

/// # Errors
/// The program needs more than a kernel.
pub fn is_static(image: &Image, platform: &Platform) -> Result<()> {
    elf::check_static(&image.program, platform.machine)
        .with_context(|| format!("the image for {}", image.platform))
}

/// # Errors
/// A path of this machine is in the program, which then depends on where it was built.
pub fn tells_no_paths(program: &[u8], paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let wanted = path.as_os_str().as_encoded_bytes();
        if let Some(start) = program.windows(wanted.len()).position(|window| window == wanted) {
            let end = program.len().min(start + wanted.len() + 80);
            bail!(
                "the program names a path of this machine: {:?}",
                String::from_utf8_lossy(&program[start..end])
            );
        }
    }
    Ok(())
}

/// Starts the program as in the image: in an empty root, as an unprivileged user, without
/// environment and network.
///
/// # Errors
/// It doesn't start, or doesn't print its version.
pub fn starts_alone(program: &[u8], version: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir()?;
    let path = root.path().join(PROGRAM);
    fs::write(&path, program)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--net", "--root"])
        .arg(root.path())
        .arg(format!("/{PROGRAM}"))
        .arg("--version");
    let output = command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).output();
    let output = output.context("cannot start unshare, which is part of util-linux")?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let wanted = format!("{PROGRAM} {version}");
    ensure!(
        output.status.success() && said == wanted,
        "/{PROGRAM} --version, alone in a directory, says {said:?} and not {wanted:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// A copy of the checkout in another directory, with another target directory and cargo home.
#[derive(Debug)]
pub struct Elsewhere {
    pub place: Place,
    _dir: tempfile::TempDir,
}

impl Elsewhere {
    /// # Errors
    /// git cannot list the files, or they cannot be copied.
    pub fn new(here: &Place) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("atlas-image-check-").tempdir()?;
        let (source, home) =
            (dir.path().join("a/longer/way/to/the/source"), dir.path().join("cargo-home"));
        copy_tracked(&here.source, &source)?;
        borrow_home(&home)?;
        let target = dir.path().join("elsewhere");
        let environment =
            BTreeMap::from([("CARGO_HOME", home.into()), ("CARGO_TARGET_DIR", target.into())]);
        Ok(Self { place: Place { source, environment }, _dir: dir })
    }
}

/// Copies all files that git tracks or would track, with their present content.
fn copy_tracked(from: &Path, to: &Path) -> Result<()> {
    let mut git = Command::new("git");
    let output = git
        .arg("-C")
        .arg(from)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output();
    let output = output.context("cannot start git")?;
    ensure!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let names = String::from_utf8(output.stdout).context("a file's name is no text")?;
    // Deleted files are listed until the deletion is committed.
    for name in names.split('\0').filter(|name| from.join(name).is_file()) {
        let (old, new) = (from.join(name), to.join(name));
        fs::create_dir_all(new.parent().context("BUG: a file without a directory")?)?;
        fs::copy(&old, &new).with_context(|| format!("cannot copy {}", old.display()))?;
    }
    Ok(())
}

/// A cargo home with the same content under another path, so that nothing is downloaded again.
fn borrow_home(to: &Path) -> Result<()> {
    let own = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let own = own
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")))
        .context("cannot find cargo's home: set CARGO_HOME")?;
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(&own).with_context(|| format!("cannot read {}", own.display()))? {
        let entry = entry?;
        std::os::unix::fs::symlink(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// # Errors
/// The two differ; the error has the first position.
pub fn same(what: &str, here: &[u8], there: &[u8]) -> Result<()> {
    if here == there {
        return Ok(());
    }
    let place = here
        .iter()
        .zip(there)
        .position(|(here, there)| here != there)
        .unwrap_or(here.len().min(there.len()));
    bail!(
        "{what} differs between two builds of the same source: {} and {} bytes, first at byte {place}; `cmp` and diffoscope show more",
        here.len(),
        there.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_is_too_large_is_refused() {
        let image = |pulled, unpacked| Image {
            platform: "linux/amd64".into(),
            digest: String::new(),
            pulled,
            unpacked,
            program: Vec::new(),
        };
        size(&image(LIMIT, LIMIT)).unwrap();
        assert!(size(&image(1, LIMIT + 1)).unwrap_err().to_string().contains("linux/amd64"));
    }

    #[test]
    fn a_path_in_the_program_is_found() {
        let paths = ["/home/me/atlas".into()];
        tells_no_paths(b"\0/atlas/src/main.rs\0", &paths).unwrap();
        let error =
            tells_no_paths(b"\0/home/me/atlas/src/main.rs\0", &paths).unwrap_err().to_string();
        assert!(error.contains("/home/me/atlas/src/main.rs"), "{error}");
    }

    #[test]
    fn a_difference_is_named_with_its_place() {
        same("x", b"abc", b"abc").unwrap();
        for (here, there, place) in
            [(&b"abc"[..], &b"abd"[..], "byte 2"), (b"ab", b"abc", "byte 2"), (b"", b"a", "byte 0")]
        {
            let error = same("x", here, there).unwrap_err().to_string();
            assert!(error.contains(place), "{error}");
        }
    }
}
