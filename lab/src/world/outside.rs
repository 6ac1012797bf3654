//! The outer run of a test: starts the world, waits for its end, and reports failures.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{ENTERED, VARIABLE};
use crate::process;

/// The namespaces of a world. When `unshare` ends, `--kill-child` ends the world's first process,
/// and with it all others.
const UNSHARE: [&str; 9] = [
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
];

/// How many bytes at the end of the test's output are printed on failure.
const MAX_OUTPUT: usize = 100_000;

/// Runs the test `test_name` of this executable in a new world and waits for its end.
pub fn run(test_name: &str, limit: Duration) -> Result<()> {
    worlds_are_possible()?;
    let mut dir = tempfile::Builder::new()
        .prefix("atlas-world-")
        .tempdir()
        .context("no directory for the world")?;
    dir.disable_cleanup(std::env::var_os("ATLAS_LAB_KEEP").is_some());
    let started = Instant::now();
    let ended = start_and_wait(test_name, dir.path(), limit)?;
    if ended.is_some_and(|status| status.success()) {
        let entered = dir.path().join(ENTERED).exists();
        ensure!(
            entered,
            "this executable has no test named {test_name:?}: give world::inside the test's whole path"
        );
        return Ok(());
    }
    let how = match ended {
        Some(status) => format!("failed in its world after {:?} ({status})", started.elapsed()),
        None => format!("was killed with its world after its time limit of {limit:?}"),
    };
    Err(anyhow!("{test_name} {how}\n{}{}", process::dump(dir.path()), output(dir.path())))
}

/// `None`: the world exceeded its time limit and was killed.
fn start_and_wait(test_name: &str, dir: &Path, limit: Duration) -> Result<Option<ExitStatus>> {
    let exe = std::env::current_exe().context("the test's own executable")?;
    let mut command = Command::new(UNSHARE[0]);
    command.args(&UNSHARE[1..]).arg("--").arg(exe);
    command
        .args(["--exact", test_name, "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, dir);
    let mut command = process::dying_with_parent(&command);
    command.stdin(Stdio::null());
    if !is_shown_live() {
        let file = File::create(dir.join("output")).context("the file for the test's output")?;
        command.stdout(file.try_clone()?).stderr(file);
    }
    let (_, child) = process::spawn_from_lasting_thread(command);
    let mut child = child.context("cannot start setpriv and unshare (both are of util-linux)")?;
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// Whether libtest shows output at once, by its own flags and variable.
fn is_shown_live() -> bool {
    std::env::args().any(|argument| argument == "--nocapture" || argument == "--no-capture")
        || std::env::var_os("RUST_TEST_NOCAPTURE").is_some_and(|value| value != "0")
}

/// The end of the test's output in its world.
fn output(dir: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(dir.join("output")) {
        // After an error, the part that could be read is printed.
        let _ = file.read_to_end(&mut bytes);
    }
    let text =
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(MAX_OUTPUT)..]).into_owned();
    if text.is_empty() {
        text
    } else {
        format!("──── the test's own output ────\n{text}")
    }
}

/// Tries to make a world, once per process. The error names the machine's settings to check.
fn worlds_are_possible() -> Result<()> {
    static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
    TRIED
        .get_or_init(|| try_a_world().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow!(error))
}

fn try_a_world() -> Result<()> {
    for program in ["setpriv", "nsenter"] {
        super::net::run(Command::new(program).arg("--version"))
            .context("private worlds need util-linux")?;
    }
    super::net::run(Command::new("ip").arg("-V")).context("private worlds need iproute2")?;
    let output = Command::new(UNSHARE[0])
        .args(&UNSHARE[1..])
        .args(["--", "ip", "link", "set", "lo", "up"])
        .output()
        .context("private worlds need unshare, of util-linux")?;
    if output.status.success() {
        return Ok(());
    }
    let settings = [
        "/proc/sys/kernel/unprivileged_userns_clone",
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "/proc/sys/user/max_user_namespaces",
    ];
    let values = settings.map(|file| {
        format!("{file}: {}", fs::read_to_string(file).as_deref().unwrap_or("not there").trim())
    });
    bail!(
        "no private world can be made here: {}\nUnprivileged user namespaces need the sysctls kernel.unprivileged_userns_clone=1, \
         kernel.apparmor_restrict_unprivileged_userns=0 (where they exist) and user.max_user_namespaces above 0; a container \
         needs a seccomp profile that allows unshare and an unmasked /proc. Here: {}",
        String::from_utf8_lossy(&output.stderr).trim(),
        values.join(", ")
    )
}
