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
    make::make(txn, who, parent, name, kind, mode, |record| {
        record.device = device.unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{on_both, refusal, root, user};
    use quarry_common::wire::meta::Op;

    #[test]
    fn pipes_are_for_all_and_devices_for_superusers() {
        on_both(|world| {
            let dir = world
                .mkdir(&root(), InodeId::ROOT, "d", 0o777)
                .unwrap()
                .inode;
            let node = |name: &[u8], kind| Op::MakeNode {
                parent: dir,
                name: name.to_vec(),
                mode: 0o600,
                kind,
            };
            let ann = user(1000, &[1000]);
            let pipe = world.attr_of(&ann, node(b"p", NodeKind::Fifo)).unwrap();
            assert_eq!((pipe.kind, pipe.device), (FileKind::Fifo, 0));
            assert_eq!(
                refusal(world.op(&ann, node(b"n", NodeKind::CharDevice(259)))),
                Code::NotPermitted
            );
            let null = world
                .attr_of(&root(), node(b"n", NodeKind::CharDevice(259)))
                .unwrap();
            assert_eq!((null.kind, null.device), (FileKind::CharDevice, 259));
        });
    }
}
