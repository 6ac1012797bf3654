//! HTTP/1.1 requests to the programs under test: without TLS, or to a server with a certificate of
//! the lab.
//!
//! Every request without TLS opens a connection of its own. The same address is another program in
//! another network namespace, so a pooled connection could reach the wrong one. Redirects are not
//! followed and no status is an error, since tests check both. Proxies from the environment are
//! ignored, so that all traffic stays in the world.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use ureq::config::ConfigBuilder;
use ureq::http;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;

/// Time limit of a whole request, unless the caller gives another.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest body that is read, in bytes: more than any page or metrics of the parts.
const MAX_BODY: u64 = 64 * 1024 * 1024;

/// A whole answer, with any status.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code, 100 to 599.
    pub status: u16,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// The body, decoded by its transfer encoding.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name, which is compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text, invalid UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; an error quotes its beginning.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("this is not the expected JSON: {}", self.beginning()))
    }

    /// The answer itself if its status is in 200 to 299, otherwise an error that quotes the body's
    /// beginning.
    pub fn ok(self) -> Result<Self> {
        ensure!((200..300).contains(&self.status), "status {}: {}", self.status, self.beginning());
        Ok(self)
    }

    fn beginning(&self) -> String {
        self.text().chars().take(400).collect()
    }
}

/// A request with a method, headers or a body.
#[derive(Debug, Clone)]
pub struct Request {
    method: http::Method,
    url: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    timeout: Duration,
}

impl Request {
    /// A request with any method, such as `PUT`.
    pub fn new(method: &str, url: impl Into<String>) -> Result<Self> {
        let method = method.parse().with_context(|| format!("{method:?} is not an HTTP method"))?;
        Ok(Self { method, url: url.into(), headers: Vec::new(), body: None, timeout: TIMEOUT })
    }

    /// Adds a header; `host` replaces the URL's authority.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sets the time limit from connecting to the body's last byte.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends it and reads the whole answer. Errors are those of the connection (refused, timed out,
    /// broken), never a status.
    pub fn send(self) -> Result<Response> {
        self.send_by(&agent())
    }

    /// [`Request::send`] with an agent of the caller's, which pools connections.
    pub(crate) fn send_by(self, agent: &ureq::Agent) -> Result<Response> {
        let what = format!("{} {}", self.method, self.url);
        self.exchange(agent).with_context(|| what)
    }

    fn exchange(self, agent: &ureq::Agent) -> Result<Response> {
        let timeout = Some(self.timeout);
        let mut builder = http::Request::builder().method(self.method).uri(self.url);
        for (name, value) in self.headers {
            builder = builder.header(name, value);
        }
        let mut answer = match self.body {
            Some(body) => agent.run(
                agent.configure_request(builder.body(body)?).timeout_global(timeout).build(),
            )?,
            None => agent
                .run(agent.configure_request(builder.body(())?).timeout_global(timeout).build())?,
        };
        let headers = answer
            .headers()
            .iter()
            .map(|(name, value)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect();
        let body = answer.body_mut().with_config().limit(MAX_BODY).read_to_vec()?;
        Ok(Response { status: answer.status().as_u16(), headers, body })
    }
}

/// `GET url` within [`TIMEOUT`].
pub fn get(url: &str) -> Result<Response> {
    get_within(TIMEOUT, url)
}

/// `GET url` within a time of the caller's choice.
pub fn get_within(timeout: Duration, url: &str) -> Result<Response> {
    Request::new("GET", url)?.timeout(timeout).send()
}

/// `GET url`, a 2xx status and a JSON body.
pub fn get_json<T: DeserializeOwned>(url: &str) -> Result<T> {
    get(url)?.ok().and_then(|answer| answer.json()).with_context(|| format!("GET {url}"))
}

/// `POST url` with a JSON body; the answer may have any status.
pub fn post_json(url: &str, body: &impl serde::Serialize) -> Result<Response> {
    Request::new("POST", url)?
        .header("content-type", "application/json")
        .body(serde_json::to_vec(body)?)
        .send()
}

/// An agent for HTTP that pools no connections.
fn agent() -> ureq::Agent {
    config().max_idle_connections(0).build().into()
}

/// An agent for a server whose certificate the authority `ca` (PEM) has issued. It pools
/// connections, so it must be used from one host and by one user only.
pub(crate) fn agent_trusting(ca: &str) -> Result<ureq::Agent> {
    let root = Certificate::from_pem(ca.as_bytes()).context("the certificate of the authority")?;
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&[root]))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Ok(config().https_only(true).tls_config(tls).build().into())
}

fn config() -> ConfigBuilder<AgentScope> {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn the_host_can_be_chosen_and_a_redirect_is_an_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/prom", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            let answer =
                b"HTTP/1.1 302 Found\r\nLocation: /prom/graph\r\nContent-Length: 4\r\n\r\nover";
            stream.write_all(answer).unwrap();
            String::from_utf8_lossy(&request[..length]).to_ascii_lowercase()
        });
        let answer =
            Request::new("GET", url).unwrap().header("host", "hub.example").send().unwrap();
        assert_eq!(
            (answer.status, answer.header("LOCATION"), answer.text().as_str()),
            (302, Some("/prom/graph"), "over")
        );
        assert!(answer.ok().is_err());
        let request = server.join().unwrap();
        assert_eq!(request.matches("host:").count(), 1, "{request}");
        assert!(request.contains("host: hub.example"), "{request}");
    }

    #[test]
    fn an_answer_that_does_not_come_is_an_error_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let error = get_within(Duration::from_millis(200), &url).unwrap_err();
        assert!(format!("{error:#}").contains("timeout"), "{error:#}");
    }
}
