//! Gives a file another name.

use super::names;
use crate::kv::Family;
use crate::state::access::shown;
use crate::state::keys::{self, SessionKey};
use crate::state::stop::OpResult;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::OpReply;
use quarry_common::{Code, Error};

/// A file that has no name gets its first one from the session that holds it, and from nobody
/// once it was unlinked.
pub fn link(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    inode: InodeId,
    parent: InodeId,
    name: &[u8],
) -> OpResult<OpReply> {
    let mut record = txn.inode(inode)?;
    let (mut parent_record, dentry) = names::look_up(txn, who, parent, name)?;
    if dentry.is_some() {
        return Err(names::exists(parent, &parent_record, name).into());
    }
    names::check_may_add(who, parent, &parent_record)?;
    if record.is_directory() {
        let text = format!("{} is a directory, which has one name only", shown(&record));
        return Err(Error::new(Code::NotPermitted, text).into());
    }
    if record.links == 0 {
        let held = keys::session(who.session, SessionKey::Unnamed(inode));
        if txn.get_bytes(Family::Sessions, &held)?.is_none() {
            let text = format!("inode {inode} has no name left, and this session does not hold it");
            return Err(Error::new(Code::NotFound, text).into());
        }
        txn.delete(Family::Sessions, held);
    }
    names::insert(txn, parent, &mut parent_record, name, inode, &mut record)?;
    txn.put_inode(parent, &mut parent_record);
    txn.put_inode(inode, &mut record);
    Ok(OpReply::Attr(txn.attr(inode, &record)?))
}
