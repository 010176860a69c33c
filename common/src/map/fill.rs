//! What a disk has of a group, and when a member that lacks something is to fetch it (DESIGN §4.5).

use super::placement::target;
use super::{ClusterMap, EpochRange, MemberState, Row};
use crate::ids::{DiskId, Epoch, PgId, PoolId};

/// The end of an epoch that still goes on.
pub const NOW: Epoch = Epoch(u64::MAX);

/// Whether a filling member is to fetch what it lacks, as the map stands.
///
/// It is when it is in the group's target among the disks that are *in*: it is meant to stay. A substitute of a disk
/// that is only down takes part in new writes and fetches nothing, since that disk usually comes back within
/// minutes and then lacks little. But it does at once where one complete member is left, or none: another loss
/// would be one too many (DESIGN §4.1, mass failures).
pub fn may_fill(map: &ClusterMap, pool: PoolId, pg: PgId, disk: DiskId) -> bool {
    let row = map.rows.get(&pool).and_then(|rows| rows.get(pg.0 as usize));
    let (Ok(in_pool), Some(row)) = (map.pool(pool), row) else {
        return false;
    };
    let state = |state: MemberState| {
        let members = row.members.iter().flatten();
        members.filter(move |member| member.state == state)
    };
    state(MemberState::Filling).any(|member| member.disk == disk)
        && (state(MemberState::Complete).count() <= 1
            || target(&map.topology, pool, in_pool, pg).contains(&Some(disk)))
}

/// The epochs of a group of which a disk has every chunk that was sealed in them: those in which it is or was a
/// member, and once it is complete all earlier ones. Ascending; empty if it is neither member nor holder.
pub fn covers(row: &Row, disk: DiskId) -> Vec<EpochRange> {
    let held = row.holders.iter().filter(|holder| holder.disk == disk);
    let held = held.flat_map(|holder| holder.covers.iter().copied());
    let member = row.members.iter().flatten();
    let present = member
        .filter(|member| member.disk == disk)
        .map(|member| EpochRange {
            first: match member.state {
                MemberState::Complete => Epoch::ZERO,
                MemberState::Filling => member.since,
            },
            last: NOW,
        });
    merged(held.chain(present).collect())
}

/// The same epochs, ascending, in ranges that do not touch each other.
pub fn merged(mut ranges: Vec<EpochRange>) -> Vec<EpochRange> {
    ranges.sort_by_key(|range| range.first);
    let mut merged: Vec<EpochRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.first.0 <= last.last.0.saturating_add(1) => {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Whether ranges as [`merged`] returns them hold every epoch before `end`.
pub fn all_before(ranges: &[EpochRange], end: Epoch) -> bool {
    end == Epoch::ZERO
        || ranges
            .first()
            .is_some_and(|first| first.first == Epoch::ZERO && first.last.0 >= end.0 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{OpenNumber, ServerId};
    use crate::map::{Disk, DiskState, FailureDomain, Holder, Member, Pool, Redundancy, Server};
    use std::collections::BTreeMap;

    const POOL: PoolId = PoolId(1);
    const PG: PgId = PgId(0);

    fn range(first: u64, last: u64) -> EpochRange {
        EpochRange {
            first: Epoch(first),
            last: Epoch(last),
        }
    }

    fn member(disk: DiskId, state: MemberState, since: u64) -> Option<Member> {
        Some(Member {
            disk,
            state,
            since: Epoch(since),
        })
    }

    /// Five hosts with a disk each, one group.
    fn cluster() -> ClusterMap {
        let mut map = ClusterMap::default();
        for id in 1..=5 {
            let server = Server {
                address: String::new(),
                host: format!("h{id}"),
                rack: String::new(),
                zone: String::new(),
            };
            let disk = Disk {
                server: ServerId(id),
                path: String::new(),
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
            pg_count: 1,
            chunk_len_max: 64 << 20,
            in_use: true,
            exceptions: BTreeMap::new(),
        };
        map.topology.pools.insert(POOL, pool);
        map
    }

    /// The rendezvous order of the group.
    fn order(map: &ClusterMap) -> Vec<DiskId> {
        let mut found: Vec<DiskId> = Vec::new();
        while found.len() < 5 {
            let left = |disk: DiskId| !found.contains(&disk);
            let pool = &map.topology.pools[&POOL];
            let next = crate::map::placement::target_among(&map.topology, POOL, pool, PG, &left);
            found.extend(next.into_iter().flatten());
        }
        found
    }

    #[test]
    fn a_substitute_fills_when_its_disk_is_out_or_copies_run_low() {
        use MemberState::{Complete, Filling};
        let mut map = cluster();
        let order = order(&map);
        let [a, b, c, d] = [order[0], order[1], order[2], order[3]];
        // `b` is down, `d` stands in for it.
        let members = vec![
            member(a, Complete, 1),
            member(d, Filling, 5),
            member(c, Complete, 1),
        ];
        let row = Row {
            epoch: Epoch(5),
            changed_at: Epoch(5),
            members,
            holders: vec![Holder {
                disk: b,
                covers: vec![range(0, 4)],
            }],
        };
        map.rows.insert(POOL, vec![row]);
        assert!(!may_fill(&map, POOL, PG, d), "b will be back");
        let mut out = map.clone();
        out.topology.disks.get_mut(&b).unwrap().state = DiskState::Out;
        assert!(may_fill(&out, POOL, PG, d), "b is out");
        assert!(
            !may_fill(&out, POOL, PG, a),
            "complete members lack nothing"
        );
        assert!(!may_fill(&out, POOL, PG, b), "no member");
        let mut low = map.clone();
        low.rows.get_mut(&POOL).unwrap()[0].members[2] = member(c, Filling, 6);
        assert!(may_fill(&low, POOL, PG, d), "one complete member is left");
        // `b` is back in its position.
        let mut back = map.clone();
        back.rows.get_mut(&POOL).unwrap()[0].members[1] = member(b, Filling, 7);
        assert!(may_fill(&back, POOL, PG, b));
        assert!(!may_fill(&back, PoolId(2), PG, b), "no such pool");
        assert!(!may_fill(&back, POOL, PgId(9), b), "no such group");
    }

    #[test]
    fn a_disk_covers_the_epochs_of_its_membership_and_all_before_once_complete() {
        let (a, b, c) = (DiskId(1), DiskId(2), DiskId(3));
        let row = Row {
            epoch: Epoch(9),
            changed_at: Epoch(9),
            members: vec![
                member(a, MemberState::Complete, 7),
                member(b, MemberState::Filling, 7),
                None,
            ],
            holders: vec![
                Holder {
                    disk: b,
                    covers: vec![range(0, 4), range(6, 6)],
                },
                Holder {
                    disk: c,
                    covers: vec![range(5, 6)],
                },
            ],
        };
        assert_eq!(covers(&row, a), [range(0, NOW.0)]);
        assert_eq!(covers(&row, b), [range(0, 4), range(6, NOW.0)]);
        assert_eq!(covers(&row, c), [range(5, 6)]);
        assert_eq!(covers(&row, DiskId(4)), []);
        assert!(!all_before(&covers(&row, b), Epoch(7)));
        let together = [covers(&row, b), covers(&row, c)].concat();
        assert!(all_before(&merged(together), Epoch(7)));
    }

    #[test]
    fn ranges_that_touch_become_one_and_gaps_stay() {
        let all = merged(vec![range(5, 6), range(0, 2), range(3, 3), range(6, 9)]);
        assert_eq!(all, [range(0, 3), range(5, 9)]);
        assert!(all_before(&all, Epoch(4)) && !all_before(&all, Epoch(5)));
        assert!(all_before(&[], Epoch(0)) && !all_before(&[], Epoch(1)));
        assert!(!all_before(&[range(1, 9)], Epoch(5)), "epoch 0 is missing");
    }
}
