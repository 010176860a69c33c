//! Leaders die, are cut off or hear nobody: who succeeds them, how soon, and who would vote for whom.

use super::forgers::Forger;
use super::*;
use crate::raft::types::node_id;
use crate::raft::wire::{RaftCall, RaftReply};
use openraft::Vote;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};

/// A failover takes less (DESIGN §8).
const FAILOVER: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaders_death_is_overcome_within_three_seconds_and_loses_nothing_that_was_answered() {
    let mut group = Group::of_three(|options| options).await;
    let (mut answered, mut failovers) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let leader = group.leader().await;
        let rafts = group.nodes.values().map(|node| Arc::clone(&node.raft));
        let writer = Writer::start(rafts.collect(), ["a", "b", "c", "d"][round]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        // It dies while it writes.
        group.wires.cut_off(leader);
        let died = Instant::now();
        let rest = group.followers(leader);
        let next = group.leader_of(&rest).await;
        failovers.push(died.elapsed());
        assert_eq!(
            propose(&group.raft(next), &format!("after-{round}")).await,
            1
        );
        answered.extend(writer.stop().await);
        answered.push(format!("after-{round}"));
        group.raft(next).read_barrier().await.unwrap();
        all_applied_once(group.kv(next).as_ref(), &answered);
        group.kill(leader).await;
        group.restart(leader).await;
        // The one that came back has everything too.
        group.wait_for(leader, &format!("after-{round}"), 1).await;
        all_applied_once(group.kv(leader).as_ref(), &answered);
    }
    assert!(answered.len() > 40, "only {} were answered", answered.len());
    // One may meet a machine that does something else.
    failovers.sort();
    assert!(failovers[2] < FAILOVER, "failovers took {failovers:?}");
    group.stop().await;
}

/// By its silence alone nobody asks for votes within 700 ms of the leader's last word, which came up to 100 ms before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_machine_says_that_it_does_not_run_is_followed_sooner() {
    let mut failovers = Vec::new();
    for _ in 0..4 {
        let mut group = Group::of_three(|options| options).await;
        let leader = group.leader().await;
        assert_eq!(propose(&group.raft(leader), "x").await, 1);
        // Who has not caught up since the beginning does not vote.
        for id in group.followers(leader) {
            group.wait_for(id, "x", 1).await;
        }
        group.wires.cut_off(leader);
        group.wires.close(leader);
        let died = Instant::now();
        let next = group.leader_of(&group.followers(leader)).await;
        failovers.push(died.elapsed());
        assert_eq!(propose(&group.raft(next), "x").await, 2);
        group.kill(leader).await;
        group.stop().await;
    }
    // The others may meet a machine that does something else.
    let least = failovers.into_iter().min().unwrap();
    assert!(least < Duration::from_millis(600), "{least:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_with_the_longer_log_succeeds() {
    let mut group = Group::of_three(|options| options).await;
    let leader = group.leader().await;
    let [ahead, behind] = group.followers(leader)[..] else {
        panic!("three members");
    };
    group.wires.cut_off(behind);
    assert_eq!(propose(&group.raft(leader), "x").await, 1);
    group.kill(leader).await;
    group.wires.mend(behind);
    assert_eq!(group.leader().await, ahead);
    assert_eq!(propose(&group.raft(ahead), "x").await, 2);
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_cut_off_and_comes_back_deposes_nobody() {
    let group = Group::of_three(|options| options).await;
    let leader = group.leader().await;
    let away = group.followers(leader)[0];
    let term = group.raft(leader).metrics().term;
    group.wires.cut_off(away);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(group.raft(away).metrics().term, term, "it asked for votes");
    group.wires.mend(away);
    propose(&group.raft(leader), "x").await;
    group.wait_for(away, "x", 1).await;
    assert_eq!(group.raft(leader).metrics().term, term);
    assert!(group.raft(leader).is_leader());
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_hears_a_leader_or_has_the_longer_log_would_vote_for_nobody() {
    let group = Group::of_three(|options| options).await;
    let leader = group.leader().await;
    let [asked, asks] = group.followers(leader)[..] else {
        panic!("three members");
    };
    assert_eq!(propose(&group.raft(leader), "x").await, 1);
    group.wait_for(asked, "x", 1).await;
    let forger = Forger::new(&group, &group.name(asks));
    let end = group.raft(leader).succession.end.get();
    let would_vote = async |to, end, gone| {
        let call = RaftCall::WouldVote { end, gone };
        match forger.call(&group, to, call).await {
            Ok(RaftReply::WouldVote(would_vote)) => would_vote,
            other => panic!("{other:?}"),
        }
    };
    // Else nobody is voted for since an election runs.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!would_vote(asked, end, None).await);
    assert!(!would_vote(asked, end, Some(node_id(leader))).await);
    assert!(!would_vote(leader, end, None).await);
    for id in [asked, asks] {
        group.raft(id).succession.allow(false);
    }
    group.wires.cut_off(leader);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(would_vote(asked, end, None).await);
    assert!(!would_vote(asked, None, None).await, "its log is shorter");
    assert!(!would_vote(leader, end, None).await);
    // A leader of the past is not heard.
    let term = group.raft(asked).metrics().term;
    let past = AppendEntriesRequest {
        vote: Vote::new_committed(term - 1, node_id(asks)),
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    let answer = forger.call(&group, asked, RaftCall::Append(past)).await;
    let Ok(RaftReply::Append(AppendEntriesResponse::HigherVote(_))) = answer else {
        panic!("{answer:?}");
    };
    assert!(would_vote(asked, end, None).await);
    // Who has just voted waits for what comes of it.
    let vote = VoteRequest::new(Vote::new(term + 1, node_id(asks)), end);
    let answer = forger.call(&group, asked, RaftCall::Vote(vote)).await;
    let Ok(RaftReply::Vote(VoteResponse {
        vote_granted: true, ..
    })) = answer
    else {
        panic!("{answer:?}");
    };
    assert!(!would_vote(asked, end, None).await);
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_answers_no_read_and_confirms_no_command() {
    let group = Group::of_three(|options| options).await;
    let old = group.leader().await;
    let cut_off = group.raft(old);
    assert_eq!(propose(&cut_off, "x").await, 1);
    group.wires.cut_off(old);
    let asked = {
        let raft = Arc::clone(&cut_off);
        tokio::spawn(async move { raft.propose(Bytes::from("lost")).await })
    };
    // Whatever it believes of itself, it answers nothing; also once others go on.
    let rest = group.followers(old);
    let next = {
        let next = async {
            let next = group.leader_of(&rest).await;
            assert_eq!(propose(&group.raft(next), "x").await, 2);
            next
        };
        tokio::pin!(next);
        loop {
            tokio::select! {
                next = &mut next => break next,
                read = cut_off.read_barrier() => {
                    let error = read.expect_err("a read was answered");
                    assert!([Code::Unreachable, Code::NotLeader].contains(&error.code), "{error}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    };
    assert!(cut_off.read_barrier().await.is_err());
    assert_eq!(
        count(group.kv(old).as_ref(), "x"),
        1,
        "it knows nothing of it"
    );
    assert!(!cut_off.is_leader(), "it has noticed");
    assert!(cut_off.leader().is_none());
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::Disconnected, "{error}");

    group.wires.mend(old);
    group.wait_for(old, "x", 2).await;
    let error = cut_off.propose(Bytes::from("x")).await.unwrap_err();
    assert_eq!(error.code, Code::NotLeader, "{error}");
    assert_eq!(
        quarry_common::wire::meta::leader_named(&error).map(|(id, _)| id),
        Some(next)
    );
    assert_eq!(count(group.kv(next).as_ref(), "lost"), 0);
    group.stop().await;
}

/// What it says arrives, and keeps the others from standing: they must not hear it for as long as its connections live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hears_nobody_is_replaced_soon() {
    let group = Group::of_three(|options| options).await;
    let old = group.leader().await;
    assert_eq!(propose(&group.raft(old), "x").await, 1);
    group.wires.deafen(old);
    let begun = Instant::now();
    let next = group.leader_of(&group.followers(old)).await;
    let took = begun.elapsed();
    assert!(took < FAILOVER * 2, "another one leads after {took:?}");
    assert_eq!(propose(&group.raft(next), "x").await, 2);
    group.wires.mend(old);
    group.wait_for(old, "x", 2).await;
    group.stop().await;
}
