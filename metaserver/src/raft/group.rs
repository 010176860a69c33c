//! One Raft group on this metaserver: openraft with our log, state machine, batcher and barrier.

use super::barrier::{Barrier, pass_barrier};
use super::batcher::{Batcher, Clock, Propose};
use super::belief::Belief;
use super::fitness::Fitness;
use super::hearing::Vouched;
use super::leading::{Watch, leads, leads_not, not_leader};
use super::log::{Flushed, Growth, LogStore};
use super::machine::Machine;
use super::network::{Members, Network};
use super::snapshot::Snapshots;
use super::succession::Succession;
use super::transfer::Arrivals;
use super::types::{
    Fatal, LogId, NodeId, Pending, Types, blocking, end_process, node_id, server_id,
};
use super::{Apply, Consensus, GroupMember, Leader, Metrics};
use crate::kv::Kv;
use bytes::Bytes;
use openraft::error::{ClientWriteError, InitializeError, RaftError};
use openraft::{BasicNode, RaftMetrics, SnapshotPolicy};
use quarry_common::ids::{ServerId, ShardId};
use quarry_common::time::Nanos;
use quarry_common::wire::meta::Standing;
use quarry_common::{Code, Error, Result};
use rand::seq::IndexedRandom;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// A leader says that it is there so often; a request to a member that takes longer is repeated.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// How long one request for a vote may take, a sync or two; and how long openraft itself gives no vote after it has heard
/// a leader. When votes are asked for is decided by [`Succession`].
const VOTE_WAIT: Duration = Duration::from_millis(350);
pub(super) const OPENRAFT_LEASE: Duration = Duration::from_millis(400);

const _: () = {
    assert!(HEARTBEAT.as_millis() * 3 <= VOTE_WAIT.as_millis());
    assert!(VOTE_WAIT.as_millis() < OPENRAFT_LEASE.as_millis());
};

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
    /// The way to the other members.
    pub network: Network,
    /// Who is heard while this metaserver is in no group yet: those of whom it was told, and their addresses.
    pub told_of: BTreeMap<ServerId, String>,
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
    /// The usual way, alone: a snapshot every 20,000 entries or 256 MiB, so that a restart replays for a few
    /// seconds at most; the system's clock; a failure of the log ends the process.
    pub fn new(dir: &Path, server: ServerId, shard: ShardId) -> RaftOptions {
        RaftOptions {
            dir: dir.to_owned(),
            server,
            shard,
            network: Network::none(),
            told_of: BTreeMap::new(),
            snapshot_entries: 20_000,
            snapshot_len: 256 << 20,
            kept_entries: 1_000,
            clock: Arc::new(|| Nanos::now().micros()),
            fatal: end_process(dir),
        }
    }
}

type Inner = openraft::Raft<Types>;

/// A running member of a Raft group.
pub struct Raft {
    pub(super) inner: Inner,
    pub(super) network: Network,
    pub(super) shard: ShardId,
    pub(super) told_of: BTreeMap<ServerId, String>,
    pub(super) fitness: Arc<Fitness>,
    pub(super) vouched: Vouched,
    pub(super) belief: Belief,
    pub(super) succession: Arc<Succession>,
    pub(super) arrivals: Arrivals,
    /// The term in which this metaserver leads, while it does.
    leading: watch::Receiver<Option<u64>>,
    /// Taken away by `stop`.
    batcher: Mutex<Option<Arc<Batcher>>>,
    barrier: Barrier,
    growth: Arc<Growth>,
    pub(super) server: ServerId,
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
        let is_empty = end_at_start.is_none() && machine.applied()?.is_none();
        let fitness = Arc::new(Fitness::open(&options.dir, is_empty)?);

        let config = openraft::Config {
            cluster_name: format!("shard-{}", options.shard),
            heartbeat_interval: HEARTBEAT.as_millis() as u64,
            election_timeout_min: VOTE_WAIT.as_millis() as u64,
            election_timeout_max: OPENRAFT_LEASE.as_millis() as u64,
            enable_elect: false,
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
        let members = Members::new(options.network.clone(), options.shard, id);
        let end = log.end();
        let inner = Inner::new(id, Arc::new(config), members, log, machine.clone())
            .await
            .map_err(failed)?;
        // Until it has done something openraft says of itself that it has seen no term: others would take that for an answer.
        inner.with_raft_state(|_| ()).await.map_err(failed)?;
        if machine.membership()?.membership().voter_ids().eq([id]) {
            // Nobody else can lead: there is no need to wait for a timeout.
            inner.trigger().elect().await.map_err(failed)?;
        }
        let stopped = CancellationToken::new();
        let (leads, leading) = watch::channel(None);
        // A new log is no reason to ask for votes either. But who begins a group may be restarted before the others were
        // there: its log then names the members, and only those whose log is as short vote for it.
        let may_stand = !fitness.is_new() || end_at_start.is_some_and(|last| last.index == 0);
        let succession = Arc::new(Succession {
            inner: inner.clone(),
            network: options.network.clone(),
            shard: options.shard,
            fitness: Arc::clone(&fitness),
            end,
            may_stand: AtomicBool::new(may_stand),
            known: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&succession).run(stopped.clone()));
        tokio::spawn(
            Watch {
                inner: inner.clone(),
                growth: Arc::clone(&growth),
                fitness: Arc::clone(&fitness),
                succession: Arc::clone(&succession),
                end_at_start,
                leads,
                fatal: options.fatal,
                stopped: stopped.clone(),
            }
            .run(),
        );
        let proposals = Arc::new(Proposals {
            inner: inner.clone(),
            leading: leading.clone(),
        });
        let barrier = {
            let (inner, leading) = (inner.clone(), leading.clone());
            Barrier::start(move || Box::pin(pass_barrier(inner.clone(), leading.clone())))
        };
        Ok(Raft {
            batcher: Mutex::new(Some(Arc::new(Batcher::start(proposals, options.clock)))),
            barrier,
            growth,
            server: options.server,
            network: options.network,
            shard: options.shard,
            told_of: options.told_of,
            fitness,
            vouched: Vouched::default(),
            belief: Belief::default(),
            succession,
            arrivals: Arrivals::default(),
            leading,
            end_at_start,
            stopped,
            machine: Mutex::new(Some(machine)),
            closed: Mutex::new(Some(closed)),
            inner,
        })
    }

    /// Makes a group of these members, of which this metaserver is one: the others wait to be called.
    /// Fails with `Exists` when it is in a group already.
    pub async fn init(&self, members: &[(ServerId, String)]) -> Result<()> {
        let members: BTreeMap<NodeId, BasicNode> = members
            .iter()
            .map(|(id, address)| (node_id(*id), BasicNode::new(address)))
            .collect();
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
        // Who begins a group has nothing to catch up with.
        self.succession.allow(true);
        Ok(())
    }

    /// Whether this metaserver is a member of a group, or has been asked for a vote by one.
    pub async fn is_initialised(&self) -> Result<bool> {
        self.inner.is_initialized().await.map_err(failed)
    }

    /// As `is_alone`, asked through Raft's own queue: right even before it has said anything of itself.
    pub async fn is_sole_voter(&self) -> Result<bool> {
        let own = node_id(self.server);
        let asked = self.inner.with_raft_state(move |state| {
            let members = state.membership_state.effective().membership();
            members.voter_ids().eq([own])
        });
        asked.await.map_err(failed)
    }

    /// What openraft says now. Cheap.
    pub(super) fn metrics_now(&self) -> RaftMetrics<NodeId, BasicNode> {
        self.inner.metrics().borrow().clone()
    }

    /// Whether this metaserver is the only one that votes. One that votes can only be added by it, and can only
    /// lead without it after two more changes of members, which it has seen by then.
    fn is_alone(&self) -> bool {
        let metrics = self.inner.metrics();
        let metrics = metrics.borrow();
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters.next() == Some(node_id(self.server)) && voters.next().is_none()
    }

    /// The state machine.
    ///
    /// # Errors
    /// `Stopping`.
    pub(super) fn machine(&self) -> Result<Machine> {
        let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        machine.clone().ok_or_else(stopping)
    }

    /// Returns when this metaserver can serve as the leader; `Unreachable` after `timeout`.
    pub async fn wait_until_leading(&self, timeout: Duration) -> Result<()> {
        let mut leading = self.leading.clone();
        let leads = leading.wait_for(Option::is_some);
        match tokio::time::timeout(timeout, leads).await {
            Ok(Ok(_)) => Ok(()),
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

/// What to do about a metaserver that has lost something.
pub(super) const REPLACE: &str = "while the others run, remove it with 'quarry metaserver remove ID' and make a new \
     one with 'quarry metaserver add'; if it is the only one, restore it from a backup";

/// Checks that log and state meet: nothing may be missing at the end of either (DESIGN §5.1).
fn check_ends(log: &LogStore, machine: &Machine, dir: &Path) -> Result<()> {
    let applied = machine.applied()?;
    let index =
        |id: Option<LogId>| id.map_or("nothing".to_owned(), |id| format!("entry {}", id.index));
    let lost = |what: String| {
        Err(Error::new(
            Code::ChecksumMismatch,
            format!(
                "{what}; the metaserver with its files in {} must not vote: {REPLACE}",
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

/// The way of entries into openraft.
struct Proposals {
    inner: Inner,
    leading: watch::Receiver<Option<u64>>,
}

impl Propose for Proposals {
    fn propose(&self, entry: Bytes) -> Pending<'_, Pending<'static, Bytes>> {
        Box::pin(async move {
            let mut leading = self.leading.clone();
            let Some(term) = *leading.borrow_and_update() else {
                return Err(leads_not(&self.inner));
            };
            let own = self.inner.metrics().borrow().id;
            let answer = self.inner.client_write_ff(entry).await.map_err(failed)?;
            let answer: Pending<'static, Bytes> = Box::pin(async move {
                let answered = async {
                    match answer.await {
                        Ok(Ok(response)) => Ok(response.data),
                        Ok(Err(ClientWriteError::ForwardToLeader(leader))) => Err(not_leader(
                            own,
                            leader.leader_id,
                            leader.leader_node.as_ref(),
                        )),
                        Ok(Err(ClientWriteError::ChangeMembershipError(error))) => Err(Error::bug(
                            format!("a command was taken for a change of members: {error}"),
                        )),
                        Err(_) => Err(stopping()),
                    }
                };
                // An entry of a leader that was deposed may be agreed on by others, and be lost, and be answered by
                // nobody here: for example when a snapshot brings its effects.
                tokio::select! {
                    biased;
                    answer = answered => answer,
                    _ = leading.wait_for(|now| *now != Some(term)) => Err(Error::new(
                        Code::Disconnected,
                        "this metaserver does not lead any more: what was asked may or may not be done",
                    )),
                }
            });
            Ok(answer)
        })
    }
}

pub(super) fn failed(error: openraft::error::Fatal<NodeId>) -> Error {
    match error {
        openraft::error::Fatal::Stopped => stopping(),
        openraft::error::Fatal::Panicked => Error::bug("Raft panicked"),
        openraft::error::Fatal::StorageError(error) => {
            Error::new(Code::Io, format!("Raft can not go on: {error}")).with_source(error)
        }
    }
}

pub(super) fn stopping() -> Error {
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
        if self.stopped.is_cancelled() {
            return Box::pin(std::future::ready(Err(stopping())));
        }
        // The only member can not lose its lead, and answers only what is applied: there is
        // nothing to wait for, least of all for the sync that openraft may be awaiting.
        if self.is_alone() && self.is_leader() {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(self.barrier.wait())
    }

    fn leader(&self) -> Option<Leader> {
        // Who was removed hears of no leader any more: it names now one and now another, who send on whom it sends to them.
        let others = self.left_to();
        if let Some(other) = others.choose(&mut rand::rng()) {
            return Some(other.clone());
        }
        let metrics = self.metrics_now();
        let id = metrics.current_leader?;
        if id == metrics.id && !leads(&metrics, self.end_at_start) {
            return None;
        }
        let node = metrics.membership_config.membership().get_node(&id)?;
        Some(Leader {
            id: server_id(id),
            address: node.addr.clone(),
        })
    }

    fn leading(&self) -> watch::Receiver<Option<u64>> {
        self.leading.clone()
    }

    fn members(&self) -> Vec<GroupMember> {
        self.members_now()
    }

    fn members_at(&self) -> Option<u64> {
        self.members_at_now()
    }

    fn add_member(&self, id: ServerId, address: String) -> Pending<'_, ()> {
        Box::pin(self.add(id, address))
    }

    fn announce<'a>(&'a self, address: &'a str) -> Pending<'a, ()> {
        Box::pin(self.tell_address(address))
    }

    fn remove_member(&self, id: ServerId) -> Pending<'_, ()> {
        Box::pin(self.remove(id))
    }

    fn settle_members(&self) -> Pending<'_, ()> {
        Box::pin(self.settle())
    }

    fn standings(&self) -> Pending<'_, Vec<(ServerId, Standing)>> {
        Box::pin(async { Ok(self.ask_standings().await) })
    }

    fn is_leader(&self) -> bool {
        self.leading.borrow().is_some()
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
