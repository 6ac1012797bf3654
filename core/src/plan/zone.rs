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
use crate::keys::port;
use crate::model::{Cluster, Fleet, Settings, StoreNames};

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
    pub records: Vec<Record>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Whose it is.
    pub name: String,
    /// What it says.
    pub data: Data,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
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
    let records = of_zone(settings).into_iter().chain(fleet.clusters.values().flat_map(|cluster| of_cluster(settings, cluster)));
    Zone { serial, origin: origin(settings), records: records.collect() }
}

/// What a cluster adds to the zone, in order of names; nothing where it awaits its address.
pub(super) fn of_cluster(settings: &Settings, cluster: &Cluster) -> Vec<Record> {
    let origin = origin(settings);
    let mut records = Vec::new();
    for store in if cluster.addresses.is_empty() { &[] } else { cluster.stores.as_slice() } {
        let name = store_name(&cluster.name.store(store.index), settings) + ".";
        records.extend([SERVICE, &cluster.store_port_name].map(|service| srv(service, &name, &origin)));
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
pub struct Written {
    /// Its serial number.
    pub serial: u32,
    /// Of all of it.
    hash: u64,
}

impl Written {
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
    pub fn next(before: Option<Self>, now: i64, file: impl Fn(u32) -> String) -> String {
        let same = before.map(|before| (before, file(before.serial)));
        match same {
            Some((before, same)) if hash(&same) == before.hash => same,
            _ => file(serial_after(before.map(|before| before.serial), now)),
        }
    }
}

/// The master file (RFC 1035 §5), given the text of each cluster's records, which are about `length` long together.
pub(super) fn file<'a>(settings: &Settings, serial: u32, length: usize, pieces: impl Iterator<Item = &'a str>) -> String {
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
fn of_zone(settings: &Settings) -> Vec<Record> {
    let origin = origin(settings);
    let name = name_server(&origin);
    let mut ips = settings.hub_stores.clone();
    if ips.is_empty() {
        ips.push(Ipv4Addr::LOCALHOST.into());
    }
    let mut records = vec![Record { data: Data::Ns(name.clone()), name: origin }];
    records.extend(ips.into_iter().map(|ip| address(&name, ip)));
    records.sort();
    records.dedup();
    records
}

fn name_server(origin: &str) -> String {
    format!("ns.dns.{origin}")
}

fn srv(service: &str, target: &str, origin: &str) -> Record {
    let data = Data::Srv { priority: PRIORITY, weight: WEIGHT, port: port::HUB_STORES, target: target.to_owned() };
    Record { name: format!("_{service}._tcp.sidecars.thanos.{origin}"), data }
}

fn address(name: &str, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => Data::A(ip),
        IpAddr::V6(ip) => Data::Aaaa(ip),
    };
    Record { name: name.to_owned(), data }
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

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} IN {}", self.name, self.data)
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::Ns(name) => write!(f, "NS {name}"),
            Data::Srv { priority, weight, port, target } => write!(f, "SRV {priority} {weight} {port} {target}"),
            Data::A(ip) => write!(f, "A {ip}"),
            Data::Aaaa(ip) => write!(f, "AAAA {ip}"),
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
mod tests {
    use super::*;
    use crate::fact::{Fact, Service};
    use crate::intake::intake;
    use crate::keys;
    use crate::model::Settings;
    use crate::plan::endpoints::endpoints;
    use crate::plan::stores::Stores;
    use proptest::prelude::*;

    fn fleet(names: &[String], hub_stores: &[&str]) -> Fleet {
        let service = |name: &String| {
            let mut service = Service::default();
            service.meta.name = name.clone();
            service.meta.labels.insert(keys::CLUSTER.into(), "true".into());
            service.meta.labels.insert(keys::REPLICAS.into(), "2".into());
            // Every other cluster awaits its address.
            service.external_ips = if name.len() % 2 == 1 { vec!["10.0.0.1".into()] } else { Vec::new() };
            Fact::Service(service)
        };
        let hub_stores = hub_stores.iter().map(|ip| ip.parse().unwrap()).collect();
        let settings = Settings { hub_stores, ..Settings::default() };
        intake(&settings, &names.iter().map(service).collect::<Vec<_>>(), None).fleet
    }

    fn targets(zone: &Zone, owner: &str) -> Vec<String> {
        let of = |record: &Record| match &record.data {
            Data::Srv { target, .. } if record.name == owner => Some(target.clone()),
            _ => None,
        };
        zone.records.iter().filter_map(of).collect()
    }

    #[test]
    fn a_store_has_services_and_addresses() {
        let fleet = fleet(&["tokyo".into()], &["10.1.0.11", "10.1.0.10", "fd00::10", "10.1.0.10"]);
        let file = Stores::of(&fleet).zone_file(&fleet.settings, 7);
        let rest: Vec<&str> = file.lines().skip(3).collect();
        assert!(file.lines().nth(2).unwrap().starts_with("atlas. IN SOA ns.dns.atlas. hostmaster.atlas. "), "{file}");
        let expected = "\
            atlas. IN NS ns.dns.atlas.\n\
            ns.dns.atlas. IN A 10.1.0.10\n\
            ns.dns.atlas. IN A 10.1.0.11\n\
            ns.dns.atlas. IN AAAA fd00::10\n\
            _grpc._tcp.sidecars.thanos.atlas. IN SRV 10 100 10901 tokyo-thanos-sidecar0.sidecars.thanos.atlas.\n\
            _grpc._tcp.sidecars.thanos.atlas. IN SRV 10 100 10901 tokyo-thanos-sidecar1.sidecars.thanos.atlas.\n\
            _thanos._tcp.sidecars.thanos.atlas. IN SRV 10 100 10901 tokyo-thanos-sidecar0.sidecars.thanos.atlas.\n\
            _thanos._tcp.sidecars.thanos.atlas. IN SRV 10 100 10901 tokyo-thanos-sidecar1.sidecars.thanos.atlas.\n\
            tokyo-thanos-sidecar0.sidecars.thanos.atlas. IN A 10.1.0.10\n\
            tokyo-thanos-sidecar0.sidecars.thanos.atlas. IN A 10.1.0.11\n\
            tokyo-thanos-sidecar0.sidecars.thanos.atlas. IN AAAA fd00::10\n\
            tokyo-thanos-sidecar1.sidecars.thanos.atlas. IN A 10.1.0.10\n\
            tokyo-thanos-sidecar1.sidecars.thanos.atlas. IN A 10.1.0.11\n\
            tokyo-thanos-sidecar1.sidecars.thanos.atlas. IN AAAA fd00::10";
        assert_eq!(rest.join("\n"), expected);
    }

    #[test]
    fn a_store_is_a_service_by_its_port_s_own_name_too() {
        let mut fleet = fleet(&["tokyo".into(), "paris".into(), "malmo".into()], &[]);
        let named = |name: &str, port: &str| (name.parse().unwrap(), port.to_owned());
        for (name, port) in [named("tokyo", "sidecar"), named("malmo", "thanos")] {
            std::sync::Arc::make_mut(fleet.clusters.get_mut::<crate::name::ClusterName>(&name).unwrap()).store_port_name = port;
        }
        let zone = zone(&fleet, 7);
        let of = |service: &str| targets(&zone, &format!("_{service}._tcp.sidecars.thanos.atlas."));
        assert_eq!(of("thanos").len(), 6);
        assert_eq!(of("sidecar").len(), 2);
        assert!(of("grpc").len() == 2 && of("grpc")[0].starts_with("paris-"), "{:?}", of("grpc"));
    }

    #[test]
    fn a_zone_without_addresses_has_a_name_server_with_one() {
        let file = Stores::of(&fleet(&[], &[])).zone_file(&Settings::default(), 7);
        assert!(file.ends_with("atlas. IN NS ns.dns.atlas.\nns.dns.atlas. IN A 127.0.0.1\n"), "{file}");
        assert_eq!(serial_in(&file), Some(7));
    }

    #[test]
    fn the_serial_number_rises() {
        assert_eq!(serial_after(None, 1_800_000_000), 1_800_000_000);
        assert_eq!(serial_after(Some(1_700_000_000), 1_800_000_000), 1_800_000_000);
        // Twice in a second; a clock that was set back; one that isn't set at all.
        assert_eq!(serial_after(Some(1_800_000_000), 1_800_000_000), 1_800_000_001);
        assert_eq!(serial_after(Some(1_800_000_000), 1_700_000_000), 1_800_000_001);
        assert_eq!(serial_after(Some(1_800_000_000), 0), 1_800_000_001);
        // What earlier versions of Atlas wrote was any number.
        assert_eq!(serial_after(Some(4_000_000_000), 1_800_000_000), 1_800_000_000);
        assert_eq!(serial_after(Some(3_000_000_000), 1_700_000_000), 3_000_000_001);
        assert_eq!(serial_after(Some(u32::MAX), i64::from(u32::MAX)), 1, "0 is no serial number to some");
    }

    #[test]
    fn a_file_is_followed_by_itself_or_by_one_with_a_greater_number() {
        let (tokyo, both) = (fleet(&["tokyo".into()], &["10.1.0.10"]), fleet(&["tokyo".into(), "paris".into()], &["10.1.0.10"]));
        let file = |fleet: &Fleet, serial| Stores::of(fleet).zone_file(&fleet.settings, serial);
        let next = |before: Option<&String>, now, fleet: &Fleet| {
            Written::next(before.and_then(|before| Written::of(before)), now, |serial| file(fleet, serial))
        };
        let first = next(None, 1000, &tokyo);
        assert_eq!(serial_in(&first), Some(1000));
        assert_eq!(next(Some(&first), 2000, &tokyo), first, "a restart");
        // There and back, while the clock goes back too; and another zone.
        let second = next(Some(&first), 900, &both);
        let third = next(Some(&second), 500, &tokyo);
        assert_eq!((serial_in(&second), serial_in(&third)), (Some(1001), Some(1002)));
        let mut renamed = tokyo.clone();
        renamed.settings.dns_zone = "other".into();
        assert_eq!(serial_in(&next(Some(&third), 500, &renamed)), Some(1003));
        assert_eq!(Written::latest(Written::of(&third), Written::of(&second)), Written::of(&third));
        assert_eq!(Written::latest(Written::of(&second), Written::of(&third)), Written::of(&third));
        assert_eq!(Written::latest(None, Written::of(&first)), Written::of(&first));
    }

    #[test]
    fn what_is_no_zone_file_has_no_serial_number() {
        for text in ["", "atlas. IN SOA a. b.", "atlas. IN SOA a. b. x 1 1 1 1", "\0\0", "a\n\n\n\n\n\natlas. IN SOA a. b. 7 1 1 1 1"] {
            assert_eq!(serial_in(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_serial_number_falls(before: u32, now in -(1i64 << 40)..(1i64 << 40)) {
            prop_assert!(is_later(serial_after(Some(before), now), before));
        }

        #[test]
        fn the_zone_and_the_endpoints_name_the_same_stores(names in prop::collection::btree_set("[a-z]{1,6}", 0..6)) {
            let fleet = fleet(&names.into_iter().collect::<Vec<_>>(), &[]);
            let zone = zone(&fleet, 7);
            let stores = targets(&zone, "_thanos._tcp.sidecars.thanos.atlas.");
            prop_assert_eq!(&stores, &targets(&zone, "_grpc._tcp.sidecars.thanos.atlas."));
            let endpoints = endpoints(&fleet);
            let endpoints: Vec<String> =
                endpoints.lines().filter_map(|line| Some(format!("{}.", line.strip_prefix("- address: ")?.strip_suffix(":10901")?))).collect();
            prop_assert_eq!(stores, endpoints);
        }
    }
}
