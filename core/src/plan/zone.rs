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
/// When a secondary server would ask, ask again, and give up, in seconds (RFC 1035 §3.3.13). Nobody transfers this zone.
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
    /// The serial number: hash of the content, see [`serial`].
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
pub fn zone(fleet: &Fleet) -> Zone {
    let settings = &fleet.settings;
    let mut records = vec![of_zone(settings)];
    let mut sum = 0u32;
    for cluster in fleet.clusters.values() {
        let of_cluster = of_cluster(settings, cluster);
        let text: String = of_cluster.iter().map(|record| format!("{record}\n")).collect();
        sum = sum.wrapping_add(if text.is_empty() { 0 } else { hash(&text) });
        records.extend(of_cluster);
    }
    Zone { serial: serial(settings, sum), origin: origin(settings), records }
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

/// The serial number of a zone the hashes of whose clusters' records add up to `sum`.
///
/// A hash of the records rather than a count, because every replica of Atlas makes the zone by itself and remembers nothing: equal
/// fleets must give equal zones. That it may go down matters only to zone transfers (RFC 1982), of which there are none; CoreDNS
/// reads a changed file again where the number differs, in either direction. A sum, so that a change to one cluster needs no other's records.
pub(super) fn serial(settings: &Settings, sum: u32) -> u32 {
    sum.wrapping_add(hash(&of_zone(settings).to_string()))
}

/// The master file (RFC 1035 §5), given the text of each cluster's records, which are about `length` long together.
pub(super) fn file<'a>(settings: &Settings, serial: u32, length: usize, pieces: impl Iterator<Item = &'a str>) -> String {
    let zone = Zone { origin: origin(settings), serial, records: Vec::new() };
    let mut text = String::with_capacity(length + 512);
    text.push_str(&format!(
        "; Written by Atlas: the stores of all clusters, for Thanos Query.\n$TTL {TTL}\n{} IN SOA {}\n{}\n",
        zone.origin,
        zone.soa(),
        of_zone(settings)
    ));
    pieces.for_each(|piece| text.push_str(piece));
    text
}

fn origin(settings: &Settings) -> String {
    format!("{}.", settings.dns_zone)
}

/// The zone's own record beside the SOA.
fn of_zone(settings: &Settings) -> Record {
    let origin = origin(settings);
    Record { data: Data::Ns(name_server(&origin)), name: origin }
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

pub(super) fn hash(text: &str) -> u32 {
    let digest = Sha256::digest(text);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
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
        let file = Stores::of(&fleet).zone_file(&fleet.settings);
        let rest: Vec<&str> = file.lines().skip(3).collect();
        assert!(file.lines().nth(2).unwrap().starts_with("atlas. IN SOA ns.dns.atlas. hostmaster.atlas. "), "{file}");
        let expected = "\
            atlas. IN NS ns.dns.atlas.\n\
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
        let zone = zone(&fleet);
        let of = |service: &str| targets(&zone, &format!("_{service}._tcp.sidecars.thanos.atlas."));
        assert_eq!(of("thanos").len(), 6);
        assert_eq!(of("sidecar").len(), 2);
        assert!(of("grpc").len() == 2 && of("grpc")[0].starts_with("paris-"), "{:?}", of("grpc"));
    }

    #[test]
    fn the_serial_changes_with_the_content_alone() {
        let of = |names: &[&str], hub: &[&str]| zone(&fleet(&names.iter().map(|n| (*n).into()).collect::<Vec<_>>(), hub)).serial;
        assert_eq!(of(&["tokyo"], &["10.1.0.10"]), of(&["tokyo"], &["10.1.0.10"]));
        assert_ne!(of(&["tokyo"], &["10.1.0.10"]), of(&["tokyo"], &["10.1.0.11"]));
        assert_ne!(of(&["tokyo"], &[]), of(&["tokyo", "paris"], &[]));
        assert_eq!(of(&["tokyo"], &[]), of(&["tokyo", "rome"], &[]), "awaits its address");
    }

    proptest! {
        #[test]
        fn the_zone_and_the_endpoints_name_the_same_stores(names in prop::collection::btree_set("[a-z]{1,6}", 0..6)) {
            let fleet = fleet(&names.into_iter().collect::<Vec<_>>(), &[]);
            let zone = zone(&fleet);
            let stores = targets(&zone, "_thanos._tcp.sidecars.thanos.atlas.");
            prop_assert_eq!(&stores, &targets(&zone, "_grpc._tcp.sidecars.thanos.atlas."));
            let endpoints = endpoints(&fleet);
            let endpoints: Vec<String> =
                endpoints.lines().filter_map(|line| Some(format!("{}.", line.strip_prefix("- address: ")?.strip_suffix(":10901")?))).collect();
            prop_assert_eq!(stores, endpoints);
        }
    }
}
