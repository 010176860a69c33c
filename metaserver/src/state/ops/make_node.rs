//! Makes a pipe, a socket or a device.

use super::make;
use crate::state::stop::OpResult;
use crate::state::text::quoted;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{FileKind, NodeKind, OpReply};
use quarry_common::{Code, Error};

/// Devices are for superusers, as `mknod` says.
pub fn make_node(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    parent: InodeId,
    name: &[u8],
    mode: u16,
    kind: NodeKind,
) -> OpResult<OpReply> {
    let (kind, device) = match kind {
        NodeKind::Fifo => (FileKind::Fifo, None),
        NodeKind::Socket => (FileKind::Socket, None),
        NodeKind::CharDevice(device) => (FileKind::CharDevice, Some(device)),
        NodeKind::BlockDevice(device) => (FileKind::BlockDevice, Some(device)),
    };
    if device.is_some() && !who.caller.superuser {
        let text = format!("only a superuser may make the device '{}'", quoted(name));
        return Err(Error::new(Code::NotPermitted, text).into());
    }
    make::make(txn, who, parent, name, kind, mode, |record| record.device = device.unwrap_or(0))
}
