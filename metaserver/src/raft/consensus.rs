//! All that the rest of the metaserver sees of Raft.

use super::types::Pending;
use bytes::Bytes;
use quarry_common::ids::ServerId;

/// Who leads, and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The metaserver.
    pub id: ServerId,
    /// Its address as the members know it: `host:port`.
    pub address: String,
}

/// What a Raft group says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// The term, which grows with every election.
    pub term: u64,
    /// Who leads, if that is known.
    pub leader: Option<ServerId>,
    /// Whether this metaserver leads.
    pub is_leader: bool,
    /// Index of the last entry of the log.
    pub last_log: Option<u64>,
    /// Index of the last entry in the state.
    pub applied: Option<u64>,
    /// Index of the last entry in the newest snapshot: what a restart need not replay.
    pub snapshot: Option<u64>,
    /// Index of the last entry that was purged from the log.
    pub purged: Option<u64>,
    /// Bytes in the log since that snapshot began.
    pub log_len: u64,
}

/// The agreed order of commands of one shard.
pub trait Consensus: Send + Sync + 'static {
    /// Puts a command into the agreed order and returns its answer when it is durable and applied.
    ///
    /// Fails with `NotLeader`, whose text names the leader, with `Overloaded` when too much
    /// waits, with `TooBig`, and with `Stopping` or `Disconnected` when it is not known whether it
    /// was done.
    fn propose(&self, command: Bytes) -> Pending<'_, Bytes>;

    /// Returns when this metaserver has shown, after the call, that it leads, and its state holds
    /// everything that was answered before the call: what is read then is linearizable. All
    /// that wait share one barrier. Fails as [`Consensus::propose`] does.
    fn read_barrier(&self) -> Pending<'_, ()>;

    /// Who leads, if that is known.
    fn leader(&self) -> Option<Leader>;

    /// Whether this metaserver leads and has applied what its predecessors agreed on. Without a
    /// barrier it may have lost that by the time the caller looks.
    fn is_leader(&self) -> bool;

    /// Makes a snapshot of everything applied so far, after which the log before it may be purged.
    fn snapshot(&self) -> Pending<'_, ()>;

    /// Stops taking part, makes the state durable, and returns when log and state are not used
    /// any more. What waits is answered with `Stopping`.
    fn stop(&self) -> Pending<'_, ()>;

    /// Figures for status pages.
    fn metrics(&self) -> Metrics;
}
