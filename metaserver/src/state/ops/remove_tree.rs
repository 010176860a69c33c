//! Removes a directory with all that is in it.

use super::names::{self, Place};
use super::rmdir::check_directory;
use crate::state::stop::OpResult;
use crate::state::text::quoted;
use crate::state::txn::{HIDDEN_DIRECTORY, Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::OpReply;
use quarry_common::{Code, Error};

/// Moves the tree to the hidden directory, from where it is emptied in bounded commands. Nobody
/// asks whether each directory in it may be changed, so it is for superusers.
pub fn remove_tree(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    parent: InodeId,
    name: &[u8],
) -> OpResult<OpReply> {
    let (parent_record, dentry) = names::look_up(txn, who, parent, name)?;
    if !who.caller.superuser {
        let text = format!("only a superuser may remove '{}' as a whole", quoted(name));
        return Err(Error::new(Code::NotPermitted, text).into());
    }
    let dentry = dentry.ok_or_else(|| names::not_found(parent, &parent_record, name))?;
    let mut record = txn.referred_inode(dentry.inode)?;
    check_directory(&record)?;
    // The number of the inode, so that no two removed trees have one name.
    let hidden_name = dentry.inode.to_string();
    let from = Place { parent, name };
    let to = Place { parent: HIDDEN_DIRECTORY, name: hidden_name.as_bytes() };
    names::relocate(txn, from, to, dentry.modified_at, dentry.inode, &mut record)?;
    txn.put_inode(dentry.inode, &mut record);
    Ok(OpReply::Nothing)
}
