//! The pure core.
pub mod envoy;
pub mod fact;
pub mod intake;
pub mod keys;
pub mod manifest;
pub mod model;
pub mod name;
pub mod pki;
pub mod plan;
pub mod render;
pub mod xds;
