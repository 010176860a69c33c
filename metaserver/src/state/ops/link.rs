//! Gives a file another name.

use super::names;
use crate::kv::Family;
use crate::state::access::shown;
use crate::state::depth;
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
        return Err(names::exists(&parent_record, name).into());
    }
    names::check_may_add(who, parent, &parent_record)?;
    depth::check(txn, parent, 0)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{on_both, refusal, root};
    use quarry_common::wire::meta::Op;

    const ROOT: InodeId = InodeId::ROOT;

    #[test]
    fn every_name_of_a_file_leads_to_it_until_the_last_is_gone() {
        on_both(|world| {
            let dir = world.mkdir(&root(), ROOT, "d", 0o755).unwrap().inode;
            let file = world.create(&root(), ROOT, "a", 0o644).unwrap();
            let linked = world.link(&root(), file.inode, dir, "b").unwrap();
            assert_eq!((linked.links, linked.parent), (2, ROOT));
            assert_eq!(
                (linked.mtime, linked.data_version),
                (file.mtime, file.data_version)
            );
            assert!(linked.ctime > file.ctime);
            world.link(&root(), file.inode, dir, "c").unwrap();
            // The primary name goes: another takes its place.
            world.unlink(&root(), ROOT, "a").unwrap();
            let left = world.lookup(dir, "b").unwrap();
            assert_eq!((left.inode, left.links, left.parent), (file.inode, 2, dir));
            world.unlink(&root(), dir, "b").unwrap();
            assert_eq!(world.lookup(dir, "c").unwrap().links, 1);
            world.unlink(&root(), dir, "c").unwrap();
            let orphan = world.stat(file.inode).unwrap();
            assert_eq!((orphan.links, orphan.parent), (0, file.inode));
        });
    }

    #[test]
    fn what_can_not_be_linked_is_refused() {
        on_both(|world| {
            let dir = world.mkdir(&root(), ROOT, "d", 0o755).unwrap().inode;
            assert_eq!(
                refusal(world.link(&root(), dir, ROOT, "e")),
                Code::NotPermitted
            );
            let file = world.create(&root(), ROOT, "a", 0o644).unwrap().inode;
            assert_eq!(refusal(world.link(&root(), file, ROOT, "d")), Code::Exists);
            assert_eq!(
                refusal(world.link(&root(), InodeId(999), ROOT, "e")),
                Code::Stale
            );
            world.unlink(&root(), ROOT, "a").unwrap();
            assert_eq!(
                refusal(world.link(&root(), file, ROOT, "e")),
                Code::NotFound
            );
        });
    }

    #[test]
    fn an_unnamed_file_gets_its_first_name_from_its_session() {
        on_both(|world| {
            let made = world
                .attr_of(
                    &root(),
                    Op::CreateUnnamed {
                        parent: ROOT,
                        mode: 0o600,
                    },
                )
                .unwrap();
            assert_eq!(made.links, 0);
            let named = world.link(&root(), made.inode, ROOT, "a").unwrap();
            assert_eq!((named.links, named.parent), (1, ROOT));
            assert_eq!(
                crate::state::consistency::faults(&*world.kv),
                Vec::<String>::new()
            );
        });
    }
}
