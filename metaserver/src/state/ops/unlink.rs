//! Removes a name of anything but a directory.

use super::names;
use crate::state::access::shown;
use crate::state::stop::OpResult;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::OpReply;
use quarry_common::{Code, Error};

/// Touches the name and the inode only: what had its last name is emptied later.
pub fn unlink(txn: &mut Txn<'_>, who: &Who<'_>, parent: InodeId, name: &[u8]) -> OpResult<OpReply> {
    let (mut parent_record, dentry) = names::look_up(txn, who, parent, name)?;
    let dentry = dentry.ok_or_else(|| names::not_found(parent, &parent_record, name))?;
    let mut record = txn.referred_inode(dentry.inode)?;
    names::check_may_remove(who, &parent_record, &record)?;
    if record.is_directory() {
        let text = format!("{} is a directory: remove it as one", shown(&record));
        return Err(Error::new(Code::IsDirectory, text).into());
    }
    names::remove(txn, parent, &mut parent_record, name, dentry.inode, &mut record)?;
    txn.put_inode(parent, &mut parent_record);
    txn.put_inode(dentry.inode, &mut record);
    Ok(OpReply::Nothing)
}
