//! `cargo xtask bench link`: what a far link costs, and the settings that help.
//!
//! Two real Envoys with an emulated far link between them ([`atlas_lab::world::Link`]), one worker
//! each. Three questions:
//!
//! ```text
//! sharing  two large answers over one HTTP/2 connection, against a connection for each; a small
//!          one beside a large, over the same connection, that of another priority, or its own
//! windows  how much one and two answers get by the receiver's HTTP/2 windows
//! buffers  how long a small answer waits beside a large one, by the sender's unsent data
//! ```
//!
//! Large answers are endless and are read for some seconds, so that a slow link takes no longer
//! than a fast one. Each setting has new Envoys on new hosts, since TCP caches metrics of a
//! destination.

mod envoys;
mod traffic;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use atlas_lab::parts::{self, Part};
use atlas_lab::world::World;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::cost::{machine, milliseconds};
use super::{report, world};
use envoys::Link;
use traffic::Read;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Question {
    Sharing,
    Windows,
    Buffers,
}

/// A far link.
#[derive(Debug, Args)]
pub(super) struct LinkBench {
    /// What to measure.
    #[arg(value_enum, default_values_t = [Question::Sharing, Question::Windows, Question::Buffers])]
    questions: Vec<Question>,
    /// Round trips, in milliseconds.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 300], value_parser = clap::value_parser!(u64).range(0..=5_000))]
    round_trips: Vec<u64>,
    /// Lost packets in each direction, in per cent.
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 0.1, 1.0])]
    loss: Vec<f64>,
    /// TCP's congestion control; `reno` is the most cautious one that every machine has.
    #[arg(long, value_delimiter = ',', default_value = "reno,bbr")]
    congestion: Vec<String>,
    /// The receiver's HTTP/2 window of a stream, in KiB, where that isn't the question; a
    /// connection's is four times that.
    #[arg(long, default_value_t = 1024, value_name = "KIB", value_parser = clap::value_parser!(u32).range(64..=65_536))]
    stream_window: u32,
    /// The rate of the link, in Mbit/s.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rate: u64,
    /// Seconds for which each setting is measured, twice.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
    /// Write the figures to this file too, as a list of rows.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds after which everything is ended.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    limit: u64,
}

/// The settings of both Envoys and of the link.
#[derive(Clone, Debug)]
struct Setting {
    round_trip: Duration,
    /// 0 to 1.
    loss: f64,
    bytes_per_second: u64,
    congestion: String,
    /// `None`: Envoy's default.
    streams_per_connection: Option<u32>,
    /// Whether small requests have the priority HIGH, for which Envoy opens separate connections
    /// within the same Envoy cluster.
    small_first: bool,
    stream_window: u32,
    connection_window: u32,
    /// `per_connection_buffer_limit_bytes` of the sender's listener; `None`: Envoy's 1 MiB.
    write_buffer: Option<u32>,
    /// `TCP_NOTSENT_LOWAT` of the sender; `None`: the kernel's.
    unsent: Option<u32>,
    /// The sender's stream window towards its upstream; `None`: Envoy's 256 MiB.
    source_window: Option<u32>,
    /// `TCP_MAXSEG` of the connecting side.
    segment: Option<u32>,
}

impl Setting {
    /// The queue before the link: its rate times the round trip, or 100 ms if that is longer, as is
    /// recommended for routers.
    fn queue_bytes(&self) -> usize {
        let milliseconds = u64::try_from(self.round_trip.as_millis()).unwrap_or(u64::MAX).max(100);
        usize::try_from(self.bytes_per_second * milliseconds / 1000).unwrap_or(usize::MAX)
    }
}

const MIB: u32 = 1 << 20;

impl LinkBench {
    /// Measures, prints the table, and writes the JSON file.
    ///
    /// # Errors
    /// A program doesn't start, or an answer fails.
    pub(super) fn run(self) -> Result<()> {
        world::run_without_atlas(&[Part::Envoy], Duration::from_secs(self.limit), |world| {
            println!(
                "Envoy {}; {} Mbit/s; each setting for {} s; {}\n",
                Part::Envoy.version(),
                self.rate,
                self.seconds,
                machine()
            );
            let mut rows = Vec::new();
            let mut number = 0;
            for question in &self.questions {
                let (columns, settings) = self.settings(*question);
                let mut table = Vec::new();
                for (cells, setting) in settings {
                    number += 1;
                    eprintln!("{question:?} {number}: {}", cells.join(" "));
                    let measured = self.measure(world, number, &setting)?;
                    rows.push(json_row(*question, &setting, &measured));
                    table.push([cells, measured.cells()].concat());
                }
                let figures = [
                    "one MiB/s",
                    "two MiB/s",
                    "of these the slower",
                    "small beside p50 ms",
                    "max ms",
                ];
                println!("{}", report::table(&[columns.as_slice(), &figures].concat(), &table));
            }
            self.json.as_deref().map_or(Ok(()), |file| report::write_json(file, &rows))
        })
    }

    /// The columns in which the settings differ, and their cells.
    fn settings(&self, question: Question) -> (Vec<&'static str>, Vec<(Vec<String>, Setting)>) {
        let mut settings = Vec::new();
        let base = |round_trip: u64, loss: f64, congestion: &str| Setting {
            round_trip: Duration::from_millis(round_trip),
            loss: loss / 100.0,
            bytes_per_second: self.rate * 125_000,
            congestion: congestion.to_owned(),
            streams_per_connection: None,
            small_first: false,
            stream_window: self.stream_window << 10,
            connection_window: self.stream_window << 12,
            write_buffer: None,
            unsent: None,
            source_window: None,
            segment: None,
        };
        for congestion in &self.congestion {
            for &round_trip in &self.round_trips {
                for &loss in &self.loss {
                    let base = base(round_trip, loss, congestion);
                    let link = [congestion.clone(), round_trip.to_string(), loss.to_string()];
                    let mut add = |cells: &[String], setting| {
                        settings.push(([link.as_slice(), cells].concat(), setting))
                    };
                    match question {
                        Question::Sharing => {
                            add(&["one".into()], base.clone());
                            add(
                                &["one by priority".into()],
                                Setting { small_first: true, ..base.clone() },
                            );
                            add(
                                &["one each".into()],
                                Setting { streams_per_connection: Some(1), ..base },
                            );
                        }
                        Question::Windows => {
                            for (stream, connection) in [
                                (MIB / 4, MIB),
                                (MIB, 4 * MIB),
                                (4 * MIB, 16 * MIB),
                                (16 * MIB, 32 * MIB),
                            ] {
                                let cells = [kib(stream), kib(connection)];
                                add(
                                    &cells,
                                    Setting {
                                        stream_window: stream,
                                        connection_window: connection,
                                        ..base.clone()
                                    },
                                );
                            }
                        }
                        Question::Buffers => {
                            let few = Some(64 << 10);
                            for (write_buffer, unsent, source_window, segment) in [
                                (None, None, None, None),
                                (few, None, None, None),
                                (None, None, few, None),
                                (few, None, few, None),
                                (few, few, few, None),
                                (few, few, few, Some(1220)),
                            ] {
                                let cells = [write_buffer, unsent, source_window]
                                    .map(|bytes| bytes.map_or_else(|| "default".into(), kib));
                                let segment_cell = segment
                                    .map_or_else(|| "1448".into(), |bytes: u32| bytes.to_string());
                                let cells = [cells.as_slice(), &[segment_cell]].concat();
                                add(
                                    &cells,
                                    Setting {
                                        write_buffer,
                                        unsent,
                                        source_window,
                                        segment,
                                        ..base.clone()
                                    },
                                );
                            }
                        }
                    }
                }
            }
        }
        let columns = ["congestion control", "round trip ms", "loss %"];
        let own: &[&str] = match question {
            Question::Sharing => &["connections"],
            Question::Windows => &["stream KiB", "connection KiB"],
            Question::Buffers => &["buffer KiB", "unsent KiB", "from source KiB", "segment"],
        };
        ([columns.as_slice(), own].concat(), settings)
    }

    fn measure(&self, world: &World, number: usize, setting: &Setting) -> Result<Measured> {
        let link = Link::start(world, &parts::get(Part::Envoy)?, number, setting)?;
        let time = Duration::from_secs(self.seconds);
        let read = |large, small| traffic::read(&link.hub, Link::address(), large, small, time);
        let one = read(1, true)?;
        let connections_of_one = link.hub_envoy.stat("cluster.to.upstream_cx_total")?;
        let two = read(2, false)?;
        Ok(Measured {
            one,
            two,
            connections: link.hub_envoy.stat("cluster.to.upstream_cx_total")?,
            connections_of_one,
        })
    }
}

fn kib(bytes: u32) -> String {
    (bytes >> 10).to_string()
}

/// One setting's figures.
struct Measured {
    /// One large answer, with concurrent small ones.
    one: Read,
    /// Two large answers.
    two: Read,
    /// Connections over the link: in total, and for the first part.
    connections: u64,
    connections_of_one: u64,
}

impl Measured {
    fn cells(&self) -> Vec<String> {
        let per_second = |bytes: f64| format!("{:.2}", bytes / f64::from(MIB));
        vec![
            per_second(self.one.large.iter().sum()),
            per_second(self.two.large.iter().sum()),
            per_second(self.two.large.iter().copied().fold(f64::INFINITY, f64::min)),
            format!("{:.0}", milliseconds(self.one.small.percentile(50))),
            format!("{:.0}", milliseconds(self.one.small.percentile(100))),
        ]
    }
}

fn json_row(question: Question, setting: &Setting, measured: &Measured) -> Value {
    json!({
        "question": format!("{question:?}"), "congestion": setting.congestion, "round_trip_ms": milliseconds(setting.round_trip),
        "loss": setting.loss, "streams_per_connection": setting.streams_per_connection, "small_first": setting.small_first,
        "stream_window": setting.stream_window, "connection_window": setting.connection_window,
        "write_buffer": setting.write_buffer, "unsent": setting.unsent, "source_window": setting.source_window, "segment": setting.segment,
        "one_bytes_per_s": measured.one.large, "two_bytes_per_s": measured.two.large,
        "small_count": measured.one.small.count(),
        "small_p50_ms": milliseconds(measured.one.small.percentile(50)), "small_max_ms": milliseconds(measured.one.small.percentile(100)),
        "connections": measured.connections, "connections_of_one": measured.connections_of_one,
    })
}
