//! What operations on contents share: which file may be read and written, and what ranges of bytes
//! a request may name.

use super::set_attr::drop_privileges;
use crate::state::access::{self, Want, shown};
use crate::state::depth;
use crate::state::extents::Edit;
use crate::state::extents::span::Span;
use crate::state::receipts;
use crate::state::records::{ExtentSource, InodeRecord};
use crate::state::session;
use crate::state::stop::OpResult;
use crate::state::txn::{Txn, Who, stale};
use quarry_common::ids::{ChunkOffset, InodeId};
use quarry_common::limits::{EXTENTS_PER_COMMAND_MAX, FILE_LEN_MAX, INLINE_LEN_MAX};
use quarry_common::token::Receipt;
use quarry_common::wire::meta::{FileKind, NewExtent, Source};
use quarry_common::{Code, Error, Result};

/// A file that the caller may read: `Stale`, `IsDirectory`, `Invalid`, `AccessDenied`.
pub fn readable(txn: &Txn<'_>, who: &Who<'_>, inode: InodeId) -> OpResult<InodeRecord> {
    let record = file(txn, who, inode)?;
    access::check(who.caller, &record, Want::READ)?;
    Ok(record)
}

/// A file that the caller may write: `Stale`, `IsDirectory`, `Invalid`, `AccessDenied`, `NameTooLong`.
///
/// Its owner always may, as on NFS: who made a file with a mode that forbids writing goes on
/// writing through what it has open; the client asks for permission when it opens.
pub fn writable(txn: &mut Txn<'_>, who: &Who<'_>, inode: InodeId) -> OpResult<InodeRecord> {
    let mut record = file(txn, who, inode)?;
    if !access::owns(who.caller, &record) {
        access::check(who.caller, &record, Want::WRITE)?;
    }
    if record.links > 0 {
        depth::check(txn, record.parent, 0)?;
    }
    if !who.caller.superuser {
        drop_privileges(who, &mut record);
    }
    Ok(record)
}

/// A regular file; one without a name is its session's alone until it was one with a name.
fn file(txn: &Txn<'_>, who: &Who<'_>, inode: InodeId) -> OpResult<InodeRecord> {
    let record = txn.inode(inode)?;
    match record.kind {
        FileKind::File => {}
        FileKind::Directory => {
            let text = format!("{} ({inode}) is a directory, not a file", shown(&record));
            return Err(Error::new(Code::IsDirectory, text).into());
        }
        _ => {
            let text = format!(
                "{} ({inode}) is no regular file: it has no contents",
                shown(&record)
            );
            return Err(Error::new(Code::Invalid, text).into());
        }
    }
    let never_named = record.links == 0 && record.orphaned_at.is_none();
    if never_named && !session::holds(txn, who.session, inode)? {
        return Err(stale(inode).into());
    }
    Ok(record)
}

/// A range to be written, checked, and what is written; nothing is a hole.
pub struct Piece {
    /// Where in the file.
    pub span: Span,
    /// What is there afterwards.
    pub source: Option<ExtentSource>,
}

/// Checks the extents and receipts of one operation, takes over its chunks, and returns the extents
/// from `base` on in ascending order. With `split`, those that cross a multiple of 64 MiB are
/// cut there, else they are refused.
///
/// # Errors
/// `TooBig` for too many, `FileTooBig` beyond the longest file, `Invalid` for extents that are
/// empty, overlap or do not lie within their chunk, and those of [`receipts::accept`].
pub fn accept(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    base: u64,
    extents: &[NewExtent],
    receipts: &[Receipt],
    split: bool,
) -> OpResult<Vec<Piece>> {
    session::check_open(txn, who.session)?;
    if extents.len() > EXTENTS_PER_COMMAND_MAX || receipts.len() > EXTENTS_PER_COMMAND_MAX {
        let text = format!(
            "{} extents in one operation, {EXTENTS_PER_COMMAND_MAX} are the most: commit them in parts",
            extents.len().max(receipts.len())
        );
        return Err(Error::new(Code::TooBig, text).into());
    }
    let mut pieces = Vec::with_capacity(extents.len());
    let mut used = vec![false; receipts.len()];
    for extent in extents {
        let span = place(base, extent)?;
        if !split && !matches!(extent.source, Source::Hole) && span.crosses_window() {
            return Err(refuse(extent, "crosses a multiple of 64 MiB: send it as two").into());
        }
        let source = source(extent, receipts)?;
        if let Source::Chunk { receipt, .. } = extent.source {
            used[receipt as usize] = true;
        }
        pieces.push((span, source));
    }
    pieces.sort_by_key(|(span, _)| span.start);
    if let Some(pair) = pieces
        .windows(2)
        .find(|pair| pair[0].0.end > pair[1].0.start)
    {
        let text = format!(
            "two extents of one operation overlap at offset {}",
            pair[1].0.start
        );
        return Err(Error::new(Code::Invalid, text).into());
    }
    for (receipt, used) in receipts.iter().zip(used) {
        // What nothing refers to needs no record.
        if used {
            receipts::accept(txn, who, receipt)?;
        }
    }
    Ok(pieces
        .into_iter()
        .flat_map(|(span, source)| windows(span, source))
        .collect())
}

fn refuse(extent: &NewExtent, why: &str) -> Error {
    Error::new(
        Code::Invalid,
        format!(
            "the extent at offset {} ({} bytes) {why}",
            extent.offset, extent.len
        ),
    )
}

fn place(base: u64, extent: &NewExtent) -> Result<Span> {
    if extent.len == 0 {
        return Err(refuse(extent, "is empty"));
    }
    let start = base.checked_add(extent.offset.0);
    let span = start.and_then(|start| Span::new(start, extent.len));
    span.filter(|span| span.end <= FILE_LEN_MAX)
        .ok_or_else(too_long)
}

/// That a file would become longer than one can be.
pub fn too_long() -> Error {
    Error::new(
        Code::FileTooBig,
        format!("a file has at most {FILE_LEN_MAX} bytes"),
    )
}

fn source(extent: &NewExtent, receipts: &[Receipt]) -> Result<Option<ExtentSource>> {
    match &extent.source {
        Source::Hole => Ok(None),
        Source::Inline(bytes) => {
            if bytes.len() as u64 != extent.len || bytes.len() > INLINE_LEN_MAX {
                return Err(refuse(
                    extent,
                    &format!(
                        "has {} bytes in it: as many as it is long are needed, {INLINE_LEN_MAX} at most",
                        bytes.len()
                    ),
                ));
            }
            Ok(Some(ExtentSource::Inline(bytes.clone())))
        }
        Source::Chunk {
            receipt,
            chunk_offset,
        } => {
            let receipt = receipts
                .get(*receipt as usize)
                .ok_or_else(|| refuse(extent, "names a receipt that was not sent"))?;
            let end = u64::from(*chunk_offset).checked_add(extent.len);
            if end.is_none_or(|end| end > u64::from(receipt.len)) {
                return Err(refuse(
                    extent,
                    &format!(
                        "ends beyond the {} bytes that the receipt of its chunk confirms",
                        receipt.len
                    ),
                ));
            }
            Ok(Some(ExtentSource::Chunk {
                pool: receipt.pool,
                chunk: receipt.chunk,
                offset: ChunkOffset(*chunk_offset),
            }))
        }
    }
}

/// The piece cut at multiples of 64 MiB; a hole stays whole.
pub fn windows(span: Span, source: Option<ExtentSource>) -> Vec<Piece> {
    let Some(source) = source else {
        return vec![Piece { span, source: None }];
    };
    let part = |window: Span| {
        let skipped = window.start - span.start;
        let source = match &source {
            // Fits: it ends within its chunk.
            ExtentSource::Chunk {
                pool,
                chunk,
                offset,
            } => ExtentSource::Chunk {
                pool: *pool,
                chunk: *chunk,
                offset: ChunkOffset(offset.0 + skipped as u32),
            },
            ExtentSource::Inline(bytes) => {
                let bytes = bytes
                    .iter()
                    .skip(skipped as usize)
                    .take(window.len() as usize);
                ExtentSource::Inline(bytes.copied().collect())
            }
        };
        Piece {
            span: window,
            source: Some(source),
        }
    };
    span.windows().map(part).collect()
}

/// Writes the pieces, in their order.
pub fn write(edit: &mut Edit<'_, '_>, pieces: Vec<Piece>) -> OpResult<()> {
    for Piece { span, source } in pieces {
        match source {
            Some(source) => edit.write(span, source)?,
            None => edit.clear(span)?,
        }
        edit.extend(span.end);
    }
    Ok(())
}
