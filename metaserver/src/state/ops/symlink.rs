//! Makes a symbolic link.

use super::{make, names};
use crate::state::stop::OpResult;
use crate::state::text::quoted;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::limits::PATH_LEN_MAX;
use quarry_common::time::Nanos;
use quarry_common::wire::meta::{FileKind, OpReply};
use quarry_common::{Code, Error};

/// A link to `target`, which need not exist: 1 to 4,095 bytes without NUL, as in Linux.
pub fn symlink(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    parent: InodeId,
    name: &[u8],
    target: &[u8],
    mtime: Option<Nanos>,
) -> OpResult<OpReply> {
    names::check_name(name)?;
    let refuse = |code, why: String| {
        Err(Error::new(code, format!("'{}' can not be made: {why}", quoted(name))).into())
    };
    match target.len() {
        0 => return refuse(Code::NotFound, "a symbolic link needs a target".to_owned()),
        len if len >= PATH_LEN_MAX => {
            return refuse(
                Code::NameTooLong,
                format!(
                    "its target has {len} bytes, {} are the most",
                    PATH_LEN_MAX - 1
                ),
            );
        }
        _ if target.contains(&0) => {
            return refuse(Code::Invalid, "its target has a NUL".to_owned());
        }
        _ => {}
    }
    make::make(txn, who, parent, name, FileKind::Symlink, 0o777, |record| {
        record.target = target.to_vec();
        record.mtime = mtime.unwrap_or(record.mtime);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{on_both, refusal, root};
    use quarry_common::wire::meta::{Op, Read, ReadReply, View};

    #[test]
    fn a_link_keeps_its_target_whatever_it_is() {
        on_both(|world| {
            let op = |target: &[u8]| Op::Symlink {
                parent: InodeId::ROOT,
                name: b"l".to_vec(),
                target: target.to_vec(),
                mtime: Some(Nanos(7)),
            };
            assert_eq!(refusal(world.op(&root(), op(b""))), Code::NotFound);
            assert_eq!(
                refusal(world.op(&root(), op(&[b'x'; 4096]))),
                Code::NameTooLong
            );
            assert_eq!(refusal(world.op(&root(), op(b"a\0"))), Code::Invalid);
            let link = world.attr_of(&root(), op(b"../\xff nowhere")).unwrap();
            assert_eq!(
                (link.kind, link.mode, link.size, link.mtime),
                (FileKind::Symlink, 0o777, 12, Nanos(7))
            );
            let read = Read::ReadLink {
                view: View::Live,
                inode: link.inode,
            };
            assert_eq!(
                world.read(&root(), read).unwrap(),
                ReadReply::Bytes(b"../\xff nowhere".to_vec())
            );
        });
    }
}
