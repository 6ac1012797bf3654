//! The changes whose cost is measured.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// A cluster is added, until the hub has acknowledged its resources.
    Add,
    /// A cluster's address changes, until the hub has acknowledged it.
    Edit,
    /// A cluster is removed, until the hub has acknowledged that.
    Remove,
    /// The hub gets or loses an Alertmanager, until every client has acknowledged it.
    Alertmanager,
    /// All connections break at once, until every client is in sync again.
    Reconnect,
    /// The server restarts, until every client is in sync again.
    Restart,
}

impl Case {
    pub fn name(self) -> &'static str {
        match self {
            Case::Add => "add",
            Case::Edit => "edit",
            Case::Remove => "remove",
            Case::Alertmanager => "alertmanager",
            Case::Reconnect => "reconnect",
            Case::Restart => "restart",
        }
    }
}
