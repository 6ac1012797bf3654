//! Flags and environment variables of Atlas 0.3: they keep working, or a warning says why they have
//! no effect.
//!
//! Flags that were only renamed are aliases where they are defined. Here are the environment
//! variables, and flags that only 0.3 had. `atlas run` is newer than 0.3 and has none of this.

use std::env;

use clap::builder::Resettable;
use clap::{Arg, ArgAction, ArgMatches, Command};

const CONTROLLER: &str = "controller";
const ENVOY_ADS: &str = "envoy-ads";
/// 0.3's commands.
const COMMANDS: [&str; 4] = [CONTROLLER, ENVOY_ADS, "cluster-add", "cluster-values"];

/// Variables of 0.3: the commands, the name, and the argument that it sets. The first that is set
/// wins; a variable of today wins over all.
const VARIABLES: &[(&[&str], &str, &str)] = &[
    (&[CONTROLLER], "METRICS_PORT", "metrics_port"),
    (&[CONTROLLER], "CONTROLLER_METRICS_PORT", "metrics_port"),
    (&[ENVOY_ADS], "METRICS_PORT", "metrics_port"),
    (&[ENVOY_ADS], "ENVOY_ADS_METRICS_PORT", "metrics_port"),
    (&[CONTROLLER, ENVOY_ADS], "NAMESPACE", "namespace"),
    (&[CONTROLLER], "LOCKNAME", "lease_name"),
    (&[CONTROLLER, ENVOY_ADS], "ATLAS_ENVOY_ADDRESS", "hub_address"),
    (&[CONTROLLER, ENVOY_ADS], "ATLAS_ENVOY_ADS_ADDRESS", "hub_xds_address"),
    (&[CONTROLLER, ENVOY_ADS], "ATLAS_ENVOY_ADS_PORT", "hub_xds_port"),
    (&[CONTROLLER, ENVOY_ADS], "ALERTMANAGER_SELECTOR", "alertmanager_selector"),
    (&[ENVOY_ADS], "GRPC_PORT", "xds_port"),
    (&[ENVOY_ADS], "ENVOY_ADS_GRPC_PORT", "xds_port"),
    (&[ENVOY_ADS], "ATLAS_ENVOY_ADS_GRPC_PORT", "xds_port"),
];

/// A flag or variable that has no effect any more.
struct Ignored {
    commands: &'static [&'static str],
    flag: &'static str,
    takes_value: bool,
    variables: &'static [&'static str],
    why: &'static str,
}

const IGNORED: &[Ignored] = &[
    Ignored {
        commands: &COMMANDS,
        flag: "config",
        takes_value: true,
        variables: &[],
        why: "there is no configuration file: 0.3 never read it",
    },
    Ignored {
        commands: &[ENVOY_ADS],
        flag: "node-id",
        takes_value: true,
        variables: &["NODE_ID", "ENVOY_ADS_NODE_ID"],
        why: "versions of snapshots need no number of this process any more",
    },
    Ignored {
        commands: &[ENVOY_ADS],
        flag: "debug-envoy",
        takes_value: false,
        variables: &[],
        why: "there are no extra resources for debugging: `atlas translate` shows what Envoys get",
    },
    Ignored {
        commands: &[ENVOY_ADS],
        flag: "",
        takes_value: false,
        variables: &["LOCKNAME"],
        why: "this half of Atlas takes no Lease",
    },
];

/// The flag by which 0.3 named the ConfigMap with the DNS zone.
const ZONE_FLAG: &str = "dns-config-map-name";
const ZONE_VARIABLE: &str = "ATLAS_DNS_CM_NAME";

/// Adds the flags and variables of 0.3 to the command line.
pub fn adapt(mut command: Command) -> Command {
    if is_unset("ATLAS_LOG_LEVEL")
        && COMMANDS.iter().any(|name| env::args_os().nth(1).is_some_and(|first| first == *name))
    {
        command = with_variable(command, "log_level", "LOGLEVEL");
    }
    for name in COMMANDS {
        command = command.mut_subcommand(name, |sub| adapt_one(sub, name));
    }
    command.mut_subcommands(|sub| sub.mut_args(without_service_link))
}

fn adapt_one(mut command: Command, name: &'static str) -> Command {
    let mut done = Vec::new();
    for (_, variable, argument) in
        VARIABLES.iter().filter(|(commands, ..)| commands.contains(&name))
    {
        let today =
            command.get_arguments().find(|arg| arg.get_id() == argument).and_then(Arg::get_env);
        // A variable that Kubernetes sets for a Service is no setting.
        let today = today.is_some_and(|today| {
            env::var_os(today).is_some_and(|value| !value.to_str().is_some_and(is_service_link))
        });
        if !today && !is_unset(variable) && !done.contains(argument) {
            done.push(argument);
            command = with_variable(command, argument, variable);
        }
    }
    if name == ENVOY_ADS {
        command = command.mut_arg("xds_port", |arg| arg.alias("grpc-port"));
    }
    for old in IGNORED.iter().filter(|old| old.commands.contains(&name) && !old.flag.is_empty()) {
        command = command.arg(hidden(old.flag, old.takes_value));
    }
    if name == CONTROLLER { command.arg(hidden(ZONE_FLAG, true)) } else { command }
}

fn with_variable(command: Command, argument: &'static str, variable: &'static str) -> Command {
    if is_unset(variable) { command } else { command.mut_arg(argument, |arg| arg.env(variable)) }
}

fn hidden(flag: &'static str, takes_value: bool) -> Arg {
    Arg::new(flag).long(flag).hide(true).action(if takes_value {
        ArgAction::Set
    } else {
        ArgAction::SetTrue
    })
}

fn is_unset(variable: &str) -> bool {
    env::var(variable).map_or(true, |value| value.is_empty() || is_service_link(&value))
}

/// Ignores variables that Kubernetes sets in pods for a Service: for `atlas-web` it is
/// `ATLAS_WEB_PORT=tcp://10.0.0.7:80`.
fn without_service_link(arg: Arg) -> Arg {
    let link = arg
        .get_env()
        .and_then(|name| env::var(name).ok())
        .is_some_and(|value| is_service_link(&value));
    if link { arg.env(Resettable::Reset) } else { arg }
}

fn is_service_link(value: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
}

/// A log level of today for one of 0.3.
pub fn level(level: &str) -> &str {
    match level {
        "warning" => "warn",
        "fatal" | "panic" => "error",
        other => other,
    }
}

/// Warnings about flags and variables that were given and have no effect any more.
pub fn warnings(matches: &ArgMatches) -> Vec<String> {
    let Some((command, given)) = matches.subcommand() else { return Vec::new() };
    let has = |flag: &str| {
        given.try_contains_id(flag).unwrap_or(false)
            && given.value_source(flag).is_some_and(|source| !is_default(source))
    };
    let mut warnings = Vec::new();
    for old in IGNORED.iter().filter(|old| old.commands.contains(&command)) {
        let flag =
            Some(format!("--{}", old.flag)).filter(|_| !old.flag.is_empty() && has(old.flag));
        let variables = old
            .variables
            .iter()
            .filter(|variable| !is_unset(variable))
            .map(|variable| (*variable).to_owned());
        warnings.extend(
            flag.into_iter()
                .chain(variables)
                .map(|what| format!("{what} of Atlas 0.3 is ignored: {}", old.why)),
        );
    }
    if command == CONTROLLER {
        let flag = given
            .try_get_one::<String>(ZONE_FLAG)
            .ok()
            .flatten()
            .cloned()
            .map(|name| (format!("--{ZONE_FLAG}"), name));
        let variable = env::var(ZONE_VARIABLE)
            .ok()
            .filter(|name| !name.is_empty())
            .map(|name| (ZONE_VARIABLE.to_owned(), name));
        let (fixed, _) = atlas_core::object_names::ZONE_CONFIG_MAP;
        if let Some((what, name)) = flag.or(variable).filter(|(_, name)| name != fixed) {
            warnings.push(format!(
                "{what} of Atlas 0.3 is ignored: the ConfigMap with the DNS zone is always called {fixed}: mount it instead of {name}"
            ));
        }
    }
    if command == ENVOY_ADS
        && given
            .try_get_one::<String>("lease_name")
            .ok()
            .flatten()
            .is_some_and(|name| name == "atlas-envoy-ads")
    {
        warnings
            .push("--lockname atlas-envoy-ads: 0.3 had a Lease for each half, and there is one now, the controller's: leave it out".into());
    }
    warnings
}

fn is_default(source: clap::parser::ValueSource) -> bool {
    source == clap::parser::ValueSource::DefaultValue
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn parse(line: &str) -> ArgMatches {
        adapt(Cli::command())
            .try_get_matches_from(["atlas"].into_iter().chain(line.split(' ')))
            .unwrap()
    }

    #[test]
    fn every_argument_that_a_variable_of_0_3_sets_is_there() {
        for (commands, _, argument) in VARIABLES {
            for name in *commands {
                let command = Cli::command();
                let command = command.find_subcommand(name).unwrap();
                assert!(
                    command.get_arguments().any(|arg| arg.get_id() == argument),
                    "{name}: {argument}"
                );
            }
        }
        adapt(Cli::command()).debug_assert();
    }

    #[test]
    fn flags_of_0_3_are_taken_and_those_without_meaning_are_named() {
        let matches = parse(
            "envoy-ads --grpc-port 7000 --node-id 3 --debug-envoy --config x -l debug --envoy-address hub.example.com --metrics-port 7001",
        );
        let (_, given) = matches.subcommand().unwrap();
        assert_eq!(
            (given.get_one::<u16>("xds_port"), given.get_one::<u16>("metrics_port")),
            (Some(&7000), Some(&7001))
        );
        let warnings = warnings(&matches);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        for (flag, warning) in ["--config", "--node-id", "--debug-envoy"].iter().zip(&warnings) {
            assert!(warning.starts_with(flag), "{warning}");
        }
    }

    #[test]
    fn the_zone_s_config_map_has_one_name() {
        assert_eq!(
            warnings(&parse("controller --dns-config-map-name atlas-coredns --lockname atlas")),
            [""; 0]
        );
        let warnings = warnings(&parse("controller --dns-config-map-name mine"));
        assert!(
            warnings.len() == 1
                && warnings[0].contains("atlas-coredns")
                && warnings[0].contains("mine"),
            "{warnings:?}"
        );
    }
}
