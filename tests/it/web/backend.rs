//! A server behind a web UI that answers what no real program can be asked for: redirects of every
//! kind, hostile headers.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atlas_lab::process::wait_until;
use atlas_lab::scene::{Hub, Place};
use atlas_lab::world::Host;
use serde_json::json;

/// A running one. It ends with the world.
pub struct Backend {
    pub at: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    headers: Arc<Mutex<String>>,
}

impl Backend {
    /// Listens on `at` of `host`.
    pub fn start(host: &Host, at: SocketAddr) -> Result<Self> {
        let listener = host.within(|| Ok(TcpListener::bind(at)?))?;
        let backend = Self { at, seen: Arc::default(), headers: Arc::default() };
        let (seen, headers) = (Arc::clone(&backend.seen), Arc::clone(&backend.headers));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, headers) = (Arc::clone(&seen), Arc::clone(&headers));
                // Envoy's health checks connect and say nothing.
                thread::spawn(move || serve(stream, &seen, &headers).unwrap_or_default());
            }
        });
        Ok(backend)
    }

    /// From now on the answer has these headers, each with its line's end.
    pub fn answer(&self, headers: &str) {
        headers.clone_into(&mut self.headers.lock().expect("no panic"));
    }

    /// The head of the last request, in lower case but for values.
    pub fn last(&self) -> Result<String> {
        self.seen.lock().expect("no panic").last().cloned().context("nobody has asked the backend")
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>, headers: &Mutex<String>) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let websocket = head.to_lowercase().contains("\r\nupgrade: websocket");
    seen.lock().expect("no panic").push(head);
    let headers = headers.lock().expect("no panic").clone();
    if websocket {
        write!(
            stream,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{headers}\r\n"
        )?;
        let mut line = [0; 6];
        stream.read_exact(&mut line)?;
        stream.write_all(&line)?;
        return Ok(());
    }
    let status = if headers.to_lowercase().contains("location:") { "302 Found" } else { "200 OK" };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: 3\r\nConnection: close\r\n{headers}\r\nok\n"
    )?;
    Ok(())
}

/// The Service of a cluster whose web UIs are at `prometheus` and `alertmanager`, with more
/// annotations.
pub fn manifest(
    place: &Place,
    name: &str,
    prometheus: SocketAddr,
    alertmanager: SocketAddr,
    more: &[(&str, &str)],
) -> String {
    let mut annotations = json!({
        "goatlas.io/addresses": place.envoy.to_string(),
        "goatlas.io/prometheus-service": prometheus.ip().to_string(),
        "goatlas.io/prometheus-service-port": prometheus.port().to_string(),
        "goatlas.io/alertmanager-service": alertmanager.ip().to_string(),
        "goatlas.io/alertmanager-service-port": alertmanager.port().to_string(),
    });
    for (key, value) in more {
        annotations[format!("goatlas.io/{key}")] = json!(value);
    }
    let labels = json!({"goatlas.io/cluster": "true", "goatlas.io/replicas": "1"});
    let metadata = json!({"name": name, "namespace": "monitoring", "labels": labels, "annotations": annotations});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"clusterIP": "None"}}).to_string()
}

/// A free address of a place.
pub fn spare(place: &Place) -> IpAddr {
    place.programs[4]
}

/// Waits until a web UI answers as `holds` wants.
pub fn wait_web(
    hub: &Hub,
    path: &str,
    holds: impl Fn(&atlas_lab::http::Response) -> bool,
) -> Result<()> {
    wait_until(&format!("{path} as it shall be"), Duration::from_secs(30), || {
        let answer = hub.web(path)?;
        ensure!(holds(&answer), "{} {:?} {}", answer.status, answer.headers, answer.text());
        Ok(Some(()))
    })
}
