//! The engine of both modes: whenever something changes, a certificate is due or a minute has
//! passed, it reconciles.
//!
//! A [`Provider`] gives it what has changed and writes what comes of it: a directory of manifests
//! and files, or an API server. The provider also reports with the changes whether this
//! replica issues and writes.

pub mod ingest;
pub mod last_good;
pub mod provider;
pub mod publisher;

mod issue;
pub mod reconcile;
mod schedule;

use atlas_core::model::Settings;
use tokio::sync::mpsc;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use crate::pki::Pki;
use crate::process::debounce::{Debounce, Debouncer};
use crate::state::EngineCommand;
use provider::Provider;
use publisher::Publisher;
use reconcile::{Reconciled, Reconciler};
use schedule::ReconcileSchedule;

/// Reconciles until it is told to stop.
pub struct Engine<P: Provider> {
    reconciler: Reconciler<P>,
    /// From the control socket, where there is one.
    commands: Option<mpsc::Receiver<EngineCommand>>,
    debouncer: Debouncer,
    schedule: ReconcileSchedule,
}

impl<P: Provider> Engine<P> {
    /// Begins with what `pki` has been read to hold.
    pub fn new(
        settings: Settings,
        provider: P,
        pki: Pki<P::Store>,
        publisher: Publisher,
        debounce: Debounce,
        commands: Option<mpsc::Receiver<EngineCommand>>,
    ) -> Self {
        Self {
            reconciler: Reconciler::new(settings, provider, pki, publisher),
            commands,
            debouncer: Debouncer::new(debounce),
            schedule: ReconcileSchedule::new(),
        }
    }

    /// Runs until cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.reconciler.changed() => {
                    if stop.run_until_cancelled(self.burst()).await.is_none() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(self.schedule.next()) => {
                    self.reconciler.look_at_everything();
                }
                command = next(&mut self.commands) => self.execute(command),
                () = stop.cancelled() => return,
            }
            self.reconcile().await;
            self.debouncer.acted();
        }
    }

    /// Waits for the end of the burst that a change may begin.
    async fn burst(&mut self) {
        let burst = self.debouncer.burst();
        while let Some(until) = burst.wait_until(true) {
            if timeout_at(until, self.reconciler.changed()).await.is_err() {
                return;
            }
        }
    }

    async fn reconcile(&mut self) {
        let full = self.reconciler.is_full();
        match self.reconciler.reconcile().await {
            Ok(Some(Reconciled { complete: true, full, next_due, .. })) => {
                self.schedule.succeeded(full, next_due);
            }
            Ok(Some(Reconciled { full, .. })) => self.schedule.failed(full),
            Ok(None) | Err(_) => self.schedule.failed(full),
        }
    }

    fn execute(&mut self, command: EngineCommand) {
        match command {
            EngineCommand::ForgetCluster(cluster, reply) => {
                let _ = reply.send(tokio::task::block_in_place(|| self.reconciler.forget(cluster)));
            }
        }
    }
}

/// The next command; never, where there are none.
async fn next(commands: &mut Option<mpsc::Receiver<EngineCommand>>) -> EngineCommand {
    if let Some(receiver) = commands
        && let Some(command) = receiver.recv().await
    {
        return command;
    }
    std::future::pending().await
}

#[cfg(test)]
pub mod tests;
