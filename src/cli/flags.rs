//! Flags that several commands share, and the configuration that they become ([`crate::config`]).
//!
//! | Module | Flags | Become |
//! | --- | --- | --- |
//! | `settings` | the hub, names, the hub's Alertmanagers | `atlas_core::model::Settings` |
//! | `server` | listening, lifetimes, changes | [`crate::config::Config`] |
//! | `limits` | limits of the xDS port | `crate::xds::LimitOptions` |
//! | `kubernetes` | kubeconfig, namespace, Lease | [`crate::config::KubernetesConfig`] |
//! | `values` | | how flags' values are read and how defaults are written |

pub mod kubernetes;
mod limits;
pub mod server;
pub mod settings;
pub mod values;
