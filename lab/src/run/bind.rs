//! BIND: `named-checkzone`, and `named` as a primary or a secondary server of one zone.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::Proc;
use crate::world::Host;

/// Where a server has its copy of the zone from.
#[derive(Debug)]
pub enum Role<'a> {
    /// A primary with this file, which notifies this secondary and allows it transfers. SIGHUP
    /// makes it read the file again.
    Primary(&'a Path, IpAddr),
    /// A secondary of this server.
    SecondaryOf(IpAddr),
}

/// A running `named`.
#[derive(Debug)]
pub struct Named {
    pub process: Proc,
    /// Its address, port 53.
    pub ip: IpAddr,
}

/// A command of the tree that [`crate::parts`] unpacked, with the libraries in it.
fn command(named: &Path, program: &str) -> Result<Command> {
    let usr = named.ancestors().nth(2).context("BUG: the program is not in usr/sbin")?;
    let mut command = Command::new(usr.join(program));
    command.env("LD_LIBRARY_PATH", usr.join("lib/x86_64-linux-gnu"));
    Ok(command)
}

/// The output of `named-checkzone` for a zone's file. `named` is the path of the part.
///
/// # Errors
/// The file can't be loaded; the error is the output.
pub fn check_zone(named: &Path, zone: &str, file: &Path) -> Result<String> {
    let output = command(named, "bin/named-checkzone")?
        .arg(zone)
        .arg(file)
        .output()
        .context("named-checkzone doesn't start")?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{text}");
    Ok(text)
}

impl Named {
    /// Starts `named`, the path of the part, on an address of `host`, with one zone.
    ///
    /// # Errors
    /// It doesn't start.
    pub fn start(
        host: &Host,
        name: &str,
        named: &Path,
        ip: IpAddr,
        zone: &str,
        role: &Role<'_>,
    ) -> Result<Self> {
        let dir = host.dir().join(name);
        let of_zone = match role {
            Role::Primary(file, secondary) => {
                format!(
                    "type primary; file {file:?}; notify explicit; also-notify {{ {secondary}; }}; allow-transfer {{ {secondary}; }};"
                )
            }
            Role::SecondaryOf(primary) => format!(
                "type secondary; primaries {{ {primary}; }}; file \"copy\"; masterfile-format text;"
            ),
        };
        let config = format!(
            "options {{\n  directory {dir:?};\n  listen-on {{ {ip}; }};\n  listen-on-v6 {{ none; }};\n  query-source address {ip};\n  \
             transfer-source {ip};\n  notify-source {ip};\n  notify-delay 0;\n  pid-file none;\n  session-keyfile none;\n  recursion no;\n  \
             dnssec-validation no;\n  max-transfer-idle-in 1;\n}};\ncontrols {{ }};\nzone \"{zone}\" {{ {of_zone} }};\n"
        );
        let config: PathBuf = host.write(&format!("{name}/named.conf"), config)?;
        let mut command = command(named, "sbin/named")?;
        command.args(["-g", "-n", "1", "-c"]).arg(config);
        Ok(Self { process: host.spawn(name, &command)?, ip })
    }
}
