//! Directories that the cluster makes itself: `/`, the hidden one, `/home` and those in it.

use crate::state::ops::names;
use crate::state::records::InodeRecord;
use crate::state::stop::OpResult;
use crate::state::txn::{HIDDEN_DIRECTORY, Txn};
use quarry_common::ids::{Gid, InodeId, Uid};
use quarry_common::wire::meta::FileKind;
use quarry_common::{Code, Error};

/// The directory of the users' directories.
const HOME: &[u8] = b"home";

/// Makes `/`, `/home` and the directory of removed trees.
pub fn make_first(txn: &mut Txn<'_>) -> OpResult<()> {
    for (inode, mode) in [(InodeId::ROOT, 0o755), (HIDDEN_DIRECTORY, 0o700)] {
        let (version, time) = (txn.version(), txn.time());
        let mut record = InodeRecord::new(FileKind::Directory, mode, Uid(0), Gid(0), version, time);
        (record.links, record.parent) = (1, inode);
        txn.put_inode(inode, &mut record);
    }
    home(txn).map(|_| ())
}

/// `/home`, made if it is missing.
fn home(txn: &mut Txn<'_>) -> OpResult<InodeId> {
    directory(txn, InodeId::ROOT, HOME, Uid(0), Gid(0))
}

/// `/home/NAME`, made if it is missing. `Exists` if something else is there.
pub fn make_home(txn: &mut Txn<'_>, name: &str, uid: Uid, gid: Gid) -> OpResult<()> {
    let home = home(txn)?;
    let inode = directory(txn, home, name.as_bytes(), uid, gid)?;
    let owner = txn.inode(inode)?.uid;
    if owner != uid {
        let text = format!(
            "/home/{name} exists and belongs to user {owner}: rename it or choose another name"
        );
        return Err(Error::new(Code::Exists, text).into());
    }
    Ok(())
}

/// The directory `name` in `parent`; a new one has mode 0755.
fn directory(
    txn: &mut Txn<'_>,
    parent: InodeId,
    name: &[u8],
    uid: Uid,
    gid: Gid,
) -> OpResult<InodeId> {
    if let Some(found) = txn.dentry(parent, name)? {
        if found.kind != FileKind::Directory {
            let text = format!(
                "/home or what is to be a user's directory in it is no directory ({}): rename it",
                found.inode
            );
            return Err(Error::new(Code::Exists, text).into());
        }
        return Ok(found.inode);
    }
    let (version, time) = (txn.version(), txn.time());
    let inode = txn.new_inode_id(parent.slot())?;
    let mut record = InodeRecord::new(FileKind::Directory, 0o755, uid, gid, version, time);
    let mut above = txn.directory(parent)?;
    names::insert(txn, parent, &mut above, name, inode, &mut record)?;
    txn.put_inode(parent, &mut above);
    txn.put_inode(inode, &mut record);
    Ok(inode)
}
