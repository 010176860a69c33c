//! An open file of a program's own.
//!
//! What was written becomes visible to others with `sync`, `close`, or soon after it was written. A read through the same
//! handle sees what it wrote.

use super::shared::SharedFile;
use crate::client::Client;
use crate::namespace::shown;
use bytes::Bytes;
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{Attr, FileKind};
use std::future::Future;
use std::io::SeekFrom;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Made if it does not exist.
    pub create: bool,
    /// Made; it must not exist.
    pub create_new: bool,
    /// Every write goes to the end, wherever that is by then.
    pub append: bool,
    /// Emptied.
    pub truncate: bool,
    /// Permission bits of a new file.
    pub mode: u16,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            read: true,
            write: false,
            create: false,
            create_new: false,
            append: false,
            truncate: false,
            mode: 0o644,
        }
    }
}

impl OpenOptions {
    /// An existing file, for reading.
    pub fn reading() -> OpenOptions {
        OpenOptions::default()
    }

    /// A new or emptied file, for reading and writing.
    pub fn writing() -> OpenOptions {
        OpenOptions {
            write: true,
            create: true,
            truncate: true,
            ..OpenOptions::default()
        }
    }

    fn writes(&self) -> bool {
        self.write || self.append
    }
}

/// An open file. Dropping it without [`File::close`] loses what was not synced.
pub struct File {
    /// Missing only while a task of a stream has it.
    open: Option<Box<Open>>,
    pub(super) position: u64,
    pub(super) seeking: Option<SeekFrom>,
    /// What the stream has read ahead, and from where.
    pub(super) ahead: (u64, Bytes),
    pub(super) work: Option<Work>,
}

pub(super) type Work = Pin<Box<dyn Future<Output = (Box<Open>, Result<Done>)> + Send>>;

/// What a task of a stream did.
pub(super) enum Done {
    Read(u64, Bytes),
    Wrote(u64),
    Synced,
    Length(u64),
}

pub(super) struct Open {
    client: Client,
    name: String,
    pub(super) options: OpenOptions,
    file: Arc<SharedFile>,
    /// The first failure: every later `sync` and `close` reports it.
    failed: Option<Error>,
}

impl Client {
    /// Opens the file at a path.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `IsDirectory`, `AccessDenied`.
    pub async fn open(&self, path: &[u8], options: OpenOptions) -> Result<File> {
        let attr = if options.create_new {
            self.create(path, options.mode, true).await?
        } else {
            match self.stat(path).await {
                Err(error) if error.code == Code::NotFound && options.create => {
                    self.create(path, options.mode, false).await?
                }
                other => other?,
            }
        };
        self.open_attr(attr, shown(path).into_owned(), options)
            .await
    }

    /// Opens a file by its inode.
    ///
    /// # Errors
    /// `Stale`, `IsDirectory`, `AccessDenied`.
    pub async fn open_inode(&self, inode: InodeId, options: OpenOptions) -> Result<File> {
        let attr = self.stat_inode(inode).await?;
        self.open_attr(attr, format!("inode {inode}"), options)
            .await
    }

    async fn open_attr(&self, attr: Attr, name: String, options: OpenOptions) -> Result<File> {
        match attr.kind {
            FileKind::File => {}
            FileKind::Directory if !options.writes() => {
                return Err(Error::new(
                    Code::IsDirectory,
                    format!("{name}: is a directory"),
                ));
            }
            FileKind::Directory => {
                let text = format!("{name}: is a directory and can not be written");
                return Err(Error::new(Code::IsDirectory, text));
            }
            _ => {
                let text = format!("{name}: not a regular file");
                return Err(Error::new(Code::Invalid, text));
            }
        }
        let file = SharedFile::new(self.clone(), attr.inode, name.clone())?;
        if options.truncate && options.writes() && attr.size > 0 {
            file.set_len(0).await?;
        }
        Ok(File {
            open: Some(Box::new(Open {
                client: self.clone(),
                name,
                options,
                file,
                failed: None,
            })),
            position: 0,
            seeking: None,
            ahead: (0, Bytes::new()),
            work: None,
        })
    }
}

impl Open {
    fn may(&self, right: bool, doing: &str) -> Result<()> {
        if right {
            return Ok(());
        }
        // EBADF in POSIX, which has no code of its own here.
        let text = format!("{}: was not opened for {doing}", self.name);
        Err(Error::new(Code::Invalid, text))
    }

    pub(super) async fn read_at(&mut self, offset: u64, len: usize) -> Result<Bytes> {
        self.may(self.options.read, "reading")?;
        let pieces = self.file.read_at(offset, len).await?;
        Ok(match &pieces[..] {
            [one] => one.clone(),
            pieces => pieces.concat().into(),
        })
    }

    /// Whether so many bytes may be taken at all.
    fn check_write(&self, offset: u64, len: usize) -> Result<()> {
        self.may(self.options.writes(), "writing")?;
        self.file.check_len(offset, len)
    }

    /// Whether nothing was lost so far.
    fn check_failed(&self) -> Result<()> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    pub(super) async fn write_at(&mut self, offset: u64, bytes: Bytes) -> Result<()> {
        self.check_write(offset, bytes.len())?;
        self.check_failed()?;
        let written = self.file.write_at(offset, bytes).await;
        self.keep(written)
    }

    /// Remembers a failure: bytes that were taken are lost with it.
    pub(super) fn keep<T>(&mut self, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.failed.get_or_insert(error).clone())
    }

    /// Everything written so far is durable and visible to all.
    pub(super) async fn sync(&mut self) -> Result<()> {
        self.check_failed()?;
        let synced = self.file.sync().await;
        self.keep(synced)
    }

    pub(super) async fn append(&mut self, bytes: Bytes) -> Result<u64> {
        self.may(self.options.writes(), "writing")?;
        self.sync().await?;
        self.file.append(bytes).await
    }

    async fn set_len(&mut self, len: u64) -> Result<()> {
        self.may(self.options.writes(), "writing")?;
        self.sync().await?;
        self.file.set_len(len).await.map(drop)
    }

    pub(super) async fn stat(&mut self) -> Result<Attr> {
        self.sync().await?;
        let attr = self.client.stat_inode(self.file.inode()).await;
        attr.map_err(|error| error.context(&self.name))
    }
}

impl File {
    /// Waits for what a stream has begun.
    async fn ready(&mut self) -> Result<&mut Open> {
        std::future::poll_fn(|context| self.poll_idle(context)).await;
        match &mut self.open {
            Some(open) => Ok(open),
            None => Err(Error::bug("an open file was lost")),
        }
    }

    /// The inode.
    ///
    /// # Errors
    /// None in practice.
    pub async fn inode(&mut self) -> Result<InodeId> {
        Ok(self.ready().await?.file.inode())
    }

    /// Reads at an offset; fewer bytes than asked for only at the end of the file.
    ///
    /// # Errors
    /// `Io` when no replica can be read, naming the file; never wrong bytes.
    pub async fn read_at(&mut self, offset: u64, len: usize) -> Result<Bytes> {
        self.ready().await?.read_at(offset, len).await
    }

    /// Writes at an offset. Durable and visible to others after [`File::sync`].
    ///
    /// # Errors
    /// The first failure of this or an earlier write.
    pub async fn write_at(&mut self, offset: u64, bytes: Bytes) -> Result<()> {
        self.ahead.1.clear();
        self.ready().await?.write_at(offset, bytes).await
    }

    /// Adds bytes, at most 64 MiB, at the end of the file, wherever that is by then, whole and exactly
    /// once; returns where they went. Durable and visible when this returns.
    ///
    /// # Errors
    /// `TooBig`; `UnknownOutcome` if the session was lost before the answer.
    pub async fn append(&mut self, bytes: Bytes) -> Result<u64> {
        self.ahead.1.clear();
        self.ready().await?.append(bytes).await
    }

    /// Makes everything written so far durable and visible to all.
    ///
    /// # Errors
    /// The first failure of any write.
    pub async fn sync(&mut self) -> Result<()> {
        self.ready().await?.sync().await
    }

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// `FileTooBig`; the first failure of any write.
    pub async fn set_len(&mut self, len: u64) -> Result<()> {
        self.ahead.1.clear();
        self.ready().await?.set_len(len).await
    }

    /// The attributes, with everything written so far.
    ///
    /// # Errors
    /// The first failure of any write.
    pub async fn stat(&mut self) -> Result<Attr> {
        self.ready().await?.stat().await
    }

    /// The length, with everything written so far.
    ///
    /// # Errors
    /// As [`File::stat`].
    pub async fn len(&mut self) -> Result<u64> {
        Ok(self.stat().await?.size)
    }

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// As [`File::stat`].
    pub async fn is_empty(&mut self) -> Result<bool> {
        Ok(self.len().await? == 0)
    }

    /// Syncs and closes.
    ///
    /// # Errors
    /// The first failure of any write: the bytes are not all there.
    pub async fn close(mut self) -> Result<()> {
        self.ready().await?.sync().await
    }

    /// Drives what a stream has begun to its end; a failure of a write was kept for `sync`.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.work.is_some() {
            // The stream's own call sees the outcome if it still asks; else it has no reader.
            let _outcome = ready!(self.poll_work(context));
        }
        Poll::Ready(())
    }

    pub(super) fn poll_work(&mut self, context: &mut Context<'_>) -> Poll<Result<Done>> {
        let Some(work) = &mut self.work else {
            return Poll::Ready(Err(Error::bug("no work of a file is under way")));
        };
        let (open, done) = ready!(work.as_mut().poll(context));
        self.work = None;
        self.open = Some(open);
        Poll::Ready(done)
    }

    /// Whether a stream may write so many bytes at its position; to be asked while no work is under way.
    pub(super) fn check_write(&self, len: usize) -> Result<()> {
        match &self.open {
            // Where the end is shows only then.
            Some(open) if open.options.append => open.check_write(0, len),
            Some(open) => open.check_write(self.position, len),
            None => Ok(()),
        }
    }

    pub(super) fn begin<F>(&mut self, work: impl FnOnce(Box<Open>) -> F) -> Result<()>
    where
        F: Future<Output = (Box<Open>, Result<Done>)> + Send + 'static,
    {
        let open = self.open.take();
        let open = open.ok_or_else(|| Error::bug("a file is used by two streams"))?;
        self.work = Some(Box::pin(work(open)));
        Ok(())
    }
}
