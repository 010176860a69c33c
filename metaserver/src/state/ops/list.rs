//! Several operations at once: all or none, if all expectations hold.

use crate::state::extents::span::Span;
use crate::state::extents::unchanged_since;
use crate::state::records::InodeRecord;
use crate::state::stop::{OpResult, Stop};
use crate::state::text::quoted;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::limits::LIST_OPS_MAX;
use quarry_common::wire::meta::{Expectation, Op, OpReply};
use quarry_common::{Code, Error};

/// The operations have one version and time, and see what those before them did.
pub fn list(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    expectations: &[Expectation],
    ops: &[Op],
) -> OpResult<OpReply> {
    if ops.len() > LIST_OPS_MAX || expectations.len() > LIST_OPS_MAX {
        let text = format!(
            "a list has {} operations and {} expectations, {LIST_OPS_MAX} of each are the most: make several",
            ops.len(),
            expectations.len()
        );
        return Err(Error::new(Code::TooBig, text).into());
    }
    if ops.iter().any(|op| matches!(op, Op::List { .. })) {
        return Err(Error::new(Code::Invalid, "a list can not be in a list").into());
    }
    for expectation in expectations {
        check(txn, expectation)?;
    }
    let mut replies = Vec::with_capacity(ops.len());
    for (at, op) in ops.iter().enumerate() {
        let reply = super::run(txn, who, op).map_err(|stop| match stop {
            Stop::Refused(error) => {
                Stop::Refused(error.context(format!("operation {} of the list", at + 1)))
            }
            Stop::Broken(error) => Stop::Broken(error),
        })?;
        replies.push(reply);
    }
    Ok(OpReply::List(replies))
}

/// `Changed` if it does not hold.
fn check(txn: &Txn<'_>, expectation: &Expectation) -> OpResult<()> {
    let changed = |what: String| Err(Error::new(Code::Changed, format!("{what} has changed meanwhile")).into());
    let inode_is = |inode: InodeId, holds: &dyn Fn(&InodeRecord) -> bool| {
        Ok::<_, Stop>(txn.find_inode(inode)?.is_some_and(|record| holds(&record)))
    };
    match expectation {
        Expectation::Inode { inode, modified_at } => {
            match inode_is(*inode, &|record| record.modified_at == *modified_at)? {
                true => Ok(()),
                false => changed(format!("inode {inode}")),
            }
        }
        Expectation::Data { inode, data_version } => {
            match inode_is(*inode, &|record| record.data_version == *data_version)? {
                true => Ok(()),
                false => changed(format!("the contents of inode {inode}")),
            }
        }
        Expectation::Dentry { parent, name, inode } => {
            let found = txn.dentry(*parent, name)?.map(|dentry| dentry.inode);
            match found == *inode {
                true => Ok(()),
                false => changed(format!("'{}' in directory {parent}", quoted(name))),
            }
        }
        Expectation::Range { inode, offset, len, unchanged_since: version } => {
            let span = Span { start: offset.0, end: offset.0.saturating_add(*len) };
            let holds = match txn.find_inode(*inode)? {
                Some(file) => unchanged_since(txn.state(), *inode, &file, span, *version)
                    .map_err(Stop::Broken)?,
                None => false,
            };
            match holds {
                true => Ok(()),
                false => changed(format!("inode {inode} from byte {offset} on")),
            }
        }
    }
}
