//! Whom a metaserver follows while its own log is new.
//!
//! Raft has a member follow any leader whose term is not below the greatest that it has seen. A new log has seen none, but
//! its member may have: it may have lost its disk (see [`super::fitness`]) after it had elected a later leader and agreed
//! with it on something. An earlier leader that comes back would then agree with it on something else. So it asks the
//! others for their terms, and follows nobody who is behind one of them.
//!
//! How many have to answer: of n members, a majority of m elected that later leader, and each of them stored its term. Of the
//! n some are new, this one among them, and may have forgotten it; those of the m that are not remember. So n - m + 1 that are not
//! new can not all be outside of the m: one of them names the later term. The leader is one of those who are asked, and
//! counts once. What is elected after they have answered is elected without this one, which gives no votes, or gives one
//! in a group's first election and stores it: from then on this is Raft as it is written. One that was just added counts
//! itself among the n though it does not vote: the others are then asked for no fewer.
//!
//! When a group begins all are new. Its first leader is so until it has agreed with others on an entry of its own, and
//! answers nobody before that is no longer so on its disk ([`super::fitness::Fitness::handle_fit`]): whoever leads and is new
//! takes nothing back that was answered.

use super::Raft;
use super::types::NodeId;
use super::wire::{RaftCall, RaftReply};
use openraft::Vote;
use quarry_common::ids::ServerId;
use quarry_common::{Code, Error, Result};
use std::time::Duration;

/// How long the others have to tell their terms.
const TERM_WAIT: Duration = Duration::from_millis(500);

/// The leader that a new log follows, once the others were asked. Held while they are; a queue for nobody: it is only
/// ever tried.
#[derive(Default)]
pub(super) struct Belief(tokio::sync::Mutex<Option<Vote<NodeId>>>);

/// So many of a group, this one not among them, tell for certain.
fn enough(members: usize) -> usize {
    let majority = members / 2 + 1;
    members - majority + 1
}

impl Raft {
    /// Whether this metaserver follows that leader.
    ///
    /// # Errors
    /// `Overloaded` (later): its log is new, and somebody has seen a later leader, or too few say that they have not.
    pub(super) async fn check_belief(&self, leader: ServerId, vote: &Vote<NodeId>) -> Result<()> {
        // A vote of a leader is stored only after this check.
        if !self.fitness.is_new() || self.metrics_now().vote == *vote {
            return Ok(());
        }
        let Ok(mut believed) = self.belief.0.try_lock() else {
            return Err(not_yet("asks the others for their terms".to_owned()));
        };
        if *believed == Some(*vote) {
            return Ok(());
        }
        self.ask_terms(leader, vote.leader_id.term).await?;
        *believed = Some(*vote);
        Ok(())
    }

    async fn ask_terms(&self, leader: ServerId, term: u64) -> Result<()> {
        let others = self.other_voters();
        let needed = enough(others.len() + 1);
        let mut asked = tokio::task::JoinSet::new();
        for (id, address) in others {
            let (network, shard) = (self.network.clone(), self.shard);
            asked.spawn(async move {
                let call = network.call(shard, id, &address, RaftCall::Standing, TERM_WAIT);
                (id, call.await)
            });
        }
        let (mut answered, mut begins) = (0, false);
        while let Some(answer) = asked.join_next().await {
            let Ok((id, Ok(RaftReply::Standing(standing)))) = answer else {
                continue;
            };
            if standing.term > term {
                return Err(not_yet(format!(
                    "does not follow metaserver {leader} in term {term}: metaserver {id} has seen term {}",
                    standing.term
                )));
            }
            match standing.is_new {
                true => begins |= id == leader,
                false => answered += 1,
            }
            if answered >= needed {
                return Ok(());
            }
        }
        match begins {
            true => Ok(()),
            false => Err(not_yet(format!(
                "follows no leader before {needed} others whose logs are not new have told their terms; {answered} have: start them"
            ))),
        }
    }
}

fn not_yet(what: String) -> Error {
    Error::new(
        Code::Overloaded,
        format!("this metaserver began with an empty log and {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every majority with or without this member has one of those who are asked in it.
    #[test]
    fn no_majority_is_without_one_that_has_answered() {
        for members in 2..=7usize {
            let majority = members / 2 + 1;
            let asked = enough(members);
            assert!(asked < members, "the others are enough of {members}");
            // Those who are neither this one nor asked, and this one.
            assert!(members - asked < majority, "{members}");
            // One less would not do.
            assert!(members - (asked - 1) >= majority, "{members}");
        }
    }
}
