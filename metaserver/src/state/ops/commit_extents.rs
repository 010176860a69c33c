//! Writes ranges of a file.

use super::contents;
use crate::state::extents::Edit;
use crate::state::stop::OpResult;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::limits::FILE_LEN_MAX;
use quarry_common::time::Nanos;
use quarry_common::token::Receipt;
use quarry_common::wire::meta::{NewExtent, OpReply};

/// The file becomes at least `size` long, and as long as the ranges need.
pub fn commit_extents(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    inode: InodeId,
    extents: &[NewExtent],
    receipts: &[Receipt],
    size: Option<u64>,
    mtime: Option<Nanos>,
) -> OpResult<OpReply> {
    let mut record = contents::writable(txn, who, inode)?;
    if size.is_some_and(|size| size > FILE_LEN_MAX) {
        return Err(contents::too_long().into());
    }
    let pieces = contents::accept(txn, who, 0, extents, receipts, false)?;
    let mut edit = Edit::new(txn, inode, &mut record);
    contents::write(&mut edit, pieces)?;
    edit.extend(size.unwrap_or(0));
    edit.touch();
    edit.finish()?;
    record.mtime = mtime.unwrap_or(record.mtime);
    txn.put_inode(inode, &mut record);
    Ok(OpReply::Attr(txn.attr(inode, &record)?))
}
