//! How far a transfer is, for whoever shows it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of a transfer; they only grow. The totals grow while a tree is walked.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes transferred.
    pub bytes: AtomicU64,
    /// Files that were copied, links and other small things included.
    pub files: AtomicU64,
    /// Directories that are finished.
    pub directories: AtomicU64,
    /// Bytes found so far.
    pub bytes_total: AtomicU64,
    /// Files found so far.
    pub files_total: AtomicU64,
    /// Whether the totals are final.
    pub walk_done: AtomicBool,
}

impl Progress {
    /// Counts on.
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}
