//! Operations of the namespace, one file each: checks in the order of POSIX, then writes.
//!
//! An operation that is refused may have written already: the caller takes its writes back.

use super::stop::OpResult;
use super::txn::{Txn, Who};
use quarry_common::wire::meta::{Op, OpReply};
use quarry_common::{Code, Error};

/// Runs one operation.
pub fn run(txn: &mut Txn<'_>, who: &Who<'_>, op: &Op) -> OpResult<OpReply> {
    let not_yet = |what: &str| Err(Error::new(Code::NotSupported, format!("{what} is not built yet")).into());
    let _ = (txn, who);
    match op {
        Op::Create { .. } => not_yet("Create"),
        Op::Mkdir { .. } => not_yet("Mkdir"),
        Op::MakeNode { .. } => not_yet("MakeNode"),
        Op::Symlink { .. } => not_yet("Symlink"),
        Op::Link { .. } => not_yet("Link"),
        Op::Unlink { .. } => not_yet("Unlink"),
        Op::Rmdir { .. } => not_yet("Rmdir"),
        Op::RemoveTree { .. } => not_yet("RemoveTree"),
        Op::Rename { .. } => not_yet("Rename"),
        Op::SetAttr { .. } => not_yet("SetAttr"),
        Op::SetXattr { .. } => not_yet("SetXattr"),
        Op::RemoveXattr { .. } => not_yet("RemoveXattr"),
        Op::Publish(_) => not_yet("Publish"),
        Op::CreateUnnamed { .. } => not_yet("CreateUnnamed"),
        Op::CommitExtents { .. } => not_yet("CommitExtents"),
        Op::Append { .. } => not_yet("Append"),
        Op::Clone(_) => not_yet("Clone"),
        Op::GrantRange { .. } => not_yet("GrantRange"),
        Op::List { .. } => not_yet("List"),
    }
}
