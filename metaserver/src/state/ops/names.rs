//! Names in directories: what they may be, and how they are made, moved and removed.
//!
//! These functions keep the rules that every operation relies on: a dentry for each name; counts
//! and times of directories; the link count, the primary name and the `names` family of the
//! inode; usage; orphans. The caller has checked permissions, and writes the records.

use crate::kv::{Family, after_prefix};
use crate::state::access::{self, Want, shown};
use crate::state::keys;
use crate::state::records::{DentryRecord, InodeRecord, NameRecord};
use crate::state::stop::{OpResult, Stop};
use crate::state::text::quoted;
use crate::state::txn::{Txn, Who};
use crate::state::usage::{self, UsageChange};
use quarry_common::ids::{InodeId, Version};
use quarry_common::limits::{LINKS_MAX, NAME_LEN_MAX};
use quarry_common::wire::meta::FileKind;
use quarry_common::{Code, Error, Result};
use std::ops::ControlFlow;

/// The name under which snapshots will appear in every directory.
const RESERVED: &[u8] = b".snapshot";

/// Refuses what can not be a name: `NameTooLong`, `Invalid`.
pub fn check_name(name: &[u8]) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::new(
            Code::Invalid,
            format!("'{}' can not be a name: {why}", quoted(name)),
        ))
    };
    if name.len() > NAME_LEN_MAX {
        let text = format!(
            "'{}...' can not be a name: it has {} bytes, {NAME_LEN_MAX} are the most",
            quoted(&name[..32]),
            name.len()
        );
        return Err(Error::new(Code::NameTooLong, text));
    }
    match name {
        b"" => refuse("it is empty"),
        b"." | b".." => refuse("it means a directory that exists"),
        RESERVED => refuse("it is reserved for snapshots"),
        _ if name.contains(&b'/') => refuse("it has a '/'"),
        _ if name.contains(&0) => refuse("it has a NUL"),
        _ => Ok(()),
    }
}

/// That a directory has no such name.
pub fn not_found(record: &InodeRecord, name: &[u8]) -> Error {
    let text = format!(
        "there is no '{}' in directory {}",
        quoted(name),
        shown(record)
    );
    Error::new(Code::NotFound, text)
}

/// That a directory has such a name already.
pub fn exists(record: &InodeRecord, name: &[u8]) -> Error {
    let text = format!(
        "there is a '{}' in directory {} already",
        quoted(name),
        shown(record)
    );
    Error::new(Code::Exists, text)
}

/// A directory in which the caller may look up names, and what `name` leads to.
pub fn look_up(
    txn: &Txn<'_>,
    who: &Who<'_>,
    parent: InodeId,
    name: &[u8],
) -> OpResult<(InodeRecord, Option<DentryRecord>)> {
    check_name(name)?;
    let record = txn.directory(parent)?;
    access::check(who.caller, &record, Want::SEARCH)?;
    let dentry = txn.dentry(parent, name)?;
    Ok((record, dentry))
}

/// Refuses a new name in a directory that the caller may not change, or that was removed.
pub fn check_may_add(who: &Who<'_>, parent: InodeId, record: &InodeRecord) -> Result<()> {
    access::check(who.caller, record, Want::CHANGE_NAMES)?;
    if record.links == 0 {
        let text = format!("directory {parent} was removed: nothing can be made in it");
        return Err(Error::new(Code::NotFound, text));
    }
    Ok(())
}

/// Refuses the removal of a name from a directory that the caller may not change.
pub fn check_may_remove(who: &Who<'_>, record: &InodeRecord, victim: &InodeRecord) -> Result<()> {
    access::check(who.caller, record, Want::CHANGE_NAMES)?;
    access::check_sticky(who.caller, record, victim)
}

/// Gives an inode a name, its first or another one. `TooManyLinks` beyond the limit.
pub fn insert(
    txn: &mut Txn<'_>,
    parent: InodeId,
    parent_record: &mut InodeRecord,
    name: &[u8],
    inode: InodeId,
    record: &mut InodeRecord,
) -> OpResult<()> {
    if record.links >= LINKS_MAX {
        let text = format!(
            "{} has {LINKS_MAX} names, which are the most",
            shown(record)
        );
        return Err(Error::new(Code::TooManyLinks, text).into());
    }
    count(txn, parent, parent_record, record.kind, 1)?;
    put_dentry(txn, parent, name, inode, record.kind, txn.version());
    if record.links == 0 {
        record.parent = parent;
        record.name = name.to_vec();
        txn.usage().note(parent, own_usage(record));
    } else {
        if record.links == 1 {
            let first = keys::name(inode, record.parent, &record.name);
            txn.put(Family::Names, first, &NameRecord);
        }
        txn.put(Family::Names, keys::name(inode, parent, name), &NameRecord);
    }
    record.links += 1;
    record.ctime = txn.time();
    Ok(())
}

/// Takes a name from an inode; one that has no other becomes an orphan. A directory is empty.
pub fn remove(
    txn: &mut Txn<'_>,
    parent: InodeId,
    parent_record: &mut InodeRecord,
    name: &[u8],
    inode: InodeId,
    record: &mut InodeRecord,
) -> OpResult<()> {
    count(txn, parent, parent_record, record.kind, -1)?;
    txn.delete(Family::Dentries, keys::dentry(parent, name));
    record.ctime = txn.time();
    record.links = record
        .links
        .checked_sub(1)
        .ok_or_else(|| miscounted(inode))?;
    if record.links == 0 {
        if record.is_directory() {
            usage::remove_directory(txn, inode, parent);
        } else {
            txn.usage().note(parent, own_usage(record).negated());
        }
        record.parent = inode;
        record.name.clear();
        txn.make_orphan(inode, record);
        return Ok(());
    }
    txn.delete(Family::Names, keys::name(inode, parent, name));
    let was_primary = record.parent == parent && record.name == name;
    if was_primary || record.links == 1 {
        let (other_parent, other_name) = first_name(txn, inode)?;
        if record.links == 1 {
            txn.delete(Family::Names, keys::name(inode, other_parent, &other_name));
        }
        if was_primary {
            move_usage(txn, record, parent, other_parent);
            record.parent = other_parent;
            record.name = other_name;
        }
    }
    Ok(())
}

/// Where a name is, or is to be.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The directory.
    pub parent: InodeId,
    /// The name in it.
    pub name: &'a [u8],
}

/// Moves the name of an inode to a place that is free, and writes both directories. `made_at` is
/// the version at which the name was made, which it keeps within one directory (DESIGN §6).
pub fn relocate(
    txn: &mut Txn<'_>,
    from: Place<'_>,
    to: Place<'_>,
    made_at: Version,
    inode: InodeId,
    record: &mut InodeRecord,
) -> OpResult<()> {
    let mut source = txn.referred_inode(from.parent)?;
    count(txn, from.parent, &mut source, record.kind, -1)?;
    txn.put_inode(from.parent, &mut source);
    let mut target = txn.referred_inode(to.parent)?;
    count(txn, to.parent, &mut target, record.kind, 1)?;
    txn.put_inode(to.parent, &mut target);

    txn.delete(Family::Dentries, keys::dentry(from.parent, from.name));
    let made_at = if from.parent == to.parent {
        made_at
    } else {
        txn.version()
    };
    put_dentry(txn, to.parent, to.name, inode, record.kind, made_at);
    if record.links > 1 {
        txn.delete(Family::Names, keys::name(inode, from.parent, from.name));
        txn.put(
            Family::Names,
            keys::name(inode, to.parent, to.name),
            &NameRecord,
        );
    }
    if record.parent == from.parent && record.name == from.name {
        if record.is_directory() {
            usage::move_directory(txn, inode, from.parent, to.parent)?;
        } else {
            move_usage(txn, record, from.parent, to.parent);
        }
        record.parent = to.parent;
        record.name = to.name.to_vec();
    }
    record.ctime = txn.time();
    Ok(())
}

fn put_dentry(
    txn: &mut Txn<'_>,
    parent: InodeId,
    name: &[u8],
    inode: InodeId,
    kind: FileKind,
    modified_at: Version,
) {
    let dentry = DentryRecord {
        inode,
        kind,
        modified_at,
    };
    txn.put(Family::Dentries, keys::dentry(parent, name), &dentry);
}

/// A directory has one name more or less: its counts, its times, its contents.
fn count(
    txn: &Txn<'_>,
    directory: InodeId,
    record: &mut InodeRecord,
    kind: FileKind,
    change: i64,
) -> OpResult<()> {
    let changed = |number: u64| {
        number
            .checked_add_signed(change)
            .ok_or_else(|| miscounted(directory))
    };
    record.entries = changed(record.entries)?;
    if kind == FileKind::Directory {
        record.subdirectories = changed(record.subdirectories)?;
    }
    record.mtime = txn.time();
    record.ctime = txn.time();
    record.data_version = txn.version();
    Ok(())
}

fn miscounted(inode: InodeId) -> Stop {
    Stop::Broken(Error::bug(format!(
        "inode {inode} has more names or entries than it counts"
    )))
}

/// What an inode adds to the usage of the directory of its primary name.
fn own_usage(record: &InodeRecord) -> UsageChange {
    match record.kind {
        FileKind::Directory => UsageChange::DIRECTORY,
        _ => UsageChange::file(record.size),
    }
}

fn move_usage(txn: &mut Txn<'_>, record: &InodeRecord, from: InodeId, to: InodeId) {
    if from != to {
        txn.usage().note(from, own_usage(record).negated());
        txn.usage().note(to, own_usage(record));
    }
}

/// The first name of an inode that has several, or had until now.
fn first_name(txn: &Txn<'_>, inode: InodeId) -> OpResult<(InodeId, Vec<u8>)> {
    let prefix = keys::inode(inode);
    let mut found = None;
    txn.scan::<NameRecord>(
        Family::Names,
        &prefix,
        after_prefix(&prefix).as_deref(),
        |key, _| {
            let (_, parent, name) = keys::parse_name(key)?;
            found = Some((parent, name.to_vec()));
            Ok(ControlFlow::Break(()))
        },
    )?;
    found.ok_or_else(|| miscounted(inode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{World, refusal, root};

    #[test]
    fn names_that_can_not_be_are_refused_with_the_name() {
        for (name, code) in [
            (&b""[..], Code::Invalid),
            (b".", Code::Invalid),
            (b"..", Code::Invalid),
            (b"a/b", Code::Invalid),
            (b"a\0b", Code::Invalid),
            (b".snapshot", Code::Invalid),
            (&[b'x'; 256], Code::NameTooLong),
        ] {
            assert_eq!(refusal(check_name(name)), code, "{}", quoted(name));
        }
        for name in [&b"a"[..], b"...", b"\xff\xfe", b".snapshots", &[b'x'; 255]] {
            assert_eq!(check_name(name), Ok(()));
        }
        assert!(
            check_name(b"a/\xff")
                .unwrap_err()
                .text
                .contains("'a/\\xff'")
        );
    }

    #[test]
    fn a_missing_name_is_told_with_its_directory() {
        let mut world = World::in_memory();
        let dir = world
            .mkdir(&root(), InodeId::ROOT, "d", 0o755)
            .unwrap()
            .inode;
        let error = world.unlink(&root(), dir, "b").unwrap_err();
        assert_eq!(error.text, "there is no 'b' in directory 'd'");
        let error = world.mkdir(&root(), InodeId::ROOT, "d", 0o755).unwrap_err();
        assert_eq!(error.text, "there is a 'd' in directory '/' already");
        let error = world.unlink(&root(), InodeId::ROOT, "b").unwrap_err();
        assert_eq!(error.text, "there is no 'b' in directory '/'");
    }
}
