//! `cargo xtask image`: Atlas as a container image, without a container engine.
//!
//! ```text
//! for each target: cargo build ─▶ static program ─┐
//!                  cargo metadata ─▶ sbom ────────┴▶ pack ─▶ layout ─▶ target/image/ (and an archive)
//! ```
//!
//! The image contains the program only. Its bytes depend on the source, the toolchain and the C
//! library only. `--check` shows that by a second build in another directory.

mod about;
mod build;
mod check;
mod elf;
mod layout;
mod pack;
mod platform;
mod sbom;
mod verify;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use about::About;
use build::{Place, Toolchain};
use check::Elsewhere;
use layout::{Layout, sha256};
use pack::Part;
use platform::Platform;

/// The image's own options.
#[derive(Debug, Args)]
pub struct Image {
    /// Rust's name of a platform, e.g. `aarch64-unknown-linux-musl`; several give one image for all
    /// [default: this machine's]
    #[arg(long, value_name = "TRIPLE")]
    target: Vec<String>,
    /// Where the OCI image layout goes, with `sbom.cdx.json` beside [default: target/image]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write the image as one file too, for `docker load` and `skopeo copy oci-archive:…`
    #[arg(long, value_name = "FILE.tar")]
    archive: Option<PathBuf>,
    /// What the image in the archive is called, without a tag: that is the version
    #[arg(long, value_name = "NAME", default_value = "atlas")]
    name: String,
    /// Check that the program starts alone, and that a second build in another directory gives the
    /// same bytes
    #[arg(long)]
    check: bool,
}

/// One build of all targets.
struct Made {
    about: About,
    parts: Vec<Part>,
}

impl Image {
    /// # Errors
    /// A target is unknown or not installed, the build fails, or the image is not as it should be.
    pub fn run(&self) -> Result<()> {
        let here = Place::here()?;
        let toolchain = Toolchain::of(&here)?;
        let platforms = self.platforms(&toolchain)?;
        let metadata = here.metadata(&platforms[0])?;
        let about = About::of(&here.source, package(&metadata)?)?;
        let out = match &self.out {
            Some(out) => out.clone(),
            None => PathBuf::from(
                metadata["target_directory"]
                    .as_str()
                    .context("cargo metadata has no target_directory")?,
            )
            .join("image"),
        };
        // Checked before the build, which takes minutes.
        layout::check_replaceable(&out)?;
        let made = make(&here, &toolchain, &platforms, about)?;

        step("packing and verifying");
        let layout = pack::layout(&made.about, &made.parts)?;
        let contents = verify::verify(&layout)?;
        for (image, platform) in contents.images.iter().zip(&platforms) {
            check::is_static(image, platform)?;
            check::size(image)?;
        }
        layout.write(&out, &made.beside())?;
        ensure!(Layout::read(&out)? == layout, "{}: is not what was written there", out.display());
        if let Some(path) = &self.archive {
            let archive = pack::archive(&made.about, &made.parts, &self.name)?;
            fs::write(path, archive)
                .with_context(|| format!("--archive {}: cannot write", path.display()))?;
        }
        if self.check {
            check(&here, &toolchain, &platforms, &made, &layout)?;
        }
        for image in &contents.images {
            let (pulled, unpacked) = (megabytes(image.pulled), megabytes(image.unpacked));
            println!(
                "{:<14}  {pulled} MiB pulled, {unpacked} MiB on disk  {}",
                image.platform, image.digest
            );
        }
        println!("{}:{}", out.display(), made.about.version);
        Ok(())
    }

    fn platforms(&self, toolchain: &Toolchain) -> Result<Vec<Platform>> {
        let own = std::slice::from_ref(&toolchain.host);
        let wanted = if self.target.is_empty() { own } else { &self.target };
        let platforms =
            wanted.iter().map(|triple| Platform::of(triple)).collect::<Result<Vec<_>>>()?;
        for (at, platform) in platforms.iter().enumerate() {
            toolchain.check_target(platform)?;
            let twice = platforms[..at].iter().find(|other| other.name() == platform.name());
            ensure!(
                twice.is_none(),
                "--target {}: there is an image for {} already",
                platform.triple,
                platform.name()
            );
        }
        Ok(platforms)
    }
}

/// Builds all targets from one checkout.
fn make(
    place: &Place,
    toolchain: &Toolchain,
    platforms: &[Platform],
    about: About,
) -> Result<Made> {
    let mut parts = Vec::new();
    for platform in platforms {
        step(&format!(
            "building {} for {} in {}",
            about.version,
            platform.triple,
            place.source.display()
        ));
        let start = Instant::now();
        let metadata = place.metadata(platform)?;
        let built = build::build(place, platform, toolchain, &metadata)?;
        check::tells_no_paths(&built.program, &built.paths)?;
        let of = sbom::Of {
            about: &about,
            platform,
            program: sha256(&built.program),
            rust: &toolchain.version,
        };
        let sbom = sbom::sbom(&of, &metadata, &built.packages)?;
        step(&format!(
            "built in {} s: {} crates, {} MiB",
            start.elapsed().as_secs(),
            built.packages.len(),
            megabytes(built.program.len())
        ));
        parts.push(Part { platform: platform.clone(), program: built.program, sbom });
    }
    Ok(Made { about, parts })
}

impl Made {
    /// The bills of materials as files, with the architecture in their names if there are several.
    fn beside(&self) -> BTreeMap<String, Vec<u8>> {
        let name = |part: &Part| match self.parts.len() {
            1 => "sbom.cdx.json".to_owned(),
            _ => format!("sbom.{}.cdx.json", part.platform.architecture),
        };
        self.parts.iter().map(|part| (name(part), part.sbom.clone())).collect()
    }
}

/// Starts the programs for this machine, and builds all targets again elsewhere.
fn check(
    here: &Place,
    toolchain: &Toolchain,
    platforms: &[Platform],
    made: &Made,
    layout: &Layout,
) -> Result<()> {
    let own = Platform::of(&toolchain.host).ok();
    for part in &made.parts {
        if own.as_ref().is_some_and(|own| own.machine == part.platform.machine) {
            step(&format!("starting the program for {} alone", part.platform.name()));
            check::starts_alone(&part.program, &made.about.version)?;
        } else {
            step(&format!(
                "the program for {} can't be started on this machine: left out",
                part.platform.name()
            ));
        }
    }
    step("once more, elsewhere");
    let elsewhere = Elsewhere::new(here)?;
    let again = make(&elsewhere.place, toolchain, platforms, made.about.clone())?;
    for (first, second) in made.parts.iter().zip(&again.parts) {
        check::same(
            &format!("the program for {}", first.platform.name()),
            &first.program,
            &second.program,
        )?;
        check::same(
            &format!("the bill of materials for {}", first.platform.name()),
            &first.sbom,
            &second.sbom,
        )?;
    }
    let index = |layout: &Layout| layout.files()["index.json"].clone();
    check::same("index.json", &index(layout), &index(&pack::layout(&again.about, &again.parts)?))?;
    step("the second build gave the same bytes");
    Ok(())
}

/// The package `atlas` in cargo's metadata.
fn package(metadata: &Value) -> Result<&Value> {
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    packages
        .iter()
        .find(|package| package["name"] == pack::PROGRAM && package["source"].is_null())
        .context("the workspace has no atlas")
}

/// Prints the current step.
fn step(what: &str) {
    eprintln!("==> {what}");
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
