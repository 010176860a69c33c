//! Applies entries of the log: one command after the other, each as a whole or not at all.

use super::collect;
use super::command::{Action, Answer, Command, Reply};
use super::keys::SystemKey;
use super::map_state;
use super::ops;
use super::purge;
use super::session::{self, Admission};
use super::stop::{OpResult, Stop};
use super::txn::{Txn, Who};
use crate::kv::{Batch, KvRead};
use crate::raft::Apply;
use crate::raft::entry::{Entry, encode_answers};
use bytes::Bytes;
use quarry_common::ids::{RequestNumber, SessionId, Version};
use quarry_common::token::Receipt;
use quarry_common::wire::meta::{Caller, Op};
use quarry_common::{Code, Error, Result, codec};

/// How far a command's version goes ahead of the time because its asker has seen a greater one:
/// an hour. Clocks of shards differ by less; a greater one is a lie that would use versions up.
const SEEN_AHEAD_MAX: u64 = 3_600_000_000;

/// The state machine. It keeps nothing in memory between entries.
#[derive(Debug, Default)]
pub struct Machine;

impl Machine {
    /// A state machine.
    pub fn new() -> Machine {
        Machine
    }
}

impl Apply for Machine {
    fn apply(&self, base: &dyn KvRead, entry: &[u8]) -> Result<(Batch, Bytes)> {
        let entry = Entry::decode(entry)?;
        let mut txn = Txn::new(base);
        let mut last = Version(txn.number(SystemKey::LastVersion)?);
        let mut answers = Vec::with_capacity(entry.commands.len());
        for bytes in &entry.commands {
            // An entry is proposed by a leader that encoded its commands itself, so one that can
            // not be decoded is damage or a newer program's: not an answer.
            let command: Command = codec::decode("a command", bytes)?;
            last = next_version(last, entry.time_us, command.seen);
            txn.begin(last);
            answers.push(run(&mut txn, command.action)?);
            // A truncation within a list goes on with a version more.
            last = txn.version();
        }
        txn.set_number(SystemKey::LastVersion, last.0);
        Ok((txn.into_batch()?, encode_answers(&answers)))
    }

    fn reset(&self) {}
}

/// The version of a command: beyond its predecessor and what its asker has seen, and not
/// before the entry's time.
fn next_version(last: Version, time_us: u64, seen: Version) -> Version {
    let beyond_last = last.0.saturating_add(1).max(time_us);
    // Not an hour beyond the predecessor: each would add another one.
    let beyond_seen = seen
        .0
        .saturating_add(1)
        .min(time_us.saturating_add(SEEN_AHEAD_MAX));
    Version(beyond_last.max(beyond_seen))
}

/// Runs one command; its encoded answer.
fn run(txn: &mut Txn<'_>, action: Action) -> Result<Bytes> {
    match action {
        Action::Mutate {
            session,
            number,
            answered_below,
            caller,
            op,
        } => {
            let request = Request {
                session,
                number,
                answered_below,
            };
            mutate(txn, request, &caller, &op, Ok(Vec::new()))
        }
        Action::MutateConfirmed {
            session,
            number,
            answered_below,
            caller,
            op,
            confirmed,
        } => {
            let request = Request {
                session,
                number,
                answered_below,
            };
            mutate(txn, request, &caller, &op, confirmed)
        }
        action => {
            // Those that end sessions look at their answers.
            session::settle(txn);
            let result = whole(txn, |txn| act(txn, action))?;
            Ok(encode_answer(&result))
        }
    }
}

/// Who asks for a mutation.
struct Request {
    session: SessionId,
    number: RequestNumber,
    answered_below: RequestNumber,
}

/// A mutation is run once; the same request again gets the answer that was recorded.
fn mutate(
    txn: &mut Txn<'_>,
    request: Request,
    caller: &Caller,
    op: &Op,
    confirmed: Result<Vec<Receipt>>,
) -> Result<Bytes> {
    let Request {
        session,
        number,
        answered_below,
    } = request;
    let body_hash = xxhash_rust::xxh3::xxh3_64(&codec::encode(op));
    match session::admit(txn, session, number, answered_below, body_hash)? {
        Admission::New => {}
        Admission::Answered(answer) => return Ok(answer),
        Admission::Refused(error) => return Ok(encode_answer(&Err(error))),
    }
    let result = match &confirmed {
        Ok(confirmed) => {
            let who = Who {
                caller,
                session,
                confirmed,
            };
            whole(txn, |txn| Ok(Reply::Op(ops::run(txn, &who, op)?)))?
        }
        Err(error) => Err(error.clone()),
    };
    let answer = encode_answer(&result);
    // Recorded, `Overloaded` would be the answer for ever, though a client answers it by sending the same request again and
    // room was made; and so would `OldReceipt`, though the leader then asks the present members and proposes it again. They
    // changed nothing, so the request is still to be run once.
    let passing = |error: &Error| matches!(error.code, Code::Overloaded | Code::OldReceipt);
    if !result.as_ref().is_err_and(passing) {
        session::record(txn, session, number, body_hash, &answer)?;
    }
    Ok(answer)
}

/// Runs something that changes all or nothing. Its refusal is a value; the error of this
/// function is that of the state.
fn whole<T>(
    txn: &mut Txn<'_>,
    change: impl FnOnce(&mut Txn<'_>) -> OpResult<T>,
) -> Result<Result<T>> {
    let mark = txn.mark();
    match change(txn) {
        Ok(value) => Ok(Ok(value)),
        Err(Stop::Refused(error)) => {
            txn.roll_back(mark);
            Ok(Err(error))
        }
        Err(Stop::Broken(error)) => Err(error),
    }
}

/// Everything but mutations.
fn act(txn: &mut Txn<'_>, action: Action) -> OpResult<Reply> {
    match action {
        Action::Mutate { .. } | Action::MutateConfirmed { .. } => Err(Stop::Broken(Error::bug(
            "a mutation is run by its own function",
        ))),
        Action::OpenSession { user, certificate } => {
            Ok(Reply::Session(session::open(txn, user, certificate)?))
        }
        Action::EndSession { session, lost } => {
            session::end(txn, session, lost)?;
            Ok(Reply::Nothing)
        }
        Action::Mark {
            session,
            marks,
            open_chunks,
        } => {
            session::mark(txn, session, &marks, &open_chunks)?;
            Ok(Reply::Nothing)
        }
        Action::Bootstrap(begin) => map_state::bootstrap::bootstrap(txn, begin),
        Action::SetMetaservers(metaservers) => map_state::set_metaservers(txn, metaservers),
        Action::Register {
            server,
            registration,
            secret,
        } => map_state::register(txn, server, &registration, secret),
        Action::Place { epoch, pool, rows } => map_state::place(txn, epoch, pool, &rows),
        Action::AddUser(user) => {
            map_state::check_begun(txn)?;
            map_state::users::add_user(txn, user)
        }
        Action::AddCapabilityKey { key, forget_below } => {
            map_state::check_begun(txn)?;
            map_state::keys::add_capability_key(txn, key, forget_below)
        }
        Action::Purge {
            orphans,
            records_max,
        } => purge::purge(txn, &orphans, records_max),
        Action::RaiseFeatureLevel(level) => map_state::raise_feature_level(txn, level),
        Action::NumberMetaserver => map_state::number_metaserver(txn),
        Action::Doom(chunks) => collect::doom(txn, &chunks),
        Action::Gone { disk, chunks } => collect::gone(txn, disk, &chunks),
        Action::Complete(reports) => map_state::complete(txn, &reports),
        Action::SetDisks(disks) => map_state::set_disks(txn, &disks),
        Action::NoteDown(disks) => map_state::downs::note(txn, &disks),
    }
}

fn encode_answer(answer: &Answer) -> Bytes {
    codec::encode(answer).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{World, on_both, refusal, root};
    use quarry_common::ids::InodeId;
    use quarry_common::wire::meta::OpReply;

    #[test]
    fn versions_go_beyond_predecessors_clocks_and_what_was_seen() {
        for (last, time, seen, version) in [
            (5, 10, 0, 10),
            (10, 10, 0, 11),
            (20, 10, 0, 21),
            (5, 10, 40, 41),
            (5, 10, u64::MAX, 10 + SEEN_AHEAD_MAX),
            (u64::MAX, 10, 0, u64::MAX),
        ] {
            assert_eq!(
                next_version(Version(last), time, Version(seen)),
                Version(version)
            );
        }
    }

    #[test]
    fn whoever_says_to_have_seen_the_future_does_not_take_the_cluster_there() {
        let (mut last, now) = (Version(0), 1_000);
        for _ in 0..100 {
            last = next_version(last, now, Version(u64::MAX));
        }
        assert_eq!(last, Version(now + SEEN_AHEAD_MAX + 99));
    }

    #[test]
    fn a_request_that_comes_again_gets_its_first_answer_and_does_nothing() {
        on_both(|world| {
            let op = Op::Create {
                parent: InodeId::ROOT,
                name: b"a".to_vec(),
                mode: 0o644,
                exclusive: true,
            };
            let action = world.mutation(&root(), op);
            // In one entry, and in a later one.
            let answers = world.apply(vec![action.clone(), action.clone()]);
            assert!(answers[0].is_ok());
            assert_eq!(answers[0], answers[1]);
            let before = world.record(InodeId::ROOT);
            assert_eq!(world.act(action), answers[0]);
            assert_eq!(world.record(InodeId::ROOT), before);
        });
    }

    #[test]
    fn a_refusal_is_an_answer_that_is_kept_and_changes_nothing_else() {
        on_both(|world| {
            let op = Op::Unlink {
                parent: InodeId::ROOT,
                name: b"none".to_vec(),
            };
            let action = world.mutation(&root(), op);
            let first = world.act(action.clone());
            assert_eq!(refusal(first.clone()), Code::NotFound);
            world.create(&root(), InodeId::ROOT, "none", 0o644).unwrap();
            let again = world.act(action);
            assert_eq!(again, first);
            assert!(world.lookup(InodeId::ROOT, "none").is_ok());
        });
    }

    #[test]
    fn a_request_that_met_no_room_is_run_when_it_comes_again() {
        on_both(|world| {
            let unnamed = Op::CreateUnnamed {
                parent: InodeId::ROOT,
                mode: 0o644,
            };
            let mut held = Vec::new();
            let refused = loop {
                let action = world.mutation(&root(), unnamed.clone());
                match world.act(action.clone()) {
                    Ok(Reply::Op(OpReply::Attr(attr))) => held.push(attr.inode),
                    other => {
                        assert_eq!(refusal(other), Code::Overloaded);
                        break action;
                    }
                }
            };
            let named = Op::Publish(quarry_common::wire::meta::Publish {
                parent: InodeId::ROOT,
                name: b"a".to_vec(),
                mode: 0o644,
                mtime: None,
                replace: true,
                xattrs: Vec::new(),
                contents: quarry_common::wire::meta::Contents::Unnamed(held[0]),
            });
            world.op(&root(), named).unwrap();
            let answer = world.act(refused.clone());
            assert!(answer.is_ok(), "{answer:?}");
            assert_eq!(world.act(refused), answer, "and then it is an answer");
        });
    }

    #[test]
    fn times_never_go_backwards_though_the_clock_of_a_new_leader_is_behind() {
        let mut world = World::in_memory();
        let first = world.create(&root(), InodeId::ROOT, "a", 0o644).unwrap();
        world.time_us -= 500_000;
        let second = world.create(&root(), InodeId::ROOT, "b", 0o644).unwrap();
        assert!(second.modified_at > first.modified_at);
        assert!(second.mtime > first.mtime);
    }

    #[test]
    fn an_entry_that_can_not_be_understood_ends_applying() {
        let world = World::in_memory();
        assert!(Machine::new().apply(&*world.kv, b"nonsense").is_err());
        let entry = Entry {
            time_us: 1,
            commands: vec![Bytes::from_static(b"nonsense")],
        };
        assert!(Machine::new().apply(&*world.kv, &entry.encode()).is_err());
    }

    #[test]
    fn a_state_that_makes_no_sense_ends_applying_and_is_no_answer() {
        use crate::kv::{Batch, Family};
        let mut world = World::in_memory();
        let mut batch = Batch::new();
        batch.put(
            Family::Inodes,
            crate::state::keys::inode(InodeId::ROOT),
            &b"\x01damaged"[..],
        );
        world.kv.write(&batch).unwrap();
        let op = Op::Unlink {
            parent: InodeId::ROOT,
            name: b"a".to_vec(),
        };
        let action = world.mutation(&root(), op);
        let command = Command {
            seen: Version(0),
            action,
        };
        let entry = Entry {
            time_us: 1,
            commands: vec![codec::encode(&command).into()],
        };
        assert!(Machine::new().apply(&*world.kv, &entry.encode()).is_err());
    }
}
