//! The command line. Every flag is also an environment variable; `atlas --help` teaches.

mod bootstrap;
mod cluster;
mod completions;
mod flags;
mod legacy;
pub mod output;
mod run;
mod socket;
mod status;
mod translate;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

/// How a command ended, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 0: done.
    Done,
    /// 3: done, but something was rejected.
    SomethingRejected,
}

/// The control plane of a secure, distributed Thanos.
///
/// Atlas reads Kubernetes Services, from the hub's Kubernetes cluster or from a directory, and from
/// them alone configures one Envoy per cluster over xDS: Thanos Query reaches every downstream
/// Thanos sidecar, people reach every downstream Prometheus and Alertmanager, and every downstream
/// Prometheus sends its alerts to the hub, all over mutual TLS.
#[derive(Debug, Parser)]
#[command(name = "atlas", version, propagate_version = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value = "text", env = "ATLAS_LOG_FORMAT")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or per module (`atlas=debug,h2=warn`).
    #[arg(short, long, global = true, default_value = "info", env = "ATLAS_LOG_LEVEL")]
    log_level: String,
}

const AFTER_HELP: &str = "\
Getting started on Kubernetes, where kubectl and helm lead to the hub's cluster:
  helm install atlas oci://ghcr.io/goatlas-io/charts/atlas -n monitoring --set atlas.hubAddress=hub.example.com
  atlas cluster-add tokyo --address tokyo.example.com --replicas 2
  atlas cluster-values tokyo > tokyo.yaml      the values of tokyo's Envoy; they hold its key
  helm --kube-context tokyo install atlas-envoy oci://ghcr.io/goatlas-io/charts/envoy -n monitoring -f tokyo.yaml
  atlas status                                 who is connected, and what is wrong

Getting started without Kubernetes:
  atlas cluster-add tokyo --from clusters --address tokyo.example.com
  atlas run --from clusters --state state --hub-address hub.example.com
  atlas bootstrap hub --state state            the hub Envoy's files, kept fresh in place
  atlas bootstrap tokyo --state state --out t  tokyo's, to be carried there
  atlas status --state state

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but something was rejected.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Run>),
    Controller(Box<run::Controller>),
    EnvoyAds(Box<run::EnvoyAds>),
    Bootstrap(bootstrap::Bootstrap),
    Status(status::StatusArgs),
    ClusterAdd(cluster::add::ClusterAdd),
    ClusterList(Box<cluster::list::ClusterList>),
    ClusterRemove(cluster::remove::ClusterRemove),
    ClusterValues(Box<cluster::values::ClusterValues>),
    Translate(Box<translate::Translate>),
    Completions(completions::Completions),
}

/// Parses, runs, and turns the result into an exit code.
pub fn main() -> ExitCode {
    let matches = legacy::adapt(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    log(&cli);
    for warning in legacy::warnings(&matches) {
        tracing::warn!("{warning}");
    }
    let result = match cli.command {
        Command::Run(run) => run.run(),
        Command::Controller(controller) => controller.run(),
        Command::EnvoyAds(ads) => ads.run(),
        Command::Bootstrap(bootstrap) => bootstrap.run(),
        Command::Status(status) => status.run(),
        Command::ClusterAdd(add) => add.run(),
        Command::ClusterList(list) => list.run(),
        Command::ClusterRemove(remove) => remove.run(),
        Command::ClusterValues(values) => values.run(),
        Command::Translate(translate) => translate.run(),
        Command::Completions(completions) => completions.run(),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::SomethingRejected) => ExitCode::from(3),
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(wrong_usage) => wrong_usage.exit(),
            Err(error) => {
                output::say(format_args!("atlas: {error:#}"));
                ExitCode::FAILURE
            }
        },
    }
}

/// Logs go to standard error, so that what a command prints can be piped.
fn log(cli: &Cli) {
    // The Kubernetes client logs every failed connection without its purpose. Atlas logs it once,
    // with its purpose.
    let quiet = if cli.log_level.contains("kube_client") { "" } else { ",kube_client=off" };
    let level =
        tracing_subscriber::EnvFilter::try_new(format!("{}{quiet}", legacy::level(&cli.log_level)));
    let filter = level.unwrap_or_else(|error| {
        Cli::command().error(ErrorKind::ValueValidation, format!("--log-level: {error}")).exit()
    });
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    match cli.log_format {
        LogFormat::Text => {
            builder.with_target(false).with_writer(move || output::Log::text(colours)).init()
        }
        LogFormat::Json => builder.json().with_writer(output::Log::json).init(),
    }
}
