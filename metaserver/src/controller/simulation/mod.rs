//! One placement group, from a seed: the real state machine and the real controller, over dataservers and clients that are
//! a few lines each. It is the model of the data plane that DESIGN §4 speaks of, with our functions in the place of its
//! metaserver: `place`, `complete`, `covers`, the planner, and the law of publishing with real receipts.
//!
//! Two things are checked after every step: *durable* (what is committed is on a disk that is not lost) and *complete* (a member
//! that the map calls complete has all that is committed). A run ends with settling: faults end, everything that can happen
//! happens, and the group must be clean with every member whole.

mod checks;
mod filling;
mod steps;
mod traces;
mod walks;
mod writing;

use super::{Life, Placement, Planner};
use crate::state::command::{Action, Bootstrap, Reply};
use crate::state::data_testing::{new_disk, registration};
use crate::state::testing::{World, beginning, root};
use quarry_common::ids::{ChunkId, DiskId, Epoch, InodeId, PgId, PoolId};
use quarry_common::map::{ClusterMap, EpochRange, MemberState, Pool, Redundancy, Row};
use quarry_common::wire::meta::{Op, OpReply};
use std::collections::BTreeMap;

const POOL: PoolId = PoolId(1);
const PG: PgId = PgId(0);

/// A chunk is 2 long: a flush at 1, a seal at 2.
const FULL: u32 = 2;

/// What a run is about.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    disks: usize,
    replicas: u8,
    min_members: u8,
    chunks: usize,
    /// Chunks that are committed before it begins.
    prewritten: usize,
    /// The fences of dataservers (DESIGN §4.2.7): epochs compared again at the acknowledgement, taken over from listers and refused
    /// to older ones, no writing after a start before a heartbeat. Without them the law of publishing stands alone.
    fences: bool,
    crashes: u32,
    losses: u32,
    cuts: u32,
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A client takes over the map.
    Refresh(usize),
    /// It begins its chunk, up to the flush.
    Write(usize),
    /// It sends the rest.
    Seal(usize),
    /// It gives the chunk up at what was acknowledged.
    GiveUp(usize),
    /// The hop at that position receives all that the one before it has.
    Receive(usize, usize),
    /// It is durable and acknowledges what the hop after it has acknowledged.
    Acknowledge(usize, usize),
    /// The client hands its receipt in, by the law of publishing.
    Commit(usize),
    Crash(usize),
    Restart(usize),
    Lose(usize),
    Cut(usize),
    Join(usize),
    Heartbeat(usize),
    /// The leader finds a disk down, up again, or down for long.
    Down(usize),
    Up(usize),
    Out(usize),
    /// A filling member lists another disk, fetches a chunk, sends a report, and the report arrives.
    List(usize, usize),
    Fetch(usize, usize),
    Report(usize),
    TakeReport(usize),
    /// A disk that left deletes its chunks.
    Delete(usize),
}

/// A disk and its dataserver.
#[derive(Clone, Debug, Default)]
struct Disk {
    up: bool,
    lost: bool,
    /// From the metaservers, not from its peers.
    cut: bool,
    /// The newest epoch of the group that it knows, and the row of its map.
    known: Epoch,
    row: Row,
    durable: Vec<u32>,
    received: Vec<u32>,
    acknowledged: Vec<u32>,
    /// Whether it is in the chunk's pipeline, and whether that broke.
    joined: Vec<bool>,
    broken: Vec<bool>,
    /// What it listed, with the row of which epoch.
    listing: Option<Listing>,
    /// A report on its way.
    report: Option<Epoch>,
    /// It may delete, as long as this is the newest epoch that it knows.
    licence: Option<Epoch>,
}

#[derive(Clone, Debug)]
struct Listing {
    epoch: Epoch,
    covered: Vec<EpochRange>,
    need: Vec<u32>,
}

/// A chunk, its client and its file.
#[derive(Clone, Debug, Default)]
struct Chunk {
    id: ChunkId,
    inode: InodeId,
    map: Row,
    writing: bool,
    ended: bool,
    /// The row with which it is written.
    row: Row,
    sent: u32,
    receipt: u32,
    committed: u32,
}

/// The group.
struct Group {
    bounds: Bounds,
    world: World,
    planner: Planner,
    lives: BTreeMap<DiskId, Life>,
    disks: Vec<Disk>,
    chunks: Vec<Chunk>,
    crashes: u32,
    losses: u32,
    cuts: u32,
    /// What happened, for people.
    trace: Vec<String>,
}

/// The disk of that place in the order of preference.
fn id(disk: usize) -> DiskId {
    DiskId(disk as u32 + 1)
}

fn at(disk: DiskId) -> usize {
    disk.0 as usize - 1
}

impl Group {
    fn new(bounds: Bounds) -> Group {
        let mut world = World::over(Box::new(crate::kv::Memory::new()), None);
        for action in beginning() {
            let action = match action {
                Action::Bootstrap(begin) => Action::Bootstrap(Bootstrap {
                    pool: (POOL, one_group(begin.pool.1, &bounds)),
                    ..begin
                }),
                other => other,
            };
            if let Reply::Session(session) = world.act(action).unwrap() {
                world.session = session;
            }
        }
        for server in 1..=bounds.disks {
            let disk = vec![new_disk("/disk")];
            world.act(registration(server as u32, disk)).unwrap();
        }
        let blank = Disk {
            up: true,
            durable: vec![0; bounds.chunks],
            received: vec![0; bounds.chunks],
            acknowledged: vec![0; bounds.chunks],
            joined: vec![false; bounds.chunks],
            broken: vec![false; bounds.chunks],
            ..Disk::default()
        };
        let mut group = Group {
            bounds,
            world,
            planner: Planner::default(),
            lives: (0..bounds.disks).map(|disk| (id(disk), Life::Up)).collect(),
            disks: vec![blank; bounds.disks],
            chunks: Vec::new(),
            crashes: 0,
            losses: 0,
            cuts: 0,
            trace: Vec::new(),
        };
        group.control();
        let first = match group.world.op(
            &root(),
            Op::GrantRange {
                pool: POOL,
                count: bounds.chunks as u32,
            },
        ) {
            Ok(OpReply::Range(grant)) => grant.range.first,
            other => panic!("{other:?}"),
        };
        for chunk in 0..bounds.chunks {
            let file = group.world.put(InodeId::ROOT, &format!("x{chunk}"), b"");
            group.chunks.push(Chunk {
                id: ChunkId(first.0 + chunk as u64),
                inode: file.inode,
                map: group.row(),
                ..Chunk::default()
            });
        }
        for disk in 0..bounds.disks {
            group.heartbeat(disk);
        }
        for chunk in 0..bounds.prewritten {
            group.prewrite(chunk);
        }
        group.trace.clear();
        group
    }

    /// Writes and commits a chunk without any fault.
    fn prewrite(&mut self, chunk: usize) {
        self.step(Step::Write(chunk));
        self.step(Step::Seal(chunk));
        let hops = self.chunks[chunk].row.present();
        for hop in 0..hops {
            self.step(Step::Receive(chunk, hop));
        }
        for hop in (0..hops).rev() {
            self.step(Step::Acknowledge(chunk, hop));
        }
        self.step(Step::Commit(chunk));
        assert_eq!(self.chunks[chunk].committed, FULL);
    }

    fn map(&self) -> ClusterMap {
        self.world.map()
    }

    /// The group's row, as the cluster agreed on it.
    fn row(&self) -> Row {
        let mut map = self.map();
        map.rows
            .remove(&POOL)
            .map_or_else(Row::default, |mut rows| rows.remove(0))
    }

    fn members(&self) -> Vec<Option<usize>> {
        let row = self.row();
        row.members.iter().map(|m| m.map(|m| at(m.disk))).collect()
    }

    fn is_complete(&self, disk: usize) -> bool {
        let row = self.row();
        let mut members = row.members.iter().flatten();
        members.any(|m| m.disk == id(disk) && m.state == MemberState::Complete)
    }

    /// Members are complete, and nobody beside them is remembered.
    fn is_clean(&self) -> bool {
        let row = self.row();
        let mut members = row.members.iter().flatten();
        row.holders.is_empty() && members.all(|m| m.state == MemberState::Complete)
    }

    /// The leader's controller: what follows from the lives of the disks.
    fn control(&mut self) {
        loop {
            let map = self.map();
            let lives = &self.lives;
            let life = |disk: DiskId| lives[&disk];
            let Some(Placement { epoch, pool, rows }) = self.planner.plan(&map, &life) else {
                return;
            };
            self.world.act(Action::Place { epoch, pool, rows }).unwrap();
        }
    }

    fn heartbeat(&mut self, disk: usize) {
        let row = self.row();
        let found = &mut self.disks[disk];
        if row.epoch >= found.known {
            if row.epoch > found.known {
                found.licence = None;
            }
            found.known = row.epoch;
            let member = row.chain().any(|member| member == id(disk));
            let mut members = row.members.iter().flatten();
            let clean = row.holders.is_empty() && members.all(|m| m.state == MemberState::Complete);
            if clean && !member {
                found.licence = Some(row.epoch);
            }
            found.row = row;
        }
    }

    /// Does a step if it can be done now; whether it could.
    fn step(&mut self, step: Step) -> bool {
        let done = self.try_step(step);
        if done {
            self.trace.push(format!(
                "{step:?} -> {} {:?}",
                self.row().epoch,
                self.members()
            ));
            self.check();
        }
        done
    }
}

/// The pool of the runs: one group, whose disks are preferred in the order of their numbers.
fn one_group(pool: Pool, bounds: &Bounds) -> Pool {
    let order = (0..bounds.disks).map(id).collect();
    Pool {
        pg_count: 1,
        redundancy: Redundancy::Replicated {
            replicas: bounds.replicas,
            min_members: bounds.min_members,
        },
        exceptions: [(0, order)].into(),
        ..pool
    }
}
