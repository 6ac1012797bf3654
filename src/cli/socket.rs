//! Requests to the running Atlas through the socket in its state directory.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::standalone::state_dir::StateDir;

/// Whether an Atlas runs with this state directory.
pub fn is_running(state: &StateDir) -> bool {
    UnixStream::connect(state.socket()).is_ok()
}

/// Sends a request and returns the response's body.
///
/// # Errors
/// No Atlas runs, or its response's code is not 200.
pub fn ask(state: &StateDir, method: &str, path: &str) -> anyhow::Result<String> {
    let socket = state.socket();
    let mut stream = UnixStream::connect(&socket).with_context(|| {
        format!(
            "no atlas runs with the state directory {} ({} doesn't answer): start it with `atlas run`",
            state.root().display(),
            socket.display()
        )
    })?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    // HTTP/1.0: the response ends with the connection.
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: atlas\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the running atlas didn't finish its answer")?;
    let (head, body) =
        answer.split_once("\r\n\r\n").context("the running atlas gave no HTTP answer")?;
    let code = head.split(' ').nth(1).unwrap_or_default();
    if code != "200" {
        bail!("the running atlas says {code}: {}", body.trim());
    }
    Ok(body.to_owned())
}
