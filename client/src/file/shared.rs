//! A file that is open any number of times in one client: all see what any of them wrote.

use super::extents::Window;
use super::handle::{File, OpenOptions};
use crate::client::Client;
use crate::meta::unexpected;
use bytes::Bytes;
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{FileOffset, InodeId};
use quarry_common::wire::meta::{Attr, NewExtent, Op, OpReply, Source};
use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One file, shared by all who have it open in this client.
///
/// Its calls run to their end even if their futures are dropped: nothing that was written is broken off. What was written and
/// not synced is lost with the last `Arc`.
pub struct SharedFile {
    client: Client,
    inode: InodeId,
    file: Arc<tokio::sync::Mutex<File>>,
}

/// The shared files of a client that somebody holds.
#[derive(Default)]
pub(crate) struct SharedFiles(Mutex<HashMap<InodeId, Weak<SharedFile>>>);

impl SharedFiles {
    fn lock(&self) -> MutexGuard<'_, HashMap<InodeId, Weak<SharedFile>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// The shared file of an inode, the same for all who hold it. It is read and written as the user of this client, whomever
    /// the client acts as: whether somebody may is checked when it is opened, as POSIX has it.
    ///
    /// # Errors
    /// `Stale`, `IsDirectory`; `Invalid` for what has no contents; `Overloaded` for too many open files.
    pub async fn open_shared(&self, inode: InodeId) -> Result<Arc<SharedFile>> {
        if let Some(open) = self.shared_if_open(inode) {
            // Whoever opens a file sees what was committed before, also where others have it open.
            open.file.lock().await.forget().await?;
            return Ok(open);
        }
        let client = self.itself();
        let options = OpenOptions {
            write: true,
            ..OpenOptions::default()
        };
        let file = client.open_inode(inode, options).await?;
        let made = Arc::new(SharedFile {
            client,
            inode,
            file: Arc::new(tokio::sync::Mutex::new(file)),
        });
        let mut files = self.shared.shared_files.lock();
        // Another one may have opened it meanwhile.
        if let Some(open) = files.get(&inode).and_then(Weak::upgrade) {
            drop(files);
            return Ok(open);
        }
        files.insert(inode, Arc::downgrade(&made));
        Ok(made)
    }

    /// The shared file of an inode if anybody in this client holds it.
    pub fn shared_if_open(&self, inode: InodeId) -> Option<Arc<SharedFile>> {
        let files = self.shared.shared_files.lock();
        files.get(&inode).and_then(Weak::upgrade)
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        let mut files = self.client.shared.shared_files.lock();
        let is_gone = |file: &Weak<SharedFile>| file.strong_count() == 0;
        if files.get(&self.inode).is_some_and(is_gone) {
            files.remove(&self.inode);
        }
    }
}

/// Runs work to its end whether or not anybody waits for it.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = tokio::spawn(work).await;
    done.map_err(|error| Error::bug("a task of an open file failed").with_source(error))?
}

impl SharedFile {
    /// The inode.
    pub fn inode(&self) -> InodeId {
        self.inode
    }

    /// The metaserver's attributes, with what was written through this client.
    ///
    /// # Errors
    /// `Stale`; the first failure of any write.
    pub async fn attr(&self) -> Result<Attr> {
        let file = self.file.clone();
        to_its_end(async move { file.lock().await.stat().await }).await
    }

    /// Reads at an offset, with everything that was written through this client; fewer bytes than asked for only at the end
    /// of the file.
    ///
    /// # Errors
    /// `Io` when no replica can be read; never wrong bytes.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Vec<Bytes>> {
        let file = self.file.clone();
        to_its_end(async move { Ok(vec![file.lock().await.read_at(offset, len).await?]) }).await
    }

    /// Writes at an offset. Durable and visible to other clients after [`SharedFile::sync`].
    ///
    /// # Errors
    /// The first failure of this or an earlier write.
    pub async fn write_at(&self, offset: u64, bytes: Bytes) -> Result<()> {
        let file = self.file.clone();
        to_its_end(async move { file.lock().await.write_at(offset, bytes).await }).await
    }

    /// Adds bytes, at most 64 MiB, at the end of the file, wherever that is by then, whole and exactly once; returns where
    /// they went. Durable and visible when this returns.
    ///
    /// # Errors
    /// `TooBig`; `UnknownOutcome` if the session was lost before the answer.
    pub async fn append(&self, bytes: Bytes) -> Result<u64> {
        let file = self.file.clone();
        to_its_end(async move { file.lock().await.append(bytes).await }).await
    }

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// `FileTooBig`; the first failure of any write.
    pub async fn set_len(&self, len: u64) -> Result<Attr> {
        let file = self.file.clone();
        to_its_end(async move {
            let mut file = file.lock().await;
            file.set_len(len).await?;
            file.stat().await
        })
        .await
    }

    /// Makes the file at least so long, with zeros that take no room.
    ///
    /// # Errors
    /// `FileTooBig`; the first failure of any write.
    pub async fn extend(&self, len: u64) -> Result<Attr> {
        self.commit(Vec::new(), Some(len)).await
    }

    /// Makes everything written so far durable and visible to all.
    ///
    /// # Errors
    /// The first failure of any write.
    pub async fn sync(&self) -> Result<()> {
        let file = self.file.clone();
        to_its_end(async move { file.lock().await.sync().await }).await
    }

    /// Where the next byte that is stored is, from an offset on; `None` if there is none.
    ///
    /// # Errors
    /// As any read.
    pub async fn next_data(&self, mut offset: u64) -> Result<Option<u64>> {
        self.sync().await?;
        loop {
            let window = Window::fetch(&self.client, self.inode, offset).await?;
            if offset >= window.size {
                return Ok(None);
            }
            let mut extents = window.extents().iter();
            if let Some(found) = extents.find(|extent| extent.offset.0 + extent.len > offset) {
                let found = found.offset.0.max(offset);
                return Ok((found < window.size).then_some(found));
            }
            offset = window.end();
        }
    }

    /// Where the next hole is, from an offset on: at the latest the end of the file. `None` from there on.
    ///
    /// # Errors
    /// As any read.
    pub async fn next_hole(&self, mut offset: u64) -> Result<Option<u64>> {
        self.sync().await?;
        let mut begun = false;
        loop {
            let window = Window::fetch(&self.client, self.inode, offset).await?;
            if offset >= window.size {
                return Ok(begun.then_some(window.size));
            }
            begun = true;
            for extent in window.extents() {
                if extent.offset.0 > offset {
                    return Ok(Some(offset));
                }
                offset = offset.max(extent.offset.0 + extent.len);
            }
            if offset < window.end() {
                return Ok(Some(offset));
            }
        }
    }

    /// Makes a range zeros that take no room. With `keep_size` what is beyond the end of the file is left out; else the file
    /// is as long as the range goes.
    ///
    /// # Errors
    /// `FileTooBig`; the first failure of any write.
    pub async fn punch(&self, range: Range<u64>, keep_size: bool) -> Result<()> {
        let mut range = range;
        if keep_size {
            range.end = range.end.min(self.attr().await?.size);
        }
        let mut step = range.end.saturating_sub(range.start);
        while range.start < range.end {
            let len = step.min(range.end - range.start);
            let hole = NewExtent {
                offset: FileOffset(range.start),
                len,
                source: Source::Hole,
            };
            match self.commit(vec![hole], None).await {
                Ok(_) => range.start += len,
                // More extents than one command may remove.
                Err(error) if error.code == Code::TooBig && step > 1 => step = len.div_ceil(2),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes a range of this file share the chunks of a range of another, or of another part of itself; returns how many
    /// bytes that were, which may be fewer than asked for, and are none at the end of the file read.
    ///
    /// # Errors
    /// `Invalid` for ranges of one file that overlap; the first failure of any write of either.
    pub async fn clone_range_from(
        &self,
        offset: u64,
        from: &SharedFile,
        from_offset: u64,
        len: u64,
    ) -> Result<u64> {
        from.sync().await?;
        let (file, client) = (self.file.clone(), self.client.clone());
        let (from, to) = ((from.inode, from_offset), (self.inode, offset));
        to_its_end(async move {
            let mut file = file.lock().await;
            file.sync().await?;
            let cloned = client.clone_range(from, to, len).await;
            file.forget().await?;
            cloned
        })
        .await
    }

    /// Commits extents that need no receipts, after everything written before.
    async fn commit(&self, extents: Vec<NewExtent>, size: Option<u64>) -> Result<Attr> {
        let (file, client, inode) = (self.file.clone(), self.client.clone(), self.inode);
        to_its_end(async move {
            let mut file = file.lock().await;
            file.sync().await?;
            let op = Op::CommitExtents {
                inode,
                extents,
                receipts: Vec::new(),
                size,
                mtime: None,
            };
            let committed = client.commit(op).await;
            file.forget().await?;
            match committed? {
                OpReply::Attr(attr) => Ok(attr),
                _ => Err(unexpected("attributes")),
            }
        })
        .await
    }
}
