//! CoreDNS, standing for a cluster's DNS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::process::Proc;
use crate::world::Host;

/// A query for the root's NS records with id 1. Any server answers it, at least with REFUSED.
const PROBE: [u8; 17] = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// A running CoreDNS.
#[derive(Debug)]
pub struct CoreDns {
    pub process: Proc,
    /// Where it serves DNS.
    pub listen: SocketAddr,
    host: Host,
}

impl CoreDns {
    /// Starts `bin` on `host`. Its `corefile` must say the same as `listen`:
    /// `.:53 { bind 10.91.2.1 … }`. Files named in it are relative to the directory `name` on the
    /// host.
    pub fn start(
        host: &Host,
        name: &str,
        bin: &Path,
        listen: SocketAddr,
        corefile: &str,
    ) -> Result<Self> {
        let corefile = host.write(&format!("{name}/Corefile"), corefile)?;
        let mut command = Command::new(bin);
        command.arg("-conf").arg(&corefile);
        if let Some(dir) = corefile.parent() {
            command.current_dir(dir);
        }
        let process = host.spawn(name, &command)?;
        Ok(Self { process, listen, host: host.clone() })
    }

    /// A Corefile that answers from a list of names only.
    pub fn corefile<'a>(
        listen: SocketAddr,
        names: impl IntoIterator<Item = (IpAddr, &'a str)>,
    ) -> String {
        let lines: String = names
            .into_iter()
            .map(|(address, name)| format!("        {address} {name}\n"))
            .collect();
        let (port, ip) = (listen.port(), listen.ip());
        format!(
            ".:{port} {{\n    bind {ip}\n    hosts {{\n        ttl 1\n{lines}    }}\n    errors\n}}\n"
        )
    }

    /// Waits until it answers over UDP. With the kubernetes plugin, it has then read the API,
    /// unless that takes over 5 s.
    pub fn wait_ready(&mut self) -> Result<()> {
        let Self { process, listen, host } = self;
        process.wait_until(&format!("DNS on {listen} answers"), super::START, || {
            host.within(|| probe(*listen)).map(Some)
        })
    }
}

/// A Corefile of several zones on one address, as a hub's DNS has them:
///
/// ```text
/// Corefile::new(listen)
///     .kubernetes("cluster.local", &kubeconfig)
///     .forward("thanos.atlas", atlas)
///     .file("corp.example", "corp.zone")
///     .text()
/// ```
#[derive(Debug, Clone)]
pub struct Corefile {
    listen: SocketAddr,
    text: String,
}

impl Corefile {
    /// A Corefile without a zone, which refuses every query.
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, text: String::new() }
    }

    /// Adds the Services and Pods of a Kubernetes. The kubeconfig's user may list and watch them.
    /// The TTL is a second.
    pub fn kubernetes(self, zone: &str, kubeconfig: &Path) -> Self {
        self.zone(
            zone,
            &format!(
                "kubernetes {zone} {{\n        kubeconfig {}\n        ttl 1\n    }}",
                kubeconfig.display()
            ),
        )
    }

    /// Adds a zone file, relative to CoreDNS's own directory, which is read again every second.
    pub fn file(self, zone: &str, file: &str) -> Self {
        self.zone(zone, &format!("file {file} {{\n        reload 1s\n    }}"))
    }

    /// Forwards a zone to another server.
    pub fn forward(self, zone: &str, to: SocketAddr) -> Self {
        self.zone(zone, &format!("forward . {to}"))
    }

    /// Adds a zone with any plugins, as lines of a Corefile.
    pub fn zone(mut self, zone: &str, plugins: &str) -> Self {
        let (port, ip) = (self.listen.port(), self.listen.ip());
        self.text
            .push_str(&format!("{zone}:{port} {{\n    bind {ip}\n    errors\n    {plugins}\n}}\n"));
        self
    }

    /// The text for [`CoreDns::start`].
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn probe(server: SocketAddr) -> Result<()> {
    let any = if server.is_ipv4() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(server)?;
    socket.send(&PROBE)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    ensure!(length >= 12 && answer[..2] == PROBE[..2], "this is no answer to the question");
    Ok(())
}
