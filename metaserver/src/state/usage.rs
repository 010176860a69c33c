//! What is below each directory: bytes, files, directories.
//!
//! Operations note changes at the directory of a primary name. When an entry is done they are
//! summed and each directory on the ways up to the root is written once. A directory that moves
//! takes what is stored for it along; what is only noted goes up the way that it has in the end.

use super::keys;
use super::records::UsageRecord;
use super::stop::OpResult;
use super::txn::{HIDDEN_DIRECTORY, Txn};
use crate::kv::Family;
use quarry_common::ids::InodeId;
use std::collections::BTreeMap;

/// A change of usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageChange {
    /// Bytes of files.
    pub bytes: i128,
    /// Everything but directories.
    pub files: i64,
    /// Directories.
    pub directories: i64,
}

impl UsageChange {
    /// One file of so many bytes.
    pub fn file(bytes: u64) -> UsageChange {
        UsageChange {
            bytes: i128::from(bytes),
            files: 1,
            directories: 0,
        }
    }

    /// Bytes that a file gained.
    pub fn bytes(bytes: i64) -> UsageChange {
        UsageChange {
            bytes: i128::from(bytes),
            files: 0,
            directories: 0,
        }
    }

    /// One empty directory.
    pub const DIRECTORY: UsageChange = UsageChange {
        bytes: 0,
        files: 0,
        directories: 1,
    };

    /// The opposite change.
    pub fn negated(self) -> UsageChange {
        UsageChange {
            bytes: self.bytes.wrapping_neg(),
            files: self.files.wrapping_neg(),
            directories: self.directories.wrapping_neg(),
        }
    }

    fn add(&mut self, other: UsageChange) {
        // Wrapping: sums of what exists fit, and a sum on the way need not.
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.files = self.files.wrapping_add(other.files);
        self.directories = self.directories.wrapping_add(other.directories);
    }
}

impl From<UsageRecord> for UsageChange {
    fn from(record: UsageRecord) -> UsageChange {
        UsageChange {
            bytes: record.bytes as i128,
            files: record.files as i64,
            directories: record.directories as i64,
        }
    }
}

/// Changes of one entry that are not in the state yet.
#[derive(Debug, Default)]
pub struct UsageChanges {
    sums: BTreeMap<InodeId, UsageChange>,
    /// What was noted, oldest first, to take it back.
    noted: Vec<(InodeId, UsageChange)>,
}

impl UsageChanges {
    /// Something in `directory` changed.
    pub fn note(&mut self, directory: InodeId, change: UsageChange) {
        if change != UsageChange::default() {
            self.sums.entry(directory).or_default().add(change);
            self.noted.push((directory, change));
        }
    }

    /// The present point.
    pub fn mark(&self) -> usize {
        self.noted.len()
    }

    /// Forgets what was noted since `mark`.
    pub fn roll_back(&mut self, mark: usize) {
        for (directory, change) in self.noted.drain(mark..) {
            self.sums
                .entry(directory)
                .or_default()
                .add(change.negated());
        }
    }

    /// What was noted for a directory itself and is not in its record.
    pub fn noted_at(&self, directory: InodeId) -> UsageChange {
        self.sums.get(&directory).copied().unwrap_or_default()
    }

    /// Writes the sums, up to the root.
    pub fn settle(self, txn: &mut Txn<'_>) -> OpResult<()> {
        let mut totals: BTreeMap<InodeId, UsageChange> = BTreeMap::new();
        let mut parents: BTreeMap<InodeId, Option<InodeId>> = BTreeMap::new();
        for (directory, change) in self.sums {
            let mut at = Some(directory);
            while let Some(directory) = at {
                totals.entry(directory).or_default().add(change);
                at = match parents.get(&directory) {
                    Some(parent) => *parent,
                    None => {
                        let parent = parent_of(txn, directory)?;
                        parents.insert(directory, parent);
                        parent
                    }
                };
            }
        }
        for (directory, change) in totals {
            if change == UsageChange::default() {
                continue;
            }
            let mut sum = UsageChange::from(stored(txn, directory)?);
            sum.add(change);
            let record = UsageRecord {
                bytes: sum.bytes as u128,
                files: sum.files as u64,
                directories: sum.directories as u64,
            };
            txn.put(Family::Usage, keys::inode(directory), &record);
        }
        Ok(())
    }
}

/// The directory above a directory; `None` for the topmost ones and those that were removed.
pub fn parent_of(txn: &Txn<'_>, directory: InodeId) -> OpResult<Option<InodeId>> {
    if directory == InodeId::ROOT || directory == HIDDEN_DIRECTORY {
        return Ok(None);
    }
    let record = txn.find_inode(directory)?;
    Ok(record
        .map(|record| record.parent)
        .filter(|parent| *parent != directory))
}

fn stored(txn: &Txn<'_>, directory: InodeId) -> OpResult<UsageRecord> {
    Ok(txn
        .get(Family::Usage, &keys::inode(directory))?
        .unwrap_or_default())
}

/// A directory with all that is below it moves; the caller moves the name.
pub fn move_directory(
    txn: &mut Txn<'_>,
    directory: InodeId,
    from: InodeId,
    to: InodeId,
) -> OpResult<()> {
    if from == to {
        return Ok(());
    }
    txn.depths.clear();
    let mut moved = UsageChange::from(stored(txn, directory)?);
    moved.add(UsageChange::DIRECTORY);
    txn.usage().note(from, moved.negated());
    txn.usage().note(to, moved);
    Ok(())
}

/// An empty directory goes: what was noted for it goes up the way that it had.
pub fn remove_directory(txn: &mut Txn<'_>, directory: InodeId, parent: InodeId) {
    let noted = txn.usage().noted_at(directory);
    txn.usage().note(directory, noted.negated());
    txn.usage().note(parent, noted);
    txn.usage().note(parent, UsageChange::DIRECTORY.negated());
    txn.delete(Family::Usage, keys::inode(directory));
}
