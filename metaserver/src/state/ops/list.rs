//! Several operations at once: all or none, if all expectations hold.

use crate::state::extents::span::Span;
use crate::state::extents::unchanged_since;
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
        check(txn, expectation)?;
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

/// `Changed` if it does not hold.
fn check(txn: &Txn<'_>, expectation: &Expectation) -> OpResult<()> {
    let changed = |what: String| {
        Err(Error::new(Code::Changed, format!("{what} has changed meanwhile")).into())
    };
    let inode_is = |inode: InodeId, holds: &dyn Fn(&InodeRecord) -> bool| {
        Ok::<_, Stop>(txn.find_inode(inode)?.is_some_and(|record| holds(&record)))
    };
    match expectation {
        Expectation::Inode { inode, modified_at } => {
            match inode_is(*inode, &|record| record.modified_at == *modified_at)? {
                true => Ok(()),
                false => changed(format!("inode {inode}")),
            }
        }
        Expectation::Data {
            inode,
            data_version,
        } => match inode_is(*inode, &|record| record.data_version == *data_version)? {
            true => Ok(()),
            false => changed(format!("the contents of inode {inode}")),
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
            unchanged_since: version,
        } => {
            let span = Span {
                start: offset.0,
                end: offset.0.saturating_add(*len),
            };
            let holds = match txn.find_inode(*inode)? {
                Some(file) => unchanged_since(txn.state(), *inode, &file, span, *version)
                    .map_err(Stop::Broken)?,
                None => false,
            };
            match holds {
                true => Ok(()),
                false => changed(format!("inode {inode} from byte {offset} on")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{on_both, refusal, root};
    use quarry_common::ids::{FileOffset, Version};
    use quarry_common::wire::meta::{CloneRange, NewExtent, Source, View};

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
