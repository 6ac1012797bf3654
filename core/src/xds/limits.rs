//! What one stream may ask for, and about how much memory it makes Atlas use.
//!
//! The client at the other end is another organisation's machine. [`SessionLimits`] bound one stream. What
//! all streams of a node use together is bounded by the server, which adds up
//! [`Session::memory_bytes`](super::session::Session::memory_bytes).

/// Most characters that are kept of a NACK's error message.
pub const MAX_NACK_MESSAGE: usize = 2048;

/// What one stream may ask for, and how much one response carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Most names that it may subscribe to per type; more if its node has more resources.
    pub names: usize,
    /// Longest name, version or type URL in bytes. Atlas's own have less than 100.
    pub name_length: usize,
    /// Most bytes of names and versions that Atlas remembers per type; more if its node has more
    /// resources.
    pub bytes: usize,
    /// About how many bytes of resources one response carries; a larger resource is sent alone.
    ///
    /// It doesn't hold for responses that must list all resources of a type (state of the world,
    /// CDS and LDS).
    pub response_bytes: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { names: 1 << 17, name_length: 1024, bytes: 32 << 20, response_bytes: 1 << 20 }
    }
}

/// A client exceeds its [`SessionLimits`]: the server must end the stream. Each variant has the actual
/// value and the limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitExceeded {
    /// [`SessionLimits::names`].
    #[error(
        "{0} subscriptions to one type are more than the {1} that a stream may have: subscribe to fewer, or raise the limit"
    )]
    Names(usize, usize),
    /// [`SessionLimits::name_length`].
    #[error("a name, version or type of {0} bytes is longer than the {1} that one may have")]
    NameLength(usize, usize),
    /// [`SessionLimits::bytes`].
    #[error(
        "{0} bytes of names of one type are more than the {1} that a stream may have: subscribe to fewer, or raise the limit"
    )]
    Bytes(usize, usize),
}

impl SessionLimits {
    /// The limits for a client of a node with so many resources.
    ///
    /// An Envoy that reconnects lists all resources that it has, perhaps those of an earlier and
    /// larger fleet.
    pub(super) fn for_resources(self, resources: usize) -> Self {
        /// Bytes of a name, counted twice: as subscribed to and as present. Atlas's own names have
        /// less than 128.
        const NAME_BYTES: usize = 256;
        let listed = resources.saturating_mul(2);
        Self {
            names: self.names.max(listed),
            bytes: self.bytes.max(listed.saturating_mul(NAME_BYTES)),
            ..self
        }
    }

    /// Most names that a client of a node with so many resources may list in one request.
    pub fn max_names(self, resources: usize) -> usize {
        self.for_resources(resources).names
    }

    /// Checks the longest name, version or type URL.
    pub(super) fn check_name_length(&self, bytes: usize) -> Result<(), LimitExceeded> {
        if bytes > self.name_length {
            return Err(LimitExceeded::NameLength(bytes, self.name_length));
        }
        Ok(())
    }

    /// Checks how many names there are, and how long they are together.
    pub(super) fn check_total(&self, names: usize, bytes: usize) -> Result<(), LimitExceeded> {
        if names > self.names {
            return Err(LimitExceeded::Names(names, self.names));
        }
        if bytes > self.bytes {
            return Err(LimitExceeded::Bytes(bytes, self.bytes));
        }
        Ok(())
    }
}

/// Memory in bytes, on 64-bit processors with the C library's allocator, beside the bytes of names
/// and messages.
pub(super) mod memory {
    /// A subscribed name: an entry of a set, and an `Arc<str>`.
    pub const NAME: usize = 80;
    /// A name that must still be answered: an entry of a second set.
    pub const PENDING_NAME: usize = 32;
    /// A resource that a client lists and whose version isn't the snapshot's.
    pub const CLIENT_RESOURCE: usize = 128;
    /// A rejected version.
    pub const REJECTED: usize = 96;
}

/// About how many bytes of memory a session and its responses need at most for a request with so
/// many names and initial resource versions, which have so many bytes altogether.
pub fn max_request_memory(names: usize, bytes: usize) -> usize {
    let per_name = 2 * memory::NAME + memory::PENDING_NAME + memory::CLIENT_RESOURCE;
    names.saturating_mul(per_name).saturating_add(bytes.saturating_mul(4))
}
