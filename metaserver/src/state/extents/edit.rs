//! Changes of one file's extents by one operation.

use super::list::stored;
use super::span::Span;
use super::{cut, is_dead, span_of};
use crate::kv::Family;
use crate::state::chunks;
use crate::state::keys;
use crate::state::records::{ExtentRecord, ExtentSource, InodeRecord};
use crate::state::stop::{OpResult, Stop};
use crate::state::txn::Txn;
use crate::state::usage::UsageChange;
use quarry_common::ids::{ChunkId, FileOffset, InodeId, PoolId};
use quarry_common::{Code, Error};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Extents that one operation may overwrite, so that no command takes long.
pub const OVERWRITTEN_MAX: usize = 65_536;

/// An edit of a file's extents. The file's record is the caller's and is written by it;
/// [`Edit::finish`] writes the counts of the chunks.
pub struct Edit<'t, 'a> {
    pub(super) txn: &'t mut Txn<'a>,
    pub(super) inode: InodeId,
    pub(super) file: &'t mut InodeRecord,
    /// Per chunk: references and bytes that came (went, if negative).
    references: BTreeMap<(PoolId, ChunkId), (i64, i64)>,
    overwritten: usize,
}

impl<'t, 'a> Edit<'t, 'a> {
    /// Begins an edit of the file that `file` is the record of.
    pub fn new(txn: &'t mut Txn<'a>, inode: InodeId, file: &'t mut InodeRecord) -> Edit<'t, 'a> {
        Edit {
            txn,
            inode,
            file,
            references: BTreeMap::new(),
            overwritten: 0,
        }
    }

    /// The file's record.
    pub fn file(&mut self) -> &mut InodeRecord {
        self.file
    }

    /// Replaces what is at `span` by an extent, which crosses no multiple of 64 MiB.
    ///
    /// # Errors
    /// `TooBig` if too many extents would be overwritten.
    pub fn write(&mut self, span: Span, source: ExtentSource) -> OpResult<()> {
        debug_assert!(!span.is_empty() && !span.crosses_window());
        self.remove(span)?;
        let extent = ExtentRecord {
            len: span.len(),
            source,
            modified_at: self.txn.version(),
        };
        self.insert(span.start, &extent);
        Ok(())
    }

    /// Makes `span` a hole.
    ///
    /// # Errors
    /// `TooBig` if too many extents would be overwritten.
    pub fn clear(&mut self, span: Span) -> OpResult<()> {
        if self.remove(span)? {
            self.file.holes_at = self.txn.version();
        }
        Ok(())
    }

    /// Removes the bytes of `span`, and whether there were any. Only these go: what an extent has
    /// beside them becomes pieces that are as old as it was.
    pub(super) fn remove(&mut self, span: Span) -> OpResult<bool> {
        // A new file, mostly: a scan that finds nothing costs as much as all else about a small one.
        if self.file.extents == 0 {
            return Ok(false);
        }
        let mut touched = Vec::new();
        let room = OVERWRITTEN_MAX - self.overwritten;
        let mut full = false;
        stored(self.txn.state(), self.inode, span, |offset, extent| {
            full = touched.len() == room;
            if full {
                return ControlFlow::Break(());
            }
            touched.push((offset, extent));
            ControlFlow::Continue(())
        })
        .map_err(Stop::Broken)?;
        if full {
            let text = format!(
                "this would overwrite more than {OVERWRITTEN_MAX} small ranges of the file at once: write it in smaller parts"
            );
            return Err(Error::new(Code::TooBig, text).into());
        }
        self.overwritten += touched.len();
        let mut removed = false;
        for (offset, extent) in touched {
            self.delete(offset, &extent);
            if is_dead(&self.file.trims, offset, extent.modified_at) {
                continue;
            }
            removed = true;
            for piece in span_of(offset, &extent).without(span).into_iter().flatten() {
                self.insert(piece.start, &cut(offset, &extent, piece));
            }
        }
        Ok(removed)
    }

    fn insert(&mut self, offset: u64, extent: &ExtentRecord) {
        self.txn.put(
            Family::Extents,
            keys::extent(self.inode, FileOffset(offset)),
            extent,
        );
        self.count(extent, 1);
    }

    pub(super) fn delete(&mut self, offset: u64, extent: &ExtentRecord) {
        self.txn.delete(
            Family::Extents,
            keys::extent(self.inode, FileOffset(offset)),
        );
        self.count(extent, -1);
    }

    fn count(&mut self, extent: &ExtentRecord, sign: i64) {
        // No extent is longer than 64 MiB, and no file longer than 2^63.
        let bytes = sign * extent.len as i64;
        self.file.extents = self.file.extents.saturating_add_signed(sign);
        self.file.stored = self.file.stored.saturating_add_signed(bytes);
        if let ExtentSource::Chunk { pool, chunk, .. } = extent.source {
            let counts = self.references.entry((pool, chunk)).or_default();
            counts.0 += sign;
            counts.1 += bytes;
        }
    }

    /// Sets the length of the file without touching extents.
    pub(super) fn set_size(&mut self, size: u64) {
        let change = i128::from(size) - i128::from(self.file.size);
        if self.file.links > 0 {
            let parent = self.file.parent;
            self.txn.usage().note(
                parent,
                UsageChange {
                    bytes: change,
                    ..UsageChange::default()
                },
            );
        }
        self.file.size = size;
    }

    /// Makes the file at least `size` long; what is added reads as zeros.
    pub fn extend(&mut self, size: u64) {
        if size > self.file.size {
            self.set_size(size);
        }
    }

    /// Marks the contents as changed by this operation.
    pub fn touch(&mut self) {
        let (version, time) = (self.txn.version(), self.txn.time());
        self.file.data_version = version;
        (self.file.mtime, self.file.ctime) = (time, time);
    }

    /// Writes the counts of the chunks.
    pub fn finish(self) -> OpResult<()> {
        for ((pool, chunk), (references, bytes)) in self.references {
            chunks::refer(self.txn, pool, chunk, references, bytes)?;
        }
        Ok(())
    }
}
