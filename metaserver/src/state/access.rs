//! Who may do what with an inode, as POSIX says. Pure functions of a caller and a record.

use super::records::InodeRecord;
use super::text::quoted;
use quarry_common::ids::Gid;
use quarry_common::wire::meta::Caller;
use quarry_common::{Code, Error, Result};

/// What a caller wants: the bits of `rwx` as in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want(pub u16);

impl Want {
    /// Read a file, list a directory.
    pub const READ: Want = Want(4);
    /// Write a file.
    pub const WRITE: Want = Want(2);
    /// Walk through a directory.
    pub const SEARCH: Want = Want(1);
    /// Make or remove a name in a directory.
    pub const CHANGE_NAMES: Want = Want(3);
}

/// Whether the caller is in that group.
pub fn in_group(caller: &Caller, gid: Gid) -> bool {
    caller.gids.contains(&gid)
}

/// Whether the caller may act as the owner.
pub fn owns(caller: &Caller, record: &InodeRecord) -> bool {
    caller.superuser || caller.uid == record.uid
}

/// Whether the mode allows what is wanted: the bits of the first class that the caller is in
/// count, even if a later class may do more.
pub fn permits(caller: &Caller, record: &InodeRecord, want: Want) -> bool {
    if caller.superuser {
        return true;
    }
    let class = if caller.uid == record.uid {
        record.mode >> 6
    } else if in_group(caller, record.gid) {
        record.mode >> 3
    } else {
        record.mode
    };
    class & want.0 == want.0
}

/// Whether the sticky bit of `directory` lets the caller remove or rename the name of `victim`.
pub fn sticky_permits(caller: &Caller, directory: &InodeRecord, victim: &InodeRecord) -> bool {
    directory.mode & 0o1000 == 0 || owns(caller, directory) || owns(caller, victim)
}

/// Refuses with `AccessDenied` what the mode does not allow.
pub fn check(caller: &Caller, record: &InodeRecord, want: Want) -> Result<()> {
    if permits(caller, record, want) {
        return Ok(());
    }
    let doing = match want {
        Want::READ => "read",
        Want::WRITE => "write",
        Want::SEARCH => "search",
        _ => "change the names in",
    };
    Err(Error::new(
        Code::AccessDenied,
        format!(
            "user {} may not {doing} {} (mode {:04o}, owner {}, group {})",
            caller.uid,
            shown(record),
            record.mode,
            record.uid,
            record.gid
        ),
    ))
}

/// Refuses with `NotPermitted` who is not the owner.
pub fn check_owner(caller: &Caller, record: &InodeRecord, doing: &str) -> Result<()> {
    if owns(caller, record) {
        return Ok(());
    }
    Err(Error::new(
        Code::NotPermitted,
        format!("only user {}, its owner, may {doing} {}", record.uid, shown(record)),
    ))
}

/// Refuses with `NotPermitted` what the sticky bit does not allow.
pub fn check_sticky(caller: &Caller, directory: &InodeRecord, victim: &InodeRecord) -> Result<()> {
    if sticky_permits(caller, directory, victim) {
        return Ok(());
    }
    Err(Error::new(
        Code::NotPermitted,
        format!(
            "user {} owns neither {} nor the directory, whose sticky bit then forbids it",
            caller.uid,
            shown(victim)
        ),
    ))
}

/// An inode by its primary name, for texts.
pub fn shown(record: &InodeRecord) -> String {
    match (record.name.is_empty(), record.is_directory()) {
        (true, true) => "'/'".to_owned(),
        (true, false) => "a file without a name".to_owned(),
        (false, _) => format!("'{}'", quoted(&record.name)),
    }
}
