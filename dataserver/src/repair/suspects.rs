//! Chunks that somebody could not read: they are looked at, and replaced if they are bad.

use crate::disk::ChunkName;
use quarry_common::ids::{ChunkId, DiskId, PoolId};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Suspects that wait; more are forgotten, and come again with the next read.
const WAITING_MAX: usize = 4_096;

/// Chunks that are to be looked at, by disk.
#[derive(Default)]
pub struct Suspects {
    waiting: Mutex<BTreeSet<(DiskId, ChunkName)>>,
    came: watch::Sender<()>,
}

impl Suspects {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<(DiskId, ChunkName)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A chunk of a disk could not be read, or not be had. Whether there was room for it.
    pub fn put(&self, disk: DiskId, pool: PoolId, chunk: ChunkId) -> bool {
        let mut waiting = self.lock();
        if waiting.len() >= WAITING_MAX {
            return false;
        }
        waiting.insert((disk, ChunkName { pool, chunk }));
        self.came.send_replace(());
        true
    }

    /// Those of one disk.
    pub fn take(&self, disk: DiskId) -> Vec<ChunkName> {
        let mut waiting = self.lock();
        let (ours, others) = waiting.iter().partition(|(of, _)| *of == disk);
        let ours: BTreeSet<(DiskId, ChunkName)> = ours;
        *waiting = others;
        ours.into_iter().map(|(_, name)| name).collect()
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
        let taken = |disk| -> Vec<u64> {
            let names = suspects.take(DiskId(disk));
            names.iter().map(|name| name.chunk.0).collect()
        };
        assert_eq!(taken(1), [5, 7]);
        assert_eq!(taken(1), [0; 0]);
        assert_eq!(taken(2), [6]);
    }
}
