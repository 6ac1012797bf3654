//! Runs the tools that download and build. Their output goes to a log, progress to standard error,
//! and a failure shows the end of the log.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often progress is printed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Lines of a failed tool's output that its error shows.
const TAIL_LINES: usize = 20;

/// Runs `command` to its end and appends its output to `log`. `still`: the progress message, such
/// as "thanos 0.42.0: still building".
pub(super) fn run(command: &mut Command, log: &Path, still: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status =
        start_and_wait(command, log, still).with_context(|| format!("cannot run {program}"))?;
    if status.success() {
        return Ok(());
    }
    let output = fs::read_to_string(log).unwrap_or_default();
    bail!(
        "{program} failed ({status}); all it said is in {}, and this is its end:\n{}",
        log.display(),
        tail(&output, TAIL_LINES)
    )
}

fn start_and_wait(command: &mut Command, log: &Path, still: &str) -> Result<ExitStatus> {
    let mut output = File::options().append(true).create(true).open(log)?;
    writeln!(output, "$ {command:?}")?;
    let errors = output.try_clone()?;
    let mut child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn()?;
    let start = Instant::now();
    thread::scope(|scope| {
        let (ended, end) = mpsc::channel();
        // The receiver is gone only if this function has panicked.
        scope.spawn(move || ended.send(child.wait()));
        loop {
            match end.recv_timeout(HEARTBEAT) {
                Ok(status) => return Ok(status?),
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("{still}, {} s", start.elapsed().as_secs());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("BUG: the thread that waits for the tool is gone")
                }
            }
        }
    })
}

/// The last lines of `text`, indented.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    let last = &all[all.len().saturating_sub(lines)..];
    last.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// `go` in a module of `peers/`.
pub(super) fn go_in(directory: &Path) -> Command {
    let mut go = Command::new("go");
    go.current_dir(directory)
        .env("CGO_ENABLED", "0")
        // With `readonly`, Go adds nothing to go.sum and builds only what it lists.
        .env("GOFLAGS", "-mod=readonly")
        .env("GOTOOLCHAIN", "local")
        .env("GOWORK", "off");
    go
}

/// `npm ci` in `directory`, which has a `package.json` and its lock file, by the Node.js in `node`;
/// its cache is in `work`.
pub(super) fn npm_ci(node: &Path, directory: &Path, work: &Path) -> Command {
    let mut npm = Command::new(node.join("bin/node"));
    with_node(&mut npm, node, directory, work);
    npm.arg(node.join("npm/bin/npm-cli.js")).args([
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
    ]);
    npm
}

/// Makes `command` run in `directory` with this Node.js and its packages first on `PATH`. The
/// user's own `.npmrc` is read, since it may name a registry. The tools' per-user files go into
/// `work`.
pub(super) fn with_node(command: &mut Command, node: &Path, directory: &Path, work: &Path) {
    let mut path = std::ffi::OsString::new();
    for own in [node.join("bin"), node.join("packages/node_modules/.bin")] {
        path.push(own);
        path.push(":");
    }
    path.push(env::var_os("PATH").unwrap_or_default());
    command
        .current_dir(directory)
        .env("PATH", path)
        .env("CI", "true")
        .env("npm_config_cache", work.join("npm"));
    for kept in ["XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
        command.env(kept, work.join("kept"));
    }
}

/// Copies `package.json` and its lock file into `directory`; what is there is overwritten.
pub(super) fn copy_npm_pins(pins: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    for file in ["package.json", "package-lock.json"] {
        let from = pins.join(file);
        let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        fs::write(directory.join(file), text)
            .with_context(|| format!("cannot write {file} into {}", directory.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_end_of_the_output_and_where_the_rest_is() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("x.log");
        let mut command = Command::new("sh");
        command.args(["-c", "seq 100; echo no such module >&2; exit 3"]);
        let error = run(&mut command, &log, "").unwrap_err().to_string();
        assert!(error.contains("sh failed (exit status: 3)"), "{error}");
        assert!(
            error.contains("x.log") && error.ends_with("    100\n    no such module"),
            "{error}"
        );
        assert!(!error.contains("    50\n"), "{error}");
    }

    #[test]
    fn a_tool_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error =
            run(&mut Command::new("no-such-tool"), &directory.path().join("log"), "").unwrap_err();
        assert!(error.to_string().contains("cannot run no-such-tool"), "{error}");
    }
}
