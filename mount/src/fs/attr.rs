//! Attributes: reading and setting them.

use super::names::permissions;
use crate::access::Want;
use crate::caller::Asker;
use crate::core::Core;
use crate::errno::Answer;
use fuser::{FileHandle, INodeNo, TimeOrNow};
use quarry_common::ids::{Gid, InodeId, Uid};
use quarry_common::time::Nanos;
use quarry_common::wire::meta::{Attr, SetAttr, SetTime};

const SET_UID: u16 = 0o4000;
const SET_GID: u16 = 0o2000;
const GROUP_RUNS: u16 = 0o010;

/// What a system call sets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// The mode, the kind of the file in it.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The length.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<TimeOrNow>,
    /// Last change of the contents.
    pub mtime: Option<TimeOrNow>,
}

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To(Nanos::from(time)),
    }
}

impl Change {
    /// All but the length.
    fn attributes(&self) -> SetAttr {
        SetAttr {
            mode: self.mode.map(permissions),
            uid: self.uid.map(Uid),
            gid: self.gid.map(Gid),
            size: None,
            mtime: self.mtime.map(set_time),
            atime: self.atime.map(set_time),
        }
    }
}

impl Core {
    pub async fn getattr(&self, number: INodeNo) -> Answer<Attr> {
        let inode = self.inodes.inode(number);
        Ok(match self.client.shared_if_open(inode) {
            Some(file) => file.attr().await?,
            None => self.client.stat_inode(inode).await?,
        })
    }

    pub async fn setattr(
        &self,
        asker: Asker,
        number: INodeNo,
        handle: Option<FileHandle>,
        change: Change,
    ) -> Answer<Attr> {
        let inode = self.inodes.inode(number);
        let mut attr = None;
        if let Some(size) = change.size {
            attr = Some(self.set_size(asker, inode, handle, size).await?);
        }
        let set = self.rights.meant(change.attributes());
        match attr {
            Some(attr) if set == SetAttr::default() => Ok(attr),
            _ => {
                // A time that is set is not to be changed by bytes that were written before.
                if let (Some(_), Some(file)) = (set.mtime, self.client.shared_if_open(inode)) {
                    file.sync().await?;
                }
                let client = self.rights.client(&self.client, asker);
                let attr = client.set_attr_inode(inode, set).await?;
                Ok(self.with_written(attr).await?)
            }
        }
    }

    /// Cuts or extends a file. With a handle it may be written to, whatever its mode says by now.
    async fn set_size(
        &self,
        asker: Asker,
        inode: InodeId,
        handle: Option<FileHandle>,
        size: u64,
    ) -> Answer<Attr> {
        let file = match handle {
            Some(handle) => self.files.get(handle)?.file.clone(),
            None => {
                let (file, attr) = self.client.open_shared(inode).await?;
                self.rights.check(&attr, Want::WRITE)?;
                file
            }
        };
        let attr = file.set_len(size).await?;
        self.without_privileges(asker, attr).await
    }

    /// A file whose contents were changed by somebody but root runs as another user or group no more. The cluster sees to
    /// that where it knows who wrote; contents of a mount for everybody are written by the mount.
    pub async fn without_privileges(&self, asker: Asker, attr: Attr) -> Answer<Attr> {
        if asker.is_root() || attr.mode & (SET_UID | SET_GID) == 0 || !self.rights.are_the_kernels()
        {
            return Ok(attr);
        }
        let mut mode = attr.mode & !SET_UID;
        if mode & SET_GID != 0
            && (mode & GROUP_RUNS != 0 || !asker.caller().gids.contains(&attr.gid))
        {
            mode &= !SET_GID;
        }
        if mode == attr.mode {
            return Ok(attr);
        }
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        let attr = self.client.set_attr_inode(attr.inode, set).await?;
        self.inodes.note(&attr);
        Ok(attr)
    }

    /// The same before a write, which asks the cluster only if the file had such bits when the kernel was last told, or that is
    /// long ago.
    pub async fn wrote(&self, asker: Asker, inode: InodeId) -> Answer<()> {
        let mode = self.inodes.mode(inode, self.ttl.attributes);
        if asker.is_root() || mode.is_some_and(|mode| mode & (SET_UID | SET_GID) == 0) {
            return Ok(());
        }
        let attr = self.client.stat_inode(inode).await?;
        self.inodes.note(&attr);
        self.without_privileges(asker, attr).await.map(drop)
    }

    pub async fn access(&self, asker: Asker, number: INodeNo, mask: i32) -> Answer<()> {
        let attr = self.getattr(number).await?;
        Ok(self
            .rights
            .check_asker(asker, &attr, Want::of_access(mask))?)
    }
}
