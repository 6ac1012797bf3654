//! A mount namespace for a Pod, with its volumes at their mount paths.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::spec::Env;
use super::volume::Volume;
use crate::process::Proc;
use crate::run::START;
use crate::world::Host;

/// Mounts the volumes within the new namespace, then executes the program.
const SCRIPT: &str = include_str!("mounts.sh");

/// The command that starts `program` on `host` with these volumes and exactly this environment.
pub fn command(
    host: &Host,
    state: &Path,
    volumes: &[Volume],
    env: &Env,
    program: &Path,
    arguments: &[String],
) -> Result<Command> {
    let relative = state
        .strip_prefix(host.dir())
        .context("BUG: the Pod's state is not in its host's directory")?;
    let relative = relative.to_str().context("the Pod's name is not UTF-8")?;
    let script = host.write(&format!("{relative}/mounts.sh"), SCRIPT)?;
    let line = |volume: &Volume| {
        let mode = if volume.writable { "rw" } else { "ro" };
        format!("{mode} {} {}\n", volume.directory.display(), volume.mount_path.display())
    };
    host.write(&format!("{relative}/mounts"), volumes.iter().map(line).collect::<String>())?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh"]).arg(script).arg(state);
    command.args(["env", "-i"]).args(env.iter().map(|(name, value)| format!("{name}={value}")));
    command.arg(program).args(arguments);
    Ok(command)
}

/// Called before a start, so that [`wait_started`] doesn't see an earlier one.
pub fn forget_start(state: &Path) -> Result<()> {
    match fs::remove_file(state.join("started")) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context("a Pod's earlier start")
        }
        _ => Ok(()),
    }
}

/// Waits until all volumes are mounted and the program is about to be executed.
pub fn wait_started(process: &mut Proc, state: &Path) -> Result<()> {
    process.wait_until("the volumes are mounted", START, || {
        Ok(state.join("started").exists().then_some(()))
    })
}
