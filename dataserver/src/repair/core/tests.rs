//! The planner in a world of lists: no network, no disk, no clock.

use super::*;
use quarry_common::ids::{OpenNumber, ServerId};
use quarry_common::map::{
    Disk, DiskState, FailureDomain, Holder, Member, Pool, Redundancy, Server,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const POOL: PoolId = PoolId(1);
const PG: PgId = PgId(0);

/// Five disks, one a server, and a pool of one group, whose row is given by its members (disk, complete, since) and
/// holders (disk, first, last).
fn map(epoch: u64, members: &[(u32, bool, u64)], holders: &[(u32, u64, u64)]) -> ClusterMap {
    let mut map = ClusterMap {
        epoch: Epoch(epoch),
        ..ClusterMap::default()
    };
    for id in 0..5 {
        let server = Server {
            address: String::new(),
            host: format!("h{id}"),
            rack: String::new(),
            zone: String::new(),
        };
        map.topology.servers.insert(ServerId(id), server);
        let disk = Disk {
            server: ServerId(id),
            path: String::new(),
            weight: 1,
            state: DiskState::In,
            open_number: OpenNumber(1),
        };
        map.topology.disks.insert(DiskId(id), disk);
    }
    let mut exceptions = BTreeMap::new();
    let target = members.iter().map(|(disk, ..)| DiskId(*disk)).collect();
    exceptions.insert(0, target);
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
        exceptions,
    };
    map.topology.pools.insert(POOL, pool);
    let member = |(disk, complete, since): &(u32, bool, u64)| {
        let state = match complete {
            true => MemberState::Complete,
            false => MemberState::Filling,
        };
        Some(Member {
            disk: DiskId(*disk),
            state,
            since: Epoch(*since),
        })
    };
    let row = Row {
        epoch: Epoch(epoch),
        changed_at: Epoch(epoch),
        members: members.iter().map(member).collect(),
        holders: holders
            .iter()
            .map(|(disk, first, last)| Holder {
                disk: DiskId(*disk),
                covers: vec![EpochRange {
                    first: Epoch(*first),
                    last: Epoch(*last),
                }],
            })
            .collect(),
    };
    map.rows.insert(POOL, vec![row]);
    map
}

fn info(len: u32, state: ReplicaState) -> ReplicaInfo {
    ReplicaInfo {
        len,
        crc: Crc(len),
        state,
    }
}

fn wanted(chunk: u64, len: u32) -> Wanted {
    Wanted {
        pool: POOL,
        chunk: ChunkId(chunk),
        len,
        crc: Crc(len),
    }
}

/// What every disk has, and what the metaservers refer to (a length).
#[derive(Clone, Debug, Default)]
struct World {
    disks: BTreeMap<u32, BTreeMap<u64, ReplicaInfo>>,
    referenced: BTreeMap<u64, u32>,
    silent: BTreeSet<u32>,
    /// Of the silent ones, those that are out as well.
    out: BTreeSet<u32>,
    /// Chunks that are listed, and when they are asked for are not there or bad.
    gone: BTreeSet<u64>,
    now: Duration,
    listed: Vec<u32>,
    copied: Vec<(u64, u32)>,
    asked: u32,
    reports: Vec<Epoch>,
}

impl World {
    fn put(&mut self, disk: u32, chunk: u64, len: u32, state: ReplicaState) {
        let chunks = self.disks.entry(disk).or_default();
        chunks.insert(chunk, info(len, state));
    }

    fn get(&self, disk: u32, chunk: u64) -> Option<ReplicaInfo> {
        self.disks.get(&disk)?.get(&chunk).copied()
    }

    fn has(&self, disk: u32, chunk: u64, len: u32) -> bool {
        let found = self.get(disk, chunk);
        found.is_some_and(|found| found.state != ReplicaState::SetAside && found.len >= len)
    }

    /// Carries out what the planner of `own` wants for so many rounds of time.
    fn run(&mut self, core: &mut Core, own: u32, rounds: u32) {
        for _ in 0..rounds {
            let mut actions = core.next(self.now);
            while !actions.is_empty() {
                for action in actions {
                    self.carry_out(core, own, action);
                }
                actions = core.next(self.now);
            }
            self.now += Duration::from_secs(1);
        }
    }

    fn carry_out(&mut self, core: &mut Core, own: u32, action: Action) {
        let now = self.now;
        match action {
            Action::List(id, wanted) => {
                let source = wanted.disk.0;
                if self.silent.contains(&source) {
                    let error = Error::new(Code::Unreachable, "silent");
                    return core.handle_list_failure(id, &error, now);
                }
                self.listed.push(source);
                // Two chunks a page.
                let from = wanted.from.map_or(0, |(_, chunk)| chunk.0);
                let all = self.disks.entry(source).or_default().clone();
                let mut rest = all.range(from..);
                let page: Vec<_> = rest
                    .by_ref()
                    .take(2)
                    .map(|(chunk, info)| {
                        let listed = ListedChunk {
                            chunk: ChunkId(*chunk),
                            info: *info,
                        };
                        (PG, listed, self.get(own, *chunk))
                    })
                    .collect();
                let next = rest.next().map(|(chunk, _)| (PG, ChunkId(*chunk)));
                core.handle_page(id, &page, next);
            }
            Action::Copy {
                group,
                epoch,
                wanted,
                sources,
            } => {
                let mut later = None;
                let mut outcome = Outcome::Nobody;
                for source in sources {
                    if self.out.contains(&source.0) {
                        continue;
                    }
                    if self.silent.contains(&source.0) {
                        later = Some(Error::new(Code::Unreachable, "silent"));
                    } else if self.has(source.0, wanted.chunk.0, wanted.len)
                        && !self.gone.contains(&wanted.chunk.0)
                    {
                        self.put(own, wanted.chunk.0, wanted.len, ReplicaState::Sealed);
                        self.copied.push((wanted.chunk.0, source.0));
                        outcome = Outcome::Stored;
                        break;
                    }
                }
                if let (Outcome::Nobody, Some(error)) = (&outcome, later) {
                    outcome = Outcome::Later(error);
                }
                core.handle_copy(group, epoch, wanted, &outcome, now);
            }
            Action::Ask { group, epoch, from } => {
                self.asked += 1;
                let from = from.map_or(0, |chunk| chunk.0);
                let all = self.referenced.clone();
                let mut rest = all.range(from..);
                let page: Vec<_> = rest
                    .by_ref()
                    .take(2)
                    .map(|(chunk, len)| {
                        let committed = CommittedChunk {
                            chunk: ChunkId(*chunk),
                            len: *len,
                            crc: Crc(*len),
                        };
                        (committed, self.has(own, *chunk, *len))
                    })
                    .collect();
                let next = rest.next().map(|(chunk, _)| ChunkId(*chunk));
                core.handle_committed(group, epoch, &page, next);
            }
            Action::Report(complete) => {
                self.reports
                    .extend(complete.iter().map(|report| report.epoch));
            }
        }
    }
}

const SEALED: ReplicaState = ReplicaState::Sealed;
const OPEN: ReplicaState = ReplicaState::Open;
const SET_ASIDE: ReplicaState = ReplicaState::SetAside;

/// Disk 3 took the place of disk 0 at epoch 2.
fn after_a_crash() -> ClusterMap {
    let members = [(1, true, 1), (2, true, 1), (3, false, 2)];
    map(2, &members, &[(0, 0, 1)])
}

#[test]
fn a_member_reports_when_it_has_everything_and_reports_again_until_it_is_heard() {
    let (mut core, mut world) = (Core::new(DiskId(3)), World::default());
    for chunk in 0..7 {
        for disk in [0, 1, 2] {
            world.put(disk, chunk, 10 + chunk as u32, SEALED);
        }
    }
    world.put(3, 2, 12, SEALED);
    core.handle_map(&after_a_crash());
    world.run(&mut core, 3, 1);
    assert_eq!(world.reports, [Epoch(2)]);
    assert_eq!(world.listed.len(), 4, "one source, four pages");
    assert_eq!(world.copied.len(), 6, "not what was here");
    let used: BTreeSet<u32> = world.copied.iter().map(|(_, source)| *source).collect();
    assert_eq!(used, [1, 2].into(), "complete members take turns");
    world.run(&mut core, 3, 4);
    assert_eq!(world.reports, [Epoch(2); 2]);
    assert_eq!(world.copied.len(), 6);
    let members = [(1, true, 1), (2, true, 1), (3, true, 2)];
    core.handle_map(&map(3, &members, &[]));
    world.run(&mut core, 3, 9);
    assert_eq!((world.reports.len(), core.filling()), (2, 0));
}

#[test]
fn a_substitute_of_a_disk_that_is_only_down_waits() {
    let mut map = after_a_crash();
    map.topology
        .pools
        .get_mut(&POOL)
        .unwrap()
        .exceptions
        .insert(0, vec![DiskId(0), DiskId(1), DiskId(2)]);
    let mut core = Core::new(DiskId(3));
    core.handle_map(&map);
    assert_eq!((core.filling(), core.next(Duration::ZERO)), (0, vec![]));
}

/// The list holds open chunks as far as they are durable.
#[test]
fn trace_r_sealed() {
    let (mut core, mut world) = (Core::new(DiskId(3)), World::default());
    for disk in [0, 1, 2] {
        world.put(disk, 0, 1, OPEN);
    }
    core.handle_map(&after_a_crash());
    world.run(&mut core, 3, 1);
    assert_eq!(world.reports, [Epoch(2)]);
    assert!(world.has(3, 0, 1), "complete without what was flushed");
}

/// The list names bad copies, and another source has a good one.
#[test]
fn trace_r_setaside() {
    let (mut core, mut world) = (Core::new(DiskId(3)), World::default());
    world.put(0, 0, 1, SEALED);
    world.put(1, 0, 1, SET_ASIDE);
    world.put(2, 0, 1, SEALED);
    world.referenced.insert(0, 1);
    world.silent.insert(0);
    core.handle_map(&after_a_crash());
    // Whichever is listed first.
    for second in [2, 1] {
        let mut world = world.clone();
        let mut core = Core::new(DiskId(3));
        core.handle_map(&after_a_crash());
        world.silent.insert(second);
        world.run(&mut core, 3, 1);
        assert!(!world.has(3, 0, 1) || second == 1);
        assert_eq!(world.reports.is_empty(), second == 2, "{second}");
        world.silent.remove(&second);
        world.run(&mut core, 3, 9);
        assert!(!world.reports.is_empty() && world.has(3, 0, 1));
    }
    // Of no known length either.
    world.disks.get_mut(&1).unwrap().get_mut(&0).unwrap().len = 0;
    world.run(&mut core, 3, 9);
    assert!(!world.reports.is_empty() && world.has(3, 0, 1));
}

/// It may have been doomed and deleted since, or every copy is bad.
#[test]
fn what_was_listed_and_is_given_by_nobody_is_asked_about() {
    let mut world = World::default();
    for disk in [1, 2] {
        world.put(disk, 0, 1, SEALED);
    }
    world.gone.insert(0);
    for referenced in [false, true] {
        if referenced {
            world.referenced.insert(0, 1);
        }
        let mut core = Core::new(DiskId(3));
        core.handle_map(&after_a_crash());
        world.reports.clear();
        world.run(&mut core, 3, 1);
        assert_eq!(world.reports.len(), 1, "{referenced}");
        assert_eq!(core.take_lost().len(), usize::from(referenced));
    }
}

/// A chunk whose only copy is bad and to which nobody refers keeps no group from being clean.
#[test]
fn trace_walk_rot() {
    let (mut core, mut world) = (Core::new(DiskId(3)), World::default());
    world.put(1, 0, 1, SET_ASIDE);
    world.put(2, 0, 1, SET_ASIDE);
    core.handle_map(&after_a_crash());
    world.run(&mut core, 3, 1);
    assert_eq!((world.reports.len(), core.take_lost().len()), (1, 0));
    // One that is referenced is lost, and is said to be.
    world.referenced.insert(0, 1);
    let mut core = Core::new(DiskId(3));
    core.handle_map(&after_a_crash());
    world.reports.clear();
    world.run(&mut core, 3, 1);
    assert_eq!(world.reports.len(), 1);
    assert_eq!(core.take_lost(), [(POOL, ChunkId(0))].into());
}

#[test]
fn a_bad_copy_that_was_longer_than_what_is_referenced_is_had_as_far_as_it_is() {
    let (mut core, mut world) = (Core::new(DiskId(3)), World::default());
    world.put(1, 0, 2, SET_ASIDE);
    world.put(2, 0, 1, SEALED);
    world.referenced.insert(0, 1);
    world.silent.insert(2);
    core.handle_map(&after_a_crash());
    world.run(&mut core, 3, 3);
    assert_eq!(world.reports, [], "the other may have it");
    world.silent.remove(&2);
    world.run(&mut core, 3, 3);
    assert!(!world.reports.is_empty() && world.has(3, 0, 1));
    assert_eq!(core.take_lost().len(), 0);
}

/// Only complete members as sources: after two losses nobody could fill. Here whoever covers an epoch is one, and
/// what nobody covers is asked of the metaservers.
#[test]
fn trace_r_strict_and_r_lastsrv() {
    let members = [(0, false, 4), (3, false, 3), (4, false, 4)];
    let map = |lost: bool| {
        let mut map = map(4, &members, &[(0, 0, 1), (1, 0, 2), (2, 0, 3)]);
        for disk in [1, 2] {
            let disk = map.topology.disks.get_mut(&DiskId(disk)).unwrap();
            disk.state = if lost { DiskState::Out } else { DiskState::In };
        }
        map
    };
    let mut world = World::default();
    world.silent.extend([1, 2]);
    world.put(0, 0, 2, SEALED);
    world.put(3, 1, 2, SEALED);
    world.referenced.extend([(0, 2), (1, 2), (2, 2)]);
    let mut core = Core::new(DiskId(4));
    core.handle_map(&map(false));
    world.run(&mut core, 4, 20);
    assert_eq!(
        world.reports,
        [],
        "epoch 2 is covered by disks that may come back"
    );
    world.out.extend([1, 2]);
    core.handle_map(&map(true));
    world.run(&mut core, 4, 20);
    assert!(!world.reports.is_empty());
    assert!(world.has(4, 0, 2) && world.has(4, 1, 2));
    assert_eq!(core.take_lost(), [(POOL, ChunkId(2))].into());
    // A returned disk's own cover counts for itself.
    let mut core = Core::new(DiskId(0));
    world.silent.clear();
    world.out.clear();
    for (disk, chunk) in [(1, 2), (2, 2), (2, 1)] {
        world.put(disk, chunk, 2, SEALED);
    }
    let holders = [(0, 0, 1), (1, 0, 2), (2, 0, 3)];
    core.handle_map(&self::map(4, &members, &holders));
    world.run(&mut core, 0, 1);
    assert!(
        world.has(0, 1, 2) && world.has(0, 2, 2),
        "{:?}",
        world.listed
    );
}

/// A disk that comes back needs the epochs in which it was away, and no others.
#[test]
fn what_our_own_disk_covers_need_not_be_covered_by_others() {
    let members = [(0, false, 3), (2, false, 3), (3, false, 3)];
    let (mut core, mut world) = (Core::new(DiskId(0)), World::default());
    world.put(1, 0, 2, SEALED);
    core.handle_map(&map(3, &members, &[(0, 0, 1), (1, 2, 2)]));
    world.run(&mut core, 0, 1);
    assert!(world.has(0, 0, 2));
    assert_eq!((world.reports.len(), world.asked), (1, 0));
}

/// Members that agree among themselves cover nothing.
#[test]
fn trace_r_vacuous() {
    let members = [(2, false, 3), (3, false, 3), (4, false, 3)];
    let map = map(3, &members, &[(0, 0, 1), (1, 0, 2)]);
    let mut world = World::default();
    world.put(0, 0, 2, SEALED);
    world.silent.extend([0, 1]);
    let mut core = Core::new(DiskId(3));
    core.handle_map(&map);
    world.run(&mut core, 3, 20);
    assert_eq!(world.reports, []);
    world.silent.remove(&1);
    world.put(1, 0, 2, SEALED);
    world.run(&mut core, 3, 3);
    assert!(!world.reports.is_empty() && world.has(3, 0, 2));
}

/// What was listed under former members does not count.
#[test]
fn trace_r_late_and_two_late() {
    let (mut core, mut world) = (Core::new(DiskId(3)), World::default());
    core.handle_map(&after_a_crash());
    // Everything is listed, and before the report the members change: chunk 0 was written in between.
    let actions = core.next(Duration::ZERO);
    for disk in [0, 1] {
        world.put(disk, 0, 2, SEALED);
    }
    let members = [(0, true, 3), (1, true, 1), (3, false, 4)];
    core.handle_map(&map(4, &members, &[]));
    for action in actions {
        let Action::List(id, _) = action else {
            panic!("{action:?}");
        };
        core.handle_page(id, &[], None);
    }
    world.run(&mut core, 3, 1);
    assert_eq!(world.reports, [Epoch(4)]);
    assert!(world.has(3, 0, 2));
}

#[test]
fn chunks_that_wait_and_work_at_a_time_are_bounded() {
    let mut core = Core::new(DiskId(3));
    core.handle_map(&after_a_crash());
    let actions = core.next(Duration::ZERO);
    let [Action::List(id, _)] = actions[..] else {
        panic!("{actions:?}");
    };
    let page: Vec<_> = (0..9_000)
        .map(|chunk| {
            let chunk = ChunkId(chunk);
            let info = info(5, SEALED);
            (PG, ListedChunk { chunk, info }, None)
        })
        .collect();
    core.handle_page(id, &page, Some((PG, ChunkId(9_000))));
    let actions = core.next(Duration::ZERO);
    let copies = |actions: &[Action]| {
        let is_copy = |action: &&Action| matches!(action, Action::Copy { .. });
        actions.iter().filter(is_copy).count()
    };
    assert_eq!((actions.len(), copies(&actions)), (COPIES_MAX, COPIES_MAX));
    let group = (POOL, PG);
    let mut page_at = None;
    for done in 0..2_000 {
        core.handle_copy(
            group,
            Epoch(2),
            wanted(done, 5),
            &Outcome::Stored,
            Duration::ZERO,
        );
        let actions = core.next(Duration::ZERO);
        assert!(copies(&actions) <= 1);
        if page_at.is_none() && actions.len() > copies(&actions) {
            page_at = Some(done);
        }
    }
    // The next page comes when there is room for it.
    assert_eq!(page_at, Some(9_000 - WAITING_MAX as u64));
}

#[test]
fn groups_with_the_fewest_live_replicas_go_first_and_one_listing_serves_many() {
    let mut map = after_a_crash();
    let safe = map.rows[&POOL][0].clone();
    let mut weak = safe.clone();
    weak.members[0] = None;
    let pool = map.topology.pools.get_mut(&POOL).unwrap();
    pool.pg_count = 512;
    let target = pool.exceptions[&0].clone();
    pool.exceptions
        .extend((0..512).map(|pg| (pg, target.clone())));
    let row = |pg: u32| {
        if pg.is_multiple_of(8) {
            weak.clone()
        } else {
            safe.clone()
        }
    };
    map.rows.insert(POOL, (0..512).map(row).collect());
    let mut core = Core::new(DiskId(3));
    core.handle_map(&map);
    assert_eq!(core.filling(), 512);
    let actions = core.next(Duration::ZERO);
    let lists: Vec<&ListChunks> = actions
        .iter()
        .map(|action| match action {
            Action::List(_, wanted) => wanted,
            other => panic!("{other:?}"),
        })
        .collect();
    // One of each source at a time: disk 2 for what only it has, and disk 1.
    assert_eq!(lists.len(), 2);
    let weak: Vec<PgId> = (0..512).step_by(8).map(PgId).collect();
    let listed: Vec<PgId> = lists[0].groups.iter().map(|(pg, _)| *pg).collect();
    assert_eq!(listed, weak, "64 groups that only disk 2 has");
    assert_eq!((lists[0].disk, lists[1].disk), (DiskId(2), DiskId(1)));
    assert_eq!(lists[1].groups.len(), GROUPS_PER_LIST);
}

#[test]
fn a_copy_of_less_than_was_listed_since_is_not_all_of_it() {
    let mut core = Core::new(DiskId(3));
    core.handle_map(&after_a_crash());
    let actions = core.next(Duration::ZERO);
    let [Action::List(id, _)] = actions[..] else {
        panic!("{actions:?}");
    };
    let listed = |len| {
        let info = info(len, SEALED);
        let chunk = ChunkId(0);
        (PG, ListedChunk { chunk, info }, None)
    };
    core.handle_page(id, &[listed(1)], Some((PG, ChunkId(0))));
    core.next(Duration::ZERO);
    core.handle_page(id, &[listed(2)], None);
    let group = (POOL, PG);
    let now = Duration::ZERO;
    core.handle_copy(group, Epoch(2), wanted(0, 1), &Outcome::Stored, now);
    let is_report = |action: &Action| matches!(action, Action::Report(_));
    assert!(!core.next(now).iter().any(is_report));
    core.handle_copy(group, Epoch(2), wanted(0, 2), &Outcome::Stored, now);
    assert!(core.next(now).iter().any(is_report));
}

/// Random histories of one group: whoever reports has every referenced chunk that anybody reachable has.
#[test]
fn whoever_reports_has_everything_that_is_referenced_and_not_lost() {
    for seed in 0..3_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::default();
        // Members of epochs 1, 2 and 3; a chunk of each epoch is on its members, more or less of it.
        let mut rows: Vec<Vec<u32>> = vec![vec![0, 1, 2]];
        for _ in 0..2 {
            let mut next = rows[rows.len() - 1].clone();
            let out = random.random_range(0..3);
            let free: Vec<u32> = (0..5).filter(|disk| !next.contains(disk)).collect();
            next[out] = free[random.random_range(0..free.len())];
            rows.push(next);
        }
        for (epoch, row) in rows.iter().enumerate() {
            for chunk in 0..4 {
                let chunk = epoch as u64 * 10 + chunk;
                let committed = random.random_range(1..3);
                if random.random_bool(0.7) {
                    world.referenced.insert(chunk, committed);
                }
                for disk in row {
                    let len = committed + random.random_range(0..2);
                    let state = [SEALED, SEALED, OPEN, SET_ASIDE][random.random_range(0..4)];
                    world.put(*disk, chunk, len, state);
                }
            }
        }
        // Who is a member now covers what it was a member of, the first ones all.
        let covers = |disk: u32| -> Vec<u64> {
            let of = |epoch: &u64| rows[*epoch as usize - 1].contains(&disk);
            (1..4).filter(of).collect()
        };
        let last = &rows[2];
        let since = |disk: u32| {
            (1..4)
                .rev()
                .take_while(|epoch| rows[epoch - 1].contains(&disk))
                .last()
        };
        let complete = |disk: u32| (1..4).all(|epoch: usize| rows[epoch - 1].contains(&disk));
        let members: Vec<(u32, bool, u64)> = last
            .iter()
            .map(|disk| (*disk, complete(*disk), since(*disk).unwrap() as u64))
            .collect();
        let mut map = map(3, &members, &[]);
        map.rows.get_mut(&POOL).unwrap()[0].holders = (0..5)
            .filter(|disk| !complete(*disk))
            .map(|disk| {
                let of = |epoch: u64| EpochRange {
                    // What the first members covered begins with the beginning.
                    first: Epoch(if epoch == 1 { 0 } else { epoch }),
                    last: Epoch(epoch),
                };
                Holder {
                    disk: DiskId(disk),
                    covers: covers(disk).into_iter().map(of).collect(),
                }
            })
            .collect();
        let Some((own, ..)) = members.iter().find(|(_, complete, _)| !complete) else {
            continue;
        };
        if random.random_bool(0.5) {
            world.silent.insert((own + 1) % 5);
        }
        let before = world.clone();
        let mut core = Core::new(DiskId(*own));
        core.handle_map(&map);
        world.run(&mut core, *own, 8);
        world.silent.clear();
        world.run(&mut core, *own, 8);
        assert!(
            !world.reports.is_empty(),
            "seed {seed}: it never becomes clean"
        );
        let lost = core.take_lost();
        for (chunk, len) in &world.referenced {
            let anybody = (0..5).any(|disk| before.has(disk, *chunk, *len));
            let is_lost = lost.contains(&(POOL, ChunkId(*chunk)));
            let since = since(*own).unwrap() as u64;
            if chunk / 10 + 1 < since {
                assert_eq!(
                    world.has(*own, *chunk, *len),
                    anybody,
                    "seed {seed} chunk {chunk}"
                );
                assert_eq!(is_lost, !anybody, "seed {seed} chunk {chunk}");
            }
        }
    }
}
