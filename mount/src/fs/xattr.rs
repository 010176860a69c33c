//! Extended attributes.

use crate::SUBTYPE;
use crate::caller::Asker;
use crate::core::Core;
use crate::errno::Answer;
use fuser::{Errno, INodeNo, ReplyXattr};
use quarry_common::wire::meta::XattrMode;

/// The number of the process of a mount, for `quarry umount`. In no list; answered without asking the cluster, so that it is
/// there in an outage as well: for a name of the system the kernel asks for no permission, which it might have to ask us for.
pub const PROCESS: &[u8] = b"system.quarry.mount.process";

/// Names of the system, which the cluster has none of: access control lists today.
const SYSTEM: &[u8] = b"system.";

/// Asked for by each `ls -l` of each name, until it hears that there is no such thing here.
const LABEL: &[u8] = b"security.selinux";

/// What only root sees.
const TRUSTED: &[u8] = b"trusted.";

/// Answers with a value: its length if no room was given for it.
pub fn answer(reply: ReplyXattr, value: &[u8], room: u32) {
    match room {
        0 => reply.size(value.len() as u32),
        room if value.len() > room as usize => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

impl Core {
    pub async fn getxattr(&self, number: INodeNo, name: &[u8]) -> Answer<Vec<u8>> {
        if name == PROCESS && number == INodeNo::ROOT {
            return Ok(std::process::id().to_string().into_bytes());
        }
        if name.starts_with(SYSTEM) || name == LABEL || name.starts_with(SUBTYPE.as_bytes()) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let inode = self.inodes.inode(number);
        Ok(self.client.get_xattr_inode(inode, name).await?)
    }

    pub async fn listxattr(&self, asker: Asker, number: INodeNo) -> Answer<Vec<u8>> {
        let names = self
            .client
            .list_xattr_inode(self.inodes.inode(number))
            .await?;
        let seen = names
            .iter()
            .filter(|name| asker.is_root() || !name.starts_with(TRUSTED));
        Ok(seen.flat_map(|name| [name, &b"\0"[..]].concat()).collect())
    }

    pub async fn setxattr(
        &self,
        asker: Asker,
        number: INodeNo,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Answer<()> {
        let mode = match flags {
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            0 => XattrMode::Set,
            _ => return Err(Errno::EINVAL.into()),
        };
        let client = self.rights.client(&self.client, asker);
        let inode = self.inodes.inode(number);
        Ok(client.set_xattr_inode(inode, name, value, mode).await?)
    }

    pub async fn removexattr(&self, asker: Asker, number: INodeNo, name: &[u8]) -> Answer<()> {
        let client = self.rights.client(&self.client, asker);
        let inode = self.inodes.inode(number);
        Ok(client.remove_xattr_inode(inode, name).await?)
    }
}
