//! Tasks that run for as long as the process does.

use std::future::Future;

use tokio::task::JoinSet;

/// A set of named tasks. None may end before it is told to, so the first to end is an error.
#[derive(Default)]
pub struct Tasks(JoinSet<&'static str>);

impl Tasks {
    /// Starts a task.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits for the first task to end and returns its name. A task that panicked has no name.
    pub async fn first_ended(&mut self) -> &'static str {
        match self.0.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(_)) => "a task that panicked (see above)",
            None => std::future::pending().await,
        }
    }

    /// Waits until all tasks have ended.
    pub async fn join_all(&mut self) {
        while self.0.join_next().await.is_some() {}
    }
}
