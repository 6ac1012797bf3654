//! The pure core as a whole: manifests in, Envoy's configuration, DNS zone and findings out.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "cases are files; the core itself does no IO"
)]

mod cases;
mod golden;
mod random;
mod rules;
mod update_golden;
mod walk;
