//! Placement groups by state.

use crate::state::map_state::place::is_clean;
use quarry_common::ids::{DiskId, Epoch, PgId, PoolId};
use quarry_common::map::fill::{covers, may_fill};
use quarry_common::map::{ClusterMap, EpochRange, MemberState, Pool, Row};
use quarry_common::wire::meta::admin::PgCounts;
use std::collections::BTreeSet;

/// Counts the groups of a pool; `up` says whether a disk serves.
pub fn count(map: &ClusterMap, id: PoolId, pool: &Pool, up: impl Fn(DiskId) -> bool) -> PgCounts {
    let mut counts = PgCounts::default();
    let unplaced = Row::default();
    for pg in (0..pool.pg_count).map(PgId) {
        let row = map.rows.get(&id).and_then(|table| table.get(pg.0 as usize));
        let row = row.unwrap_or(&unplaced);
        let disks: Vec<DiskId> = row.chain().collect();
        let hosts: BTreeSet<&str> = disks
            .iter()
            .filter_map(|disk| Some(map.disk(*disk).ok()?.1.host.as_str()))
            .collect();
        counts.clean += u32::from(is_clean(&map.topology, id, pool, pg, row));
        counts.crowded += u32::from(hosts.len() < disks.len());
        counts.degraded += u32::from(disks.len() < pool.redundancy.members());
        let mut members = row.members.iter().flatten();
        counts.filling += u32::from(members.any(|member| member.state == MemberState::Filling));
        counts.rebuilding += u32::from(disks.iter().any(|disk| may_fill(map, id, pg, *disk)));
        // Every member of the chain must take a write, and there must be enough of them.
        let writable =
            disks.len() >= pool.redundancy.min_members() && disks.iter().all(|disk| up(*disk));
        counts.unwritable += u32::from(!writable);
        let copies = copies(row, &up).min(counts.copies.len() - 1);
        counts.copies[copies] += 1;
    }
    counts
}

/// On how many disks that are up each chunk of a group is at least: the fewest over all epochs of the disks that cover one.
fn copies(row: &Row, up: impl Fn(DiskId) -> bool) -> usize {
    let holders = row.holders.iter().map(|holder| holder.disk);
    let disks: BTreeSet<DiskId> = row
        .chain()
        .chain(holders)
        .filter(|disk| up(*disk))
        .collect();
    let covered: Vec<_> = disks.iter().map(|disk| covers(row, *disk)).collect();
    // How many cover an epoch changes only where a range begins or has ended.
    let ranges = covered.iter().flatten();
    let ends = ranges.flat_map(|range| [range.first, Epoch(range.last.0.saturating_add(1))]);
    let epochs: BTreeSet<Epoch> = ends.chain([Epoch::ZERO, row.epoch]).collect();
    let of = |epoch: &Epoch| {
        let holds = |ranges: &&Vec<_>| {
            ranges
                .iter()
                .any(|r: &EpochRange| (r.first..=r.last).contains(epoch))
        };
        covered.iter().filter(holds).count()
    };
    let now = epochs.iter().filter(|epoch| **epoch <= row.epoch);
    now.map(of).min().unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use quarry_common::ids::{OpenNumber, ServerId};
    use quarry_common::map::{
        Disk, DiskState, FailureDomain, Holder, Member, Redundancy, Server, placement,
    };
    use std::collections::BTreeMap;

    /// A placed cluster of that many servers with a disk each, 16 groups, three replicas.
    pub(crate) fn cluster(servers: u32) -> ClusterMap {
        let mut map = ClusterMap {
            epoch: Epoch(5),
            ..ClusterMap::default()
        };
        for id in 1..=servers {
            let server = Server {
                address: String::new(),
                host: format!("h{id}"),
                rack: String::new(),
                zone: String::new(),
            };
            let disk = Disk {
                server: ServerId(id),
                path: format!("/d{id}"),
                weight: 100,
                state: DiskState::In,
                open_number: OpenNumber(1),
            };
            map.topology.servers.insert(ServerId(id), server);
            map.topology.disks.insert(DiskId(id), disk);
        }
        let pool = Pool {
            name: "main".into(),
            redundancy: Redundancy::Replicated {
                replicas: 3,
                min_members: 2,
            },
            failure_domain: FailureDomain::Host,
            pg_count: 16,
            chunk_len_max: 64 << 20,
            in_use: false,
            exceptions: BTreeMap::new(),
        };
        let member = |disk| Member {
            disk,
            state: MemberState::Complete,
            since: Epoch(2),
        };
        let row = |pg| Row {
            epoch: Epoch(2),
            changed_at: Epoch(2),
            members: placement::target(&map.topology, PoolId(1), &pool, PgId(pg))
                .into_iter()
                .map(|disk| disk.map(member))
                .collect(),
            holders: vec![],
        };
        let rows = (0..16).map(row).collect();
        map.rows.insert(PoolId(1), rows);
        map.topology.pools.insert(PoolId(1), pool);
        map
    }

    #[test]
    fn groups_are_counted_by_what_is_wrong_with_them() {
        let map = cluster(3);
        let pool = map.pool(PoolId(1)).unwrap().clone();
        let with = |copies: usize| {
            let mut all = [0; 9];
            all[copies] = 16;
            all
        };
        let healthy = PgCounts {
            clean: 16,
            copies: with(3),
            ..PgCounts::default()
        };
        assert_eq!(count(&map, PoolId(1), &pool, |_| true), healthy);
        let one_down = count(&map, PoolId(1), &pool, |disk| disk != DiskId(2));
        assert_eq!(
            one_down,
            PgCounts {
                clean: 16,
                unwritable: 16,
                copies: with(2),
                ..PgCounts::default()
            }
        );
        let few = cluster(2);
        let counts = count(&few, PoolId(1), &pool, |_| true);
        assert_eq!(
            counts,
            PgCounts {
                clean: 16,
                degraded: 16,
                copies: with(2),
                ..PgCounts::default()
            }
        );
    }

    #[test]
    fn a_group_is_rebuilt_when_its_filling_member_is_to_stay_and_not_while_it_stands_in() {
        let mut map = cluster(4);
        let pool = map.pool(PoolId(1)).unwrap().clone();
        // Another takes each position of the first disk.
        for row in map.rows.get_mut(&PoolId(1)).unwrap() {
            let has = |disk| row.chain().any(|member| member == disk);
            let Some(other) = (2..=4).map(DiskId).find(|disk| !has(*disk)) else {
                continue;
            };
            for member in row.members.iter_mut().flatten() {
                if member.disk == DiskId(1) {
                    (member.disk, member.state) = (other, MemberState::Filling);
                }
            }
        }
        let down = |disk: DiskId| disk != DiskId(1);
        let counts = count(&map, PoolId(1), &pool, down);
        assert!(counts.filling > 0, "{counts:?}");
        assert_eq!(counts.rebuilding, 0);
        let first = map.topology.disks.get_mut(&DiskId(1)).unwrap();
        first.state = DiskState::Out;
        let counts = count(&map, PoolId(1), &pool, down);
        assert_eq!(counts.rebuilding, counts.filling);
    }

    #[test]
    fn copies_are_counted_for_the_chunk_that_has_fewest() {
        let range = |first, last| EpochRange {
            first: Epoch(first),
            last: Epoch(last),
        };
        let member = |disk, state, since| {
            Some(Member {
                disk: DiskId(disk),
                state,
                since: Epoch(since),
            })
        };
        let holder = |disk, covers| Holder {
            disk: DiskId(disk),
            covers,
        };
        // 1 complete; 2 filling since 8; 3 was complete until 7, 4 was a member from 3 to 5.
        let row = Row {
            epoch: Epoch(8),
            changed_at: Epoch(9),
            members: vec![
                member(1, MemberState::Complete, 2),
                member(2, MemberState::Filling, 8),
                None,
            ],
            holders: vec![holder(3, vec![range(0, 7)]), holder(4, vec![range(3, 5)])],
        };
        let all = |_: DiskId| true;
        assert_eq!(copies(&row, all), 2);
        assert_eq!(copies(&row, |disk| disk != DiskId(4)), 2);
        assert_eq!(copies(&row, |disk| disk != DiskId(3)), 1, "of before 3");
        assert_eq!(copies(&row, |disk| disk != DiskId(2)), 1, "of now");
        assert_eq!(copies(&row, |disk| disk != DiskId(1)), 1);
        assert_eq!(copies(&row, |disk| disk.0 % 2 == 0), 0);
        assert_eq!(copies(&Row::default(), all), 0);
    }
}
