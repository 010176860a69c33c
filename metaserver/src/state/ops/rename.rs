//! Moves a name, as rename(2) and renameat2(2) say.

use super::names::{self, Place};
use super::rmdir::{check_directory, check_empty};
use crate::state::access::{self, Want, shown};
use crate::state::depth;
use crate::state::records::{DentryRecord, InodeRecord};
use crate::state::stop::OpResult;
use crate::state::text::quoted;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{OpReply, RenameMode};
use quarry_common::{Code, Error};

/// One of the two names of a rename.
struct Side {
    parent: InodeRecord,
    dentry: DentryRecord,
    record: InodeRecord,
}

/// Both names lead to one inode: nothing happens, and both stay (POSIX).
pub fn rename(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    from: Place<'_>,
    to: Place<'_>,
    mode: RenameMode,
) -> OpResult<OpReply> {
    let (from_parent, from_dentry) = names::look_up(txn, who, from.parent, from.name)?;
    let (to_parent, to_dentry) = names::look_up(txn, who, to.parent, to.name)?;
    let dentry = from_dentry.ok_or_else(|| names::not_found(&from_parent, from.name))?;
    match (mode, &to_dentry) {
        (RenameMode::NoReplace, Some(_)) => {
            return Err(names::exists(&to_parent, to.name).into());
        }
        (RenameMode::Exchange, None) => {
            return Err(names::not_found(&to_parent, to.name).into());
        }
        _ => {}
    }
    let record = txn.referred_inode(dentry.inode)?;
    let source = Side {
        parent: from_parent,
        dentry,
        record,
    };
    let target = match to_dentry {
        Some(dentry) => {
            let record = txn.referred_inode(dentry.inode)?;
            Some(Side {
                parent: to_parent.clone(),
                dentry,
                record,
            })
        }
        None => None,
    };
    depth::check(txn, to.parent, usize::from(source.record.is_directory()))?;
    if source.record.is_directory() {
        check_not_below(txn, to.parent, source.dentry.inode, from.name)?;
    }
    match target {
        Some(target) if target.dentry.inode == source.dentry.inode => Ok(OpReply::Nothing),
        Some(target) if mode == RenameMode::Exchange => {
            exchange(txn, who, (from, source), (to, target))
        }
        Some(target) => replace(txn, who, (from, source), (to, target)),
        None => {
            names::check_may_remove(who, &source.parent, &source.record)?;
            names::check_may_add(who, to.parent, &to_parent)?;
            check_may_move(who, from, to, &source.record)?;
            relocate(txn, from, to, source)
        }
    }
}

/// The target loses its name to the source.
fn replace(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    (from, source): (Place<'_>, Side),
    (to, mut target): (Place<'_>, Side),
) -> OpResult<OpReply> {
    names::check_may_remove(who, &source.parent, &source.record)?;
    names::check_may_remove(who, &target.parent, &target.record)?;
    if source.record.is_directory() {
        check_directory(&target.record)?;
    } else if target.record.is_directory() {
        let text = format!(
            "{} is a directory, which a file can not replace",
            shown(&target.record)
        );
        return Err(Error::new(Code::IsDirectory, text).into());
    }
    check_may_move(who, from, to, &source.record)?;
    if target.record.is_directory() {
        check_empty(&target.record)?;
    }
    let replaced = target.dentry.inode;
    names::remove(
        txn,
        to.parent,
        &mut target.parent,
        to.name,
        replaced,
        &mut target.record,
    )?;
    txn.put_inode(to.parent, &mut target.parent);
    txn.put_inode(replaced, &mut target.record);
    relocate(txn, from, to, source)
}

fn relocate(
    txn: &mut Txn<'_>,
    from: Place<'_>,
    to: Place<'_>,
    mut source: Side,
) -> OpResult<OpReply> {
    let (inode, made_at) = (source.dentry.inode, source.dentry.modified_at);
    names::relocate(txn, from, to, made_at, inode, &mut source.record)?;
    txn.put_inode(inode, &mut source.record);
    Ok(OpReply::Nothing)
}

/// Both names stay, and lead to what the other one led to.
fn exchange(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    (from, mut source): (Place<'_>, Side),
    (to, mut target): (Place<'_>, Side),
) -> OpResult<OpReply> {
    depth::check(txn, from.parent, usize::from(target.record.is_directory()))?;
    if target.record.is_directory() {
        check_not_below(txn, from.parent, target.dentry.inode, to.name)?;
    }
    names::check_may_remove(who, &source.parent, &source.record)?;
    names::check_may_remove(who, &target.parent, &target.record)?;
    check_may_move(who, from, to, &source.record)?;
    check_may_move(who, to, from, &target.record)?;
    // A place between: no name that `check_name` lets through.
    let between = Place {
        parent: to.parent,
        name: b"/",
    };
    let (first, second) = (source.dentry.inode, target.dentry.inode);
    names::relocate(
        txn,
        to,
        between,
        target.dentry.modified_at,
        second,
        &mut target.record,
    )?;
    names::relocate(
        txn,
        from,
        to,
        source.dentry.modified_at,
        first,
        &mut source.record,
    )?;
    names::relocate(
        txn,
        between,
        from,
        target.dentry.modified_at,
        second,
        &mut target.record,
    )?;
    txn.put_inode(first, &mut source.record);
    txn.put_inode(second, &mut target.record);
    Ok(OpReply::Nothing)
}

/// A directory that gets another parent is written itself: its `..` changes.
fn check_may_move(
    who: &Who<'_>,
    from: Place<'_>,
    to: Place<'_>,
    record: &InodeRecord,
) -> OpResult<()> {
    if record.is_directory() && from.parent != to.parent {
        access::check(who.caller, record, Want::WRITE)?;
    }
    Ok(())
}

/// Refuses to move a directory into itself or below.
fn check_not_below(txn: &Txn<'_>, directory: InodeId, moved: InodeId, name: &[u8]) -> OpResult<()> {
    let mut at = directory;
    loop {
        if at == moved {
            let text = format!("directory '{}' can not be moved into itself", quoted(name));
            return Err(Error::new(Code::Invalid, text).into());
        }
        let record = txn.referred_inode(at)?;
        if record.parent == at || record.name.is_empty() {
            return Ok(());
        }
        at = record.parent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::consistency::faults;
    use crate::state::testing::{World, on_both, refusal, root, user};
    use RenameMode::{Exchange, NoReplace, Replace};

    const ROOT: InodeId = InodeId::ROOT;

    fn fits(world: &World) {
        assert_eq!(faults(&*world.kv), Vec::<String>::new());
    }

    #[test]
    fn a_rename_within_a_directory_keeps_the_version_of_the_name() {
        on_both(|world| {
            let file = world.create(&root(), ROOT, "a", 0o644).unwrap();
            let made_at = file.modified_at;
            world
                .rename(&root(), (ROOT, "a"), (ROOT, "b"), Replace)
                .unwrap();
            let txn = Txn::new(&*world.kv);
            assert!(txn.dentry(ROOT, b"a").unwrap().is_none());
            assert_eq!(
                txn.dentry(ROOT, b"b").unwrap().unwrap().modified_at,
                made_at
            );
            let after = world.stat(file.inode).unwrap();
            assert_eq!(
                (after.mtime, after.data_version),
                (file.mtime, file.data_version)
            );
            assert!(after.ctime > file.ctime);
            assert_eq!(world.record(file.inode).name, b"b");
            fits(world);
        });
    }

    #[test]
    fn a_moved_directory_takes_its_usage_and_its_links_along() {
        on_both(|world| {
            let from = world.mkdir(&root(), ROOT, "from", 0o755).unwrap().inode;
            let to = world.mkdir(&root(), ROOT, "to", 0o755).unwrap().inode;
            let dir = world.mkdir(&root(), from, "d", 0o755).unwrap().inode;
            world.put(dir, "file", b"contents");
            world
                .rename(&root(), (from, "d"), (to, "e"), NoReplace)
                .unwrap();
            assert_eq!(world.stat(from).unwrap().links, 2);
            assert_eq!(world.stat(to).unwrap().links, 3);
            assert_eq!(world.stat(dir).unwrap().parent, to);
            fits(world);
        });
    }

    #[test]
    fn a_replaced_file_stays_for_its_readers_as_an_orphan() {
        on_both(|world| {
            let old = world.put(ROOT, "a", b"old").inode;
            let new = world.put(ROOT, "b", b"new one").inode;
            assert_eq!(
                refusal(world.rename(&root(), (ROOT, "b"), (ROOT, "a"), NoReplace)),
                Code::Exists
            );
            world
                .rename(&root(), (ROOT, "b"), (ROOT, "a"), Replace)
                .unwrap();
            assert_eq!(world.lookup(ROOT, "a").unwrap().inode, new);
            assert_eq!(refusal(world.lookup(ROOT, "b")), Code::NotFound);
            let orphan = world.stat(old).unwrap();
            assert_eq!((orphan.links, orphan.size), (0, 3));
            fits(world);
        });
    }

    #[test]
    fn two_names_of_one_file_stay_both() {
        on_both(|world| {
            let file = world.create(&root(), ROOT, "a", 0o644).unwrap().inode;
            world.link(&root(), file, ROOT, "b").unwrap();
            let before = world.records();
            world
                .rename(&root(), (ROOT, "a"), (ROOT, "b"), Replace)
                .unwrap();
            world
                .rename(&root(), (ROOT, "a"), (ROOT, "a"), Replace)
                .unwrap();
            assert_eq!(world.stat(file).unwrap().links, 2);
            assert_eq!(world.records(), before);
            fits(world);
        });
    }

    #[test]
    fn kinds_must_fit_and_a_replaced_directory_be_empty() {
        on_both(|world| {
            let dir = world.mkdir(&root(), ROOT, "d", 0o755).unwrap().inode;
            world.mkdir(&root(), ROOT, "e", 0o755).unwrap();
            world.create(&root(), ROOT, "f", 0o644).unwrap();
            world.create(&root(), dir, "in", 0o644).unwrap();
            let mut rename = |from, to| world.rename(&root(), (ROOT, from), (ROOT, to), Replace);
            assert_eq!(refusal(rename("e", "f")), Code::NotDirectory);
            assert_eq!(refusal(rename("f", "e")), Code::IsDirectory);
            assert_eq!(refusal(rename("e", "d")), Code::NotEmpty);
            assert_eq!(refusal(rename("none", "d")), Code::NotFound);
            rename("d", "e").unwrap();
            assert_eq!(world.names(ROOT), ["e", "f", "home"]);
            fits(world);
        });
    }

    #[test]
    fn a_directory_never_gets_below_itself() {
        on_both(|world| {
            let a = world.mkdir(&root(), ROOT, "a", 0o755).unwrap().inode;
            let b = world.mkdir(&root(), a, "b", 0o755).unwrap().inode;
            let c = world.mkdir(&root(), b, "c", 0o755).unwrap().inode;
            for to in [a, b, c] {
                let moved = world.rename(&root(), (ROOT, "a"), (to, "x"), Replace);
                assert_eq!(refusal(moved), Code::Invalid);
            }
            // The other way round: a directory that is above the source.
            assert_eq!(
                refusal(world.rename(&root(), (b, "c"), (ROOT, "a"), Replace)),
                Code::NotEmpty
            );
            assert_eq!(
                refusal(world.rename(&root(), (b, "c"), (ROOT, "a"), Exchange)),
                Code::Invalid
            );
            fits(world);
        });
    }

    #[test]
    fn an_exchange_swaps_what_two_names_lead_to() {
        on_both(|world| {
            let dir = world.mkdir(&root(), ROOT, "d", 0o755).unwrap().inode;
            let sub = world.mkdir(&root(), dir, "sub", 0o755).unwrap().inode;
            let file = world.put(ROOT, "f", b"contents").inode;
            world.link(&root(), file, dir, "other").unwrap();
            assert_eq!(
                refusal(world.rename(&root(), (ROOT, "f"), (dir, "none"), Exchange)),
                Code::NotFound
            );
            world
                .rename(&root(), (ROOT, "f"), (dir, "sub"), Exchange)
                .unwrap();
            assert_eq!(world.lookup(ROOT, "f").unwrap().inode, sub);
            assert_eq!(world.lookup(dir, "sub").unwrap().inode, file);
            assert_eq!(world.stat(dir).unwrap().links, 2);
            fits(world);
            world
                .rename(&root(), (dir, "sub"), (dir, "other"), Exchange)
                .unwrap();
            fits(world);
        });
    }

    #[test]
    fn both_directories_must_be_writable_and_a_moved_directory_too() {
        on_both(|world| {
            let ann = user(1000, &[1000]);
            let open = world.mkdir(&root(), ROOT, "open", 0o777).unwrap().inode;
            let closed = world.mkdir(&root(), ROOT, "closed", 0o755).unwrap().inode;
            let sticky = world.mkdir(&root(), ROOT, "sticky", 0o1777).unwrap().inode;
            world.create(&ann, open, "a", 0o644).unwrap();
            world.create(&root(), closed, "b", 0o644).unwrap();
            world.create(&root(), sticky, "c", 0o644).unwrap();
            world.mkdir(&root(), open, "dir", 0o755).unwrap();
            let mut rename = |from, to| refusal(world.rename(&ann, from, to, Replace));
            assert_eq!(rename((open, "a"), (closed, "x")), Code::AccessDenied);
            assert_eq!(rename((closed, "b"), (open, "x")), Code::AccessDenied);
            assert_eq!(rename((sticky, "c"), (open, "x")), Code::NotPermitted);
            assert_eq!(rename((open, "a"), (sticky, "c")), Code::NotPermitted);
            // Its `..` would change, and it is not ann's to write.
            assert_eq!(rename((open, "dir"), (sticky, "x")), Code::AccessDenied);
            world
                .rename(&ann, (open, "dir"), (open, "x"), Replace)
                .unwrap();
            fits(world);
        });
    }
}
