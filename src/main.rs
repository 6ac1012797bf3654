//! Atlas: the control plane of a secure, distributed Thanos. ARCHITECTURE.md is the map.

mod app;
mod cli;
mod config;
mod dns;
mod engine;
mod kube;
mod metrics;
mod pki;
mod process;
mod standalone;
mod state;
mod web;
mod xds;

fn main() -> std::process::ExitCode {
    cli::main()
}
