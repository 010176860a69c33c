//! Which members the controller wants to change (DESIGN §4.1).

use super::life::Life;
use crate::state::map_state::place::are_whole;
use quarry_common::ids::{DiskId, Epoch, PgId, PoolId};
use quarry_common::map::placement::{target, target_among};
use quarry_common::map::{ClusterMap, MemberState, Pool, Row, Topology};
use std::collections::BTreeMap;

/// New members for some groups of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The map that it was computed from.
    pub epoch: Epoch,
    /// The pool.
    pub pool: PoolId,
    /// New members, one position a replica.
    pub rows: Vec<(PgId, Vec<Option<DiskId>>)>,
}

/// Rows in one command, about 100 KiB: more than one server's disks are in.
const ROWS_PER_COMMAND: usize = 4_096;

/// So many groups of a pool may be filling before another is moved that lacks nothing (a new disk's share, say): what was
/// lost comes first.
const MOVING_MAX: usize = 64;

/// Compares the table of members with the targets; keeps the targets, which are costly, for as long as the topology stays.
#[derive(Debug, Default)]
pub struct Planner {
    computed_at: Epoch,
    targets: BTreeMap<PoolId, Vec<Vec<Option<DiskId>>>>,
}

impl Planner {
    /// What to change next, if anything; `life` says how a disk is. An answer that was carried out is asked for again until
    /// there is none.
    ///
    /// A disk that is down is replaced at once by the next of the rendezvous order, in its position; one that is back takes
    /// a position back. While a group would have fewer than `min_members` it keeps those that it has. A group that is
    /// clean and still has holders is named with the members that it has.
    pub fn plan(&mut self, map: &ClusterMap, life: &dyn Fn(DiskId) -> Life) -> Option<Placement> {
        let topology = &map.topology;
        if self.computed_at != topology.changed_at {
            self.targets.clear();
            self.computed_at = topology.changed_at;
        }
        for (id, pool) in &topology.pools {
            let targets = self.targets.entry(*id).or_insert_with(|| {
                let groups = (0..pool.pg_count).map(PgId);
                groups.map(|pg| target(topology, *id, pool, pg)).collect()
            });
            let rows = plan_pool(map, (*id, pool), targets, life);
            if !rows.is_empty() {
                return Some(Placement {
                    epoch: map.epoch,
                    pool: *id,
                    rows,
                });
            }
        }
        None
    }
}

fn plan_pool(
    map: &ClusterMap,
    (id, pool): (PoolId, &Pool),
    targets: &[Vec<Option<DiskId>>],
    life: &dyn Fn(DiskId) -> Life,
) -> Vec<(PgId, Vec<Option<DiskId>>)> {
    let table = map.rows.get(&id).map_or(&[][..], Vec::as_slice);
    let unplaced = Row::default();
    let lacking = |row: &&Row| {
        let mut members = row.members.iter().flatten();
        members.any(|member| member.state == MemberState::Filling)
    };
    let mut moving = table.iter().filter(lacking).count();
    let mut rows = Vec::new();
    for (pg, target) in targets.iter().enumerate() {
        if rows.len() == ROWS_PER_COMMAND {
            break;
        }
        let row = table.get(pg).unwrap_or(&unplaced);
        let pg = PgId(pg as u32);
        let now: Vec<Option<DiskId>> = row.members.iter().map(|m| m.map(|m| m.disk)).collect();
        let wanted = wanted(&map.topology, (id, pool), pg, row, target, life);
        if wanted != now {
            let well = |disk: DiskId| matches!(life(disk), Life::Up | Life::Unheard);
            let whole = row.present() == pool.redundancy.members() && row.chain().all(well);
            if pool.in_use && whole && !lacking(&row) {
                if moving >= MOVING_MAX {
                    continue;
                }
                moving += 1;
            }
            rows.push((pg, wanted));
        } else if !row.holders.is_empty() && are_whole(row, target) {
            rows.push((pg, now));
        }
    }
    rows
}

/// The members that a group should have now.
pub fn wanted(
    topology: &Topology,
    (id, pool): (PoolId, &Pool),
    pg: PgId,
    row: &Row,
    target: &[Option<DiskId>],
    life: &dyn Fn(DiskId) -> Life,
) -> Vec<Option<DiskId>> {
    let is_member = |disk: DiskId| row.chain().any(|member| member == disk);
    // Of whom a new leader has not heard yet it neither takes a position nor gives one.
    let serves = |disk: DiskId| match life(disk) {
        Life::Up => true,
        Life::Unheard => is_member(disk),
        Life::Down | Life::Returning => false,
    };
    let present = |members: &[Option<DiskId>]| members.iter().flatten().count();
    let mut members = target.to_vec();
    if !target.iter().flatten().all(|disk| serves(*disk)) {
        members = target_among(topology, id, pool, pg, &serves);
        if present(&members) < pool.redundancy.members() {
            // Better one that was down a moment ago than none.
            let returning = |disk: DiskId| serves(disk) || life(disk) == Life::Returning;
            members = target_among(topology, id, pool, pg, &returning);
        }
    }
    let keeps = row.present() > 0 && present(&members) < pool.redundancy.min_members();
    if keeps || present(&members) == 0 {
        return row.members.iter().map(|m| m.map(|m| m.disk)).collect();
    }
    positions(row, target, &members)
}

/// Puts `members` into positions: who has one keeps it, the others take their own of the target if it is free, else the
/// first that is.
fn positions(
    row: &Row,
    target: &[Option<DiskId>],
    members: &[Option<DiskId>],
) -> Vec<Option<DiskId>> {
    let mut placed: Vec<Option<DiskId>> = vec![None; members.len()];
    for (at, member) in row.members.iter().enumerate().take(placed.len()) {
        let disk = member.map(|member| member.disk);
        placed[at] = disk.filter(|_| members.contains(&disk));
    }
    for own_first in [true, false] {
        for disk in members.iter().flatten() {
            if placed.contains(&Some(*disk)) {
                continue;
            }
            let own = |at: &usize| !own_first || target.get(*at) == Some(&Some(*disk));
            let free = (0..placed.len()).find(|at| placed[*at].is_none() && own(at));
            if let Some(at) = free {
                placed[at] = Some(*disk);
            }
        }
    }
    placed
}

#[cfg(test)]
mod tests;
