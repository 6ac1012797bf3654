//! `cargo xtask demo`: a hub and two downstream clusters on loopback addresses, made of the real
//! programs.
//!
//! It runs in its own pid namespace, so that no process is left however it ends, and in its own
//! mount namespace, for its own `/etc/hosts`. The network is this machine's, so any browser here
//! can open the pages.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use atlas_lab::parts::{self, Part};
use atlas_lab::process::Dump;
use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place, Scene, demo_names, prove};
use clap::Args;

use crate::build::{self, Profile};

/// The clusters, and the last number of their Envoys' addresses. The hub is 127.0.0.2.
const CLUSTERS: [(&str, u8); 2] = [("tokyo", 3), ("paris", 4)];
const HUB: u8 = 2;
const PARTS: &[Part] = &[Part::Envoy, Part::PrometheusClassic, Part::Alertmanager, Part::Thanos];
/// Whether SIGINT or SIGTERM was received.
static ASKED_TO_END: AtomicBool = AtomicBool::new(false);
/// How long the world may take to end by itself.
const END: std::time::Duration = std::time::Duration::from_secs(3);
/// Set inside the demo's namespaces: its directory.
const INSIDE: &str = "ATLAS_DEMO_DIR";

/// Run a hub and two clusters on this machine: get the real programs (the first time takes
/// minutes), build Atlas, start everything on 127.0.0.2 to 127.0.0.4, and prove the three jobs.
/// Then look around in your own browser; Ctrl-C ends it.
#[derive(Debug, Args)]
pub struct Demo {
    /// Prove, don't wait: exits with 0 if everything was proved, else 1. Needs no terminal.
    #[arg(long)]
    check: bool,
    /// Keep logs, state and manifests in this directory [default: a temporary one, removed at the
    /// end].
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Demo {
    pub fn run(self) -> Result<()> {
        match std::env::var_os(INSIDE) {
            Some(dir) => self.inside(Path::new(&dir)),
            None => self.outside(),
        }
    }

    /// Gets the programs, and starts this program again in new namespaces.
    fn outside(self) -> Result<()> {
        parts::get_all(PARTS)?;
        let atlas = build::program("atlas", Profile::Dev)?;
        let temporary = tempfile::Builder::new()
            .prefix("atlas-demo-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        let dir = match &self.keep {
            Some(dir) => std::path::absolute(dir).context("--keep")?,
            None => temporary.path().to_owned(),
        };
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut world = Command::new("setpriv")
            // The namespaces end with this process in any case.
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--user",
                "--map-root-user",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--",
            ])
            .arg(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, &dir)
            .env("ATLAS_DEMO_PROGRAM", &atlas)
            .spawn()
            .context("cannot start setpriv and unshare (util-linux): install them")?;
        end_with_us(world.id())?;
        let status = world.wait().context("cannot wait for the demo")?;
        match status.code() {
            Some(0) => Ok(()),
            // After a signal the world may have been killed.
            None if ASKED_TO_END.load(Ordering::Relaxed) => Ok(()),
            Some(1) => bail!("the demo did not prove everything; --keep DIR keeps its logs"),
            _ => bail!(
                "the demo ended with {status}: if unshare is not permitted here, allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
            ),
        }
    }

    fn inside(self, dir: &Path) -> Result<()> {
        let (stop, stopped) = mpsc::channel();
        ctrlc::set_handler(move || stop.send(()).unwrap_or_default())
            .context("cannot handle Ctrl-C")?;
        let _dump = Dump::on_panic(dir);
        let program = PathBuf::from(
            std::env::var_os("ATLAS_DEMO_PROGRAM")
                .context("BUG: the demo doesn't know Atlas's program")?,
        );
        let began = Instant::now();
        let proved =
            start(dir, &program).and_then(|mut scene| prove_all(&mut scene).map(|()| scene));
        let scene = match proved {
            Ok(scene) => scene,
            Err(error) => {
                eprintln!("{}", atlas_lab::process::dump(dir));
                return Err(error);
            }
        };
        println!("\nproved in {:.0} s.", began.elapsed().as_secs_f64());
        if !self.check {
            println!("{}\nCtrl-C ends the demo.", places(&scene));
            let _ = stopped.recv();
            println!("ending");
        }
        drop(scene);
        Ok(())
    }
}

/// Ctrl-C in a terminal reaches all processes, and the world ends by itself while this process
/// waits. A signal to this process alone doesn't reach the world, so this kills the world if it
/// doesn't end by itself.
fn end_with_us(world: u32) -> Result<()> {
    let world = i32::try_from(world)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .context("BUG: a child without a process id")?;
    let handler = move || {
        ASKED_TO_END.store(true, Ordering::Relaxed);
        std::thread::sleep(END);
        let _ = rustix::process::kill_process(world, rustix::process::Signal::KILL);
    };
    ctrlc::set_handler(handler).context("cannot handle Ctrl-C")
}

fn start(dir: &Path, atlas: &Path) -> Result<Scene> {
    let step = |what: &str| println!("starting {what}");
    let hub_place = Place::on_loopback(dir, "hub", HUB);
    let places: Vec<(&str, Place)> = CLUSTERS
        .iter()
        .map(|(name, number)| (*name, Place::on_loopback(dir, name, *number)))
        .collect();
    write_hosts(dir, &hub_place, &places)?;
    for place in places.iter().map(|(_, place)| place).chain([&hub_place]) {
        std::fs::create_dir_all(place.host.dir())?;
    }
    step("the hub: Atlas, Envoy, two Alertmanagers, Thanos Query");
    let options = HubOptions {
        atlas_extra: vec!["--allow-local-addresses".into()],
        write_hosts: false,
        ..HubOptions::new(atlas)
    };
    let mut hub = Hub::start(hub_place, options)?;
    let mut clusters = Vec::new();
    for (name, place) in places {
        step(&format!("{name}: Envoy, two Prometheus with a Thanos sidecar each, an Alertmanager"));
        let options = ClusterOptions {
            prometheus: Part::PrometheusClassic,
            own_dns: false,
            ..ClusterOptions::new(name)
        };
        clusters.push(Cluster::start(place, &mut hub, options)?);
    }
    let mut scene = Scene { hub, clusters };
    step("nothing more; waiting until all are connected");
    scene.wait_connected()?;
    Ok(scene)
}

/// Mounts the demo's own hosts file over this machine's, for the demo's processes only.
fn write_hosts(dir: &Path, hub: &Place, clusters: &[(&str, Place)]) -> Result<()> {
    let mut entries: Vec<(IpAddr, String)> =
        vec![(IpAddr::from([127, 0, 0, 1]), "localhost".into())];
    for (name, place) in clusters {
        entries.extend(demo_names(place, name));
        entries.extend(
            (0..2).map(|n| (hub.envoy, format!("{name}-thanos-sidecar{n}.sidecars.thanos.atlas"))),
        );
    }
    // Envoy looks names up with a dot at the end, and its resolver compares them literally.
    let text: String = entries.iter().map(|(ip, name)| format!("{ip} {name} {name}.\n")).collect();
    let file = dir.join("hosts");
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let status = Command::new("mount")
        .arg("--bind")
        .arg(&file)
        .arg("/etc/hosts")
        .status()
        .context("cannot start mount")?;
    ensure!(status.success(), "cannot put {} over /etc/hosts", file.display());
    Ok(())
}

fn prove_all(scene: &mut Scene) -> Result<()> {
    let mut number = 0;
    let mut proved = |sentence: String| {
        number += 1;
        println!("\n{number}. {sentence}");
    };
    proved(prove::stores(scene)?);
    proved(prove::query(scene)?);
    proved(prove::alert(&scene.hub, "tokyo")?);
    for (name, _) in CLUSTERS {
        proved(prove::web(&scene.hub, name)?);
    }
    Ok(())
}

fn places(scene: &Scene) -> String {
    let hub = &scene.hub;
    let mut lines = vec![
        format!("{:<26}{}", "Atlas, all clusters", hub.web_url("/")),
        format!("{:<26}{}", "Thanos Query", hub.query.url()),
    ];
    for (name, _) in CLUSTERS {
        lines.push(format!(
            "{:<26}{}",
            format!("Prometheus in {name}"),
            hub.web_url(&format!("/prom/{name}/"))
        ));
        lines.push(format!(
            "{:<26}{}",
            format!("Alertmanager in {name}"),
            hub.web_url(&format!("/alertmanager/{name}/"))
        ));
    }
    for (n, alertmanager) in hub.alertmanagers.iter().enumerate() {
        lines.push(format!("{:<26}{}", format!("the hub's Alertmanager {n}"), alertmanager.url()));
    }
    let state = hub.atlas.options.state.display();
    lines.push(format!("{:<26}{}", "manifests (edit them)", hub.atlas.options.from.display()));
    lines.push(format!(
        "{:<26}{} status --state {state}",
        "how everything stands",
        hub.atlas.options.program.display()
    ));
    format!("\n{}\n", lines.join("\n"))
}
