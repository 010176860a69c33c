//! Permissions, where neither the kernel nor the cluster checks them at the right moment: POSIX does so when a file is opened.

use fuser::Errno;
use quarry_common::wire::meta::{Attr, Caller, FileKind};

/// What is wanted: bits of a class of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want(u16);

impl Want {
    /// To read.
    pub const READ: Want = Want(4);
    /// To write.
    pub const WRITE: Want = Want(2);

    /// What access(2) asks for.
    pub fn of_access(mask: i32) -> Want {
        Want((mask & 7) as u16)
    }

    /// What opening with these flags takes.
    pub fn of_open(flags: i32) -> Want {
        let access = match flags & libc::O_ACCMODE {
            libc::O_RDONLY => Want::READ,
            libc::O_WRONLY => Want::WRITE,
            _ => Want(6),
        };
        match flags & libc::O_TRUNC {
            0 => access,
            _ => Want(access.0 | Want::WRITE.0),
        }
    }
}

/// Refuses what the mode does not allow: the bits of the first class that the caller is in count.
///
/// # Errors
/// `EACCES`.
pub fn check(caller: &Caller, attr: &Attr, want: Want) -> Result<(), Errno> {
    let class = if caller.superuser {
        let runs = attr.kind == FileKind::Directory || attr.mode & 0o111 != 0;
        if runs { 7 } else { 6 }
    } else if caller.uid == attr.uid {
        attr.mode >> 6
    } else if caller.gids.contains(&attr.gid) {
        attr.mode >> 3
    } else {
        attr.mode
    };
    match class & want.0 == want.0 {
        true => Ok(()),
        false => Err(Errno::EACCES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::tests::attr;
    use quarry_common::ids::{Gid, Uid};

    #[test]
    fn the_first_class_that_fits_counts() {
        let caller = |uid, gid, superuser| Caller {
            uid: Uid(uid),
            gids: vec![Gid(gid)],
            superuser,
        };
        let mut file = attr(2);
        let all = Want::of_access(libc::R_OK | libc::W_OK | libc::X_OK);
        for (mode, who, want, allowed) in [
            (
                0o600,
                caller(1000, 1, false),
                Want::of_open(libc::O_RDWR),
                true,
            ),
            (0o077, caller(1000, 1000, false), Want::READ, false),
            (0o707, caller(1, 1000, false), Want::READ, false),
            (0o070, caller(1, 1000, false), all, true),
            (0o770, caller(1, 1, false), Want::READ, false),
            (
                0o444,
                caller(1000, 1, false),
                Want::of_open(libc::O_TRUNC),
                false,
            ),
            (0o000, caller(0, 0, true), Want::of_open(libc::O_RDWR), true),
            (0o666, caller(0, 0, true), all, false),
            (0o010, caller(0, 0, true), all, true),
            (
                0o000,
                caller(5, 5, false),
                Want::of_access(libc::F_OK),
                true,
            ),
        ] {
            file.mode = mode;
            let checked = check(&who, &file, want).is_ok();
            assert_eq!(checked, allowed, "{mode:o} {who:?} {want:?}");
        }
    }
}
