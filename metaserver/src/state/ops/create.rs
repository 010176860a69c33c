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
        None => make::make_in(
            txn,
            who,
            parent,
            parent_record,
            name,
            FileKind::File,
            mode,
            |_| {},
        ),
        Some(_) if exclusive => Err(names::exists(&parent_record, name).into()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{on_both, refusal, root, user};
    use quarry_common::ids::{Gid, Uid};
    use quarry_common::wire::meta::Op;

    #[test]
    fn a_new_file_is_its_callers_and_changes_its_directory() {
        on_both(|world| {
            let ann = user(1000, &[1000, 7]);
            let home = world.mkdir(&root(), InodeId::ROOT, "d", 0o777).unwrap();
            let file = world.create(&ann, home.inode, "a", 0o640).unwrap();
            assert_eq!(
                (file.uid, file.gid, file.mode),
                (Uid(1000), Gid(1000), 0o640)
            );
            assert_eq!((file.links, file.size, file.parent), (1, 0, home.inode));
            assert_eq!(
                (file.mtime, file.ctime, file.atime),
                (file.btime, file.btime, file.btime)
            );
            let after = world.stat(home.inode).unwrap();
            assert_eq!((after.size, after.links), (1, 2));
            assert_eq!((after.mtime, after.ctime), (file.btime, file.btime));
            assert!(after.data_version > home.data_version);
        });
    }

    #[test]
    fn an_existing_file_is_returned_or_refused() {
        on_both(|world| {
            let first = world.create(&root(), InodeId::ROOT, "a", 0o600).unwrap();
            assert_eq!(
                refusal(world.create(&root(), InodeId::ROOT, "a", 0o600)),
                Code::Exists
            );
            let open = |name: &[u8]| Op::Create {
                parent: InodeId::ROOT,
                name: name.to_vec(),
                mode: 0o777,
                exclusive: false,
            };
            // Whoever may not write the directory may still open what is there.
            let other = user(5, &[5]);
            assert_eq!(world.attr_of(&other, open(b"a")).unwrap(), first);
            assert_eq!(refusal(world.op(&other, open(b"b"))), Code::AccessDenied);
            world.mkdir(&root(), InodeId::ROOT, "d", 0o755).unwrap();
            assert_eq!(refusal(world.op(&root(), open(b"d"))), Code::IsDirectory);
        });
    }

    #[test]
    fn nothing_is_made_where_there_is_no_directory() {
        on_both(|world| {
            let file = world.create(&root(), InodeId::ROOT, "a", 0o600).unwrap();
            assert_eq!(
                refusal(world.create(&root(), file.inode, "b", 0o600)),
                Code::NotDirectory
            );
            assert_eq!(
                refusal(world.create(&root(), InodeId(999), "b", 0o600)),
                Code::Stale
            );
            let dir = world.mkdir(&root(), InodeId::ROOT, "d", 0o755).unwrap();
            world.rmdir(&root(), InodeId::ROOT, "d").unwrap();
            assert_eq!(
                refusal(world.create(&root(), dir.inode, "b", 0o600)),
                Code::NotFound
            );
        });
    }

    #[test]
    fn a_set_group_id_directory_gives_its_group() {
        on_both(|world| {
            let shared = world.mkdir(&root(), InodeId::ROOT, "s", 0o2777).unwrap();
            let ann = user(1000, &[1000]);
            let dir = world.mkdir(&ann, shared.inode, "d", 0o755).unwrap();
            assert_eq!((dir.gid, dir.mode), (Gid(0), 0o2755));
            let file = world.create(&ann, dir.inode, "f", 0o2775).unwrap();
            // Ann is not in group 0: a program may not run as it.
            assert_eq!((file.gid, file.mode), (Gid(0), 0o775));
            let own = world.create(&user(1, &[0]), dir.inode, "g", 0o2775);
            assert_eq!(refusal(own), Code::AccessDenied);
        });
    }
}
