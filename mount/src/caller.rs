//! Who makes a system call.

use fuser::Request;
use quarry_common::ids::{Gid, Uid};
use quarry_common::wire::meta::Caller;

/// Who makes a system call, as the kernel says it with each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Its user for files.
    pub uid: u32,
    /// Its group for files.
    pub gid: u32,
    /// Its thread; 0 if that can not be seen from here.
    pub pid: u32,
}

impl Asker {
    /// Of a request.
    pub fn of(request: &Request) -> Asker {
        Asker {
            uid: request.uid(),
            gid: request.gid(),
            pid: request.pid(),
        }
    }

    /// Whether it passes every check of permissions.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// As whom the cluster is to check its request, with the groups that its thread has now. The kernel sends one group
    /// only. They are not kept: a thread may change them from one call to the next.
    pub fn caller(&self) -> Caller {
        let mut gids = vec![Gid(self.gid)];
        if !self.is_root() && self.pid != 0 {
            let path = format!("/proc/{}/status", self.pid);
            // Of one that is gone nobody waits for the answer.
            let status = std::fs::read_to_string(path).unwrap_or_default();
            gids.extend(groups(&status).filter(|gid| gid.0 != self.gid));
        }
        Caller {
            uid: Uid(self.uid),
            gids,
            superuser: self.is_root(),
        }
    }
}

/// The supplementary groups in /proc/PID/status.
fn groups(status: &str) -> impl Iterator<Item = Gid> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    let words = line.unwrap_or_default().split_whitespace();
    words.filter_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_as_the_kernel_writes_them() {
        let status = "Name:\tsh\nGid:\t5\t5\t5\t5\nFDSize:\t64\nGroups:\t4 24 1000 \nNStgid:\t7\n";
        let found: Vec<Gid> = groups(status).collect();
        assert_eq!(found, [Gid(4), Gid(24), Gid(1000)]);
        assert_eq!(groups("Groups:\t \n").count(), 0);
        assert_eq!(groups("").count(), 0);
    }

    #[test]
    fn a_caller_has_its_own_group_first_and_root_passes() {
        let pid = std::process::id();
        let asker = |uid, gid| Asker { uid, gid, pid };
        let caller = asker(12, 34).caller();
        assert_eq!((caller.uid, caller.gids[0]), (Uid(12), Gid(34)));
        assert!(!caller.superuser);
        assert!(asker(0, 0).caller().superuser);
        let unseen = Asker {
            pid: 0,
            ..asker(12, 34)
        };
        assert_eq!(unseen.caller().gids, [Gid(34)]);
    }
}
