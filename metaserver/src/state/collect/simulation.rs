//! Random histories over the real state machine, with the disks as sets of chunks: no chunk that is referred to is
//! ever doomed, none that was doomed is ever referred to, and in the end no disk has anything else.

use super::*;
use crate::state::chunks::miscounts;
use crate::state::command::Action;
use crate::state::data_testing::{POOL, commit};
use crate::state::records::Record;
use crate::state::testing::{World, root};
use quarry_common::ids::{InodeId, PgId, SessionId};
use quarry_common::token::Receipt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// A client: its session, and what it holds of its range.
struct Client {
    session: SessionId,
    /// The next id that it has not taken, and the end of its range.
    next: ChunkId,
    end: ChunkId,
    /// Receipts that it has not given up.
    receipts: BTreeMap<ChunkId, Receipt>,
}

struct Simulation {
    random: StdRng,
    world: World,
    clients: Vec<Client>,
    /// Of clients whose session has ended, or that gave the chunk up: they try all the same.
    late_receipts: Vec<Receipt>,
    files: Vec<(String, InodeId)>,
    orphans: Vec<InodeId>,
    disks: BTreeMap<DiskId, BTreeSet<ChunkId>>,
    /// Candidates that somebody read and has not proposed yet; words of disks on their way.
    read_before: Vec<Vec<ChunkId>>,
    words: Vec<(DiskId, Vec<ChunkId>)>,
    /// Every chunk that was ever doomed.
    dead: BTreeSet<ChunkId>,
    names: u32,
}

const DISKS: u32 = 5;

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut world = World::in_memory();
        world.add_disks(DISKS);
        let first = world.session;
        world.end_session(first);
        Simulation {
            random: StdRng::seed_from_u64(seed),
            world,
            clients: Vec::new(),
            late_receipts: Vec::new(),
            files: Vec::new(),
            orphans: Vec::new(),
            disks: (1..=DISKS)
                .map(|disk| (DiskId(disk), BTreeSet::new()))
                .collect(),
            read_before: Vec::new(),
            words: Vec::new(),
            dead: BTreeSet::new(),
            names: 0,
        }
    }

    fn referenced(&self) -> BTreeSet<ChunkId> {
        let mut found = BTreeSet::new();
        self.each(Family::Chunks, |key, value| {
            if ChunkRecord::from_bytes(value).unwrap().references > 0 {
                found.insert(keys::parse_chunk(key).unwrap().1);
            }
        });
        found
    }

    fn doomed(&self) -> BTreeSet<ChunkId> {
        let mut found = BTreeSet::new();
        self.each(Family::Doomed, |key, _| {
            found.insert(keys::parse_doomed(key).unwrap().1);
        });
        found
    }

    fn each(&self, family: Family, mut visit: impl FnMut(&[u8], &[u8])) {
        let scanned = self.world.kv.scan(family, &[], None, &mut |key, value| {
            visit(key, value);
            ControlFlow::Continue(())
        });
        scanned.unwrap();
    }

    fn check(&mut self, doing: &str) {
        let doomed = self.doomed();
        self.dead.extend(&doomed);
        let referenced = self.referenced();
        let both: Vec<_> = referenced.intersection(&self.dead).collect();
        assert!(
            both.is_empty(),
            "{doing}: {both:?} are referred to and were doomed"
        );
        // What is referred to and was written everywhere stays where it was: see `delete`.
        assert_eq!(miscounts(&*self.world.kv), Vec::<String>::new(), "{doing}");
        let count = self
            .world
            .kv
            .get(Family::System, &keys::system(SystemKey::DoomedChunks));
        let count = count
            .unwrap()
            .map_or(0, |bytes| NumberRecord::from_bytes(&bytes).unwrap().0);
        assert_eq!(count, doomed.len() as u64, "{doing}");
    }

    fn with_client(&mut self, act: impl FnOnce(&mut Simulation, usize)) {
        if self.clients.is_empty() {
            let session = self.world.open_session();
            self.world.session = session;
            let range = self.world.grant(12);
            self.clients.push(Client {
                session,
                next: range.first,
                end: ChunkId(range.first.0 + u64::from(range.count)),
                receipts: BTreeMap::new(),
            });
        }
        let at = self.random.random_range(0..self.clients.len());
        self.world.session = self.clients[at].session;
        act(self, at);
    }

    /// A chunk is written: to all members, or to some, of which no receipt comes.
    fn write(&mut self) {
        self.with_client(|this, at| {
            let client = &mut this.clients[at];
            if client.next == client.end {
                return;
            }
            let chunk = client.next;
            client.next.0 += 1;
            let members = this.world.members_of(chunk);
            let whole = this.random.random_bool(0.8);
            for disk in members {
                if whole || this.random.random() {
                    this.disks.get_mut(&disk).unwrap().insert(chunk);
                }
            }
            if whole {
                let receipt = this.world.receipt(chunk, 5);
                this.clients[at].receipts.insert(chunk, receipt);
            }
        });
    }

    fn commit_to_new_file(&mut self, receipt: Receipt) -> bool {
        self.names += 1;
        let name = format!("f{}", self.names);
        // The file is there in any case.
        let inode = self.world.put(InodeId::ROOT, &name, b"").inode;
        let done = self.world.op(&root(), commit(inode, 0, 5, receipt));
        self.files.push((name, inode));
        done.is_ok()
    }

    fn publish(&mut self) {
        self.with_client(|this, at| {
            let receipts: Vec<Receipt> = this.clients[at].receipts.values().cloned().collect();
            if let Some(receipt) = receipts.choose(&mut this.random) {
                let map = this.world.map();
                let is_old = map.locate(POOL, receipt.chunk).unwrap().1.epoch != receipt.epoch;
                let done = this.commit_to_new_file(receipt.clone());
                assert!(
                    done || is_old,
                    "a chunk was taken from the live session that has it open"
                );
            }
        });
    }

    /// A receipt comes from whoever was not to bring it any more.
    fn publish_late(&mut self) {
        if self.late_receipts.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.late_receipts.len());
        let receipt = self.late_receipts[at].clone();
        self.with_client(|this, _| {
            assert!(!this.commit_to_new_file(receipt), "it is nobody's");
        });
    }

    fn remove(&mut self) {
        if self.files.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.files.len());
        let (name, inode) = self.files.swap_remove(at);
        self.with_client(|this, _| {
            this.world.unlink(&root(), InodeId::ROOT, &name).unwrap();
            this.orphans.push(inode);
        });
    }

    fn purge(&mut self) {
        let orphans = std::mem::take(&mut self.orphans);
        self.world.purge(orphans, 1000);
    }

    /// A renewal: what the client gave up goes below the mark, some stay open.
    fn renew(&mut self) {
        self.with_client(|this, at| {
            let Simulation {
                clients,
                random,
                late_receipts,
                world,
                ..
            } = this;
            let client = &mut clients[at];
            let mut open = Vec::new();
            client.receipts.retain(|chunk, receipt| {
                let kept = random.random_bool(0.5);
                if kept {
                    open.push(*chunk);
                } else {
                    late_receipts.push(receipt.clone());
                }
                kept
            });
            let below = client.next;
            world.mark(below, &open);
        });
    }

    fn end(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.clients.len());
        let client = self.clients.swap_remove(at);
        self.late_receipts.extend(client.receipts.into_values());
        self.world.end_session(client.session);
    }

    /// Somebody names candidates: what it reads now, or any chunks at all; it may propose them much later.
    fn read_candidates(&mut self) {
        let chunks = match self.random.random_range(0..3) {
            0 => (0..200).map(ChunkId).collect(),
            1 => {
                let page = unreferenced(&*self.world.kv, None).unwrap();
                page.chunks.iter().map(|(_, chunk)| *chunk).collect()
            }
            _ => {
                let disk = DiskId(self.random.random_range(1..=DISKS));
                self.disks[&disk].iter().copied().collect()
            }
        };
        self.read_before.push(chunks);
    }

    fn propose(&mut self) {
        if !self.read_before.is_empty() {
            let at = self.random.random_range(0..self.read_before.len());
            let chunks = self.read_before.swap_remove(at);
            self.world.doom(&chunks);
        }
    }

    /// A disk deletes what is due, or asks about what it has and no member needs; its word travels.
    fn delete(&mut self, disk: DiskId) {
        let due = self.world.due(disk);
        let referenced = self.referenced();
        for chunk in &due {
            assert!(
                !referenced.contains(chunk),
                "{chunk} is to be deleted and referred to"
            );
            self.disks.get_mut(&disk).unwrap().remove(chunk);
        }
        self.words.push((disk, due));
    }

    /// What a disk has that it is no member of the group of, it deletes as soon as it is doomed.
    fn ask(&mut self, disk: DiskId) {
        let chunks: Vec<ChunkId> = self.disks[&disk].iter().copied().collect();
        self.world.doom(&chunks);
        let map = self.world.map();
        for chunk in chunks {
            let (_, row) = map.locate(POOL, chunk).unwrap();
            if self.world.standing(chunk) == Standing::Doomed && !has_part(row, disk) {
                self.disks.get_mut(&disk).unwrap().remove(&chunk);
            }
        }
    }

    fn deliver(&mut self) {
        if !self.words.is_empty() {
            let at = self.random.random_range(0..self.words.len());
            let (disk, chunks) = match self.random.random() {
                true => self.words.swap_remove(at),
                // And will come once more.
                false => self.words[at].clone(),
            };
            self.world.gone(Some(disk), &chunks);
        }
    }

    /// A group's members change; the newcomer fetches what another disk has, whatever it is.
    fn move_group(&mut self) {
        let map = self.world.map();
        let pg = self
            .random
            .random_range(0..map.topology.pools[&POOL].pg_count);
        let row = &map.rows[&POOL][pg as usize];
        let before: Vec<Option<DiskId>> = row.members.iter().map(|m| m.map(|m| m.disk)).collect();
        let others = (1..=DISKS)
            .map(DiskId)
            .filter(|disk| !before.contains(&Some(*disk)));
        let others: Vec<DiskId> = others.collect();
        let mut members = before.clone();
        let at = self.random.random_range(0..members.len());
        let newcomer = *others.choose(&mut self.random).unwrap();
        members[at] = match self.random.random_range(0..6) {
            0 if members.iter().flatten().count() > 2 => None,
            _ => Some(newcomer),
        };
        let place = Action::Place {
            epoch: map.epoch,
            pool: POOL,
            rows: vec![(PgId(pg), members)],
        };
        self.world.act(place).unwrap();
        let pg_count = map.topology.pools[&POOL].pg_count;
        let of_group: Vec<ChunkId> = self
            .disks
            .values()
            .flatten()
            .copied()
            .filter(|chunk| pg_of(*chunk, pg_count) == PgId(pg))
            .collect();
        self.disks.get_mut(&newcomer).unwrap().extend(of_group);
    }

    fn forget(&mut self) {
        let page = forgettable(&*self.world.kv, &self.world.map(), None).unwrap();
        let chunks: Vec<ChunkId> = page.chunks.iter().map(|(_, chunk)| *chunk).collect();
        self.world.gone(None, &chunks);
    }

    fn step(&mut self) {
        let disk = DiskId(self.random.random_range(1..=DISKS));
        let step = self.random.random_range(0..24);
        match step {
            0..=4 => self.write(),
            5..=8 => self.publish(),
            9 => self.publish_late(),
            10..=12 => self.remove(),
            13 => self.purge(),
            14 => self.renew(),
            15 => self.end(),
            16 => self.read_candidates(),
            17..=18 => self.propose(),
            19 => self.delete(disk),
            20 => self.ask(disk),
            21 => self.deliver(),
            22 => self.forget(),
            _ => self.move_group(),
        }
        self.check(&format!("step {step}"));
    }

    /// Faults end and clients end; then everything that can happen does.
    fn settle(&mut self) {
        while !self.clients.is_empty() {
            self.end();
        }
        self.purge();
        for round in 0.. {
            let page = unreferenced(&*self.world.kv, None).unwrap();
            let chunks: Vec<ChunkId> = page.chunks.iter().map(|(_, chunk)| *chunk).collect();
            self.world.doom(&chunks);
            for disk in (1..=DISKS).map(DiskId) {
                self.ask(disk);
                self.delete(disk);
            }
            while !self.words.is_empty() {
                self.deliver();
            }
            self.forget();
            self.check("settling");
            let referenced = self.referenced();
            let rest: BTreeSet<ChunkId> = self.disks.values().flatten().copied().collect();
            if rest.is_subset(&referenced) && self.doomed().is_empty() {
                break;
            }
            assert!(
                round < 5,
                "{rest:?} are kept, {referenced:?} are referred to"
            );
        }
        let mut known = BTreeSet::new();
        self.each(Family::Chunks, |key, _| {
            known.insert(keys::parse_chunk(key).unwrap().1);
        });
        // A record that never had a reference and is on no disk any more is nobody's to ask about.
        let referenced = self.referenced();
        assert_eq!(known, referenced, "records are left");
        let held = |chunk: &ChunkId| self.disks.values().any(|disk| disk.contains(chunk));
        assert!(
            referenced.iter().all(held),
            "something referred to is nowhere"
        );
    }
}

#[test]
fn no_referenced_chunk_is_doomed_and_in_the_end_nothing_else_stays() {
    let (mut doomed, mut referenced) = (0, 0);
    for seed in 0..60 {
        let mut simulation = Simulation::new(seed);
        for _ in 0..250 {
            simulation.step();
        }
        simulation.settle();
        doomed += simulation.dead.len();
        referenced += simulation.referenced().len();
    }
    assert!(
        doomed > 500 && referenced > 200,
        "{doomed} were doomed and {referenced} stayed: that tests little"
    );
}
