//! How deep a directory is: each change in it is counted in all directories above it ([`super::usage`]), so there are not
//! any number of them.
//!
//! What is moved takes along what is below it, which may be deeper afterwards: it can be read, moved up and removed.

use super::stop::OpResult;
use super::txn::Txn;
use super::usage::parent_of;
use quarry_common::ids::InodeId;
use quarry_common::limits::DIRECTORY_DEPTH_MAX;
use quarry_common::{Code, Error};

/// Refuses with `NameTooLong` to use a directory that is too deep: for a new name that is `levels` below it (1 for a directory,
/// 0 for a file), or for bytes of a file in it.
pub fn check(txn: &mut Txn<'_>, directory: InodeId, levels: usize) -> OpResult<()> {
    let depth = match txn.depths.get(&directory) {
        Some(depth) => *depth,
        None => {
            let depth = measure(txn, directory)?;
            txn.depths.insert(directory, depth);
            depth
        }
    };
    if depth.saturating_add(levels) <= DIRECTORY_DEPTH_MAX {
        return Ok(());
    }
    let text = format!(
        "directory {directory} is too deep in the tree: {DIRECTORY_DEPTH_MAX} levels are the most, use fewer or move it up"
    );
    Err(Error::new(Code::NameTooLong, text).into())
}

/// Directories above it; one more than the most if there are more than that.
fn measure(txn: &Txn<'_>, directory: InodeId) -> OpResult<usize> {
    let (mut depth, mut at) = (0, directory);
    while depth <= DIRECTORY_DEPTH_MAX
        && let Some(parent) = parent_of(txn, at)?
    {
        (depth, at) = (depth + 1, parent);
    }
    Ok(depth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::consistency::faults;
    use crate::state::testing::{World, publish, refusal, root};
    use quarry_common::ids::FileOffset;
    use quarry_common::wire::meta::{NewExtent, Op, RenameMode, SetAttr, Source};

    const ROOT: InodeId = InodeId::ROOT;

    /// Directories one in the other, called 'd', from `/` on. Made from the deepest one up, which is quick.
    fn chain(world: &mut World, levels: usize) -> Vec<InodeId> {
        let mut way = vec![world.mkdir(&root(), ROOT, "d", 0o755).unwrap().inode];
        for _ in 1..levels {
            way.push(world.mkdir(&root(), ROOT, "up", 0o755).unwrap().inode);
            let up = *way.last().unwrap();
            let mut moved = |from, to| {
                let moved = world.rename(&root(), from, to, RenameMode::Replace);
                moved.unwrap();
            };
            moved((ROOT, "d"), (up, "d"));
            moved((ROOT, "up"), (ROOT, "d"));
        }
        way.push(ROOT);
        way.reverse();
        way
    }

    #[test]
    fn what_is_too_deep_is_not_made_nor_used_and_can_be_moved_up_and_removed() {
        let mut world = World::in_memory();
        let way = chain(&mut world, DIRECTORY_DEPTH_MAX);
        let deepest = *way.last().unwrap();
        let refused = world.mkdir(&root(), deepest, "d", 0o755);
        assert_eq!(refusal(refused), Code::NameTooLong);
        let file = world.put(deepest, "f", b"x");

        // All of it one level deeper.
        let above = world.mkdir(&root(), ROOT, "above", 0o755).unwrap().inode;
        world
            .rename(&root(), (ROOT, "d"), (above, "d"), RenameMode::Replace)
            .unwrap();
        let refused = world.create(&root(), deepest, "g", 0o644);
        assert_eq!(refusal(refused), Code::NameTooLong);
        for name in ["f", "g"] {
            let put = publish(deepest, name.as_bytes(), b"y");
            assert_eq!(refusal(world.op(&root(), put)), Code::NameTooLong);
        }
        let write = Op::CommitExtents {
            inode: file.inode,
            extents: vec![NewExtent {
                offset: FileOffset(0),
                len: 1,
                source: Source::Inline(vec![7]),
            }],
            receipts: Vec::new(),
            size: None,
            mtime: None,
        };
        assert_eq!(refusal(world.op(&root(), write)), Code::NameTooLong);
        let grow = Op::SetAttr {
            inode: file.inode,
            set: SetAttr {
                size: Some(100),
                ..SetAttr::default()
            },
        };
        assert_eq!(refusal(world.op(&root(), grow)), Code::NameTooLong);
        let link = Op::Link {
            inode: file.inode,
            parent: deepest,
            name: b"g".to_vec(),
        };
        assert_eq!(refusal(world.op(&root(), link)), Code::NameTooLong);
        let other = world.put(ROOT, "other", b"");
        for mode in [RenameMode::Replace, RenameMode::Exchange] {
            let moved = world.rename(&root(), (ROOT, "other"), (deepest, "f"), mode);
            assert_eq!(refusal(moved), Code::NameTooLong);
        }
        let into = world.rename(
            &root(),
            (deepest, "f"),
            (ROOT, "other"),
            RenameMode::Exchange,
        );
        assert_eq!(refusal(into), Code::NameTooLong);
        assert_eq!(world.stat(other.inode).unwrap().links, 1);

        // What is there can go.
        assert_eq!(world.stat(file.inode).unwrap().size, 1);
        let up = world.rename(&root(), (deepest, "f"), (ROOT, "f"), RenameMode::Replace);
        up.unwrap();
        let rmdir = Op::Rmdir {
            parent: way[DIRECTORY_DEPTH_MAX - 1],
            name: b"d".to_vec(),
        };
        world.op(&root(), rmdir).unwrap();
        let tree = Op::RemoveTree {
            parent: above,
            name: b"d".to_vec(),
        };
        world.op(&root(), tree).unwrap();
        while world.purge(Vec::new(), 1_000).1 {}
        assert_eq!(world.names(above), Vec::<String>::new());
        assert_eq!(faults(&*world.kv), Vec::<String>::new());
    }

    #[test]
    fn a_directory_that_was_moved_up_is_used_in_the_same_command() {
        let mut world = World::in_memory();
        let way = chain(&mut world, DIRECTORY_DEPTH_MAX);
        let deepest = *way.last().unwrap();
        let make = |parent| Op::Mkdir {
            parent,
            name: b"below".to_vec(),
            mode: 0o755,
        };
        let list = |ops| Op::List {
            expectations: vec![],
            ops,
        };
        let up = Op::Rename {
            from: way[DIRECTORY_DEPTH_MAX - 1],
            from_name: b"d".to_vec(),
            to: ROOT,
            to_name: b"up".to_vec(),
            mode: RenameMode::Replace,
        };
        let file = Op::Create {
            parent: deepest,
            name: b"f".to_vec(),
            mode: 0o644,
            exclusive: true,
        };
        let refused = world.op(&root(), list(vec![file.clone(), make(deepest)]));
        assert_eq!(refusal(refused), Code::NameTooLong);
        // It is as deep as before if that is taken back, for what comes with it in one entry of the log.
        let vain = Op::Unlink {
            parent: ROOT,
            name: b"not there".to_vec(),
        };
        let taken_back = list(vec![up.clone(), file.clone(), vain]);
        let actions = [taken_back, make(deepest)].map(|op| world.mutation(&root(), op));
        let answers = world.apply(actions.into());
        let codes = answers.into_iter().map(|answer| answer.unwrap_err().code);
        let codes: Vec<Code> = codes.collect();
        assert_eq!(codes, [Code::NotFound, Code::NameTooLong]);
        world
            .op(&root(), list(vec![file, up, make(deepest)]))
            .unwrap();
    }
}
