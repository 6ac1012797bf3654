//! The Kubernetes mode: Services and Secrets in, objects and Events out.
//!
//! ```text
//!             ┌─ watches ─▶ manifests, the PKI's Secrets ─▶ provider ─▶ engine (every replica)
//! API server ─┤                                              │  ▲
//!             ├─ election ─▶ Candidate ──────────────────────┘  │ outputs (the leader alone)
//!             └◀── pki_store, writer, events ◀ leader_outputs ◀──┘
//! ```
//!
//! | Module | What it does |
//! | --- | --- |
//! | `connect` | a client, by a kubeconfig or from within a pod |
//! | `admin` | requests of commands, on behalf of a person |
//! | `provider` | the engine's provider: changes in, outputs out |
//! | `reflector`, `watches`, `convert` | the watched objects as manifests, and what changed |
//! | `election` | reads and writes the Lease |
//! | `pki_secret`, `pki_store` | the PKI as Secrets |
//! | `leader_outputs` | what a leader writes besides the PKI: gathers objects for `writer` and messages for `events` |
//! | `desired_objects` | the objects that the leader writes, made for what changed |
//! | `writer` | applies and deletes these objects |
//! | `ready_services` | which Services of the hub's Envoys have a ready pod |
//! | `stale_endpoints` | deletes EndpointSlices and Endpoints of Services that became ExternalNames |
//! | `events` | Events on clusters' Services |
//! | `run` | starts all of it |

pub mod admin;
pub mod connect;
mod convert;
mod desired_objects;
pub mod election;
mod errors;
mod events;
mod leader_outputs;
mod pki_secret;
mod pki_store;
mod provider;
mod ready_services;
mod reflector;
pub mod run;
mod stale_endpoints;
mod watches;
mod writer;

/// The field manager of all objects that Atlas writes.
pub const MANAGER: &str = "atlas";
/// How many writes are in flight at a time. More gain nothing on two cores, and would only use up
/// the API server's limits.
const WRITES: usize = 16;
