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
    for wrong in [
        "",
        "Tokyo",
        "-a",
        "a-",
        "a.b",
        "hub",
        "atlas",
        "tokyo-thanos-sidecar0",
        "tokyo-thanos-sidecar",
    ] {
        assert!(wrong.parse::<ClusterName>().is_err(), "{wrong}");
    }
    // Services of the hub's Envoys.
    assert!(
        "atlas-hub-stores".parse::<ClusterName>().is_err()
            && "atlas-hub-stores-0123456789".parse::<ClusterName>().is_err()
    );
    assert!(
        "atlas-hub-stores2".parse::<ClusterName>().is_ok()
            && "atlas-hub".parse::<ClusterName>().is_ok()
    );
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
    for wrong in
        ["", "a b", "10.0.0.300", "host:0", "host:70000", "host:+5", "http://host", "host/path"]
    {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn brackets_come_in_pairs() {
    let read = |text| HostPort::parse(text, 11901).map(|at| at.to_string());
    assert_eq!(read("[10.0.0.1]:5").unwrap(), "10.0.0.1:5");
    let unpaired = [
        "[10.0.0.1",
        "10.0.0.1]",
        "[fd00::1",
        "fd00::1]",
        "[[fd00::1]]",
        "][fd00::1",
        "[]",
        "[fd00::1]]:5",
        "[[fd00::1]:5",
    ];
    let others = [
        "[host]",
        "[host]:5",
        "[host:5",
        "{fd00::1}",
        "<10.0.0.1>",
        "(10.0.0.1)",
        "[fd00::1]5",
        "[fd00::1:5",
        "[fe80::1%eth0]:5",
    ];
    for wrong in unpaired.iter().chain(&others) {
        assert!(read(wrong).is_err(), "{wrong}: {:?}", read(wrong));
    }
}

/// What the C library takes for an address where Rust doesn't, and zones, which mean something on
/// one machine only.
#[test]
fn addresses_have_one_notation() {
    for wrong in [
        "127.1",
        "127.0.1",
        "0x7f.1",
        "0177.0.0.1",
        "127.0.0.01",
        "2130706433",
        "10.0.0.1.",
        "fe80::1%eth0",
        "::ffff:127.1",
    ] {
        assert!(HostPort::parse(wrong, 1).is_err(), "{wrong}: {:?}", HostPort::parse(wrong, 1));
    }
}

#[test]
fn a_number_is_no_name() {
    for wrong in [
        "0x7f000001",
        "0X7F.1",
        "0x",
        "127.0.0x1",
        "2130706433",
        "017700000001",
        "10.0.0.300",
        "1.2.3.",
    ] {
        assert!(wrong.parse::<Host>().is_err(), "{wrong}");
    }
    for right in ["0x7f.example", "0xide", "1e3", "3com.com"] {
        assert!(right.parse::<Host>().is_ok(), "{right}");
    }
}

#[test]
fn loopback_link_local_and_metadata_addresses_are_local() {
    let addresses = [
        "127.0.0.2",
        "0.0.0.0",
        "169.254.169.254",
        "255.255.255.255",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
    ];
    let in_ipv6 = ["::1", "::", "fe80::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254"];
    let embedded = [
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "::ffff:100.100.100.200",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::127.0.0.1",
    ];
    let names = [
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "localhost.localdomain",
        "ip6-localhost",
        "ip6-loopback",
    ];
    let metadata = [
        "metadata",
        "metadata.goog",
        "metadata.google.internal.",
        "instance-data",
        "instance-data.ec2.internal",
    ];
    for local in [&addresses[..], &in_ipv6, &embedded, &names, &metadata].concat() {
        assert!(local.parse::<Host>().unwrap().is_local(), "{local}");
    }
    let far = [
        "10.0.0.1",
        "203.0.113.7",
        "100.100.100.201",
        "fd00::1",
        "64:ff9b::10.0.0.1",
        "::ffff:10.0.0.1",
        "::10.0.0.1",
    ];
    for far in [
        &far[..],
        &["edge.example.com", "metadata.example.com", "nolocalhost", "loopback.example.com"],
    ]
    .concat()
    {
        assert!(!far.parse::<Host>().unwrap().is_local(), "{far}");
    }
}

#[test]
fn an_ipv6_address_is_as_local_as_the_ipv4_address_in_it() {
    for (local, far) in [
        // Translated, RFC 2765.
        ("::ffff:0:127.0.0.1", "::ffff:0:10.0.0.1"),
        ("::ffff:0:169.254.169.254", "::ffff:0:203.0.113.7"),
        // 6to4.
        ("2002:7f00:1::", "2002:a00:1::"),
        ("2002:a9fe:a9fe::1", "2002:cb00:7107::1"),
        // NAT64 of one's own, behind 96, 64, 56 and 48 bits.
        ("64:ff9b:1::127.0.0.1", "64:ff9b:1::203.0.113.7"),
        ("64:ff9b:1:1:2:3:127.0.0.1", "64:ff9b:1:1:2:3:203.0.113.7"),
        ("64:ff9b:1:0:7f:0:100:0", "64:ff9b:1:0:cb:71:700:0"),
        ("64:ff9b:1:7f:0:1::", "64:ff9b:1:cb:0:7107::"),
        ("64:ff9b:1:7f00:0:100::", "64:ff9b:1:cb00:71:700::"),
        ("64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a00:0:100::"),
        ("64:ff9b:1::", "64:ff9b:1::10.0.0.1"),
        // Teredo: its server, its client.
        ("2001:0:7f00:1::80ff:fefe", "2001:0:cb00:7107::34ff:8ef8"),
        ("2001:0:cb00:7107::80ff:fffe", "2001:0:cb00:7107::f5ff:fffe"),
        // ISATAP.
        ("2001:db8::5efe:127.0.0.1", "2001:db8::5efe:10.0.0.1"),
        ("fd00::200:5efe:169.254.169.254", "fd00::200:5efe:203.0.113.7"),
    ] {
        assert!(local.parse::<Host>().unwrap().is_local(), "{local}");
        assert!(!far.parse::<Host>().unwrap().is_local(), "{far}");
    }
}

#[test]
fn names_in_default_hosts_files_are_local() {
    // Debian and Alpine, Red Hat, SUSE, macOS, kubelet, Docker, Podman: the names after the
    // address.
    let files = "\
        localhost ip6-localhost ip6-loopback ip6-localnet ip6-mcastprefix ip6-allnodes ip6-allrouters ip6-allhosts loopback \
        localhost.localdomain localhost4 localhost4.localdomain4 localhost6 localhost6.localdomain6 \
        ipv6-localhost ipv6-loopback ipv6-localnet ipv6-mcastprefix ipv6-allnodes ipv6-allrouters ipv6-allhosts \
        broadcasthost host.docker.internal gateway.docker.internal kubernetes.docker.internal host.containers.internal";
    for name in files.split_whitespace() {
        assert!(name.parse::<Host>().unwrap().is_local(), "{name}");
        assert!(format!("{}.", name.to_uppercase()).parse::<Host>().unwrap().is_local(), "{name}");
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
    assert_eq!(
        HostPort::parse("host:0", 1).unwrap_err().to_string(),
        "has the port \"0\", which is not a number from 1 to 65535"
    );
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
