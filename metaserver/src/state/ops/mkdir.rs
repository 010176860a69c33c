//! Makes a directory.

use super::make;
use crate::state::stop::OpResult;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{FileKind, OpReply};

/// Makes an empty directory under a name that must be free.
pub fn mkdir(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    parent: InodeId,
    name: &[u8],
    mode: u16,
) -> OpResult<OpReply> {
    make::make(txn, who, parent, name, FileKind::Directory, mode, |_| {})
}
