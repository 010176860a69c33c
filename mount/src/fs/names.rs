//! Names: looking them up, making, moving and removing what they lead to.

use crate::attributes::node_kind;
use crate::caller::Asker;
use crate::core::Core;
use crate::errno::Answer;
use fuser::{Errno, INodeNo, RenameFlags};
use quarry_common::wire::meta::{Attr, NodeKind, Op, RenameMode};

/// The permission bits of a mode.
pub fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

impl Core {
    pub async fn lookup(&self, parent: INodeNo, name: &[u8]) -> Answer<Attr> {
        let attr = self.client.lookup(self.inodes.inode(parent), name).await?;
        Ok(self.with_written(attr).await?)
    }

    pub async fn readlink(&self, number: INodeNo) -> Answer<Vec<u8>> {
        let inode = self.inodes.inode(number);
        Ok(self.client.read_link_inode(inode).await?)
    }

    pub async fn mknod(
        &self,
        asker: Asker,
        (parent, name): (INodeNo, &[u8]),
        mode: u32,
        device: u32,
    ) -> Answer<Attr> {
        let client = self.rights.client(&self.client, asker);
        let parent = self.inodes.inode(parent);
        let bits = permissions(mode);
        Ok(match node_kind(mode, device) {
            Some(kind) => client.make_node_in(parent, name, bits, kind).await?,
            None => client.create_in(parent, name, bits, true).await?,
        })
    }

    pub async fn mkdir(
        &self,
        asker: Asker,
        (parent, name): (INodeNo, &[u8]),
        mode: u32,
    ) -> Answer<Attr> {
        let client = self.rights.client(&self.client, asker);
        let parent = self.inodes.inode(parent);
        Ok(client.mkdir_in(parent, name, permissions(mode)).await?)
    }

    pub async fn symlink(
        &self,
        asker: Asker,
        (parent, name): (INodeNo, &[u8]),
        target: &[u8],
    ) -> Answer<Attr> {
        let client = self.rights.client(&self.client, asker);
        let parent = self.inodes.inode(parent);
        Ok(client.symlink_in(target, parent, name).await?)
    }

    pub async fn link(
        &self,
        asker: Asker,
        number: INodeNo,
        (parent, name): (INodeNo, &[u8]),
    ) -> Answer<Attr> {
        let client = self.rights.client(&self.client, asker);
        let (inode, parent) = (self.inodes.inode(number), self.inodes.inode(parent));
        let attr = client.link_in(inode, parent, name).await?;
        Ok(self.with_written(attr).await?)
    }

    pub async fn unlink(&self, asker: Asker, (parent, name): (INodeNo, &[u8])) -> Answer<()> {
        let client = self.rights.client(&self.client, asker);
        Ok(client.unlink_in(self.inodes.inode(parent), name).await?)
    }

    pub async fn rmdir(&self, asker: Asker, (parent, name): (INodeNo, &[u8])) -> Answer<()> {
        let client = self.rights.client(&self.client, asker);
        Ok(client.rmdir_in(self.inodes.inode(parent), name).await?)
    }

    pub async fn rename(
        &self,
        asker: Asker,
        (from, from_name): (INodeNo, &[u8]),
        (to, to_name): (INodeNo, &[u8]),
        flags: RenameFlags,
    ) -> Answer<()> {
        let client = self.rights.client(&self.client, asker);
        let (from, to) = (self.inodes.inode(from), self.inodes.inode(to));
        let leaves_whiteout = flags.contains(RenameFlags::RENAME_WHITEOUT);
        let mode = match flags - RenameFlags::RENAME_WHITEOUT {
            none if none.is_empty() => RenameMode::Replace,
            RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
            RenameFlags::RENAME_EXCHANGE if !leaves_whiteout => RenameMode::Exchange,
            _ => return Err(Errno::EINVAL.into()),
        };
        if !leaves_whiteout {
            return Ok(client
                .rename_in((from, from_name), (to, to_name), mode)
                .await?);
        }
        // What overlayfs shows nothing for: a character device 0:0 in the place of what was moved, in the same step.
        let rename = Op::Rename {
            from,
            from_name: from_name.to_vec(),
            to,
            to_name: to_name.to_vec(),
            mode,
        };
        let whiteout = Op::MakeNode {
            parent: from,
            name: from_name.to_vec(),
            mode: 0,
            kind: NodeKind::CharDevice(0),
        };
        let both = Op::List {
            expectations: Vec::new(),
            ops: vec![rename, whiteout],
        };
        client.mutate(both).await?;
        Ok(())
    }
}
