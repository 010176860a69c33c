//! What the files and trees of one command have in common.

use super::TreeOptions;
use crate::progress::Progress;
use std::sync::Arc;

/// One command that copies any number of files and trees.
pub struct Transfer {
    pub(super) options: TreeOptions,
    pub(super) progress: Arc<Progress>,
}

impl Transfer {
    /// Nothing is copied yet.
    pub fn new(options: TreeOptions, progress: Arc<Progress>) -> Transfer {
        Transfer { options, progress }
    }

    /// How far it is.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }
}
