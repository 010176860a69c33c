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
    let dentry = dentry.ok_or_else(|| names::not_found(&parent_record, name))?;
    let mut record = txn.referred_inode(dentry.inode)?;
    names::check_may_remove(who, &parent_record, &record)?;
    if record.is_directory() {
        let text = format!("{} is a directory: remove it as one", shown(&record));
        return Err(Error::new(Code::IsDirectory, text).into());
    }
    names::remove(
        txn,
        parent,
        &mut parent_record,
        name,
        dentry.inode,
        &mut record,
    )?;
    txn.put_inode(parent, &mut parent_record);
    txn.put_inode(dentry.inode, &mut record);
    Ok(OpReply::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::consistency::faults;
    use crate::state::testing::{on_both, refusal, root, user};

    const ROOT: InodeId = InodeId::ROOT;

    #[test]
    fn a_file_without_names_stays_readable_as_an_orphan() {
        on_both(|world| {
            let file = world.put(ROOT, "a", b"contents");
            world.unlink(&root(), ROOT, "a").unwrap();
            assert_eq!(refusal(world.lookup(ROOT, "a")), Code::NotFound);
            let orphan = world.stat(file.inode).unwrap();
            assert_eq!((orphan.links, orphan.size), (0, 8));
            assert!(world.record(file.inode).orphaned_at.is_some());
            assert_eq!(faults(&*world.kv), Vec::<String>::new());
        });
    }

    #[test]
    fn refusals_come_in_the_order_of_posix() {
        on_both(|world| {
            let dir = world.mkdir(&root(), ROOT, "d", 0o1777).unwrap().inode;
            world.mkdir(&root(), dir, "sub", 0o777).unwrap();
            world.create(&root(), dir, "roots", 0o777).unwrap();
            let ann = user(1000, &[1000]);
            world.create(&ann, dir, "own", 0o000).unwrap();
            assert_eq!(refusal(world.unlink(&ann, dir, "none")), Code::NotFound);
            assert_eq!(
                refusal(world.unlink(&ann, dir, "roots")),
                Code::NotPermitted
            );
            assert_eq!(
                refusal(world.unlink(&root(), dir, "sub")),
                Code::IsDirectory
            );
            assert_eq!(refusal(world.unlink(&ann, ROOT, "d")), Code::AccessDenied);
            world.unlink(&ann, dir, "own").unwrap();
            let closed = world.mkdir(&root(), ROOT, "closed", 0o700).unwrap().inode;
            assert_eq!(
                refusal(world.unlink(&ann, closed, "none")),
                Code::AccessDenied
            );
        });
    }
}
