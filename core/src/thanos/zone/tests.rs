use super::*;
use crate::annotations;
use crate::manifest::{Manifest, Service};
use crate::model::Settings;
use crate::thanos::endpoints::endpoints;
use crate::thanos::stores::Stores;
use crate::validate::validate;
use proptest::prelude::*;

fn fleet(names: &[String], hub_stores: &[&str]) -> Fleet {
    let service = |name: &String| {
        let mut service = Service::default();
        service.meta.name = name.clone();
        service.meta.labels.insert(annotations::CLUSTER.into(), "true".into());
        service.meta.labels.insert(annotations::REPLICAS.into(), "2".into());
        // Every other cluster awaits its address.
        service.external_ips =
            if name.len() % 2 == 1 { vec!["10.0.0.1".into()] } else { Vec::new() };
        Manifest::Service(service)
    };
    let hub_stores = hub_stores.iter().map(|ip| ip.parse().unwrap()).collect();
    let settings = Settings { hub_stores, ..Settings::default() };
    validate(&settings, &names.iter().map(service).collect::<Vec<_>>(), None).fleet
}

fn targets(zone: &Zone, owner: &str) -> Vec<String> {
    let of = |record: &DnsRecord| match &record.data {
        RecordData::Srv { target, .. } if record.name == owner => Some(target.clone()),
        _ => None,
    };
    zone.records.iter().filter_map(of).collect()
}

#[test]
fn a_store_has_services_and_addresses() {
    let fleet = fleet(&["tokyo".into()], &["10.1.0.11", "10.1.0.10", "fd00::10", "10.1.0.10"]);
    let file = Stores::of(&fleet).zone_file(&fleet.settings, 7);
    let rest: Vec<&str> = file.lines().skip(3).collect();
    assert!(
        file.lines().nth(2).unwrap().starts_with("atlas. IN SOA ns.dns.atlas. hostmaster.atlas. "),
        "{file}"
    );
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
        std::sync::Arc::make_mut(
            fleet.clusters.get_mut::<crate::name::ClusterName>(&name).unwrap(),
        )
        .store_port_name = port;
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
    assert_eq!(
        serial_after(Some(u32::MAX), i64::from(u32::MAX)),
        1,
        "0 is no serial number to some"
    );
}

#[test]
fn an_unchanged_zone_file_keeps_its_serial_number() {
    let (tokyo, both) = (
        fleet(&["tokyo".into()], &["10.1.0.10"]),
        fleet(&["tokyo".into(), "paris".into()], &["10.1.0.10"]),
    );
    let file = |fleet: &Fleet, serial| Stores::of(fleet).zone_file(&fleet.settings, serial);
    let next = |before: Option<&String>, now, fleet: &Fleet| {
        ZoneFileVersion::next_file(
            before.and_then(|before| ZoneFileVersion::of(before)),
            now,
            |serial| file(fleet, serial),
        )
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
    assert_eq!(
        ZoneFileVersion::latest(ZoneFileVersion::of(&third), ZoneFileVersion::of(&second)),
        ZoneFileVersion::of(&third)
    );
    assert_eq!(
        ZoneFileVersion::latest(ZoneFileVersion::of(&second), ZoneFileVersion::of(&third)),
        ZoneFileVersion::of(&third)
    );
    assert_eq!(
        ZoneFileVersion::latest(None, ZoneFileVersion::of(&first)),
        ZoneFileVersion::of(&first)
    );
}

#[test]
fn what_is_no_zone_file_has_no_serial_number() {
    for text in [
        "",
        "atlas. IN SOA a. b.",
        "atlas. IN SOA a. b. x 1 1 1 1",
        "\0\0",
        "a\n\n\n\n\n\natlas. IN SOA a. b. 7 1 1 1 1",
    ] {
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
