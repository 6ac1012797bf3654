//! The DNS zone with the stores. Thanos Query can find them by it
//! (`--endpoint=dnssrvnoa+_thanos._tcp.sidecars.thanos.<zone>`), and it has the addresses for the
//! names in [`super::endpoints`].
//!
//! ```text
//! _thanos._tcp.sidecars.thanos.atlas.           SRV  10901 tokyo-thanos-sidecar0.sidecars.thanos.atlas.
//! _grpc._tcp.sidecars.thanos.atlas.             SRV  the same, by the name of the port on the cluster's Service
//! tokyo-thanos-sidecar0.sidecars.thanos.atlas.  A    the hub's Envoys
//! ```
//!
//! In Kubernetes the targets are Services, whose addresses the hub's cluster DNS has.
//!
//! The zone is plain data, from which both the file for CoreDNS and Atlas's DNS server are made.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sha2::{Digest, Sha256};

use super::endpoints::store_name;
use crate::model::{Cluster, Fleet, Settings, StoreNames};
use crate::ports;

/// How long resolvers may keep an answer, also a negative one, in seconds. Thanos Query asks every
/// 30 s (`--store.sd-dns-interval`).
pub const TTL: u32 = 30;
/// When a secondary server asks, asks again and gives up, in seconds (RFC 1035 §3.3.13). They
/// matter for a server such as BIND that serves the file; Atlas's own refuses zone transfers.
const REFRESH: u32 = 7200;
const RETRY: u32 = 1800;
const EXPIRE: u32 = 86_400;

/// The service name of an SRV record that every store has. A second record has its cluster's
/// [`crate::model::Cluster::store_port_name`], as in Atlas 0.3.
const SERVICE: &str = "thanos";
/// Priority and weight of all SRV records, as in Atlas 0.3. Thanos Query asks every store anyway.
const PRIORITY: u16 = 10;
const WEIGHT: u16 = 100;

/// A DNS zone. All names are absolute, with a dot at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// The zone's name.
    pub origin: String,
    /// The serial number, see [`serial_after`].
    pub serial: u32,
    /// All records but the SOA: the zone's own, then those of each cluster. Their TTL is [`TTL`].
    pub records: Vec<DnsRecord>,
}

/// A resource record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DnsRecord {
    /// The name that it belongs to.
    pub name: String,
    /// Its type and content.
    pub data: RecordData,
}

/// The type and content of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordData {
    /// The zone's name server.
    Ns(String),
    /// The address of a service (RFC 2782).
    Srv {
        /// Clients try the lowest first.
        priority: u16,
        /// Share among equal priorities.
        weight: u16,
        /// TCP port.
        port: u16,
        /// A name with address records.
        target: String,
    },
    /// IPv4.
    A(Ipv4Addr),
    /// IPv6.
    Aaaa(Ipv6Addr),
}

/// The content of the SOA record (RFC 1035 §3.3.13), times in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Soa {
    /// The name server, as in the NS record.
    pub name_server: String,
    /// A mail address, with a dot in place of `@`.
    pub contact: String,
    /// [`Zone::serial`].
    pub serial: u32,
    /// After which a secondary server asks for changes.
    pub refresh: u32,
    /// After which it asks again, if it got no answer.
    pub retry: u32,
    /// After which it stops answering, if it got none.
    pub expire: u32,
    /// How long resolvers may keep the answer that a name doesn't exist (RFC 2308).
    pub minimum: u32,
}

/// The zone of a fleet: the same stores as in [`super::endpoints::endpoints`].
pub fn zone(fleet: &Fleet, serial: u32) -> Zone {
    let settings = &fleet.settings;
    let records = zone_records(settings)
        .into_iter()
        .chain(fleet.clusters.values().flat_map(|cluster| cluster_records(settings, cluster)));
    Zone { serial, origin: origin(settings), records: records.collect() }
}

/// The records of a cluster, by name; none while it awaits its address.
pub(super) fn cluster_records(settings: &Settings, cluster: &Cluster) -> Vec<DnsRecord> {
    let origin = origin(settings);
    let mut records = Vec::new();
    for store in if cluster.addresses.is_empty() { &[] } else { cluster.stores.as_slice() } {
        let name = store_name(&cluster.name.store(store.index), settings) + ".";
        records.extend(
            [SERVICE, &cluster.store_port_name].map(|service| srv(service, &name, &origin)),
        );
        if settings.store_names == StoreNames::Zone {
            records.extend(settings.hub_stores.iter().map(|ip| address(&name, *ip)));
        }
    }
    records.sort();
    records.dedup();
    records
}

/// The serial number after `before`, at `now` (seconds since 1970): the time, or `before` + 1 if
/// the time isn't later.
///
/// So it never falls, whatever the clock shows, and secondary servers follow (RFC 1982). It usually
/// rises even if the number before was lost.
pub fn serial_after(before: Option<u32>, now: i64) -> u32 {
    let now = u32::try_from(now.rem_euclid(1 << 32)).unwrap_or_default().max(1);
    match before {
        Some(before) if !is_later(now, before) => before.wrapping_add(1).max(1),
        _ => now,
    }
}

/// Whether a serial number is later than another (RFC 1982 §3.2).
pub fn is_later(serial: u32, than: u32) -> bool {
    (1..1 << 31).contains(&serial.wrapping_sub(than))
}

/// The serial number in a zone file that Atlas wrote.
pub fn serial_in(file: &str) -> Option<u32> {
    let (_, soa) = file.lines().take(5).find_map(|line| line.split_once(" IN SOA "))?;
    soa.split(' ').nth(2)?.parse().ok()
}

/// The serial number and the hash of a zone file that was written: enough to compare another file
/// with it, and to number the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneFileVersion {
    /// Its serial number.
    pub serial: u32,
    /// Of the whole file.
    hash: u64,
}

impl ZoneFileVersion {
    /// `None` for a file that Atlas hasn't written.
    pub fn of(file: &str) -> Option<Self> {
        Some(Self { serial: serial_in(file)?, hash: hash(file) })
    }

    /// The later one of two.
    pub fn latest(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) if is_later(other.serial, one.serial) => Some(other),
            (one, other) => one.or(other),
        }
    }

    /// The file after `before`, at `now`. `file` makes it for a serial number. If it differs from
    /// `before` by nothing else, the serial number stays.
    pub fn next_file(before: Option<Self>, now: i64, file: impl Fn(u32) -> String) -> String {
        let same = before.map(|before| (before, file(before.serial)));
        match same {
            Some((before, same)) if hash(&same) == before.hash => same,
            _ => file(serial_after(before.map(|before| before.serial), now)),
        }
    }
}

/// The master file (RFC 1035 §5) from the text of each cluster's records. `length` is their
/// approximate length in bytes.
pub(super) fn file<'a>(
    settings: &Settings,
    serial: u32,
    length: usize,
    pieces: impl Iterator<Item = &'a str>,
) -> String {
    let zone = Zone { origin: origin(settings), serial, records: Vec::new() };
    let mut text = String::with_capacity(length + 512);
    text.push_str(&format!(
        "; Written by Atlas: the stores of all clusters, for Thanos Query.\n$TTL {TTL}\n{} IN SOA {}\n",
        zone.origin,
        zone.soa(),
    ));
    for record in zone_records(settings) {
        text.push_str(&format!("{record}\n"));
    }
    for piece in pieces {
        text.push_str(piece);
    }
    text
}

fn origin(settings: &Settings) -> String {
    format!("{}.", settings.dns_zone)
}

/// The zone's own records besides the SOA. BIND refuses a zone whose name server has no address, so
/// it has those of the stores, or 127.0.0.1 if there are none.
fn zone_records(settings: &Settings) -> Vec<DnsRecord> {
    let origin = origin(settings);
    let name = name_server(&origin);
    let mut ips = settings.hub_stores.clone();
    if ips.is_empty() {
        ips.push(Ipv4Addr::LOCALHOST.into());
    }
    let mut records = vec![DnsRecord { data: RecordData::Ns(name.clone()), name: origin }];
    records.extend(ips.into_iter().map(|ip| address(&name, ip)));
    records.sort();
    records.dedup();
    records
}

fn name_server(origin: &str) -> String {
    format!("ns.dns.{origin}")
}

fn srv(service: &str, target: &str, origin: &str) -> DnsRecord {
    let data = RecordData::Srv {
        priority: PRIORITY,
        weight: WEIGHT,
        port: ports::HUB_STORES,
        target: target.to_owned(),
    };
    DnsRecord { name: format!("_{service}._tcp.sidecars.thanos.{origin}"), data }
}

fn address(name: &str, ip: IpAddr) -> DnsRecord {
    let data = match ip {
        IpAddr::V4(ip) => RecordData::A(ip),
        IpAddr::V6(ip) => RecordData::Aaaa(ip),
    };
    DnsRecord { name: name.to_owned(), data }
}

pub(super) fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text);
    digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

impl Zone {
    /// The content of its SOA record.
    pub fn soa(&self) -> Soa {
        Soa {
            name_server: name_server(&self.origin),
            contact: format!("hostmaster.{}", self.origin),
            serial: self.serial,
            refresh: REFRESH,
            retry: RETRY,
            expire: EXPIRE,
            minimum: TTL,
        }
    }
}

impl fmt::Display for DnsRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} IN {}", self.name, self.data)
    }
}

impl fmt::Display for RecordData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordData::Ns(name) => write!(f, "NS {name}"),
            RecordData::Srv { priority, weight, port, target } => {
                write!(f, "SRV {priority} {weight} {port} {target}")
            }
            RecordData::A(ip) => write!(f, "A {ip}"),
            RecordData::Aaaa(ip) => write!(f, "AAAA {ip}"),
        }
    }
}

impl fmt::Display for Soa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Soa { name_server, contact, serial, refresh, retry, expire, minimum } = self;
        write!(f, "{name_server} {contact} {serial} {refresh} {retry} {expire} {minimum}")
    }
}

#[cfg(test)]
mod tests;
