//! The way to the other members of a Raft group: requests over one long stream a member, snapshots over
//! a stream of their own.

use super::transfer;
use super::types::{LogId, NodeId, Types, server_id};
use super::wire::{RaftCall, RaftReply, RaftRequest};
use openraft::error::{
    Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, EntryPayload, OptionalSend, Vote};
use quarry_common::identity::PeerName;
use quarry_common::ids::{ClusterId, ServerId, ShardId};
use quarry_common::net::{Endpoint, Peer, Peers, StreamType};
use quarry_common::{Code, Error, Result, codec};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Entries of one request to append: so many bytes that a disk's sync is shared well, and few enough to
/// arrive within the time that openraft gives a request. One longer entry goes alone.
const APPEND_LEN_MAX: usize = 1 << 20;

/// A member that was asked something and from which no datagram came for so long, not even to say that ours
/// arrived, does not reach us. It may well be reached by us: then it would hear a leader that can get nothing agreed on
/// until the connection's own time is over, which is many elections. So the connection is closed, and none is made
/// before both ways are open.
const DEAF_AFTER: Duration = Duration::from_millis(800);

/// Pause before a member that could not be reached is tried again.
const BACK_OFF: Duration = Duration::from_millis(100);

/// The way to other members, shared by everything of a group. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    /// `None` for a group of one.
    link: Option<Arc<Link>>,
}

struct Link {
    peers: Peers,
    cluster: ClusterId,
    /// Who is connected, so that a request needs no task to find out.
    connected: Mutex<HashMap<ServerId, Connected>>,
}

struct Connected {
    address: String,
    peer: Peer,
    /// Datagrams that had come from it when an answer was late, and when it was so many for the first time.
    late: Option<(u64, Instant)>,
}

impl Connected {
    /// An answer is late. Whether nothing at all has come since an earlier one was, long ago.
    fn is_deaf(&mut self, datagrams: u64, now: Instant) -> bool {
        match self.late {
            Some((before, since)) if before == datagrams => {
                now.saturating_duration_since(since) >= DEAF_AFTER
            }
            Some(_) | None => {
                self.late = Some((datagrams, now));
                false
            }
        }
    }
}

impl Network {
    /// No way to anybody: for a group of one.
    pub fn none() -> Network {
        Network { link: None }
    }

    /// Dials from the endpoint of a metaserver, in whose name it speaks.
    pub fn over(endpoint: Endpoint) -> Network {
        let cluster = endpoint.identity().name().cluster;
        Network {
            link: Some(Arc::new(Link {
                peers: Peers::with_stream(endpoint, StreamType::Raft),
                cluster,
                connected: Mutex::default(),
            })),
        }
    }

    /// The member, connected. Cancel-safe.
    pub(crate) async fn peer(&self, to: ServerId, address: &str) -> Result<Peer> {
        let Some(link) = &self.link else {
            let text = format!("metaserver {to} can not be reached: this one has no network");
            return Err(Error::new(Code::Unreachable, text));
        };
        if let Some(peer) = link.cached(to, address) {
            return Ok(peer);
        }
        link.dial(to, address).await
    }

    /// Asks a member, at most for `timeout`. Cancel-safe; the member may act on it.
    pub(crate) async fn call(
        &self,
        shard: ShardId,
        to: ServerId,
        address: &str,
        call: RaftCall,
        timeout: Duration,
    ) -> Result<RaftReply> {
        let asked = async {
            let peer = self.peer(to, address).await?;
            let request = codec::encode(&RaftRequest { shard, call });
            let answer = peer.requests.call(request.into(), timeout).await?;
            codec::decode::<Result<RaftReply>>("the answer of a metaserver", &answer)?
        };
        let answer = tokio::time::timeout(timeout, asked).await;
        let answer = answer.unwrap_or_else(|_| {
            let text = format!("metaserver {to} at {address} did not answer within {timeout:?}");
            Err(Error::new(Code::Disconnected, text))
        });
        if let (Err(error), Some(link)) = (&answer, &self.link)
            && error.code == Code::Disconnected
        {
            link.handle_late(to);
        }
        answer
    }
}

impl Link {
    /// A member did not answer in time.
    fn handle_late(&self, to: ServerId) {
        let mut connected = self.connected();
        let Some(there) = connected.get_mut(&to) else {
            return;
        };
        let datagrams = there.peer.connection.stats().udp_rx.datagrams;
        if there.is_deaf(datagrams, Instant::now()) {
            tracing::warn!(metaserver = %to, "nothing comes from it any more: the connection is closed");
            there.peer.connection.close("nothing comes from you");
            connected.remove(&to);
        }
    }

    fn connected(&self) -> MutexGuard<'_, HashMap<ServerId, Connected>> {
        self.connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn cached(&self, to: ServerId, address: &str) -> Option<Peer> {
        let connected = self.connected();
        let there = connected.get(&to)?;
        let usable = there.address == address && !there.peer.is_closed();
        usable.then(|| there.peer.clone())
    }

    async fn dial(&self, to: ServerId, address: &str) -> Result<Peer> {
        let name = PeerName::metaserver(self.cluster, to);
        let unknown = |why: String| {
            let text = format!("the address {address} of metaserver {to} {why}");
            Error::new(Code::Unreachable, text)
        };
        let found = tokio::net::lookup_host(address)
            .await
            .map_err(|error| unknown(format!("can not be resolved: {error}")))?;
        let mut last = unknown("has no entry".into());
        for found in found {
            match self.peers.get(&name, found).await {
                Ok(peer) => {
                    let there = Connected {
                        address: address.to_owned(),
                        peer: peer.clone(),
                        late: None,
                    };
                    self.connected().insert(to, there);
                    return Ok(peer);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Makes [`Member`]s for openraft.
pub(crate) struct Members {
    network: Network,
    shard: ShardId,
    /// Who asks.
    own: NodeId,
    acknowledged: Arc<Acknowledged>,
}

impl Members {
    /// The others, of whom `own` asks.
    pub(crate) fn new(network: Network, shard: ShardId, own: NodeId) -> Members {
        Members {
            network,
            shard,
            own,
            acknowledged: Arc::default(),
        }
    }
}

/// How far each member has acknowledged the log to this leader: what openraft counts on as long as it leads.
#[derive(Default)]
struct Acknowledged(Mutex<HashMap<NodeId, (Vote<NodeId>, LogId)>>);

impl Acknowledged {
    fn note(&self, member: NodeId, leader: Vote<NodeId>, last: Option<LogId>) {
        let Some(last) = last else {
            return;
        };
        let mut members = self.members();
        let known = members.entry(member).or_insert((leader, last));
        if known.0 != leader || known.1 < last {
            *known = (leader, last);
        }
    }

    /// Whether a member has acknowledged an entry to this leader, which it now says it does not have.
    fn is_lost(&self, member: NodeId, leader: Vote<NodeId>, entry: Option<LogId>) -> bool {
        let members = self.members();
        let known = members.get(&member);
        known.is_some_and(|(to, last)| *to == leader && entry.is_some_and(|entry| entry <= *last))
    }

    fn members(&self) -> MutexGuard<'_, HashMap<NodeId, (Vote<NodeId>, LogId)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Another member.
pub(crate) struct Member {
    network: Network,
    shard: ShardId,
    own: NodeId,
    node: NodeId,
    address: String,
    acknowledged: Arc<Acknowledged>,
}

impl RaftNetworkFactory<Types> for Members {
    type Network = Member;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Member {
        Member {
            network: self.network.clone(),
            shard: self.shard,
            own: self.own,
            node: target,
            address: node.addr.clone(),
            acknowledged: Arc::clone(&self.acknowledged),
        }
    }
}

impl Member {
    async fn call(&self, call: RaftCall, timeout: Duration) -> Result<RaftReply> {
        let to = server_id(self.node);
        self.network
            .call(self.shard, to, &self.address, call, timeout)
            .await
    }

    /// Anything but lateness is waited out: openraft repeats the others at once, for ever.
    fn failed(
        &self,
        error: Error,
        action: RPCTypes,
        timeout: Duration,
    ) -> RPCError<NodeId, BasicNode, RaftError<NodeId>> {
        match error.code {
            Code::Disconnected => RPCError::Timeout(Timeout {
                action,
                id: self.own,
                target: self.node,
                timeout,
            }),
            _ => RPCError::Unreachable(Unreachable::new(&error)),
        }
    }
}

fn other_answer() -> Error {
    Error::malformed("a metaserver answered another question")
}

/// Cuts entries so that they fit one request; the last one that is left, if others are not.
fn cut(request: &mut AppendEntriesRequest<Types>) -> Option<LogId> {
    let mut len = 0;
    let fitting = request.entries.iter().take_while(|entry| {
        len += match &entry.payload {
            EntryPayload::Normal(bytes) => bytes.len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        };
        len <= APPEND_LEN_MAX
    });
    let count = fitting.count().max(1);
    if count >= request.entries.len() {
        return None;
    }
    request.entries.truncate(count);
    request.entries.last().map(|last| last.log_id)
}

impl RaftNetwork<Types> for Member {
    async fn append_entries(
        &mut self,
        mut request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RPCError<NodeId, BasicNode, RaftError<NodeId>>> {
        let cut_after = cut(&mut request);
        let (leader, before) = (request.vote, request.prev_log_id);
        let last = request.entries.last().map(|entry| entry.log_id).or(before);
        let timeout = option.hard_ttl();
        let reply = match self.call(RaftCall::Append(request), timeout).await {
            Ok(RaftReply::Append(reply)) => Ok(reply),
            Ok(_) => Err(other_answer()),
            Err(error) => Err(error),
        };
        if matches!(reply, Ok(AppendEntriesResponse::Success)) {
            self.acknowledged.note(self.node, leader, last);
        }
        match (reply, cut_after) {
            (Ok(AppendEntriesResponse::Success), Some(last)) => {
                Ok(AppendEntriesResponse::PartialSuccess(Some(last)))
            }
            // openraft takes it for impossible that an entry is lost after it was acknowledged, and ends the process.
            // (Its feature `loosen-follower-log-revert` forgets the acknowledgement without sorting the members anew, and
            // then may count the one that lost it, of five members, for what it never had.) The next leader begins with no
            // acknowledgements: so this one stops to lead, as if the other had asked for its vote. (Which it does not: it
            // stands for nothing before its log has caught up.)
            (Ok(AppendEntriesResponse::Conflict), _)
                if self.acknowledged.is_lost(self.node, leader, before) =>
            {
                tracing::warn!(
                    metaserver = self.node,
                    "it has lost a part of its log: another leader is elected, which sends it everything"
                );
                let next = leader.leader_id.term.saturating_add(1);
                Ok(AppendEntriesResponse::HigherVote(Vote::new(
                    next, self.node,
                )))
            }
            (Ok(reply), _) => Ok(reply),
            (Err(error), _) => Err(self.failed(error, RPCTypes::AppendEntries, timeout)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RPCError<NodeId, BasicNode, RaftError<NodeId>>> {
        let timeout = option.hard_ttl();
        let reply = match self.call(RaftCall::Vote(request), timeout).await {
            Ok(RaftReply::Vote(reply)) => Ok(reply),
            Ok(_) => Err(other_answer()),
            Err(error) => Err(error),
        };
        reply.map_err(|error| self.failed(error, RPCTypes::Vote, timeout))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<NodeId>,
        snapshot: openraft::Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<Types, Fatal<NodeId>>> {
        let to = server_id(self.node);
        let sent = async {
            let peer = self.network.peer(to, &self.address).await?;
            let streams = peer.connection.open(StreamType::RaftSnapshot).await?;
            transfer::send(streams, self.shard, vote, &snapshot).await
        };
        let sent = tokio::select! {
            sent = sent => sent,
            closed = cancel => return Err(closed.into()),
        };
        match sent {
            Ok(now) => {
                if now == vote {
                    let last = snapshot.meta.last_log_id;
                    self.acknowledged.note(self.node, vote, last);
                }
                Ok(SnapshotResponse::new(now))
            }
            Err(error) => {
                let error = error.context(format!("a snapshot for metaserver {to}"));
                tracing::warn!(%error, "it was not taken; it is sent again");
                Err(Unreachable::new(&error).into())
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACK_OFF))
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::LogEntry;
    use super::*;
    use bytes::Bytes;
    use openraft::CommittedLeaderId;

    fn request(lens: &[usize]) -> AppendEntriesRequest<Types> {
        let entry = |(index, len): (usize, &usize)| LogEntry {
            log_id: LogId::new(CommittedLeaderId::new(1, 1), index as u64),
            payload: EntryPayload::Normal(Bytes::from(vec![0; *len])),
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            entries: lens.iter().enumerate().map(entry).collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn entries_are_cut_to_what_one_request_carries_and_one_always_goes() {
        let large = APPEND_LEN_MAX / 2;
        for (lens, left) in [
            (vec![], 0),
            (vec![1, 2, 3], 3),
            (vec![large, large, 1], 2),
            (vec![4 << 20, 1], 1),
            (vec![4 << 20], 1),
        ] {
            let mut cut_request = request(&lens);
            let last = cut(&mut cut_request);
            assert_eq!(cut_request.entries.len(), left, "{lens:?}");
            let expected = (left < lens.len()).then(|| left as u64 - 1);
            assert_eq!(last.map(|last| last.index), expected, "{lens:?}");
        }
    }

    #[test]
    fn an_entry_is_lost_that_was_acknowledged_to_the_same_leader() {
        let id = |index| Some(LogId::new(CommittedLeaderId::new(1, 1), index));
        let (leader, next) = (Vote::new_committed(1, 1), Vote::new_committed(2, 1));
        let acknowledged = Acknowledged::default();
        assert!(!acknowledged.is_lost(2, leader, id(0)));
        acknowledged.note(2, leader, id(5));
        acknowledged.note(2, leader, id(3));
        acknowledged.note(2, leader, None);
        assert!(acknowledged.is_lost(2, leader, id(5)));
        assert!(!acknowledged.is_lost(2, leader, id(6)) && !acknowledged.is_lost(2, leader, None));
        assert!(!acknowledged.is_lost(3, leader, id(5)) && !acknowledged.is_lost(2, next, id(5)));
        acknowledged.note(2, next, id(4));
        assert!(!acknowledged.is_lost(2, next, id(5)) && acknowledged.is_lost(2, next, id(4)));
    }

    #[test]
    fn the_longest_entry_fits_a_message() {
        use quarry_common::limits::{MESSAGE_LEN_MAX, RAFT_ENTRY_LEN_MAX};
        let request = RaftRequest {
            shard: ShardId::FIRST,
            call: RaftCall::Append(request(&[RAFT_ENTRY_LEN_MAX])),
        };
        assert!(codec::encode(&request).len() <= MESSAGE_LEN_MAX);
    }
}
