//! One Raft group on this metaserver: openraft with our log, state machine, batcher and barrier.

use super::barrier::Barrier;
use super::batcher::{Batcher, Clock, Propose};
use super::log::{Flushed, Growth, LogStore};
use super::machine::Machine;
use super::network::NoPeers;
use super::snapshot::Snapshots;
use super::types::{
    Fatal, LogId, NodeId, Pending, Types, blocking, end_process, node_id, server_id,
};
use super::{Apply, Consensus, Leader, Metrics};
use crate::kv::Kv;
use bytes::Bytes;
use openraft::error::{
    CheckIsLeaderError, ClientWriteError, ForwardToLeader, InitializeError, RaftError,
};
use openraft::{BasicNode, RaftMetrics, ServerState, SnapshotPolicy};
use quarry_common::ids::{ServerId, ShardId};
use quarry_common::time::Nanos;
use quarry_common::{Code, Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How a Raft group runs on this metaserver.
#[derive(Clone)]
pub struct RaftOptions {
    /// Directory of the log and of the snapshots; the state is where its [`Kv`] is, best
    /// on the same file system, since snapshots link its files.
    pub dir: PathBuf,
    /// This metaserver.
    pub server: ServerId,
    /// The shard of this group.
    pub shard: ShardId,
    /// A snapshot is made after this many entries: what a restart replays at most.
    pub snapshot_entries: u64,
    /// A snapshot is made after this many bytes of log, if that comes first.
    pub snapshot_len: u64,
    /// Entries kept in the log before a snapshot, for members that are a little behind.
    pub kept_entries: u64,
    /// The wall clock in microseconds since 1970.
    pub clock: Clock,
    /// What to do when the log can not be written or the state not be applied.
    pub fatal: Fatal,
}

impl RaftOptions {
    /// The usual way: a snapshot every 20,000 entries or 256 MiB, so that a restart replays for a few
    /// seconds at most; the system's clock; a failure of the log ends the process.
    pub fn new(dir: &Path, server: ServerId, shard: ShardId) -> RaftOptions {
        RaftOptions {
            dir: dir.to_owned(),
            server,
            shard,
            snapshot_entries: 20_000,
            snapshot_len: 256 << 20,
            kept_entries: 1_000,
            clock: Arc::new(|| Nanos::now().micros()),
            fatal: end_process(),
        }
    }
}

type Inner = openraft::Raft<Types>;

/// A running member of a Raft group.
pub struct Raft {
    inner: Inner,
    /// Taken away by `stop`.
    batcher: Mutex<Option<Arc<Batcher>>>,
    barrier: Barrier,
    growth: Arc<Growth>,
    server: ServerId,
    /// This metaserver is the only member. There is no way yet to add others; one must clear
    /// this before it proposes the change.
    alone: AtomicBool,
    /// The last entry of the log when it was opened.
    end_at_start: Option<LogId>,
    stopped: CancellationToken,
    /// Taken away by `stop`.
    machine: Mutex<Option<Machine>>,
    /// Ends when openraft's tasks have let go of log and state; taken away by `stop`.
    closed: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Raft {
    /// Opens log and snapshots, and takes part in the group if it was initialised before.
    ///
    /// `kv` was just opened: what it holds is durable. Fails with `ChecksumMismatch` when the log is
    /// damaged or ends before what the state holds, with `Configuration` when the directory
    /// belongs to another metaserver or shard.
    pub async fn start(
        options: RaftOptions,
        kv: Arc<dyn Kv>,
        apply: Arc<dyn Apply>,
    ) -> Result<Raft> {
        let flushed = Arc::new(Flushed::default());
        let growth = Arc::new(Growth::new(options.snapshot_len));
        let (open, closed) = mpsc::channel(1);
        let (log, machine) = blocking(|| {
            let snapshots = Snapshots::open(&options.dir.join("snapshots"))?;
            let machine = Machine::open(
                kv,
                apply,
                snapshots,
                Arc::clone(&flushed),
                Arc::clone(&growth),
                Arc::clone(&options.fatal),
                open.clone(),
            )?;
            let log = LogStore::open(
                &options.dir.join("log"),
                (options.server, options.shard),
                flushed,
                Arc::clone(&growth),
                Arc::clone(&options.fatal),
                open,
            )?;
            Ok::<_, Error>((log, machine))
        })?;
        check_ends(&log, &machine, &options.dir)?;
        let end_at_start = log.last();

        let config = openraft::Config {
            cluster_name: format!("shard-{}", options.shard),
            heartbeat_interval: 100,
            election_timeout_min: 500,
            election_timeout_max: 1_000,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_entries),
            max_in_snapshot_log_to_keep: options.kept_entries,
            // A purge is one synced write: not for every entry.
            purge_batch_size: 64.min(options.snapshot_entries),
            ..openraft::Config::default()
        };
        let config = config.validate().map_err(|error| {
            Error::new(
                Code::Configuration,
                format!("the options of Raft can not work: {error}"),
            )
        })?;
        let id = node_id(options.server);
        let inner = Inner::new(id, Arc::new(config), NoPeers, log, machine.clone())
            .await
            .map_err(failed)?;
        let alone = machine.membership()?.membership().voter_ids().eq([id]);
        if alone {
            // Nobody else can lead: there is no need to wait for a timeout.
            inner.trigger().elect().await.map_err(failed)?;
        }
        let stopped = CancellationToken::new();
        tokio::spawn(watch(
            inner.clone(),
            Arc::clone(&growth),
            options.fatal,
            stopped.clone(),
        ));
        let proposals = Arc::new(Proposals(inner.clone()));
        let barrier = {
            let inner = inner.clone();
            Barrier::start(move || {
                let inner = inner.clone();
                Box::pin(async move {
                    inner
                        .ensure_linearizable()
                        .await
                        .map(drop)
                        .map_err(barrier_failed)
                })
            })
        };
        Ok(Raft {
            batcher: Mutex::new(Some(Arc::new(Batcher::start(proposals, options.clock)))),
            barrier,
            growth,
            server: options.server,
            alone: AtomicBool::new(alone),
            end_at_start,
            stopped,
            machine: Mutex::new(Some(machine)),
            closed: Mutex::new(Some(closed)),
            inner,
        })
    }

    /// Makes a group of which this metaserver, reached at `address`, is the only member.
    /// Fails with `Exists` when it is in a group already.
    pub async fn init(&self, address: &str) -> Result<()> {
        let members = BTreeMap::from([(node_id(self.server), BasicNode::new(address))]);
        self.inner
            .initialize(members)
            .await
            .map_err(|error| match error {
                RaftError::APIError(InitializeError::NotAllowed(_)) => Error::new(
                    Code::Exists,
                    format!(
                        "metaserver {} is in a group already: it is not initialised again",
                        self.server
                    ),
                ),
                RaftError::APIError(error) => Error::bug(format!("a group was not made: {error}")),
                RaftError::Fatal(error) => failed(error),
            })?;
        self.alone.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether this metaserver is a member of a group.
    pub async fn is_initialised(&self) -> Result<bool> {
        self.inner.is_initialized().await.map_err(failed)
    }

    /// Returns when this metaserver can serve as the leader; `Unreachable` after `timeout`.
    pub async fn wait_until_leading(&self, timeout: Duration) -> Result<()> {
        let mut metrics = self.inner.metrics();
        let leading = metrics.wait_for(|metrics| {
            leads(metrics, self.end_at_start) || metrics.running_state.is_err()
        });
        match tokio::time::timeout(timeout, leading).await {
            Ok(Ok(metrics)) => metrics.running_state.clone().map_err(failed),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Err(Error::new(
                Code::Unreachable,
                format!("metaserver {} does not lead after {timeout:?}", self.server),
            )),
        }
    }

    async fn make_snapshot(&self) -> Result<()> {
        let wanted = self.inner.metrics().borrow().last_applied;
        let mut metrics = self.inner.metrics();
        loop {
            if metrics.borrow_and_update().snapshot >= wanted {
                return Ok(());
            }
            // Asked again after each change, since one that runs already may not hold `wanted`.
            self.inner.trigger().snapshot().await.map_err(failed)?;
            metrics.changed().await.map_err(|_| stopping())?;
        }
    }

    async fn shut_down(&self) -> Result<()> {
        self.stopped.cancel();
        take(&self.batcher);
        let joined = self.inner.shutdown().await;
        joined.map_err(|error| Error::bug(format!("Raft panicked: {error}")))?;
        if let Some(machine) = take(&self.machine) {
            blocking(|| machine.flush())?;
        }
        let closed = take(&self.closed);
        if let Some(mut closed) = closed {
            // Nothing is ever sent.
            closed.recv().await;
        }
        Ok(())
    }
}

fn take<T>(mutex: &Mutex<Option<T>>) -> Option<T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Checks that log and state meet: nothing may be missing at the end of either (DESIGN §5.1).
fn check_ends(log: &LogStore, machine: &Machine, dir: &Path) -> Result<()> {
    let applied = machine.applied()?;
    let index =
        |id: Option<LogId>| id.map_or("nothing".to_owned(), |id| format!("entry {}", id.index));
    let lost = |what: String| {
        Err(Error::new(
            Code::ChecksumMismatch,
            format!(
                "{what}; a metaserver with its files in {} must not vote: rebuild it from the \
                 others, or restore it from a backup",
                dir.display()
            ),
        ))
    };
    // The log is purged only up to what a flush of the state holds.
    if applied < log.purged() {
        return lost(format!(
            "the state holds up to {}, and the Raft log begins after {}: a part of the state was lost",
            index(applied),
            index(log.purged())
        ));
    }
    // The log is synced before anything of it is applied. (Installing a snapshot replaces the
    // state first; then the newest snapshot holds as much as the state.)
    if log.last() < applied && machine.snapshot_end() < applied {
        return lost(format!(
            "the Raft log ends with {}, and the state holds up to {}: a part of the log was lost",
            index(log.last()),
            index(applied)
        ));
    }
    Ok(())
}

/// Ends the process when Raft has failed, and asks for a snapshot when the log has grown.
async fn watch(inner: Inner, growth: Arc<Growth>, fatal: Fatal, stopped: CancellationToken) {
    let mut metrics = inner.metrics();
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            () = growth.enough.notified() => {
                if inner.trigger().snapshot().await.is_err() {
                    return;
                }
            }
            changed = metrics.changed() => {
                let state = metrics.borrow_and_update().running_state.clone();
                match state {
                    Ok(()) if changed.is_ok() => {}
                    Err(error) if !stopped.is_cancelled() => return fatal(&failed(error)),
                    Ok(()) | Err(_) => return,
                }
            }
        }
    }
}

/// The way of entries into openraft.
struct Proposals(Inner);

impl Propose for Proposals {
    fn propose(&self, entry: Bytes) -> Pending<'_, Pending<'static, Bytes>> {
        Box::pin(async move {
            let answer = self.0.client_write_ff(entry).await.map_err(failed)?;
            let answer: Pending<'static, Bytes> = Box::pin(async move {
                match answer.await {
                    Ok(Ok(response)) => Ok(response.data),
                    Ok(Err(ClientWriteError::ForwardToLeader(leader))) => Err(not_leader(&leader)),
                    Ok(Err(ClientWriteError::ChangeMembershipError(error))) => Err(Error::bug(
                        format!("a command was taken for a change of members: {error}"),
                    )),
                    Err(_) => Err(stopping()),
                }
            });
            Ok(answer)
        })
    }
}

/// Whether this node leads and has applied everything that was agreed before: an entry of its own
/// term. After a restart openraft may resume the term in which it led before, and the state
/// may hold entries of that term while others wait to be replayed: so the end of the log
/// at the start must be reached as well.
fn leads(metrics: &RaftMetrics<NodeId, BasicNode>, end_at_start: Option<LogId>) -> bool {
    let is_own = |applied: LogId| applied.leader_id.term == metrics.current_term;
    metrics.state == ServerState::Leader
        && metrics.last_applied.is_some_and(is_own)
        && metrics.last_applied >= end_at_start
}

fn not_leader(to: &ForwardToLeader<NodeId, BasicNode>) -> Error {
    let text = match (&to.leader_id, &to.leader_node) {
        (Some(id), Some(node)) => {
            format!(
                "this metaserver does not lead; metaserver {} at {} does",
                server_id(*id),
                node.addr
            )
        }
        (Some(id), None) => format!(
            "this metaserver does not lead; metaserver {} does",
            server_id(*id)
        ),
        (None, _) => "this metaserver does not lead, and nobody is known to: try again".to_owned(),
    };
    Error::new(Code::NotLeader, text)
}

fn barrier_failed(error: RaftError<NodeId, CheckIsLeaderError<NodeId, BasicNode>>) -> Error {
    match error {
        RaftError::APIError(CheckIsLeaderError::ForwardToLeader(leader)) => not_leader(&leader),
        RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(error)) => Error::new(
            Code::Unreachable,
            format!("too few metaservers can be reached: {error}; try again"),
        ),
        RaftError::Fatal(error) => failed(error),
    }
}

fn failed(error: openraft::error::Fatal<NodeId>) -> Error {
    match error {
        openraft::error::Fatal::Stopped => stopping(),
        openraft::error::Fatal::Panicked => Error::bug("Raft panicked"),
        openraft::error::Fatal::StorageError(error) => {
            Error::new(Code::Io, format!("Raft can not go on: {error}")).with_source(error)
        }
    }
}

fn stopping() -> Error {
    Error::new(
        Code::Stopping,
        "this metaserver is stopping: what was asked may or may not be done",
    )
}

impl Consensus for Raft {
    fn propose(&self, command: Bytes) -> Pending<'_, Bytes> {
        let batcher = self
            .batcher
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Box::pin(async move { batcher.ok_or_else(stopping)?.propose(command).await })
    }

    fn read_barrier(&self) -> Pending<'_, ()> {
        // The only member can not lose its lead, and answers only what is applied: there is
        // nothing to wait for, least of all for the sync that openraft may be awaiting.
        if self.alone.load(Ordering::Acquire) && self.is_leader() && !self.stopped.is_cancelled() {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(self.barrier.wait())
    }

    fn leader(&self) -> Option<Leader> {
        let metrics = self.inner.metrics();
        let metrics = metrics.borrow();
        let id = metrics.current_leader?;
        let node = metrics.membership_config.membership().get_node(&id)?;
        Some(Leader {
            id: server_id(id),
            address: node.addr.clone(),
        })
    }

    fn is_leader(&self) -> bool {
        leads(&self.inner.metrics().borrow(), self.end_at_start)
    }

    fn snapshot(&self) -> Pending<'_, ()> {
        Box::pin(self.make_snapshot())
    }

    fn stop(&self) -> Pending<'_, ()> {
        Box::pin(self.shut_down())
    }

    fn metrics(&self) -> Metrics {
        let metrics = self.inner.metrics();
        let metrics = metrics.borrow();
        Metrics {
            term: metrics.current_term,
            leader: metrics.current_leader.map(server_id),
            is_leader: leads(&metrics, self.end_at_start),
            last_log: metrics.last_log_index,
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: metrics.snapshot.map(|id| id.index),
            purged: metrics.purged.map(|id| id.index),
            log_len: self.growth.len(),
        }
    }
}
