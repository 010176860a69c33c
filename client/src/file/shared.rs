//! A file that is open: one for all handles that share it, so that each sees what any of them wrote.
//!
//! What is written is taken into memory ([`Dirty`]), leaves for the dataservers when there is much of it, and is committed,
//! which makes it durable and seen by others, by [`SharedFile::sync`] or soon after the last write. Whatever takes long runs
//! in a task of its own: who drops the future of a call breaks nothing off.

use super::assembler::{Assembler, Batch, Written};
use super::dirty::Dirty;
use super::extents::{Segment, Window};
use super::publish::REPEATS;
use super::reader::Reader;
use crate::budget::Budget;
use crate::client::Client;
use crate::meta::unexpected;
use bytes::{Bytes, BytesMut};
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{FileOffset, InodeId};
use quarry_common::limits::{CHUNK_LEN_MAX, FILE_LEN_MAX};
use quarry_common::time::Nanos;
use quarry_common::wire::meta::{Attr, NewExtent, Op, OpReply, SetAttr, Source};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Fresh bytes without a gap leave once there are so many of them.
const RUN_LEN: u64 = 1 << 20;

/// With so many fresh bytes some are to leave, and with as many as that a writer waits until they do.
const FRESH_DUE: u64 = 4 << 20;
const FRESH_MAX: u64 = 16 << 20;

/// Bytes that have left are held until they are committed, since those of a session that is lost are written again. With
/// more, the oldest are committed first.
const LEAVING_MAX: u64 = 2 * CHUNK_LEN_MAX as u64;

/// Ranges that are durable and not committed: more are committed at once.
const UNCOMMITTED_MAX: usize = 128;

/// What nobody syncs is committed when nothing was written for so long, and at the latest after as long as that: sync(2) and
/// a program that just ends its writes tell us nothing.
const QUIET: Duration = Duration::from_secs(1);
const DIRTY_FOR: Duration = Duration::from_secs(5);

/// How often it is looked whether that is so.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// An open file.
pub struct SharedFile {
    client: Client,
    inode: InodeId,
    /// Its name in errors.
    name: String,
    reader: Arc<Reader>,
    state: Mutex<State>,
    /// Who hands on and commits, one at a time.
    leaving: tokio::sync::Mutex<Leaving>,
    budget: Arc<Budget>,
    /// Some bytes are to leave now.
    due: Notify,
    /// There are fewer fresh bytes than before.
    fewer: Notify,
}

#[derive(Default)]
struct State {
    dirty: Dirty,
    /// The bytes of it that are counted in the budget.
    counted: u64,
    /// When the first and the last of it was written.
    written: Option<(Instant, Instant)>,
    /// Whether a task sees to it that it is committed.
    is_looked_after: bool,
    /// Why bytes were lost of which nobody was told.
    failed: Option<Error>,
}

struct Leaving {
    assembler: Assembler,
    /// Durable, in the order of the writes, none overlapping another.
    uncommitted: Vec<Written>,
}

impl State {
    /// Whether it is time to commit what nobody syncs.
    fn is_due(&self, now: Instant) -> bool {
        self.written.is_some_and(|(first, last)| {
            now.saturating_duration_since(last) >= QUIET
                || now.saturating_duration_since(first) >= DIRTY_FOR
        })
    }
}

impl Client {
    /// The open file of an inode, which all who ask for it share as long as one of them has it. What it does is done as this
    /// client's user, whoever it acts as.
    ///
    /// # Errors
    /// `Overloaded`: the client has too many files open.
    pub fn open_shared(&self, inode: InodeId) -> Result<Arc<SharedFile>> {
        let mut files = self.shared.files();
        if let Some(file) = files.get(&inode).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = SharedFile::new(self.itself(), inode, format!("inode {inode}"))?;
        files.insert(inode, Arc::downgrade(&file));
        Ok(file)
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        self.budget.change(self.state().counted, 0);
        let mut files = self.client.shared.files();
        // Another one may have taken its place.
        let is_gone = |file: &Weak<SharedFile>| file.strong_count() == 0;
        if files.get(&self.inode).is_some_and(is_gone) {
            files.remove(&self.inode);
        }
    }
}

impl SharedFile {
    /// A regular file; `name` names it in errors.
    ///
    /// # Errors
    /// `Overloaded`: the client has too many files open.
    pub fn new(client: Client, inode: InodeId, name: String) -> Result<Arc<SharedFile>> {
        let reader = Arc::new(Reader::new(client.clone(), inode, name.clone())?);
        let assembler = Assembler::new(client.shared.data.clone());
        let budget = client.shared.budget.clone();
        Ok(Arc::new(SharedFile {
            client,
            inode,
            name,
            reader,
            state: Mutex::default(),
            leaving: tokio::sync::Mutex::new(Leaving {
                assembler,
                uncommitted: Vec::new(),
            }),
            budget,
            due: Notify::new(),
            fewer: Notify::new(),
        }))
    }

    /// The inode.
    pub fn inode(&self) -> InodeId {
        self.inode
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with this lock")
    }

    /// Does something to the state, and counts what it holds then.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let done = change(&mut state);
        let len = state.dirty.len();
        self.budget.change(state.counted, len);
        state.counted = len;
        if len == 0 {
            state.written = None;
        }
        done
    }

    fn named(&self, error: Error) -> Error {
        error.context(&self.name)
    }

    /// Reads at most `len` bytes at an offset, fewer only at the end of the file: with everything that was written here.
    ///
    /// # Errors
    /// `Io` when no replica can be read, naming the file; never wrong bytes.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Vec<Bytes>> {
        let range = offset..offset.saturating_add(len as u64);
        // First: what is committed meanwhile is among the extents then.
        let (pieces, end) = {
            let dirty = &mut self.state().dirty;
            (dirty.read(&range), dirty.end())
        };
        if pieces.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() == len {
            return Ok(pieces.into_iter().map(|(_, bytes)| bytes).collect());
        }
        let committed = self.reader.read_at(offset, len).await?;
        let here = end.min(range.end).saturating_sub(offset) as usize;
        if pieces.is_empty() && here <= committed.len() {
            return Ok(vec![committed]);
        }
        let mut bytes = BytesMut::from(&committed[..]);
        bytes.resize(bytes.len().max(here), 0);
        for (at, piece) in pieces {
            let from = (at - offset) as usize;
            bytes[from..from + piece.len()].copy_from_slice(&piece);
        }
        Ok(vec![bytes.freeze()])
    }

    /// Whether so many bytes may be taken at all.
    ///
    /// # Errors
    /// `FileTooBig`.
    pub fn check_len(&self, offset: u64, len: usize) -> Result<()> {
        if offset.saturating_add(len as u64) > FILE_LEN_MAX {
            let text = format!("{}: the file would be too long", self.name);
            return Err(Error::new(Code::FileTooBig, text));
        }
        Ok(())
    }

    /// Writes at an offset: the bytes are taken. Durable and seen by others after [`SharedFile::sync`].
    ///
    /// # Errors
    /// `FileTooBig`; why earlier bytes were lost, if nobody was told yet.
    pub async fn write_at(self: &Arc<Self>, offset: u64, bytes: Bytes) -> Result<()> {
        self.check_len(offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        loop {
            let fewer = self.fewer.notified();
            tokio::pin!(fewer);
            fewer.as_mut().enable();
            let has_room = self.budget.has_room();
            let taken = self.change(|state| {
                if let Some(error) = state.failed.take() {
                    return Err(error);
                }
                // Whoever has nothing here may always begin, so that none waits for ever behind others.
                let fits = has_room && state.dirty.fresh_len() < FRESH_MAX;
                if !fits && !state.dirty.is_empty() {
                    return Ok(None);
                }
                state.dirty.write(offset, bytes.clone());
                let now = Instant::now();
                let first = state.written.map_or(now, |(first, _)| first);
                state.written = Some((first, now));
                Ok(Some(state.dirty.fresh_len()))
            });
            self.look_after();
            match taken? {
                Some(fresh) if fresh < FRESH_DUE => return Ok(()),
                Some(_) => {
                    self.due.notify_one();
                    return Ok(());
                }
                None => {
                    self.due.notify_one();
                    // Others may give the budget back meanwhile.
                    let _elapsed = tokio::time::timeout(LOOK_EVERY, fewer).await;
                }
            }
        }
    }

    /// A task sees to it that what is written leaves and is committed, as long as there is some.
    fn look_after(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if state.is_looked_after || state.dirty.is_empty() {
                return;
            }
            state.is_looked_after = true;
        }
        let file = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let _elapsed = tokio::time::timeout(LOOK_EVERY, file.due.notified()).await;
                let (is_due, fresh) = {
                    let mut state = file.state();
                    if state.dirty.is_empty() {
                        state.is_looked_after = false;
                        return;
                    }
                    (state.is_due(Instant::now()), state.dirty.fresh_len())
                };
                let is_due = is_due || !file.budget.has_room();
                if !is_due && fresh < FRESH_DUE {
                    continue;
                }
                let mut leaving = file.leaving.lock().await;
                let done = match is_due {
                    true => file.commit_all(&mut leaving).await,
                    false => file.hand_on(&mut leaving, RUN_LEN).await,
                };
                if let Err(error) = done {
                    tracing::warn!("{}: what was written is lost: {error}", file.name);
                    file.lose(&mut leaving);
                    file.state().failed.get_or_insert(error);
                }
            }
        });
    }

    /// What is not committed is lost.
    fn lose(&self, leaving: &mut Leaving) {
        leaving.assembler = Assembler::new(self.client.shared.data.clone());
        leaving.uncommitted.clear();
        self.change(|state| state.dirty.discard());
        self.fewer.notify_waiters();
    }

    /// Hands on what is fresh now, of runs of at least `least`. After an error all is to be given up: [`SharedFile::lose`].
    async fn hand_on(&self, leaving: &mut Leaving, least: u64) -> Result<()> {
        let runs = self.state().dirty.runs(least);
        for run in runs {
            if self.state().dirty.is_leaving(&run) {
                // Older bytes of the same place first.
                self.commit_leaving(leaving).await?;
            }
            let pieces = self.change(|state| state.dirty.hand_on(&run));
            self.fewer.notify_waiters();
            for (offset, bytes) in pieces {
                leaving.assembler.write(offset, bytes).await?;
            }
            self.keep_few(leaving).await?;
        }
        Ok(())
    }

    /// Commits what is durable while there is much of it.
    async fn keep_few(&self, leaving: &mut Leaving) -> Result<()> {
        leaving.uncommitted.extend(leaving.assembler.take_done());
        if leaving.uncommitted.len() >= UNCOMMITTED_MAX {
            self.commit_durable(leaving).await?;
        }
        while self.state().dirty.leaving_len() > LEAVING_MAX {
            let waited = leaving.assembler.settle_oldest().await?;
            leaving.uncommitted.extend(leaving.assembler.take_done());
            self.commit_durable(leaving).await?;
            if !waited {
                break;
            }
        }
        Ok(())
    }

    /// Commits what has left.
    async fn commit_leaving(&self, leaving: &mut Leaving) -> Result<()> {
        let rest = leaving.assembler.take().await?;
        leaving.uncommitted.extend(rest);
        self.commit_durable(leaving).await
    }

    async fn commit_durable(&self, leaving: &mut Leaving) -> Result<()> {
        let mut rest = std::mem::take(&mut leaving.uncommitted);
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
            // Before they are gone from here: who reads sees them in one place at least.
            self.reader.forget();
            self.change(|state| {
                let ranges = some.iter().map(Written::range);
                ranges.for_each(|range| state.dirty.handle_committed(&range));
            });
        }
        self.fewer.notify_waiters();
        Ok(())
    }

    /// The same bytes in new chunks.
    async fn write_again(&self, written: &[Written]) -> Result<Vec<Written>> {
        let mut assembler = Assembler::new(self.client.shared.data.clone());
        for range in written.iter().map(Written::range) {
            let pieces = self.state().dirty.leaving(&range);
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

    /// Commits everything that was written before. After an error as [`SharedFile::hand_on`].
    async fn commit_all(&self, leaving: &mut Leaving) -> Result<()> {
        self.change(|state| {
            if let Some((first, _)) = &mut state.written {
                // What comes from now on counts from now on.
                *first = Instant::now();
            }
        });
        self.hand_on(leaving, 1).await?;
        self.commit_leaving(leaving).await
    }

    /// Does something in a task of its own, with everything committed that was written before, while nothing else leaves.
    async fn alone<T, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<SharedFile>) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let file = Arc::clone(self);
        let task = tokio::spawn(async move {
            let mut leaving = file.leaving.lock().await;
            let committed = file.commit_all(&mut leaving).await;
            if committed.is_err() {
                file.lose(&mut leaving);
            }
            // It is told here and now.
            let told = file.state().failed.take();
            if let Some(error) = told.or(committed.err()) {
                return Err(file.named(error));
            }
            let done = work(Arc::clone(&file)).await;
            done.map_err(|error| file.named(error))
        });
        let ended = task.await;
        ended.map_err(|error| Error::bug("the task of an open file failed").with_source(error))?
    }

    /// Makes everything written so far durable and visible to all.
    ///
    /// # Errors
    /// Why bytes were lost, if nobody was told yet.
    pub async fn sync(self: &Arc<Self>) -> Result<()> {
        {
            let state = self.state();
            if state.dirty.is_empty() && state.failed.is_none() {
                return Ok(());
            }
        }
        self.alone(async |_| Ok(())).await
    }

    /// Adds bytes, at most 64 MiB, at the end of the file, wherever that is by then, whole and exactly once; returns where
    /// they went. Durable and visible when this returns.
    ///
    /// # Errors
    /// `TooBig`; `UnknownOutcome` if the session was lost before the answer.
    pub async fn append(self: &Arc<Self>, bytes: Bytes) -> Result<u64> {
        if bytes.len() > CHUNK_LEN_MAX as usize {
            let most = CHUNK_LEN_MAX >> 20;
            let text = format!("{}: one append is at most {most} MiB", self.name);
            return Err(Error::new(Code::TooBig, text));
        }
        self.alone(async move |file| {
            for _ in 0..REPEATS {
                match file.append_once(bytes.clone()).await {
                    // Refused, so nothing was appended: the bytes go into new chunks.
                    Err(error) if is_outdated(&error) => {
                        tracing::info!(name = file.name, %error, "an append is begun again");
                    }
                    other => return other,
                }
            }
            file.append_once(bytes).await
        })
        .await
    }

    async fn append_once(&self, bytes: Bytes) -> Result<u64> {
        let len = bytes.len() as u64;
        let mut record = Assembler::new(self.client.shared.data.clone());
        record.write(0, bytes).await?;
        let written = record.take().await?;
        let Batch { extents, receipts } = Batch::of(&written);
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

    /// Sets attributes, after everything that was written before; `size` cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// `FileTooBig`, `NotPermitted`; why bytes were lost, if nobody was told yet.
    pub async fn set_attr(self: &Arc<Self>, set: SetAttr) -> Result<Attr> {
        self.alone(async move |file| {
            let done = file.client.set_attr_inode(file.inode, set).await;
            file.reader.forget();
            done
        })
        .await
    }

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// As [`SharedFile::set_attr`].
    pub async fn set_len(self: &Arc<Self>, len: u64) -> Result<Attr> {
        let set = SetAttr {
            size: Some(len),
            ..SetAttr::default()
        };
        self.set_attr(set).await
    }

    /// The attributes as the metaserver has them, with what was written here and is not committed laid over.
    ///
    /// # Errors
    /// `Stale`: it is no more.
    pub async fn attr(&self) -> Result<Attr> {
        // First: what is committed meanwhile the metaserver has.
        let (end, written) = {
            let state = self.state();
            (state.dirty.end(), state.written)
        };
        let attr = self.client.stat_inode(self.inode).await;
        let mut attr = attr.map_err(|error| self.named(error))?;
        attr.size = attr.size.max(end);
        if let Some((_, last)) = written {
            // It is committed with the metaserver's time, which is about ours.
            let ago = last.elapsed().as_nanos() as i64;
            let at = Nanos(Nanos::now().0.saturating_sub(ago));
            attr.mtime = attr.mtime.max(at);
            attr.ctime = attr.ctime.max(at);
        }
        Ok(attr)
    }

    /// Forgets where the bytes are: another client may have written.
    pub fn forget(&self) {
        self.reader.forget();
    }

    /// Makes a hole, in which zeros are read and which takes no room; one beyond the end makes the file longer unless
    /// `keep_size`.
    ///
    /// # Errors
    /// As [`SharedFile::set_attr`].
    pub async fn punch(self: &Arc<Self>, range: Range<u64>, keep_size: bool) -> Result<()> {
        self.check_len(range.start, (range.end - range.start) as usize)?;
        self.alone(async move |file| {
            let mut end = range.end;
            if keep_size {
                end = end.min(file.client.stat_inode(file.inode).await?.size);
            }
            if range.start >= end {
                return Ok(());
            }
            let op = Op::CommitExtents {
                inode: file.inode,
                extents: vec![NewExtent {
                    offset: FileOffset(range.start),
                    len: end - range.start,
                    source: Source::Hole,
                }],
                receipts: Vec::new(),
                size: None,
                mtime: None,
            };
            file.client.commit(op).await?;
            file.reader.forget();
            Ok(())
        })
        .await
    }

    /// Where the next byte that is no hole is, from an offset on; `None` if there is none.
    ///
    /// # Errors
    /// As any read.
    pub async fn next_data(self: &Arc<Self>, offset: u64) -> Result<Option<u64>> {
        self.find(offset, |segment| !matches!(segment, Segment::Hole(_)))
            .await
    }

    /// Where the next hole is, from an offset on: there is one at the end of each file. `None` from there on.
    ///
    /// # Errors
    /// As any read.
    pub async fn next_hole(self: &Arc<Self>, offset: u64) -> Result<Option<u64>> {
        let found = self.find(offset, |segment| matches!(segment, Segment::Hole(_)));
        if let Some(hole) = found.await? {
            return Ok(Some(hole));
        }
        let size = self.client.stat_inode(self.inode).await?.size;
        Ok((offset < size).then_some(size))
    }

    /// Where the first segment begins, from an offset on, that is one of these.
    async fn find(
        self: &Arc<Self>,
        mut offset: u64,
        is_one: fn(&Segment) -> bool,
    ) -> Result<Option<u64>> {
        self.alone(async move |file| {
            loop {
                let window = Window::fetch(&file.client, file.inode, offset).await?;
                while let Some(segment) = window.at(offset, u64::MAX) {
                    if is_one(&segment) {
                        return Ok(Some(offset));
                    }
                    offset += segment.span();
                }
                if offset >= window.size {
                    return Ok(None);
                }
            }
        })
        .await
    }
}

/// Whether a commit was refused because of receipts that others would not be.
fn is_outdated(error: &Error) -> bool {
    matches!(error.code, Code::OldReceipt | Code::BadReceipt)
}
