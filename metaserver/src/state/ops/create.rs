//! Makes an empty regular file (`open` with `O_CREAT`).

use super::{make, names};
use crate::state::stop::OpResult;
use crate::state::text::quoted;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{FileKind, OpReply};
use quarry_common::{Code, Error};

/// Without `exclusive`, what has the name already is returned as it is, unless it is a directory.
pub fn create(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    parent: InodeId,
    name: &[u8],
    mode: u16,
    exclusive: bool,
) -> OpResult<OpReply> {
    let (parent_record, dentry) = names::look_up(txn, who, parent, name)?;
    match dentry {
        None => make::make_in(txn, who, parent, parent_record, name, FileKind::File, mode, |_| {}),
        Some(_) if exclusive => Err(names::exists(parent, &parent_record, name).into()),
        Some(found) if found.kind == FileKind::Directory => {
            let text = format!("'{}' is a directory, not a file", quoted(name));
            Err(Error::new(Code::IsDirectory, text).into())
        }
        Some(found) => {
            let record = txn.referred_inode(found.inode)?;
            Ok(OpReply::Attr(txn.attr(found.inode, &record)?))
        }
    }
}
