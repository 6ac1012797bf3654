//! Links, addresses and faults, by iproute2.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::wait_until;

/// The bridge's name in the world's root namespace.
pub const BRIDGE: &str = "atlas";

/// The name of every host's own interface.
pub const INTERFACE: &str = "eth0";

/// The priority of the routing rule for local addresses. Rules that drop packets come before it.
const LOCAL_RULE: u16 = 10;
const DROP_RULE: u16 = 5;

/// Runs a command to its end; an error carries what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot run {line}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {}: {}", output.status, error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `ip` with space-separated arguments, in the namespace of the calling thread.
pub fn ip(arguments: &str) -> Result<String> {
    run(Command::new("ip").args(arguments.split_ascii_whitespace()))
}

pub fn make_bridge(address: Ipv4Addr, address6: Ipv6Addr) -> Result<()> {
    ip("link set lo up")?;
    ip(&format!("link add {BRIDGE} type bridge"))?;
    ip(&format!("link set {BRIDGE} up"))?;
    never_give_up_on_neighbours(BRIDGE)?;
    add_address(BRIDGE, address.into())?;
    add_address(BRIDGE, address6.into())
}

/// The bridge's end of the veth pair of a host.
pub fn port_of(number: u8) -> String {
    format!("host{number}")
}

/// Makes the veth pair of a host, whose end [`INTERFACE`] goes into the network namespace of
/// process `pid`.
pub fn join(number: u8, pid: u32) -> Result<()> {
    let port = port_of(number);
    ip(&format!("link add {port} type veth peer name {INTERFACE} netns {pid}"))?;
    join_port(number)
}

/// Joins the bridge's end of a host to the bridge.
pub fn join_port(number: u8) -> Result<()> {
    ip(&format!("link set {} master {BRIDGE} up", port_of(number))).map(drop)
}

/// Brings up the host's own end, in the namespace of the calling thread.
pub fn bring_up() -> Result<()> {
    ip("link set lo up")?;
    ip(&format!("link set {INTERFACE} up"))?;
    never_give_up_on_neighbours(INTERFACE)
}

/// Adds an address of the world's network to an interface, in the namespace of the calling thread.
/// IPv6 addresses are usable at once: duplicate detection would take a second.
pub fn add_address(interface: &str, address: IpAddr) -> Result<()> {
    match address {
        IpAddr::V4(address) => ip(&format!("address add {address}/16 dev {interface}")),
        IpAddr::V6(address) => ip(&format!("address add {address}/64 dev {interface} nodad")),
    }
    .map(drop)
}

/// Disables or enables the bridge's port of a host. A disabled port silently drops all packets of
/// both directions, and no end loses its carrier, as in a partition in the middle of a network.
pub fn enable_port(number: u8, enabled: bool) -> Result<()> {
    let port = port_of(number);
    // The bridge learns of a new carrier up to a second late, and then enables the port again.
    wait_until(&format!("the carrier of {port}"), Duration::from_secs(5), || {
        let line = ip(&format!("-oneline link show {port}"))?;
        Ok(line.contains(" state UP ").then_some(()))
    })?;
    // BR_STATE_DISABLED, BR_STATE_FORWARDING. (`ip link set … type bridge_slave state 0` is undone
    // in the same way.)
    let state = if enabled { "3" } else { "0" };
    run(Command::new("bridge").args(["link", "set", "dev", &port, "state", state])).map(drop)
}

/// Silently drops all packets to a TCP port, in the namespace of the calling thread. It uses a
/// routing rule, since not every kernel has nftables or traffic control's filters. The rule must
/// come before that of local addresses, and early demultiplexing must be off, or packets of open
/// connections would bypass it.
pub fn drop_port(port: u16) -> Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_early_demux", "0")
        .context("cannot turn early demultiplexing off")?;
    for family in ["-4", "-6"] {
        if !ip(&format!("{family} rule show pref {LOCAL_RULE}"))?.contains("local") {
            ip(&format!("{family} rule add pref {LOCAL_RULE} lookup local"))?;
            ip(&format!("{family} rule del pref 0"))?;
        }
        ip(&format!(
            "{family} rule add pref {DROP_RULE} iif {INTERFACE} ipproto tcp dport {port} blackhole"
        ))?;
    }
    Ok(())
}

/// Ends [`drop_port`].
pub fn pass_port(port: u16) -> Result<()> {
    for family in ["-4", "-6"] {
        ip(&format!(
            "{family} rule del pref {DROP_RULE} iif {INTERFACE} ipproto tcp dport {port} blackhole"
        ))?;
    }
    Ok(())
}

/// Makes ARP and neighbour discovery try for an hour, five times a second. By default connections
/// fail with "no route to host" after 3 s, which doesn't happen to clusters behind a router.
fn never_give_up_on_neighbours(interface: &str) -> Result<()> {
    for (family, key, value) in [
        ("ipv4", "mcast_solicit", "18000"),
        ("ipv4", "ucast_solicit", "18000"),
        ("ipv4", "retrans_time_ms", "200"),
        ("ipv6", "mcast_solicit", "18000"),
        ("ipv6", "ucast_solicit", "18000"),
        ("ipv6", "retrans_time_ms", "200"),
    ] {
        let file = format!("/proc/sys/net/{family}/neigh/{interface}/{key}");
        fs::write(&file, value).with_context(|| format!("cannot write {file}"))?;
    }
    Ok(())
}
