//! The private world of a measurement: this program started again in namespaces of its own.
//!
//! Outside, the parts are got and Atlas is built in release mode, since inside there is no network.
//! However the outer process ends, the kernel ends the world with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use atlas_lab::parts::{self, Part};
use atlas_lab::world::{VARIABLE, World};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::build::{self, Profile};

/// Tells the second start of this program that it is inside, and where Atlas's program is, if it
/// needs one.
const PROGRAM: &str = "ATLAS_BENCH_PROGRAM";
/// Whether a signal asked for the end.
static ASKED_TO_END: AtomicBool = AtomicBool::new(false);
/// Between two looks at the world.
const POLL: Duration = Duration::from_millis(100);

/// Runs `body` in a private world, with Atlas's release build. Outside, it only waits: `limit` at
/// most.
///
/// # Errors
/// A part can't be got, Atlas doesn't build, no world can be made here, or the body's.
pub(crate) fn run(
    parts: &[Part],
    limit: Duration,
    body: impl FnOnce(&World, &Path) -> Result<()>,
) -> Result<()> {
    run_with(None, parts, limit, body)
}

/// [`run`] with another program of Atlas's.
///
/// # Errors
/// The same.
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

/// [`run`] for what needs no Atlas.
///
/// # Errors
/// As above.
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

/// Lets this process and all it starts open as many files as the machine allows it: a hub has a
/// connection per Envoy cluster.
fn allow_many_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("cannot raise the limit of open files")
}

/// How many files a process may open here; `None`: any number.
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
    // Nothing is left to end if it ended by itself.
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
