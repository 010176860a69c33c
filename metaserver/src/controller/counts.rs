//! Placement groups by state.

use quarry_common::ids::{DiskId, PgId, PoolId};
use quarry_common::map::{ClusterMap, MemberState, Pool, placement};
use quarry_common::wire::meta::admin::PgCounts;
use std::collections::BTreeSet;

/// Whether a group's members are the target and all complete.
pub fn is_clean(map: &ClusterMap, id: PoolId, pool: &Pool, pg: PgId) -> bool {
    let Some(row) = map.rows.get(&id).and_then(|table| table.get(pg.0 as usize)) else {
        return false;
    };
    let complete = row
        .members
        .iter()
        .flatten()
        .all(|member| member.state == MemberState::Complete);
    let members = row
        .members
        .iter()
        .map(|member| member.map(|member| member.disk));
    complete && row.present() > 0 && members.eq(placement::target(&map.topology, id, pool, pg))
}

/// Counts the groups of a pool; `up` says whether a disk serves.
pub fn count(map: &ClusterMap, id: PoolId, pool: &Pool, up: impl Fn(DiskId) -> bool) -> PgCounts {
    let mut counts = PgCounts::default();
    for pg in (0..pool.pg_count).map(PgId) {
        let row = map.rows.get(&id).and_then(|table| table.get(pg.0 as usize));
        let disks: Vec<DiskId> = row.map(|row| row.chain().collect()).unwrap_or_default();
        let hosts: BTreeSet<&str> = disks
            .iter()
            .filter_map(|disk| Some(map.disk(*disk).ok()?.1.host.as_str()))
            .collect();
        counts.clean += u32::from(is_clean(map, id, pool, pg));
        counts.crowded += u32::from(hosts.len() < disks.len());
        counts.degraded += u32::from(disks.len() < pool.redundancy.members());
        // Every member of the chain must take a write, and there must be enough of them.
        let writable =
            disks.len() >= pool.redundancy.min_members() && disks.iter().all(|disk| up(*disk));
        counts.unwritable += u32::from(!writable);
    }
    counts
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use quarry_common::ids::{Epoch, OpenNumber, ServerId};
    use quarry_common::map::{Disk, DiskState, FailureDomain, Member, Redundancy, Row, Server};
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
        let healthy = PgCounts {
            clean: 16,
            ..PgCounts::default()
        };
        assert_eq!(count(&map, PoolId(1), &pool, |_| true), healthy);
        let one_down = count(&map, PoolId(1), &pool, |disk| disk != DiskId(2));
        assert_eq!(
            one_down,
            PgCounts {
                clean: 16,
                unwritable: 16,
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
                ..PgCounts::default()
            }
        );
    }
}
