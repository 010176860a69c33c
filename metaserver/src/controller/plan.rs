//! Which members the controller wants to change.

use quarry_common::ids::{DiskId, Epoch, PgId, PoolId};
use quarry_common::map::{ClusterMap, placement};

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

/// Rows in one command, about 100 KiB.
const ROWS_PER_COMMAND: usize = 4_096;

/// What to change next, if anything.
///
/// A pool that is not in use follows its targets freely. Once chunks were given out, members
/// hold data: moving it is repair's task, and the table stays as it is.
pub fn plan(map: &ClusterMap) -> Option<Placement> {
    let topology = &map.topology;
    for (id, pool) in topology.pools.iter().filter(|(_, pool)| !pool.in_use) {
        let table = map.rows.get(id);
        let differs = |pg: &PgId| {
            let target = placement::target(topology, *id, pool, *pg);
            let row = table.and_then(|table| table.get(pg.0 as usize));
            let members = row.map(|row| row.members.iter().map(|m| m.map(|m| m.disk)));
            match members {
                Some(members) if members.len() > 0 => !members.eq(target.iter().copied()),
                _ => target.iter().any(Option::is_some),
            }
        };
        let groups = (0..pool.pg_count).map(PgId).filter(differs);
        let rows: Vec<_> = groups
            .take(ROWS_PER_COMMAND)
            .map(|pg| (pg, placement::target(topology, *id, pool, pg)))
            .collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::counts::tests::cluster;

    #[test]
    fn a_pool_that_is_not_in_use_follows_its_targets_and_one_in_use_stays() {
        let mut map = cluster(3);
        map.rows.clear();
        let first = plan(&map).unwrap();
        assert_eq!(first.rows.len(), 16);
        assert!(
            first
                .rows
                .iter()
                .all(|(_, members)| members.iter().all(Option::is_some))
        );
        assert_eq!(plan(&cluster(3)), None, "a placed pool needs nothing");
        map.topology.pools.get_mut(&first.pool).unwrap().in_use = true;
        assert_eq!(plan(&map), None);
    }

    #[test]
    fn without_disks_there_is_nothing_to_plan() {
        let mut map = cluster(0);
        map.rows.clear();
        assert_eq!(plan(&map), None);
    }
}
