//! Chunks whose files a start did not find: deleted just before a crash, or lost here.
//!
//! Their entries stay in the index, so that every start finds them again, until a good copy takes the place of each or it is
//! deleted. They count as bad copies meanwhile.

use super::name::ChunkName;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The missing chunks of a disk.
pub struct Missing(Mutex<State>);

struct State {
    all: BTreeSet<ChunkName>,
    /// Those of which nobody was told yet.
    untold: Vec<ChunkName>,
}

impl Missing {
    /// Those that a start found.
    pub fn new(found: Vec<ChunkName>) -> Missing {
        Missing(Mutex::new(State {
            all: found.iter().copied().collect(),
            untold: found,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a chunk is one of them.
    pub fn contains(&self, name: ChunkName) -> bool {
        self.state().all.contains(&name)
    }

    /// All of them.
    pub fn names(&self) -> Vec<ChunkName> {
        self.state().all.iter().copied().collect()
    }

    /// Takes up to `limit` of those of which nobody was told yet.
    pub fn take_untold(&self, limit: usize) -> Vec<ChunkName> {
        let untold = &mut self.state().untold;
        let rest = untold.len().saturating_sub(limit);
        untold.split_off(rest)
    }

    /// The chunk is here again, or is not to be.
    pub fn forget(&self, name: ChunkName) {
        self.state().all.remove(&name);
    }
}
