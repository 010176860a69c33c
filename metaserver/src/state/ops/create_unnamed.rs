//! Makes a file without a name, in which a session assembles what it publishes later.

use super::{make, names};
use crate::state::session;
use crate::state::stop::OpResult;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{FileKind, OpReply};

/// The session holds it: when it ends before the file has a name, the file goes.
pub fn create_unnamed(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    parent: InodeId,
    mode: u16,
) -> OpResult<OpReply> {
    session::check_open(txn, who.session)?;
    let parent_record = txn.directory(parent)?;
    names::check_may_add(who, parent, &parent_record)?;
    let inode = txn.new_inode_id(parent.slot())?;
    let mut record = make::new_inode(txn, who, &parent_record, FileKind::File, mode);
    record.parent = inode;
    session::hold(txn, who.session, inode)?;
    txn.put_inode(inode, &mut record);
    Ok(OpReply::Attr(txn.attr(inode, &record)?))
}
