//! What repair did and found on each disk, for reports.

use quarry_common::ids::{ChunkId, DiskId, PoolId};
use quarry_common::wire::meta::DiskReport;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What there is to report of each disk.
#[derive(Default)]
pub struct Tally(Mutex<BTreeMap<DiskId, OfDisk>>);

#[derive(Default)]
struct OfDisk {
    /// Chunks that it should have, that are referenced, and that nobody has.
    lost: u64,
    /// Bytes of chunks that were copied to it.
    copied: u64,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DiskId, OfDisk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a disk should have and nobody has, all of it.
    pub fn set_lost(&self, disk: DiskId, chunks: impl Iterator<Item = (PoolId, ChunkId)>) {
        self.lock().entry(disk).or_default().lost = chunks.count() as u64;
    }

    /// A chunk was copied to a disk.
    pub fn add_copied(&self, disk: DiskId, bytes: u32) {
        self.lock().entry(disk).or_default().copied += u64::from(bytes);
    }

    /// Adds what is known of a disk to its report.
    pub fn complete(&self, report: &mut DiskReport) {
        let all = self.lock();
        if let Some(known) = report.disk.and_then(|disk| all.get(&disk)) {
            report.lost = known.lost;
            report.copied = known.copied;
        }
    }
}
