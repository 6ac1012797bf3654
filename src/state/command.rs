//! What people ask of a running Atlas through its control socket.

use atlas_core::name::ClusterName;
use tokio::sync::oneshot;

/// A request to the engine, with the channel for its answer.
pub enum EngineCommand {
    /// Forget the credentials of a cluster that has been removed, and close its connections.
    ForgetCluster(ClusterName, oneshot::Sender<anyhow::Result<()>>),
}
