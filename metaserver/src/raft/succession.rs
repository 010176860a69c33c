//! When this metaserver asks for votes. It alone decides that: openraft's own timers are off.
//!
//! Who hears nothing from a leader first asks the others whether they would vote for it (the pre-vote of Ongaro's thesis,
//! §9.6), and stands only if a majority would: so one that was paused or cut off, and comes back, deposes nobody.
//! Silence alone does not tell a dead leader from a slow one. But a machine that runs says at once that nothing listens
//! at an address: then the leader's process has died, and only openraft's own lease is waited for.

use super::fitness::Fitness;
use super::group::OPENRAFT_LEASE;
use super::log::LogEnd;
use super::network::Network;
use super::types::{LogId, NodeId, Types, server_id};
use super::wire::{RaftCall, RaftReply};
use openraft::ServerState;
use quarry_common::ids::ShardId;
use quarry_common::{Code, Error, net};
use rand::Rng;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether the leader is silent. Silence is counted in looks, so that a pause of this process is
/// no silence of the leader.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A leader that is silent for so long, two heartbeats, is looked for.
const LOOKED_FOR_AFTER: Duration = Duration::from_millis(300);

/// How long its machine has to say that nothing listens there.
const REFUSED_WITHIN: Duration = Duration::from_millis(500);

/// A leader that was heard within this time is not voted out, unless it is known to be gone.
const LEASE: Duration = Duration::from_millis(600);

/// A leader that is silent for so long is to be succeeded. It may only be slow: its disk may sync, and openraft waits.
const SILENT_AFTER: Duration = Duration::from_millis(700);

/// Who has a higher number waits for longer, so that not all ask for votes at the same time: about an election.
const TURN: Duration = Duration::from_millis(100);

/// How long the others have to say whether they would vote.
const ASK_WAIT: Duration = Duration::from_millis(200);

/// How long an election may take: syncs of several disks that have other work. Until then no other one is begun.
const ELECTION_WAIT: Duration = Duration::from_millis(350);

/// How often it is said that others do not take this metaserver for a member.
const TELL_REFUSED_EVERY: Duration = Duration::from_secs(60);

/// What is known of the leader, and the decision to succeed it.
pub(super) struct Succession {
    pub(super) inner: openraft::Raft<Types>,
    pub(super) network: Network,
    pub(super) shard: ShardId,
    pub(super) fitness: Arc<Fitness>,
    pub(super) end: LogEnd,
    /// Whether this metaserver may ask for votes at all: not while its log may lack what it has acknowledged.
    pub(super) may_stand: AtomicBool,
    pub(super) known: Mutex<Known>,
}

/// What was heard, and said.
#[derive(Default)]
pub(super) struct Known {
    /// How often a leader has spoken, and when it did last.
    heard: u64,
    heard_at: Option<Instant>,
    /// The leader that was heard last, if its machine says that it does not run.
    gone: Option<NodeId>,
    /// When this metaserver asked for votes or gave its own.
    election_at: Option<Instant>,
    /// Somebody with a shorter log asks in vain: this one need not wait for its turn.
    is_urged: bool,
    /// When it was last said that another one does not take this one for a member.
    refused_at: Option<Instant>,
}

impl Known {
    /// A leader has spoken.
    fn handle_heard(&mut self) {
        self.heard += 1;
        self.heard_at = Some(Instant::now());
        self.gone = None;
        self.is_urged = false;
    }

    /// The machine of a leader says that it does not run. It was asked when leaders had spoken so often.
    fn handle_refused(&mut self, leader: NodeId, heard: u64) {
        if self.heard == heard {
            tracing::info!(%leader, "its machine says that it does not run");
            self.gone = Some(leader);
        }
    }

    /// Whether to vote for one whose log ends there while ours ends here, and who knows that somebody is gone. `leader` is
    /// the one that we follow.
    fn would_vote(
        &mut self,
        (theirs, ours): (Option<LogId>, Option<LogId>),
        gone: Option<NodeId>,
        leader: Option<NodeId>,
    ) -> bool {
        if gone.is_some() && gone == leader && self.silence() > Some(LOOKED_FOR_AFTER) {
            self.gone = gone;
        }
        if !self.is_leader_given_up() {
            return false;
        }
        if theirs < ours {
            self.is_urged = true;
            return false;
        }
        !self.is_electing()
    }

    /// Since the leader spoke last; `None` if none ever has.
    fn silence(&self) -> Option<Duration> {
        self.heard_at.map(|at| at.elapsed())
    }

    fn is_electing(&self) -> bool {
        self.election_at
            .is_some_and(|at| at.elapsed() < ELECTION_WAIT)
    }

    /// Whether votes are given against the leader.
    fn is_leader_given_up(&self) -> bool {
        let given_up = |silence| match self.gone {
            Some(_) => silence > LOOKED_FOR_AFTER,
            None => silence > LEASE,
        };
        self.silence().is_none_or(given_up)
    }
}

/// The place of this metaserver in its group.
struct Place {
    /// Who led last, and where it is.
    leader: Option<(NodeId, String)>,
    /// How many others may succeed it before this one.
    turn: u32,
    /// The others that vote.
    others: Vec<(NodeId, String)>,
}

impl Succession {
    /// A leader has spoken.
    pub(super) fn handle_heard(&self) {
        self.known().handle_heard();
    }

    /// A vote was given.
    pub(super) fn handle_voted(&self) {
        self.known().election_at = Some(Instant::now());
    }

    /// Whether this metaserver may ask for votes from now on.
    pub(super) fn allow(&self, may_stand: bool) {
        self.may_stand.store(may_stand, Ordering::Release);
    }

    /// Whether this metaserver would vote for one whose log ends there, and who knows that a leader is gone. (Not every
    /// machine says so to everybody: most say it about once a second to each other machine.)
    pub(super) fn would_vote(&self, theirs: Option<LogId>, gone: Option<NodeId>) -> bool {
        let (leads, leader) = {
            let metrics = self.inner.metrics();
            let metrics = metrics.borrow();
            (metrics.state == ServerState::Leader, metrics.current_leader)
        };
        if leads || self.fitness.check_vote(theirs).is_err() {
            return false;
        }
        let ours = self.end.get();
        self.known().would_vote((theirs, ours), gone, leader)
    }

    /// Waits for the end of openraft's lease, if the leader is known to be gone: it would vote for nobody until then.
    pub(super) async fn wait_for_lease(&self) {
        let silence = {
            let known = self.known();
            known.silence().filter(|_| known.gone.is_some())
        };
        if let Some(rest) = silence.and_then(|silence| OPENRAFT_LEASE.checked_sub(silence)) {
            sleep(rest + Duration::from_millis(1)).await;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks after the leader until it is cancelled.
    pub(super) async fn run(self: Arc<Self>, stopped: CancellationToken) {
        stopped.run_until_cancelled(self.look()).await;
    }

    async fn look(self: &Arc<Self>) {
        let (mut heard, mut looks) = (0, 0);
        let mut probe = JoinSet::new();
        loop {
            sleep(LOOK_EVERY).await;
            while probe.try_join_next().is_some() {}
            let Some(place) = self.place() else {
                looks = 0;
                continue;
            };
            let (now, is_gone, is_urged) = {
                let known = self.known();
                (known.heard, known.gone.is_some(), known.is_urged)
            };
            if now != heard {
                (heard, looks) = (now, 0);
                continue;
            }
            looks += 1;
            let silence = LOOK_EVERY * looks;
            if let Some((leader, address)) = &place.leader
                && silence > LOOKED_FOR_AFTER
                && !is_gone
                && probe.is_empty()
            {
                let (succession, leader, address) = (Arc::clone(self), *leader, address.clone());
                probe.spawn(async move { succession.probe(leader, &address, now).await });
            }
            let after = match is_gone {
                true => OPENRAFT_LEASE,
                false => SILENT_AFTER,
            };
            let turn = if is_urged { 0 } else { place.turn };
            if silence >= after + TURN * turn && self.is_wanted(&place.others).await {
                self.stand().await;
            }
        }
    }

    /// Asks the leader's machine whether it runs. `heard` is how often a leader has spoken until now.
    async fn probe(&self, leader: NodeId, address: &str, heard: u64) {
        let refused = async { Some(net::nobody_there(resolve(address).await?).await) };
        let Ok(Some(_)) = timeout(REFUSED_WITHIN, refused).await else {
            return;
        };
        self.known().handle_refused(leader, heard);
    }

    /// `None` if it is no question for this metaserver whether another one is to lead.
    fn place(&self) -> Option<Place> {
        if !self.may_stand.load(Ordering::Acquire) {
            return None;
        }
        let metrics = self.inner.metrics();
        let metrics = metrics.borrow();
        if metrics.state == ServerState::Leader {
            return None;
        }
        let membership = metrics.membership_config.membership();
        let leader = metrics.current_leader.filter(|id| *id != metrics.id);
        let address = |id: NodeId| membership.get_node(&id).map(|node| (id, node.addr.clone()));
        let mut candidates = membership.voter_ids().filter(|id| Some(*id) != leader);
        let turn = candidates.position(|id| id == metrics.id)?;
        let others = membership.voter_ids().filter(|id| *id != metrics.id);
        Some(Place {
            leader: leader.and_then(address),
            turn: turn as u32,
            others: others.filter_map(address).collect(),
        })
    }

    /// Whether a majority would vote for this metaserver.
    async fn is_wanted(&self, others: &[(NodeId, String)]) -> bool {
        let gone = {
            let known = self.known();
            if known.is_electing() {
                return false;
            }
            known.gone
        };
        // With this one.
        let needed = others.len().div_ceil(2);
        let mut yes = 0;
        let mut asked = JoinSet::new();
        for (id, address) in others.iter().cloned() {
            let (network, shard, end) = (self.network.clone(), self.shard, self.end.get());
            asked.spawn(async move {
                let call = RaftCall::WouldVote { end, gone };
                let call = network.call(shard, server_id(id), &address, call, ASK_WAIT);
                (id, call.await)
            });
        }
        while yes < needed
            && let Some(answer) = asked.join_next().await
        {
            match answer {
                Ok((_, Ok(RaftReply::WouldVote(true)))) => yes += 1,
                Ok((id, Err(error))) if error.code == Code::WrongRole => {
                    self.tell_refused(id, &error)
                }
                _ => {}
            }
        }
        yes >= needed
    }

    /// A member of this metaserver's group does not take it for one: it was removed while it was away, most likely.
    fn tell_refused(&self, by: NodeId, error: &Error) {
        let mut known = self.known();
        let is_told = |at: Instant| at.elapsed() < TELL_REFUSED_EVERY;
        if !known.refused_at.is_some_and(is_told) {
            known.refused_at = Some(Instant::now());
            tracing::warn!("metaserver {by} refuses this one: {error}");
        }
    }

    /// Asks for votes, and waits until the election is over.
    async fn stand(&self) {
        let mut metrics = self.inner.metrics();
        let before = metrics.borrow().current_term;
        tracing::info!("no leader is heard: asking for votes");
        self.known().election_at = Some(Instant::now());
        // Another one's term may be ahead of ours: then this only tells us so.
        if self.inner.trigger().elect().await.is_err() {
            return;
        }
        let ended =
            metrics.wait_for(|now| now.current_term > before && now.current_leader.is_some());
        let is_over = timeout(ELECTION_WAIT, ended).await.is_ok();
        if !is_over {
            // Two that stand at the same time are not to do so again.
            let apart = rand::rng().random_range(0..TURN.as_millis() as u64);
            sleep(Duration::from_millis(apart)).await;
        }
    }
}

async fn resolve(address: &str) -> Option<SocketAddr> {
    tokio::net::lookup_host(address).await.ok()?.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::CommittedLeaderId;

    const LEADER: NodeId = 1;
    const OTHER: NodeId = 2;

    fn end(index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId::new(1, LEADER), index))
    }

    /// A leader was heard so long ago.
    fn silent_for(silence: Duration) -> Known {
        let mut known = Known::default();
        known.handle_heard();
        known.heard_at = Instant::now().checked_sub(silence);
        known
    }

    fn would_vote(known: &mut Known, gone: Option<NodeId>) -> bool {
        known.would_vote((end(5), end(5)), gone, Some(LEADER))
    }

    const SOON: Duration = LOOKED_FOR_AFTER.saturating_sub(Duration::from_millis(100));
    const LATER: Duration = LOOKED_FOR_AFTER.saturating_add(Duration::from_millis(10));
    const SILENT: Duration = LEASE.saturating_add(Duration::from_millis(1));

    #[test]
    fn nobody_votes_against_a_leader_that_was_just_heard() {
        assert!(
            would_vote(&mut Known::default(), None),
            "none was ever heard"
        );
        assert!(!would_vote(&mut silent_for(Duration::ZERO), None));
        assert!(!would_vote(&mut silent_for(LATER), None));
        assert!(would_vote(&mut silent_for(SILENT), None));
    }

    #[test]
    fn a_leader_that_is_gone_is_given_up_sooner_on_anybodys_word() {
        let mut known = silent_for(LATER);
        assert!(would_vote(&mut known, Some(LEADER)));
        assert!(would_vote(&mut known, None), "it is known from then on");
        known.handle_heard();
        known.heard_at = Instant::now().checked_sub(LATER);
        assert!(!would_vote(&mut known, None), "it was not gone");

        let mut known = silent_for(SOON);
        assert!(!would_vote(&mut known, Some(LEADER)));
        known.heard_at = Instant::now().checked_sub(LATER);
        assert!(!would_vote(&mut known, None), "it ran when that was said");
        // The word was about another leader.
        assert!(!would_vote(&mut silent_for(LATER), Some(OTHER)));
        let mut known = silent_for(LATER);
        assert!(!known.would_vote((end(5), end(5)), None, None));
    }

    #[test]
    fn what_a_machine_said_of_a_leader_that_was_heard_since_is_old() {
        let mut known = silent_for(LATER);
        let heard = known.heard;
        known.handle_refused(LEADER, heard);
        assert!(would_vote(&mut known, None));
        known.handle_heard();
        known.handle_refused(LEADER, heard);
        known.heard_at = Instant::now().checked_sub(LATER);
        assert!(!would_vote(&mut known, None));
    }

    #[test]
    fn who_has_the_longer_log_stands_itself() {
        let mut known = silent_for(SILENT);
        assert!(!known.would_vote((end(4), end(5)), None, Some(LEADER)));
        assert!(known.is_urged, "it need not wait for its turn");
        assert!(known.would_vote((end(6), end(5)), None, Some(LEADER)));
        assert!(!known.would_vote((None, end(5)), None, Some(LEADER)));
        known.handle_heard();
        assert!(!known.is_urged);
        // No reason to stand while there is a leader.
        assert!(!known.would_vote((end(4), end(5)), None, Some(LEADER)));
        assert!(!known.is_urged);
    }

    #[test]
    fn while_an_election_runs_nobody_begins_another_one() {
        let mut known = silent_for(SILENT);
        known.election_at = Some(Instant::now());
        assert!(!would_vote(&mut known, None));
        known.election_at = Instant::now().checked_sub(ELECTION_WAIT);
        assert!(would_vote(&mut known, None));
    }
}
