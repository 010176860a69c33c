//! Forgeries: of strangers, of members that were removed and of those that break the rules.

use super::*;
use crate::raft::transfer;
use crate::raft::types::{NodeId, SnapshotMeta, Types, node_id};
use crate::raft::wire::{RaftCall, RaftReply, RaftRequest, SnapshotAnswer, SnapshotHead};
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::{CommittedLeaderId, Vote};
use quarry_common::codec;
use quarry_common::net::{BulkReader, BulkWriter, Peers};

/// Somebody with a certificate of this cluster.
pub(super) struct Forger {
    peers: Peers,
}

impl Forger {
    pub(super) fn new(group: &Group, name: &PeerName) -> Forger {
        let endpoint = group.endpoint(name);
        Forger {
            peers: Peers::with_stream(endpoint, StreamType::Raft),
        }
    }

    pub(super) async fn call(
        &self,
        group: &Group,
        to: ServerId,
        call: RaftCall,
    ) -> Result<RaftReply> {
        let at = group.nodes[&to].endpoint.local_addr().unwrap();
        let peer = self.peers.get(&group.name(to), at).await?;
        let request = codec::encode(&RaftRequest {
            shard: ShardId::FIRST,
            call,
        });
        let answer = peer.requests.call(request.into(), LONG).await?;
        codec::decode::<Result<RaftReply>>("an answer", &answer)?
    }

    async fn snapshot(
        &self,
        group: &Group,
        to: ServerId,
        vote: Vote<NodeId>,
        snapshot: &openraft::Snapshot<Types>,
    ) -> Result<Vote<NodeId>> {
        let at = group.nodes[&to].endpoint.local_addr().unwrap();
        let peer = self.peers.get(&group.name(to), at).await?;
        let streams = peer.connection.open(StreamType::RaftSnapshot).await?;
        transfer::send(streams, ShardId::FIRST, vote, snapshot).await
    }
}

fn asks_for_vote(term: u64, candidate: ServerId) -> RaftCall {
    let last = openraft::LogId::new(CommittedLeaderId::new(term - 1, 1), 1_000_000);
    RaftCall::Vote(VoteRequest::new(
        Vote::new(term, node_id(candidate)),
        Some(last),
    ))
}

fn appends(term: u64, leader: ServerId, prev: Option<(u64, u64)>, index: u64) -> RaftCall {
    let id = |term, index| openraft::LogId::new(CommittedLeaderId::new(term, 1), index);
    RaftCall::Append(AppendEntriesRequest {
        vote: Vote::new_committed(term, node_id(leader)),
        prev_log_id: prev.map(|(term, index)| id(term, index)),
        entries: vec![openraft::Entry {
            log_id: id(1, index),
            payload: openraft::EntryPayload::Blank,
        }],
        leader_commit: None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_the_removed_and_forgeries_are_refused_and_change_nothing() {
    let mut group = Group::of_three(|options| options).await;
    add(&mut group, ServerId(4)).await;
    let begun = Instant::now();
    while let Err(error) = group
        .raft(group.leader().await)
        .remove_member(ServerId(4))
        .await
    {
        assert!(begun.elapsed() < LONG, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rest: Vec<ServerId> = ids(1..=3).collect();
    let leader = group.leader_of(&rest).await;
    assert_eq!(propose(&group.raft(leader), "x").await, 1);
    let target = *rest.iter().find(|id| **id != leader).unwrap();
    group.wait_for(target, "x", 1).await;
    let term = group.raft(target).metrics().term;

    let cluster = group.authority.cluster();
    // Dataservers and users have no business here; their stream is closed.
    for name in [
        PeerName::dataserver(cluster, ServerId(1)),
        PeerName::user(cluster, "eve").unwrap(),
    ] {
        let forger = Forger::new(&group, &name);
        let refused = forger.call(&group, target, RaftCall::Members).await;
        assert_eq!(refused.unwrap_err().code, Code::Disconnected, "{name}");
    }
    // The removed one, and one that never was a member.
    for outsider in [ServerId(4), ServerId(9)] {
        let forger = Forger::new(&group, &group.name(outsider));
        for call in [
            asks_for_vote(term + 5, outsider),
            appends(term + 5, outsider, None, 0),
            RaftCall::Standing,
            RaftCall::WouldVote {
                end: None,
                gone: None,
            },
            RaftCall::Moved("127.0.0.1:9".into()),
        ] {
            let error = forger.call(&group, target, call).await.unwrap_err();
            assert_eq!(error.code, Code::WrongRole, "{error}");
        }
    }
    // A member that breaks the rules.
    let other = *rest
        .iter()
        .find(|id| **id != leader && **id != target)
        .unwrap();
    let forger = Forger::new(&group, &group.name(other));
    for call in [
        asks_for_vote(u64::MAX, other),
        asks_for_vote(term + 5, leader),
        appends(u64::MAX, other, None, 0),
        appends(term + 5, leader, None, 0),
        // A gap.
        appends(term + 5, other, None, 7),
        appends(term + 5, other, Some((1, 100)), 200),
    ] {
        let error = forger.call(&group, target, call).await.unwrap_err();
        assert_eq!(error.code, Code::Malformed, "{error}");
    }
    assert_eq!(group.raft(target).metrics().term, term);
    assert_eq!(
        propose(&group.raft(group.leader_of(&rest).await), "x").await,
        2
    );
    group.wait_for(target, "x", 2).await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_snapshot_is_refused_and_harms_nothing() {
    use openraft::RaftSnapshotBuilder;
    let group = Group::of_three(|options| options).await;
    let leader = group.leader().await;
    for _ in 0..20 {
        propose(&group.raft(leader), "x").await;
    }
    let [target, other] = group.followers(leader)[..] else {
        panic!("three members");
    };
    group.wait_for(target, "x", 20).await;
    let good = group
        .raft(leader)
        .machine()
        .unwrap()
        .build_snapshot()
        .await
        .unwrap();
    let forger = Forger::new(&group, &group.name(other));
    let term = group.raft(target).metrics().term;
    let vote = Vote::new_committed(term + 1, node_id(other));
    let ahead = |meta: &SnapshotMeta| {
        let mut meta = meta.clone();
        let last = meta.last_log_id.unwrap();
        meta.last_log_id = Some(openraft::LogId::new(last.leader_id, last.index + 1_000));
        meta
    };
    // A state that is not what is said of it.
    let false_meta = openraft::Snapshot {
        meta: ahead(&good.meta),
        snapshot: good.snapshot.clone(),
    };
    // Files that are no state, whose checksums are right.
    let spoilt = group.raft(other).machine().unwrap().receive().unwrap();
    for file in std::fs::read_dir(good.snapshot.copy_dir()).unwrap() {
        let file = file.unwrap();
        let mut bytes = std::fs::read(file.path()).unwrap();
        if file.path().extension().is_some_and(|end| end == "sst") {
            let middle = bytes.len() / 4;
            bytes[middle] ^= 0xff;
        }
        std::fs::write(spoilt.copy_dir().join(file.file_name()), bytes).unwrap();
    }
    let damaged = openraft::Snapshot {
        meta: ahead(&good.meta),
        snapshot: Box::new(spoilt),
    };
    let empty = openraft::Snapshot {
        meta: ahead(&good.meta),
        snapshot: Box::new(group.raft(other).machine().unwrap().receive().unwrap()),
    };
    for (what, snapshot) in [
        ("false", &false_meta),
        ("damaged", &damaged),
        ("empty", &empty),
    ] {
        let refused = forger.snapshot(&group, target, vote, snapshot).await;
        let error = refused.expect_err(what);
        assert_ne!(error.code, Code::Disconnected, "{what}: {error}");
    }
    let stranger = Forger::new(&group, &group.name(ServerId(9)));
    let strange = Vote::new_committed(term + 1, 9);
    let refused = stranger.snapshot(&group, target, strange, &good).await;
    assert_eq!(refused.unwrap_err().code, Code::WrongRole);
    let refused = forger.snapshot(&group, target, strange, &good).await;
    assert_eq!(refused.unwrap_err().code, Code::Malformed);

    let metrics = group.raft(target).metrics();
    assert_eq!((metrics.term, metrics.leader), (term, Some(leader)));
    assert_eq!(propose(&group.raft(leader), "x").await, 21);
    group.wait_for(target, "x", 21).await;
    let left = std::fs::read_dir(group.dir(target).join("snapshots"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "what was received is removed");
    group.stop().await;
}

/// Its sender may have been cut off in the middle of it, and nobody else could send one until that is noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_stands_still_gives_way_to_the_next_one() {
    use openraft::RaftSnapshotBuilder;
    let group = Group::of_three(|options| options).await;
    let leader = group.leader().await;
    assert_eq!(propose(&group.raft(leader), "x").await, 1);
    let target = group.followers(leader)[0];
    let mut machine = group.raft(leader).machine().unwrap();
    let good = machine.build_snapshot().await.unwrap();
    // Whoever has it keeps the member from stopping.
    drop(machine);
    let vote = Vote::new_committed(group.raft(leader).metrics().term, node_id(leader));
    let forger = Forger::new(&group, &group.name(leader));
    let stalled = {
        let at = group.nodes[&target].endpoint.local_addr().unwrap();
        let peer = forger.peers.get(&group.name(target), at).await.unwrap();
        let (send, recv) = peer
            .connection
            .open(StreamType::RaftSnapshot)
            .await
            .unwrap();
        let mut writer = BulkWriter::new(send);
        let head = SnapshotHead {
            shard: ShardId::FIRST,
            vote,
            meta: good.meta.clone(),
            files: 1,
            len: 1,
        };
        writer.write_message(&head).await.unwrap();
        (writer, BulkReader::new(recv))
    };
    let arriving = || {
        let dir = std::fs::read_dir(group.dir(target).join("snapshots"));
        dir.unwrap().count()
    };
    let begun = Instant::now();
    while arriving() == 0 {
        assert!(begun.elapsed() < LONG, "the first does not arrive");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    let answer = forger.snapshot(&group, target, vote, &good).await;
    assert_eq!(answer.unwrap(), vote);
    assert!(begun.elapsed() < Duration::from_secs(5), "{begun:?}");
    let (_writer, mut reader) = stalled;
    let answer = reader.read_message::<SnapshotAnswer>("an answer").await;
    let error = answer.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code, Code::Overloaded, "{error}");
    group.stop().await;
}
