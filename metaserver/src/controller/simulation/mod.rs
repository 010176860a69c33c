//! One placement group, from a seed: the real state machine and the real controller, over dataservers and clients that are
//! a few lines each. It is the model of the data plane that DESIGN §4 speaks of, with our functions in the place of its
//! metaserver: `place`, `complete`, `covers`, the planner, and the law of publishing with real receipts.
//!
//! Two things are checked after every step: *durable* (what is committed is on a disk that is not lost) and *complete* (a member
//! that the map calls complete has all that is committed). A run ends with settling: faults end, everything that can happen
//! happens, and the group must be clean with every member whole.

mod traces;
mod walks;

use super::{Life, Placement, Planner};
use crate::state::command::{Action, Bootstrap, Reply};
use crate::state::data_testing::{commit, new_disk, registration};
use crate::state::map_state::keys::keys_of;
use crate::state::testing::{World, beginning, root};
use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, DiskId, Epoch, InodeId, PgId, PoolId};
use quarry_common::map::fill::{all_before, covers, merged};
use quarry_common::map::{ClusterMap, DiskState, EpochRange, MemberState, Pool, Redundancy, Row};
use quarry_common::token::Receipt;
use quarry_common::token::receipt::Durable;
use quarry_common::wire::meta::{Complete, Op, OpReply};
use quarry_common::{Code, Result};
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

    /// Whether a hop may take part in a write of that epoch.
    fn hop_may(&self, disk: usize, epoch: Epoch) -> bool {
        let found = &self.disks[disk];
        let fenced = self.bounds.fences && (epoch < found.known || found.known == Epoch::ZERO);
        found.up && !fenced
    }

    fn chain(&self, chunk: usize) -> Vec<usize> {
        self.chunks[chunk].row.chain().map(at).collect()
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

    fn try_step(&mut self, step: Step) -> bool {
        match step {
            Step::Refresh(chunk) => {
                let row = self.row();
                let found = &mut self.chunks[chunk];
                let may = !found.writing && !found.ended && found.map.epoch < row.epoch;
                if may {
                    found.map = row;
                }
                may
            }
            Step::Write(chunk) => {
                let found = &mut self.chunks[chunk];
                let may = !found.writing && !found.ended;
                if may {
                    (found.writing, found.sent) = (true, 1);
                    found.row = found.map.clone();
                }
                may
            }
            Step::Seal(chunk) => {
                let found = &mut self.chunks[chunk];
                let may = found.writing && found.sent == 1;
                if may {
                    found.sent = FULL;
                }
                may
            }
            Step::GiveUp(chunk) => {
                let found = &mut self.chunks[chunk];
                let may = found.writing && found.sent > found.receipt;
                if may {
                    (found.writing, found.ended) = (false, true);
                }
                may
            }
            Step::Receive(chunk, hop) => self.receive(chunk, hop),
            Step::Acknowledge(chunk, hop) => self.acknowledge(chunk, hop),
            Step::Commit(chunk) => self.commit(chunk),
            Step::Crash(disk) => {
                let may = self.disks[disk].up && self.crashes < self.bounds.crashes;
                if may {
                    self.crashes += 1;
                    self.crash(disk);
                }
                may
            }
            Step::Restart(disk) => {
                let found = &mut self.disks[disk];
                let may = !found.up && !found.lost;
                found.up |= may;
                may
            }
            Step::Lose(disk) => {
                let may = !self.disks[disk].lost && self.losses < self.bounds.losses;
                if may {
                    self.losses += 1;
                    self.crash(disk);
                    let found = &mut self.disks[disk];
                    (found.lost, found.report) = (true, None);
                    found.durable.fill(0);
                    found.received.fill(0);
                }
                may
            }
            Step::Cut(disk) => {
                let found = &mut self.disks[disk];
                let may = !found.cut && !found.lost && self.cuts < self.bounds.cuts;
                if may {
                    found.cut = true;
                    self.cuts += 1;
                }
                may
            }
            Step::Join(disk) => std::mem::replace(&mut self.disks[disk].cut, false),
            Step::Heartbeat(disk) => {
                let may = self.disks[disk].up && !self.disks[disk].cut;
                if may {
                    self.heartbeat(disk);
                }
                may
            }
            Step::Down(disk) => {
                let reached = self.disks[disk].up && !self.disks[disk].cut;
                let may = !reached && self.lives[&id(disk)] == Life::Up;
                if may {
                    self.lives.insert(id(disk), Life::Down);
                    self.control();
                }
                may
            }
            Step::Up(disk) => {
                let reached = self.disks[disk].up && !self.disks[disk].cut;
                let may = reached && self.lives[&id(disk)] == Life::Down;
                if may {
                    self.lives.insert(id(disk), Life::Up);
                    self.world
                        .act(Action::SetDisks(vec![(id(disk), DiskState::In)]))
                        .unwrap();
                    self.control();
                }
                may
            }
            Step::Out(disk) => {
                let state = self.map().topology.disks[&id(disk)].state;
                let may = self.lives[&id(disk)] == Life::Down && state == DiskState::In;
                if may {
                    self.world
                        .act(Action::SetDisks(vec![(id(disk), DiskState::Out)]))
                        .unwrap();
                    self.control();
                }
                may
            }
            Step::List(disk, source) => self.list(disk, source),
            Step::Fetch(disk, chunk) => self.fetch(disk, chunk),
            Step::Report(disk) => {
                let may = self.has_everything(disk);
                if may {
                    let found = &mut self.disks[disk];
                    found.report = found.listing.as_ref().map(|listing| listing.epoch);
                }
                may
            }
            Step::TakeReport(disk) => {
                let Some(epoch) = self.disks[disk].report.take() else {
                    return false;
                };
                let report = Complete {
                    disk: id(disk),
                    pool: POOL,
                    pg: PG,
                    epoch,
                };
                self.world.act(Action::Complete(vec![report])).unwrap();
                self.control();
                true
            }
            Step::Delete(disk) => {
                let found = &mut self.disks[disk];
                let licensed = found.licence.is_some_and(|epoch| epoch == found.known);
                let may = found.up && licensed && found.durable.iter().any(|len| *len > 0);
                if may {
                    found.durable.fill(0);
                    found.received.fill(0);
                    found.broken.fill(true);
                }
                may
            }
        }
    }

    fn crash(&mut self, disk: usize) {
        let found = &mut self.disks[disk];
        found.up = false;
        found.received = found.durable.clone();
        for (joined, broken) in found.joined.iter().zip(&mut found.broken) {
            *broken |= joined;
        }
        (found.known, found.row) = (Epoch::ZERO, Row::default());
        (found.listing, found.licence) = (None, None);
    }

    fn receive(&mut self, chunk: usize, hop: usize) -> bool {
        let chain = self.chain(chunk);
        let Some(disk) = chain.get(hop).copied() else {
            return false;
        };
        let here = &self.chunks[chunk];
        let epoch = here.row.epoch;
        let offered = match hop.checked_sub(1) {
            None if here.writing => here.sent,
            None => 0,
            Some(before) => {
                let before = &self.disks[chain[before]];
                match before.up && before.joined[chunk] && !before.broken[chunk] {
                    true => before.received[chunk],
                    false => 0,
                }
            }
        };
        let found = &self.disks[disk];
        if found.broken[chunk] || offered <= found.received[chunk] || !self.hop_may(disk, epoch) {
            return false;
        }
        if epoch > found.known {
            // It fetches the map first.
            self.heartbeat(disk);
        }
        let found = &mut self.disks[disk];
        (found.joined[chunk], found.received[chunk]) = (true, offered);
        true
    }

    fn acknowledge(&mut self, chunk: usize, hop: usize) -> bool {
        let chain = self.chain(chunk);
        let Some(disk) = chain.get(hop).copied() else {
            return false;
        };
        let epoch = self.chunks[chunk].row.epoch;
        let after = chain.get(hop + 1);
        let after = after.map_or(FULL, |next| self.disks[*next].acknowledged[chunk]);
        let found = &self.disks[disk];
        let len = found.received[chunk].min(after);
        let in_pipeline = found.up && found.joined[chunk] && !found.broken[chunk];
        if !in_pipeline || len <= found.acknowledged[chunk] || !self.hop_may(disk, epoch) {
            return false;
        }
        let found = &mut self.disks[disk];
        found.durable[chunk] = found.durable[chunk].max(found.received[chunk]);
        found.acknowledged[chunk] = len;
        let here = &mut self.chunks[chunk];
        if hop == 0 && here.writing {
            here.receipt = len;
            if len == FULL {
                (here.writing, here.ended) = (false, true);
            }
        }
        true
    }

    /// Words of these disks that a chunk is durable.
    fn words(&self, chunk: usize, epoch: Epoch, len: u32, disks: &[DiskId]) -> Receipt {
        let id = self.chunks[chunk].id;
        let durable = Durable {
            pool: POOL,
            chunk: id,
            epoch,
            len,
            crc: Crc(id.0 as u32 ^ len),
        };
        let map = self.map();
        let word = |disk: &DiskId| {
            let server = map.topology.disks[disk].server;
            let keys = keys_of(&*self.world.kv, server).unwrap();
            durable.sign(&keys.receipt.unwrap(), *disk)
        };
        durable.receipt(disks.iter().map(word).collect())
    }

    /// The leader's part of the law is here as it is in `serve/publishing`; what is decided is the state machine's.
    fn commit(&mut self, chunk: usize) -> bool {
        let found = self.chunks[chunk].clone();
        let len = found.receipt;
        if len <= found.committed {
            return false;
        }
        let disks: Vec<DiskId> = found.row.chain().collect();
        let receipt = self.words(chunk, found.row.epoch, len, &disks);
        let op = commit(found.inode, 0, len.into(), receipt);
        let plain = self.world.mutation(&root(), op.clone());
        let row = self.row();
        let mut result = self.world.act(plain).map(|_| ());
        let is_old = found.row.epoch < row.epoch;
        assert_eq!(
            result
                .as_ref()
                .is_err_and(|error| error.code == Code::OldReceipt),
            is_old,
            "{result:?}"
        );
        if is_old {
            match self.confirm(chunk, len, &row) {
                None => return false,
                Some(confirmed) => result = self.commit_confirmed(op, confirmed),
            }
        }
        match result {
            Ok(()) => self.chunks[chunk].committed = len,
            Err(error) => panic!("{error}"),
        }
        true
    }

    fn commit_confirmed(&mut self, op: Op, confirmed: Receipt) -> Result<()> {
        let Action::Mutate {
            session,
            number,
            answered_below,
            caller,
            op,
        } = self.world.mutation(&root(), op)
        else {
            panic!("a mutation is one");
        };
        let action = Action::MutateConfirmed {
            session,
            number,
            answered_below,
            caller,
            op,
            confirmed: Ok(vec![confirmed]),
        };
        self.world.act(action).map(|_| ())
    }

    /// Every present member confirms, fetching what it lacks; `None` if one can not.
    fn confirm(&mut self, chunk: usize, len: u32, row: &Row) -> Option<Receipt> {
        let has = |disk: &Disk| disk.up && disk.durable[chunk] >= len;
        for disk in row.chain().map(at) {
            if !self.disks[disk].up || !self.disks.iter().any(has) {
                return None;
            }
            let found = &mut self.disks[disk];
            found.durable[chunk] = found.durable[chunk].max(len);
        }
        let disks: Vec<DiskId> = row.chain().collect();
        Some(self.words(chunk, row.epoch, len, &disks))
    }

    /// Since when a disk is a filling member, by its own map.
    fn filling_since(&self, disk: usize) -> Option<Epoch> {
        let found = &self.disks[disk];
        let mut members = found.row.members.iter().flatten();
        let member = members.find(|m| m.disk == id(disk) && m.state == MemberState::Filling)?;
        (found.up && found.row.epoch == found.known).then_some(member.since)
    }

    fn list(&mut self, disk: usize, source: usize) -> bool {
        let fences = self.bounds.fences;
        if disk == source || self.filling_since(disk).is_none() || !self.disks[source].up {
            return false;
        }
        let row = self.disks[disk].row.clone();
        let covered = covers(&row, id(source));
        let refuses =
            self.disks[source].known > row.epoch || self.disks[source].known == Epoch::ZERO;
        if covered.is_empty() || fences && refuses {
            return false;
        }
        let chunks = self.bounds.chunks;
        let found = &mut self.disks[source];
        if fences && found.known < row.epoch {
            (found.known, found.licence) = (row.epoch, None);
        }
        let lens = found.durable.clone();
        let listing = self.disks[disk].listing.take();
        let mut listing = listing
            .filter(|listing| listing.epoch == row.epoch)
            .unwrap_or_else(|| Listing {
                epoch: row.epoch,
                covered: Vec::new(),
                need: vec![0; chunks],
            });
        listing.covered = merged([listing.covered, covered].concat());
        for (need, len) in listing.need.iter_mut().zip(lens) {
            *need = len.max(*need);
        }
        self.disks[disk].listing = Some(listing);
        true
    }

    fn fetch(&mut self, disk: usize, chunk: usize) -> bool {
        let need = self.need(disk, chunk);
        let has = |found: &Disk| found.up && found.durable[chunk] >= need;
        let lacks = self.disks[disk].durable[chunk] < need;
        let may = self.disks[disk].up && lacks && self.disks.iter().any(has);
        if may {
            self.disks[disk].durable[chunk] = need;
        }
        may
    }

    /// How much of a chunk a filling member needs: what was listed; once nobody can give that any more, what the metaserver
    /// says is committed: more than that is nobody's.
    fn need(&self, disk: usize, chunk: usize) -> u32 {
        let listing = &self.disks[disk].listing;
        let listed = listing.as_ref().map_or(0, |listing| listing.need[chunk]);
        let gives = |other: &Disk| !other.lost && other.durable[chunk] >= listed;
        match self.disks.iter().any(gives) {
            true => listed,
            false => listed.min(self.chunks[chunk].committed),
        }
    }

    /// Whether a filling member has listed every epoch before it joined and holds all of it.
    fn has_everything(&self, disk: usize) -> bool {
        let found = &self.disks[disk];
        let (Some(since), Some(listing)) = (self.filling_since(disk), &found.listing) else {
            return false;
        };
        let own = covers(&found.row, id(disk));
        listing.epoch == found.row.epoch
            && all_before(&merged([own, listing.covered.clone()].concat()), since)
            && (0..self.chunks.len()).all(|chunk| found.durable[chunk] >= self.need(disk, chunk))
    }

    /// What is broken, if anything.
    fn broken(&self) -> Option<String> {
        for (number, chunk) in self.chunks.iter().enumerate() {
            let len = chunk.committed;
            if len == 0 {
                continue;
            }
            if !self.disks.iter().any(|disk| disk.durable[number] >= len) {
                return Some(format!("durable: nobody has x{number}[0,{len})"));
            }
            let lacks = |(disk, found): &(usize, &Disk)| {
                !found.lost && found.durable[number] < len && self.is_complete(*disk)
            };
            if let Some((disk, _)) = self.disks.iter().enumerate().find(lacks) {
                return Some(format!("complete: d{disk} lacks x{number}[0,{len})"));
            }
        }
        None
    }

    fn check(&self) {
        if let Some(what) = self.broken() {
            panic!("{what}\n{}", self.trace.join("\n"));
        }
    }

    /// Faults end, clients end, and everything that can happen does.
    fn settle(&mut self) {
        for disk in 0..self.bounds.disks {
            self.step(Step::Join(disk));
            self.step(Step::Restart(disk));
        }
        for chunk in &mut self.chunks {
            (chunk.writing, chunk.ended) = (false, true);
        }
        for _ in 0..12 {
            for disk in 0..self.bounds.disks {
                self.step(Step::Down(disk));
                self.step(Step::Out(disk));
                self.step(Step::Up(disk));
                self.step(Step::Heartbeat(disk));
                self.step(Step::TakeReport(disk));
                for source in 0..self.bounds.disks {
                    self.step(Step::List(disk, source));
                }
                for chunk in 0..self.bounds.chunks {
                    self.step(Step::Fetch(disk, chunk));
                }
                self.step(Step::Report(disk));
                self.step(Step::TakeReport(disk));
                self.step(Step::Heartbeat(disk));
                self.step(Step::Delete(disk));
            }
        }
        let here = self.disks.iter().filter(|disk| !disk.lost).count();
        if here < usize::from(self.bounds.min_members) {
            return;
        }
        let trace = || self.trace.join("\n");
        assert!(
            self.is_clean(),
            "never clean: {:?}\n{}",
            self.row(),
            trace()
        );
        let wanted = here.min(self.bounds.replicas.into());
        assert_eq!(self.row().present(), wanted, "{}", trace());
        for (number, chunk) in self.chunks.iter().enumerate() {
            for disk in self.members().into_iter().flatten() {
                let has = self.disks[disk].durable[number];
                assert!(
                    has >= chunk.committed,
                    "d{disk} lacks x{number}\n{}",
                    trace()
                );
            }
        }
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
