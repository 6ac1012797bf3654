use super::*;
use proptest::prelude::*;

fn domain() -> TrustDomain {
    "atlas.example".parse().unwrap()
}

#[test]
fn cluster_names_leave_room_for_their_stores() {
    assert!("tokyo".parse::<ClusterName>().is_ok());
    assert!("a".repeat(46).parse::<ClusterName>().is_ok());
    assert!("a".repeat(47).parse::<ClusterName>().is_err());
    for wrong in ["", "Tokyo", "-a", "a-", "a.b", "hub", "atlas", "tokyo-thanos-sidecar0", "tokyo-thanos-sidecar"] {
        assert!(wrong.parse::<ClusterName>().is_err(), "{wrong}");
    }
    // Services of the hub's Envoys.
    assert!("atlas-hub-stores".parse::<ClusterName>().is_err() && "atlas-hub-stores-0123456789".parse::<ClusterName>().is_err());
    assert!("atlas-hub-stores2".parse::<ClusterName>().is_ok() && "atlas-hub".parse::<ClusterName>().is_ok());
}

#[test]
fn hosts_and_ports_are_read_in_every_usual_spelling() {
    let read = |text| HostPort::parse(text, 11901).map(|hp| hp.to_string());
    assert_eq!(read("10.0.0.1").unwrap(), "10.0.0.1:11901");
    assert_eq!(read("10.0.0.1:31901").unwrap(), "10.0.0.1:31901");
    assert_eq!(read("fd00::1").unwrap(), "[fd00::1]:11901");
    assert_eq!(read("[fd00::1]").unwrap(), "[fd00::1]:11901");
    assert_eq!(read("[fd00::1]:5").unwrap(), "[fd00::1]:5");
    assert_eq!(read("edge.example.com.:443").unwrap(), "edge.example.com:443");
    for wrong in ["", "a b", "10.0.0.300", "host:0", "host:70000", "host:+5", "http://host", "host/path"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_number_is_no_name() {
    for wrong in ["0x7f000001", "0X7F.1", "0x", "127.0.0x1", "2130706433", "017700000001", "10.0.0.300", "1.2.3."] {
        assert!(wrong.parse::<Host>().is_err(), "{wrong}");
    }
    for right in ["0x7f.example", "0xide", "1e3", "3com.com"] {
        assert!(right.parse::<Host>().is_ok(), "{right}");
    }
}

#[test]
fn loopback_link_local_and_metadata_addresses_are_local() {
    let addresses = ["127.0.0.2", "0.0.0.0", "169.254.169.254", "255.255.255.255", "100.100.100.200", "168.63.129.16", "224.0.0.1"];
    let in_ipv6 = ["::1", "::", "fe80::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254"];
    let embedded = ["::ffff:127.0.0.1", "::127.0.0.1", "::ffff:100.100.100.200", "64:ff9b::a9fe:a9fe", "64:ff9b::127.0.0.1"];
    let names = ["localhost", "LOCALHOST.", "a.localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"];
    let metadata = ["metadata", "metadata.goog", "metadata.google.internal."];
    for local in [&addresses[..], &in_ipv6, &embedded, &names, &metadata].concat() {
        assert!(local.parse::<Host>().unwrap().is_local(), "{local}");
    }
    let far = ["10.0.0.1", "203.0.113.7", "100.100.100.201", "fd00::1", "64:ff9b::10.0.0.1", "::ffff:10.0.0.1", "::10.0.0.1"];
    for far in [&far[..], &["edge.example.com", "metadata.example.com", "nolocalhost"]].concat() {
        assert!(!far.parse::<Host>().unwrap().is_local(), "{far}");
    }
}

#[test]
fn servers_listen_at_addresses_of_machines() {
    for right in ["0.0.0.0", "::", "127.0.0.2", "10.0.0.1", "fd00::2", "::ffff:10.0.0.1"] {
        assert!(bindable(right.parse().unwrap()).is_ok(), "{right}");
    }
    for wrong in ["224.0.0.1", "255.255.255.255", "ff02::1", "::ffff:0.0.0.0", "::ffff:224.0.0.1"] {
        assert!(bindable(wrong.parse().unwrap()).is_err(), "{wrong}");
    }
}

#[test]
fn errors_follow_the_value_and_do_not_repeat_it() {
    let error = |text: &str| text.parse::<ClusterName>().unwrap_err().to_string();
    assert_eq!(error("hub"), "is reserved for Atlas itself");
    assert_eq!(HostPort::parse("host:0", 1).unwrap_err().to_string(), "has the port \"0\", which is not a number from 1 to 65535");
}

#[test]
fn a_spiffe_id_has_one_spelling() {
    let cluster = Identity::Cluster("tokyo".parse().unwrap(), 7);
    assert_eq!(cluster.spiffe_id(&domain()), "spiffe://atlas.example/cluster/tokyo/7");
    for wrong in [
        "spiffe://atlas.example/cluster/tokyo/07",
        "spiffe://atlas.example/cluster/tokyo/+7",
        "spiffe://atlas.example/cluster/tokyo",
        "spiffe://atlas.example/cluster/tokyo/7/",
        "spiffe://atlas.example.evil/hub",
        "spiffe://other/hub",
        "SPIFFE://atlas.example/hub",
    ] {
        assert_eq!(Identity::parse(wrong, &domain()), None, "{wrong}");
    }
}

proptest! {
    #[test]
    fn identities_survive_their_spelling(name in "[a-z][a-z0-9]{0,20}", revision: u64) {
        prop_assume!(name != "hub" && name != "atlas");
        let name: ClusterName = name.parse().unwrap();
        for identity in [Identity::Atlas, Identity::Hub, Identity::Cluster(name.clone(), revision), Identity::Bootstrap(name.clone(), revision)] {
            prop_assert_eq!(Identity::parse(&identity.spiffe_id(&domain()), &domain()), Some(identity));
        }
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in ".{0,80}") {
        let _ = text.parse::<ClusterName>();
        let _ = HostPort::parse(&text, 1);
        let _ = text.parse::<TrustDomain>();
        let _ = Identity::parse(&text, &domain());
    }

    #[test]
    fn a_host_and_port_survive_their_spelling(text in "([a-z]{1,8}\\.[a-z]{1,8}|10\\.0\\.[0-9]\\.[0-9]|fd00::[1-9])", port in 1u16..) {
        let host: Host = text.parse().unwrap();
        let pair = HostPort::new(host, port);
        prop_assert_eq!(HostPort::parse(&pair.to_string(), 1).unwrap(), pair);
    }
}
