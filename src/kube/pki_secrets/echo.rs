//! What a watch shows of records that this process writes itself: the same, later.

use std::collections::VecDeque;

use atlas_core::kubernetes::lease::ResourceVersion;
use atlas_core::kubernetes::lease::fence::KnownVersion;

/// What a watch has shown, or will show, of a record that this process read or wrote: it lags behind.
#[derive(Default)]
pub struct Echo {
    /// Versions that were known before the present one, latest last.
    past: VecDeque<ResourceVersion>,
    /// Whether the watch has shown the record.
    shown: bool,
}

/// So many writes a watch may lag behind before the record is read again.
const LAG: usize = 8;

impl Echo {
    /// What is known from now on.
    pub fn known(&mut self, known: &KnownVersion) {
        if let KnownVersion::Present { version, .. } = known {
            if self.past.len() == LAG {
                self.past.pop_front();
            }
            self.past.push_back(version.clone());
        } else {
            *self = Self::default();
        }
    }

    /// The watch has shown that this was deleted: that it was there may have gone by unseen.
    pub fn saw_removed(&mut self, version: &ResourceVersion) {
        self.shown |= self.past.contains(version);
    }

    /// Whether what the watch shows is not explained by what this process did.
    pub fn is_strange(&mut self, known: &KnownVersion, shown: Option<&ResourceVersion>) -> bool {
        let strange = match (known, shown) {
            (KnownVersion::Unread, _) => true,
            (KnownVersion::Absent, shown) => shown.is_some(),
            (KnownVersion::Present { .. }, Some(version)) => !self.past.contains(version),
            (KnownVersion::Present { .. }, None) => self.shown,
        };
        self.shown |= shown.is_some();
        strange
    }
}
