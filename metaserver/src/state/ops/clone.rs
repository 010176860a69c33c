//! Makes a range of a file share the chunks of another (reflink; cp of a whole file).

use super::contents::{self, Piece};
use crate::state::extents::Edit;
use crate::state::extents::span::Span;
use crate::state::records::{ExtentSource, InodeRecord};
use crate::state::stop::OpResult;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::{ChunkOffset, InodeId};
use quarry_common::limits::{EXTENTS_PER_COMMAND_MAX, FILE_LEN_MAX};
use quarry_common::wire::meta::{CloneRange, OpReply, View};
use quarry_common::{Code, Error};

/// Holes of the file read become holes of the file written.
pub fn clone(txn: &mut Txn<'_>, who: &Who<'_>, range: &CloneRange) -> OpResult<OpReply> {
    let View::Live = range.view;
    let source = contents::readable(txn, who, range.from)?;
    let mut target = contents::writable(txn, who, range.to)?;
    let len = range
        .len
        .min(source.size.saturating_sub(range.from_offset.0));
    let from = Span {
        start: range.from_offset.0,
        end: range.from_offset.0.saturating_add(len),
    };
    let to = Span::new(range.to_offset.0, len)
        .filter(|to| to.end <= FILE_LEN_MAX)
        .ok_or_else(contents::too_long)?;
    if range.from == range.to && from.common(to).is_some() {
        return Err(Error::new(
            Code::Invalid,
            "a range of a file can not be cloned onto a part of itself",
        )
        .into());
    }
    if len == 0 {
        return Ok(OpReply::Attr(txn.attr(range.to, &target)?));
    }
    let pieces = pieces(txn, range.from, &source, from, to)?;
    let mut edit = Edit::new(txn, range.to, &mut target);
    edit.clear(to)?;
    contents::write(&mut edit, pieces)?;
    edit.extend(to.end);
    edit.touch();
    edit.finish()?;
    txn.put_inode(range.to, &mut target);
    Ok(OpReply::Attr(txn.attr(range.to, &target)?))
}

/// What is in `from`, as pieces of `to`. `TooBig` if there are more than one command may have, or look at.
fn pieces(
    txn: &mut Txn<'_>,
    inode: InodeId,
    file: &InodeRecord,
    from: Span,
    to: Span,
) -> OpResult<Vec<Piece>> {
    let (found, more) = txn.visible(inode, file, from, EXTENTS_PER_COMMAND_MAX)?;
    let mut pieces = Vec::with_capacity(found.len());
    for (offset, extent) in found {
        let whole = Span {
            start: offset,
            end: offset.saturating_add(extent.len),
        };
        let Some(common) = whole.common(from) else {
            continue;
        };
        let skipped = common.start - offset;
        let source = match extent.source {
            // Fits: an extent ends within its chunk.
            ExtentSource::Chunk {
                pool,
                chunk,
                offset,
            } => ExtentSource::Chunk {
                pool,
                chunk,
                offset: ChunkOffset(offset.0.saturating_add(skipped as u32)),
            },
            ExtentSource::Inline(bytes) => {
                let end = (skipped + common.len()).min(bytes.len() as u64) as usize;
                ExtentSource::Inline(bytes[(skipped as usize).min(end)..end].to_vec())
            }
        };
        let start = to.start + (common.start - from.start);
        pieces.extend(contents::windows(
            Span {
                start,
                end: start + common.len(),
            },
            Some(source),
        ));
    }
    if more || pieces.len() > EXTENTS_PER_COMMAND_MAX {
        let text = format!(
            "the range has more than {EXTENTS_PER_COMMAND_MAX} extents, the most that are cloned at once: ask for it in smaller parts"
        );
        return Err(Error::new(Code::TooBig, text).into());
    }
    Ok(pieces)
}
