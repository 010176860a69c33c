//! The namespace by inode and name, for who walks it step by step, as a mount does: no path is resolved here.

use crate::client::Client;
use crate::meta::unexpected;
use crate::namespace::attr_of;
use quarry_common::error::{Code, Result};
use quarry_common::ids::{FileOffset, InodeId};
use quarry_common::wire::meta::{
    Attr, CloneRange, NodeKind, Op, Page, Read, ReadReply, RenameMode, View, XattrMode,
};

impl Client {
    /// Attributes of an inode.
    ///
    /// # Errors
    /// `Stale` if it is gone.
    pub async fn stat_inode(&self, inode: InodeId) -> Result<Attr> {
        let mut attrs = self.stat_inodes(&[inode]).await?;
        attrs.pop().unwrap_or_else(|| Err(unexpected("attributes")))
    }

    /// Makes an empty file; without `exclusive`, an existing one is returned as it is.
    ///
    /// # Errors
    /// `Exists`, `Stale` for the directory, `AccessDenied`.
    pub async fn create_in(
        &self,
        parent: InodeId,
        name: &[u8],
        mode: u16,
        exclusive: bool,
    ) -> Result<Attr> {
        let name = name.to_vec();
        let op = Op::Create {
            parent,
            name,
            mode,
            exclusive,
        };
        attr_of(self.mutate(op).await?)
    }

    /// Makes a file without a name: it goes with the session unless [`Client::link_in`] names it.
    ///
    /// # Errors
    /// `AccessDenied`, `Overloaded` for too many of them.
    pub async fn create_unnamed(&self, parent: InodeId, mode: u16) -> Result<Attr> {
        attr_of(self.mutate(Op::CreateUnnamed { parent, mode }).await?)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// `Exists`, `AccessDenied`.
    pub async fn mkdir_in(&self, parent: InodeId, name: &[u8], mode: u16) -> Result<Attr> {
        let name = name.to_vec();
        attr_of(self.mutate(Op::Mkdir { parent, name, mode }).await?)
    }

    /// Makes a pipe, a socket or a device.
    ///
    /// # Errors
    /// `Exists`, `NotPermitted` for devices.
    pub async fn make_node_in(
        &self,
        parent: InodeId,
        name: &[u8],
        mode: u16,
        kind: NodeKind,
    ) -> Result<Attr> {
        let op = Op::MakeNode {
            parent,
            name: name.to_vec(),
            mode,
            kind,
        };
        attr_of(self.mutate(op).await?)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// `Exists`, `AccessDenied`.
    pub async fn symlink_in(&self, target: &[u8], parent: InodeId, name: &[u8]) -> Result<Attr> {
        let op = Op::Symlink {
            parent,
            name: name.to_vec(),
            target: target.to_vec(),
            mtime: None,
        };
        attr_of(self.mutate(op).await?)
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// `NotPermitted` for directories, `Exists`, `TooManyLinks`.
    pub async fn link_in(&self, inode: InodeId, parent: InodeId, name: &[u8]) -> Result<Attr> {
        let op = Op::Link {
            inode,
            parent,
            name: name.to_vec(),
        };
        attr_of(self.mutate(op).await?)
    }

    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `AccessDenied`.
    pub async fn unlink_in(&self, parent: InodeId, name: &[u8]) -> Result<()> {
        let name = name.to_vec();
        self.mutate(Op::Unlink { parent, name }).await.map(drop)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotEmpty`, `NotDirectory`.
    pub async fn rmdir_in(&self, parent: InodeId, name: &[u8]) -> Result<()> {
        let name = name.to_vec();
        self.mutate(Op::Rmdir { parent, name }).await.map(drop)
    }

    /// Moves a name.
    ///
    /// # Errors
    /// As rename(2).
    pub async fn rename_in(
        &self,
        (from, from_name): (InodeId, &[u8]),
        (to, to_name): (InodeId, &[u8]),
        mode: RenameMode,
    ) -> Result<()> {
        let op = Op::Rename {
            from,
            from_name: from_name.to_vec(),
            to,
            to_name: to_name.to_vec(),
            mode,
        };
        self.mutate(op).await.map(drop)
    }

    /// A page of a directory: entries after a name, in byte order, at most `limit`.
    ///
    /// # Errors
    /// `AccessDenied`, `NotDirectory`, `Stale`.
    pub async fn list_page(
        &self,
        dir: InodeId,
        after: Option<&[u8]>,
        limit: u32,
        with_attrs: bool,
    ) -> Result<Page> {
        let read = Read::List {
            view: View::Live,
            dir,
            after: after.map(<[u8]>::to_vec),
            limit,
            with_attrs,
        };
        match self.read(read).await? {
            ReadReply::Page(page) => Ok(page),
            _ => Err(unexpected("entries of a directory")),
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` for anything but a symbolic link, `Stale`.
    pub async fn read_link_inode(&self, inode: InodeId) -> Result<Vec<u8>> {
        let view = View::Live;
        match self.read(Read::ReadLink { view, inode }).await? {
            ReadReply::Bytes(target) => Ok(target),
            _ => Err(unexpected("the target of a link")),
        }
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `Stale`.
    pub async fn get_xattr_inode(&self, inode: InodeId, name: &[u8]) -> Result<Vec<u8>> {
        let read = Read::GetXattr {
            view: View::Live,
            inode,
            name: name.to_vec(),
        };
        match self.read(read).await? {
            ReadReply::Bytes(value) => Ok(value),
            _ => Err(unexpected("an attribute's value")),
        }
    }

    /// The names of all extended attributes.
    ///
    /// # Errors
    /// `Stale`.
    pub async fn list_xattr_inode(&self, inode: InodeId) -> Result<Vec<Vec<u8>>> {
        let view = View::Live;
        match self.read(Read::ListXattr { view, inode }).await? {
            ReadReply::Names(names) => Ok(names),
            _ => Err(unexpected("names of attributes")),
        }
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `Exists`, `NoAttribute` as `mode` says; `TooBig`, `NotPermitted`.
    pub async fn set_xattr_inode(
        &self,
        inode: InodeId,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        let op = Op::SetXattr {
            inode,
            name: name.to_vec(),
            value: value.to_vec(),
            mode,
        };
        self.mutate(op).await.map(drop)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `NotPermitted`.
    pub async fn remove_xattr_inode(&self, inode: InodeId, name: &[u8]) -> Result<()> {
        let name = name.to_vec();
        self.mutate(Op::RemoveXattr { inode, name }).await.map(drop)
    }

    /// Makes a range of one file share the chunks of a range of another, as much of it as one operation may: returns how many
    /// bytes that were, 0 at the end of the file read. Only what is committed is seen: both files are to be synced first.
    ///
    /// # Errors
    /// `Invalid` for ranges of one file that overlap, `AccessDenied`, `FileTooBig`.
    pub async fn clone_range(
        &self,
        (from, from_offset): (InodeId, u64),
        (to, to_offset): (InodeId, u64),
        len: u64,
    ) -> Result<u64> {
        let size = self.stat_inode(from).await?.size;
        let mut len = len.min(size.saturating_sub(from_offset));
        while len > 0 {
            let range = CloneRange {
                view: View::Live,
                from,
                from_offset: FileOffset(from_offset),
                len,
                to,
                to_offset: FileOffset(to_offset),
            };
            match self.mutate(Op::Clone(range)).await {
                Ok(_) => return Ok(len),
                // More extents than one command may have.
                Err(error) if error.code == Code::TooBig && len > 1 => len /= 2,
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }
}
