//! Atlas: the control plane of a secure, distributed Thanos. ARCHITECTURE.md is the map.

mod app;
mod budget;
mod ca;
mod cli;
mod clock;
mod controller;
mod dns;
mod http;
mod kube;
mod lock;
mod metrics;
mod nodefiles;
mod nodes;
mod published;
mod publisher;
mod room;
mod serve;
mod source;
mod state_dir;
mod status;
mod streams;
mod tls;
mod web;
mod xds;

fn main() -> std::process::ExitCode {
    cli::main()
}
