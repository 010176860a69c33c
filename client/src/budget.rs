//! How many bytes a client holds that were written and are not committed.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count with a bound that each user is asked to respect.
#[derive(Debug)]
pub struct Budget {
    most: u64,
    used: AtomicU64,
}

impl Budget {
    /// Of so many bytes.
    pub fn new(most: u64) -> Budget {
        Budget {
            most,
            used: AtomicU64::new(0),
        }
    }

    /// Whether more may be taken.
    pub fn has_room(&self) -> bool {
        self.used.load(Ordering::Relaxed) < self.most
    }

    /// Somebody who held `before` bytes holds `after` now.
    pub fn change(&self, before: u64, after: u64) {
        match after.checked_sub(before) {
            Some(more) => self.used.fetch_add(more, Ordering::Relaxed),
            None => self.used.fetch_sub(before - after, Ordering::Relaxed),
        };
    }
}
