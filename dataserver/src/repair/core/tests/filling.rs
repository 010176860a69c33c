//! What a filling member lists, copies and asks for, in what order and how much at a time, and when it reports.

use super::*;

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
