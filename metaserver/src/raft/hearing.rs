//! What this metaserver hears from others: from whom, and what it believes.
//!
//! Only members of the group are heard, by the names in their certificates. Whoever has no members yet hears those
//! whom it was told of when it was made. A leader that is not known may be one that became a member while this
//! metaserver was away: then a member that is known vouches for it. What breaks the rules of Raft is refused before
//! it comes near the log.

use super::transfer::Arriving;
use super::types::{LogId, NodeId, SnapshotMeta, Types, named, node_id, server_id};
use super::wire::{RaftCall, RaftReply, RaftRequest, SnapshotAnswer};
use super::{Raft, fitness::Appended};
use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use openraft::{Snapshot, Vote};
use quarry_common::identity::{PeerName, Role};
use quarry_common::ids::{ServerId, ShardId};
use quarry_common::net::{self, RecvStream, SendStream};
use quarry_common::{Code, Error, Result, codec};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A term this far beyond ours is no term: with an election each second that is 136 years ahead.
const TERM_AHEAD_MAX: u64 = u32::MAX as u64;

/// Requests of one member at a time: replication has one under way, barriers and elections a few.
const IN_FLIGHT_MAX: usize = 64;

/// How long a word about somebody who is not known is believed.
const VOUCHED_FOR: Duration = Duration::from_secs(2);

/// How long somebody who is asked for that word has.
const VOUCH_WAIT: Duration = Duration::from_millis(500);

/// Words about metaservers that are not known here.
#[derive(Default)]
pub(super) struct Vouched(Mutex<HashMap<ServerId, Word>>);

/// Whether somebody is a member, and when that was asked.
struct Word {
    is_member: bool,
    at: Instant,
}

impl Vouched {
    fn get(&self, peer: ServerId) -> Option<bool> {
        let words = lock(&self.0);
        let word = words.get(&peer)?;
        (word.at.elapsed() < VOUCHED_FOR).then_some(word.is_member)
    }

    /// Whether it is the first time that the answer is no: the operator is told once.
    fn set(&self, peer: ServerId, is_member: bool) -> bool {
        let word = Word {
            is_member,
            at: Instant::now(),
        };
        // Certificates of this cluster are few.
        let before = lock(&self.0).insert(peer, word);
        !is_member && before.is_none_or(|before| before.is_member)
    }
}

impl Raft {
    /// Answers the requests of another metaserver on a stream until it ends.
    ///
    /// # Errors
    /// As [`net::serve`]; `WrongRole` for anybody but a metaserver: its stream was closed.
    pub async fn serve(
        self: &Arc<Self>,
        peer: &PeerName,
        send: SendStream,
        recv: RecvStream,
    ) -> Result<()> {
        let peer = match metaserver(peer) {
            Ok(peer) => peer,
            Err(error) => {
                net::refuse_stream(send, recv);
                return Err(error);
            }
        };
        let handler = |bytes: Bytes| {
            let raft = Arc::clone(self);
            async move {
                let answer = match codec::decode("a request", &bytes) {
                    Ok(request) => raft.hear(peer, request).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = &answer {
                    tracing::debug!(%peer, %error, "a metaserver was refused");
                }
                codec::encode(&answer).into()
            }
        };
        net::serve(send, recv, IN_FLIGHT_MAX, handler).await
    }

    /// Takes a snapshot from the leader on a stream of its own, and answers it.
    ///
    /// # Errors
    /// What was wrong with it; the sender was told.
    pub async fn serve_snapshot(
        &self,
        peer: &PeerName,
        send: SendStream,
        recv: RecvStream,
    ) -> Result<()> {
        let peer = match metaserver(peer) {
            Ok(peer) => peer,
            Err(error) => {
                net::refuse_stream(send, recv);
                return Err(error);
            }
        };
        let mut arriving = Arriving::begin(send, recv).await?;
        let answer: SnapshotAnswer = self.receive(peer, &mut arriving).await;
        let outcome = answer.as_ref().map(drop).map_err(Error::clone);
        arriving.answer(&answer).await;
        outcome
    }

    async fn hear(&self, peer: ServerId, request: RaftRequest) -> Result<RaftReply> {
        self.check_shard(request.shard)?;
        match request.call {
            RaftCall::Append(request) => self.hear_append(peer, request).await,
            RaftCall::Vote(request) => {
                self.check_member(peer)?;
                check_vote(node_id(peer), self.metrics_now().current_term, &request)?;
                self.fitness.check_vote(request.last_log_id)?;
                self.succession.wait_for_lease().await;
                let reply = self.inner.vote(request).await.map_err(raft_failed)?;
                if reply.vote_granted {
                    self.succession.handle_voted();
                }
                Ok(RaftReply::Vote(reply))
            }
            RaftCall::WouldVote { end, gone } => {
                self.check_member(peer)?;
                Ok(RaftReply::WouldVote(self.succession.would_vote(end, gone)))
            }
            // Whom it is asked about is what the asker does not know: no more than names are told.
            RaftCall::Members => {
                let metrics = self.metrics_now();
                let nodes = metrics.membership_config.membership().nodes();
                Ok(RaftReply::Members {
                    at: metrics.membership_config.log_id().map(|id| id.index),
                    members: nodes.map(|(id, _)| server_id(*id)).collect(),
                })
            }
            RaftCall::Standing => {
                self.check_member(peer)?;
                Ok(RaftReply::Standing(self.standing()))
            }
            RaftCall::Moved(address) => {
                self.check_member(peer)?;
                self.move_member(peer, address).await?;
                Ok(RaftReply::Done)
            }
        }
    }

    async fn hear_append(
        &self,
        peer: ServerId,
        request: AppendEntriesRequest<Types>,
    ) -> Result<RaftReply> {
        self.check_leader(peer).await?;
        check_append(node_id(peer), self.metrics_now().current_term, &request)?;
        self.check_belief(peer, &request.vote).await?;
        // Also before its entries are on disk, which may take longer than an election.
        if request.vote >= self.metrics_now().vote {
            self.succession.handle_heard();
        }
        let appended = Appended::of(&request);
        let reply = self.inner.append_entries(request).await;
        let reply = reply.map_err(raft_failed)?;
        if !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
            self.succession.handle_heard();
        }
        if reply == AppendEntriesResponse::Success && self.fitness.handle_appended(&appended)? {
            tracing::info!("the log has caught up: this metaserver votes from now on");
            self.succession.allow(true);
        }
        Ok(RaftReply::Append(reply))
    }

    async fn receive(&self, peer: ServerId, arriving: &mut Arriving) -> Result<Vote<NodeId>> {
        self.check_shard(arriving.head.shard)?;
        self.check_leader(peer).await?;
        let vote = arriving.head.vote;
        let ours = self.metrics_now().vote;
        check_leaders_vote(node_id(peer), ours.leader_id.term, &vote)?;
        // Also one that can not be compared.
        if !vote
            .partial_cmp(&ours)
            .is_some_and(std::cmp::Ordering::is_ge)
        {
            return Ok(ours);
        }
        self.check_belief(peer, &vote).await?;
        let mut turn = self.arrivals.begin().await;
        let machine = self.machine()?;
        let copy = machine.receive()?;
        tracing::info!(from = %peer, bytes = arriving.head.len, "receiving a snapshot");
        turn.receive(arriving, &copy).await?;
        let meta: SnapshotMeta = arriving.head.meta.clone();
        // Before Raft hears of it: from then on a bad one would end the process.
        super::types::blocking(|| machine.check_received(&meta, &copy))?;
        drop(machine);
        let snapshot = Snapshot {
            meta,
            snapshot: Box::new(copy),
        };
        let installed = self.inner.install_full_snapshot(vote, snapshot).await;
        let answer = installed.map_err(super::group::failed)?;
        tracing::info!(from = %peer, "a snapshot was taken over");
        Ok(answer.vote)
    }

    fn check_shard(&self, shard: ShardId) -> Result<()> {
        match shard == self.shard {
            true => Ok(()),
            false => Err(Error::new(
                Code::WrongRole,
                format!("shard {shard} has no member here"),
            )),
        }
    }

    fn is_known(&self, peer: ServerId) -> bool {
        if self.is_on_the_way() {
            return self.told_of.contains_key(&peer);
        }
        let metrics = self.inner.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        membership.get_node(&node_id(peer)).is_some()
    }

    fn check_member(&self, peer: ServerId) -> Result<()> {
        match self.is_known(peer) {
            true => Ok(()),
            false => Err(stranger(peer)),
        }
    }

    /// Whether somebody may speak as a leader.
    async fn check_leader(&self, peer: ServerId) -> Result<()> {
        if self.is_known(peer) {
            return Ok(());
        }
        let vouched = match self.vouched.get(peer) {
            Some(word) => word,
            None => {
                let word = self.ask_about(peer).await;
                if self.vouched.set(peer, word) {
                    let known = self.others();
                    tracing::warn!(
                        "metaserver {peer} says that it leads, and is not heard: none of those known here {known:?} answers that it is a \
                         member; if all of them were replaced while this one was away, remove it and make a new one"
                    );
                }
                word
            }
        };
        if vouched { Ok(()) } else { Err(stranger(peer)) }
    }

    /// Asks those who are known whether somebody became a member while this metaserver was away.
    async fn ask_about(&self, peer: ServerId) -> bool {
        let ours = self.members_at_now();
        let mut asked = tokio::task::JoinSet::new();
        for (known, address) in self.others() {
            let network = self.network.clone();
            let shard = self.shard;
            asked.spawn(async move {
                let call = network.call(shard, known, &address, RaftCall::Members, VOUCH_WAIT);
                call.await.ok()
            });
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok(Some(RaftReply::Members { at, members })) = answer
                && at >= ours
                && members.contains(&peer)
            {
                return true;
            }
        }
        false
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn metaserver(peer: &PeerName) -> Result<ServerId> {
    if peer.role != Role::Metaserver {
        let text =
            format!("{peer} may not take part in Raft: that takes a metaserver's certificate");
        return Err(Error::new(Code::WrongRole, text));
    }
    peer.server_id()
}

fn stranger(peer: ServerId) -> Error {
    let text = format!(
        "metaserver {peer} is no member of this group: if it was removed, stop it; a new one is made with 'quarry metaserver add'"
    );
    Error::new(Code::WrongRole, text)
}

fn raft_failed(error: openraft::error::RaftError<NodeId>) -> Error {
    match error {
        openraft::error::RaftError::Fatal(error) => super::group::failed(error),
        openraft::error::RaftError::APIError(never) => match never {},
    }
}

fn forged(what: impl std::fmt::Display) -> Error {
    Error::malformed(format!(
        "what breaks the rules of Raft is not heard: {what}"
    ))
}

/// A vote is asked for by the candidate itself, in a term that can be.
fn check_vote(peer: NodeId, term: u64, request: &VoteRequest<NodeId>) -> Result<()> {
    check_term(term, &request.vote)?;
    let vote = request.vote;
    if vote.committed || vote.leader_id.node_id != peer {
        return Err(forged(format_args!(
            "node {peer} asks for a vote as {vote}"
        )));
    }
    match request.last_log_id {
        Some(last) if last.leader_id >= vote.leader_id => Err(forged(format_args!(
            "a candidate of {vote} with a log up to {last}"
        ))),
        _ => Ok(()),
    }
}

/// Whoever speaks as the leader is the leader of its vote.
fn check_leaders_vote(peer: NodeId, term: u64, vote: &Vote<NodeId>) -> Result<()> {
    check_term(term, vote)?;
    match vote.committed && vote.leader_id.node_id == peer {
        true => Ok(()),
        false => Err(forged(format_args!("node {peer} leads as {vote}"))),
    }
}

fn check_term(ours: u64, vote: &Vote<NodeId>) -> Result<()> {
    let term = vote.leader_id.term;
    match term > ours.saturating_add(TERM_AHEAD_MAX) {
        true => Err(forged(format_args!("term {term}, ours is {ours}"))),
        false => Ok(()),
    }
}

/// Entries follow each other without a gap, in the order of their leaders, none of a later one than the sender.
fn check_append(peer: NodeId, term: u64, request: &AppendEntriesRequest<Types>) -> Result<()> {
    check_leaders_vote(peer, term, &request.vote)?;
    let leader = request.vote.leader_id;
    let mut before: Option<LogId> = request.prev_log_id;
    for entry in &request.entries {
        let next = match before {
            Some(before) => before.index.checked_add(1),
            None => Some(0),
        };
        let in_order = before.is_none_or(|before| before.leader_id <= entry.log_id.leader_id);
        if Some(entry.log_id.index) != next || !in_order {
            return Err(forged(format_args!(
                "{} after {}",
                named(Some(entry.log_id)),
                named(before)
            )));
        }
        before = Some(entry.log_id);
    }
    // Entries before the leader's own are of earlier leaders.
    for id in before.iter().chain(&request.leader_commit) {
        if id.leader_id > leader {
            return Err(forged(format_args!("entry {id} of a leader of {leader}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::types::LogEntry;
    use super::*;
    use openraft::{CommittedLeaderId, EntryPayload};

    fn id(term: u64, node: NodeId, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, node), index)
    }

    fn append(prev: Option<LogId>, entries: &[LogId]) -> AppendEntriesRequest<Types> {
        let entry = |log_id: &LogId| LogEntry {
            log_id: *log_id,
            payload: EntryPayload::Blank,
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(5, 2),
            prev_log_id: prev,
            entries: entries.iter().map(entry).collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn a_leaders_entries_are_heard() {
        for (prev, entries) in [
            (None, vec![id(0, 0, 0), id(1, 1, 1), id(5, 2, 2)]),
            (Some(id(4, 3, 7)), vec![id(4, 3, 8), id(5, 2, 9)]),
            (Some(id(4, 3, 7)), vec![]),
            (None, vec![]),
        ] {
            assert_eq!(check_append(2, 5, &append(prev, &entries)), Ok(()));
        }
    }

    #[test]
    fn gaps_reversals_and_entries_of_later_leaders_are_refused() {
        for (prev, entries) in [
            (None, vec![id(1, 1, 1)]),
            (Some(id(4, 3, 7)), vec![id(4, 3, 9)]),
            (Some(id(4, 3, 7)), vec![id(4, 3, 7)]),
            (Some(id(4, 3, 7)), vec![id(4, 3, 8), id(4, 3, 10)]),
            (Some(id(4, 3, 7)), vec![id(3, 3, 8)]),
            (Some(id(4, 3, 7)), vec![id(6, 2, 8)]),
            (Some(id(4, 3, u64::MAX)), vec![id(4, 3, 0)]),
            (Some(id(9, 2, 7)), vec![]),
        ] {
            let refused = check_append(2, 5, &append(prev, &entries)).unwrap_err();
            assert_eq!(refused.code, Code::Malformed, "{prev:?} {entries:?}");
        }
        let mut ahead = append(None, &[]);
        ahead.leader_commit = Some(id(6, 1, 3));
        assert!(check_append(2, 5, &ahead).is_err());
    }

    #[test]
    fn nobody_speaks_for_another_or_in_a_term_that_can_not_be() {
        let mut request = append(None, &[]);
        assert!(check_append(3, 5, &request).is_err(), "another's vote");
        request.vote = Vote::new(5, 2);
        assert!(check_append(2, 5, &request).is_err(), "not elected");
        request.vote = Vote::new_committed(u64::MAX, 2);
        assert!(check_append(2, 5, &request).is_err());

        let asks = |vote, last| VoteRequest::new(vote, last);
        let last = Some(id(5, 2, 9));
        assert_eq!(check_vote(3, 5, &asks(Vote::new(6, 3), last)), Ok(()));
        for (vote, last) in [
            (Vote::new(6, 1), last),
            (Vote::new_committed(6, 3), last),
            (Vote::new(u64::MAX, 3), last),
            (Vote::new(6, 3), Some(id(7, 1, 9))),
        ] {
            assert!(check_vote(3, 5, &asks(vote, last)).is_err(), "{vote}");
        }
    }
}
