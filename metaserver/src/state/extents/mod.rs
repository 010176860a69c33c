//! Where the bytes of a file are: extents keyed (inode, offset), none of which crosses a multiple
//! of 64 MiB, so that the extent at an offset is found by one short scan (DESIGN §5.2).
//!
//! Extents of a file never overlap. Each refers to its chunk; an [`Edit`] keeps the counts in
//! `chunks`, the file's `stored` and its number of extents exactly. After a truncation extents may
//! wait to be removed ([`Trim`]): they read as zeros and are counted until they are gone.

mod edit;
mod list;
#[cfg(test)]
mod model;
pub mod span;
mod trim;

pub use edit::{Edit, OVERWRITTEN_MAX};
pub use list::{Looks, unchanged_since, visible};
pub use trim::{PURGED_AT_ONCE, TRIMS_MAX};

use super::records::{ExtentRecord, ExtentSource, InodeRecord, Trim};
use quarry_common::ids::{ChunkOffset, Version};
use span::Span;

/// Whether an extent was cut off by a truncation and only waits to be removed.
fn is_dead(trims: &[Trim], offset: u64, modified_at: Version) -> bool {
    trims
        .iter()
        .any(|trim| offset >= trim.from.0 && modified_at <= trim.at)
}

/// The bytes of a file that an extent covers.
fn span_of(offset: u64, extent: &ExtentRecord) -> Span {
    Span {
        start: offset,
        end: offset.saturating_add(extent.len),
    }
}

/// The part of an extent at `offset` that covers `piece`, which lies within it.
fn cut(offset: u64, extent: &ExtentRecord, piece: Span) -> ExtentRecord {
    let skipped = piece.start - offset;
    let source = match &extent.source {
        ExtentSource::Chunk {
            pool,
            chunk,
            offset,
        } => {
            // Fits: an extent ends within its chunk.
            let offset = ChunkOffset(offset.0.saturating_add(skipped as u32));
            ExtentSource::Chunk {
                pool: *pool,
                chunk: *chunk,
                offset,
            }
        }
        ExtentSource::Inline(bytes) => {
            let end = (skipped + piece.len()).min(bytes.len() as u64) as usize;
            ExtentSource::Inline(bytes[(skipped as usize).min(end)..end].to_vec())
        }
    };
    ExtentRecord {
        len: piece.len(),
        source,
        modified_at: extent.modified_at,
    }
}

/// Whether a file has extents that wait to be removed.
pub fn has_trims(file: &InodeRecord) -> bool {
    !file.trims.is_empty()
}
