//! Whose rights count, and whose names files go under on this machine.

use crate::access::{self, Want};
use crate::caller::Asker;
use fuser::Errno;
use quarry_client::Client;
use quarry_common::error::Result;
use quarry_common::ids::{Gid, InodeId, Uid};
use quarry_common::wire::meta::{Attr, Caller, SetAttr, User};

/// Whose rights count.
#[derive(Clone, Debug)]
pub enum Rights {
    /// Each request is its caller's, as root mounts with an admin's client file: uids and gids are the same here as in the
    /// cluster, the kernel checks permissions, and the cluster checks changes once more.
    Callers,
    /// Whoever uses the mount acts as the user of the client file, and the cluster checks its permissions.
    One(One),
}

/// The user of a client file, and who that is here.
#[derive(Clone, Debug)]
pub struct One {
    user: Caller,
    local: (u32, u32),
}

impl Rights {
    /// Those of a mount by a local user.
    pub fn new(user: &User, (uid, gid): (u32, u32)) -> Rights {
        if user.admin && uid == 0 {
            return Rights::Callers;
        }
        let user = Caller {
            uid: user.uid,
            gids: user.gids.clone(),
            superuser: user.admin,
        };
        Rights::One(One {
            user,
            local: (uid, gid),
        })
    }

    /// Finds out who the user of a client file is, by asking the cluster.
    ///
    /// # Errors
    /// As any call to the metaservers; `AccessDenied` if the cluster does not know the user.
    pub async fn find(client: &Client, local: (u32, u32)) -> Result<Rights> {
        // The certificate counts, not what the file says for people; and that it is accepted shows a stat.
        client.stat_inode(InodeId::ROOT).await?;
        let identity = client.file().identity()?;
        let users = client.users().await?;
        let own = users.iter().find(|user| user.name == identity.name().id());
        let own = own.ok_or_else(|| {
            let text = format!(
                "user '{}' is not known to this cluster: an admin adds it with 'quarry user add {0}'",
                identity.name().id()
            );
            quarry_common::Error::new(quarry_common::Code::AccessDenied, text)
        })?;
        Ok(Rights::new(own, local))
    }

    /// Whether the kernel is to check permissions by the modes and owners that it is told.
    pub fn are_the_kernels(&self) -> bool {
        matches!(self, Rights::Callers)
    }

    /// The client that changes something as whoever asks for it.
    pub fn client(&self, client: &Client, asker: Asker) -> Client {
        match self {
            Rights::Callers => client.act_as(asker.caller()),
            Rights::One(_) => client.clone(),
        }
    }

    /// The owner and the group as they are shown on this machine.
    pub fn shown(&self, attr: &Attr) -> (u32, u32) {
        match self {
            Rights::Callers => (attr.uid.0, attr.gid.0),
            Rights::One(one) => (one.uid(attr.uid.0), one.gid(attr.gid.0)),
        }
    }

    /// Owners to be set, which were named as they are on this machine.
    pub fn meant(&self, set: SetAttr) -> SetAttr {
        match self {
            Rights::Callers => set,
            Rights::One(one) => SetAttr {
                uid: set.uid.map(|uid| Uid(one.uid(uid.0))),
                gid: set.gid.map(|gid| Gid(one.gid(gid.0))),
                ..set
            },
        }
    }

    /// Refuses what the mode does not allow, where the kernel leaves that to us.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn check(&self, attr: &Attr, want: Want) -> std::result::Result<(), Errno> {
        match self {
            Rights::Callers => Ok(()),
            Rights::One(one) => access::check(&one.user, attr, want),
        }
    }

    /// Refuses what the mode does not allow to who asks, whoever else has checked it.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn check_asker(
        &self,
        asker: Asker,
        attr: &Attr,
        want: Want,
    ) -> std::result::Result<(), Errno> {
        match self {
            Rights::Callers => access::check(&asker.caller(), attr, want),
            Rights::One(one) => access::check(&one.user, attr, want),
        }
    }
}

impl One {
    /// Two users change places, so that each number stands for one user still.
    fn uid(&self, uid: u32) -> u32 {
        swapped(uid, self.user.uid.0, self.local.0)
    }

    fn gid(&self, gid: u32) -> u32 {
        match self.user.gids.first() {
            Some(own) => swapped(gid, own.0, self.local.1),
            None => gid,
        }
    }
}

fn swapped(id: u32, one: u32, other: u32) -> u32 {
    match id {
        id if id == one => other,
        id if id == other => one,
        id => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::tests::attr;

    fn user(uid: u32, admin: bool) -> User {
        User {
            name: "ann".into(),
            uid: Uid(uid),
            gids: vec![Gid(uid), Gid(4)],
            admin,
        }
    }

    #[test]
    fn only_an_admins_mount_by_root_is_everybodys() {
        assert!(Rights::new(&user(0, true), (0, 0)).are_the_kernels());
        assert!(!Rights::new(&user(0, true), (1000, 1000)).are_the_kernels());
        assert!(!Rights::new(&user(1000, false), (0, 0)).are_the_kernels());
    }

    #[test]
    fn a_users_files_are_its_own_on_a_machine_where_it_has_another_number() {
        let rights = Rights::new(&user(1000, false), (501, 20));
        let mut file = attr(2);
        assert_eq!(rights.shown(&file), (501, 20));
        (file.uid, file.gid) = (Uid(501), Gid(4));
        assert_eq!(
            rights.shown(&file),
            (1000, 4),
            "another user of the cluster"
        );
        let set = SetAttr {
            uid: Some(Uid(501)),
            gid: Some(Gid(4)),
            ..SetAttr::default()
        };
        let meant = rights.meant(set);
        assert_eq!((meant.uid, meant.gid), (Some(Uid(1000)), Some(Gid(4))));
    }
}
