//! The session: opened at the first mutation or when something is read for long, renewed in the background, closed
//! at the end.

pub mod core;
pub mod ranges;

use self::core::{Core, Full, Ticket};
use self::ranges::{OpenChunk, Ranges};
use crate::meta::{MetaLink, unexpected};
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{ChunkId, InodeId, PoolId, SessionId};
use quarry_common::limits::{
    OPEN_INODES_MAX, OPEN_REQUESTS_MAX, SESSION_LEASE, SESSION_RENEW_EVERY,
};
use quarry_common::wire::meta::{Caller, MetaBody, MetaReply, Op, OpReply, Renewal};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

/// Ids in one grant: enough for 256 GiB of large chunks, or some seconds of small files.
const GRANT_COUNT: u32 = 4_096;

/// How long the end of a session may take; after it the metaserver ends it by its lease.
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);

/// Who has an inode open for so long opens a session, which announces it. What is removed meanwhile stays for a lease
/// in any case, so that short reads need none.
const HELD_LONG: Duration = Duration::from_secs(10);

const _: () =
    assert!(HELD_LONG.as_secs() + SESSION_RENEW_EVERY.as_secs() < SESSION_LEASE.as_secs() / 2);

/// The session of a client.
pub struct Sessions {
    state: Arc<State>,
    opening: Semaphore,
    keeper: Mutex<Option<Keeper>>,
}

/// What the requests and the keeper share.
struct State {
    meta: Arc<MetaLink>,
    core: Mutex<Core>,
    answered: Notify,
    ranges: Arc<Mutex<Ranges>>,
    granted: Notify,
    open_inodes: Mutex<BTreeMap<InodeId, u32>>,
}

/// The task that renews; it closes the session when `stop` is dropped.
struct Keeper {
    stop: watch::Sender<()>,
    task: JoinHandle<()>,
}

/// A number in use; gives it back when the request is over or was dropped.
struct Open<'a> {
    state: &'a State,
    ticket: Ticket,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.state.core().handle_answered(&self.ticket);
        self.state.answered.notify_waiters();
    }
}

/// An inode that is announced as open until this is dropped.
pub struct OpenInode {
    state: Arc<State>,
    inode: InodeId,
    _session: AbortOnDropHandle<()>,
}

impl Drop for OpenInode {
    fn drop(&mut self) {
        let mut open = self.state.open_inodes();
        if let Some(count) = open.get_mut(&self.inode) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.inode);
            }
        }
    }
}

impl State {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect("nobody panics with this lock")
    }

    fn ranges(&self) -> MutexGuard<'_, Ranges> {
        self.ranges.lock().expect("nobody panics with this lock")
    }

    fn open_inodes(&self) -> MutexGuard<'_, BTreeMap<InodeId, u32>> {
        self.open_inodes
            .lock()
            .expect("nobody panics with this lock")
    }

    fn handle_lost(&self, session: SessionId) {
        if self.core().handle_lost(session) {
            tracing::warn!("the session was lost; what it had not committed is written again");
            self.ranges().handle_lost();
            self.answered.notify_waiters();
        }
    }

    async fn renew(&self, session: SessionId) {
        let marks = self.ranges().marks();
        let open = self.open_inodes().keys().copied().collect();
        let renewal = Renewal {
            session,
            open,
            marks: marks.marks.clone(),
            open_chunks: marks.open.clone(),
        };
        let deadline = Instant::now() + SESSION_RENEW_EVERY;
        let body = MetaBody::RenewSession(renewal);
        match self.meta.call(None, body, deadline).await {
            Ok(_) => self.ranges().handle_reported(&marks),
            Err(error) if is_lost(&error) => self.handle_lost(session),
            Err(error) => tracing::warn!(%error, "the session could not be renewed"),
        }
    }
}

/// Counts an inode as open once more, of at most so many.
fn announce(open: &mut BTreeMap<InodeId, u32>, inode: InodeId, max: usize) -> Result<()> {
    if open.len() >= max && !open.contains_key(&inode) {
        let text = format!(
            "this client has {} files open, which are the most: close some, or open them with another client",
            open.len()
        );
        return Err(Error::new(Code::Overloaded, text));
    }
    *open.entry(inode).or_default() += 1;
    Ok(())
}

fn is_lost(error: &Error) -> bool {
    matches!(error.code, Code::SessionLost | Code::UnknownOutcome)
}

impl Sessions {
    /// No session yet.
    pub fn new(meta: Arc<MetaLink>) -> Sessions {
        let state = State {
            meta,
            core: Mutex::default(),
            answered: Notify::new(),
            ranges: Arc::default(),
            granted: Notify::new(),
            open_inodes: Mutex::default(),
        };
        Sessions {
            state: Arc::new(state),
            opening: Semaphore::new(1),
            keeper: Mutex::new(None),
        }
    }

    /// Announces an inode as open with the renewals, of a session that is opened for it if it takes long.
    ///
    /// # Errors
    /// `Overloaded`: so many are open that no more can be announced.
    pub fn hold(self: &Arc<Self>, inode: InodeId) -> Result<OpenInode> {
        announce(&mut self.state.open_inodes(), inode, OPEN_INODES_MAX)?;
        let sessions = self.clone();
        let keeping = tokio::spawn(async move {
            loop {
                tokio::time::sleep(HELD_LONG).await;
                // One that was lost is followed by another one.
                if let Err(error) = sessions.session(Instant::now() + HELD_LONG).await {
                    tracing::debug!(%error, "what is read can not be announced as open");
                }
            }
        });
        Ok(OpenInode {
            state: self.state.clone(),
            inode,
            _session: AbortOnDropHandle::new(keeping),
        })
    }

    async fn session(&self, deadline: Instant) -> Result<SessionId> {
        if let Some(session) = self.state.core().session() {
            return Ok(session);
        }
        let _one = self.opening.acquire().await.expect("it is never closed");
        if let Some(session) = self.state.core().session() {
            return Ok(session);
        }
        let reply = self.state.meta.call(None, MetaBody::OpenSession, deadline);
        let MetaReply::Session { session, .. } = reply.await? else {
            return Err(unexpected("a session"));
        };
        self.state.core().handle_opened(session);
        let mut keeper = self.keeper.lock().expect("nobody panics with this lock");
        if keeper.is_none() {
            *keeper = Some(spawn_keeper(self.state.clone()));
        }
        Ok(session)
    }

    async fn begin(&self, deadline: Instant) -> Result<Open<'_>> {
        loop {
            self.session(deadline).await?;
            let answered = self.state.answered.notified();
            tokio::pin!(answered);
            // Registered before the look, so that an answer in between is not missed.
            answered.as_mut().enable();
            let begun = self.state.core().begin(OPEN_REQUESTS_MAX);
            match begun {
                None => continue,
                Some(Ok(ticket)) => {
                    return Ok(Open {
                        state: &self.state,
                        ticket,
                    });
                }
                Some(Err(Full)) => {
                    let wait = tokio::time::timeout_at(deadline.into(), answered);
                    if wait.await.is_err() {
                        let text = "too many requests of this client have no answer yet";
                        return Err(Error::new(Code::Overloaded, text));
                    }
                }
            }
        }
    }

    /// Changes something exactly once, whatever happens to connections and leaders meanwhile.
    ///
    /// # Errors
    /// The operation's own; `UnknownOutcome` when the session was lost, or the deadline passed,
    /// before there was an answer, and it may have been done.
    pub async fn mutate(
        &self,
        caller: Option<&Caller>,
        op: Op,
        deadline: Instant,
    ) -> Result<OpReply> {
        loop {
            let open = self.begin(deadline).await?;
            let Ticket { session, number } = open.ticket;
            // Said anew each time: answers that the metaserver keeps may be why it refused.
            let body = || MetaBody::Mutate {
                session,
                number,
                answered_below: self.state.core().answered_below(&open.ticket),
                op: op.clone(),
            };
            match self.state.meta.call_again(caller, body, deadline).await {
                Ok(MetaReply::Done(reply)) => return Ok(reply),
                Ok(_) => return Err(unexpected("the outcome of an operation")),
                Err(error) if error.code == Code::SessionLost => {
                    self.state.handle_lost(session);
                    // No attempt of ours was carried out, nor will one be: the metaserver, whose log has the end of the
                    // session, answers `UnknownOutcome` for every number that may have been before it.
                    if Instant::now() >= deadline {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes a chunk id of a pool for which `score` is least.
    ///
    /// # Errors
    /// As any mutation, when a new range is needed.
    pub async fn take_chunk(
        self: &Arc<Self>,
        pool: PoolId,
        score: impl Fn(ChunkId) -> u32,
        deadline: Instant,
    ) -> Result<OpenChunk> {
        loop {
            self.session(deadline).await?;
            let granted = self.state.granted.notified();
            tokio::pin!(granted);
            granted.as_mut().enable();
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.map_or(0, |since| since.as_secs());
            let taken = ranges::take(&self.state.ranges, pool, now, &score);
            let refill = self.state.ranges().begin_refill(pool);
            match (taken, refill) {
                (Some(chunk), true) => {
                    let sessions = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = sessions.grant(pool, deadline).await {
                            tracing::warn!(%error, "no new chunk ids");
                        }
                    });
                    return Ok(chunk);
                }
                (Some(chunk), false) => return Ok(chunk),
                (None, true) => self.grant(pool, deadline).await?,
                (None, false) => {
                    if tokio::time::timeout_at(deadline.into(), granted)
                        .await
                        .is_err()
                    {
                        return Err(no_ids(pool));
                    }
                }
            }
        }
    }

    async fn grant(&self, pool: PoolId, deadline: Instant) -> Result<()> {
        /// However the request ends, the next one who needs ids may ask again.
        struct Asked<'a>(&'a State, PoolId);
        impl Drop for Asked<'_> {
            fn drop(&mut self) {
                self.0.ranges().handle_refill_failed(self.1);
                self.0.granted.notify_waiters();
            }
        }
        let _asked = Asked(&self.state, pool);
        let before = self.session(deadline).await?;
        let op = Op::GrantRange {
            pool,
            count: GRANT_COUNT,
        };
        match self.mutate(None, op, deadline).await {
            Ok(OpReply::Range(grant)) => {
                // A grant of a session that was lost meanwhile is of no use.
                if self.state.core().session() == Some(before) {
                    self.state.ranges().handle_granted(grant);
                }
                Ok(())
            }
            Ok(_) => Err(unexpected("chunk ids")),
            // Ids of a lost session harm nobody: the caller asks again in a new one.
            Err(error) if error.code == Code::UnknownOutcome && Instant::now() < deadline => {
                self.state.handle_lost(before);
                Ok(())
            }
            Err(error) if error.code == Code::UnknownOutcome => {
                Err(no_ids(pool).with_source(error))
            }
            Err(error) => Err(error),
        }
    }

    /// The ids of a pool that are left are not written with any more.
    pub fn discard_ranges(&self, pool: PoolId) {
        self.state.ranges().discard(pool);
    }

    /// Ends the session, if there is one; the metaserver then forgets what it held at once.
    pub async fn close(&self) {
        let keeper = self
            .keeper
            .lock()
            .expect("nobody panics with this lock")
            .take();
        if let Some(Keeper { stop, task }) = keeper {
            drop(stop);
            if let Err(error) = task.await {
                tracing::warn!(%error, "the task that renews the session failed");
            }
        }
    }
}

fn no_ids(pool: PoolId) -> Error {
    let text = format!("no chunk ids of pool {pool} were granted in time");
    Error::new(Code::Unreachable, text)
}

fn spawn_keeper(state: Arc<State>) -> Keeper {
    let (stop, mut stopped) = watch::channel(());
    let task = tokio::spawn(async move {
        let renewing = async {
            loop {
                tokio::time::sleep(SESSION_RENEW_EVERY).await;
                let session = state.core().session();
                if let Some(session) = session {
                    state.renew(session).await;
                }
            }
        };
        // A renewal that gets no answer must not hold up the end.
        tokio::select! {
            _ = stopped.changed() => {}
            () = renewing => {}
        }
        let Some(session) = state.core().session() else {
            return;
        };
        state.core().handle_lost(session);
        state.ranges().handle_lost();
        state.answered.notify_waiters();
        let deadline = Instant::now() + CLOSE_PATIENCE;
        let body = MetaBody::CloseSession(session);
        if let Err(error) = state.meta.call(None, body, deadline).await {
            tracing::debug!(%error, "the session ends with its lease");
        }
    });
    Keeper { stop, task }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_inodes_are_open_than_can_be_announced() {
        let mut open = BTreeMap::new();
        for inode in [1, 2, 1] {
            announce(&mut open, InodeId(inode), 2).unwrap();
        }
        let refused = announce(&mut open, InodeId(3), 2).unwrap_err();
        assert_eq!(refused.code, Code::Overloaded);
        assert!(refused.text.contains("2 files open"), "{refused}");
        announce(&mut open, InodeId(2), 2).unwrap();
        assert_eq!(open, BTreeMap::from([(InodeId(1), 2), (InodeId(2), 2)]));
    }
}
