//! What sessions promise.

use super::once::KEPT_LEN_MAX;
use super::{LOST_MAX, RANGES_MAX};
use crate::kv::Family;
use crate::state::command::{Action, Answer, Reply};
use crate::state::consistency::faults;
use crate::state::data_records::AnswersRecord;
use crate::state::data_testing::{POOL, commit};
use crate::state::keys::{self, SessionKey};
use crate::state::records::Record;
use crate::state::testing::{World, on_both, publish, root};
use quarry_common::Code;
use quarry_common::ids::{ChunkId, InodeId, PoolId, RequestNumber, SessionId};
use quarry_common::wire::meta::{Contents, FileKind, Op, OpReply, Publish};

fn request(session: SessionId, number: u64, answered_below: u64, op: Op) -> Action {
    let (number, answered_below) = (RequestNumber(number), RequestNumber(answered_below));
    Action::Mutate {
        session,
        number,
        answered_below,
        caller: root(),
        op,
    }
}

fn code(answer: Answer) -> Code {
    answer.unwrap_err().code
}

fn open(world: &mut World) -> SessionId {
    match world
        .act(Action::OpenSession {
            user: "ann".into(),
            certificate: [1; 32],
        })
        .unwrap()
    {
        Reply::Session(session) => session,
        other => panic!("{other:?}"),
    }
}

fn answers(world: &World, session: SessionId) -> AnswersRecord {
    let key = keys::session(session, SessionKey::Answers);
    let stored = world.dump().into_iter();
    let mut stored = stored.filter(|(family, at, _)| *family == Family::Sessions && *at == key);
    AnswersRecord::from_bytes(&stored.next().unwrap().2).unwrap()
}

fn mkdir(name: &str) -> Op {
    Op::Mkdir {
        parent: InodeId::ROOT,
        name: name.as_bytes().to_vec(),
        mode: 0o755,
    }
}

#[test]
fn a_request_that_comes_again_gets_the_first_answer_and_happens_once() {
    on_both(|world| {
        let session = open(world);
        let first = world.act(request(session, 3, 1, mkdir("d")));
        assert!(first.is_ok());
        let before = world.names(InodeId::ROOT);
        // Also in one entry with others, and after others.
        let again = world.apply(vec![
            request(session, 4, 1, mkdir("e")),
            request(session, 3, 1, mkdir("d")),
        ]);
        assert_eq!(again[1], first);
        assert_eq!(world.names(InodeId::ROOT).len(), before.len() + 1);
        // A refusal is an answer as well: it does not turn into a success.
        let refused = world.act(request(session, 5, 1, mkdir("d")));
        assert_eq!(refused.as_ref().unwrap_err().code, Code::Exists);
        world
            .act(request(
                session,
                6,
                1,
                Op::Rmdir {
                    parent: InodeId::ROOT,
                    name: b"d".to_vec(),
                },
            ))
            .unwrap();
        assert_eq!(world.act(request(session, 5, 1, mkdir("d"))), refused);
    });
}

/// Else a request that comes again after an update of the program would be refused as another one.
#[test]
fn a_request_is_bound_to_the_hash_that_it_always_had() {
    let world = &mut World::in_memory();
    let session = open(world);
    world.act(request(session, 3, 1, mkdir("d"))).unwrap();
    let kept = answers(world, session);
    // Mkdir, parent, name, mode.
    let encoded = [1, 1, 1, b'd', 251, 0xed, 1];
    let kept = &kept.answers[&RequestNumber(3)];
    assert_eq!(kept.body_hash, xxhash_rust::xxh3::xxh3_64(&encoded));
}

#[test]
fn every_operation_on_contents_happens_once() {
    let world = &mut World::in_memory();
    world.add_disks(3);
    let session = world.session;
    let range = world.grant(100);
    let inode = world.put(InodeId::ROOT, "f", b"1234").inode;
    let mut chunk = range.first;
    let mut ops = vec![
        publish(InodeId::ROOT, b"g", b"x"),
        Op::CreateUnnamed {
            parent: InodeId::ROOT,
            mode: 0o644,
        },
        Op::GrantRange {
            pool: POOL,
            count: 7,
        },
    ];
    for offset in [0, 100] {
        ops.push(commit(inode, offset, 5, world.receipt(chunk, 5)));
        chunk.0 += 1;
    }
    let extents = vec![crate::state::data_testing::of_chunk(0, 5, 0)];
    ops.push(Op::Append {
        inode,
        extents,
        receipts: vec![world.receipt(chunk, 5)],
        len: 5,
    });
    for (number, op) in ops.into_iter().enumerate() {
        let number = 1_000 + number as u64;
        let first = world.act(request(session, number, 900, op.clone()));
        assert!(first.is_ok(), "{first:?}");
        let state = world.dump();
        assert_eq!(world.act(request(session, number, 900, op)), first);
        let changed: Vec<Family> = world
            .dump()
            .iter()
            .zip(&state)
            .filter(|(now, before)| now != before && now.0 != Family::System)
            .map(|(now, _)| now.0)
            .collect();
        assert_eq!((changed, world.dump().len()), (Vec::new(), state.len()));
    }
}

#[test]
fn a_number_is_not_used_for_two_operations_nor_after_its_answer_was_taken() {
    on_both(|world| {
        let session = open(world);
        world.act(request(session, 1, 1, mkdir("a"))).unwrap();
        assert_eq!(
            code(world.act(request(session, 1, 1, mkdir("b")))),
            Code::NumberReused
        );
        world.act(request(session, 2, 2, mkdir("b"))).unwrap();
        assert_eq!(
            code(world.act(request(session, 1, 1, mkdir("a")))),
            Code::NumberReused
        );
        assert_eq!(
            code(world.act(request(session, 3, 4, mkdir("c")))),
            Code::Malformed
        );
        assert_eq!(
            code(world.act(request(session, 0, 0, mkdir("c")))),
            Code::Malformed
        );
        assert_eq!(world.names(InodeId::ROOT), ["a", "b", "home"]);
    });
}

#[test]
fn a_session_has_1024_open_numbers_and_no_more_answers_are_kept() {
    let world = &mut World::in_memory();
    let session = open(world);
    world.act(request(session, 1_024, 1, mkdir("a"))).unwrap();
    assert_eq!(
        code(world.act(request(session, 1_025, 1, mkdir("b")))),
        Code::Overloaded
    );
    world.act(request(session, 1_025, 2, mkdir("b"))).unwrap();
    assert_eq!(answers(world, session).answers.len(), 2);
    world
        .act(request(session, 1_030, 1_030, mkdir("c")))
        .unwrap();
    let kept = answers(world, session);
    assert_eq!((kept.below, kept.answers.len()), (RequestNumber(1_030), 1));
}

#[test]
fn answers_that_nobody_takes_up_stop_all_but_the_oldest_request() {
    let world = &mut World::in_memory();
    let session = open(world);
    let listed = |number, below| {
        let names = (0..200).map(|at| mkdir(&format!("{number}-{at}")));
        let list = Op::List {
            expectations: Vec::new(),
            ops: names.collect(),
        };
        request(session, number, below, list)
    };
    // A request is open whose answer is late, and the others get theirs.
    let mut number = 2;
    let refused = loop {
        match world.act(listed(number, 1)) {
            Ok(_) => number += 1,
            refused => break code(refused),
        }
    };
    assert_eq!(refused, Code::Overloaded);
    let kept = answers(world, session);
    let len: usize = kept.answers.values().map(|kept| kept.answer.len()).sum();
    let last = kept.answers.values().next_back().unwrap().answer.len();
    assert!((KEPT_LEN_MAX..KEPT_LEN_MAX + last).contains(&len), "{len}");
    // What was answered is still answered, and the oldest is run.
    assert!(world.act(listed(number - 1, 1)).is_ok());
    world.act(request(session, 1, 1, mkdir("a"))).unwrap();
    // It was not recorded: it happens when there is room.
    assert!(world.act(listed(number, number)).is_ok());
}

#[test]
fn requests_of_an_entry_that_ends_their_session_are_remembered() {
    on_both(|world| {
        let session = open(world);
        let end = Action::EndSession {
            session,
            lost: true,
        };
        let made = request(session, 7, 2, mkdir("a"));
        let answered = world.apply(vec![made.clone(), end, made]);
        assert!(answered[0].is_ok());
        assert_eq!(code(answered[2].clone()), Code::UnknownOutcome);
        let left = world.dump().into_iter();
        let left = left.filter(|(family, key, _)| {
            *family == Family::Sessions && key.starts_with(&session.0.to_be_bytes())
        });
        assert_eq!(left.count(), 0);
    });
}

#[test]
fn requests_of_a_lost_session_are_unknown_or_certainly_not_done() {
    on_both(|world| {
        let session = open(world);
        world.act(request(session, 5, 3, mkdir("a"))).unwrap();
        world
            .act(Action::EndSession {
                session,
                lost: true,
            })
            .unwrap();
        for number in 1..=5 {
            assert_eq!(
                code(world.act(request(session, number, 1, mkdir("a")))),
                Code::UnknownOutcome,
                "{number}"
            );
        }
        assert_eq!(
            code(world.act(request(session, 6, 1, mkdir("b")))),
            Code::SessionLost
        );
        // A session that never was.
        let never = SessionId(session.0 + 1);
        assert_eq!(
            code(world.act(request(never, 1, 1, mkdir("b")))),
            Code::SessionLost
        );
        assert_eq!(
            code(world.act(request(SessionId::NONE, 1, 1, mkdir("b")))),
            Code::SessionLost
        );
        // Ending it again does nothing, and its number is not given out again.
        world
            .act(Action::EndSession {
                session,
                lost: false,
            })
            .unwrap();
        assert!(open(world) > session);
        assert_eq!(world.names(InodeId::ROOT), ["a", "home"]);
    });
}

#[test]
fn as_many_lost_sessions_are_remembered_as_the_limit_says() {
    let world = &mut World::in_memory();
    for _ in 0..LOST_MAX + 3 {
        let session = open(world);
        world
            .act(Action::EndSession {
                session,
                lost: true,
            })
            .unwrap();
    }
    let prefix = crate::state::keys::lost_sessions();
    let kept = world
        .dump()
        .iter()
        .filter(|(family, key, _)| *family == Family::System && key.starts_with(&prefix))
        .count();
    assert_eq!(kept, LOST_MAX);
    // Of a forgotten one nothing is known.
    let forgotten = SessionId(world.session.0 + 1);
    assert_eq!(
        code(world.act(request(forgotten, 1, 1, mkdir("a")))),
        Code::UnknownOutcome
    );
}

#[test]
fn an_unnamed_file_goes_with_its_session_unless_it_was_published() {
    on_both(|world| {
        let first = world.session;
        let unnamed = Op::CreateUnnamed {
            parent: InodeId::ROOT,
            mode: 0o600,
        };
        let kept = world.attr_of(&root(), unnamed.clone()).unwrap().inode;
        let gone = world.attr_of(&root(), unnamed).unwrap().inode;
        let publish = |inode, name: &[u8]| {
            Op::Publish(Publish {
                parent: InodeId::ROOT,
                name: name.to_vec(),
                mode: 0o640,
                mtime: None,
                replace: true,
                xattrs: vec![(b"user.a".to_vec(), b"1".to_vec())],
                contents: Contents::Unnamed(inode),
            })
        };
        let other = open(world);
        let stolen = world.act(request(other, 1, 1, publish(gone, b"x")));
        assert_eq!(code(stolen), Code::Stale);
        let attr = world.attr_of(&root(), publish(kept, b"k")).unwrap();
        assert_eq!(
            (attr.inode, attr.mode, attr.kind, attr.has_xattrs),
            (kept, 0o640, FileKind::File, true)
        );
        assert_eq!(
            world.purge(vec![gone], 10),
            (Vec::new(), false),
            "a session holds it"
        );
        world
            .act(Action::EndSession {
                session: first,
                lost: true,
            })
            .unwrap();
        assert_eq!(faults(&*world.kv), Vec::<String>::new());
        assert_eq!(world.purge(vec![gone, kept], 10), (vec![gone], false));
        assert!(world.lookup(InodeId::ROOT, "k").is_ok());
        assert_eq!(faults(&*world.kv), Vec::<String>::new());
    });
}

#[test]
fn nothing_below_a_mark_is_committed_but_what_was_named_open() {
    on_both(|world| {
        world.add_disks(3);
        let session = world.session;
        let first = world.grant(10).first.0;
        let second = world.grant(10).first.0;
        assert!(
            second > first + 10,
            "the end of a range is not the start of the next"
        );
        let inode = world.put(InodeId::ROOT, "f", b"").inode;
        let commit = |world: &mut World, chunk: u64| {
            let op = commit(inode, 0, 5, world.receipt(ChunkId(chunk), 5));
            world
                .op(&root(), op)
                .map(|_| ())
                .map_err(|error| error.code)
        };
        let mark = |world: &mut World, marks: &[u64], open: &[u64]| {
            let named = |ids: &[u64]| ids.iter().map(|id| (POOL, ChunkId(*id))).collect();
            world
                .act(Action::Mark {
                    session,
                    marks: named(marks),
                    open_chunks: named(open),
                })
                .unwrap();
        };
        mark(world, &[first + 5, second], &[first + 1]);
        assert_eq!(commit(world, first + 4), Err(Code::BadReceipt));
        assert_eq!(commit(world, first + 1), Ok(()));
        assert_eq!(commit(world, first + 5), Ok(()));
        assert_eq!(commit(world, second), Ok(()));
        // Marks only rise, and what was not named open stays closed.
        mark(world, &[first + 2], &[first + 1, first + 4]);
        assert_eq!(commit(world, first + 4), Err(Code::BadReceipt));
        assert_eq!(commit(world, first + 1), Ok(()));
        // At the end of the range nothing of it is left but the open chunk; then nothing.
        mark(world, &[first + 10], &[first + 9]);
        assert_eq!(commit(world, first + 9), Ok(()));
        assert_eq!(commit(world, first + 1), Err(Code::BadReceipt));
        mark(world, &[first + 10], &[]);
        assert_eq!(commit(world, first + 9), Err(Code::BadReceipt));
        assert_eq!(commit(world, first + 10), Err(Code::BadReceipt));
        assert_eq!(commit(world, second + 1), Ok(()));
        let ranges = world
            .dump()
            .iter()
            .filter(|(family, key, _)| *family == Family::Sessions && key[8] == 1)
            .count();
        assert_eq!(ranges, 1);
    });
}

#[test]
fn a_range_is_refused_until_every_group_can_be_written() {
    let world = &mut World::in_memory();
    let grant = Op::GrantRange {
        pool: POOL,
        count: 5,
    };
    let refused = world.op(&root(), grant.clone()).unwrap_err();
    assert_eq!(refused.code, Code::TooFewDisks);
    assert!(
        refused.text.contains("'data'") && refused.text.contains("none has registered"),
        "{}",
        refused.text
    );
    world.add_disks(1);
    let refused = world.op(&root(), grant.clone()).unwrap_err();
    assert!(
        refused.text.contains("host-1") && refused.text.contains("start dataservers"),
        "{}",
        refused.text
    );
    world.add_disks(2);
    assert!(!world.map().topology.pools[&POOL].in_use);
    let epoch = world.map().epoch;
    let OpReply::Range(granted) = world.op(&root(), grant.clone()).unwrap() else {
        panic!()
    };
    assert_eq!(
        (granted.capability.first, granted.capability.last.0),
        (granted.range.first, granted.range.first.0 + 4)
    );
    assert!(world.map().topology.pools[&POOL].in_use && world.map().epoch > epoch);
    for (pool, count) in [(PoolId(9), 1), (POOL, 0), (POOL, 65_537)] {
        assert!(world.op(&root(), Op::GrantRange { pool, count }).is_err());
    }
    let in_list = Op::List {
        expectations: Vec::new(),
        ops: vec![grant.clone()],
    };
    assert_eq!(world.op(&root(), in_list).unwrap_err().code, Code::Invalid);
    let marks = vec![(POOL, granted.range.first); RANGES_MAX + 1];
    let mark = Action::Mark {
        session: world.session,
        marks,
        open_chunks: Vec::new(),
    };
    assert_eq!(code(world.act(mark)), Code::Malformed);
    for _ in 1..RANGES_MAX {
        world.op(&root(), grant.clone()).unwrap();
    }
    assert_eq!(world.op(&root(), grant).unwrap_err().code, Code::Overloaded);
}
