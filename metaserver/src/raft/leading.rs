//! Whether this metaserver leads: what openraft says of itself, followed, and who leads instead.

use super::Leader;
use super::fitness::Fitness;
use super::group::failed;
use super::log::Growth;
use super::succession::Succession;
use super::types::{Fatal, LogId, NodeId, Types, server_id};
use openraft::{BasicNode, RaftMetrics, ServerState};
use quarry_common::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A leader that a majority has not answered for so long does not believe that it leads, and sends its callers elsewhere.
/// (Others may lead by then: what it reads and changes needs a majority all the same.)
const LOST_AFTER: Duration = Duration::from_millis(800);

/// Follows what openraft says of itself: ends the process when it has failed, asks for a snapshot when the log has
/// grown, and says when this metaserver begins and ceases to lead.
pub(super) struct Watch {
    pub(super) inner: openraft::Raft<Types>,
    pub(super) growth: Arc<Growth>,
    pub(super) fitness: Arc<Fitness>,
    pub(super) succession: Arc<Succession>,
    pub(super) end_at_start: Option<LogId>,
    pub(super) leads: watch::Sender<Option<u64>>,
    pub(super) fatal: Fatal,
    pub(super) stopped: CancellationToken,
}

impl Watch {
    /// Follows until Raft ends or this is cancelled.
    pub(super) async fn run(self) {
        let mut metrics = self.inner.metrics();
        loop {
            tokio::select! {
                () = self.stopped.cancelled() => break,
                () = self.growth.enough.notified() => {
                    if self.inner.trigger().snapshot().await.is_err() {
                        break;
                    }
                }
                changed = metrics.changed() => {
                    let (state, term) = {
                        let now = metrics.borrow_and_update();
                        let term = leads(&now, self.end_at_start).then_some(now.current_term);
                        (now.running_state.clone(), term)
                    };
                    match state {
                        Ok(()) if changed.is_ok() => {}
                        Err(error) if !self.stopped.is_cancelled() => {
                            (self.fatal)(&failed(error));
                            break;
                        }
                        Ok(()) | Err(_) => break,
                    }
                    if term.is_some() {
                        match self.fitness.handle_fit() {
                            Ok(true) => self.succession.allow(true),
                            Ok(false) => {}
                            Err(error) => {
                                (self.fatal)(&error);
                                break;
                            }
                        }
                    }
                    self.leads.send_if_modified(|leads| std::mem::replace(leads, term) != term);
                }
            }
        }
        self.leads.send_replace(None);
    }
}

/// Whether this node leads and has applied everything that was agreed before: an entry of its own
/// term. After a restart openraft may resume the term in which it led before, and the state
/// may hold entries of that term while others wait to be replayed: so the end of the log
/// at the start must be reached as well.
///
/// A leader that is cut off hears of no other one; it ceases to lead when a majority is silent.
pub(super) fn leads(metrics: &RaftMetrics<NodeId, BasicNode>, end_at_start: Option<LogId>) -> bool {
    // Two nodes may lead in one term, one after the other: the number is not enough.
    let is_own = |applied: LogId| applied.leader_id == metrics.vote.leader_id;
    let silence = metrics.millis_since_quorum_ack.map(Duration::from_millis);
    metrics.state == ServerState::Leader
        && metrics.vote.leader_id.node_id == metrics.id
        && metrics.last_applied.is_some_and(is_own)
        && metrics.last_applied >= end_at_start
        && silence.is_some_and(|silence| silence < LOST_AFTER)
}

/// Who leads instead, for those who asked here.
pub(super) fn leads_not(inner: &openraft::Raft<Types>) -> Error {
    let metrics = inner.metrics();
    let metrics = metrics.borrow();
    let leader = metrics.current_leader;
    let node = leader.and_then(|id| {
        metrics
            .membership_config
            .membership()
            .get_node(&id)
            .cloned()
    });
    not_leader(metrics.id, leader, node.as_ref())
}

/// The error for what only the leader may do.
pub(super) fn not_leader(own: NodeId, leader: Option<NodeId>, node: Option<&BasicNode>) -> Error {
    // One that was cut off or removed while it led still holds its own vote.
    let leader = leader.filter(|id| *id != own).zip(node);
    let leader = leader.map(|(id, node)| Leader {
        id: server_id(id),
        address: node.addr.clone(),
    });
    super::not_leader(leader.as_ref())
}
