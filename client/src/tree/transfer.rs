//! What the files and trees of one command have in common.

use super::TreeOptions;
use crate::progress::Progress;
use quarry_common::error::{Error, Result};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Semaphore, SemaphorePermit};

/// What uploads may hold together: bytes that no dataserver has acknowledged.
const HELD_LEN_MAX: u64 = 512 << 20;

/// The most that one upload holds: half of each of three chunks that were ended, and of the next one.
const UPLOAD_LEN_MAX: u64 = 128 << 20;

/// It is counted in units of this.
const HELD_UNIT: u64 = 64 << 10;

const _: () = assert!(UPLOAD_LEN_MAX * 4 <= HELD_LEN_MAX && HELD_LEN_MAX / HELD_UNIT <= 1 << 16);

/// One command that copies any number of files and trees.
pub struct Transfer {
    pub(super) options: TreeOptions,
    pub(super) progress: Arc<Progress>,
    held: Semaphore,
    without_xattrs: AtomicBool,
}

impl Transfer {
    /// Nothing is copied yet.
    pub fn new(options: TreeOptions, progress: Arc<Progress>) -> Transfer {
        Transfer {
            options,
            progress,
            held: Semaphore::new((HELD_LEN_MAX / HELD_UNIT) as usize),
            without_xattrs: AtomicBool::new(false),
        }
    }

    /// How far it is.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Waits until an upload of so many bytes may hold what it has to; it may as long as it keeps the answer.
    pub(super) async fn hold(&self, len: u64) -> Result<SemaphorePermit<'_>> {
        let units = len.min(UPLOAD_LEN_MAX).div_ceil(HELD_UNIT).max(1);
        let held = self.held.acquire_many(units as u32).await;
        held.map_err(|error| Error::bug("uploads may hold nothing any more").with_source(error))
    }

    /// Extended attributes could not be kept at a path; it is told of the first.
    pub(super) fn handle_without_xattrs(&self, path: &Path) {
        if !self.without_xattrs.swap(true, Ordering::Relaxed) {
            let path = path.display();
            tracing::warn!(
                "{path}: the file system takes no extended attributes: they are left out"
            );
        }
    }
}
