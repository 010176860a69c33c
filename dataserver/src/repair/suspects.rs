//! Chunks that somebody could not read: they are looked at, and replaced if they are bad.

use crate::disk::ChunkName;
use quarry_common::ids::{ChunkId, DiskId, PoolId};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Suspects that wait; more are forgotten, and come again with the next read.
const WAITING_MAX: usize = 4_096;

/// Chunks that are to be looked at, by disk.
#[derive(Default)]
pub struct Suspects {
    /// With the end of the bytes that were wanted.
    waiting: Mutex<BTreeMap<(DiskId, ChunkName), u32>>,
    came: watch::Sender<()>,
}

impl Suspects {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(DiskId, ChunkName), u32>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A chunk of a disk could not be read, or not be had. Whether there was room for it.
    pub fn put(&self, disk: DiskId, pool: PoolId, chunk: ChunkId) -> bool {
        self.put_wanted(disk, pool, chunk, 0)
    }

    /// Nor could its bytes up to `end`, which it may not have.
    pub fn put_wanted(&self, disk: DiskId, pool: PoolId, chunk: ChunkId, end: u32) -> bool {
        let mut waiting = self.lock();
        if waiting.len() >= WAITING_MAX {
            return false;
        }
        let known = waiting
            .entry((disk, ChunkName { pool, chunk }))
            .or_default();
        *known = end.max(*known);
        self.came.send_replace(());
        true
    }

    /// Those of one disk, with the end of the bytes that were wanted.
    pub fn take(&self, disk: DiskId) -> Vec<(ChunkName, u32)> {
        let mut waiting = self.lock();
        let all = std::mem::take(&mut *waiting).into_iter();
        let (ours, others): (Vec<_>, Vec<_>) = all.partition(|((of, _), _)| *of == disk);
        waiting.extend(others);
        ours.into_iter()
            .map(|((_, name), end)| (name, end))
            .collect()
    }

    /// Tells of each that comes, of any disk.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.came.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_disk_takes_its_own_once() {
        let suspects = Suspects::default();
        for (disk, chunk) in [(1, 5), (2, 6), (1, 5), (1, 7)] {
            suspects.put(DiskId(disk), PoolId(1), ChunkId(chunk));
        }
        for end in [10, 30, 20] {
            suspects.put_wanted(DiskId(2), PoolId(1), ChunkId(6), end);
        }
        let taken = |disk| -> Vec<(u64, u32)> {
            let names = suspects.take(DiskId(disk));
            names
                .iter()
                .map(|(name, end)| (name.chunk.0, *end))
                .collect()
        };
        assert_eq!(taken(1), [(5, 0), (7, 0)]);
        assert_eq!(taken(1), []);
        assert_eq!(taken(2), [(6, 30)], "the most that was wanted");
    }
}
