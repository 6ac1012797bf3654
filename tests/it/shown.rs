//! Foreign text on terminals, in logs and on pages: nothing of it is hidden, or moves anything.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atlas_core::text::is_plain;
use atlas_lab::process::{Proc, wait_until};

use crate::atlas;

/// What turns the direction, what nobody sees, what ends a line, what covers others, what moves the
/// cursor.
const HOSTILE: &str = "\u{202e}\u{2066}\u{200b}\u{2028}\u{feff}\u{e0041}\u{9b}2J";

/// Manifests in which everything that is repeated to people is hostile.
fn manifests(dir: &Path) -> Result<()> {
    fs::create_dir(dir)?;
    let bad = HOSTILE.replace('\u{9b}', "");
    let service = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: \"{name}\", labels: {{goatlas.io/cluster: \"true\"{more}}}}}\n"
        )
    };
    fs::write(dir.join("paris.yaml"), service("paris", ""))?;
    fs::write(dir.join("name.yaml"), service(&format!("x{bad}"), ""))?;
    fs::write(
        dir.join("value.yaml"),
        service("tokyo", &format!(", goatlas.io/replicas: \"2{bad}\"")),
    )?;
    fs::write(dir.join("key.yaml"), service("osaka", &format!(", \"goatlas.io/x{bad}\": \"1\"")))?;
    fs::write(dir.join(format!("file{HOSTILE}\n\x1b[2J.yaml")), "not: [yaml")?;
    Ok(fs::write(
        dir.join("text.yaml"),
        format!(
            "apiVersion: v1\nkind: \"Service{bad}\"\nmetadata: {{name: \"a{bad}\", {bad}: [}}\n"
        ),
    )?)
}

/// That every line of a text is fit to be shown.
fn check(what: &str, text: &str) -> Result<()> {
    for line in text.lines() {
        ensure!(is_plain(line), "{what}: {line:?}");
    }
    ensure!(text.contains("202e"), "{what}: what is hostile isn't shown:\n{text}");
    Ok(())
}

/// What a command prints on both outputs.
fn run(dir: &Path, line: &str) -> Result<(String, String)> {
    let output = Command::new(atlas())
        .args(line.split(' '))
        .current_dir(dir)
        .env_clear()
        .stdin(Stdio::null())
        .output()?;
    Ok((String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

/// What the control socket answers.
fn ask(state: &Path, path: &str) -> Result<String> {
    let mut socket = UnixStream::connect(state.join("status.sock"))?;
    write!(socket, "GET {path} HTTP/1.0\r\nHost: atlas\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn commands_show_nothing_hidden_of_manifests() -> Result<()> {
    let dir = tempfile::tempdir()?;
    manifests(&dir.path().join("clusters"))?;
    for line in [
        "cluster-list --from clusters",
        "cluster-list --from clusters -o json",
        "translate --file clusters --node paris",
    ] {
        let (out, err) = run(dir.path(), line)?;
        check(line, &format!("{out}{err}"))?;
        ensure!(out.contains("paris") && is_plain(&out.replace('\n', "")), "{line}: {out}");
    }
    let (out, err) = run(
        dir.path(),
        &format!(
            "cluster-add rome --from clusters --address 192.0.2.1 --annotation a=x{HOSTILE} --dry-run"
        ),
    )?;
    ensure!(is_plain(&out.replace('\n', "")) && out.contains("202E"), "{out}{err}");
    Ok(())
}

#[test]
fn a_running_atlas_shows_nothing_hidden_of_manifests() -> Result<()> {
    for format in ["text", "json"] {
        let dir = tempfile::tempdir()?;
        manifests(&dir.path().join("clusters"))?;
        let state = dir.path().join("state");
        let listeners =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
        let ports = listeners
            .iter()
            .map(|one| Ok(one.local_addr()?.port()))
            .collect::<Result<Vec<u16>>>()?;
        drop(listeners);
        let mut command = Command::new(atlas());
        command.args([
            "run",
            "--from",
            "clusters",
            "--state",
            "state",
            "--dns-port",
            "0",
            "--log-format",
            format,
        ]);
        command.args([
            format!("--xds-port={}", ports[0]),
            format!("--metrics-port={}", ports[1]),
            format!("--web-port={}", ports[2]),
        ]);
        command.current_dir(dir.path()).env_clear();
        let process = Proc::spawn("atlas", dir.path(), &command)?;
        // Its files are there before it is told.
        wait_until("paris is in force", Duration::from_secs(20), || {
            let (out, _) = run(dir.path(), "status --state state")?;
            Ok((out.contains("paris") && !out.contains("not ready")).then_some(()))
        })?;
        for line in ["status --state state", "status --state state -o json"] {
            let (out, err) = run(dir.path(), line)?;
            check(line, &out)?;
            ensure!(err.is_empty(), "{err}");
        }
        check("the API", &ask(&state, "/api/v1/status")?)?;
        let mut page = std::net::TcpStream::connect(("127.0.0.1", ports[2]))?;
        write!(page, "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        page.read_to_string(&mut answer)?;
        check("the page", &answer)?;
        let log = process.log();
        check("the log", &log)?;
        for line in log.lines().filter(|_| format == "json") {
            serde_json::from_str::<serde_json::Value>(line).with_context(|| line.to_owned())?;
        }
        ensure!(
            log.lines().all(|line| line.starts_with(['2', '{'])),
            "each event is one line: {log}"
        );
    }
    Ok(())
}
