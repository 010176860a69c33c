//! Operations of the namespace, one file each: checks in the order of POSIX, then writes.
//!
//! An operation that is refused may have written already: the caller takes its writes back.

pub mod append;
pub mod clone;
pub mod commit_extents;
pub mod contents;
pub mod create;
pub mod create_unnamed;
pub mod grant_range;
pub mod link;
pub mod list;
pub mod make;
pub mod make_node;
pub mod mkdir;
pub mod names;
pub mod publish;
pub mod remove_tree;
pub mod rename;
pub mod rmdir;
pub mod set_attr;
pub mod symlink;
pub mod unlink;
pub mod xattrs;

use super::stop::OpResult;
use super::txn::{Txn, Who};
use names::Place;
use quarry_common::wire::meta::{Op, OpReply};

/// Runs one operation.
pub fn run(txn: &mut Txn<'_>, who: &Who<'_>, op: &Op) -> OpResult<OpReply> {
    match op {
        Op::Create {
            parent,
            name,
            mode,
            exclusive,
        } => create::create(txn, who, *parent, name, *mode, *exclusive),
        Op::Mkdir { parent, name, mode } => mkdir::mkdir(txn, who, *parent, name, *mode),
        Op::MakeNode {
            parent,
            name,
            mode,
            kind,
        } => make_node::make_node(txn, who, *parent, name, *mode, *kind),
        Op::Symlink {
            parent,
            name,
            target,
            mtime,
        } => symlink::symlink(txn, who, *parent, name, target, *mtime),
        Op::Link {
            inode,
            parent,
            name,
        } => link::link(txn, who, *inode, *parent, name),
        Op::Unlink { parent, name } => unlink::unlink(txn, who, *parent, name),
        Op::Rmdir { parent, name } => rmdir::rmdir(txn, who, *parent, name),
        Op::RemoveTree { parent, name } => remove_tree::remove_tree(txn, who, *parent, name),
        Op::Rename {
            from,
            from_name,
            to,
            to_name,
            mode,
        } => {
            let from = Place {
                parent: *from,
                name: from_name,
            };
            let to = Place {
                parent: *to,
                name: to_name,
            };
            rename::rename(txn, who, from, to, *mode)
        }
        Op::SetAttr { inode, set } => set_attr::set_attr(txn, who, *inode, set),
        Op::SetXattr {
            inode,
            name,
            value,
            mode,
        } => xattrs::set_xattr(txn, who, *inode, name, value, *mode),
        Op::RemoveXattr { inode, name } => xattrs::remove_xattr(txn, who, *inode, name),
        Op::Publish(publish) => publish::publish(txn, who, publish),
        Op::CreateUnnamed { parent, mode } => {
            create_unnamed::create_unnamed(txn, who, *parent, *mode)
        }
        Op::CommitExtents {
            inode,
            extents,
            receipts,
            size,
            mtime,
        } => commit_extents::commit_extents(txn, who, *inode, extents, receipts, *size, *mtime),
        Op::Append {
            inode,
            extents,
            receipts,
            len,
        } => append::append(txn, who, *inode, extents, receipts, *len),
        Op::Clone(range) => clone::clone(txn, who, range),
        Op::GrantRange { pool, count } => grant_range::grant_range(txn, who, *pool, *count),
        Op::List { expectations, ops } => list::list(txn, who, expectations, ops),
    }
}
