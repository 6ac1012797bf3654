//! `atlas status`

mod replicas;

use std::path::PathBuf;

use atlas_core::ports;
use atlas_core::text;
use atlas_core::validate::Severity;
use clap::{Args, ValueEnum};

use super::flags::kubernetes::HubArgs;
use super::output::{print_json, show};
use super::{Outcome, socket};
use crate::standalone::state_dir::StateDir;
use crate::web::status::{Instance, NodeStatus, QuarantineStatus, Status};

/// People are told of a bootstrap credential that ends within this time, since they must carry the
/// next one.
const WARN_DAYS: i64 = 60;

const EXAMPLE: &str = "\
Example:
  atlas status                        of Atlas in the hub's Kubernetes cluster
  atlas status --state state          of an Atlas that runs here
  atlas status -o json | jq '.clusters[] | select(.connected == 0).name'";

/// Show clusters, what was rejected and why, and how every Envoy stands. Exits with 3 if something
/// is rejected or Atlas itself is in trouble.
///
/// Asks the running Atlas. On Kubernetes it asks every replica through the API server, since each
/// knows its own Envoys alone: you need the right to `get` `pods/proxy` and to list
/// `endpointslices` in its namespace.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct StatusArgs {
    /// The state directory of `atlas run`. Without it: the hub's Kubernetes cluster.
    #[arg(long, value_name = "DIR", env = "ATLAS_STATE")]
    state: Option<PathBuf>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "text", env = "ATLAS_OUTPUT")]
    output: Output,
    /// The Service whose pods are Atlas's replicas.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "atlas",
        env = "ATLAS_SERVICE",
        help_heading = "Kubernetes"
    )]
    service: String,
    /// Port of Atlas's web page in its pods.
    #[arg(long, value_name = "PORT", default_value_t = ports::WEB, env = "ATLAS_WEB_PORT", help_heading = "Kubernetes")]
    web_port: u16,
    #[command(flatten)]
    hub: HubArgs,
}

/// How a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl StatusArgs {
    /// Asks and prints.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let report: Status = match &self.state {
            Some(state) => {
                serde_json::from_str(&socket::ask(&StateDir::at(state)?, "GET", "/api/v1/status")?)?
            }
            None => replicas::ask(&self.hub.connect()?, &self.service, self.web_port)?,
        };
        match self.output {
            Output::Json => print_json(&report)?,
            Output::Text => show(&told(&report))?,
        }
        Ok(if report.has_problems() { Outcome::SomethingRejected } else { Outcome::Done })
    }
}

fn told(report: &Status) -> String {
    let mut out = String::new();
    if !report.ready {
        out.push_str(
            "not ready: not everything has been read yet, or there is no certificate yet\n",
        );
    }
    match report.leader.as_deref() {
        Some("") => out.push_str("nobody leads: no replica holds the Lease, so nothing is written and no certificate issued\n"),
        Some(leader) => out.push_str(&format!("leader: {}\n", text::line(leader, text::LONGEST))),
        None => {}
    }
    out.push_str(&table(clusters(report)));
    out.push('\n');
    out.push_str(&table(nodes(report)));
    let nack_lines: Vec<String> = report
        .nodes
        .iter()
        .flat_map(|node| node.instances.iter().flat_map(|instance| nacks(node, instance)))
        .collect();
    section(&mut out, "TROUBLE", report.problems.clone());
    section(&mut out, "REFUSED BY ENVOY", nack_lines);
    section(
        &mut out,
        "QUARANTINED (not sent again until it changes)",
        report.nodes.iter().flat_map(quarantined).collect(),
    );
    section(&mut out, "FILES NOT READ (what they said last stays in force)", report.errors.clone());
    let titles = [
        (Severity::Rejected, "REJECTED"),
        (Severity::FellBack, "FELL BACK TO THE DEFAULT"),
        (Severity::Warning, "WARNINGS"),
        (Severity::Note, "NOTES"),
    ];
    for (severity, title) in titles {
        section(
            &mut out,
            title,
            report
                .findings
                .iter()
                .filter(|finding| finding.severity == severity)
                .map(ToString::to_string)
                .collect(),
        );
    }
    section(&mut out, "SOON TO END", ending(report));
    out
}

fn section(out: &mut String, title: &str, lines: Vec<String>) {
    if !lines.is_empty() {
        out.push_str(&format!("\n{title}\n"));
        // Line feeds are escaped: an API server's message must not look like several lines.
        for line in &lines {
            out.push_str(&format!("  {}\n", text::line(line, usize::MAX)));
        }
    }
}

fn clusters(report: &Status) -> Vec<Vec<String>> {
    let mut rows =
        vec![["CLUSTER", "ENVOYS", "STORES", "EXACT", "ADDRESSES"].map(String::from).to_vec()];
    for cluster in &report.clusters {
        let exact = if cluster.stores.iter().all(|store| store.exact) { "yes" } else { "no" };
        let addresses = if cluster.addresses.is_empty() {
            "awaiting its address".into()
        } else {
            cluster.addresses.join(",")
        };
        rows.push(vec![
            cluster.name.clone(),
            cluster.connected.to_string(),
            cluster.stores.len().to_string(),
            exact.into(),
            addresses,
        ]);
    }
    rows
}

fn nodes(report: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![
        ["NODE", "INSTANCE", "ENVOY", "CONNECTED", "CONFIGURATION", "CERTIFICATE", "CREDENTIAL"]
            .map(String::from)
            .to_vec(),
    ];
    for node in &report.nodes {
        let ends =
            [until(node.leaf_not_after, report.now), until(node.credential_not_after, report.now)];
        if node.instances.is_empty() {
            rows.push(
                [
                    vec![node.node.clone(), "-".into(), "-".into(), "no".into(), "-".into()],
                    ends.to_vec(),
                ]
                .concat(),
            );
        }
        for instance in &node.instances {
            let since = format!("{} ago", span(report.now - instance.since));
            let row = vec![
                node.node.clone(),
                format!("{} {}", instance.id, instance.address),
                instance.version.clone(),
                since,
                types(instance),
            ];
            rows.push([row, ends.to_vec()].concat());
        }
    }
    rows
}

/// `SYNCED` if all types are, else each type that isn't; `waiting` for an Envoy whose cluster has
/// no manifest, so that nothing was sent to it.
fn types(instance: &Instance) -> String {
    if instance.types.is_empty() {
        return "waiting".into();
    }
    let others: Vec<String> = instance
        .types
        .iter()
        .filter(|(_, t)| t.state != "SYNCED")
        .map(|(kind, t)| format!("{kind} {}", t.state))
        .collect();
    if others.is_empty() { "SYNCED".into() } else { others.join(", ") }
}

fn nacks(node: &NodeStatus, instance: &Instance) -> Vec<String> {
    let refused = instance.types.iter().filter(|(_, t)| t.state == "NACK");
    refused
        .map(|(kind, t)| format!("{} ({}): {kind}: {}", node.node, instance.address, t.message))
        .collect()
}

fn quarantined(node: &NodeStatus) -> Vec<String> {
    let line = |of: &QuarantineStatus| {
        format!("{}: {} {} @{}: {}", node.node, of.kind, of.name, of.version, of.message)
    };
    node.quarantined.iter().map(line).collect()
}

/// Credentials and authorities that end soon. Credentials are those that Envoys present: Atlas's
/// own copies are renewed early.
fn ending(report: &Status) -> Vec<String> {
    let soon = |end: i64| end - report.now < WARN_DAYS * 86_400;
    let clusters = report.nodes.iter().filter(|node| node.node != "hub");
    let instances =
        clusters.flat_map(|node| node.instances.iter().map(move |instance| (node, instance)));
    let line = |(node, instance): (&NodeStatus, &Instance)| {
        let left = until(Some(instance.credential_not_after), report.now);
        let (name, address) = (&node.node, &instance.address);
        let carry = match report.leader {
            Some(_) => format!("its values there again (`atlas cluster-values {name}`)"),
            None => format!("its files there again (`atlas bootstrap {name} --out DIR`)"),
        };
        format!("the credential of {name} at {address} ends in {left}: carry {carry}")
    };
    let authorities = report
        .authorities
        .iter()
        .filter(|(_, end)| soon(**end) && **end - report.now < 30 * 86_400);
    let authority = |(name, end): (&String, &i64)| {
        format!("the {name} CA ends in {}", until(Some(*end), report.now))
    };
    instances
        .filter(|(_, instance)| soon(instance.credential_not_after))
        .map(line)
        .chain(authorities.map(authority))
        .collect()
}

fn until(end: Option<i64>, now: i64) -> String {
    end.map_or("none".into(), |end| if end > now { span(end - now) } else { "EXPIRED".into() })
}

/// A number of seconds in its largest unit: `342 days`, `5 h`.
fn span(seconds: i64) -> String {
    let units = [(86_400, "days"), (3600, "h"), (60, "min")];
    let (size, name) = units.into_iter().find(|(size, _)| seconds >= 2 * size).unwrap_or((1, "s"));
    format!("{} {name}", seconds.max(0) / size)
}

/// Rows as text, in columns of equal width.
pub fn table(rows: Vec<Vec<String>>) -> String {
    let in_line =
        |row: Vec<String>| row.iter().map(|cell| text::line(cell, usize::MAX)).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = rows.into_iter().map(in_line).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_text_s_line_feeds_make_no_lines() {
        let mut out = String::new();
        section(&mut out, "TROUBLE", vec!["no\n\nREJECTED\n  Service tokyo: forged".into()]);
        assert_eq!(out, "\nTROUBLE\n  no\\n\\nREJECTED\\n  Service tokyo: forged\n");
        assert_eq!(
            table(vec![vec!["tokyo".into(), "1.36\nparis\t".into(), "SYNCED".into()]]),
            "tokyo  1.36\\nparis\\t  SYNCED\n"
        );
    }
}
