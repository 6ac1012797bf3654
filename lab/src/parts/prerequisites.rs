//! The prerequisites of parts. All are checked before the first long build.

use std::env::{self, consts};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::recipe::{CHROMIUM_PACKAGES, Recipe, on_path};
use super::{Part, peers};

/// A prerequisite.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Need {
    Go,
    Pip,
    AptGet,
    Dpkg,
    /// Only root may install into the system.
    Root,
    /// The wheels and packages that are pinned are of this architecture.
    X86_64,
}

impl Need {
    const ALL: [Need; 6] =
        [Need::X86_64, Need::Pip, Need::AptGet, Need::Dpkg, Need::Root, Need::Go];
}

/// A missing prerequisite.
#[derive(Debug)]
struct Missing {
    what: String,
    parts: Vec<Part>,
    remedy: String,
}

/// Fails with a list of all missing prerequisites of `parts`.
pub(super) fn check(parts: &[Part]) -> Result<()> {
    let mut missing = Vec::new();
    for need in Need::ALL {
        let wanting: Vec<_> =
            parts.iter().copied().filter(|&part| needs(part).contains(&need)).collect();
        if wanting.is_empty() {
            continue;
        }
        if let Some((what, remedy)) = lack(need, &wanting)? {
            missing.push(Missing { what, parts: wanting, remedy });
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!(describe(&missing))
}

fn needs(part: Part) -> &'static [Need] {
    match Recipe::of(part) {
        Recipe::Wheel { .. } | Recipe::Node { .. } => &[Need::X86_64, Need::Pip],
        // Node, which makes the pages.
        Recipe::Go(build) if build.pages.is_some() => &[Need::X86_64, Need::Pip, Need::Go],
        Recipe::Go(_) => &[Need::Go],
        Recipe::Debs { .. } => &[Need::X86_64, Need::AptGet, Need::Dpkg],
        Recipe::System { .. } => &[Need::AptGet, Need::Root],
    }
}

/// What is missing and how to get it; `None` if the need is met.
fn lack(need: Need, parts: &[Part]) -> Result<Option<(String, String)>> {
    let lack = |met: bool, what: &str, remedy: &str| {
        (!met).then(|| (what.to_string(), remedy.to_string()))
    };
    Ok(match need {
        Need::X86_64 => lack(
            consts::ARCH == "x86_64",
            &format!("an x86_64 machine (this one is {})", consts::ARCH),
            "what is pinned in peers/ is for x86_64 only",
        ),
        Need::Pip => lack(
            runs("python3", &["-m", "pip", "--version"]),
            "python3 with pip",
            "apt-get install python3 python3-pip",
        ),
        Need::AptGet => lack(
            on_path("apt-get").is_some(),
            "apt-get",
            "use Debian bookworm or a container of it",
        ),
        Need::Dpkg => {
            lack(on_path("dpkg").is_some(), "dpkg", "use Debian bookworm or a container of it")
        }
        Need::Root => lack(
            rustix::process::geteuid().is_root(),
            "root's rights to install Debian's packages",
            &format!(
                "sudo apt-get install -y --no-install-recommends {}",
                CHROMIUM_PACKAGES.join(" ")
            ),
        ),
        Need::Go => lack_of_go(installed_go().as_deref(), &wanted_go(parts)?),
    })
}

fn lack_of_go(installed: Option<&str>, wanted: &str) -> Option<(String, String)> {
    let found = match installed {
        Some(version) if numbers(version) >= numbers(wanted) => return None,
        Some(version) => format!("this is {version}"),
        None => "there is none on PATH".to_string(),
    };
    let remedy = format!(
        "install Go {wanted} from the Go project or a backport, and put its bin directory on PATH"
    );
    Some((format!("go {wanted} or newer ({found})"), remedy))
}

/// Go's version as it calls itself: "go1.26.8".
fn installed_go() -> Option<String> {
    let mut go = Command::new("go");
    // Not in a module, which might select another toolchain.
    go.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").current_dir(env::temp_dir());
    let output = go.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// The newest Go version that the modules of `parts` require.
fn wanted_go(parts: &[Part]) -> Result<String> {
    let mut wanted = String::new();
    for &part in parts {
        let Recipe::Go(build) = Recipe::of(part) else { continue };
        let path = peers().join(build.directory).join("go.mod");
        let module =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let version = module.lines().find_map(|line| line.strip_prefix("go "));
        let version = version.with_context(|| format!("{} has no go line", path.display()))?;
        if numbers(version) > numbers(&wanted) {
            wanted = version.to_string();
        }
    }
    Ok(wanted)
}

/// The numbers of a version, for comparison: 1, 26 and 8 of "go1.26.8". A release candidate counts
/// as its release.
fn numbers(version: &str) -> Vec<u32> {
    let version = version.trim_start_matches(|character: char| !character.is_ascii_digit());
    let numeric = version.split('.').map(|piece| {
        let end = piece.find(|character: char| !character.is_ascii_digit()).unwrap_or(piece.len());
        piece[..end].parse().unwrap_or(0)
    });
    numeric.collect()
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

fn describe(missing: &[Missing]) -> String {
    let mut text = String::from("this machine lacks what is needed to get the parts:");
    for Missing { what, parts, remedy } in missing {
        let parts: Vec<_> = parts.iter().map(Part::to_string).collect();
        text.push_str(&format!(
            "\n  - {what}\n    needed for: {}\n    remedy: {remedy}",
            parts.join(", ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_what_is_missing_what_for_and_the_remedy() {
        let (what, remedy) = lack_of_go(None, "1.26.0").unwrap();
        let missing = [
            Missing { what, parts: vec![Part::Thanos, Part::CoreDns], remedy },
            Missing {
                what: "dpkg".into(),
                parts: vec![Part::PrometheusClassic],
                remedy: "use Debian".into(),
            },
        ];
        assert_eq!(
            describe(&missing),
            "this machine lacks what is needed to get the parts:
  - go 1.26.0 or newer (there is none on PATH)
    needed for: thanos 0.42.0, coredns 1.15.0
    remedy: install Go 1.26.0 from the Go project or a backport, and put its bin directory on PATH
  - dpkg
    needed for: prometheus-classic 2.42.0
    remedy: use Debian"
        );
    }

    #[test]
    fn a_go_that_is_too_old_is_told_from_one_that_will_do() {
        let (what, _) = lack_of_go(Some("go1.19.8"), "1.26.0").unwrap();
        assert_eq!(what, "go 1.26.0 or newer (this is go1.19.8)");
        for version in ["go1.26.0", "go1.26.8", "go1.27rc1", "devel go1.28-abcdef", "go2.0"] {
            assert!(lack_of_go(Some(version), "1.26.0").is_none(), "{version}");
        }
    }

    #[test]
    fn the_modules_say_which_go_they_want() {
        let wanted = wanted_go(&[Part::Thanos, Part::Prometheus, Part::Envoy]).unwrap();
        assert!(numbers(&wanted) >= vec![1, 26], "{wanted}");
    }
}
