//! Random operations on contents against a model that knows where each byte comes from.

use super::span::WINDOW_LEN;
use crate::state::chunks::miscounts;
use crate::state::command::Action;
use crate::state::consistency::faults;
use crate::state::data_testing::{Byte, POOL};
use crate::state::testing::{World, root};
use quarry_common::ids::{ChunkId, ChunkOffset, FileOffset, InodeId};
use quarry_common::token::Receipt;
use quarry_common::wire::meta::{
    CloneRange, Contents, ExtentSource, NewExtent, Op, OpReply, Publish, SetAttr, Source, View,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

/// Offsets at which things happen: around the start and around a border of windows.
const BASES: [u64; 2] = [0, WINDOW_LEN - 40];

#[derive(Clone, Default)]
struct File {
    size: u64,
    bytes: BTreeMap<u64, Byte>,
}

impl File {
    fn clear(&mut self, from: u64, len: u64) {
        let keys: Vec<u64> = self
            .bytes
            .range(from..from + len)
            .map(|(at, _)| *at)
            .collect();
        for at in keys {
            self.bytes.remove(&at);
        }
    }

    fn write(&mut self, base: u64, extents: &[NewExtent], receipts: &[Receipt]) {
        for extent in extents {
            let start = base + extent.offset.0;
            self.clear(start, extent.len);
            for at in 0..extent.len {
                let byte = match &extent.source {
                    Source::Hole => continue,
                    Source::Inline(bytes) => Byte::Inline(bytes[at as usize]),
                    Source::Chunk {
                        receipt,
                        chunk_offset,
                    } => Byte::Chunk(
                        receipts[*receipt as usize].chunk,
                        ChunkOffset(chunk_offset + at as u32),
                    ),
                };
                self.bytes.insert(start + at, byte);
            }
            self.size = self.size.max(start + extent.len);
        }
    }

    fn truncate(&mut self, size: u64) {
        self.bytes.split_off(&size);
        self.size = size;
    }
}

struct Player {
    world: World,
    random: StdRng,
    files: BTreeMap<InodeId, File>,
    names: BTreeMap<u8, InodeId>,
    gone: Vec<InodeId>,
    next: ChunkId,
}

impl Player {
    fn new(world: World, seed: u64) -> Player {
        let (files, names) = (BTreeMap::new(), BTreeMap::new());
        let mut player = Player {
            world,
            random: StdRng::seed_from_u64(seed),
            files,
            names,
            gone: Vec::new(),
            next: ChunkId(0),
        };
        player.world.add_disks(4);
        player.next = player.world.grant(60_000).first;
        player
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.random_range(0..limit)
    }

    /// Some extents that do not overlap and, unless `anywhere`, cross no window.
    fn extents(&mut self, anywhere: bool) -> (Vec<NewExtent>, Vec<Receipt>) {
        let mut at = if anywhere {
            0
        } else {
            BASES[self.below(2) as usize]
        };
        let (mut extents, mut receipts) = (Vec::new(), Vec::new());
        for _ in 0..self.below(5) {
            at += self.below(20);
            let mut len = 1 + self.below(30);
            let border = (at / WINDOW_LEN + 1) * WINDOW_LEN;
            len = len.min(border - at);
            let source = match self.below(4) {
                0 => Source::Hole,
                1 => Source::Inline((0..len).map(|at| at as u8).collect()),
                _ => {
                    let chunk_offset = self.below(9) as u32;
                    receipts.push(self.world.receipt(self.next, len as u32 + chunk_offset + 1));
                    self.next.0 += 1;
                    Source::Chunk {
                        receipt: receipts.len() as u32 - 1,
                        chunk_offset,
                    }
                }
            };
            extents.push(NewExtent {
                offset: FileOffset(at),
                len,
                source,
            });
            at += len;
        }
        (extents, receipts)
    }

    fn any(&mut self) -> Option<InodeId> {
        let at = self.below(self.files.len().max(1) as u64) as usize;
        self.files.keys().nth(at).copied()
    }

    fn forget_name(&mut self, name: u8) {
        self.gone.extend(self.names.remove(&name));
    }

    fn step(&mut self) {
        let name = self.below(4) as u8;
        match (self.below(12), self.any()) {
            (0 | 1, _) | (_, None) => self.publish(name),
            (2..=4, Some(inode)) => {
                let (extents, receipts) = self.extents(false);
                let file = self.files.get_mut(&inode).unwrap();
                file.write(0, &extents, &receipts);
                let op = Op::CommitExtents {
                    inode,
                    extents,
                    receipts,
                    size: None,
                    mtime: None,
                };
                self.world.op(&root(), op).unwrap();
            }
            (5, Some(inode)) => {
                let (extents, receipts) = self.extents(true);
                let len = extents
                    .last()
                    .map_or(3, |last| last.offset.0 + last.len + 2);
                let file = self.files.get_mut(&inode).unwrap();
                let end = file.size;
                file.write(end, &extents, &receipts);
                file.size = end + len;
                match self
                    .world
                    .op(
                        &root(),
                        Op::Append {
                            inode,
                            extents,
                            receipts,
                            len,
                        },
                    )
                    .unwrap()
                {
                    OpReply::Appended { offset, .. } => assert_eq!(offset.0, end),
                    other => panic!("{other:?}"),
                }
            }
            (6 | 7, Some(from)) => self.clone_range(from),
            (8 | 9, Some(inode)) => {
                let size = BASES[self.below(2) as usize] + self.below(90);
                self.files.get_mut(&inode).unwrap().truncate(size);
                let set = SetAttr {
                    size: Some(size),
                    ..SetAttr::default()
                };
                self.world.op(&root(), Op::SetAttr { inode, set }).unwrap();
            }
            (10, _) if self.names.contains_key(&name) => {
                self.forget_name(name);
                let unlink = Op::Unlink {
                    parent: InodeId::ROOT,
                    name: vec![b'a' + name],
                };
                self.world.op(&root(), unlink).unwrap();
            }
            _ => self.purge(),
        }
    }

    fn publish(&mut self, name: u8) {
        let (extents, receipts) = self.extents(false);
        let mut file = File::default();
        file.write(0, &extents, &receipts);
        let size = file.size;
        let op = Op::Publish(Publish {
            parent: InodeId::ROOT,
            name: vec![b'a' + name],
            mode: 0o644,
            mtime: None,
            replace: true,
            xattrs: Vec::new(),
            contents: Contents::Extents {
                size,
                extents,
                receipts,
            },
        });
        let inode = self.world.attr_of(&root(), op).unwrap().inode;
        self.forget_name(name);
        self.names.insert(name, inode);
        self.files.insert(inode, file);
    }

    fn clone_range(&mut self, from: InodeId) {
        let Some(to) = self.any() else { return };
        let (from_offset, to_offset) = (
            BASES[self.below(2) as usize] + self.below(50),
            BASES[self.below(2) as usize] + self.below(50),
        );
        let source = self.files[&from].clone();
        let len = (1 + self.below(90)).min(source.size.saturating_sub(from_offset));
        let range = CloneRange {
            view: View::Live,
            from,
            from_offset: FileOffset(from_offset),
            len,
            to,
            to_offset: FileOffset(to_offset),
        };
        let overlaps = from == to && from_offset < to_offset + len && to_offset < from_offset + len;
        let result = self.world.op(&root(), Op::Clone(range));
        assert_eq!(result.is_err(), overlaps && len > 0, "{result:?}");
        if result.is_err() || len == 0 {
            return;
        }
        let target = self.files.get_mut(&to).unwrap();
        target.clear(to_offset, len);
        for (at, byte) in source.bytes.range(from_offset..from_offset + len) {
            target.bytes.insert(at - from_offset + to_offset, *byte);
        }
        target.size = target.size.max(to_offset + len);
    }

    fn purge(&mut self) {
        let gone = std::mem::take(&mut self.gone);
        let records_max = 1 + self.below(8) as u32;
        let (purged, _) = self.world.purge(gone.clone(), records_max);
        for inode in gone {
            match purged.contains(&inode) {
                true => drop(self.files.remove(&inode)),
                // It is being emptied, so nobody looks at its contents any more.
                false => {
                    self.files.remove(&inode);
                    self.gone.push(inode);
                }
            }
        }
    }

    fn compare(&self) {
        for (inode, file) in &self.files {
            let page = self.world.extents(*inode);
            let mut shown = BTreeMap::new();
            for extent in page.extents {
                assert!(
                    !super::span::Span {
                        start: extent.offset.0,
                        end: extent.offset.0 + extent.len
                    }
                    .crosses_window()
                );
                for at in 0..extent.len {
                    let byte = match &extent.source {
                        ExtentSource::Inline(bytes) => Byte::Inline(bytes[at as usize]),
                        ExtentSource::Chunk {
                            pool,
                            chunk,
                            offset,
                            chunk_len,
                            ..
                        } => {
                            assert_eq!(*pool, POOL);
                            assert!(offset.0 + (at as u32) < *chunk_len);
                            Byte::Chunk(*chunk, ChunkOffset(offset.0 + at as u32))
                        }
                    };
                    assert!(
                        shown.insert(extent.offset.0 + at, byte).is_none(),
                        "two extents at one place"
                    );
                }
            }
            assert_eq!(page.size, file.size, "{inode}");
            assert_eq!(shown, file.bytes, "{inode}");
        }
    }
}

fn play(world: World, seed: u64, steps: usize) {
    let mut player = Player::new(world, seed);
    for step in 0..steps {
        player.step();
        player.compare();
        let mut wrong = miscounts(&*player.world.kv);
        wrong.extend(faults(&*player.world.kv));
        assert_eq!(wrong, Vec::<String>::new(), "seed {seed}, step {step}");
    }
    // Everything goes, and nothing is left behind.
    for name in 0..4 {
        if player.names.contains_key(&name) {
            player.forget_name(name);
            player
                .world
                .op(
                    &root(),
                    Op::Unlink {
                        parent: InodeId::ROOT,
                        name: vec![b'a' + name],
                    },
                )
                .unwrap();
        }
    }
    let gone = player.gone.clone();
    let (purged, left) = player.world.purge(gone.clone(), 10_000);
    assert_eq!((purged, left), (gone, false));
    assert!(
        !player
            .world
            .dump()
            .iter()
            .any(|(family, ..)| *family == crate::kv::Family::Extents)
    );
    assert_eq!(miscounts(&*player.world.kv), Vec::<String>::new());
}

#[test]
fn readers_see_exactly_the_bytes_that_were_committed_and_counts_are_exact() {
    for seed in 0..40 {
        play(World::in_memory(), seed, 120);
    }
    play(World::on_disk(), 1_000, 200);
}

#[test]
fn a_file_that_is_written_again_after_a_truncation_keeps_the_new_bytes_while_the_old_ones_go() {
    let mut player = Player::new(World::in_memory(), 1);
    let inode = player
        .world
        .create(&root(), InodeId::ROOT, "f", 0o644)
        .unwrap()
        .inode;
    let byte = |at: u64| NewExtent {
        offset: FileOffset(at * 10),
        len: 1,
        source: Source::Inline(vec![at as u8]),
    };
    let write = |extents| Op::CommitExtents {
        inode,
        extents,
        receipts: Vec::new(),
        size: None,
        mtime: None,
    };
    let cut = |size| Op::SetAttr {
        inode,
        set: SetAttr {
            size: Some(size),
            ..SetAttr::default()
        },
    };
    player
        .world
        .op(&root(), write((0..10).map(byte).collect()))
        .unwrap();
    // In one list, so that versions have to tell the old bytes from the new ones.
    let ops = vec![cut(5), write(vec![byte(9)]), cut(95), write(vec![byte(20)])];
    player
        .world
        .op(
            &root(),
            Op::List {
                expectations: Vec::new(),
                ops,
            },
        )
        .unwrap();
    let shown = |world: &World| {
        world
            .extents(inode)
            .extents
            .iter()
            .map(|extent| extent.offset.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(&player.world), [0, 90, 200]);
    assert!(
        player.world.record(inode).extents > 3,
        "old ones wait to be removed"
    );
    let modified_at = player.world.record(inode).modified_at;
    while player.world.purge(Vec::new(), 3).1 {
        assert_eq!(shown(&player.world), [0, 90, 200]);
    }
    assert_eq!(shown(&player.world), [0, 90, 200]);
    let record = player.world.record(inode);
    assert_eq!(
        (record.extents, record.stored, record.modified_at),
        (3, 3, modified_at)
    );
    assert_eq!(faults(&*player.world.kv), Vec::<String>::new());
    // Ending the session changes nothing about files with names.
    let session = player.world.session;
    player
        .world
        .act(Action::EndSession {
            session,
            lost: false,
        })
        .unwrap();
    assert_eq!(shown(&player.world), [0, 90, 200]);
}
