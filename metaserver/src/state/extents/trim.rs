//! Truncation in bounded steps: the file is short at once, its extents go little by little.

use super::edit::Edit;
use super::list::stored;
use super::span::Span;
use super::{is_dead, span_of};
use crate::kv::Family;
use crate::state::data_records::Present;
use crate::state::keys::{self, SystemKey};
use crate::state::records::Trim;
use crate::state::stop::{OpResult, Stop};
use quarry_common::ids::{FileOffset, Version};
use quarry_common::{Code, Error};
use std::ops::ControlFlow;

/// Extents that a truncation removes itself; more are left to the purge. Few in tests, so that their
/// small files have some left.
pub const PURGED_AT_ONCE: usize = if cfg!(test) { 2 } else { 1_000 };

/// Truncations of one file whose extents may wait at a time. Only a file that is cut a little less
/// short each time, with thousands of extents each, has more than one.
pub const TRIMS_MAX: usize = 16;

impl Edit<'_, '_> {
    /// Sets the length of the file: what is beyond goes, what is added reads as zeros.
    ///
    /// # Errors
    /// `Overloaded` if too many earlier truncations wait for their extents to be removed.
    pub fn truncate(&mut self, size: u64) -> OpResult<()> {
        let old = self.file.size;
        self.set_size(size);
        if size >= old {
            return Ok(());
        }
        let version = self.txn.version();
        self.file.holes_at = version;
        self.cut_at(size)?;
        let trims = &mut self.file.trims;
        let waited = !trims.is_empty();
        trims.retain(|trim| trim.from.0 < size);
        trims.push(Trim {
            from: FileOffset(size),
            at: version,
        });
        self.purge_trims(PURGED_AT_ONCE)?;
        if self.file.trims.len() > TRIMS_MAX {
            let text = "the file was truncated so often that its old contents are still being removed: try again";
            return Err(Error::new(Code::Overloaded, text).into());
        }
        let key = keys::system(SystemKey::Trimmed(self.inode));
        if self.file.trims.is_empty() {
            if waited {
                self.txn.delete(Family::System, key);
            }
        } else {
            self.txn.put(Family::System, key, &Present);
            // What the same command writes after this is newer than what the truncation cut off.
            self.txn.go_on(Version(version.0.saturating_add(1)));
        }
        Ok(())
    }

    /// Cuts the extent that has bytes on both sides of `size`.
    fn cut_at(&mut self, size: u64) -> OpResult<()> {
        let mut across = None;
        stored(
            self.txn.state(),
            self.inode,
            Span {
                start: size,
                end: size.saturating_add(1),
            },
            |offset, extent| {
                across = (offset < size).then(|| span_of(offset, &extent));
                ControlFlow::Break(())
            },
        )
        .map_err(Stop::Broken)?;
        if let Some(across) = across {
            self.remove(Span {
                start: size,
                end: across.end,
            })?;
        }
        Ok(())
    }

    /// Looks at `records` extents beyond truncations at most and removes those that were cut off. Returns how
    /// many it looked at.
    pub fn purge_trims(&mut self, records: usize) -> OpResult<usize> {
        let Some(first) = self.file.trims.first() else {
            return Ok(0);
        };
        let mut seen = Vec::new();
        let mut next = None;
        stored(
            self.txn.state(),
            self.inode,
            Span {
                start: first.from.0,
                end: u64::MAX,
            },
            |offset, extent| {
                if seen.len() == records {
                    next = Some(offset);
                    return ControlFlow::Break(());
                }
                seen.push((offset, extent));
                ControlFlow::Continue(())
            },
        )
        .map_err(Stop::Broken)?;
        for (offset, extent) in &seen {
            if is_dead(&self.file.trims, *offset, extent.modified_at) {
                self.delete(*offset, extent);
            }
        }
        match next {
            Some(next) => self.advance_trims(next),
            None => self.file.trims.clear(),
        }
        Ok(seen.len())
    }

    /// Nothing that was cut off is left before `next`: trims begin there. Of several the newest counts.
    fn advance_trims(&mut self, next: u64) {
        let trims = &mut self.file.trims;
        trims
            .iter_mut()
            .for_each(|trim| trim.from.0 = trim.from.0.max(next));
        trims.reverse();
        trims.dedup_by_key(|trim| trim.from);
        trims.reverse();
    }

    /// Removes `records` extents at most, of a file that nobody needs. Returns how many.
    pub fn purge_all(&mut self, records: usize) -> OpResult<usize> {
        let mut found = Vec::new();
        stored(
            self.txn.state(),
            self.inode,
            Span {
                start: 0,
                end: u64::MAX,
            },
            |offset, extent| {
                if found.len() == records {
                    return ControlFlow::Break(());
                }
                found.push((offset, extent));
                ControlFlow::Continue(())
            },
        )
        .map_err(Stop::Broken)?;
        for (offset, extent) in &found {
            self.delete(*offset, extent);
        }
        Ok(found.len())
    }
}
