//! Bytes of what the state and snapshots keep for Raft: these never change.

use super::Apply;
use super::log::Growth;
use super::machine::Machine;
use super::snapshot::Snapshots;
use super::types::{LogEntry, NodeId};
use crate::kv::{Batch, Family, KvRead, Memory};
use bytes::Bytes;
use openraft::storage::RaftStateMachine;
use openraft::{BasicNode, CommittedLeaderId, EntryPayload, RaftSnapshotBuilder};
use quarry_common::Result;
use quarry_common::checksum::Crc;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Has no commands.
struct Nothing;

impl Apply for Nothing {
    fn apply(&self, _base: &dyn KvRead, _entry: &[u8]) -> Result<(Batch, Bytes)> {
        Ok(Default::default())
    }

    fn reset(&self) {}
}

/// Metaservers 1 at `a` and 2 at `b`.
pub(in crate::raft) fn two_members() -> openraft::Membership<NodeId, BasicNode> {
    let nodes = [(1, BasicNode::new("a")), (2, BasicNode::new("b"))];
    openraft::Membership::new(vec![BTreeSet::from([1, 2])], BTreeMap::from(nodes))
}

/// [`two_members`].
#[rustfmt::skip]
pub(in crate::raft) const TWO_MEMBERS: [u8; 11] = [
    1, 2, 1, 2,           // one configuration of two: 1, 2
    2, 1, 1, b'a',        // two nodes: 1 and its address,
    2, 1, b'b',           // 2 and its address
];

fn entry(index: u64, payload: EntryPayload<super::types::Types>) -> LogEntry {
    LogEntry {
        log_id: openraft::LogId::new(CommittedLeaderId::new(3, 1), index),
        payload,
    }
}

#[tokio::test]
async fn what_the_state_and_a_snapshot_keep_for_raft_stays_as_it_was_shipped() {
    let dir = tempfile::tempdir().unwrap();
    let kv = Arc::new(Memory::new());
    let mut machine = Machine::open(
        kv.clone(),
        Arc::new(Nothing),
        Snapshots::open(dir.path()).unwrap(),
        Arc::default(),
        Arc::new(Growth::new(u64::MAX)),
        Arc::new(|error| panic!("{error:?}")),
        tokio::sync::mpsc::channel(1).0,
    )
    .unwrap();
    let members = entry(6, EntryPayload::Membership(two_members()));
    let applied = machine.apply([members, entry(7, EntryPayload::Blank)]);
    applied.await.unwrap();

    let stored = |key: &str| kv.get(Family::System, key.as_bytes()).unwrap().unwrap();
    // Version; term, node, index.
    assert_eq!(stored("raft/applied")[..], [1, 3, 1, 7]);
    // There is an entry that made them: term, node, index; the members.
    let members = [&[1, 3, 1, 6][..], &TWO_MEMBERS].concat();
    assert_eq!(stored("raft/membership")[..], [&[1][..], &members].concat());

    machine.build_snapshot().await.unwrap();
    let name = "00000000000000000008-1";
    let meta = std::fs::read(dir.path().join(name).join("meta")).unwrap();
    // There is a last entry: term, node, index; the members; the name.
    let body = [&[1, 3, 1, 7][..], &members, &[22], name.as_bytes()].concat();
    let head = [&[1][..], &Crc::of(&body).0.to_le_bytes()].concat();
    assert_eq!(meta, [head, body].concat());
}
