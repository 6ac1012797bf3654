//! Atlas's chores: `cargo xtask --help`.

mod bench;
mod build;
mod demo;
mod image;
mod licences;
mod scale;
mod setup;
mod siege;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Atlas's chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Get the real programs that Atlas is tried with into the cache (all, or those named)
    Setup {
        /// Names of parts, e.g. `thanos`.
        parts: Vec<String>,
    },
    /// Run a hub and two clusters on this machine, prove that everything works, and let you look
    /// around
    Demo(demo::Demo),
    /// Measure what the data plane costs, with the real programs: the hub's Envoy, and Thanos Query
    /// through both Envoys
    Bench(bench::Bench),
    /// Build Atlas as a container image: an OCI layout with one static program, and its bill of
    /// materials
    Image(image::Image),
    Scale(scale::Scale),
    Siege(siege::Siege),
    /// Check the licences of all dependencies, offline
    Licences,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup { parts } => setup::run(parts),
        Command::Demo(demo) => demo.run(),
        Command::Bench(bench) => bench.run(),
        Command::Image(image) => image.run(),
        Command::Scale(scale) => scale.run(),
        Command::Siege(siege) => siege.run(),
        Command::Licences => licences::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
