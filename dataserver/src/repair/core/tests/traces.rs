//! Traces of the model: what weaker rules would lose.

use super::*;

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
