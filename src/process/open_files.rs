//! The limit of open files, which bounds the number of connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Taken where the process has no limit: memory is one still.
const UNLIMITED: u64 = 1 << 20;

/// Raises the soft limit of open files to the hard limit, and returns it. The usual soft limit,
/// 1,024, exists for programs that call `select`.
pub fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let highest = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let raised = setrlimit(Resource::Nofile, highest).is_ok();
    let files = if raised { limit.maximum } else { limit.current };
    files.unwrap_or(UNLIMITED)
}
