//! The small key-value trait under the metaserver's state, with its two backings.
//!
//! Everything but Raft's log reads and writes the state through [`Kv`]: [`Rocks`] on disk,
//! [`Memory`] for tests and simulation. Both behave alike; one model test runs over both.
//! A writer works on an [`Overlay`], which reads its own writes and becomes one [`Batch`].
//!
//! There is no write-ahead log under this trait: the Raft log is the log. What was written
//! survives a crash only after [`Kv::flush`] (DESIGN §5.1).

mod batch;
mod family;
mod memory;
#[cfg(test)]
mod model;
mod overlay;
mod recent;
mod rocks;
mod room;

pub use batch::{Batch, Change};
pub use family::Family;
pub use memory::Memory;
pub use overlay::{Mark, Overlay};
pub use recent::Recent;
pub(crate) use rocks::copy_dir;
pub use rocks::{Rocks, RocksOptions};
pub(crate) use room::{Room, io_error, rocks_error, warning};

use bytes::Bytes;
use quarry_common::Result;
use std::ops::{Bound, ControlFlow};
use std::path::Path;

/// What a scan calls for each entry, with key and value; [`ControlFlow::Break`] ends the scan.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Reading the state. Keys are ordered as byte strings within a family.
///
/// Every method fails only when the backing does: `Io` when it can not be read,
/// `ChecksumMismatch` when what it holds is damaged.
pub trait KvRead: Send + Sync {
    /// The value at `key`.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>>;

    /// Visits the entries from `from` (inclusive) to `to` (exclusive; `None` is the end of the
    /// family) in ascending order. An empty or reversed range visits nothing.
    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<()>;

    /// The entry with the greatest key that is at least `low` and within `high`, for example
    /// the extent at an offset (`Included`) or the last child of a directory (`Excluded`).
    fn last_before(
        &self,
        family: Family,
        low: &[u8],
        high: Bound<&[u8]>,
    ) -> Result<Option<(Bytes, Bytes)>>;
}

/// The state as a whole. Writers are serialised by the caller: one task applies.
pub trait Kv: KvRead + 'static {
    /// A consistent view of all families as they are now; later writes do not show in it.
    fn view(&self) -> Box<dyn KvRead>;

    /// Applies all changes of `batch` in order, or none. Survives a crash after the next flush.
    fn write(&self, batch: &Batch) -> Result<()>;

    /// Makes everything written before the call durable, all families at one point in time.
    fn flush(&self) -> Result<()>;

    /// Writes a complete copy of the state, as of one point in time between call and return,
    /// into the new directory `to`, which must not exist. It is durable when this returns.
    fn export(&self, to: &Path) -> Result<()>;

    /// Replaces the whole state by a copy that [`Kv::export`] made; `from` is left as it is.
    /// Durable and complete when this returns; after a crash before that, the old state
    /// or the new one is found, never a mixture. A damaged copy is refused.
    fn import(&self, from: &Path) -> Result<()>;

    /// Opens a copy that [`Kv::export`] made, wherever it came from, reads it in full and returns a view of it;
    /// the copy is left as it is. A damaged one is refused.
    fn open_copy(&self, from: &Path) -> Result<Box<dyn KvRead>>;

    /// Bytes on disk, about; 0 when there is no disk.
    fn len_on_disk(&self) -> u64;
}

/// The first key after all keys that begin with `prefix`: the `to` of a scan over a prefix.
/// `None` when there is none, which is the end of the family.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
