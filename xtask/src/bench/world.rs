//! The private world of a measurement: this program starts itself again in new namespaces.
//!
//! The parts are fetched and Atlas is built (release) before that, since a world has no network.
//! When the outer process ends in any way, the kernel ends the world.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use atlas_lab::parts::{self, Part};
use atlas_lab::world::{VARIABLE, World};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::build::{self, Profile};

/// Set inside the world: the path of Atlas's program, if one is needed.
const PROGRAM: &str = "ATLAS_BENCH_PROGRAM";
/// Whether SIGINT or SIGTERM was received.
static ASKED_TO_END: AtomicBool = AtomicBool::new(false);
/// Between two checks whether the world has ended.
const POLL: Duration = Duration::from_millis(100);

/// Runs `body` in a private world, with Atlas's release build. The outer process waits for at most
/// `limit`.
///
/// # Errors
/// A part can't be fetched, Atlas can't be built, no world can be made on this machine, or `body`
/// fails.
pub(crate) fn run(
    parts: &[Part],
    limit: Duration,
    body: impl FnOnce(&World, &Path) -> Result<()>,
) -> Result<()> {
    run_with(None, parts, limit, body)
}

/// [`run`] with another Atlas program.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_with(
    atlas: Option<&Path>,
    parts: &[Part],
    limit: Duration,
    body: impl FnOnce(&World, &Path) -> Result<()>,
) -> Result<()> {
    let Some(program) = std::env::var_os(PROGRAM).map(PathBuf::from) else {
        parts::get_all(parts)?;
        let program = match atlas {
            Some(program) => std::path::absolute(program)?,
            None => build::program("atlas", Profile::Release)?,
        };
        return outside(&program, limit);
    };
    inside(|world| body(world, &program))
}

/// [`run`] without an Atlas.
///
/// # Errors
/// As [`run`].
pub(super) fn run_without_atlas(
    parts: &[Part],
    limit: Duration,
    body: impl FnOnce(&World) -> Result<()>,
) -> Result<()> {
    if std::env::var_os(PROGRAM).is_none() {
        parts::get_all(parts)?;
        return outside(Path::new(""), limit);
    }
    inside(body)
}

fn inside(body: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    allow_many_files()?;
    let world = World::new()?;
    let result = body(&world);
    if result.is_err() {
        eprintln!("{}", atlas_lab::process::dump(world.dir()));
    }
    result
}

/// Raises the limit of open files of this process and its children to the maximum: a hub has a
/// connection for each Envoy cluster.
fn allow_many_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("cannot raise the limit of open files")
}

/// The limit of open files; `None`: unlimited.
pub(super) fn open_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

fn outside(atlas: &Path, limit: Duration) -> Result<()> {
    let mut dir = tempfile::Builder::new()
        .prefix("atlas-bench-")
        .tempdir()
        .context("cannot make a temporary directory")?;
    dir.disable_cleanup(std::env::var_os("ATLAS_LAB_KEEP").is_some());
    let mut world = Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--user",
            "--map-root-user",
            "--net",
            "--mount",
            "--pid",
            "--fork",
        ])
        .args(["--kill-child", "--mount-proc", "--"])
        .arg(std::env::current_exe().context("cannot find this program's own file")?)
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, dir.path())
        .env(PROGRAM, atlas)
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start setpriv and unshare: install util-linux")?;
    ctrlc::set_handler(|| ASKED_TO_END.store(true, Ordering::Relaxed))
        .context("cannot handle Ctrl-C")?;
    let ended = wait(&mut world, limit);
    // An error means that it has ended already.
    let _ = world.kill();
    let _ = world.wait();
    ended
}

fn wait(world: &mut Child, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = world.try_wait().context("cannot wait for the measurement")? {
            match status.code() {
                Some(0) => return Ok(()),
                Some(1) => {
                    bail!("the measurement failed, see above; ATLAS_LAB_KEEP=1 keeps its logs")
                }
                _ => bail!(
                    "the measurement ended with {status}: if unshare is not permitted here, allow unprivileged user namespaces \
                     (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
                ),
            }
        }
        ensure!(
            !ASKED_TO_END.load(Ordering::Relaxed),
            "ended by a signal before the measurement was complete"
        );
        std::thread::sleep(POLL);
    }
    bail!(
        "the measurement took longer than {limit:?} and was ended: ask for fewer clusters or queries, or give --limit"
    )
}
