//! Several operations at once: all or none, if all expectations hold.

use crate::state::access::{self, Want};
use crate::state::extents::span::Span;
use crate::state::records::InodeRecord;
use crate::state::stop::{OpResult, Stop};
use crate::state::text::quoted;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::InodeId;
use quarry_common::limits::LIST_OPS_MAX;
use quarry_common::wire::meta::{Expectation, Op, OpReply};
use quarry_common::{Code, Error};

/// Records that a list changes at most, beside those of its last operation: some milliseconds of applying. Those that make
/// a thousand files need a third of it; a small request may ask for a million (clones of a file of many extents).
const CHANGES_MAX: usize = 16_384;

/// The operations have one version and time, and see what those before them did.
pub fn list(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    expectations: &[Expectation],
    ops: &[Op],
) -> OpResult<OpReply> {
    if ops.len() > LIST_OPS_MAX || expectations.len() > LIST_OPS_MAX {
        let text = format!(
            "a list has {} operations and {} expectations, {LIST_OPS_MAX} of each are the most: make several",
            ops.len(),
            expectations.len()
        );
        return Err(Error::new(Code::TooBig, text).into());
    }
    if ops.iter().any(|op| matches!(op, Op::List { .. })) {
        return Err(Error::new(Code::Invalid, "a list can not be in a list").into());
    }
    for expectation in expectations {
        check(txn, who, expectation)?;
    }
    if ops.iter().any(|op| matches!(op, Op::GrantRange { .. })) {
        let text = "ranges are not granted in a list: ask for them by themselves";
        return Err(Error::new(Code::Invalid, text).into());
    }
    let before = txn.mark();
    let mut replies = Vec::with_capacity(ops.len());
    for (at, op) in ops.iter().enumerate() {
        let reply = super::run(txn, who, op).map_err(|stop| match stop {
            Stop::Refused(error) => {
                Stop::Refused(error.context(format!("operation {} of the list", at + 1)))
            }
            Stop::Broken(error) => Stop::Broken(error),
        })?;
        replies.push(reply);
        if txn.changes_since(before) > CHANGES_MAX {
            let text = format!(
                "the first {} operations of the list change more than {CHANGES_MAX} records: make several lists",
                at + 1
            );
            return Err(Error::new(Code::TooBig, text).into());
        }
    }
    Ok(OpReply::List(replies))
}

/// `Changed` if it does not hold. Whether contents have changed is told to those who may read them: else `AccessDenied`.
fn check(txn: &mut Txn<'_>, who: &Who<'_>, expectation: &Expectation) -> OpResult<()> {
    let changed = |what: String| {
        Err(Error::new(Code::Changed, format!("{what} has changed meanwhile")).into())
    };
    match expectation {
        Expectation::Inode { inode, modified_at } => match txn.find_inode(*inode)? {
            Some(record) if record.modified_at == *modified_at => Ok(()),
            _ => changed(format!("inode {inode}")),
        },
        Expectation::Data {
            inode,
            data_version,
        } => match readable(txn, who, *inode)? {
            Some(file) if file.data_version == *data_version => Ok(()),
            _ => changed(format!("the contents of inode {inode}")),
        },
        Expectation::Dentry {
            parent,
            name,
            inode,
        } => {
            let found = txn.dentry(*parent, name)?.map(|dentry| dentry.inode);
            match found == *inode {
                true => Ok(()),
                false => changed(format!("'{}' in directory {parent}", quoted(name))),
            }
        }
        Expectation::Range {
            inode,
            offset,
            len,
            unchanged_since,
        } => {
            let span = Span {
                start: offset.0,
                end: offset.0.saturating_add(*len),
            };
            let holds = match readable(txn, who, *inode)? {
                Some(file) => txn.unchanged_since(*inode, &file, span, *unchanged_since)?,
                None => false,
            };
            match holds {
                true => Ok(()),
                false => changed(format!("inode {inode} from byte {offset} on")),
            }
        }
    }
}

/// An inode whose contents the caller may read, if it is there.
fn readable(txn: &Txn<'_>, who: &Who<'_>, inode: InodeId) -> OpResult<Option<InodeRecord>> {
    let record = txn.find_inode(inode)?;
    if let Some(record) = &record {
        access::check(who.caller, record, Want::READ)?;
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Family, KvRead, Visit};
    use crate::raft::Apply;
    use crate::raft::entry::{Entry, decode_answers};
    use crate::state::apply::Machine;
    use crate::state::command::{Answer, Command, Reply};
    use crate::state::testing::{World, on_both, refusal, root, user};
    use bytes::Bytes;
    use quarry_common::ids::{FileOffset, Version};
    use quarry_common::wire::meta::{CloneRange, NewExtent, SetAttr, Source, View};
    use quarry_common::{Result, codec};
    use std::ops::Bound;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const ROOT: InodeId = InodeId::ROOT;

    fn mkdir(parent: InodeId, name: &[u8]) -> Op {
        Op::Mkdir {
            parent,
            name: name.to_vec(),
            mode: 0o755,
        }
    }

    #[test]
    fn a_short_list_does_not_change_records_without_end() {
        on_both(|world| {
            let file = world.put(ROOT, "f", b"x");
            let extent = |at: u64| NewExtent {
                offset: FileOffset(at * 100),
                len: 1,
                source: Source::Inline(vec![7]),
            };
            let write = Op::CommitExtents {
                inode: file.inode,
                extents: (0..500).map(extent).collect(),
                receipts: Vec::new(),
                size: None,
                mtime: None,
            };
            world.op(&root(), write).unwrap();
            let clone = |at: u64| {
                Op::Clone(CloneRange {
                    view: View::Live,
                    from: file.inode,
                    from_offset: FileOffset(0),
                    to: file.inode,
                    to_offset: FileOffset(at << 20),
                    len: 50_000,
                })
            };
            let list = |count| Op::List {
                expectations: vec![],
                ops: (1..=count).map(clone).collect(),
            };
            let before = world.record(file.inode);
            let refused = world.op(&root(), list(200)).unwrap_err();
            assert_eq!(refused.code, Code::TooBig, "{refused}");
            assert_eq!(world.record(file.inode), before);
            world.op(&root(), list(20)).unwrap();
        });
    }

    /// A file of so many extents.
    fn of_many(world: &mut World, name: &str, extents: u64) -> InodeId {
        let file = world.put(ROOT, name, b"");
        let extent = |at: u64| NewExtent {
            offset: FileOffset(at * 2),
            len: 1,
            source: Source::Inline(vec![7]),
        };
        for some in (0..extents).collect::<Vec<_>>().chunks(1_000) {
            let write = Op::CommitExtents {
                inode: file.inode,
                extents: some.iter().copied().map(extent).collect(),
                receipts: Vec::new(),
                size: None,
                mtime: None,
            };
            world.op(&root(), write).unwrap();
        }
        file.inode
    }

    /// Counts what is read.
    struct Counting<'a> {
        kv: &'a dyn KvRead,
        visited: AtomicUsize,
    }

    impl KvRead for Counting<'_> {
        fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
            self.kv.get(family, key)
        }

        fn scan(
            &self,
            family: Family,
            from: &[u8],
            to: Option<&[u8]>,
            visit: Visit<'_>,
        ) -> Result<()> {
            self.kv.scan(family, from, to, &mut |key, value| {
                self.visited.fetch_add(1, Ordering::Relaxed);
                visit(key, value)
            })
        }

        fn last_before(
            &self,
            family: Family,
            low: &[u8],
            high: Bound<&[u8]>,
        ) -> Result<Option<(Bytes, Bytes)>> {
            self.kv.last_before(family, low, high)
        }
    }

    /// Applies an operation; how many records were visited, and its answer.
    fn visits(world: &mut World, op: Op) -> (usize, Result<OpReply>) {
        let action = world.mutation(&root(), op);
        let command = Command {
            seen: Version(0),
            action,
        };
        let entry = Entry {
            time_us: world.time_us + 10,
            commands: vec![codec::encode(&command).into()],
        };
        let counting = Counting {
            kv: &*world.kv,
            visited: AtomicUsize::new(0),
        };
        let (_, answers) = Machine::new().apply(&counting, &entry.encode()).unwrap();
        let answer = decode_answers(&answers).unwrap().remove(0);
        let reply = match codec::decode::<Answer>("an answer", &answer).unwrap() {
            Ok(Reply::Op(reply)) => Ok(reply),
            Ok(other) => panic!("{other:?} is no reply to an operation"),
            Err(error) => Err(error),
        };
        (counting.visited.load(Ordering::Relaxed), reply)
    }

    #[test]
    fn a_short_list_does_not_look_at_contents_without_end() {
        let mut world = World::in_memory();
        let inode = of_many(&mut world, "f", 10_000);
        let expectation = Expectation::Range {
            inode,
            offset: FileOffset(0),
            len: u64::MAX,
            unchanged_since: Version(u64::MAX),
        };
        let list = |count| Op::List {
            expectations: vec![expectation.clone(); count],
            ops: vec![mkdir(ROOT, b"a")],
        };
        let (visited, reply) = visits(&mut world, list(6));
        reply.unwrap();
        assert!(visited >= 60_000, "{visited} were counted");
        let (visited, reply) = visits(&mut world, list(1_000));
        assert_eq!(reply.unwrap_err().code, Code::TooBig);
        assert!(visited < 70_000, "{visited} were visited");
        // So much each, of the commands of an entry.
        let both = [b"b", b"c"].map(|name| Op::List {
            expectations: vec![expectation.clone(); 6],
            ops: vec![mkdir(ROOT, name)],
        });
        let actions = both.map(|op| world.mutation(&root(), op));
        for answer in world.apply(actions.into()) {
            answer.unwrap();
        }

        // What was cut off is not seen, and is looked at all the same until it is removed.
        let cut = |size| Op::SetAttr {
            inode,
            set: SetAttr {
                size: Some(size),
                ..SetAttr::default()
            },
        };
        world.op(&root(), cut(0)).unwrap();
        world.op(&root(), cut(20_000)).unwrap();
        assert!(world.record(inode).extents > 9_000);
        let to = world.put(ROOT, "to", b"").inode;
        let clone = Op::Clone(CloneRange {
            view: View::Live,
            from: inode,
            from_offset: FileOffset(0),
            to,
            to_offset: FileOffset(0),
            len: 20_000,
        });
        let list = |count| Op::List {
            expectations: vec![],
            ops: vec![clone.clone(); count],
        };
        let (_, reply) = visits(&mut world, list(6));
        reply.unwrap();
        let (visited, reply) = visits(&mut world, list(1_000));
        assert_eq!(reply.unwrap_err().code, Code::TooBig);
        assert!(visited < 70_000, "{visited} were visited");

        // A truncation begins a new version, and no new command.
        let cut = Op::SetAttr {
            inode: of_many(&mut world, "other", 10),
            set: SetAttr {
                size: Some(0),
                ..SetAttr::default()
            },
        };
        let mut ops = vec![clone; 8];
        ops.insert(4, cut);
        let expectations = vec![];
        let (_, reply) = visits(&mut world, Op::List { expectations, ops });
        assert_eq!(reply.unwrap_err().code, Code::TooBig);
    }

    #[test]
    fn whether_contents_changed_is_told_to_those_who_may_read_them() {
        on_both(|world| {
            let file = world.put(ROOT, "f", b"contents");
            let hide = Op::SetAttr {
                inode: file.inode,
                set: SetAttr {
                    mode: Some(0o600),
                    ..SetAttr::default()
                },
            };
            world.op(&root(), hide).unwrap();
            let list = |expectation| Op::List {
                expectations: vec![expectation],
                ops: vec![],
            };
            for expectation in [
                Expectation::Data {
                    inode: file.inode,
                    data_version: file.data_version,
                },
                Expectation::Range {
                    inode: file.inode,
                    offset: FileOffset(0),
                    len: 1,
                    unchanged_since: file.data_version,
                },
            ] {
                world.op(&root(), list(expectation.clone())).unwrap();
                let refused = world.op(&user(5, &[5]), list(expectation));
                assert_eq!(refusal(refused), Code::AccessDenied);
            }
        });
    }

    #[test]
    fn a_list_is_done_as_a_whole_with_one_version_or_not_at_all() {
        on_both(|world| {
            let ops = vec![mkdir(ROOT, b"a"), mkdir(ROOT, b"b"), mkdir(ROOT, b"a")];
            let before = world.record(ROOT);
            let error = world
                .op(
                    &root(),
                    Op::List {
                        expectations: vec![],
                        ops,
                    },
                )
                .unwrap_err();
            assert_eq!(error.code, Code::Exists);
            assert!(
                error.text.starts_with("operation 3 of the list: "),
                "{}",
                error.text
            );
            assert_eq!(world.record(ROOT), before);
            assert_eq!(
                crate::state::consistency::faults(&*world.kv),
                Vec::<String>::new()
            );

            let ops = vec![mkdir(ROOT, b"a"), mkdir(ROOT, b"b")];
            let OpReply::List(replies) = world
                .op(
                    &root(),
                    Op::List {
                        expectations: vec![],
                        ops,
                    },
                )
                .unwrap()
            else {
                panic!("no list")
            };
            let [OpReply::Attr(a), OpReply::Attr(b)] = &replies[..] else {
                panic!("{replies:?}")
            };
            assert_eq!((a.modified_at, a.mtime), (b.modified_at, b.mtime));
            assert_eq!(world.names(ROOT), ["a", "b", "home"]);
        });
    }

    #[test]
    fn an_expectation_that_does_not_hold_refuses_the_list() {
        on_both(|world| {
            let file = world.put(ROOT, "f", b"contents");
            let name = b"f".to_vec();
            let (offset, len) = (FileOffset(2), 3);
            let hold = vec![
                Expectation::Inode {
                    inode: file.inode,
                    modified_at: file.modified_at,
                },
                Expectation::Data {
                    inode: file.inode,
                    data_version: file.data_version,
                },
                Expectation::Dentry {
                    parent: ROOT,
                    name: name.clone(),
                    inode: Some(file.inode),
                },
                Expectation::Dentry {
                    parent: ROOT,
                    name: b"none".to_vec(),
                    inode: None,
                },
                Expectation::Range {
                    inode: file.inode,
                    offset,
                    len,
                    unchanged_since: file.data_version,
                },
            ];
            let ops = vec![mkdir(ROOT, b"a")];
            world
                .op(
                    &root(),
                    Op::List {
                        expectations: hold,
                        ops,
                    },
                )
                .unwrap();
            let earlier = Version(file.data_version.0 - 1);
            for fails in [
                Expectation::Inode {
                    inode: file.inode,
                    modified_at: earlier,
                },
                Expectation::Inode {
                    inode: InodeId(999),
                    modified_at: earlier,
                },
                Expectation::Data {
                    inode: file.inode,
                    data_version: earlier,
                },
                Expectation::Dentry {
                    parent: ROOT,
                    name: name.clone(),
                    inode: None,
                },
                Expectation::Dentry {
                    parent: ROOT,
                    name: name.clone(),
                    inode: Some(ROOT),
                },
                Expectation::Range {
                    inode: file.inode,
                    offset,
                    len,
                    unchanged_since: earlier,
                },
            ] {
                let ops = vec![mkdir(ROOT, b"b")];
                let refused = world.op(
                    &root(),
                    Op::List {
                        expectations: vec![fails],
                        ops,
                    },
                );
                assert_eq!(refusal(refused), Code::Changed);
            }
            assert_eq!(world.names(ROOT), ["a", "f", "home"]);
        });
    }

    #[test]
    fn a_list_is_bounded_and_flat() {
        let mut world = crate::state::testing::World::in_memory();
        let many = vec![mkdir(ROOT, b"a"); LIST_OPS_MAX + 1];
        assert_eq!(
            refusal(world.op(
                &root(),
                Op::List {
                    expectations: vec![],
                    ops: many
                }
            )),
            Code::TooBig
        );
        let inner = Op::List {
            expectations: vec![],
            ops: vec![],
        };
        let nested = Op::List {
            expectations: vec![],
            ops: vec![inner],
        };
        assert_eq!(refusal(world.op(&root(), nested)), Code::Invalid);
    }
}
