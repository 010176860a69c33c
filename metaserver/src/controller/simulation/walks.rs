//! Random walks, each from a seed: a failure prints the seed and the steps.

use super::*;

/// A small generator (xorshift), so that a seed is the whole of a run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// A step that goes on by itself or that the leader takes.
fn progress(random: &mut Random, bounds: &Bounds) -> Step {
    let (disk, other) = (random.below(bounds.disks), random.below(bounds.disks));
    let (chunk, hop) = (
        random.below(bounds.chunks),
        random.below(bounds.replicas.into()),
    );
    match random.below(30) {
        0 => Step::Refresh(chunk),
        1 => Step::Write(chunk),
        2 => Step::Seal(chunk),
        3..=8 => Step::Receive(chunk, hop),
        9..=14 => Step::Acknowledge(chunk, hop),
        15 | 16 => Step::Commit(chunk),
        17 => Step::Heartbeat(disk),
        18 => Step::Restart(disk),
        19 => Step::Join(disk),
        20 => Step::Down(disk),
        21 => Step::Up(disk),
        22 => Step::Out(disk),
        23 | 24 => Step::List(disk, other),
        25 | 26 => Step::Fetch(disk, chunk),
        27 => Step::Report(disk),
        28 => Step::TakeReport(disk),
        _ => Step::Delete(disk),
    }
}

fn fault(random: &mut Random, bounds: &Bounds) -> Step {
    let disk = random.below(bounds.disks);
    match random.below(8) {
        0 => Step::GiveUp(random.below(bounds.chunks)),
        1 => Step::Lose(disk),
        2..=4 => Step::Crash(disk),
        _ => Step::Cut(disk),
    }
}

/// Does one step that can be done, in one of twelve cases a fault; `None` if none was found.
fn any(random: &mut Random, group: &mut Group) -> Option<Step> {
    let bounds = group.bounds;
    if random.below(12) == 0 {
        let step = fault(random, &bounds);
        if group.step(step) {
            return Some(step);
        }
    }
    (0..60).find_map(|_| {
        let step = progress(random, &bounds);
        group.step(step).then_some(step)
    })
}

/// What many walks did, so that one that tests nothing is found out.
#[derive(Debug, Default)]
struct Did {
    steps: u32,
    committed: u32,
    /// Those with a receipt of former members.
    confirmed: u32,
    completed: u32,
    deleted: u32,
}

/// `QUARRY_SEED` replays one walk, `QUARRY_WALKS` says how many there are.
fn walk(name: &str, bounds: Bounds) -> Did {
    let number = |key: &str| std::env::var(key).ok()?.parse::<u64>().ok();
    let seeds = match number("QUARRY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("QUARRY_WALKS").unwrap_or(300),
    };
    let mut did = Did::default();
    for seed in seeds {
        let run = || {
            let mut random = Random((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut group = Group::new(bounds);
            let mut did = Did::default();
            for _ in 0..150 {
                let before = group.row();
                let Some(step) = any(&mut random, &mut group) else {
                    break;
                };
                did.steps += 1;
                match step {
                    Step::Commit(chunk) => {
                        did.committed += 1;
                        let old = group.chunks[chunk].row.epoch < before.epoch;
                        did.confirmed += u32::from(old);
                    }
                    Step::TakeReport(_) => {
                        did.completed += u32::from(before != group.row());
                    }
                    Step::Delete(_) => did.deleted += 1,
                    _ => {}
                }
            }
            group.settle();
            did
        };
        match std::panic::catch_unwind(run) {
            Ok(one) => {
                did.steps += one.steps;
                did.committed += one.committed;
                did.confirmed += one.confirmed;
                did.completed += one.completed;
                did.deleted += one.deleted;
            }
            Err(_) => panic!(
                "replay: QUARRY_SEED={seed} cargo test -p quarry-metaserver {name} -- --nocapture"
            ),
        }
    }
    println!("{name}: {did:?}");
    did
}

const DEEP: Bounds = Bounds {
    disks: 5,
    replicas: 3,
    min_members: 2,
    chunks: 3,
    prewritten: 0,
    fences: true,
    crashes: 5,
    losses: 1,
    cuts: 4,
};

fn did_something(did: &Did) {
    let replayed = std::env::var("QUARRY_SEED").is_ok();
    let all = [
        did.committed / 4,
        did.confirmed,
        did.completed,
        did.deleted * 10,
    ];
    assert!(replayed || all.iter().all(|count| *count > 30), "{did:?}");
}

#[test]
fn walk_with_all_rules_and_one_loss() {
    did_something(&walk("walk_with_all_rules_and_one_loss", DEEP));
}

#[test]
fn walk_with_all_rules_and_two_losses() {
    let bounds = Bounds {
        losses: 2,
        min_members: 3,
        prewritten: 1,
        ..DEEP
    };
    did_something(&walk("walk_with_all_rules_and_two_losses", bounds));
}

/// The law of publishing alone keeps what is committed, whatever dataservers with old maps do.
#[test]
fn walk_confirm() {
    let bounds = Bounds {
        fences: false,
        losses: 2,
        min_members: 3,
        ..DEEP
    };
    did_something(&walk("walk_confirm", bounds));
}

#[test]
fn walk_two_confirm() {
    let bounds = Bounds {
        fences: false,
        disks: 3,
        replicas: 2,
        ..DEEP
    };
    did_something(&walk("walk_two_confirm", bounds));
}
