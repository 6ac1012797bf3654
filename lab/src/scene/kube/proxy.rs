//! Imitates kube-proxy: forwards a Service's cluster IP to its ready endpoints.
//!
//! It forwards in user space, with a thread for each connection, since the lab has no access to the
//! kernel's packet filters. It has a host of its own, which the others route to, since programs
//! that listen on all addresses of a host would take its ports. Like kube-proxy it chooses the
//! endpoint when a connection is made, keeps connections, and keeps the last endpoints while the
//! API server doesn't answer.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::run::Client;
use crate::world::{Host, World};

/// The range of cluster IPs.
const SERVICE_RANGE: &str = "10.96.0.0/16";
/// Between two reads of the EndpointSlices.
const POLL: Duration = Duration::from_millis(200);
/// Time limit of a connection to an endpoint.
const CONNECT: Duration = Duration::from_secs(5);

/// Ready endpoints by the port's name.
type Endpoints = Arc<Mutex<BTreeMap<String, Vec<SocketAddr>>>>;

/// The proxy's host. Its threads run until the test ends.
#[derive(Debug)]
pub struct Proxy {
    host: Host,
    client: Client,
}

impl Proxy {
    /// Makes its host.
    ///
    /// # Errors
    /// The host can't be made.
    pub fn start(world: &World, client: &Client) -> Result<Self> {
        Ok(Self { host: world.host("proxy")?, client: client.clone() })
    }

    /// Adds a route for the cluster IPs to a host.
    ///
    /// # Errors
    /// The route can't be set.
    pub fn route(&self, from: &Host) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["route", "add", SERVICE_RANGE, "via", &self.host.ip().to_string()]);
        from.run(&command).map(drop)
    }

    /// Serves the TCP ports of a Service; returns its cluster IP.
    ///
    /// # Errors
    /// There is no such Service, or it has no cluster IP.
    pub fn serve(&self, namespace: &str, service: &str) -> Result<IpAddr> {
        let object =
            self.client.get(&format!("/api/v1/namespaces/{namespace}/services/{service}"))?;
        let ip: IpAddr = object["spec"]["clusterIP"]
            .as_str()
            .unwrap_or_default()
            .parse()
            .context("a Service without a cluster IP")?;
        self.host.add_address(ip)?;
        let endpoints = Endpoints::default();
        let path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{service}"
        );
        let (client, known) = (self.client.clone(), Arc::clone(&endpoints));
        thread::spawn(move || {
            loop {
                if let Ok(slices) = client.list(&path) {
                    *known.lock().expect("BUG: a proxy panicked") = ready(&slices);
                }
                thread::sleep(POLL);
            }
        });
        for port in object["spec"]["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|port| port["protocol"] == "TCP")
        {
            let name = port["name"].as_str().unwrap_or_default().to_owned();
            let number = port["port"]
                .as_u64()
                .and_then(|number| number.try_into().ok())
                .context("a Service's port without a number")?;
            let listener =
                self.host.within(|| Ok(TcpListener::bind(SocketAddr::new(ip, number))?))?;
            let (host, endpoints) = (self.host.clone(), Arc::clone(&endpoints));
            thread::spawn(move || accept(&host, &listener, &endpoints, &name));
        }
        Ok(ip)
    }
}

fn ready(slices: &[Value]) -> BTreeMap<String, Vec<SocketAddr>> {
    let mut all: BTreeMap<String, Vec<SocketAddr>> = BTreeMap::new();
    for slice in slices {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let ready = list(&slice["endpoints"])
            .into_iter()
            .filter(|endpoint| endpoint["conditions"]["ready"] == true);
        let ips: Vec<IpAddr> =
            ready.filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok()).collect();
        for port in list(&slice["ports"]) {
            let Some(number) = port["port"].as_u64().and_then(|number| number.try_into().ok())
            else {
                continue;
            };
            let addresses = ips.iter().map(|ip| SocketAddr::new(*ip, number));
            all.entry(port["name"].as_str().unwrap_or_default().to_owned())
                .or_default()
                .extend(addresses);
        }
    }
    all
}

fn accept(host: &Host, listener: &TcpListener, endpoints: &Endpoints, port: &str) {
    let turn = AtomicUsize::new(0);
    for inbound in listener.incoming().flatten() {
        let ready =
            endpoints.lock().expect("BUG: a proxy panicked").get(port).cloned().unwrap_or_default();
        if ready.is_empty() {
            continue;
        }
        let target = ready[turn.fetch_add(1, Ordering::Relaxed) % ready.len()];
        let host = host.clone();
        thread::spawn(move || {
            // If the endpoint doesn't answer, the inbound connection is closed.
            if let Ok(outbound) = host.within(|| Ok(TcpStream::connect_timeout(&target, CONNECT)?))
            {
                let _ = join(&inbound, &outbound);
            }
        });
    }
}

/// Copies bytes in both directions until both have ended.
fn join(one: &TcpStream, other: &TcpStream) -> io::Result<()> {
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    let pass = |mut from: &TcpStream, mut to: &TcpStream| {
        let how =
            if io::copy(&mut from, &mut to).is_ok() { Shutdown::Write } else { Shutdown::Both };
        let _ = to.shutdown(how);
    };
    thread::scope(|scope| {
        scope.spawn(|| pass(one, other));
        pass(other, one);
    });
    Ok(())
}
