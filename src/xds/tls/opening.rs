//! What connections to the xDS port begin with that isn't TLS: said by name, since TLS itself would only call it an invalid message.
//!
//! Anybody who reaches port 10900 can send such things. So they are logged once a minute at most, and are a note in `atlas status`, not a
//! problem.

use std::sync::Mutex;

use atlas_core::ports;
use atlas_core::validate::{Finding, Severity};

use crate::process::lock::lock;

/// So many bytes tell.
const LOOKED_AT: usize = 16;
/// A kind is logged again after so many seconds.
const LOG_EVERY: i64 = 60;
/// `atlas status` tells of it for so many seconds.
const TOLD_FOR: i64 = 3600;

/// What isn't TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// The header of a load balancer that passes on who connects (PROXY protocol, version 1 or 2).
    Proxy,
    /// A request, by HTTP/1 or HTTP/2 without TLS.
    Http,
}

impl Opening {
    const ALL: [Self; 2] = [Self::Proxy, Self::Http];

    /// What a connection that begins like this begins with; `None`: TLS, or nobody knows.
    fn of(first: &[u8]) -> Option<Self> {
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
        if first.starts_with(PROXY_1) || first.starts_with(PROXY_2) {
            return Some(Self::Proxy);
        }
        METHODS.iter().any(|method| first.starts_with(method)).then_some(Self::Http)
    }

    /// Looks at what has come of a connection, which stays to be read.
    pub(super) async fn peek(tcp: &tokio::net::TcpStream) -> Option<Self> {
        let mut first = [0; LOOKED_AT];
        let length = tcp.peek(&mut first).await.ok()?;
        Self::of(&first[..length])
    }

    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Proxy => "a PROXY protocol header, not TLS",
            Self::Http => "an HTTP request without TLS",
        }
    }

    pub(super) fn fix(self) -> &'static str {
        match self {
            Self::Proxy => {
                "the load balancer in front of port 10900 has PROXY protocol switched on, which neither Atlas nor its Envoys speak: switch it \
                 off there, for 10903 and 11901 too"
            }
            Self::Http => {
                "only Envoys with a credential of Atlas's connect here; a load balancer's health check of port 10900 has to be a TCP check, and \
                 a proxy in front must pass TLS through"
            }
        }
    }
}

/// Who didn't speak TLS.
#[derive(Default)]
pub struct NotTls(Mutex<[Seen; Opening::ALL.len()]>);

#[derive(Clone, Copy, Default)]
struct Seen {
    connections: u64,
    last: i64,
    logged: Option<i64>,
    unlogged: u64,
}

impl NotTls {
    /// One more; says how many there are to be logged now.
    pub(super) fn count(&self, opening: Opening, now: i64) -> Option<u64> {
        let mut all = lock(&self.0);
        let seen = &mut all[opening as usize];
        seen.connections += 1;
        seen.last = now;
        seen.unlogged += 1;
        if seen.logged.is_some_and(|logged| (logged..logged + LOG_EVERY).contains(&now)) {
            return None;
        }
        seen.logged = Some(now);
        Some(std::mem::take(&mut seen.unlogged))
    }

    /// What `atlas status` says of it.
    pub fn notes(&self, now: i64) -> Vec<Finding> {
        let all = *lock(&self.0);
        let recent = Opening::ALL
            .into_iter()
            .zip(all)
            .filter(|(_, seen)| seen.connections > 0 && now - seen.last < TOLD_FOR);
        let note = |(opening, seen): (Opening, Seen)| Finding {
            severity: Severity::Note,
            object: format!("port {}", ports::HUB_XDS),
            place: String::new(),
            key: "TLS".into(),
            value: String::new(),
            problem: format!(
                "connections that began with {}: {}, the last one {} s ago",
                opening.what(),
                seen.connections,
                now - seen.last
            ),
            fix: opening.fix().into(),
        };
        recent.map(note).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_tls_is_known_by_its_first_bytes() {
        for (first, expected) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".as_slice(), Some(Opening::Proxy)),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", Some(Opening::Proxy)),
            (b"GET / HTTP/1.0\r\n\r\n", Some(Opening::Http)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Opening::Http)),
            (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", None),
            (b"P", None),
            (b"", None),
        ] {
            assert_eq!(Opening::of(&first[..first.len().min(LOOKED_AT)]), expected, "{first:?}");
        }
    }

    #[test]
    fn a_flood_is_logged_once_a_minute_and_told_for_an_hour() {
        let not_tls = NotTls::default();
        assert_eq!(not_tls.count(Opening::Proxy, 1000), Some(1));
        for second in 1000..1060 {
            assert_eq!(not_tls.count(Opening::Proxy, second), None);
        }
        assert_eq!(not_tls.count(Opening::Http, 1030), Some(1));
        assert_eq!(not_tls.count(Opening::Proxy, 1060), Some(61));
        let notes = not_tls.notes(1061);
        assert!(
            notes[0].problem.starts_with("connections that began with a PROXY protocol header, not TLS: 62, the last one 1 s ago"),
            "{notes:?}"
        );
        assert!(
            notes.len() == 2 && notes.iter().all(|note| note.severity == Severity::Note),
            "{notes:?}"
        );
        assert_eq!(not_tls.notes(1060 + TOLD_FOR), []);
        // A clock that is set back silences nobody.
        assert!(not_tls.count(Opening::Proxy, 10).is_some());
    }
}
