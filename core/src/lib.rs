//! The pure core: everything that Atlas decides. Text and plain data in, plain data out.
//!
//! ```text
//! text ─▶ manifest ─▶ facts ─▶ intake ─▶ Fleet ─▶ plan ─┬▶ Snapshot per node ─▶ xds::session ─▶ what a stream is sent
//!                                 │         ▲           ├▶ endpoints, zone ───────────────────▶ what Thanos is told
//!                                 ▼       Trust         └▶ bootstrap ─▶ render ───────────────▶ what an Envoy starts from
//!                             findings      ▲
//!                                     pki: what to issue
//! ```
//!
//! | Module | In | Out |
//! | --- | --- | --- |
//! | [`manifest`] | the text of a file | facts; or every mistake with its line and key |
//! | [`fact`] | | what Atlas wants to know of an object, as written |
//! | [`intake`] | facts, settings, the fleet in force | a [`model::Fleet`]; findings |
//! | [`plan`](mod@plan) | fleet, [`pki::Trust`] | what every node, Thanos and DNS should have |
//! | [`envoy`] | what a resource is to say | Envoy's own messages |
//! | [`xds::snapshot`] | messages | resources with the hash of their content as their version |
//! | [`xds::session`] | a request, or a new snapshot | responses |
//! | [`lease`] | what became of reading and writing a Lease, the time | what to do next; who may write |
//! | [`pki`] | what there is, who should have something, the time | what to issue, until when |
//! | [`render`] | messages | YAML for people and for Envoy |
//! | [`text`] | foreign text | the same, fit to be shown |
//! | [`name`], [`quantity`], [`keys`], [`model`] | | names parsed once; every key, default and port; plain data |
//!
//! # Invariants
//!
//! - **Architecture invariant:** no IO, no clock, no randomness, no environment: what comes in comes as a value. The manifest
//!   names no crate that does IO, and `clippy.toml` refuses std's. (envoy-types drags tonic's transport in, unused.)
//! - **Equal input gives equal output, to the byte**, whatever its order. So an unchanged fleet has unchanged versions, and
//!   nothing is sent twice.
//! - **One object never touches another.** What is wrong with one is a finding, and the others don't notice.
//! - **No resource holds a list of all clusters**, so a change costs the wire what it says and no more.
//! - **No certificate outlives its issuer.**
//! - **Nothing panics, whatever people wrote.** What has a type of [`name`] has been checked.

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
