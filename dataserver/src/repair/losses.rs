//! Chunks that are referenced and that no disk has, for reports.

use quarry_common::ids::{ChunkId, DiskId, PoolId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

type Chunks = BTreeSet<(PoolId, ChunkId)>;

/// What each disk should have, and nobody has.
#[derive(Default)]
pub struct Losses(Mutex<BTreeMap<DiskId, Lost>>);

#[derive(Default)]
struct Lost {
    /// Found while groups were filled.
    filled: Chunks,
    /// Found while copies were replaced.
    mended: Chunks,
}

impl Losses {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DiskId, Lost>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the filling of groups has found, all of it.
    pub fn set_filled(&self, disk: DiskId, chunks: impl Iterator<Item = (PoolId, ChunkId)>) {
        self.lock().entry(disk).or_default().filled = chunks.collect();
    }

    /// What the replacing of copies has found, all of it.
    pub fn set_mended(&self, disk: DiskId, chunks: impl Iterator<Item = (PoolId, ChunkId)>) {
        self.lock().entry(disk).or_default().mended = chunks.collect();
    }

    /// How many chunks a disk should have that nobody has.
    pub fn count(&self, disk: DiskId) -> u64 {
        let all = self.lock();
        let lost = all.get(&disk);
        lost.map_or(0, |lost| lost.filled.union(&lost.mended).count() as u64)
    }
}
