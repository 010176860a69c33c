//! Target members of a placement group: weighted rendezvous hashing (Thaler and Ravishankar 1998;
//! weights as Schindelhauer and Schomaker 2005) with failure domains (DESIGN §4.1).

use super::fixed_log::neg_log2;
use super::topology::{DiskState, Pool, Topology};
use crate::ids::{DiskId, PgId, PoolId};
use std::cmp::Ordering;

/// A disk's claim on a group: the disk with the greatest `weight / -log(uniform)` comes first.
struct Claim<'a> {
    disk: DiskId,
    weight: u64,
    neg_log: u64,
    host: &'a str,
    rack: &'a str,
}

impl Claim<'_> {
    fn order(&self, other: &Claim) -> Ordering {
        // weight / neg_log, greatest first, without division.
        let ours = u128::from(self.weight) * u128::from(other.neg_log);
        let theirs = u128::from(other.weight) * u128::from(self.neg_log);
        theirs.cmp(&ours).then(self.disk.cmp(&other.disk))
    }
}

/// A number per (pool, group, disk), uniform over 64 bits, pinned for ever.
fn draw(pool: PoolId, pg: PgId, disk: DiskId) -> u64 {
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&pool.0.to_be_bytes());
    bytes[2..6].copy_from_slice(&pg.0.to_be_bytes());
    bytes[6..].copy_from_slice(&disk.0.to_be_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// The target members of one group, one position a replica, head first.
///
/// Disks that are *in* are taken in their rendezvous order, no two of one host, and the last
/// position from a second rack where all others are in one. Where hosts run out, further disks of
/// the same hosts follow (*crowded*); where disks run out, positions stay `None`. Disks that the
/// balancer's exceptions name come first.
pub fn target(topology: &Topology, id: PoolId, pool: &Pool, pg: PgId) -> Vec<Option<DiskId>> {
    target_among(topology, id, pool, pg, &|_| true)
}

/// As [`target`], among the disks that are `usable`: who takes the place of those that are down.
pub fn target_among(
    topology: &Topology,
    id: PoolId,
    pool: &Pool,
    pg: PgId,
    usable: &dyn Fn(DiskId) -> bool,
) -> Vec<Option<DiskId>> {
    let replicas = pool.redundancy.members();
    let mut claims: Vec<Claim> = topology
        .disks
        .iter()
        .filter(|(id_of_disk, disk)| disk.state == DiskState::In && usable(**id_of_disk))
        .filter_map(|(id_of_disk, disk)| {
            let server = topology.servers.get(&disk.server)?;
            Some(Claim {
                disk: *id_of_disk,
                weight: u64::from(disk.weight.max(1)),
                neg_log: neg_log2(draw(id, pg, *id_of_disk)),
                host: &server.host,
                rack: &server.rack,
            })
        })
        .collect();
    claims.sort_by(Claim::order);

    let mut chosen: Vec<&Claim> = Vec::with_capacity(replicas);
    for disk in pool.exceptions.get(&pg.0).into_iter().flatten() {
        chosen.extend(claims.iter().find(|claim| claim.disk == *disk));
    }
    chosen.truncate(replicas);
    let racks = |chosen: &[&Claim], more: &str| chosen.iter().any(|claim| claim.rack != more);
    for claim in &claims {
        if chosen.len() == replicas {
            break;
        }
        if chosen.iter().any(|other| other.host == claim.host) {
            continue;
        }
        let last = !chosen.is_empty() && chosen.len() + 1 == replicas;
        let one_rack = last && chosen.iter().all(|other| other.rack == chosen[0].rack);
        let other_rack = claims.iter().any(|other| other.rack != claim.rack);
        if one_rack && other_rack && !racks(&chosen, claim.rack) {
            continue;
        }
        chosen.push(claim);
    }
    for claim in &claims {
        if chosen.len() == replicas {
            break;
        }
        if chosen.iter().all(|other| other.disk != claim.disk) {
            chosen.push(claim);
        }
    }
    let mut members: Vec<_> = chosen.iter().map(|claim| Some(claim.disk)).collect();
    members.resize(replicas, None);
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{OpenNumber, ServerId};
    use crate::map::{Disk, FailureDomain, Redundancy, Server};
    use std::collections::BTreeMap;

    fn cluster(hosts: u32, disks_per_host: u32, racks: u32) -> (Topology, Pool) {
        let mut topology = Topology::default();
        for host in 0..hosts {
            let server = Server {
                address: String::new(),
                host: format!("h{host}"),
                rack: format!("r{}", host % racks),
                zone: String::new(),
            };
            topology.servers.insert(ServerId(host), server);
            for disk in 0..disks_per_host {
                let disk_of = Disk {
                    server: ServerId(host),
                    path: String::new(),
                    weight: 1000,
                    state: DiskState::In,
                    open_number: OpenNumber(0),
                };
                topology
                    .disks
                    .insert(DiskId(host * disks_per_host + disk), disk_of);
            }
        }
        let pool = Pool {
            name: "main".into(),
            redundancy: Redundancy::Replicated {
                replicas: 3,
                min_members: 2,
            },
            failure_domain: FailureDomain::Host,
            pg_count: 4096,
            chunk_len_max: 64 << 20,
            in_use: false,
            exceptions: BTreeMap::new(),
        };
        (topology, pool)
    }

    fn table(topology: &Topology, pool: &Pool) -> Vec<Vec<Option<DiskId>>> {
        (0..pool.pg_count)
            .map(|pg| target(topology, PoolId(1), pool, PgId(pg)))
            .collect()
    }

    /// These rows are on every cluster's disks: they never change.
    #[test]
    fn targets_are_pinned_for_ever() {
        let (topology, pool) = cluster(5, 2, 1);
        let rows: Vec<Vec<u32>> = [0, 1, 2, 77]
            .map(|pg| {
                target(&topology, PoolId(1), &pool, PgId(pg))
                    .iter()
                    .flatten()
                    .map(|d| d.0)
                    .collect()
            })
            .to_vec();
        assert_eq!(
            rows,
            [[7, 4, 3], [0, 8, 7], [5, 2, 6], [9, 4, 1]].map(Vec::from)
        );
    }

    #[test]
    fn groups_are_spread_evenly_and_by_weight() {
        let (mut topology, pool) = cluster(12, 1, 1);
        topology.disks.get_mut(&DiskId(0)).unwrap().weight = 500;
        let mut counts = [0u32; 12];
        table(&topology, &pool)
            .iter()
            .flatten()
            .flatten()
            .for_each(|disk| counts[disk.0 as usize] += 1);
        let mean = counts[1..].iter().sum::<u32>() / 11;
        for count in &counts[1..] {
            assert!(count.abs_diff(mean) * 100 < mean * 12, "{counts:?}");
        }
        assert!(
            counts[0] * 100 > mean * 45 && counts[0] * 100 < mean * 62,
            "{counts:?}"
        );
    }

    #[test]
    fn a_new_disk_takes_its_share_and_nothing_moves_between_old_disks() {
        let (before, pool) = cluster(10, 1, 1);
        let (after, _) = cluster(11, 1, 1);
        let mut moved = 0;
        for (old, new) in table(&before, &pool).iter().zip(table(&after, &pool)) {
            let came: Vec<_> = new.iter().filter(|disk| !old.contains(disk)).collect();
            assert!(
                came.iter().all(|disk| **disk == Some(DiskId(10))),
                "{old:?} {new:?}"
            );
            moved += came.len();
        }
        let share = 3 * pool.pg_count as usize / 11;
        assert!(moved.abs_diff(share) * 10 < share, "{moved} of {share}");
    }

    #[test]
    fn no_two_members_share_a_host_and_two_racks_are_used() {
        let (topology, pool) = cluster(8, 3, 2);
        for row in table(&topology, &pool) {
            let servers: Vec<u32> = row.iter().map(|disk| disk.unwrap().0 / 3).collect();
            assert!(
                servers[0] != servers[1] && servers[1] != servers[2] && servers[0] != servers[2]
            );
            assert!(
                servers.iter().any(|server| server % 2 != servers[0] % 2),
                "{row:?}"
            );
        }
    }

    #[test]
    fn with_few_hosts_members_crowd_and_with_few_disks_positions_stay_empty() {
        let (topology, pool) = cluster(2, 2, 1);
        for row in table(&topology, &pool) {
            let mut disks: Vec<_> = row.iter().flatten().collect();
            disks.dedup();
            assert_eq!(disks.len(), 3);
            assert_ne!(
                row[0].unwrap().0 / 2,
                row[1].unwrap().0 / 2,
                "both hosts come first"
            );
        }
        let (topology, pool) = cluster(1, 2, 1);
        assert!(
            table(&topology, &pool)
                .iter()
                .all(|row| row[2].is_none() && row[0] != row[1])
        );
    }

    #[test]
    fn a_disk_that_can_not_be_used_is_replaced_by_one_other_and_nobody_else_moves() {
        let (topology, pool) = cluster(6, 1, 1);
        let gone = DiskId(3);
        let mut replaced = 0;
        for pg in (0..pool.pg_count).map(PgId) {
            let all = target(&topology, PoolId(1), &pool, pg);
            let rest = target_among(&topology, PoolId(1), &pool, pg, &|disk| disk != gone);
            let came = rest.iter().filter(|disk| !all.contains(disk)).count();
            assert_eq!(came, usize::from(all.contains(&Some(gone))));
            assert!(!rest.contains(&Some(gone)) && !rest.contains(&None));
            replaced += came;
        }
        assert!(replaced > 1000, "{replaced}");
    }

    #[test]
    fn exceptions_come_first_and_what_can_not_be_used_of_them_is_replaced() {
        let (topology, mut pool) = cluster(6, 1, 1);
        pool.exceptions
            .insert(7, vec![DiskId(4), DiskId(0), DiskId(5)]);
        let exact = target(&topology, PoolId(1), &pool, PgId(7));
        assert_eq!(exact, [4, 0, 5].map(|disk| Some(DiskId(disk))));
        let usable = |disk: DiskId| disk != DiskId(0);
        let rest = target_among(&topology, PoolId(1), &pool, PgId(7), &usable);
        assert_eq!(rest[..2], [Some(DiskId(4)), Some(DiskId(5))]);
        assert!(rest[2].is_some_and(|disk| disk != DiskId(0)));
    }
}
