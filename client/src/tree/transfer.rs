//! What the files and trees of one command have in common.

use super::TreeOptions;
use crate::progress::Progress;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One command that copies any number of files and trees.
pub struct Transfer {
    pub(super) options: TreeOptions,
    pub(super) progress: Arc<Progress>,
    without_xattrs: AtomicBool,
}

impl Transfer {
    /// Nothing is copied yet.
    pub fn new(options: TreeOptions, progress: Arc<Progress>) -> Transfer {
        Transfer {
            options,
            progress,
            without_xattrs: AtomicBool::new(false),
        }
    }

    /// How far it is.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
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
