//! What was refused.

/// What was refused.
#[derive(Clone, Debug, Default)]
pub struct Quarantine;
