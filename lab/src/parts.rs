//! Gets the real programs that Atlas is tried with.
//!
//! From a [`Part`] and its pins in `peers/` to the path of a program:
//!
//! ```text
//! Part -> Recipe -> in the cache? -> prerequisites -> lock -> fetch or build -> rename into the cache
//! ```
//!
//! The cache is outside the checkout (see its module), so that all checkouts and test binaries
//! share it. The name of a part's directory has its version and a hash of its pins. So a changed
//! pin is built anew, and an older checkout still finds its own build.
//!
//! It runs `go`, `python3 -m pip`, `npm`, `apt-get` and `dpkg`, and prints its progress on standard
//! error, since a first build takes minutes.

mod cache;
mod fetch;
mod pages;
mod prerequisites;
mod recipe;
mod tool;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use cache::Cache;
use recipe::Recipe;

/// A program that Atlas works with, in the one version that it is tried with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The newest Envoy that Atlas supports.
    Envoy,
    /// The oldest Envoy that Atlas supports.
    EnvoyOldest,
    /// Thanos: `thanos query`, `thanos sidecar`, with its web page.
    Thanos,
    /// Prometheus 3, with its web pages.
    Prometheus,
    /// Prometheus 2 with its classic pages. See [`classic_web_assets`].
    PrometheusClassic,
    /// Alertmanager, with its web page.
    Alertmanager,
    /// The newest Alertmanager, with its new web pages at `/ui/` and none at `/`: those are written
    /// in Elm, whose packages are in none of the registries that parts are fetched from.
    AlertmanagerNewest,
    /// CoreDNS with its default plugins, standing for a cluster's DNS.
    CoreDns,
    /// BIND's `named`, with `named-checkzone` beside it, to check the DNS zone's file. See
    /// [`crate::run::Named`].
    Bind,
    /// Helm 4, the newest that the charts are rendered with.
    Helm,
    /// Helm 3, the oldest that the charts are rendered with.
    Helm3,
    /// etcd, where [`Part::KubeApiserver`] keeps its objects.
    Etcd,
    /// Kubernetes' API server.
    KubeApiserver,
    /// Kubernetes' own controllers: the garbage collector, the EndpointSlices of Services,
    /// ServiceAccounts.
    KubeControllerManager,
    /// `kubectl`, for the commands of the documentation.
    Kubectl,
    /// An xDS server made of go-control-plane's caches, which Atlas is compared with.
    GoControlPlane,
    /// Node.js with npm and pnpm, which make web pages.
    Node,
    /// The Chromium browser that is on `PATH`; in a private world it needs `--no-sandbox`.
    Chromium,
    /// The WebDriver server of [`Part::Chromium`].
    ChromeDriver,
}

impl Part {
    /// Every part, quick ones first so that a missing network shows before the long builds.
    pub const ALL: &[Part] = &[
        Part::Envoy,
        Part::EnvoyOldest,
        Part::PrometheusClassic,
        Part::Bind,
        Part::Chromium,
        Part::ChromeDriver,
        Part::Node,
        Part::GoControlPlane,
        Part::Alertmanager,
        Part::AlertmanagerNewest,
        Part::Prometheus,
        Part::Thanos,
        Part::CoreDns,
        Part::Helm,
        Part::Helm3,
        Part::Etcd,
        Part::KubeApiserver,
        Part::KubeControllerManager,
        Part::Kubectl,
    ];

    /// Its name on the command line (`cargo xtask setup thanos`), unique among the parts.
    pub fn name(self) -> &'static str {
        match self {
            Part::Envoy => "envoy",
            Part::EnvoyOldest => "envoy-oldest",
            Part::Thanos => "thanos",
            Part::Prometheus => "prometheus",
            Part::PrometheusClassic => "prometheus-classic",
            Part::Alertmanager => "alertmanager",
            Part::AlertmanagerNewest => "alertmanager-newest",
            Part::CoreDns => "coredns",
            Part::Bind => "bind",
            Part::Helm => "helm",
            Part::Helm3 => "helm3",
            Part::Etcd => "etcd",
            Part::GoControlPlane => "go-control-plane",
            Part::KubeApiserver => "kube-apiserver",
            Part::KubeControllerManager => "kube-controller-manager",
            Part::Kubectl => "kubectl",
            Part::Node => "node",
            Part::Chromium => "chromium",
            Part::ChromeDriver => "chromedriver",
        }
    }

    /// The pinned version; "of this system" for programs of the system, which are not pinned.
    pub fn version(self) -> &'static str {
        match self {
            Part::Envoy => "1.40.0",
            Part::EnvoyOldest => "1.36.4",
            Part::Thanos => "0.42.0",
            Part::Prometheus => "3.15.0",
            Part::PrometheusClassic => "2.42.0",
            Part::Alertmanager => "0.31.0",
            Part::AlertmanagerNewest => "0.35.0",
            Part::CoreDns => "1.15.0",
            Part::Bind => "9.18.49",
            Part::Helm => "4.3.1",
            Part::Helm3 => "3.22.0",
            Part::Etcd => "3.6.16",
            Part::GoControlPlane => "0.14.0",
            Part::Node => "24.19.0",
            Part::KubeApiserver | Part::KubeControllerManager | Part::Kubectl => "1.36.3",
            Part::Chromium | Part::ChromeDriver => "of this system",
        }
    }

    /// Finds a part by its [name](Part::name).
    ///
    /// # Errors
    /// No part has this name; the error lists the names.
    pub fn from_name(name: &str) -> Result<Part> {
        let found = Part::ALL.iter().copied().find(|part| part.name() == name);
        found.with_context(|| {
            let names: Vec<_> = Part::ALL.iter().map(|part| part.name()).collect();
            format!("there is no part {name:?}; the parts are {}", names.join(", "))
        })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.version())
    }
}

/// Path of the program, which is fetched or built if it is not in the cache.
///
/// Concurrent callers, in other processes too, wait for the one that builds.
///
/// # Errors
/// A prerequisite is missing (the error says which, and how to install it), or a tool fails (the
/// error ends with the last lines of its output).
pub fn get(part: Part) -> Result<PathBuf> {
    let cache = Cache::open()?;
    let recipe = Recipe::of(part);
    if let Some(program) = recipe.present(part, &cache)? {
        return Ok(program);
    }
    prerequisites::check(&[part])?;
    provide(part, &recipe, &cache)
}

/// Gets every part of `parts` that is not in the cache, with progress on standard error.
///
/// # Errors
/// As [`get`]; all prerequisites are checked before the first build starts, and all that are
/// missing are named.
pub fn get_all(parts: &[Part]) -> Result<()> {
    let cache = Cache::open()?;
    let mut absent = Vec::new();
    for &part in parts {
        match Recipe::of(part).present(part, &cache)? {
            Some(_) => eprintln!("{part}: already there"),
            None => absent.push(part),
        }
    }
    prerequisites::check(&absent)?;
    for part in absent {
        provide(part, &Recipe::of(part), &cache)?;
    }
    Ok(())
}

/// The value for `--web.local-assets` of [`Part::PrometheusClassic`]. Without it Prometheus looks
/// for its pages in a directory of the system.
///
/// # Errors
/// As [`get`].
pub fn classic_web_assets() -> Result<PathBuf> {
    let program = get(Part::PrometheusClassic)?;
    let usr = program.ancestors().nth(2).context("BUG: the program is not in usr/bin")?;
    Ok(usr.join("share/prometheus/web"))
}

/// The directory of the pins.
fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../peers")
}

/// Takes the lock, and fetches or builds `part` unless another process has done so meanwhile.
fn provide(part: Part, recipe: &Recipe, cache: &Cache) -> Result<PathBuf> {
    let doing = recipe.doing();
    let _lock = cache.lock(&recipe.lock_name(part)?, || {
        eprintln!("{part}: waiting for another process that is {doing} it");
    })?;
    if let Some(program) = recipe.present(part, cache)? {
        eprintln!("{part}: already there");
        return Ok(program);
    }
    eprintln!("{part}: {doing}{}", recipe.patience());
    let start = Instant::now();
    fetch::fetch(part, recipe, cache).with_context(|| format!("{doing} {part}"))?;
    let Some(program) = recipe.present(part, cache)? else {
        bail!("{part} was fetched without an error, and yet its program is not there");
    };
    eprintln!("{part}: done after {} s", start.elapsed().as_secs());
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for &part in Part::ALL {
            assert_eq!(Part::from_name(part.name()).unwrap(), part);
        }
        let error = Part::from_name("istio").unwrap_err().to_string();
        assert!(error.contains("\"istio\"") && error.contains("envoy-oldest"), "{error}");
    }
}
