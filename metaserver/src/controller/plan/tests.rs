//! Which members the controller asks for.

use super::*;
use crate::controller::counts::tests::cluster;
use crate::state::map_state::place::{complete, forget_holders, place};
use quarry_common::map::DiskState;
use std::collections::BTreeSet;

const POOL: PoolId = PoolId(1);

/// A placed pool in use, and the lives of its disks.
struct Pooled {
    map: ClusterMap,
    planner: Planner,
    down: BTreeSet<u32>,
    returning: BTreeSet<u32>,
    unheard: BTreeSet<u32>,
}

impl Pooled {
    fn new(servers: u32) -> Pooled {
        let mut map = cluster(servers);
        map.topology.pools.get_mut(&POOL).unwrap().in_use = true;
        Pooled {
            map,
            planner: Planner::default(),
            down: BTreeSet::new(),
            returning: BTreeSet::new(),
            unheard: BTreeSet::new(),
        }
    }

    fn life(&self) -> impl Fn(DiskId) -> Life + use<> {
        let (down, returning) = (self.down.clone(), self.returning.clone());
        let unheard = self.unheard.clone();
        move |disk: DiskId| match disk.0 {
            id if down.contains(&id) => Life::Down,
            id if returning.contains(&id) => Life::Returning,
            id if unheard.contains(&id) => Life::Unheard,
            _ => Life::Up,
        }
    }

    fn plan(&mut self) -> Option<Placement> {
        let life = self.life();
        self.planner.plan(&self.map, &life)
    }

    /// Plans and carries out until nothing is left; the rows that were named.
    fn settle(&mut self) -> Vec<PgId> {
        let mut named = Vec::new();
        while let Some(placement) = self.plan() {
            assert_eq!(placement.epoch, self.map.epoch);
            let epoch = self.map.epoch.next();
            let pool = self.map.topology.pools[&POOL].clone();
            let table = self.map.rows.entry(POOL).or_default();
            table.resize(16, Row::default());
            for (pg, members) in placement.rows {
                let row = &mut table[pg.0 as usize];
                let mut after =
                    place(row, &members, pool.in_use, epoch).unwrap_or_else(|| row.clone());
                forget_holders(&self.map.topology, POOL, &pool, pg, &mut after, epoch);
                assert_ne!(*row, after, "{pg} was named for nothing");
                *row = after;
                named.push(pg);
            }
            self.map.epoch = epoch;
            assert!(named.len() < 1_000, "it never ends");
        }
        named
    }

    /// Every filling member reports.
    fn fill(&mut self) {
        let epoch = self.map.epoch.next();
        let pool = self.map.topology.pools[&POOL].clone();
        for (pg, row) in self.map.rows.get_mut(&POOL).unwrap().iter_mut().enumerate() {
            for disk in row.chain().collect::<Vec<_>>() {
                if let Some(after) = complete(row, disk, row.epoch, epoch) {
                    *row = after;
                }
            }
            forget_holders(&self.map.topology, POOL, &pool, PgId(pg as u32), row, epoch);
        }
        self.map.epoch = epoch;
    }

    fn members(&self) -> Vec<Vec<u32>> {
        let rows = self.map.rows[&POOL].iter();
        let number = |m: &Option<quarry_common::map::Member>| m.map_or(0, |m| m.disk.0);
        rows.map(|row| row.members.iter().map(number).collect())
            .collect()
    }

    fn set(&mut self, disk: u32, state: DiskState) {
        self.map.epoch = self.map.epoch.next();
        self.map.topology.changed_at = self.map.epoch;
        self.map
            .topology
            .disks
            .get_mut(&DiskId(disk))
            .unwrap()
            .state = state;
    }
}

#[test]
fn a_pool_that_is_not_in_use_follows_its_targets() {
    let mut pooled = Pooled::new(3);
    pooled.map.topology.pools.get_mut(&POOL).unwrap().in_use = false;
    pooled.map.rows.clear();
    assert_eq!(pooled.settle().len(), 16);
    let rows = &pooled.map.rows[&POOL];
    assert!(
        rows.iter()
            .all(|row| row.present() == 3 && row.holders.is_empty())
    );
    assert_eq!(pooled.plan(), None, "a placed pool needs nothing");
}

#[test]
fn without_disks_there_is_nothing_to_plan() {
    let mut pooled = Pooled::new(0);
    pooled.map.rows.clear();
    assert_eq!(pooled.plan(), None);
    let mut unheard = Pooled::new(3);
    unheard.map.rows.clear();
    unheard.unheard = (1..=3).collect();
    assert_eq!(unheard.plan(), None, "nobody was heard yet");
}

#[test]
fn a_disk_that_is_down_is_replaced_in_its_position_and_takes_it_back() {
    let mut pooled = Pooled::new(6);
    let before = pooled.members();
    pooled.down.insert(2);
    let named = pooled.settle();
    let during = pooled.members();
    let mut concerned = 0;
    for (old, new) in before.iter().zip(&during) {
        for (was, is) in old.iter().zip(new) {
            if *was == 2 {
                concerned += 1;
                assert!(*is != 2 && *is != 0 && !old.contains(is), "{old:?} {new:?}");
            } else {
                assert_eq!(was, is, "nobody shifts");
            }
        }
    }
    assert!(concerned > 3 && named.len() == concerned);
    let epochs: BTreeSet<Epoch> = pooled.map.rows[&POOL].iter().map(|row| row.epoch).collect();
    assert_eq!(epochs.len(), 2, "all of them in one epoch");
    pooled.down.clear();
    pooled.settle();
    assert_eq!(pooled.members(), before);
    let rows = &pooled.map.rows[&POOL];
    let filling = |row: &Row| {
        let mut members = row.members.iter().flatten();
        members.any(|m| m.state == MemberState::Filling && m.disk == DiskId(2))
    };
    assert_eq!(rows.iter().filter(|row| filling(row)).count(), concerned);
    pooled.fill();
    assert!(
        pooled.map.rows[&POOL]
            .iter()
            .all(|row| row.holders.is_empty())
    );
    assert_eq!(pooled.plan(), None);
}

#[test]
fn a_disk_that_is_out_is_replaced_for_good_and_its_substitutes_keep_their_positions() {
    let mut pooled = Pooled::new(6);
    pooled.down.insert(2);
    pooled.settle();
    let during = pooled.members();
    pooled.set(2, DiskState::Out);
    pooled.settle();
    assert_eq!(pooled.members(), during, "what stood in is the target now");
    pooled.fill();
    let rows = &pooled.map.rows[&POOL];
    assert!(
        rows.iter().all(|row| row.holders.is_empty()),
        "all are clean"
    );
    // Back again: it gets its share back.
    pooled.down.clear();
    pooled.set(2, DiskState::In);
    pooled.settle();
    let with: usize = pooled
        .members()
        .iter()
        .filter(|row| row.contains(&2))
        .count();
    assert!(with > 3);
}

#[test]
fn a_group_that_became_clean_when_a_disk_went_out_forgets_its_holders() {
    let mut pooled = Pooled::new(6);
    pooled.down.insert(2);
    pooled.settle();
    pooled.fill();
    let held = |pooled: &Pooled| {
        let rows = pooled.map.rows[&POOL].iter();
        rows.filter(|row| !row.holders.is_empty()).count()
    };
    assert!(
        held(&pooled) > 3,
        "2 is only down: its groups are not clean"
    );
    assert_eq!(pooled.plan(), None);
    pooled.set(2, DiskState::Out);
    let members = pooled.members();
    pooled.settle();
    assert_eq!((held(&pooled), pooled.members()), (0, members));
}

#[test]
fn with_too_few_disks_a_position_stays_empty_and_below_min_members_all_stay() {
    let mut pooled = Pooled::new(3);
    let before = pooled.members();
    pooled.down.insert(2);
    pooled.settle();
    for (old, new) in before.iter().zip(pooled.members()) {
        let without: Vec<u32> = old.iter().map(|d| if *d == 2 { 0 } else { *d }).collect();
        assert_eq!(new, without);
    }
    let two = pooled.members();
    pooled.down.insert(3);
    assert_eq!(pooled.plan(), None, "one disk is fewer than min_members");
    pooled.down.clear();
    pooled.settle();
    assert_ne!(pooled.members(), two);
    assert_eq!(pooled.members(), before);
}

#[test]
fn a_new_leader_leaves_everything_as_it_is_until_it_has_heard_or_waited() {
    let mut pooled = Pooled::new(6);
    pooled.down.insert(2);
    pooled.settle();
    pooled.down.clear();
    pooled.unheard = (1..=6).collect();
    assert_eq!(pooled.plan(), None, "2 may be down or not");
    pooled.unheard.remove(&2);
    assert!(!pooled.settle().is_empty(), "2 was heard");
}

#[test]
fn who_returns_from_flapping_waits_unless_there_is_nobody_else() {
    let mut pooled = Pooled::new(6);
    pooled.returning.insert(2);
    pooled.settle();
    assert!(pooled.members().iter().all(|row| !row.contains(&2)));
    let mut few = Pooled::new(3);
    few.returning.insert(2);
    assert_eq!(few.plan(), None);
}

#[test]
fn what_lacks_nothing_moves_a_little_at_a_time() {
    let mut pooled = Pooled::new(6);
    pooled.map.topology.pools.get_mut(&POOL).unwrap().pg_count = 1024;
    let pool = pooled.map.topology.pools[&POOL].clone();
    let topology = pooled.map.topology.clone();
    let template = pooled.map.rows[&POOL][0].members[0].unwrap();
    let row = |pg| Row {
        epoch: Epoch(2),
        changed_at: Epoch(2),
        members: target(&topology, POOL, &pool, PgId(pg))
            .into_iter()
            .map(|disk| disk.map(|disk| quarry_common::map::Member { disk, ..template }))
            .collect(),
        holders: Vec::new(),
    };
    pooled.map.rows.insert(POOL, (0..1024).map(row).collect());
    pooled.set(6, DiskState::Out);
    pooled.map.topology.disks.get_mut(&DiskId(6)).unwrap().state = DiskState::In;
    assert_eq!(pooled.plan(), None);
    // One more server: a seventh of everything would move.
    let mut server = pooled.map.topology.servers[&quarry_common::ids::ServerId(1)].clone();
    server.host = "h7".into();
    let mut disk = pooled.map.topology.disks[&DiskId(1)].clone();
    disk.server = quarry_common::ids::ServerId(7);
    let topology = &mut pooled.map.topology;
    topology.servers.insert(disk.server, server);
    topology.disks.insert(DiskId(7), disk);
    pooled.set(7, DiskState::In);
    let first = pooled.plan().unwrap();
    assert_eq!(first.rows.len(), MOVING_MAX);
    // A lost disk does not wait for that.
    pooled.down.insert(1);
    let urgent = pooled.plan().unwrap();
    let lost = pooled
        .members()
        .iter()
        .filter(|row| row.contains(&1))
        .count();
    assert_eq!(urgent.rows.len(), lost + MOVING_MAX);
}
