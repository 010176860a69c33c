//! Writes at the end of a file, wherever that is when the command is applied.

use super::contents;
use crate::state::extents::Edit;
use crate::state::stop::OpResult;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::{FileOffset, InodeId};
use quarry_common::limits::FILE_LEN_MAX;
use quarry_common::token::Receipt;
use quarry_common::wire::meta::{NewExtent, OpReply};
use quarry_common::{Code, Error};

/// Appends `len` bytes; what no extent covers of them is a hole. An extent that turns out to cross a
/// multiple of 64 MiB is cut there, since the client can not know where the end is.
pub fn append(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    inode: InodeId,
    extents: &[NewExtent],
    receipts: &[Receipt],
    len: u64,
) -> OpResult<OpReply> {
    let mut record = contents::writable(txn, who, inode)?;
    let offset = record.size;
    let end = offset
        .checked_add(len)
        .filter(|end| *end <= FILE_LEN_MAX)
        .ok_or_else(contents::too_long)?;
    let pieces = contents::accept(txn, who, offset, extents, receipts, true)?;
    if pieces.iter().any(|piece| piece.span.end > end) {
        return Err(Error::new(
            Code::Invalid,
            format!("an extent goes beyond the {len} bytes that are appended"),
        )
        .into());
    }
    let mut edit = Edit::new(txn, inode, &mut record);
    contents::write(&mut edit, pieces)?;
    edit.extend(end);
    edit.touch();
    edit.finish()?;
    txn.put_inode(inode, &mut record);
    Ok(OpReply::Appended {
        offset: FileOffset(offset),
        attr: txn.attr(inode, &record)?,
    })
}
