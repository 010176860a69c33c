//! What makes a new inode with a name: the rules that files, directories, links and devices share.

use super::names;
use crate::state::access::in_group;
use crate::state::depth;
use crate::state::records::InodeRecord;
use crate::state::stop::OpResult;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::{Gid, InodeId};
use quarry_common::wire::meta::{FileKind, OpReply};

/// The group of what a caller without groups makes: `nogroup`.
const NO_GROUP: Gid = Gid(65_534);

const SET_GID: u16 = 0o2000;

/// An inode of the caller that is to be in `parent`, not written yet. A directory with the
/// set-group-id bit gives its group, and a new directory inherits the bit.
pub fn new_inode(
    txn: &Txn<'_>,
    who: &Who<'_>,
    parent: &InodeRecord,
    kind: FileKind,
    mode: u16,
) -> InodeRecord {
    let inherits = parent.mode & SET_GID != 0;
    let gid = match inherits {
        true => parent.gid,
        false => who.caller.gids.first().copied().unwrap_or(NO_GROUP),
    };
    let mut mode = mode & 0o7777;
    if inherits && kind == FileKind::Directory {
        mode |= SET_GID;
    }
    // A program that runs as a group whose member its maker is not.
    let executable = mode & (SET_GID | 0o010) == SET_GID | 0o010;
    if kind == FileKind::File && executable && !who.caller.superuser && !in_group(who.caller, gid) {
        mode &= !SET_GID;
    }
    InodeRecord::new(kind, mode, who.caller.uid, gid, txn.version(), txn.time())
}

/// Makes a new inode under a name that must be free; `complete` sets what is special about it.
pub fn make(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    parent: InodeId,
    name: &[u8],
    kind: FileKind,
    mode: u16,
    complete: impl FnOnce(&mut InodeRecord),
) -> OpResult<OpReply> {
    let (parent_record, dentry) = names::look_up(txn, who, parent, name)?;
    if dentry.is_some() {
        return Err(names::exists(&parent_record, name).into());
    }
    make_in(txn, who, parent, parent_record, name, kind, mode, complete)
}

/// As [`make`], in a directory whose record is at hand, under a name that is known to be free.
#[expect(clippy::too_many_arguments, reason = "each is a fact of the new inode")]
pub fn make_in(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    parent: InodeId,
    mut parent_record: InodeRecord,
    name: &[u8],
    kind: FileKind,
    mode: u16,
    complete: impl FnOnce(&mut InodeRecord),
) -> OpResult<OpReply> {
    names::check_may_add(who, parent, &parent_record)?;
    depth::check(txn, parent, usize::from(kind == FileKind::Directory))?;
    let mut record = new_inode(txn, who, &parent_record, kind, mode);
    complete(&mut record);
    let inode = txn.new_inode_id(parent.slot())?;
    names::insert(txn, parent, &mut parent_record, name, inode, &mut record)?;
    txn.put_inode(parent, &mut parent_record);
    txn.put_inode(inode, &mut record);
    Ok(OpReply::Attr(txn.attr(inode, &record)?))
}
