//! Atlas on Kubernetes: Services and Secrets in, objects and Events out.
//!
//! ```text
//!             ┌─ watch ─▶ Reflectors: clusters, Alertmanagers, Atlas's PKI ─┐
//! API server ─┤                                                         ▼
//!             │                         every replica: controller ─▶ PublishedState ─▶ xDS, DNS, status
//!             ├─ election ─▶ Candidate ──────────┐       │
//!             │                                  ▼       ▼ the leader alone
//!             └◀── pki_store (PKI), writer (objects), events ┘
//! ```
//!
//! | Module | What it does |
//! | --- | --- |
//! | `connect` | kubeconfig or pod: a client |
//! | `admin` | what commands ask on behalf of a person |
//! | `watch`, `convert` | what is there, as manifests |
//! | `election` | reads and writes the Lease |
//! | `record`, `pki_store` | Atlas's PKI as Secrets |
//! | `derived_objects` | the objects that the leader writes |
//! | `writer` | applies and deletes these objects |
//! | `ready_services` | which Services of the hub's Envoys have a ready pod |
//! | `stale_endpoints` | deletes EndpointSlices and Endpoints of Services that became ExternalNames |
//! | `events` | says on a Service what people should know |
//! | `controller` | one round after the other |
//! | `run` | all wiring |

pub mod admin;
pub mod connect;
mod controller;
mod convert;
mod derived_objects;
pub mod election;
mod errors;
mod events;
pub mod pki_secrets;
mod ready_services;
pub mod record;
pub mod run;
mod stale_endpoints;
mod watch;
mod writer;

/// The field manager of everything that Atlas writes.
pub const MANAGER: &str = "atlas";
/// Writes under way at a time. On two cores more gain nothing, and a burst must not use up the API server's patience.
const WRITES: usize = 16;
