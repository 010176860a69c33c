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
    let dentry = dentry.ok_or_else(|| names::not_found(&parent_record, name))?;
    let mut record = txn.referred_inode(dentry.inode)?;
    check_directory(&record)?;
    // The number of the inode, so that no two removed trees have one name.
    let hidden_name = dentry.inode.to_string();
    let from = Place { parent, name };
    let to = Place {
        parent: HIDDEN_DIRECTORY,
        name: hidden_name.as_bytes(),
    };
    names::relocate(txn, from, to, dentry.modified_at, dentry.inode, &mut record)?;
    txn.put_inode(dentry.inode, &mut record);
    Ok(OpReply::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::command::{Action, Reply};
    use crate::state::consistency::faults;
    use crate::state::testing::{on_both, refusal, root, user};
    use quarry_common::wire::meta::Op;

    const ROOT: InodeId = InodeId::ROOT;

    #[test]
    fn a_tree_leaves_at_once_and_is_emptied_in_bounded_commands() {
        on_both(|world| {
            let before = world.records();
            let dir = world.mkdir(&root(), ROOT, "d", 0o755).unwrap().inode;
            let sub = world.mkdir(&root(), dir, "sub", 0o755).unwrap().inode;
            for name in 0..20 {
                world.put(sub, &name.to_string(), b"contents");
            }
            let op = |name: &[u8]| Op::RemoveTree {
                parent: ROOT,
                name: name.to_vec(),
            };
            let ann = user(1000, &[1000]);
            assert_eq!(refusal(world.op(&ann, op(b"d"))), Code::NotPermitted);
            assert_eq!(refusal(world.op(&root(), op(b"e"))), Code::NotFound);
            world.op(&root(), op(b"d")).unwrap();
            assert_eq!(refusal(world.lookup(ROOT, "d")), Code::NotFound);
            assert_eq!(faults(&*world.kv), Vec::<String>::new());

            // As the leader does it: orphans that the purge made are purged as well.
            let mut commands = 0;
            loop {
                let orphans = all_orphans(world);
                let purge = Action::Purge {
                    orphans,
                    records_max: 4,
                };
                let Reply::Collected { more, .. } = world.act(purge).unwrap() else {
                    panic!("no reply to a purge")
                };
                assert_eq!(faults(&*world.kv), Vec::<String>::new());
                commands += 1;
                assert!(commands < 200, "the tree does not end");
                if !more && all_orphans(world).is_empty() {
                    break;
                }
            }
            assert!(commands > 5);
            // Counters of inodes and usage stay.
            assert!(
                world.records() <= before + 4,
                "something is left of the tree"
            );
        });
    }

    fn all_orphans(world: &crate::state::testing::World) -> Vec<InodeId> {
        let orphans = crate::state::keys::orphans();
        let found = world
            .dump()
            .into_iter()
            .filter(|(_, key, _)| key.starts_with(&orphans));
        found
            .map(|(_, key, _)| crate::state::keys::parse_orphan(&key).unwrap().1)
            .collect()
    }
}
