//! Opening and closing files.

use super::names::permissions;
use crate::access::Want;
use crate::caller::Asker;
use crate::core::Core;
use crate::errno::Answer;
use crate::inodes::Contents;
use fuser::{Errno, FopenFlags, INodeNo};
use quarry_client::SharedFile;
use quarry_common::error::Code;
use quarry_common::wire::meta::{Attr, FileKind};
use std::sync::Arc;

/// An open file: what open(2) made, however many descriptors share it.
pub struct OpenFile {
    /// The file, shared by all who have it open here.
    pub file: Arc<SharedFile>,
    /// It was opened for writes that go to the end.
    appends: bool,
    /// The kernel's pages of it are good.
    keeps_pages: bool,
    /// What its contents were when it was opened.
    pub version: Contents,
}

impl OpenFile {
    fn new(file: Arc<SharedFile>, flags: i32, version: Contents, keeps_pages: bool) -> OpenFile {
        OpenFile {
            file,
            appends: flags & libc::O_APPEND != 0,
            keeps_pages,
            version,
        }
    }

    /// How the kernel is to treat it. Appended bytes go past its cache: where they land the cluster decides, and the kernel would
    /// keep them at the place where it takes the end for.
    pub fn flags(&self) -> FopenFlags {
        match (self.appends, self.keeps_pages) {
            (true, _) => FopenFlags::FOPEN_DIRECT_IO,
            (false, true) => FopenFlags::FOPEN_KEEP_CACHE,
            (false, false) => FopenFlags::empty(),
        }
    }
}

impl Core {
    fn contents(&self, attr: &Attr) -> Contents {
        Contents {
            version: attr.data_version,
            losses: self.client.losses(),
        }
    }

    pub async fn open(&self, asker: Asker, number: INodeNo, flags: i32) -> Answer<OpenFile> {
        let inode = self.inodes.inode(number);
        let (file, attr) = self.client.open_shared(inode).await?;
        if !self.rights.are_the_kernels() {
            self.rights.check(&attr, Want::of_open(flags))?;
        }
        let version = self.contents(&attr);
        let keeps_pages = self.inodes.has_pages(inode, version);
        if flags & libc::O_TRUNC != 0 {
            let attr = file.set_len(0).await?;
            self.without_privileges(asker, attr).await?;
        }
        Ok(OpenFile::new(file, flags, version, keeps_pages))
    }

    pub async fn create(
        &self,
        asker: Asker,
        (parent, name): (INodeNo, &[u8]),
        mode: u32,
        flags: i32,
    ) -> Answer<(Attr, OpenFile)> {
        let client = self.rights.client(&self.client, asker);
        let parent = self.inodes.inode(parent);
        let made = client.create_in(parent, name, permissions(mode), true);
        let attr = match made.await {
            Err(error) if error.code == Code::Exists && flags & libc::O_EXCL == 0 => {
                // Somebody else made it since the kernel looked.
                let attr = self.client.lookup(parent, name).await?;
                if attr.kind != FileKind::File {
                    // The kernel looks again, and finds what it is.
                    return Err(Errno::ESTALE.into());
                }
                let want = Want::of_open(flags);
                self.rights.check_asker(asker, &attr, want)?;
                let number = self.inodes.number(attr.inode);
                let open = self.open(asker, number, flags).await?;
                let attr = open.file.attr().await?;
                return Ok((attr, open));
            }
            made => made?,
        };
        let file = self.client.shared_file(&attr)?;
        let version = self.contents(&attr);
        Ok((attr, OpenFile::new(file, flags, version, false)))
    }

    pub async fn tmpfile(
        &self,
        asker: Asker,
        parent: INodeNo,
        mode: u32,
        flags: i32,
    ) -> Answer<(Attr, OpenFile)> {
        let client = self.rights.client(&self.client, asker);
        let parent = self.inodes.inode(parent);
        let attr = client.create_unnamed(parent, permissions(mode)).await?;
        let file = self.client.shared_file(&attr)?;
        let version = self.contents(&attr);
        Ok((attr, OpenFile::new(file, flags, version, false)))
    }

    pub async fn sync(&self, open: Arc<OpenFile>) -> Answer<()> {
        Ok(open.file.sync().await?)
    }

    /// What was written through a mapping after the last close is synced here; nobody hears of a failure any more, but the log.
    pub async fn release(&self, open: Arc<OpenFile>) -> Answer<()> {
        if let Err(error) = open.file.sync().await {
            tracing::error!(
                "inode {}: what was written last is lost: {error}",
                open.file.inode()
            );
        }
        Ok(())
    }
}
