//! An open file.
//!
//! Writes are gathered into ranges; what was written becomes visible to others with `sync`, `close`
//! or when many ranges wait. A read through the same handle sees what it wrote.

use super::assembler::{Assembler, Written};
use super::kept::Kept;
use super::publish::REPEATS;
use super::reader::Reader;
use super::spans::Spans;
use crate::client::Client;
use crate::meta::unexpected;
use crate::namespace::shown;
use bytes::{Bytes, BytesMut};
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::InodeId;
use quarry_common::limits::{CHUNK_LEN_MAX, FILE_LEN_MAX};
use quarry_common::wire::meta::{Attr, FileKind, Op, OpReply, SetAttr};
use std::future::Future;
use std::io::SeekFrom;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Ranges that are durable and not committed: more are committed without waiting for `sync`.
const UNCOMMITTED_MAX: usize = 128;

/// Bytes that are kept because they are not committed: those of a session that is lost are written again. With more, the
/// oldest are committed first.
const KEPT_MAX: u64 = 2 * CHUNK_LEN_MAX as u64;

/// Small writes that follow each other are gathered up to this length.
pub(super) const GATHER_LEN: usize = 1 << 20;

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
    inode: InodeId,
    name: String,
    pub(super) options: OpenOptions,
    reader: Arc<Reader>,
    assembler: Assembler,
    /// Durable, in the order of the writes, none overlapping another.
    uncommitted: Vec<Written>,
    /// What was handed on and is not committed.
    kept: Kept,
    /// What was written since the last sync.
    dirty: Spans,
    /// Small writes that follow each other.
    gathered: BytesMut,
    gathered_at: u64,
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
        let reader = Reader::new(self.clone(), attr.inode, name.clone())?;
        if options.truncate && options.writes() && attr.size > 0 {
            let set = SetAttr {
                size: Some(0),
                ..SetAttr::default()
            };
            let emptied = self.set_attr_inode(attr.inode, set).await;
            emptied.map_err(|error| error.context(&name))?;
        }
        Ok(File {
            open: Some(Box::new(Open {
                client: self.clone(),
                inode: attr.inode,
                name,
                options,
                reader: Arc::new(reader),
                assembler: Assembler::new(self.shared.data.clone()),
                uncommitted: Vec::new(),
                kept: Kept::default(),
                dirty: Spans::default(),
                gathered: BytesMut::new(),
                gathered_at: 0,
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
        if !self.dirty.is_empty() {
            self.sync().await?;
        }
        self.reader.read_at(offset, len).await
    }

    /// Whether so many bytes may be taken at all.
    fn check_write(&self, offset: u64, len: usize) -> Result<()> {
        self.may(self.options.writes(), "writing")?;
        if offset.saturating_add(len as u64) > FILE_LEN_MAX {
            let text = format!("{}: the file would be too long", self.name);
            return Err(Error::new(Code::FileTooBig, text));
        }
        Ok(())
    }

    pub(super) async fn write_at(&mut self, offset: u64, bytes: Bytes) -> Result<()> {
        self.check_write(offset, bytes.len())?;
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let end = offset + bytes.len() as u64;
        if bytes.is_empty() {
            return Ok(());
        }
        // Extents of one commit do not overlap.
        if self.dirty.overlaps(offset..end) {
            self.sync().await?;
        }
        self.dirty.add(offset..end);
        self.failed = Some(self.broken_off());
        let written = self.gather(offset, bytes).await;
        self.failed = None;
        self.keep(written)
    }

    /// What later calls report if the future of a write or a sync is dropped half-way: it takes bytes
    /// along that were written before, and no `sync` may say afterwards that they are durable.
    fn broken_off(&self) -> Error {
        let text = format!(
            "{}: a write or a sync was broken off: what was written since the last sync may be lost, write it again",
            self.name
        );
        Error::new(Code::Io, text)
    }

    async fn gather(&mut self, offset: u64, bytes: Bytes) -> Result<()> {
        let follows = self.gathered_at + self.gathered.len() as u64 == offset;
        if !follows || self.gathered.len() + bytes.len() > GATHER_LEN {
            self.flush_gathered().await?;
        }
        if bytes.len() >= GATHER_LEN / 2 {
            self.flush_gathered().await?;
            self.hand_on(offset, bytes).await?;
        } else {
            if self.gathered.is_empty() {
                self.gathered_at = offset;
            }
            self.gathered.extend_from_slice(&bytes);
        }
        Ok(())
    }

    /// Hands bytes on to be made durable.
    async fn hand_on(&mut self, offset: u64, bytes: Bytes) -> Result<()> {
        self.kept.add(offset, bytes.clone());
        self.assembler.write(offset, bytes).await?;
        self.uncommitted.extend(self.assembler.take_done());
        if self.uncommitted.len() >= UNCOMMITTED_MAX {
            self.commit_some().await?;
        }
        while self.kept.len() > KEPT_MAX {
            let waited = self.assembler.settle_oldest().await?;
            self.uncommitted.extend(self.assembler.take_done());
            self.commit_some().await?;
            if !waited {
                break;
            }
        }
        Ok(())
    }

    async fn flush_gathered(&mut self) -> Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let bytes = self.gathered.split().freeze();
        self.hand_on(self.gathered_at, bytes).await
    }

    /// Remembers a failure: bytes that were taken are lost with it.
    pub(super) fn keep<T>(&mut self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let error = error.context(&self.name);
            self.kept = Kept::default();
            self.failed.get_or_insert(error).clone()
        })
    }

    async fn commit_some(&mut self) -> Result<()> {
        let mut rest = std::mem::take(&mut self.uncommitted);
        while !rest.is_empty() {
            let after = rest.split_off(rest.len().min(UNCOMMITTED_MAX));
            let mut some = std::mem::replace(&mut rest, after);
            let mut repeats = 0;
            loop {
                match self.client.commit_extents(self.inode, &some, None).await {
                    // Refused: the session that wrote them was lost, or the members of their groups have changed.
                    Err(error) if is_outdated(&error) && repeats < REPEATS => {
                        tracing::info!(name = self.name, %error, "what was not committed is written again");
                        repeats += 1;
                        some = self.write_again(&some).await?;
                    }
                    committed => {
                        committed?;
                        break;
                    }
                }
            }
            some.iter()
                .for_each(|written| self.kept.remove(&written.range()));
        }
        self.reader.forget();
        Ok(())
    }

    /// The same bytes in new chunks.
    async fn write_again(&self, written: &[Written]) -> Result<Vec<Written>> {
        let mut assembler = Assembler::new(self.client.shared.data.clone());
        for range in written.iter().map(Written::range) {
            let pieces = self.kept.range(&range);
            let len: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
            if len as u64 != range.end - range.start {
                let text = format!("{}: bytes that are not committed were not kept", self.name);
                return Err(Error::bug(text));
            }
            for (offset, bytes) in pieces {
                assembler.write(offset, bytes).await?;
            }
        }
        assembler.take().await
    }

    /// Everything written so far is durable and visible to all.
    pub(super) async fn sync(&mut self) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.dirty.is_empty() {
            return Ok(());
        }
        self.dirty = Spans::default();
        self.failed = Some(self.broken_off());
        let synced = async {
            self.flush_gathered().await?;
            let rest = self.assembler.take().await?;
            self.uncommitted.extend(rest);
            self.commit_some().await
        }
        .await;
        self.failed = None;
        self.keep(synced)
    }

    pub(super) async fn append(&mut self, bytes: Bytes) -> Result<u64> {
        self.may(self.options.writes(), "writing")?;
        self.sync().await?;
        if bytes.len() > CHUNK_LEN_MAX as usize {
            let text = format!(
                "{}: one append is at most {} MiB",
                self.name,
                CHUNK_LEN_MAX >> 20
            );
            return Err(Error::new(Code::TooBig, text));
        }
        let appended = self.append_one(bytes).await;
        appended.map_err(|error| error.context(&self.name))
    }

    async fn append_one(&mut self, bytes: Bytes) -> Result<u64> {
        for _ in 0..REPEATS {
            match self.append_once(bytes.clone()).await {
                // Refused, so nothing was appended: the bytes go into new chunks.
                Err(error) if is_outdated(&error) => {
                    tracing::info!(name = self.name, %error, "an append is begun again");
                }
                other => return other,
            }
        }
        self.append_once(bytes).await
    }

    async fn append_once(&mut self, bytes: Bytes) -> Result<u64> {
        let len = bytes.len() as u64;
        let mut record = Assembler::new(self.client.shared.data.clone());
        record.write(0, bytes).await?;
        let written = record.take().await?;
        let super::assembler::Batch { extents, receipts } = super::assembler::Batch::of(&written);
        let op = Op::Append {
            inode: self.inode,
            extents,
            receipts,
            len,
        };
        let OpReply::Appended { offset, .. } = self.client.commit(op).await? else {
            return Err(unexpected("where an append went"));
        };
        self.reader.forget();
        Ok(offset.0)
    }

    async fn set_len(&mut self, len: u64) -> Result<()> {
        self.may(self.options.writes(), "writing")?;
        self.sync().await?;
        let set = SetAttr {
            size: Some(len),
            ..SetAttr::default()
        };
        let done = self.client.set_attr_inode(self.inode, set).await;
        self.reader.forget();
        done.map(drop).map_err(|error| error.context(&self.name))
    }

    pub(super) async fn stat(&mut self) -> Result<Attr> {
        self.sync().await?;
        let attr = self.client.stat_inode(self.inode).await;
        attr.map_err(|error| error.context(&self.name))
    }
}

/// Whether a commit was refused because of receipts that others would not be.
fn is_outdated(error: &Error) -> bool {
    matches!(error.code, Code::OldReceipt | Code::BadReceipt)
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
        Ok(self.ready().await?.inode)
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

    /// Forgets where the bytes are: somebody else in this client changed it.
    pub(super) async fn forget(&mut self) -> Result<()> {
        self.ahead.1.clear();
        self.ready().await?.reader.forget();
        Ok(())
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
