//! Creates or replaces a file with its contents in one step: it appears whole or not at all.

use super::{contents, make, names, xattrs};
use crate::state::depth;
use crate::state::extents::Edit;
use crate::state::records::InodeRecord;
use crate::state::session;
use crate::state::stop::OpResult;
use crate::state::text::quoted;
use crate::state::txn::{Txn, Who, stale};
use quarry_common::ids::InodeId;
use quarry_common::limits::FILE_LEN_MAX;
use quarry_common::token::Receipt;
use quarry_common::wire::meta::{Contents, FileKind, NewExtent, OpReply, Publish, XattrMode};
use quarry_common::{Code, Error};

/// What had the name before loses it, and goes when it has no other and nobody has it open. A
/// directory is never replaced.
pub fn publish(txn: &mut Txn<'_>, who: &Who<'_>, publish: &Publish) -> OpResult<OpReply> {
    let Publish { parent, name, .. } = publish;
    session::check_open(txn, who.session)?;
    let (mut parent_record, dentry) = names::look_up(txn, who, *parent, name)?;
    names::check_may_add(who, *parent, &parent_record)?;
    depth::check(txn, *parent, 0)?;
    if let Some(dentry) = dentry {
        if dentry.kind == FileKind::Directory {
            let text = format!(
                "'{}' is a directory, which a file does not replace",
                quoted(name)
            );
            return Err(Error::new(Code::IsDirectory, text).into());
        }
        if !publish.replace {
            return Err(names::exists(&parent_record, name).into());
        }
        let mut old = txn.referred_inode(dentry.inode)?;
        names::check_may_remove(who, &parent_record, &old)?;
        names::remove(
            txn,
            *parent,
            &mut parent_record,
            name,
            dentry.inode,
            &mut old,
        )?;
        txn.put_inode(dentry.inode, &mut old);
    }
    let (inode, mut record) = match &publish.contents {
        Contents::Extents {
            size,
            extents,
            receipts,
        } => {
            let mut record =
                make::new_inode(txn, who, &parent_record, FileKind::File, publish.mode);
            let inode = txn.new_inode_id(parent.slot())?;
            fill(txn, who, inode, &mut record, *size, extents, receipts)?;
            (inode, record)
        }
        Contents::Unnamed(inode) => (
            *inode,
            take(txn, who, *inode, &parent_record, publish.mode)?,
        ),
    };
    names::insert(txn, *parent, &mut parent_record, name, inode, &mut record)?;
    for (attribute, value) in &publish.xattrs {
        xattrs::set(
            txn,
            who,
            inode,
            &mut record,
            attribute,
            value,
            XattrMode::Set,
        )?;
    }
    record.mtime = publish.mtime.unwrap_or(txn.time());
    record.ctime = txn.time();
    txn.put_inode(*parent, &mut parent_record);
    txn.put_inode(inode, &mut record);
    Ok(OpReply::Attr(txn.attr(inode, &record)?))
}

/// The contents of a new file.
fn fill(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    inode: InodeId,
    record: &mut InodeRecord,
    size: u64,
    extents: &[NewExtent],
    receipts: &[Receipt],
) -> OpResult<()> {
    if size > FILE_LEN_MAX {
        return Err(contents::too_long().into());
    }
    let pieces = contents::accept(txn, who, 0, extents, receipts, false)?;
    if pieces.iter().any(|piece| piece.span.end > size) {
        return Err(Error::new(
            Code::Invalid,
            format!("an extent goes beyond the {size} bytes of the file"),
        )
        .into());
    }
    let mut edit = Edit::new(txn, inode, record);
    contents::write(&mut edit, pieces)?;
    edit.extend(size);
    edit.finish()
}

/// An unnamed file of the session, with the mode that a new file in that directory would have.
fn take(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    inode: InodeId,
    parent: &InodeRecord,
    mode: u16,
) -> OpResult<InodeRecord> {
    let record = txn.inode(inode)?;
    let unnamed = record.links == 0 && record.orphaned_at.is_none();
    if !unnamed || !session::holds(txn, who.session, inode)? {
        return Err(stale(inode)
            .context("only a file without a name that the session made can be published")
            .into());
    }
    session::release(txn, who.session, inode);
    let mode = make::new_inode(txn, who, parent, FileKind::File, mode).mode;
    Ok(InodeRecord { mode, ..record })
}

#[cfg(test)]
mod tests {
    use crate::state::consistency::faults;
    use crate::state::testing::{on_both, publish, refusal, root, user};
    use quarry_common::Code;
    use quarry_common::ids::InodeId;
    use quarry_common::time::Nanos;
    use quarry_common::wire::meta::{Contents, Op, OpReply, Read, ReadReply, View};

    #[test]
    fn a_published_file_replaces_another_whole_and_keeps_its_readers() {
        on_both(|world| {
            let old = world.put(InodeId::ROOT, "f", b"old");
            let other = world.link(&root(), old.inode, InodeId::ROOT, "g").unwrap();
            let Op::Publish(mut new) = publish(InodeId::ROOT, b"f", b"newer") else {
                panic!()
            };
            new.mtime = Some(Nanos(5));
            new.xattrs = vec![(b"user.a".to_vec(), b"1".to_vec())];
            let attr = world.attr_of(&root(), Op::Publish(new)).unwrap();
            assert_eq!(
                (attr.size, attr.links, attr.mtime, attr.has_xattrs),
                (5, 1, Nanos(5), true)
            );
            assert_ne!(attr.inode, old.inode);
            assert_eq!(
                world.lookup(InodeId::ROOT, "g").unwrap().inode,
                other.inode,
                "another name keeps the old file"
            );
            world.unlink(&root(), InodeId::ROOT, "g").unwrap();
            assert_eq!(
                world.extents(old.inode).extents.len(),
                1,
                "who has it open still reads it"
            );
            assert_eq!(faults(&*world.kv), Vec::<String>::new());
            assert_eq!(
                world.purge(vec![old.inode, attr.inode], 100),
                (vec![old.inode], false)
            );
            assert_eq!(faults(&*world.kv), Vec::<String>::new());
        });
    }

    #[test]
    fn what_may_not_be_replaced_stays() {
        on_both(|world| {
            let shared = world
                .mkdir(&root(), InodeId::ROOT, "tmp", 0o1777)
                .unwrap()
                .inode;
            let (ann, bob) = (user(1000, &[1000]), user(1001, &[1001]));
            world.mkdir(&root(), shared, "d", 0o777).unwrap();
            world.op(&ann, publish(shared, b"a", b"x")).unwrap();
            assert_eq!(
                refusal(world.op(&root(), publish(shared, b"d", b""))),
                Code::IsDirectory
            );
            assert_eq!(
                refusal(world.op(&bob, publish(shared, b"a", b""))),
                Code::NotPermitted
            );
            assert_eq!(
                refusal(world.op(&bob, publish(InodeId::ROOT, b"b", b""))),
                Code::AccessDenied
            );
            let Op::Publish(mut only_new) = publish(shared, b"a", b"") else {
                panic!()
            };
            only_new.replace = false;
            assert_eq!(refusal(world.op(&ann, Op::Publish(only_new))), Code::Exists);
            let Op::Publish(mut too_long) = publish(shared, b"a", b"abc") else {
                panic!()
            };
            let Contents::Extents { size, .. } = &mut too_long.contents else {
                panic!()
            };
            *size = 2;
            assert_eq!(
                refusal(world.op(&ann, Op::Publish(too_long))),
                Code::Invalid
            );
            let Op::Publish(mut bad_attribute) = publish(shared, b"a", b"abc") else {
                panic!()
            };
            bad_attribute.xattrs = vec![(b"nonsense".to_vec(), Vec::new())];
            assert!(world.op(&ann, Op::Publish(bad_attribute)).is_err());
            assert_eq!(
                world.lookup(shared, "a").unwrap().size,
                1,
                "what is refused has changed nothing"
            );
            assert_eq!(faults(&*world.kv), Vec::<String>::new());
        });
    }

    #[test]
    fn contents_are_for_those_who_may() {
        on_both(|world| {
            let (ann, bob) = (user(1000, &[1000]), user(1001, &[1001]));
            let home = world.lookup(InodeId::ROOT, "home").unwrap().inode;
            let home = world.lookup(home, "ann").unwrap().inode;
            let inode = world.create(&ann, home, "f", 0o444).unwrap().inode;
            let append = Op::Append {
                inode,
                extents: vec![crate::state::testing::inline(0, b"abc")],
                receipts: Vec::new(),
                len: 3,
            };
            // The owner writes through what it opened when it made the file.
            assert!(matches!(
                world.op(&ann, append.clone()),
                Ok(OpReply::Appended { .. })
            ));
            assert_eq!(refusal(world.op(&bob, append)), Code::AccessDenied);
            let extents = Read::Extents {
                view: View::Live,
                inode,
                offset: quarry_common::ids::FileOffset(1),
                len: 1,
            };
            let ReadReply::Extents(page) = world.read(&bob, extents.clone()).unwrap() else {
                panic!()
            };
            assert_eq!((page.size, page.extents.len(), page.more), (3, 1, false));
            let mode = quarry_common::wire::meta::SetAttr {
                mode: Some(0o600),
                ..Default::default()
            };
            world.op(&ann, Op::SetAttr { inode, set: mode }).unwrap();
            assert_eq!(refusal(world.read(&bob, extents)), Code::AccessDenied);
        });
    }
}
