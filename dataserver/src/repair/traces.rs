//! Traces of the model of the data plane that go through a source of repair: what a listing takes over, the hop that
//! is to acknowledge at the same time must know.

use super::core::{Action, Core};
use super::list;
use crate::caller::Caller;
use crate::dial::Dial;
use crate::disk::{Disk, DiskIdentity, DiskOptions};
use crate::disks::Disks;
use crate::membership::{Membership, boot_time};
use crate::node::Node;
use crate::pipeline::core::{Action as HopAction, Core as Hop, Place, Point};
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::identity::{Authority, PeerName, SERVER_VALID};
use quarry_common::ids::{ChunkId, ClusterId, DiskId, Epoch, KeyNumber, PgId, PoolId, ServerId};
use quarry_common::map::{
    ClusterMap, EpochRange, FailureDomain, Holder, Member, MemberState, Pool, Redundancy, Row,
};
use quarry_common::net::Endpoint;
use quarry_common::token::Key;
use quarry_common::token::receipt::Durable;
use quarry_common::wire::data::frame::Head;
use quarry_common::wire::data::{DataReply, ListChunks, ReplicaState, WriteReply};
use quarry_common::wire::meta::admin::Keys;
use quarry_common::{Code, Kind, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const CLUSTER: ClusterId = ClusterId(*b"a test's cluster");
const POOL: PoolId = PoolId(1);
const PG: PgId = PgId(0);
const X0: ChunkId = ChunkId(0);

fn key() -> Key {
    Key {
        number: KeyNumber(1),
        secret: [1; 32],
    }
}

/// The map of an epoch: complete members, and one that fills since this epoch.
fn map(epoch: u64, complete: &[u32], filling: Option<u32>, holder: Option<u32>) -> ClusterMap {
    let epoch = Epoch(epoch);
    let mut map = ClusterMap {
        epoch,
        ..ClusterMap::default()
    };
    let pool = Pool {
        name: "p".into(),
        redundancy: Redundancy::Replicated {
            replicas: 3,
            min_members: 1,
        },
        failure_domain: FailureDomain::Host,
        pg_count: 1,
        chunk_len_max: 64 << 20,
        in_use: true,
        exceptions: BTreeMap::from([(0, filling.map(DiskId).into_iter().collect())]),
    };
    map.topology.pools.insert(POOL, pool);
    for disk in 0..4 {
        let found = quarry_common::map::Disk {
            server: ServerId(disk),
            path: String::new(),
            weight: 1,
            state: quarry_common::map::DiskState::In,
            open_number: quarry_common::ids::OpenNumber(1),
        };
        map.topology.disks.insert(DiskId(disk), found);
        let server = quarry_common::map::Server {
            address: String::new(),
            host: format!("h{disk}"),
            rack: String::new(),
            zone: String::new(),
        };
        map.topology.servers.insert(ServerId(disk), server);
    }
    let member = |disk, state, since| {
        Some(Member {
            disk: DiskId(disk),
            state,
            since,
        })
    };
    let complete = complete.iter();
    let complete = complete.map(|disk| member(*disk, MemberState::Complete, Epoch(1)));
    let filling = filling.map(|disk| member(disk, MemberState::Filling, epoch));
    let row = Row {
        epoch,
        changed_at: epoch,
        members: complete.chain(filling).collect(),
        holders: holder
            .map(|disk| Holder {
                disk: DiskId(disk),
                covers: vec![EpochRange {
                    first: Epoch(0),
                    last: Epoch(epoch.0 - 1),
                }],
            })
            .into_iter()
            .collect(),
    };
    map.rows.insert(POOL, vec![row]);
    map
}

/// A dataserver with one disk, without its loops.
struct Source {
    node: Node,
    disk: DiskId,
    _dir: tempfile::TempDir,
}

impl Source {
    /// Has just started: no heartbeat was answered.
    fn start(disk: u32) -> Source {
        let dir = tempfile::tempdir().unwrap();
        let disk = DiskId(disk);
        let identity = DiskIdentity {
            cluster: CLUSTER,
            disk,
        };
        Disk::format(dir.path(), identity).unwrap();
        let options = DiskOptions {
            free_percent: 0,
            ..DiskOptions::default()
        };
        let open = Disk::open(dir.path(), CLUSTER, options).unwrap();
        let authority = Authority::create(CLUSTER, SystemTime::now()).unwrap();
        let name = PeerName::dataserver(CLUSTER, ServerId(disk.0));
        let issued = authority.issue(&name, SERVER_VALID, SystemTime::now());
        let dial = Dial::new(Endpoint::client(Arc::new(issued.unwrap())).unwrap());
        let disks = Disks::new(vec![open], Vec::new());
        Source {
            node: Node::new(CLUSTER, Membership::new(Keys::default()), disks, dial, None),
            disk,
            _dir: dir,
        }
    }

    /// A heartbeat brings a map.
    fn heartbeat(&self, map: ClusterMap) {
        let keys = Keys {
            capability: Vec::new(),
            receipt: Some(key()),
        };
        self.node.membership.take_over(Some(map), keys, boot_time());
    }

    async fn list(&self, epoch: u64) -> Result<DataReply> {
        let wanted = ListChunks {
            disk: self.disk,
            pool: POOL,
            groups: vec![(PG, Epoch(epoch))],
            from: None,
        };
        let lister = Caller::Dataserver([0; 32], ServerId(3));
        list::answer(&self.node, lister, wanted).await
    }

    /// Lengths of x0 in the list for the lister's epoch; 0 if it is not there.
    async fn listed(&self, epoch: u64) -> u32 {
        match self.list(epoch).await.unwrap() {
            DataReply::Listed { chunks, .. } => {
                assert!(chunks.len() <= 1);
                chunks.first().map_or(0, |(_, listed)| {
                    assert_ne!(listed.info.state, ReplicaState::SetAside);
                    listed.info.len
                })
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A hop that writes x0 under epoch 1 with these after it: it has received byte 0 and a flush.
fn received(disk: u32, after: &[u32]) -> (Hop, Point) {
    let mut hop = Hop::new(Place {
        pool: POOL,
        chunk: X0,
        epoch: Epoch(1),
        disk: DiskId(disk),
        after: after.iter().copied().map(DiskId).collect(),
        capacity: 1 << 20,
    });
    let crc = Crc::of(b"x");
    hop.handle_head(Head::Data { offset: 0, len: 1 });
    hop.handle_data(&[crc]);
    hop.handle_head(Head::Flush { len: 1, crc });
    let seal = false;
    (hop, Point { len: 1, crc, seal })
}

/// The hop's disk is durable, after all those after it: what it acknowledges.
fn acknowledged(source: &Source, hop: &mut Hop, point: Point, after: &[u32]) -> Vec<HopAction> {
    let standing = || source.node.membership.standing(POOL, X0, Epoch(1));
    let mut actions = hop.handle_durable(&standing());
    if !after.is_empty() {
        let durable = Durable {
            pool: POOL,
            chunk: X0,
            epoch: Epoch(1),
            len: point.len,
            crc: point.crc,
        };
        let word = |disk: &u32| durable.sign(&key(), DiskId(*disk));
        let reply = WriteReply::Ack {
            len: point.len,
            crc: point.crc,
            sealed: false,
            macs: after.iter().map(word).collect(),
        };
        actions.extend(hop.handle_reply(reply, &standing()));
    }
    let is_ack = |action: &HopAction| matches!(action, HopAction::Acknowledge { .. });
    actions.retain(is_ack);
    actions
}

/// d0 is the head, received x0, and is cut off; the members become d1, d2, d3; d3 lists d0 with e2 and sees
/// nothing; then d0 becomes durable. That must not become a receipt.
#[tokio::test]
async fn trace_r_arrival() {
    let d0 = Source::start(0);
    d0.heartbeat(map(1, &[0, 1, 2], None, None));
    // Without the listing it does.
    let (mut hop, point) = received(0, &[1, 2]);
    assert_eq!(acknowledged(&d0, &mut hop, point, &[1, 2]).len(), 1);
    let (mut hop, point) = received(0, &[1, 2]);
    // Cut off, d0 can not learn of e2 from the metaservers: it lists nothing for somebody who knows it.
    assert_eq!(d0.list(2).await.unwrap_err().code, Code::Overloaded);
    // With its heartbeat it does, and from then on acknowledges nothing of e1.
    d0.heartbeat(map(2, &[1, 2], Some(3), Some(0)));
    assert_eq!(d0.listed(2).await, 0);
    assert_eq!(acknowledged(&d0, &mut hop, point, &[1, 2]), []);
}

/// A listing that was refused counts for nothing: d3 is not complete.
#[tokio::test]
async fn trace_r_nofence() {
    let d0 = Source::start(0);
    d0.heartbeat(map(1, &[0, 1, 2], None, None));
    // d1 is cut off and down; d0 stays the head and has not heard of it.
    let at_e2 = map(2, &[0, 2], Some(3), Some(1));
    let (mut hop, point) = received(0, &[1, 2]);
    let mut d3 = Core::new(DiskId(3));
    d3.handle_map(&at_e2);
    let mut actions = d3.next(Duration::ZERO);
    assert_eq!(actions.len(), 1);
    let Action::List(id, wanted) = actions.remove(0) else {
        panic!("{actions:?}");
    };
    assert_eq!(
        wanted.groups,
        [(PG, Epoch(2))],
        "a listing carries the epoch"
    );
    let refused = d0.list(2).await.unwrap_err();
    d3.handle_list_failure(id, &refused, Duration::ZERO);
    let is_report = |action: &Action| matches!(action, Action::Report(_));
    let later = |seconds| Duration::from_secs(seconds);
    assert!(!(0..9).any(|at| d3.next(later(at)).iter().any(is_report)));
    // The refusal took its time.
    d0.heartbeat(map(1, &[0, 1, 2], None, None));
    // d0 acknowledges, since it knows nothing else; that listing comes after it and sees it.
    assert_eq!(acknowledged(&d0, &mut hop, point, &[1, 2]).len(), 1);
    let disk = d0.node.disks.get(d0.disk).unwrap();
    disk.write_small(POOL, X0, Bytes::from_static(b"x"), point.crc)
        .await
        .unwrap();
    d0.heartbeat(at_e2);
    assert_eq!(d0.listed(2).await, 1);
}

/// No lease protects: d0 has one that never ends, and is asked all the same.
#[tokio::test]
async fn trace_r_nofence_nolease_and_two_leaseonly() {
    let d0 = Source::start(0);
    d0.heartbeat(map(1, &[0, 1], None, None));
    let (mut hop, point) = received(0, &[1]);
    d0.heartbeat(map(2, &[0], Some(2), Some(1)));
    assert_eq!(d0.listed(2).await, 0);
    assert!(d0.node.membership.check_lease().is_ok());
    assert_eq!(acknowledged(&d0, &mut hop, point, &[1]), []);
    // A lister that does not know e2 itself learns nothing.
    assert_eq!(d0.list(1).await.unwrap_err().code, Code::OldMap);
}

/// A restarted dataserver has forgotten the epochs that it knew: it takes no write and lists nothing before it has a
/// map, and what it then acknowledges is of that one.
#[tokio::test]
async fn trace_r_forget_and_two_forget() {
    let d1 = Source::start(1);
    let (mut hop, point) = received(1, &[]);
    assert_eq!(acknowledged(&d1, &mut hop, point, &[]), []);
    let write = d1.node.membership.check_lease().unwrap_err();
    assert_eq!(write.code, Code::NoLease);
    for epoch in [1, 2] {
        assert_eq!(d1.list(epoch).await.unwrap_err().kind(), Kind::Retry);
    }
    // 8: it restarted after d2 had listed it with e2.
    d1.heartbeat(map(2, &[1], Some(2), Some(0)));
    let (mut hop, point) = received(1, &[]);
    assert_eq!(acknowledged(&d1, &mut hop, point, &[]), []);
}
