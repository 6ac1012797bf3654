//! The versions of a Secret that this process read or wrote: a watch shows them too, later.

use std::collections::VecDeque;

use atlas_core::kubernetes::lease::ResourceVersion;
use atlas_core::kubernetes::lease::fence::KnownVersion;

/// How many versions a watch may lag behind before the Secret is read again.
const REMEMBERED: usize = 8;

/// Tells changes by others from this process's own writes of one Secret.
#[derive(Default)]
pub struct OwnWrites {
    /// Versions that this process knew, latest last.
    versions: VecDeque<ResourceVersion>,
    /// Whether the watch has shown the Secret.
    is_shown: bool,
}

impl OwnWrites {
    /// This process read or wrote the Secret.
    pub fn record(&mut self, known: &KnownVersion) {
        if let KnownVersion::Present { version, .. } = known {
            if self.versions.len() == REMEMBERED {
                self.versions.pop_front();
            }
            self.versions.push_back(version.clone());
        } else {
            *self = Self::default();
        }
    }

    /// The watch showed that the Secret was deleted, with this version. It may have been created
    /// since the watch was last looked at.
    pub fn observe_deleted(&mut self, version: &ResourceVersion) {
        self.is_shown |= self.versions.contains(version);
    }

    /// Whether what the watch shows isn't explained by what this process read or wrote.
    pub fn is_foreign(&mut self, known: &KnownVersion, shown: Option<&ResourceVersion>) -> bool {
        let is_foreign = match (known, shown) {
            (KnownVersion::Unread, _) => true,
            (KnownVersion::Absent, shown) => shown.is_some(),
            (KnownVersion::Present { .. }, Some(version)) => !self.versions.contains(version),
            // Before the watch shows the Secret for the first time, it lags behind.
            (KnownVersion::Present { .. }, None) => self.is_shown,
        };
        self.is_shown |= shown.is_some();
        is_foreign
    }
}
