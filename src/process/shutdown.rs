//! How a process is told to stop, and how long stopping may take.

use std::time::Duration;

/// How long open xDS streams get to end by themselves, and after them everything else.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits for SIGTERM or SIGINT; returns its name.
pub async fn wait_for_signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
