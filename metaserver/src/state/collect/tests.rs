//! What may be doomed, deleted and forgotten, with the traces of the model of the data plane.

use super::*;
use crate::state::chunks::miscounts;
use crate::state::command::Action;
use crate::state::data_testing::{POOL, commit};
use crate::state::testing::{World, on_both, root};
use quarry_common::Code;
use quarry_common::ids::{InodeId, PgId, SessionId, Version};
use quarry_common::token::Receipt;

impl World {
    pub fn doom(&mut self, chunks: &[ChunkId]) -> u32 {
        let chunks = chunks.iter().map(|chunk| (POOL, *chunk)).collect();
        match self.act(Action::Doom(chunks)).unwrap() {
            Reply::Doomed(count) => count,
            other => panic!("{other:?}"),
        }
    }

    pub fn gone(&mut self, disk: Option<DiskId>, chunks: &[ChunkId]) -> u32 {
        let chunks = chunks.iter().map(|chunk| (POOL, *chunk)).collect();
        match self.act(Action::Gone { disk, chunks }).unwrap() {
            Reply::Forgotten(count) => count,
            other => panic!("{other:?}"),
        }
    }

    pub fn standing(&self, chunk: ChunkId) -> Standing {
        let open = OpenRanges::of(&*self.kv);
        standing(&self.map().topology, &open, POOL, chunk).unwrap()
    }

    pub fn members_of(&self, chunk: ChunkId) -> Vec<DiskId> {
        let map = self.map();
        map.locate(POOL, chunk).unwrap().1.chain().collect()
    }

    pub fn due(&self, disk: DiskId) -> Vec<ChunkId> {
        let page = due(&*self.kv, &self.map(), disk, Version(u64::MAX), None).unwrap();
        assert_eq!(page.next, None);
        page.chunks.iter().map(|(_, chunk)| *chunk).collect()
    }

    pub fn open_session(&mut self) -> SessionId {
        let action = Action::OpenSession {
            user: "ann".into(),
            certificate: [5; 32],
        };
        match self.act(action).unwrap() {
            Reply::Session(session) => session,
            other => panic!("{other:?}"),
        }
    }

    pub fn end_session(&mut self, session: SessionId) {
        let action = Action::EndSession {
            session,
            lost: true,
        };
        self.act(action).unwrap();
    }

    pub fn mark(&mut self, below: ChunkId, open: &[ChunkId]) {
        let action = Action::Mark {
            session: self.session,
            marks: vec![(POOL, below)],
            open_chunks: open.iter().map(|chunk| (POOL, *chunk)).collect(),
        };
        self.act(action).unwrap();
    }

    /// A file with the first bytes of a chunk in it.
    pub fn file_of(&mut self, name: &str, receipt: Receipt) -> quarry_common::Result<InodeId> {
        let inode = self.put(InodeId::ROOT, name, b"").inode;
        self.op(&root(), commit(inode, 0, u64::from(receipt.len), receipt))?;
        Ok(inode)
    }

    fn remove_file(&mut self, name: &str, inode: InodeId) {
        self.unlink(&root(), InodeId::ROOT, name).unwrap();
        assert_eq!(self.purge(vec![inode], 1000).0, [inode]);
    }

    fn place_group(&mut self, chunk: ChunkId, members: Vec<Option<DiskId>>) {
        let map = self.map();
        let pg = pg_of(chunk, map.topology.pools[&POOL].pg_count);
        self.act(Action::Place {
            epoch: map.epoch,
            pool: POOL,
            rows: vec![(PgId(pg.0), members)],
        })
        .unwrap();
    }
}

/// Three disks, and three chunks of a live session of which nothing was committed.
fn begun(world: &mut World) -> Vec<ChunkId> {
    world.add_disks(4);
    let first = world.grant(10).first;
    (0..3).map(|at| ChunkId(first.0 + at)).collect()
}

/// Steps 7 to 12: x0 is doomed, deleted and forgotten after its session has expired, and the receipt that
/// the paused client then has is brought by a new session.
#[test]
fn trace_r_anysess_a_forgotten_chunk_is_not_published_by_another_session() {
    on_both(|world| {
        let chunk = begun(world)[0];
        let receipt = world.receipt(chunk, 5);
        let paused = world.session;
        world.end_session(paused);
        world.session = world.open_session();
        assert_eq!(world.doom(&[chunk]), 1);
        let members = world.members_of(chunk);
        let forgotten: Vec<u32> = members
            .iter()
            .map(|disk| world.gone(Some(*disk), &[chunk]))
            .collect();
        assert_eq!(forgotten, [0, 0, 1], "with the last member's word");
        let refused = world.file_of("f", receipt).unwrap_err();
        assert_eq!(refused.code, Code::BadReceipt);
    });
}

/// The same before it is forgotten: neither the session nor the doom lets it through.
#[test]
fn trace_r_anysess_nodoom_a_doomed_chunk_is_not_published() {
    on_both(|world| {
        let chunk = begun(world)[0];
        let receipt = world.receipt(chunk, 5);
        let paused = world.session;
        world.end_session(paused);
        assert_eq!(world.doom(&[chunk]), 1);
        world.session = world.open_session();
        let refused = world.file_of("f", receipt.clone()).unwrap_err();
        assert_eq!(refused.code, Code::BadReceipt);
        world.session = paused;
        let inode = world.lookup(InodeId::ROOT, "f").unwrap().inode;
        let refused = world.op(&root(), commit(inode, 0, 5, receipt)).unwrap_err();
        assert_ne!(refused.code, Code::OldReceipt, "{refused}");
    });
}

/// The collector's reasons are read, then the chunk is published, then the command is applied.
#[test]
fn trace_r_doomread_reasons_count_when_the_command_is_applied() {
    on_both(|world| {
        let chunks = begun(world);
        // Read as a candidate: no reference, and below the mark.
        let inode = world.file_of("f", world.receipt(chunks[0], 5)).unwrap();
        world.remove_file("f", inode);
        assert_eq!(
            unreferenced(&*world.kv, None).unwrap().chunks,
            [(POOL, chunks[0])]
        );
        // It is the session's still, which commits it again before the command comes.
        let inode = world.file_of("g", world.receipt(chunks[0], 5)).unwrap();
        assert_eq!(world.doom(&[chunks[0]]), 0);
        assert_eq!(world.standing(chunks[0]), Standing::Referenced);
        let session = world.session;
        world.end_session(session);
        assert_eq!(world.doom(&[chunks[0]]), 0, "referred to, whoever lives");
        world.session = world.open_session();
        world.remove_file("g", inode);
        assert_eq!(world.doom(&[chunks[0]]), 1);
        assert_eq!(miscounts(&*world.kv), Vec::<String>::new());
    });
}

/// A session that lives for ever holds back only what it may still commit.
#[test]
fn trace_r_longsess_chunks_below_the_mark_of_a_live_session_are_doomed() {
    on_both(|world| {
        let chunks = begun(world);
        assert_eq!(world.doom(&chunks), 0, "all may still be committed");
        world.mark(ChunkId(chunks[2].0), &[chunks[1]]);
        let standings: Vec<Standing> = chunks.iter().map(|chunk| world.standing(*chunk)).collect();
        assert_eq!(
            standings,
            [Standing::Nobodys, Standing::Open, Standing::Open]
        );
        assert_eq!(world.doom(&chunks), 1);
        assert_eq!(world.standing(chunks[0]), Standing::Doomed);
        // Named open no more: it can not be named again.
        world.mark(ChunkId(chunks[2].0), &[]);
        world.mark(ChunkId(chunks[2].0), &[chunks[1]]);
        assert_eq!(world.doom(&chunks), 1);
        // Another session's range says nothing of this one's, and the end of the range ends it.
        world.mark(ChunkId(chunks[0].0 + 10), &[]);
        assert_eq!(world.doom(&chunks), 1);
        for chunk in chunks {
            let receipt = world.receipt(chunk, 5);
            let refused = world.file_of(&chunk.to_string(), receipt).unwrap_err();
            assert_eq!(refused.code, Code::BadReceipt);
        }
    });
}

#[test]
fn a_disk_that_comes_back_with_a_forgotten_chunk_has_it_doomed_again() {
    on_both(|world| {
        let chunk = begun(world)[0];
        let session = world.session;
        world.end_session(session);
        for _ in 0..2 {
            assert_eq!(world.standing(chunk), Standing::Nobodys);
            assert_eq!(world.doom(&[chunk, chunk]), 1);
            for disk in world.members_of(chunk) {
                assert_eq!(world.due(disk), [chunk]);
                world.gone(Some(disk), &[chunk]);
            }
            assert!(
                world
                    .dump()
                    .iter()
                    .all(|(family, ..)| *family != Family::Doomed)
            );
        }
    });
}

#[test]
fn every_present_member_is_waited_for_and_nobody_else() {
    on_both(|world| {
        let chunk = begun(world)[0];
        let inode = world.file_of("f", world.receipt(chunk, 5)).unwrap();
        let members = world.members_of(chunk);
        let other = (1..=4)
            .map(DiskId)
            .find(|disk| !members.contains(disk))
            .unwrap();
        world.remove_file("f", inode);
        let session = world.session;
        world.end_session(session);
        assert_eq!(world.doom(&[chunk]), 1);
        assert_eq!(world.due(other), []);
        assert_eq!(world.gone(Some(members[0]), &[chunk]), 0);
        assert_eq!(world.due(members[0]), [], "it has said so");
        // A substitute comes: it is asked, and so is the one that is a holder now.
        let now = [Some(members[0]), Some(members[1]), Some(other)];
        world.place_group(chunk, now.to_vec());
        assert_eq!(world.due(other), [chunk]);
        assert_eq!(world.due(members[2]), [chunk]);
        assert_eq!(world.gone(Some(other), &[chunk]), 0, "one is missing");
        let waiting = forgettable(&*world.kv, &world.map(), None).unwrap();
        assert_eq!(waiting, ChunkPage::default());
        // The one that is waited for leaves for good.
        world.place_group(chunk, vec![Some(members[0]), None, Some(other)]);
        let waiting = forgettable(&*world.kv, &world.map(), None).unwrap();
        assert_eq!(waiting.chunks, [(POOL, chunk)]);
        assert_eq!(world.gone(None, &[chunk]), 1);
        assert_eq!(miscounts(&*world.kv), Vec::<String>::new());
        let left = world.dump();
        assert!(
            !left
                .iter()
                .any(|(family, ..)| matches!(family, Family::Doomed | Family::Chunks)),
            "its record is forgotten with it"
        );
        // Nobody is left to say so: that is not everybody.
        assert_eq!(world.doom(&[chunk]), 1);
        world.place_group(chunk, vec![None, None, None]);
        assert_eq!(world.gone(Some(other), &[chunk]), 0);
    });
}

#[test]
fn an_id_that_was_never_given_out_is_not_doomed() {
    on_both(|world| {
        let first = world.grant_all(10);
        let session = world.session;
        world.end_session(session);
        // The state gives one id more than it says, and none beyond.
        let beyond = ChunkId(first.0 + 11);
        assert_eq!(world.standing(beyond), Standing::NotGivenOut);
        assert_eq!(world.doom(&[beyond, ChunkId(u64::MAX)]), 0);
        assert_eq!(world.doom(&[ChunkId(first.0 + 9)]), 1);
        let unknown = Action::Doom(vec![(PoolId(9), first)]);
        assert_eq!(world.act(unknown).unwrap(), Reply::Doomed(0));
    });
}

impl World {
    fn grant_all(&mut self, count: u32) -> ChunkId {
        self.add_disks(3);
        self.grant(count).first
    }
}

#[test]
fn pages_have_everything_once_whatever_the_group() {
    let world = &mut World::in_memory();
    let first = world.grant_all(3_000);
    let session = world.session;
    world.end_session(session);
    let all: Vec<ChunkId> = (0..3_000).map(|at| ChunkId(first.0 + at)).collect();
    for part in all.chunks(COLLECT_CHUNKS_MAX) {
        assert_eq!(world.doom(part), part.len() as u32);
    }
    let (map, disk) = (world.map(), DiskId(1));
    let mut pages = Vec::new();
    let mut from = None;
    loop {
        let page = due(&*world.kv, &map, disk, Version(u64::MAX), from).unwrap();
        pages.push(page.chunks);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert!(pages.iter().all(|page| page.len() <= COLLECT_CHUNKS_MAX));
    let mut found: Vec<ChunkId> = pages.concat().iter().map(|(_, chunk)| *chunk).collect();
    found.sort();
    assert_eq!(found, all);
    let early = due(&*world.kv, &map, disk, Version(world.time_us - 1_000), None).unwrap();
    assert_eq!(early, ChunkPage::default(), "none is that old");
    let page = super::unreferenced(&*world.kv, None).unwrap();
    assert_eq!(page, ChunkPage::default());
}

#[test]
fn a_removed_chunk_is_told_as_unreferenced_or_as_doomed_and_never_as_both() {
    on_both(|world| {
        let chunks = begun(world);
        let told = |world: &World| {
            let doomed = keys::system(SystemKey::DoomedChunks);
            let doomed: Option<NumberRecord> = load(&*world.kv, Family::System, &doomed).unwrap();
            let totals = crate::state::read::usage::totals(&*world.kv).unwrap();
            (totals.unreferenced_chunks, doomed.unwrap_or_default().0)
        };
        let inode = world.file_of("f", world.receipt(chunks[0], 5)).unwrap();
        assert_eq!(told(world), (0, 0));
        world.remove_file("f", inode);
        assert_eq!(told(world), (1, 0));
        let session = world.session;
        world.end_session(session);
        assert_eq!(world.doom(&[chunks[0]]), 1);
        assert_eq!(told(world), (0, 1));
    });
}
