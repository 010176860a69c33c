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
        format!(
            "only user {}, its owner, may {doing} {}",
            record.uid,
            shown(record)
        ),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{root, user};
    use quarry_common::ids::{Uid, Version};
    use quarry_common::time::Nanos;
    use quarry_common::wire::meta::FileKind;

    fn owned(kind: FileKind, mode: u16, uid: u32, gid: u32) -> InodeRecord {
        InodeRecord::new(kind, mode, Uid(uid), Gid(gid), Version(1), Nanos(1))
    }

    #[test]
    fn the_first_class_of_a_caller_decides() {
        let owner = user(1, &[9]);
        let member = user(2, &[9, 5]);
        let other = user(3, &[9]);
        // Mode, then what owner, group member and anybody else may do: r, w, x.
        for (mode, expected) in [
            (0o000, ["---", "---", "---"]),
            (0o754, ["rwx", "r-x", "r--"]),
            (0o077, ["---", "rwx", "rwx"]),
            (0o707, ["rwx", "---", "rwx"]),
            (0o421, ["r--", "-w-", "--x"]),
            (0o7000, ["---", "---", "---"]),
        ] {
            let record = owned(FileKind::File, mode, 1, 5);
            for (caller, expected) in [&owner, &member, &other].into_iter().zip(expected) {
                for (letter, want) in [('r', Want::READ), ('w', Want::WRITE), ('x', Want::SEARCH)] {
                    let allowed = expected.contains(letter);
                    assert_eq!(
                        permits(caller, &record, want),
                        allowed,
                        "{mode:o} {letter} {caller:?}"
                    );
                    assert_eq!(check(caller, &record, want).is_ok(), allowed);
                }
                let both = expected.contains('w') && expected.contains('x');
                assert_eq!(permits(caller, &record, Want::CHANGE_NAMES), both);
                assert!(permits(&root(), &record, Want(7)));
            }
        }
    }

    #[test]
    fn the_sticky_bit_is_for_the_owners_of_file_and_directory() {
        for (mode, directory_owner, file_owner, caller, allowed) in [
            (0o777, 1, 1, user(3, &[]), true),
            (0o1777, 1, 2, user(3, &[]), false),
            (0o1777, 3, 2, user(3, &[]), true),
            (0o1777, 1, 3, user(3, &[]), true),
            (0o1777, 1, 2, root(), true),
        ] {
            let directory = owned(FileKind::Directory, mode, directory_owner, 0);
            let file = owned(FileKind::File, 0o777, file_owner, 0);
            assert_eq!(
                sticky_permits(&caller, &directory, &file),
                allowed,
                "{mode:o} {caller:?}"
            );
            assert_eq!(check_sticky(&caller, &directory, &file).is_ok(), allowed);
        }
    }
}
