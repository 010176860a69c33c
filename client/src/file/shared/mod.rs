//! A file that is open: one for all handles that share it, so that each sees what any of them wrote.
//!
//! What is written is taken into memory ([`Dirty`]), leaves for the dataservers when there is much of it, and is committed,
//! which makes it durable and seen by others, by [`SharedFile::sync`] or soon after the last write. Whatever takes long runs
//! in a task of its own: who drops the future of a call breaks nothing off.

mod changes;
mod files;
mod leaving;

pub(crate) use files::SharedFiles;

use self::leaving::Leaving;
use super::assembler::Assembler;
use super::dirty::Dirty;
use super::reader::Reader;
use crate::budget::Budget;
use crate::client::Client;
use bytes::{Bytes, BytesMut};
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::InodeId;
use quarry_common::limits::FILE_LEN_MAX;
use quarry_common::time::Nanos;
use quarry_common::wire::meta::Attr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// With so many fresh bytes some are to leave, and with as many as that a writer waits until they do.
const FRESH_DUE: u64 = 4 << 20;
const FRESH_MAX: u64 = 16 << 20;

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
    /// When the first and the last of it was written, and what the clock on the wall said at the last.
    written: Option<(Instant, Instant, Nanos)>,
    /// The latest time of the last change that the metaserver has shown.
    mtime_seen: Nanos,
    /// Whether a task sees to it that it is committed.
    is_looked_after: bool,
    /// Why bytes were lost that were taken: all who have the file open are told, whenever they ask. Who opens it from then on
    /// gets another one.
    failed: Option<Error>,
}

impl State {
    /// Whether it is time to commit what nobody syncs.
    fn is_due(&self, now: Instant) -> bool {
        self.written.is_some_and(|(first, last, _)| {
            now.saturating_duration_since(last) >= QUIET
                || now.saturating_duration_since(first) >= DIRTY_FOR
        })
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
            leaving: tokio::sync::Mutex::new(Leaving::new(assembler)),
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
    /// `FileTooBig`; why earlier bytes were lost.
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
                if let Some(error) = &state.failed {
                    return Err(error.clone());
                }
                // Whoever has nothing here may always begin, so that none waits for ever behind others.
                let fits = has_room && state.dirty.fresh_len() < FRESH_MAX;
                if !fits && !state.dirty.is_empty() {
                    return Ok(None);
                }
                state.dirty.write(offset, bytes.clone());
                let now = Instant::now();
                let first = state.written.map_or(now, |(first, ..)| first);
                state.written = Some((first, now, Nanos::now()));
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
                    false => file.hand_on_many(&mut leaving).await,
                };
                if let Err(error) = done {
                    tracing::warn!("{}: what was written is lost: {error}", file.name);
                    file.lose(&mut leaving, error);
                }
            }
        });
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
            if let Err(error) = file.commit_all(&mut leaving).await {
                file.lose(&mut leaving, error);
            }
            if let Some(error) = file.state().failed.clone() {
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
    /// Why bytes were lost.
    pub async fn sync(self: &Arc<Self>) -> Result<()> {
        {
            let state = self.state();
            if state.dirty.is_empty() && state.failed.is_none() {
                return Ok(());
            }
        }
        self.alone(async |_| Ok(())).await
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
        // Whoever sees that others have changed the file reads what they wrote.
        self.reader.forget_others(attr.data_version);
        self.state().mtime_seen = attr.mtime;
        attr.size = attr.size.max(end);
        if let Some((.., at)) = written {
            // With that time it is committed.
            attr.mtime = attr.mtime.max(at);
            attr.ctime = attr.ctime.max(at);
        }
        Ok(attr)
    }
}
