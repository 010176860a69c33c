//! Chunks that are referenced and that no disk has, for reports.

use quarry_common::ids::{ChunkId, DiskId, PoolId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What each disk should have, and nobody has.
#[derive(Default)]
pub struct Losses(Mutex<BTreeMap<DiskId, BTreeSet<(PoolId, ChunkId)>>>);

impl Losses {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DiskId, BTreeSet<(PoolId, ChunkId)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that is lost of a disk, as it is known now.
    pub fn set(&self, disk: DiskId, chunks: impl Iterator<Item = (PoolId, ChunkId)>) {
        self.lock().insert(disk, chunks.collect());
    }

    /// How many chunks a disk should have that nobody has.
    pub fn count(&self, disk: DiskId) -> u64 {
        self.lock().get(&disk).map_or(0, |lost| lost.len() as u64)
    }
}
