//! The pure core: everything that Atlas decides. Text and plain data in, plain data out.
//!
//! ```text
//! text ─▶ yaml ─▶ manifests ─▶ validate ─▶ Fleet ─▶ plan ─┬▶ a snapshot per node ─▶ xds::session
//!                                 │          ▲            ├▶ thanos: endpoints, DNS zone
//!                                 ▼        Trust          └▶ install: bootstraps, Helm values
//!                             findings       ▲
//!                                      pki: what to issue
//! ```
//!
//! | Module | In | Out |
//! | --- | --- | --- |
//! | [`yaml`] | the text of a file | manifests, or all errors with line and key |
//! | [`manifest`] | | what Atlas reads of a Service or an EndpointSlice, as written |
//! | [`validate`](mod@validate) | manifests, settings, the fleet in force | a [`model::Fleet`]; findings |
//! | [`plan`](mod@plan) | fleet, [`pki::Trust`] | the resources of every Envoy |
//! | [`envoy`] | names, addresses, limits | Envoy's messages |
//! | [`thanos`] | fleet | the endpoints of Thanos Query; the DNS zone |
//! | [`install`] | fleet, credentials | bootstrap files, Helm values, manifests for installing |
//! | [`kubernetes`] | fleet; the state of a Lease | the objects that Atlas writes; who is leader |
//! | [`xds`] | requests, snapshots | responses; what to do after a NACK |
//! | [`pki`] | existing certificates, nodes, the time | which certificates to issue |
//! | [`render`] | messages | YAML for people and for Envoy |
//! | [`text`] | text of others | text that is safe to show |
//! | [`name`], [`quantity`], [`model`] | | checked names and sizes; plain data |
//! | [`annotations`], [`ports`], [`object_names`] | | the keys that people write; ports; names of objects |
//!
//! # Invariants
//!
//! - **Architecture invariant:** no IO, no clock, no randomness, no environment: all input comes as
//!   values. `core/Cargo.toml` has no crate that does IO, and `clippy.toml` forbids that of std.
//!   (envoy-types depends on the transport of tonic, which is unused.)
//! - **Equal input gives equal output, to the byte**, whatever its order. So an unchanged fleet has
//!   unchanged versions, and nothing is sent twice.
//! - **An error in one object doesn't affect another.** It becomes a finding.
//! - **No resource holds a list of all clusters**, so the size of an update is that of the change.
//! - **No certificate outlives its issuer.**
//! - **No input causes a panic.** A value of a type of [`name`] has been checked.

pub mod annotations;
pub mod envoy;
pub mod install;
pub mod kubernetes;
pub mod manifest;
pub mod model;
pub mod name;
pub mod object_names;
pub mod pki;
pub mod plan;
pub mod ports;
pub mod quantity;
pub mod render;
pub mod text;
pub mod thanos;
pub mod validate;
pub mod xds;
pub mod yaml;
