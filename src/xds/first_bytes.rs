//! Recognises clients of the xDS port that don't speak TLS by their first bytes. TLS itself would
//! only report an invalid message.
//!
//! Anybody who reaches port 10900 can send such bytes. So they are logged once a minute at most,
//! and `atlas status` shows them as a note, not as a problem.

use std::sync::Mutex;

use atlas_core::ports;
use atlas_core::validate::{Finding, Severity};
use tokio::net::TcpStream;

use crate::process::lock::lock;

/// How many bytes are looked at.
const PEEKED_BYTES: usize = 16;
/// Seconds until the same kind of client is logged again.
const LOG_INTERVAL: i64 = 60;
/// Seconds for which `atlas status` shows a note after the last such client.
const SHOWN_FOR: i64 = 3600;

/// A protocol that isn't TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plaintext {
    /// The PROXY protocol, version 1 or 2: the header in which a load balancer passes on the
    /// client's address.
    Proxy,
    /// HTTP/1 or HTTP/2 without TLS.
    Http,
}

impl Plaintext {
    const ALL: [Self; 2] = [Self::Proxy, Self::Http];

    /// The protocol of these first bytes; `None` for TLS and for everything unknown.
    fn of(first_bytes: &[u8]) -> Option<Self> {
        const PROXY_1: &[u8] = b"PROXY ";
        const PROXY_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
        const METHODS: [&[u8]; 8] = [
            b"GET ",
            b"HEAD ",
            b"POST ",
            b"PUT ",
            b"DELETE ",
            b"OPTIONS ",
            b"CONNECT ",
            b"PRI * HTTP/2.0",
        ];
        if first_bytes.starts_with(PROXY_1) || first_bytes.starts_with(PROXY_2) {
            return Some(Self::Proxy);
        }
        METHODS.iter().any(|method| first_bytes.starts_with(method)).then_some(Self::Http)
    }

    /// Waits for a connection's first bytes and looks at them. They stay to be read.
    pub async fn peek(tcp: &TcpStream) -> Option<Self> {
        let mut first_bytes = [0; PEEKED_BYTES];
        let length = tcp.peek(&mut first_bytes).await.ok()?;
        Self::of(&first_bytes[..length])
    }

    /// What the client sent, for people.
    pub fn description(self) -> &'static str {
        match self {
            Self::Proxy => "a PROXY protocol header, not TLS",
            Self::Http => "an HTTP request without TLS",
        }
    }

    /// What people can do about it.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Proxy => {
                "the load balancer in front of port 10900 has PROXY protocol switched on, which \
                 neither Atlas nor its Envoys speak: switch it off there, for 10903 and 11901 too"
            }
            Self::Http => {
                "only Envoys with a credential of Atlas's connect here; a load balancer's health \
                 check of port 10900 has to be a TCP check, and a proxy in front must pass TLS \
                 through"
            }
        }
    }
}

/// Counts clients that didn't speak TLS, by protocol.
#[derive(Default)]
pub struct PlaintextClients(Mutex<[Counter; Plaintext::ALL.len()]>);

#[derive(Clone, Copy, Default)]
struct Counter {
    connections: u64,
    last_seen: i64,
    last_logged: Option<i64>,
    not_logged: u64,
}

impl PlaintextClients {
    /// Counts a client. Returns the number of clients to log now, if it is time to log.
    pub fn record(&self, protocol: Plaintext, now: i64) -> Option<u64> {
        let mut counters = lock(&self.0);
        let counter = &mut counters[protocol as usize];
        counter.connections += 1;
        counter.last_seen = now;
        counter.not_logged += 1;
        // A clock that has been set back is outside of this range, so it delays no log line.
        let logged_lately =
            |logged: i64| (logged..logged.saturating_add(LOG_INTERVAL)).contains(&now);
        if counter.last_logged.is_some_and(logged_lately) {
            return None;
        }
        counter.last_logged = Some(now);
        Some(std::mem::take(&mut counter.not_logged))
    }

    /// The notes for `atlas status`.
    pub fn notes(&self, now: i64) -> Vec<Finding> {
        let counters = *lock(&self.0);
        let mut notes = Vec::new();
        for (protocol, counter) in Plaintext::ALL.into_iter().zip(counters) {
            if counter.connections > 0 && now - counter.last_seen < SHOWN_FOR {
                notes.push(note(protocol, &counter, now));
            }
        }
        notes
    }
}

fn note(protocol: Plaintext, counter: &Counter, now: i64) -> Finding {
    Finding {
        severity: Severity::Note,
        object: format!("port {}", ports::HUB_XDS),
        place: String::new(),
        key: "TLS".into(),
        value: String::new(),
        problem: format!(
            "connections that began with {}: {}, the last one {} s ago",
            protocol.description(),
            counter.connections,
            now - counter.last_seen
        ),
        fix: protocol.fix().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_protocols_are_recognised_by_their_first_bytes() {
        for (first_bytes, expected) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".as_slice(), Some(Plaintext::Proxy)),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", Some(Plaintext::Proxy)),
            (b"GET / HTTP/1.0\r\n\r\n", Some(Plaintext::Http)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Plaintext::Http)),
            (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", None),
            (b"P", None),
            (b"", None),
        ] {
            let peeked = &first_bytes[..first_bytes.len().min(PEEKED_BYTES)];
            assert_eq!(Plaintext::of(peeked), expected, "{first_bytes:?}");
        }
    }

    #[test]
    fn plaintext_clients_are_logged_once_a_minute_and_shown_for_an_hour() {
        let clients = PlaintextClients::default();
        assert_eq!(clients.record(Plaintext::Proxy, 1000), Some(1));
        for second in 1000..1060 {
            assert_eq!(clients.record(Plaintext::Proxy, second), None);
        }
        assert_eq!(clients.record(Plaintext::Http, 1030), Some(1));
        assert_eq!(clients.record(Plaintext::Proxy, 1060), Some(61));
        let notes = clients.notes(1061);
        assert!(
            notes[0].problem.starts_with(
                "connections that began with a PROXY protocol header, not TLS: 62, \
                 the last one 1 s ago"
            ),
            "{notes:?}"
        );
        assert!(
            notes.len() == 2 && notes.iter().all(|note| note.severity == Severity::Note),
            "{notes:?}"
        );
        assert_eq!(clients.notes(1060 + SHOWN_FOR), []);
        assert!(clients.record(Plaintext::Proxy, 10).is_some(), "the clock was set back");
    }
}
