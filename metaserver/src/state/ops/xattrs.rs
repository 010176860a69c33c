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
            let text = format!("{} has an attribute '{}' already", shown(record), quoted(name));
            return Err(Error::new(Code::Exists, text).into());
        }
        (XattrMode::Replace, false) => return Err(no_attribute(record, name).into()),
        _ => {}
    }
    if !is_there {
        let names_len = record.xattr_names_len as usize + listed_len(name);
        if names_len > XATTR_LEN_MAX {
            let text = format!("{} has too many attributes: their names do not fit a list", shown(record));
            return Err(Error::new(Code::TooBig, text).into());
        }
        record.xattr_names_len = names_len as u32;
    }
    let value = XattrRecord { value: value.to_vec(), modified_at: txn.version() };
    txn.put(Family::Xattrs, key, &value);
    record.ctime = txn.time();
    Ok(())
}

/// Removes an attribute of an inode.
pub fn remove_xattr(txn: &mut Txn<'_>, who: &Who<'_>, inode: InodeId, name: &[u8]) -> OpResult<OpReply> {
    let mut record = txn.inode(inode)?;
    check_may_set(who.caller, &record, name)?;
    let key = keys::xattr(inode, name);
    if txn.get_bytes(Family::Xattrs, &key)?.is_none() {
        return Err(no_attribute(&record, name).into());
    }
    txn.delete(Family::Xattrs, key);
    let miscounted = || Stop::Broken(Error::bug(format!("inode {inode} has more attributes than it counts")));
    let left = (record.xattr_names_len as usize).checked_sub(listed_len(name)).ok_or_else(miscounted)?;
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
        let text = format!("the name of an attribute has {} bytes, {NAME_LEN_MAX} are the most", name.len());
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
                let text = format!("'{}' can not name an attribute: nothing follows the dot", quoted(name));
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
        let text = format!("attribute '{}' of {} can not be set: {why}", quoted(name), shown(record));
        Err(Error::new(Code::NotPermitted, text))
    };
    match namespace(name)? {
        Namespace::Trusted | Namespace::Security if !caller.superuser => refuse("only a superuser may"),
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
