use super::*;
use quarry_common::ids::{Epoch, OpenNumber, ServerId};
use quarry_common::map::{
    Disk as MapDisk, EpochRange, FailureDomain, Holder, Member, Pool, Redundancy, Server,
};
use quarry_common::wire::meta::admin::Keys;

const POOL: PoolId = PoolId(1);
const GROUP: Group = (POOL, PgId(0));

/// Four disks; the group's target is disks 1 to 3.
fn map(epoch: u64, members: &[(u32, MemberState)]) -> ClusterMap {
    let mut map = ClusterMap {
        epoch: Epoch(epoch),
        ..ClusterMap::default()
    };
    for id in 0..4 {
        let server = Server {
            address: String::new(),
            host: format!("h{id}"),
            rack: String::new(),
            zone: String::new(),
        };
        map.topology.servers.insert(ServerId(id), server);
        let disk = MapDisk {
            server: ServerId(id),
            path: String::new(),
            weight: 1,
            state: DiskState::In,
            open_number: OpenNumber(1),
        };
        map.topology.disks.insert(DiskId(id), disk);
    }
    let pool = Pool {
        name: "p".into(),
        redundancy: Redundancy::Replicated {
            replicas: 3,
            min_members: 2,
        },
        failure_domain: FailureDomain::Host,
        pg_count: 1,
        chunk_len_max: 64 << 20,
        in_use: true,
        exceptions: BTreeMap::from([(0, [1, 2, 3].map(DiskId).to_vec())]),
    };
    map.topology.pools.insert(POOL, pool);
    let member = |(disk, state): &(u32, MemberState)| {
        Some(Member {
            disk: DiskId(*disk),
            state: *state,
            since: Epoch(1),
        })
    };
    let row = Row {
        epoch: Epoch(epoch),
        changed_at: Epoch(epoch),
        members: members.iter().map(member).collect(),
        holders: vec![],
    };
    map.rows.insert(POOL, vec![row]);
    map
}

const COMPLETE: MemberState = MemberState::Complete;

fn clean(epoch: u64) -> ClusterMap {
    map(epoch, &[1, 2, 3].map(|disk| (disk, COMPLETE)))
}

fn row(map: &ClusterMap) -> &Row {
    &map.rows[&POOL][0]
}

#[test]
fn a_disk_leaves_a_clean_group_that_it_has_no_place_in_and_none_else() {
    let own = DiskId(0);
    assert!(licence(&clean(2), GROUP, own).is_some());
    assert!(licence(&clean(2), GROUP, DiskId(1)).is_none(), "a member");
    assert!(licence(&ClusterMap::default(), GROUP, own).is_none());
    let mut held = clean(2);
    held.rows.get_mut(&POOL).unwrap()[0].holders = vec![Holder {
        disk: own,
        covers: vec![EpochRange {
            first: Epoch(0),
            last: Epoch(1),
        }],
    }];
    assert!(licence(&held, GROUP, own).is_none(), "not clean");
    let filling = map(
        2,
        &[(1, COMPLETE), (2, COMPLETE), (3, MemberState::Filling)],
    );
    assert!(licence(&filling, GROUP, own).is_none());
    let few = map(2, &[(1, COMPLETE)]);
    assert!(licence(&few, GROUP, own).is_none(), "too few members");
    let mut back = clean(2);
    let pool = back.topology.pools.get_mut(&POOL).unwrap();
    pool.exceptions.insert(0, [0, 2, 3].map(DiskId).to_vec());
    assert!(licence(&back, GROUP, own).is_none(), "it is to come back");
    let stands_in = map(2, &[0, 2, 3].map(|disk| (disk, COMPLETE)));
    assert!(
        licence(&stands_in, GROUP, own).is_none(),
        "a member that is not in the target"
    );
    let mut out = clean(2);
    out.topology.disks.get_mut(&own).unwrap().state = DiskState::Out;
    assert!(licence(&out, GROUP, own).is_none(), "it may come back");
}

/// A leaver's deletion is checked against the newest epoch that it knows.
#[test]
fn trace_r_leaver() {
    let membership = Membership::new(Keys::default());
    let now = crate::membership::boot_time();
    membership.take_over(Some(clean(3)), Keys::default(), now);
    // 6: heartbeat, the group is clean without disk 0.
    let licensed = membership.map();
    let licensed = licence(&licensed, GROUP, DiskId(0)).unwrap();
    assert!(still_holds(&membership, GROUP, licensed));
    // 7 and 8: disk 0 is a member again, and knows it.
    let again = map(
        4,
        &[(0, MemberState::Filling), (1, COMPLETE), (2, COMPLETE)],
    );
    membership.take_over(Some(again), Keys::default(), now);
    // 12: it would delete what it has just reported.
    assert!(!still_holds(&membership, GROUP, licensed));
    // Nor by the row that comes after, if it is not the very same.
    membership.take_over(Some(clean(5)), Keys::default(), now);
    assert!(!still_holds(&membership, GROUP, licensed));
    assert!(still_holds(&membership, GROUP, row(&clean(5))));
}

#[test]
fn without_a_lease_nothing_is_deleted() {
    let membership = Membership::new(Keys::default());
    let long_ago = crate::membership::boot_time() - quarry_common::limits::WRITE_LEASE;
    membership.take_over(Some(clean(3)), Keys::default(), long_ago);
    assert!(!still_holds(&membership, GROUP, row(&clean(3))));
}

#[tokio::test]
async fn a_copy_is_superfluous_if_every_member_has_the_same_one() {
    let own = |len, state| ChunkInfo {
        len,
        crc: Crc(len),
        state,
        kind: crate::disk::ChunkKind::File,
    };
    let member = |len, crc, state| {
        Some(ReplicaInfo {
            len,
            crc: Crc(crc),
            state,
        })
    };
    use ReplicaState::{Open, Sealed, SetAside};
    let good = own(10, ChunkState::Sealed);
    let cases = [
        (good, member(10, 10, Sealed), true),
        (good, member(10, 11, Sealed), false),
        (good, member(10, 10, Open), false),
        (good, member(10, 10, SetAside), false),
        (good, None, false),
        (good, member(11, 11, Sealed), false),
        // Its beginning is what the member has; else it is another one.
        (good, member(7, 7, Sealed), true),
        (good, member(7, 8, Sealed), false),
        (own(10, ChunkState::Open), member(10, 10, Sealed), false),
        (own(10, ChunkState::SetAside), member(10, 1, Sealed), true),
        (own(10, ChunkState::SetAside), member(9, 9, Sealed), false),
        (own(0, ChunkState::SetAside), None, false),
    ];
    for (own, member, expected) in cases {
        let found = is_held(&own, member, |len| async move { Ok(Some(Crc(len))) });
        assert_eq!(found.await.unwrap(), expected, "{own:?} {member:?}");
    }
}
