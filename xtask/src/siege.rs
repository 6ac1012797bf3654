//! `cargo xtask siege`: attacks on the real programs, with honest clients beside.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use atlas_lab::siege::{self, Attack, AttackReport, Memory, SiegeTopology};
use atlas_lab::world::World;
use clap::Args;

use crate::bench::{report, world};

/// Time limit of the start, and of each attack's recovery and restart.
const OVERHEAD: Duration = Duration::from_secs(240);

/// Attack a hub and its clusters, made of the real programs, and count what it costs honest clients
///
/// In a private world: Atlas, Envoys, Thanos, Prometheus, Alertmanagers, two honest clusters and a
/// hostile one. Before each attack honest clients ask while it is quiet, then they go on while it
/// lasts: queries, web UIs, alerts, probes, changes on their way to Envoys. Fails if one of their
/// requests fails, or if not everything is as before within 45 s of an attack's end.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask siege --list                                     what is done\n  \
    cargo xtask siege                                            everything, 30 s each\n  \
    cargo xtask siege --attack half-sent-posts --for 10m         one for long\n  \
    cargo xtask siege --for 10s --json siege.json                everything, shorter, with figures of each kind of client")]
pub struct Siege {
    /// Only these attacks.
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "NAME")]
    attack: Vec<String>,
    /// How long each lasts.
    #[arg(long = "for", default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
    length: Duration,
    /// How long it is quiet before each.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration, value_name = "TIME")]
    quiet: Duration,
    /// List the attacks and what each does.
    #[arg(long)]
    list: bool,
    /// The Atlas to attack [default: `cargo build --release` of this checkout].
    #[arg(long, value_name = "FILE")]
    atlas: Option<PathBuf>,
    /// Write what came of each attack to this file too, as a list of rows.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Siege {
    /// Runs the attacks, prints the table, and writes the JSON file.
    ///
    /// # Errors
    /// A program didn't start, or an attack doesn't exist.
    pub fn run(self) -> Result<()> {
        if self.list {
            let rows: Vec<Vec<String>> = siege::attacks()
                .map(|attack| vec![attack.name.into(), attack.bound.into(), attack.does.into()])
                .collect();
            let width = rows.iter().map(|row| row[0].len()).max().unwrap_or_default();
            for row in &rows {
                println!("{:<width$}  {}; at most {}", row[0], row[2], row[1]);
            }
            return Ok(());
        }
        let attacks: Vec<&Attack> = match self.attack.as_slice() {
            [] => siege::attacks().collect(),
            names => names.iter().map(|name| siege::find_attack(name)).collect::<Result<_>>()?,
        };
        let each = self.length + self.quiet + OVERHEAD;
        let limit = OVERHEAD + each * u32::try_from(attacks.len()).unwrap_or(u32::MAX);
        world::run_with(self.atlas.as_deref(), siege::PARTS, limit, |world, atlas| {
            self.run_attacks(world, atlas, &attacks)
        })
    }

    fn run_attacks(&self, world: &World, atlas: &Path, attacks: &[&Attack]) -> Result<()> {
        eprintln!("starting the hub and its clusters");
        let mut topology = SiegeTopology::start(world, atlas)?;
        siege::wait_recovered(&topology)?;
        let (mut rows, mut failed) = (Vec::new(), 0);
        for attack in attacks {
            eprintln!(
                "{}: quiet for {:?}, then for {:?}: {}; at most {}",
                attack.name, self.quiet, self.length, attack.does, attack.bound
            );
            let baseline = attack.baseline(&topology, self.quiet)?;
            // Failures without an attack: of the attack before, or of a machine that is too busy.
            let baseline_failures = baseline.failures();
            for line in &baseline_failures {
                eprintln!("  {line}");
            }
            let row = attack.run(&topology, self.length, Some(&baseline))?;
            for line in row.failures() {
                eprintln!("  {line}");
            }
            if row.recovered_after.is_none() {
                eprintln!("  not everything is as before 45 s later");
            }
            // So that the next attack's figures have no memory of this one's.
            topology.restart_all()?;
            siege::wait_recovered(&topology)?;
            failed += usize::from(
                !baseline_failures.is_empty() || row.failures > 0 || row.recovered_after.is_none(),
            );
            rows.push(row);
            self.write_json(&rows)?;
        }
        println!("{}", table(&rows));
        println!("{}", LEGEND);
        if failed > 0 {
            // Not an error of this program, so no logs are printed: ATLAS_LAB_KEEP=1 keeps them.
            // The world ends with this process.
            eprintln!("{failed} of {} attacks cost an honest client a request", rows.len());
            std::process::exit(1);
        }
        Ok(())
    }

    /// Writes all reports so far, after each attack, so that a late failure loses none.
    fn write_json(&self, rows: &[AttackReport]) -> Result<()> {
        let Some(file) = &self.json else { return Ok(()) };
        let rows: Vec<serde_json::Value> =
            rows.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
        report::write_json(file, &rows)
    }
}

const LEGEND: &str = "Ratios: the worst of any kind of honest client, against the quiet time just before. Memory: before → at most, resident; \
    of the clusters' Envoys the largest. Opened, refused, closed: what the attackers got, didn't get, and lost.";

/// The table in Markdown.
fn table(rows: &[AttackReport]) -> String {
    let mut text = String::from(
        "| Attack | Honest requests | Failed | p50 × | p99 × | Hub Envoy MiB | Cluster Envoy MiB | Atlas MiB | Opened | Refused | Closed | Recovered |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for row in rows {
        let (p50, p99) = row.worst_ratios();
        let memory =
            |of: fn(&Memory) -> u64| format!("{} → {}", of(&row.before) >> 20, of(&row.peak) >> 20);
        let recovered =
            row.recovered_after.map_or("no".into(), |seconds| format!("{seconds:.1} s"));
        let attackers = &row.attackers;
        text += &format!(
            "| {} | {} | {} | {p50:.1} | {p99:.1} | {} | {} | {} | {} | {} | {} | {recovered} |\n",
            row.attack,
            row.requests,
            row.failures,
            memory(|memory| memory.hub_envoy),
            memory(|memory| memory.cluster_envoy),
            memory(|memory| memory.atlas),
            attackers.opened,
            attackers.refused,
            attackers.closed
        );
    }
    text
}
