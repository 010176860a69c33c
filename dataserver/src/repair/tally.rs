//! What repair did and found on each disk, for reports.

use quarry_common::ids::{ChunkId, DiskId, PoolId};
use quarry_common::wire::meta::DiskReport;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

type Chunks = BTreeSet<(PoolId, ChunkId)>;

/// What there is to report of each disk.
#[derive(Default)]
pub struct Tally(Mutex<BTreeMap<DiskId, OfDisk>>);

#[derive(Default)]
struct OfDisk {
    /// Referenced and had by nobody: found while groups were filled.
    lost_filling: Chunks,
    /// The same, found while copies were replaced.
    lost_mending: Chunks,
    /// Bytes of chunks that were copied to it.
    copied: u64,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DiskId, OfDisk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the filling of groups has found, all of it.
    pub fn set_lost_filling(&self, disk: DiskId, chunks: impl Iterator<Item = (PoolId, ChunkId)>) {
        self.lock().entry(disk).or_default().lost_filling = chunks.collect();
    }

    /// What the replacing of copies has found, all of it.
    pub fn set_lost_mending(&self, disk: DiskId, chunks: impl Iterator<Item = (PoolId, ChunkId)>) {
        self.lock().entry(disk).or_default().lost_mending = chunks.collect();
    }

    /// A chunk was copied to a disk.
    pub fn add_copied(&self, disk: DiskId, bytes: u32) {
        self.lock().entry(disk).or_default().copied += u64::from(bytes);
    }

    /// Adds what is known of a disk to its report.
    pub fn complete(&self, report: &mut DiskReport) {
        let all = self.lock();
        if let Some(known) = report.disk.and_then(|disk| all.get(&disk)) {
            report.lost = known.lost_filling.union(&known.lost_mending).count() as u64;
            report.copied = known.copied;
        }
    }
}
