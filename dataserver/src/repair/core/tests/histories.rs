//! Random histories, each from a seed.

use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

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
