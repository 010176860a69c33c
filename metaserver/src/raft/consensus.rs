//! All that the rest of the metaserver sees of Raft.

use super::types::Pending;
use bytes::Bytes;
use quarry_common::Error;
use quarry_common::ids::ServerId;
use quarry_common::wire::meta::{self as wire, Standing};
use tokio::sync::watch;

/// Who leads, and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The metaserver.
    pub id: ServerId,
    /// Its address as the members know it: `host:port`.
    pub address: String,
}

/// A member of a Raft group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The metaserver.
    pub id: ServerId,
    /// Where the others reach it: `host:port`.
    pub address: String,
    /// Whether it votes, or is still catching up.
    pub votes: bool,
}

/// The error for what only the leader may do.
pub fn not_leader(leader: Option<&Leader>) -> Error {
    wire::not_leader(leader.map(|leader| (leader.id, leader.address.as_str())))
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

    /// Who leads, if that is known; one of those who may, if this metaserver was removed.
    fn leader(&self) -> Option<Leader>;

    /// The term in which this metaserver leads, while it does: what is kept in memory about the cluster lives as
    /// long as that. `None` as soon as a majority has been silent for a while.
    fn leading(&self) -> watch::Receiver<Option<u64>>;

    /// The members as this metaserver knows them.
    fn members(&self) -> Vec<GroupMember>;

    /// The index of the entry that says so.
    fn members_at(&self) -> Option<u64>;

    /// Invites a metaserver: it gets everything, and votes once it has caught up (see
    /// [`Consensus::settle_members`]). It need not run yet. On the leader alone, as removing and settling are.
    fn add_member(&self, id: ServerId, address: String) -> Pending<'_, ()>;

    /// Tells the group where this metaserver is reached now, if the others do not know that. Fails with
    /// `Unreachable` when nobody who leads was reached, with `WrongRole` when this metaserver was removed.
    fn announce<'a>(&'a self, address: &'a str) -> Pending<'a, ()>;

    /// Removes a member. Fails with `NotFound`, and with `Busy` when those who stay and run would be no majority
    /// of those who stay. A leader that removes itself steps down afterwards.
    fn remove_member(&self, id: ServerId) -> Pending<'_, ()>;

    /// Does what is left to do about members: finishes a change that an earlier leader began, lets one vote that has
    /// caught up. To be called now and then.
    fn settle_members(&self) -> Pending<'_, ()>;

    /// How far each member is that answers within a second.
    fn standings(&self) -> Pending<'_, Vec<(ServerId, Standing)>>;

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
