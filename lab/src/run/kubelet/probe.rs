//! The readiness probe of a container.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::http;

/// How long a probe may take: `timeoutSeconds` is 1 unless a chart says otherwise.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The readiness probe of a Pod.
#[derive(Debug)]
pub enum Probe {
    /// No probe: it is ready as soon as it runs.
    None,
    /// `GET` with a status from 200 to 399.
    Http(String),
    /// A connection.
    Tcp(SocketAddr),
}

impl Probe {
    /// The container's probe, by HTTP or TCP; others are an error.
    pub fn of(container: &Value, ip: IpAddr) -> Result<Self> {
        let probe = &container["readinessProbe"];
        let address =
            |action: &Value| anyhow::Ok(SocketAddr::new(ip, port(container, &action["port"])?));
        if probe.is_null() {
            return Ok(Self::None);
        }
        match (&probe["httpGet"], &probe["tcpSocket"]) {
            (Value::Null, Value::Null) => {
                bail!("this imitation of a kubelet knows no such readiness probe: {probe}")
            }
            (Value::Null, tcp) => Ok(Self::Tcp(address(tcp)?)),
            // Kubelets don't verify the certificate; this probe only connects.
            (http, _) if http["scheme"] == "HTTPS" => Ok(Self::Tcp(address(http)?)),
            (http, _) => Ok(Self::Http(format!(
                "http://{}{}",
                address(http)?,
                http["path"].as_str().unwrap_or("/")
            ))),
        }
    }

    /// Probes once, in the network namespace of the calling thread.
    pub fn succeeds(&self) -> bool {
        match self {
            Self::None => true,
            Self::Http(url) => http::get_within(TIMEOUT, url)
                .is_ok_and(|answer| (200..400).contains(&answer.status)),
            Self::Tcp(address) => TcpStream::connect_timeout(address, TIMEOUT).is_ok(),
        }
    }
}

/// A port by number, or by the name that the container gives it.
fn port(container: &Value, port: &Value) -> Result<u16> {
    let named = |name: &str| {
        container["ports"].as_array()?.iter().find(|port| port["name"] == name)?["containerPort"]
            .as_u64()
    };
    let number = port.as_u64().or_else(|| named(port.as_str()?));
    number
        .and_then(|number| number.try_into().ok())
        .with_context(|| format!("the readiness probe's port {port} is none of the container's"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_may_have_a_name() {
        let container = |probe: Value| json!({"ports": [{"name": "health", "containerPort": 6309}], "readinessProbe": probe});
        let of = |probe: Value| Probe::of(&container(probe), [10, 91, 1, 1].into());
        let probe = of(json!({"httpGet": {"path": "/readyz", "port": "health"}})).unwrap();
        assert!(
            matches!(&probe, Probe::Http(url) if url == "http://10.91.1.1:6309/readyz"),
            "{probe:?}"
        );
        assert!(
            matches!(of(json!({"tcpSocket": {"port": 9}})).unwrap(), Probe::Tcp(address) if address.port() == 9)
        );
        assert!(
            of(json!({"httpGet": {"port": "web"}})).unwrap_err().to_string().contains("\"web\"")
        );
        assert!(of(json!({"exec": {"command": ["true"]}})).is_err());
    }
}
