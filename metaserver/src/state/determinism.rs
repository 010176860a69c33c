//! One log gives one state, on every metaserver: over both backings, after a restart from a
//! snapshot, whatever is refused on the way. And every state fits together.

use super::command::{Action, Command};
use super::consistency::faults;
use super::keys;
use super::records::{InodeRecord, Record};
use super::testing::{World, beginning, inline, publish, root, user};
use crate::kv::{Family, Kv, Memory, Rocks, RocksOptions};
use crate::raft::entry::Entry;
use bytes::Bytes;
use quarry_common::codec;
use quarry_common::ids::{
    FileOffset, Gid, InodeId, PoolId, RequestNumber, SessionId, Uid, Version,
};
use quarry_common::time::Nanos;
use quarry_common::wire::meta::{
    Caller, CloneRange, Contents, Expectation, NewExtent, NodeKind, Op, Publish, RenameMode,
    SetAttr, SetTime, Source, View, XattrMode,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Makes a log from a seed: few names and few inodes, most of which exist, so that operations meet.
struct Author {
    random: StdRng,
    /// Where it applies what it wrote, to know what exists.
    world: World,
    directories: Vec<InodeId>,
    others: Vec<InodeId>,
    numbers: u64,
    time_us: u64,
}

impl Author {
    fn new(seed: u64) -> Author {
        Author {
            random: StdRng::seed_from_u64(seed),
            world: empty(Memory::new()),
            directories: Vec::new(),
            others: Vec::new(),
            numbers: 0,
            time_us: 1_000_000,
        }
    }

    /// An inode, more likely one of these.
    fn one_of(&mut self, likely: fn(&Author) -> &Vec<InodeId>) -> InodeId {
        let count = likely(self).len();
        match self.random.random_range(0..20) {
            0 => InodeId(self.random.random_range(0..60)),
            _ if count == 0 => InodeId::ROOT,
            _ => {
                let at = self.random.random_range(0..count);
                likely(self)[at]
            }
        }
    }

    fn directory(&mut self) -> InodeId {
        self.one_of(|author| &author.directories)
    }

    fn inode(&mut self) -> InodeId {
        match self.random.random_range(0..4) {
            0 => self.directory(),
            _ => self.one_of(|author| &author.others),
        }
    }

    /// Applies what it wrote, and looks at what exists now.
    fn write(&mut self, actions: Vec<Action>) -> Bytes {
        let entry = self.entry(actions);
        self.world.apply_entry(&entry);
        (self.directories, self.others) = (Vec::new(), Vec::new());
        for (family, key, value) in self.world.dump() {
            if family == Family::Inodes {
                let is_directory = InodeRecord::from_bytes(&value).unwrap().is_directory();
                let list = if is_directory {
                    &mut self.directories
                } else {
                    &mut self.others
                };
                list.push(keys::parse_inode(&key).unwrap());
            }
        }
        entry
    }

    fn name(&mut self) -> Vec<u8> {
        match self.random.random_range(0..40) {
            0 => b"..".to_vec(),
            1 => vec![b'x'; 300],
            2 => b"a/b".to_vec(),
            _ => vec![b'a' + self.random.random_range(0..8)],
        }
    }

    fn caller(&mut self) -> Caller {
        match self.random.random_range(0..6) {
            0 => user(1000, &[1000]),
            1 => user(1001, &[1001, 1000]),
            _ => root(),
        }
    }

    fn mode(&mut self) -> u16 {
        match self.random.random_range(0..3) {
            0 => self.random.random_range(0..0o10000),
            1 => 0o777,
            _ => 0o3775,
        }
    }

    fn extent(&mut self, from: u64) -> NewExtent {
        let offset = from + self.random.random_range(0..300u64);
        let len = self.random.random_range(1..200usize);
        match self.random.random_bool(0.8) {
            true => inline(offset, &vec![self.random.random(); len]),
            false => NewExtent {
                offset: FileOffset(offset),
                len: len as u64,
                source: Source::Hole,
            },
        }
    }

    /// Some that do not overlap.
    fn extents(&mut self) -> Vec<NewExtent> {
        let mut from = 0;
        let mut extents = Vec::new();
        for _ in 0..self.random.random_range(0..4) {
            let extent = self.extent(from);
            from = extent.offset.0 + extent.len;
            extents.push(extent);
        }
        extents
    }

    fn expectation(&mut self) -> Expectation {
        let inode = self.inode();
        match self.random.random_range(0..4) {
            0 => Expectation::Inode {
                inode,
                modified_at: Version(self.time_us),
            },
            1 => Expectation::Data {
                inode,
                data_version: Version(self.time_us),
            },
            2 => Expectation::Dentry {
                parent: inode,
                name: self.name(),
                inode: None,
            },
            _ => Expectation::Range {
                inode,
                offset: FileOffset(0),
                len: 100,
                unchanged_since: Version(self.time_us),
            },
        }
    }

    fn op(&mut self, in_list: bool) -> Op {
        let (parent, name, inode, mode) =
            (self.directory(), self.name(), self.inode(), self.mode());
        let kinds = if in_list { 19 } else { 21 };
        match self.random.random_range(0..kinds) {
            0 | 1 => Op::Create {
                parent,
                name,
                mode,
                exclusive: self.random.random(),
            },
            2 | 3 => Op::Mkdir { parent, name, mode },
            4 => Op::MakeNode {
                parent,
                name,
                mode,
                kind: NodeKind::BlockDevice(7),
            },
            5 => Op::Symlink {
                parent,
                name,
                target: b"../x".to_vec(),
                mtime: Some(Nanos(-5)),
            },
            6 => Op::Link {
                inode,
                parent,
                name,
            },
            7 => Op::Unlink { parent, name },
            8 => Op::Rmdir { parent, name },
            9 => match self.random.random_bool(0.2) {
                true => Op::RemoveTree { parent, name },
                false => Op::Unlink { parent, name },
            },
            10 | 11 => {
                let modes = [
                    RenameMode::Replace,
                    RenameMode::NoReplace,
                    RenameMode::Exchange,
                ];
                let mode = modes[self.random.random_range(0..3)];
                let to = self.directory();
                Op::Rename {
                    from: parent,
                    from_name: name,
                    to,
                    to_name: self.name(),
                    mode,
                }
            }
            12 => {
                let set = SetAttr {
                    mode: self.random.random_bool(0.5).then_some(mode),
                    uid: self.random.random_bool(0.2).then_some(Uid(1001)),
                    gid: self.random.random_bool(0.3).then_some(Gid(1000)),
                    size: self
                        .random
                        .random_bool(0.4)
                        .then_some(self.random.random_range(0..600)),
                    mtime: self
                        .random
                        .random_bool(0.3)
                        .then_some(SetTime::To(Nanos(9))),
                    atime: self.random.random_bool(0.3).then_some(SetTime::Now),
                };
                Op::SetAttr { inode, set }
            }
            13 => {
                let modes = [XattrMode::Set, XattrMode::Create, XattrMode::Replace];
                let mode = modes[self.random.random_range(0..3)];
                let name = [&b"user."[..], &name].concat();
                Op::SetXattr {
                    inode,
                    name,
                    value: vec![1; 30],
                    mode,
                }
            }
            14 => Op::RemoveXattr {
                inode,
                name: [&b"user."[..], &name].concat(),
            },
            15 => match self.random.random_bool(0.5) {
                true => publish(parent, &name, b"whole contents"),
                false => Op::Publish(Publish {
                    parent,
                    name,
                    mode,
                    mtime: None,
                    replace: true,
                    xattrs: vec![(b"user.p".to_vec(), b"v".to_vec())],
                    contents: Contents::Unnamed(inode),
                }),
            },
            16 => Op::CommitExtents {
                inode,
                extents: self.extents(),
                receipts: Vec::new(),
                size: self.random.random_bool(0.3).then_some(400),
                mtime: None,
            },
            17 => Op::CreateUnnamed { parent, mode },
            18 => Op::Clone(CloneRange {
                view: View::Live,
                from: inode,
                from_offset: FileOffset(self.random.random_range(0..100)),
                len: 300,
                to: self.inode(),
                to_offset: FileOffset(self.random.random_range(0..100)),
            }),
            19 => Op::GrantRange {
                pool: PoolId(1),
                count: 10,
            },
            _ => {
                let expectations = (0..self.random.random_range(0..2))
                    .map(|_| self.expectation())
                    .collect();
                let ops = (0..self.random.random_range(0..4))
                    .map(|_| self.op(true))
                    .collect();
                Op::List { expectations, ops }
            }
        }
    }

    fn action(&mut self, session: SessionId) -> Action {
        if self.random.random_range(0..60) == 0 {
            let orphans = (0..3).map(|_| self.inode()).collect();
            return Action::Purge {
                orphans,
                records_max: 5,
            };
        }
        // Now and then a number is used again, sometimes with another body.
        if self.random.random_range(0..20) > 0 {
            self.numbers += 1;
        }
        Action::Mutate {
            session,
            number: RequestNumber(self.numbers),
            answered_below: RequestNumber(self.numbers.saturating_sub(5)),
            caller: self.caller(),
            op: self.op(false),
        }
    }

    fn entry(&mut self, actions: Vec<Action>) -> Bytes {
        // The clock of a new leader may be behind.
        self.time_us = self
            .time_us
            .saturating_add_signed(self.random.random_range(-20..200));
        let commands = actions
            .into_iter()
            .map(|action| {
                let seen = Version(self.random.random_range(0..self.time_us + 50));
                codec::encode(&Command { seen, action }).into()
            })
            .collect();
        Entry {
            time_us: self.time_us,
            commands,
        }
        .encode()
    }
}

/// A log of `entries` entries; the first is the beginning.
fn log(seed: u64, entries: usize) -> Vec<Bytes> {
    let mut author = Author::new(seed);
    // The first session of a new cluster.
    let session = World::in_memory().session;
    let mut log = vec![author.write(beginning())];
    for _ in 0..entries {
        let actions = (0..author.random.random_range(1..12))
            .map(|_| author.action(session))
            .collect();
        log.push(author.write(actions));
    }
    log
}

fn empty(kv: impl Kv) -> World {
    World::over(Box::new(kv), None)
}

#[test]
fn every_state_fits_together_whatever_the_operations_are() {
    let mut done = 0;
    for seed in 0..30 {
        let mut world = empty(Memory::new());
        for (at, entry) in log(seed, 100).iter().enumerate() {
            for answer in world.apply_entry(entry) {
                let answer: super::command::Answer = codec::decode("an answer", &answer).unwrap();
                done += usize::from(answer.is_ok());
            }
            let faults = faults(&*world.kv);
            assert_eq!(faults, Vec::<String>::new(), "seed {seed}, entry {at}");
        }
    }
    assert!(
        done > 5_000,
        "only {done} operations were not refused: the log tests little"
    );
}

#[test]
fn one_log_gives_one_state_over_both_backings_and_after_a_restart_from_a_snapshot() {
    for seed in 100..103 {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let open = |name: &str| Rocks::open(&path(name), RocksOptions::default()).unwrap();
        let mut memory = empty(Memory::new());
        let mut disk = empty(open("disk"));
        let log = log(seed, 300);
        for (at, entry) in log.iter().enumerate() {
            assert_eq!(
                memory.apply_entry(entry),
                disk.apply_entry(entry),
                "seed {seed}, entry {at}"
            );
            if at == log.len() / 2 {
                disk.kv.export(&path("copy")).unwrap();
                let other = open("other");
                other.import(&path("copy")).unwrap();
                disk = empty(other);
            }
        }
        assert!(
            memory.dump() == disk.dump(),
            "seed {seed}: the states differ"
        );
    }
}

#[test]
fn how_commands_are_packed_into_entries_changes_nothing_but_sums() {
    // All in one entry or one each: usage is summed per entry and must come out the same.
    for seed in 200..230 {
        let mut packed = empty(Memory::new());
        let mut single = empty(Memory::new());
        for entry in log(seed, 40) {
            let answers = packed.apply_entry(&entry);
            let entry = Entry::decode(&entry).unwrap();
            let mut one_by_one = Vec::new();
            for command in entry.commands {
                let entry = Entry {
                    time_us: entry.time_us,
                    commands: vec![command],
                };
                one_by_one.extend(single.apply_entry(&entry.encode()));
            }
            assert_eq!(answers, one_by_one);
        }
        assert!(
            packed.dump() == single.dump(),
            "seed {seed}: the states differ"
        );
    }
}
