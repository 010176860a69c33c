//! Who belongs to the group: inviting, letting vote, moving, removing.
//!
//! A change of those who vote goes through a joint configuration, in which both the old and the new majority are
//! needed. If its leader dies in between, the next one finishes it ([`Raft::settle`]).

use super::group::failed;
use super::leading::not_leader;
use super::types::{NodeId, node_id, server_id};
use super::wire::{RaftCall, RaftReply};
use super::{Consensus, GroupMember, Leader, Raft};
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers, RaftMetrics};
use quarry_common::ids::ServerId;
use quarry_common::wire::meta::Standing;
use quarry_common::{Code, Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a member has to say how far it is.
const STANDING_WAIT: Duration = Duration::from_secs(1);

/// How long a report of a new address has to be taken.
const MOVED_WAIT: Duration = Duration::from_secs(2);

/// A learner that lacks at most so many entries has caught up: what comes meanwhile follows at once.
const LAG_MAX: u64 = 64;

type Metrics = RaftMetrics<NodeId, BasicNode>;

impl Raft {
    /// The members as this metaserver knows them.
    pub(super) fn members_now(&self) -> Vec<GroupMember> {
        let metrics = self.metrics_now();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let member = |(id, node): (&NodeId, &BasicNode)| GroupMember {
            id: server_id(*id),
            address: node.addr.clone(),
            votes: voters.contains(id),
        };
        membership.nodes().map(member).collect()
    }

    /// The index of the entry that says so.
    pub(super) fn members_at_now(&self) -> Option<u64> {
        let metrics = self.metrics_now();
        metrics.membership_config.log_id().map(|id| id.index)
    }

    /// Whether its log has not come to the entry that made this metaserver a member.
    pub(super) fn is_on_the_way(&self) -> bool {
        let metrics = self.inner.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let lacks_it = self.fitness.is_new() && membership.get_node(&metrics.id).is_none();
        !self.told_of.is_empty() && (membership.nodes().next().is_none() || lacks_it)
    }

    /// The members as far as they are known: those of whom this metaserver was told when it was made, as long as its log is
    /// on the way to there. Members without it are from before it was invited, and may all be gone by now.
    pub(super) fn known(&self) -> Vec<GroupMember> {
        if !self.is_on_the_way() {
            return self.members_now();
        }
        let told_of = self.told_of.iter().map(|(id, address)| GroupMember {
            id: *id,
            address: address.clone(),
            votes: true,
        });
        told_of.collect()
    }

    /// The others that are known, and where they are.
    pub(super) fn others(&self) -> BTreeMap<ServerId, String> {
        self.others_that(|_| true)
    }

    /// As [`Raft::others`], without those who only listen.
    pub(super) fn other_voters(&self) -> BTreeMap<ServerId, String> {
        self.others_that(|member| member.votes)
    }

    fn others_that(&self, counts: impl Fn(&GroupMember) -> bool) -> BTreeMap<ServerId, String> {
        let known = self.known().into_iter();
        known
            .filter(|member| member.id != self.server && counts(member))
            .map(|member| (member.id, member.address))
            .collect()
    }

    /// Those who vote, if this metaserver is to vote no more: it was removed, is being removed, or the removal is not agreed
    /// on and comes to nothing.
    pub(super) fn left_to(&self) -> Vec<Leader> {
        let metrics = self.metrics_now();
        let own = metrics.id;
        let membership = metrics.membership_config.membership();
        let configs = membership.get_joint_config();
        let (Some(first), Some(goal)) = (configs.first(), configs.last()) else {
            return Vec::new();
        };
        let is_leaving = first.contains(&own) && !goal.contains(&own);
        let is_gone = membership.get_node(&own).is_none() && !self.fitness.is_new();
        if !is_leaving && !is_gone {
            return Vec::new();
        }
        let others = goal.iter().filter_map(|id| {
            Some(Leader {
                id: server_id(*id),
                address: membership.get_node(id)?.addr.clone(),
            })
        });
        others.collect()
    }

    /// One of those who are left, if one of them says that this metaserver is no member any more. Who was removed gets no more
    /// entries of the log, so it has to ask.
    async fn removed_by(&self) -> Option<Leader> {
        let ours = self.members_at_now();
        for other in self.left_to() {
            let call = RaftCall::Members;
            let asked = self
                .network
                .call(self.shard, other.id, &other.address, call, MOVED_WAIT);
            if let Ok(RaftReply::Members { at, members }) = asked.await
                && at >= ours
                && !members.contains(&self.server)
            {
                return Some(other);
            }
        }
        None
    }

    /// How far this member is.
    pub(super) fn standing(&self) -> Standing {
        let metrics = self.metrics_now();
        Standing {
            term: metrics.current_term,
            last_log: metrics.last_log_index,
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: metrics.snapshot.map(|id| id.index),
            is_new: self.fitness.is_new(),
        }
    }

    /// Asks all members at once.
    pub(super) async fn ask_standings(&self) -> Vec<(ServerId, Standing)> {
        let mut asked = tokio::task::JoinSet::new();
        for (id, address) in self.others() {
            let (network, shard) = (self.network.clone(), self.shard);
            asked.spawn(async move {
                let call = network.call(shard, id, &address, RaftCall::Standing, STANDING_WAIT);
                match call.await {
                    Ok(RaftReply::Standing(standing)) => Some((id, standing)),
                    _ => None,
                }
            });
        }
        let mut standings = vec![(self.server, self.standing())];
        standings.extend(asked.join_all().await.into_iter().flatten());
        standings.sort_by_key(|(id, _)| *id);
        standings
    }

    /// Tells the group where this member is reached now, if that is not what the others know.
    ///
    /// # Errors
    /// `Unreachable`: nobody who leads was reached; `WrongRole`: this metaserver was removed.
    pub(super) async fn tell_address(&self, address: &str) -> Result<()> {
        if !self.is_leader()
            && let Some(Leader { id, address }) = self.removed_by().await
        {
            let text = format!(
                "this metaserver was removed from its cluster, which metaserver {id} at {address} belongs to: stop its process and \
                 remove its directory"
            );
            return Err(Error::new(Code::WrongRole, text));
        }
        let own = self
            .members_now()
            .into_iter()
            .find(|member| member.id == self.server);
        if own.is_none_or(|own| own.address == address) {
            return Ok(());
        }
        if self.is_leader() {
            return self.move_member(self.server, address.to_owned()).await;
        }
        let mut last = Error::new(Code::Unreachable, "there is no other metaserver");
        for (id, at) in self.others() {
            let moved = RaftCall::Moved(address.to_owned());
            match self
                .network
                .call(self.shard, id, &at, moved, MOVED_WAIT)
                .await
            {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks those of whom this metaserver was told whether they are in a group; who is first to say so.
    pub async fn find_group(&self) -> Option<ServerId> {
        let mut asked = tokio::task::JoinSet::new();
        for (id, address) in self.others() {
            let (network, shard) = (self.network.clone(), self.shard);
            asked.spawn(async move {
                let call = network.call(shard, id, &address, RaftCall::Members, STANDING_WAIT);
                (id, call.await)
            });
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok((id, Ok(RaftReply::Members { members, .. }))) = answer
                && !members.is_empty()
            {
                return Some(id);
            }
        }
        None
    }

    /// A member is reached elsewhere from now on.
    pub(super) async fn move_member(&self, id: ServerId, address: String) -> Result<()> {
        let known = self
            .members_now()
            .into_iter()
            .find(|member| member.id == id);
        match known {
            Some(member) if member.address == address => return Ok(()),
            Some(_) => {}
            None => return Err(unknown(id)),
        }
        tracing::info!(metaserver = %id, %address, "a metaserver has moved");
        let nodes = BTreeMap::from([(node_id(id), BasicNode::new(address))]);
        self.change(ChangeMembers::SetNodes(nodes)).await
    }

    /// Invites a metaserver.
    pub(super) async fn add(&self, id: ServerId, address: String) -> Result<()> {
        let nodes = BTreeMap::from([(node_id(id), BasicNode::new(address))]);
        self.change(ChangeMembers::AddNodes(nodes)).await
    }

    /// Removes a member.
    pub(super) async fn remove(&self, id: ServerId) -> Result<()> {
        let members = self.members_now();
        let Some(member) = members.iter().find(|member| member.id == id) else {
            return Err(unknown(id));
        };
        let ids = BTreeSet::from([node_id(id)]);
        if !member.votes {
            return self.change(ChangeMembers::RemoveNodes(ids)).await;
        }
        let rest: Vec<ServerId> = members
            .iter()
            .filter(|member| member.votes && member.id != id)
            .map(|member| member.id)
            .collect();
        if rest.is_empty() {
            let text = "the last metaserver can not be removed: add another first";
            return Err(Error::new(Code::Busy, text));
        }
        let running = self.ask_standings().await;
        let is_running = |id: &ServerId| {
            let standing = running.iter().find(|(running, _)| running == id);
            standing.is_some_and(|(_, standing)| !standing.is_new)
        };
        let up = rest.iter().filter(|id| is_running(id)).count();
        if up * 2 <= rest.len() {
            let text = format!(
                "without metaserver {id}, {up} of {} metaservers would run, which is no majority: start the others or add some first",
                rest.len()
            );
            return Err(Error::new(Code::Busy, text));
        }
        self.change(ChangeMembers::RemoveVoters(ids)).await
    }

    /// Finishes what an earlier leader began, and lets those vote who have caught up.
    pub(super) async fn settle(&self) -> Result<()> {
        let metrics = self.metrics_now();
        let membership = metrics.membership_config.membership();
        if let [_, .., goal] = membership.get_joint_config().as_slice() {
            let named: Vec<String> = goal.iter().map(NodeId::to_string).collect();
            let named = named.join(", ");
            tracing::info!("finishing a change of members: metaservers {named} will vote");
            return self
                .change(ChangeMembers::ReplaceAllVoters(goal.clone()))
                .await;
        }
        let learners: Vec<NodeId> = membership.learner_ids().collect();
        for learner in learners {
            if has_caught_up(&metrics, learner) {
                tracing::info!(
                    metaserver = learner,
                    "it has caught up and votes from now on"
                );
                let ids = BTreeSet::from([learner]);
                return self.change(ChangeMembers::AddVoterIds(ids)).await;
            }
        }
        Ok(())
    }

    async fn change(&self, changes: ChangeMembers<NodeId, BasicNode>) -> Result<()> {
        let mut leading = self.leading();
        let term = *leading.borrow_and_update();
        // Whoever stops to vote has no business in the group any more: not even as one that listens.
        let changed = async {
            match self.inner.change_membership(changes, false).await {
                Ok(_) => Ok(()),
                Err(RaftError::Fatal(error)) => Err(failed(error)),
                Err(RaftError::APIError(error)) => Err(refused(self, error)),
            }
        };
        tokio::select! {
            biased;
            changed = changed => changed,
            _ = leading.wait_for(|now| *now != term) => Err(Error::new(
                Code::Disconnected,
                "this metaserver does not lead any more: look at 'quarry metaserver status' whether the change was made",
            )),
        }
    }
}

fn has_caught_up(metrics: &Metrics, learner: NodeId) -> bool {
    let matching = metrics
        .replication
        .as_ref()
        .and_then(|all| all.get(&learner));
    let last = metrics.last_log_index.unwrap_or(0);
    matching.is_some_and(|matching| {
        matching.is_some_and(|matching| matching.index.saturating_add(LAG_MAX) >= last)
    })
}

fn unknown(id: ServerId) -> Error {
    Error::new(
        Code::NotFound,
        format!("there is no metaserver {id}: 'quarry metaserver status' lists them"),
    )
}

fn refused(raft: &Raft, error: ClientWriteError<NodeId, BasicNode>) -> Error {
    let error = match error {
        ClientWriteError::ForwardToLeader(leader) => {
            return not_leader(
                node_id(raft.server),
                leader.leader_id,
                leader.leader_node.as_ref(),
            );
        }
        ClientWriteError::ChangeMembershipError(error) => error,
    };
    let text = match error {
        ChangeMembershipError::InProgress(_) => {
            "another change of metaservers is under way: try again in a moment".to_owned()
        }
        ChangeMembershipError::EmptyMembership(_) => {
            "the last metaserver can not be removed".to_owned()
        }
        ChangeMembershipError::LearnerNotFound(_) => {
            "it is no member, or votes: 'quarry metaserver status' shows which".to_owned()
        }
    };
    Error::new(Code::Busy, text)
}
