//! `cargo xtask siege`, short: every attack on the real programs, with honest clients beside.

use std::time::Duration;

use atlas_lab::siege::{SiegeTopology, find_attack, wait_recovered};
use atlas_lab::world_test;

use crate::atlas;

/// How long each attack lasts, where it doesn't say that it takes longer: enough to open what it
/// opens.
const EACH: Duration = Duration::from_secs(2);
/// Those that have broken something, and one of each sort of their like; the command has them all.
const ATTACKS: [&str; 13] = [
    "fleet-at-xds",
    "idle-tcp",
    "half-sent-posts",
    "failing-panels",
    "many-stalled-readers",
    "xds-names-of-two",
    "slow-bodies",
    "slow-frames",
    "rapid-reset",
    "thousand-streams",
    "dead-address",
    "silent-hub",
    "stalled-alertmanager",
];
/// What the programs may take, in bytes: of the hub's Envoy, whose chart's limit is for 10,000
/// clusters, what a small hub has; what the charts let the others have.
const HUB_ENVOY: u64 = 1 << 30;
const CLUSTER_ENVOY: u64 = 256 << 20;
const ATLAS: u64 = 512 << 20;

world_test! {
    needs [Envoy, Thanos, Prometheus, PrometheusClassic, Alertmanager, CoreDns], within 300,
    fn no_attack_costs_an_honest_client_a_request(world) {
        let mut topology = SiegeTopology::start(world, atlas())?;
        wait_recovered(&topology)?;
        let (mut requests, mut failures) = (0, Vec::new());
        for name in ATTACKS {
            let row = find_attack(name)?.run(&topology, EACH, None)?;
            println!("{}: {} requests, {} failures, {:?}, at most {:?}", row.attack, row.requests, row.failures, row.attackers, row.peak);
            requests += row.requests;
            failures.extend(row.failures());
            for (who, bytes, limit) in [
                ("the hub's Envoy", row.peak.hub_envoy, HUB_ENVOY),
                ("a cluster's Envoy", row.peak.cluster_envoy, CLUSTER_ENVOY),
                ("Atlas", row.peak.atlas, ATLAS),
            ] {
                if bytes > limit {
                    failures.push(format!("{}: {who} had {} MiB, its chart allows {}", row.attack, bytes >> 20, limit >> 20));
                }
            }
            if row.recovered_after.is_none() {
                failures.push(format!("{}: not everything was as before afterwards", row.attack));
                topology.restart_all()?;
                wait_recovered(&topology)?;
            }
        }
        assert!(failures.is_empty(), "of {requests} honest requests:\n{}", failures.join("\n"));
    }
}
