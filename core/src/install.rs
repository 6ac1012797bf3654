//! What an Envoy is installed from: its bootstrap files, Helm values, and the manifests for Flux
//! and K3s.

pub mod bootstrap_files;
pub mod helm_values;
pub mod manifests;
