//! Empties what left the tree, in bounded steps: orphans, what truncations cut off, removed trees.

use super::command::Reply;
use super::extents::Edit;
use super::keys::{self, SystemKey};
use super::ops::names::{self, Place};
use super::records::{DentryRecord, Flags, InodeRecord, XattrRecord};
use super::stop::{OpResult, Stop};
use super::txn::{HIDDEN_DIRECTORY, Txn};
use crate::kv::{Family, after_prefix};
use quarry_common::ids::InodeId;
use std::ops::ControlFlow;

/// Work of one command at most, whatever it asks for.
const RECORDS_MAX: u32 = 10_000;

/// `Purge`: first the orphans named, then truncated files, then removed trees, until so many records
/// were touched. An inode that has a name (again) is left alone.
pub fn purge(txn: &mut Txn<'_>, orphans: &[InodeId], records_max: u32) -> OpResult<Reply> {
    let mut left = records_max.min(RECORDS_MAX) as usize;
    let mut purged = Vec::new();
    for inode in orphans {
        if left == 0 {
            break;
        }
        if purge_orphan(txn, *inode, &mut left)? {
            purged.push(*inode);
        }
    }
    purge_truncated(txn, &mut left)?;
    while left > 0 && purge_tree(txn, &mut left)? {}
    let more = left == 0
        || first_key(txn, Family::System, &keys::trimmed())?.is_some()
        || first_key(txn, Family::Dentries, &keys::inode(HIDDEN_DIRECTORY))?.is_some();
    Ok(Reply::Collected { purged, more })
}

/// Removes an orphan or a part of it. Whether it is gone.
fn purge_orphan(txn: &mut Txn<'_>, inode: InodeId, left: &mut usize) -> OpResult<bool> {
    let Some(mut record) = txn.find_inode(inode)? else {
        return Ok(true);
    };
    let Some(since) = record.orphaned_at.filter(|_| record.links == 0) else {
        return Ok(false);
    };
    if record.extents > 0 {
        let mut edit = Edit::new(txn, inode, &mut record);
        let removed = edit.purge_all(*left)?;
        edit.finish()?;
        *left -= removed;
    }
    if record.xattr_names_len > 0 {
        *left -= remove_xattrs(txn, inode, *left)?;
    }
    if *left == 0 {
        // What is gone would read as a hole.
        record.flags.set(Flags::PURGED, true);
        put_quietly(txn, inode, &record);
        return Ok(false);
    }
    *left -= 1;
    txn.delete(Family::Inodes, keys::inode(inode));
    // What is not there is not deleted: whoever looks for the first of its kind would pass each mark of a deletion.
    if record.flags.has(Flags::HAS_ATIME) {
        txn.delete(Family::Atimes, keys::inode(inode));
    }
    if !record.trims.is_empty() {
        txn.delete(Family::System, keys::system(SystemKey::Trimmed(inode)));
    }
    txn.delete(
        Family::System,
        keys::system(SystemKey::Orphan(since, inode)),
    );
    Ok(true)
}

/// Writes a record of which nothing changed that anybody asked for: it stays as old as it is.
fn put_quietly(txn: &mut Txn<'_>, inode: InodeId, record: &InodeRecord) {
    txn.put(Family::Inodes, keys::inode(inode), record);
}

fn remove_xattrs(txn: &mut Txn<'_>, inode: InodeId, count_max: usize) -> OpResult<usize> {
    let prefix = keys::inode(inode);
    let mut found = Vec::new();
    txn.scan(
        Family::Xattrs,
        &prefix,
        after_prefix(&prefix).as_deref(),
        |key, _: XattrRecord| {
            if found.len() == count_max {
                return Ok(ControlFlow::Break(()));
            }
            found.push(key.to_vec());
            Ok(ControlFlow::Continue(()))
        },
    )?;
    let count = found.len();
    found
        .into_iter()
        .for_each(|key| txn.delete(Family::Xattrs, key));
    Ok(count)
}

/// The first key that begins with `prefix`.
fn first_key(txn: &Txn<'_>, family: Family, prefix: &[u8]) -> OpResult<Option<Vec<u8>>> {
    let mut found = None;
    txn.state()
        .scan(
            family,
            prefix,
            after_prefix(prefix).as_deref(),
            &mut |key, _| {
                found = Some(key.to_vec());
                ControlFlow::Break(())
            },
        )
        .map_err(Stop::Broken)?;
    Ok(found)
}

fn purge_truncated(txn: &mut Txn<'_>, left: &mut usize) -> OpResult<()> {
    while *left > 0 {
        let Some(key) = first_key(txn, Family::System, &keys::trimmed())? else {
            return Ok(());
        };
        let inode = keys::parse_trimmed(&key).map_err(Stop::Broken)?;
        *left -= 1;
        match txn.find_inode(inode)? {
            None => txn.delete(Family::System, key),
            Some(mut record) => {
                let mut edit = Edit::new(txn, inode, &mut record);
                let seen = edit.purge_trims((*left).max(1))?;
                edit.finish()?;
                if record.trims.is_empty() {
                    txn.delete(Family::System, key);
                }
                put_quietly(txn, inode, &record);
                *left = left.saturating_sub(seen);
            }
        }
    }
    Ok(())
}

/// Takes the first removed tree a step further: its files lose their names in it, its directories become
/// removed trees themselves, and empty it becomes an orphan. Whether there was one.
fn purge_tree(txn: &mut Txn<'_>, left: &mut usize) -> OpResult<bool> {
    let Some((tree_name, tree)) = children(txn, HIDDEN_DIRECTORY, 1)?.pop() else {
        return Ok(false);
    };
    for (name, child) in children(txn, tree.inode, *left)? {
        let mut record = txn.referred_inode(child.inode)?;
        if record.is_directory() {
            let hidden_name = child.inode.to_string();
            let from = Place {
                parent: tree.inode,
                name: &name,
            };
            let to = Place {
                parent: HIDDEN_DIRECTORY,
                name: hidden_name.as_bytes(),
            };
            names::relocate(txn, from, to, child.modified_at, child.inode, &mut record)?;
        } else {
            let mut parent = txn.referred_inode(tree.inode)?;
            names::remove(
                txn,
                tree.inode,
                &mut parent,
                &name,
                child.inode,
                &mut record,
            )?;
            txn.put_inode(tree.inode, &mut parent);
        }
        txn.put_inode(child.inode, &mut record);
        *left -= 1;
    }
    if *left == 0 {
        return Ok(true);
    }
    *left -= 1;
    let mut hidden = txn.referred_inode(HIDDEN_DIRECTORY)?;
    let mut record = txn.referred_inode(tree.inode)?;
    names::remove(
        txn,
        HIDDEN_DIRECTORY,
        &mut hidden,
        &tree_name,
        tree.inode,
        &mut record,
    )?;
    txn.put_inode(HIDDEN_DIRECTORY, &mut hidden);
    txn.put_inode(tree.inode, &mut record);
    Ok(true)
}

/// The first names in a directory.
fn children(
    txn: &Txn<'_>,
    directory: InodeId,
    count_max: usize,
) -> OpResult<Vec<(Vec<u8>, DentryRecord)>> {
    let prefix = keys::inode(directory);
    let mut found = Vec::new();
    txn.scan(
        Family::Dentries,
        &prefix,
        after_prefix(&prefix).as_deref(),
        |key, record: DentryRecord| {
            if found.len() == count_max {
                return Ok(ControlFlow::Break(()));
            }
            found.push((keys::parse_dentry(key)?.1.to_vec(), record));
            Ok(ControlFlow::Continue(()))
        },
    )?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{on_both, root};
    use quarry_common::Code;
    use quarry_common::ids::FileOffset;
    use quarry_common::wire::meta::{NewExtent, Op, Read, Source, View};

    #[test]
    fn what_is_gone_in_part_is_gone_for_readers_and_no_hole() {
        on_both(|world| {
            let file = world.put(InodeId::ROOT, "f", b"x");
            let extent = |at: u64| NewExtent {
                offset: FileOffset(at * 100),
                len: 1,
                source: Source::Inline(vec![7]),
            };
            let write = Op::CommitExtents {
                inode: file.inode,
                extents: (0..20).map(extent).collect(),
                receipts: Vec::new(),
                size: None,
                mtime: None,
            };
            world.op(&root(), write).unwrap();
            world.unlink(&root(), InodeId::ROOT, "f").unwrap();
            assert_eq!(world.extents(file.inode).extents.len(), 20);
            assert_eq!(world.purge(vec![file.inode], 5), (Vec::new(), true));
            let read = Read::Extents {
                view: View::Live,
                inode: file.inode,
                offset: FileOffset(0),
                len: u64::MAX,
            };
            assert_eq!(world.read(&root(), read).unwrap_err().code, Code::Stale);
            let link = Op::Link {
                inode: file.inode,
                parent: InodeId::ROOT,
                name: b"again".to_vec(),
            };
            assert_eq!(world.op(&root(), link).unwrap_err().code, Code::Stale);
            assert_eq!(
                world.purge(vec![file.inode], 100),
                (vec![file.inode], false)
            );
        });
    }
}
