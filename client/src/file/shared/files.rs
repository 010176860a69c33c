//! The open files of a client: one for each inode.

use super::SharedFile;
use crate::client::Client;
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{Attr, FileKind};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use tokio::task::JoinSet;

/// The shared files of a client that somebody holds, and how often bytes of some were lost.
#[derive(Default)]
pub(crate) struct SharedFiles(Mutex<HashMap<InodeId, Weak<SharedFile>>>, AtomicU64);

impl SharedFiles {
    fn lock(&self) -> MutexGuard<'_, HashMap<InodeId, Weak<SharedFile>>> {
        self.0.lock().expect("nobody panics with this lock")
    }

    /// Bytes of a file are lost: whoever opens the inode gets another one from now on.
    pub(super) fn handle_loss(&self, of: &SharedFile) {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.remove(of);
    }

    /// Whoever opens the inode gets another one from now on.
    pub(super) fn remove(&self, gone: &SharedFile) {
        let mut files = self.lock();
        // Another one may have taken its place.
        let is_it = |file: &Weak<SharedFile>| std::ptr::eq(file.as_ptr(), gone);
        if files.get(&gone.inode).is_some_and(is_it) {
            files.remove(&gone.inode);
        }
    }
}

impl Client {
    /// The open file of an inode, the same for all who hold it, and its attributes. It is read and written as the user of this
    /// client, whomever the client acts as: whether somebody may is checked when it is opened, as POSIX has it. Whoever opens
    /// it sees what was committed before; one that lost bytes is not shared any more.
    ///
    /// # Errors
    /// `Stale`, `IsDirectory`; `Invalid` for what has no contents; `Overloaded` for too many open files.
    pub async fn open_shared(&self, inode: InodeId) -> Result<(Arc<SharedFile>, Attr)> {
        let attr = self.itself().stat_inode(inode).await?;
        Ok((self.shared_file(&attr)?, attr))
    }

    /// The same for a file whose attributes were asked for just now.
    ///
    /// # Errors
    /// As [`Client::open_shared`].
    pub fn shared_file(&self, attr: &Attr) -> Result<Arc<SharedFile>> {
        let inode = attr.inode;
        let name = format!("inode {inode}");
        match attr.kind {
            FileKind::File => {}
            FileKind::Directory => {
                let text = format!("{name}: is a directory");
                return Err(Error::new(Code::IsDirectory, text));
            }
            _ => {
                let text = format!("{name}: not a regular file");
                return Err(Error::new(Code::Invalid, text));
            }
        }
        let mut files = self.shared.shared_files.lock();
        if let Some(open) = files.get(&inode).and_then(Weak::upgrade) {
            open.reader.forget_others(attr.data_version);
            return Ok(open);
        }
        let made = SharedFile::new(self.itself(), inode, name)?;
        files.insert(inode, Arc::downgrade(&made));
        Ok(made)
    }

    /// Syncs all open files, each for at most so long; returns those of which bytes are lost, and why.
    pub async fn sync_shared(&self, patience: Duration) -> Vec<(InodeId, Error)> {
        let files: Vec<Arc<SharedFile>> = {
            let files = self.shared.shared_files.lock();
            files.values().filter_map(Weak::upgrade).collect()
        };
        let mut syncing = JoinSet::new();
        for file in files {
            syncing.spawn(async move {
                let synced = tokio::time::timeout(patience, file.sync()).await;
                let late = || {
                    let text =
                        format!("the cluster did not answer within {} s", patience.as_secs());
                    Err(Error::new(Code::Unreachable, text))
                };
                (file.inode, synced.unwrap_or_else(|_| late()))
            });
        }
        let ended = syncing.join_all().await.into_iter();
        ended
            .filter_map(|(inode, synced)| Some((inode, synced.err()?)))
            .collect()
    }

    /// How often bytes of open files were lost: what was read before may be what is nowhere any more.
    pub fn losses(&self) -> u64 {
        self.shared.shared_files.1.load(Ordering::Relaxed)
    }

    /// The open file of an inode, if anybody in this client holds it.
    pub fn shared_if_open(&self, inode: InodeId) -> Option<Arc<SharedFile>> {
        let files = self.shared.shared_files.lock();
        files.get(&inode).and_then(Weak::upgrade)
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        self.budget.change(self.state().counted, 0);
        self.client.shared.shared_files.remove(self);
    }
}
