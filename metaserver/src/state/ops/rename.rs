//! Moves a name, as rename(2) and renameat2(2) say.

use super::names::{self, Place};
use super::rmdir::{check_directory, check_empty};
use crate::state::access::{self, Want, shown};
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
    let dentry = from_dentry.ok_or_else(|| names::not_found(from.parent, &from_parent, from.name))?;
    match (mode, &to_dentry) {
        (RenameMode::NoReplace, Some(_)) => return Err(names::exists(to.parent, &to_parent, to.name).into()),
        (RenameMode::Exchange, None) => return Err(names::not_found(to.parent, &to_parent, to.name).into()),
        _ => {}
    }
    let record = txn.referred_inode(dentry.inode)?;
    let source = Side { parent: from_parent, dentry, record };
    let target = match to_dentry {
        Some(dentry) => {
            let record = txn.referred_inode(dentry.inode)?;
            Some(Side { parent: to_parent.clone(), dentry, record })
        }
        None => None,
    };
    if source.record.is_directory() {
        check_not_below(txn, to.parent, source.dentry.inode, from.name)?;
    }
    match target {
        Some(target) if target.dentry.inode == source.dentry.inode => Ok(OpReply::Nothing),
        Some(target) if mode == RenameMode::Exchange => exchange(txn, who, (from, source), (to, target)),
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
        let text = format!("{} is a directory, which a file can not replace", shown(&target.record));
        return Err(Error::new(Code::IsDirectory, text).into());
    }
    check_may_move(who, from, to, &source.record)?;
    if target.record.is_directory() {
        check_empty(&target.record)?;
    }
    let replaced = target.dentry.inode;
    names::remove(txn, to.parent, &mut target.parent, to.name, replaced, &mut target.record)?;
    txn.put_inode(to.parent, &mut target.parent);
    txn.put_inode(replaced, &mut target.record);
    relocate(txn, from, to, source)
}

fn relocate(txn: &mut Txn<'_>, from: Place<'_>, to: Place<'_>, mut source: Side) -> OpResult<OpReply> {
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
    if target.record.is_directory() {
        check_not_below(txn, from.parent, target.dentry.inode, to.name)?;
    }
    names::check_may_remove(who, &source.parent, &source.record)?;
    names::check_may_remove(who, &target.parent, &target.record)?;
    check_may_move(who, from, to, &source.record)?;
    check_may_move(who, to, from, &target.record)?;
    // A place between: no name that `check_name` lets through.
    let between = Place { parent: to.parent, name: b"/" };
    let (first, second) = (source.dentry.inode, target.dentry.inode);
    names::relocate(txn, to, between, target.dentry.modified_at, second, &mut target.record)?;
    names::relocate(txn, from, to, source.dentry.modified_at, first, &mut source.record)?;
    names::relocate(txn, between, from, target.dentry.modified_at, second, &mut target.record)?;
    txn.put_inode(first, &mut source.record);
    txn.put_inode(second, &mut target.record);
    Ok(OpReply::Nothing)
}

/// A directory that gets another parent is written itself: its `..` changes.
fn check_may_move(who: &Who<'_>, from: Place<'_>, to: Place<'_>, record: &InodeRecord) -> OpResult<()> {
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
