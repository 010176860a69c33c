//! Sets and removes extended attributes, as xattr(7) says.

use crate::kv::Family;
use crate::state::access::{self, Want, owns, shown};
use crate::state::keys;
use crate::state::records::{InodeRecord, XattrRecord};
use crate::state::stop::{OpResult, Stop};
use crate::state::text::quoted;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::limits::{NAME_LEN_MAX, XATTR_LEN_MAX};
use quarry_common::wire::meta::{Caller, FileKind, OpReply, XattrMode};
use quarry_common::{Code, Error, Result};

/// Sets an attribute of an inode.
pub fn set_xattr(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    inode: InodeId,
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
) -> OpResult<OpReply> {
    let mut record = txn.inode(inode)?;
    set(txn, who, inode, &mut record, name, value, mode)?;
    txn.put_inode(inode, &mut record);
    Ok(OpReply::Nothing)
}

/// As [`set_xattr`], of an inode whose record the caller writes.
pub fn set(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    inode: InodeId,
    record: &mut InodeRecord,
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
) -> OpResult<()> {
    check_may_set(who.caller, record, name)?;
    if value.len() > XATTR_LEN_MAX {
        let text = format!(
            "attribute '{}' can not have {} bytes, {XATTR_LEN_MAX} are the most",
            quoted(name),
            value.len()
        );
        return Err(Error::new(Code::TooBig, text).into());
    }
    let key = keys::xattr(inode, name);
    let is_there = txn.get_bytes(Family::Xattrs, &key)?.is_some();
    match (mode, is_there) {
        (XattrMode::Create, true) => {
            let text = format!(
                "{} has an attribute '{}' already",
                shown(record),
                quoted(name)
            );
            return Err(Error::new(Code::Exists, text).into());
        }
        (XattrMode::Replace, false) => return Err(no_attribute(record, name).into()),
        _ => {}
    }
    if !is_there {
        let names_len = record.xattr_names_len as usize + listed_len(name);
        if names_len > XATTR_LEN_MAX {
            let text = format!(
                "{} has too many attributes: their names do not fit a list",
                shown(record)
            );
            return Err(Error::new(Code::TooBig, text).into());
        }
        record.xattr_names_len = names_len as u32;
    }
    let value = XattrRecord {
        value: value.to_vec(),
        modified_at: txn.version(),
    };
    txn.put(Family::Xattrs, key, &value);
    record.ctime = txn.time();
    Ok(())
}

/// Removes an attribute of an inode.
pub fn remove_xattr(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    inode: InodeId,
    name: &[u8],
) -> OpResult<OpReply> {
    let mut record = txn.inode(inode)?;
    check_may_set(who.caller, &record, name)?;
    let key = keys::xattr(inode, name);
    if txn.get_bytes(Family::Xattrs, &key)?.is_none() {
        return Err(no_attribute(&record, name).into());
    }
    txn.delete(Family::Xattrs, key);
    let miscounted = || {
        Stop::Broken(Error::bug(format!(
            "inode {inode} has more attributes than it counts"
        )))
    };
    let left = (record.xattr_names_len as usize)
        .checked_sub(listed_len(name))
        .ok_or_else(miscounted)?;
    record.xattr_names_len = left as u32;
    record.ctime = txn.time();
    txn.put_inode(inode, &mut record);
    Ok(OpReply::Nothing)
}

/// What a name takes in a list of names: itself and a NUL.
fn listed_len(name: &[u8]) -> usize {
    name.len() + 1
}

/// That an inode has no such attribute.
pub fn no_attribute(record: &InodeRecord, name: &[u8]) -> Error {
    let text = format!("{} has no attribute '{}'", shown(record), quoted(name));
    Error::new(Code::NoAttribute, text)
}

/// Who an attribute is for, by how its name begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    /// Users, by the permissions of the file.
    User,
    /// Superusers alone, who alone see them.
    Trusted,
    /// Set by superusers, seen by all.
    Security,
}

fn namespace(name: &[u8]) -> Result<Namespace> {
    if name.len() > NAME_LEN_MAX {
        let text = format!(
            "the name of an attribute has {} bytes, {NAME_LEN_MAX} are the most",
            name.len()
        );
        return Err(Error::new(Code::OutOfRange, text));
    }
    if name.contains(&0) {
        let text = format!("'{}' can not name an attribute: it has a NUL", quoted(name));
        return Err(Error::new(Code::Invalid, text));
    }
    let known = [
        (&b"user."[..], Namespace::User),
        (b"trusted.", Namespace::Trusted),
        (b"security.", Namespace::Security),
    ];
    for (prefix, namespace) in known {
        match name.strip_prefix(prefix) {
            Some(b"") => {
                let text = format!(
                    "'{}' can not name an attribute: nothing follows the dot",
                    quoted(name)
                );
                return Err(Error::new(Code::Invalid, text));
            }
            Some(_) => return Ok(namespace),
            None => {}
        }
    }
    let text = format!(
        "there are no attributes like '{}': names begin with user., trusted. or security.",
        quoted(name)
    );
    Err(Error::new(Code::NotSupported, text))
}

fn check_may_set(caller: &Caller, record: &InodeRecord, name: &[u8]) -> Result<()> {
    let refuse = |why: &str| {
        let text = format!(
            "attribute '{}' of {} can not be set: {why}",
            quoted(name),
            shown(record)
        );
        Err(Error::new(Code::NotPermitted, text))
    };
    match namespace(name)? {
        Namespace::Trusted | Namespace::Security if !caller.superuser => {
            refuse("only a superuser may")
        }
        Namespace::Trusted | Namespace::Security => Ok(()),
        Namespace::User => match record.kind {
            FileKind::Directory if record.mode & 0o1000 != 0 && !owns(caller, record) => {
                refuse("only the owner may, of a directory with the sticky bit")
            }
            FileKind::File | FileKind::Directory => access::check(caller, record, Want::WRITE),
            _ => refuse("only files and directories have attributes of users"),
        },
    }
}

/// Refuses who may not read an attribute. What a caller may not know of does not exist for it.
pub fn check_may_get(caller: &Caller, record: &InodeRecord, name: &[u8]) -> Result<()> {
    match namespace(name)? {
        Namespace::Trusted if !caller.superuser => Err(no_attribute(record, name)),
        Namespace::Trusted | Namespace::Security => Ok(()),
        Namespace::User => match record.kind {
            FileKind::File | FileKind::Directory => access::check(caller, record, Want::READ),
            _ => Err(no_attribute(record, name)),
        },
    }
}

/// Whether a list of names shows this one to the caller.
pub fn is_listed(caller: &Caller, name: &[u8]) -> bool {
    caller.superuser || !matches!(namespace(name), Ok(Namespace::Trusted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{World, on_both, refusal, root, user};
    use quarry_common::wire::meta::{Op, Read, ReadReply, View};

    const ROOT: InodeId = InodeId::ROOT;

    fn put(
        world: &mut World,
        caller: &Caller,
        inode: InodeId,
        name: &str,
        value: &[u8],
        mode: XattrMode,
    ) -> Result<OpReply> {
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        world.op(
            caller,
            Op::SetXattr {
                inode,
                name,
                value,
                mode,
            },
        )
    }

    fn get(world: &World, caller: &Caller, inode: InodeId, name: &str) -> Result<ReadReply> {
        let name = name.as_bytes().to_vec();
        world.read(
            caller,
            Read::GetXattr {
                view: View::Live,
                inode,
                name,
            },
        )
    }

    fn list(world: &World, caller: &Caller, inode: InodeId) -> Vec<Vec<u8>> {
        match world
            .read(
                caller,
                Read::ListXattr {
                    view: View::Live,
                    inode,
                },
            )
            .unwrap()
        {
            ReadReply::Names(names) => names,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_attribute_is_set_read_listed_and_removed() {
        on_both(|world| {
            let file = world.create(&root(), ROOT, "a", 0o644).unwrap();
            put(world, &root(), file.inode, "user.b", b"1", XattrMode::Set).unwrap();
            put(world, &root(), file.inode, "user.a", b"", XattrMode::Create).unwrap();
            assert_eq!(
                get(world, &root(), file.inode, "user.b").unwrap(),
                ReadReply::Bytes(b"1".to_vec())
            );
            put(
                world,
                &root(),
                file.inode,
                "user.b",
                b"two",
                XattrMode::Replace,
            )
            .unwrap();
            assert_eq!(
                get(world, &root(), file.inode, "user.b").unwrap(),
                ReadReply::Bytes(b"two".to_vec())
            );
            assert_eq!(
                list(world, &root(), file.inode),
                [b"user.a".to_vec(), b"user.b".to_vec()]
            );
            let after = world.stat(file.inode).unwrap();
            assert!(after.has_xattrs && after.ctime > file.ctime);
            assert_eq!(after.data_version, file.data_version);
            for name in ["user.a", "user.b"] {
                let name = name.as_bytes().to_vec();
                world
                    .op(
                        &root(),
                        Op::RemoveXattr {
                            inode: file.inode,
                            name,
                        },
                    )
                    .unwrap();
            }
            assert!(!world.stat(file.inode).unwrap().has_xattrs);
            assert_eq!(list(world, &root(), file.inode), Vec::<Vec<u8>>::new());
        });
    }

    #[test]
    fn what_can_not_be_set_is_refused() {
        on_both(|world| {
            let file = world.create(&root(), ROOT, "a", 0o644).unwrap().inode;
            let link = world.symlink(ROOT, "l", "a").inode;
            let ann = user(1000, &[1000]);
            let mut refuse = |caller: &Caller, inode, name: &str, len, mode| {
                refusal(put(world, caller, inode, name, &vec![0; len], mode))
            };
            let set = XattrMode::Set;
            assert_eq!(refuse(&root(), file, "user.a", 65_537, set), Code::TooBig);
            assert_eq!(
                refuse(&root(), file, "user.a", 0, XattrMode::Replace),
                Code::NoAttribute
            );
            assert_eq!(refuse(&root(), file, "user.", 0, set), Code::Invalid);
            assert_eq!(
                refuse(&root(), file, "system.posix_acl_access", 0, set),
                Code::NotSupported
            );
            assert_eq!(
                refuse(&root(), file, &format!("user.{}", "x".repeat(251)), 0, set),
                Code::OutOfRange
            );
            assert_eq!(refuse(&root(), link, "user.a", 0, set), Code::NotPermitted);
            assert_eq!(refuse(&ann, file, "user.a", 0, set), Code::AccessDenied);
            assert_eq!(refuse(&ann, file, "trusted.a", 0, set), Code::NotPermitted);
            assert_eq!(refuse(&ann, file, "security.a", 0, set), Code::NotPermitted);
            put(world, &root(), file, "user.a", &vec![7; 65_536], set).unwrap();
            assert_eq!(
                refusal(put(world, &root(), file, "user.a", b"", XattrMode::Create)),
                Code::Exists
            );
            let remove = Op::RemoveXattr {
                inode: file,
                name: b"user.none".to_vec(),
            };
            assert_eq!(refusal(world.op(&root(), remove)), Code::NoAttribute);
        });
    }

    #[test]
    fn trusted_attributes_do_not_exist_for_users() {
        on_both(|world| {
            let file = world.create(&root(), ROOT, "a", 0o600).unwrap().inode;
            for name in ["trusted.t", "security.s", "user.u"] {
                put(world, &root(), file, name, b"v", XattrMode::Set).unwrap();
            }
            let ann = user(1000, &[1000]);
            assert_eq!(
                list(world, &ann, file),
                [b"security.s".to_vec(), b"user.u".to_vec()]
            );
            assert_eq!(list(world, &root(), file).len(), 3);
            assert_eq!(
                refusal(get(world, &ann, file, "trusted.t")),
                Code::NoAttribute
            );
            assert!(get(world, &ann, file, "security.s").is_ok());
            assert_eq!(
                refusal(get(world, &ann, file, "user.u")),
                Code::AccessDenied
            );
        });
    }

    #[test]
    fn the_names_of_an_inode_fit_one_list() {
        let mut world = World::in_memory();
        let file = world.create(&root(), ROOT, "a", 0o600).unwrap().inode;
        let mut set = 0;
        while put(
            &mut world,
            &root(),
            file,
            &format!("user.{set:0250}"),
            b"",
            XattrMode::Set,
        )
        .is_ok()
        {
            set += 1;
            assert!(set < 300);
        }
        assert_eq!(set, 65_536 / 256);
        // One that is there can still be changed.
        put(
            &mut world,
            &root(),
            file,
            &format!("user.{:0250}", 3),
            b"new",
            XattrMode::Replace,
        )
        .unwrap();
    }
}
