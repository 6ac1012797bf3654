//! The DNS zone by which Thanos Query finds the stores (`--endpoint=dnssrvnoa+_thanos._tcp.sidecars.thanos.<zone>`), and by
//! which the names in [`super::endpoints`] get addresses.
//!
//! ```text
//! _thanos._tcp.sidecars.thanos.atlas.           SRV  10901 tokyo-thanos-sidecar0.sidecars.thanos.atlas.
//! _grpc._tcp.sidecars.thanos.atlas.             SRV  the same, by the name of the port on the cluster's Service
//! tokyo-thanos-sidecar0.sidecars.thanos.atlas.  A    the hub's Envoys
//! ```
//!
//! In Kubernetes the targets are Services, of which the cluster's own DNS knows the addresses.
//!
//! Plain data, so that a file for CoreDNS and an embedded server are made from the same; both are edges.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sha2::{Digest, Sha256};

use super::endpoints::store_name;
use crate::model::{Cluster, Fleet, Settings, StoreNames};
use crate::ports;

/// How long an answer may be kept, also that there is none, in seconds: Thanos Query asks again after 30 (`--store.sd-dns-interval`).
pub const TTL: u32 = 30;
/// When a secondary server asks, asks again, and gives up, in seconds (RFC 1035 §3.3.13): that of a BIND that serves the file. Atlas itself
/// lets nobody transfer the zone.
const REFRESH: u32 = 7200;
const RETRY: u32 = 1800;
const EXPIRE: u32 = 86_400;

/// The service of every store's SRV record. Each has another after its cluster's [`crate::model::Cluster::store_port_name`],
/// as in Atlas 0.3.
const SERVICE: &str = "thanos";
/// Priority and weight of all SRV records, as in 0.3: Thanos Query asks every store anyway.
const PRIORITY: u16 = 10;
const WEIGHT: u16 = 100;

/// A DNS zone. All names are absolute, with a dot at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// What the zone is called.
    pub origin: String,
    /// The serial number, see [`serial_after`].
    pub serial: u32,
    /// Everything but the SOA record: the zone's own, then cluster by cluster. The TTL of all is [`TTL`].
    pub records: Vec<DnsRecord>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DnsRecord {
    /// Whose it is.
    pub name: String,
    /// What it says.
    pub data: RecordData,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordData {
    /// The zone's name server.
    Ns(String),
    /// Where a service is (RFC 2782).
    Srv {
        /// The least is tried first.
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

/// The zone's own record (RFC 1035 §3.3.13), times in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Soa {
    /// The name server, as in the NS record.
    pub name_server: String,
    /// A mail address with a dot for its `@`.
    pub contact: String,
    /// [`Zone::serial`].
    pub serial: u32,
    /// Until a secondary asks.
    pub refresh: u32,
    /// Until it asks again.
    pub retry: u32,
    /// Until it gives up.
    pub expire: u32,
    /// How long it may be remembered that a name isn't there (RFC 2308).
    pub minimum: u32,
}

/// The zone of a fleet: the same stores as in [`super::endpoints::endpoints`].
pub fn zone(fleet: &Fleet, serial: u32) -> Zone {
    let settings = &fleet.settings;
    let records = of_zone(settings)
        .into_iter()
        .chain(fleet.clusters.values().flat_map(|cluster| of_cluster(settings, cluster)));
    Zone { serial, origin: origin(settings), records: records.collect() }
}

/// What a cluster adds to the zone, in order of names; nothing where it awaits its address.
pub(super) fn of_cluster(settings: &Settings, cluster: &Cluster) -> Vec<DnsRecord> {
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

/// The serial number of a zone that comes after the one with the number `before`, at `now` (seconds since 1970).
///
/// It never falls, whatever was there before and whatever the clock says, so secondaries follow (RFC 1982): it is the time, or one more
/// than before where that isn't later. So it needn't be known for it to rise, which is how it survives the loss of everything.
pub fn serial_after(before: Option<u32>, now: i64) -> u32 {
    let now = u32::try_from(now.rem_euclid(1 << 32)).unwrap_or_default().max(1);
    match before {
        Some(before) if !is_later(now, before) => before.wrapping_add(1).max(1),
        _ => now,
    }
}

/// Whether a serial number comes after another (RFC 1982 §3.2).
pub fn is_later(serial: u32, than: u32) -> bool {
    (1..1 << 31).contains(&serial.wrapping_sub(than))
}

/// The serial number in a zone's file that [`file`] made.
pub fn serial_in(file: &str) -> Option<u32> {
    let (_, soa) = file.lines().take(5).find_map(|line| line.split_once(" IN SOA "))?;
    soa.split(' ').nth(2)?.parse().ok()
}

/// What is known of a zone's file that was written: enough to tell whether another one says something else, and to follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneFileVersion {
    /// Its serial number.
    pub serial: u32,
    /// Of all of it.
    hash: u64,
}

impl ZoneFileVersion {
    /// `None` for what Atlas hasn't written.
    pub fn of(file: &str) -> Option<Self> {
        Some(Self { serial: serial_in(file)?, hash: hash(file) })
    }

    /// The one of two that came later.
    pub fn latest(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) if is_later(other.serial, one.serial) => Some(other),
            (one, other) => one.or(other),
        }
    }

    /// The file that comes after this one at `now`: the same where `file` gives nothing else but for the serial number that it is given.
    pub fn next_file(before: Option<Self>, now: i64, file: impl Fn(u32) -> String) -> String {
        let same = before.map(|before| (before, file(before.serial)));
        match same {
            Some((before, same)) if hash(&same) == before.hash => same,
            _ => file(serial_after(before.map(|before| before.serial), now)),
        }
    }
}

/// The master file (RFC 1035 §5), given the text of each cluster's records, which are about `length` long together.
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
    of_zone(settings).iter().for_each(|record| text.push_str(&format!("{record}\n")));
    pieces.for_each(|piece| text.push_str(piece));
    text
}

fn origin(settings: &Settings) -> String {
    format!("{}.", settings.dns_zone)
}

/// The zone's own records beside the SOA. BIND loads none whose name server has no address: it is where stores are, or, where the
/// zone has no addresses, whoever serves it.
fn of_zone(settings: &Settings) -> Vec<DnsRecord> {
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
    /// The zone's own record.
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
