//! What the server itself reads of the state.

use crate::kv::{Family, KvRead, after_prefix};
use crate::state::keys::{self, SystemKey};
use crate::state::records::{ChunkRecord, NumberRecord, Record};
use crate::state::txn::{HIDDEN_DIRECTORY, load};
use quarry_common::ids::{ChunkId, InodeId, PgId, PoolId, Version};
use quarry_common::wire::meta::CommittedChunk;
use quarry_common::{Code, Error, Result};
use std::collections::HashSet;
use std::ops::ControlFlow;

/// Calls `visit` for each entry from `from` to `to` until it fails or breaks.
fn scan(
    state: &dyn KvRead,
    family: Family,
    from: &[u8],
    to: Option<&[u8]>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut outcome = Ok(());
    state.scan(
        family,
        from,
        to,
        &mut |key, value| match visit(key, value) {
            Ok(flow) => flow,
            Err(error) => {
                outcome = Err(error);
                ControlFlow::Break(())
            }
        },
    )?;
    outcome
}

/// The oldest orphans, from the key `from` on, that lost their last name before `until` and are not `held`; and `from`
/// moved to the first one there is: those before it are gone, and later ones have greater versions. (Whoever begins at
/// the first key again passes each mark of a deletion: a tenth of all time while files are removed, measured.)
pub fn orphans(
    state: &dyn KvRead,
    from: &mut Vec<u8>,
    until: Version,
    held: &HashSet<InodeId>,
    max: usize,
) -> Result<Vec<InodeId>> {
    let mut orphans = Vec::new();
    let mut first = None;
    scan(
        state,
        Family::System,
        from,
        after_prefix(&keys::orphans()).as_deref(),
        |key, _| {
            first.get_or_insert_with(|| key.to_vec());
            let (since, inode) = keys::parse_orphan(key)?;
            if since >= until || orphans.len() == max {
                return Ok(ControlFlow::Break(()));
            }
            if !held.contains(&inode) {
                orphans.push(inode);
            }
            Ok(ControlFlow::Continue(()))
        },
    )?;
    if let Some(first) = first {
        *from = first;
    }
    Ok(orphans)
}

/// Referenced chunks of a group in one page, and records looked at for it: some milliseconds.
const GROUP_PAGE: usize = 8_192;

/// What is referenced in a group, from `from` on in the order of the state, and where the next page begins.
///
/// # Errors
/// `Invalid` for a chunk of another group.
pub fn group_chunks(
    state: &dyn KvRead,
    pool: PoolId,
    (pg, pg_count): (PgId, u32),
    from: Option<ChunkId>,
) -> Result<(Vec<CommittedChunk>, Option<ChunkId>)> {
    let (first, end) = keys::chunks_of_pg(pool, pg, pg_count);
    let start = from.map_or(first.clone(), |chunk| keys::chunk(pool, chunk));
    if start < first || end.as_ref().is_some_and(|end| start >= *end) {
        let text = format!("a page of group {pool}.{pg} can not begin with a chunk of another");
        return Err(Error::new(Code::Invalid, text));
    }
    let (mut chunks, mut seen, mut next) = (Vec::new(), 0, None);
    scan(
        state,
        Family::Chunks,
        &start,
        end.as_deref(),
        |key, value| {
            let (_, chunk) = keys::parse_chunk(key)?;
            if seen == GROUP_PAGE {
                next = Some(chunk);
                return Ok(ControlFlow::Break(()));
            }
            seen += 1;
            let ChunkRecord {
                references,
                len,
                crc,
                ..
            } = ChunkRecord::from_bytes(value)?;
            if references > 0 {
                chunks.push(CommittedChunk { chunk, len, crc });
            }
            Ok(ControlFlow::Continue(()))
        },
    )?;
    Ok((chunks, next))
}

/// A counter of the state.
pub fn number(state: &dyn KvRead, key: SystemKey) -> Result<u64> {
    let record = load::<NumberRecord>(state, Family::System, &keys::system(key))?;
    Ok(record.map_or(0, |record| record.0))
}

/// Whether removed trees or truncated files wait to be emptied.
pub fn leftovers_wait(state: &dyn KvRead) -> Result<bool> {
    let prefixes = [
        (Family::System, keys::trimmed()),
        (Family::Dentries, keys::inode(HIDDEN_DIRECTORY)),
    ];
    let mut found = false;
    for (family, prefix) in prefixes {
        state.scan(
            family,
            &prefix,
            after_prefix(&prefix).as_deref(),
            &mut |_, _| {
                found = true;
                ControlFlow::Break(())
            },
        )?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::data_testing::{POOL, commit};
    use crate::state::testing::{World, root};
    use quarry_common::map::pg_of;
    use std::collections::BTreeSet;

    #[test]
    fn orphans_that_are_held_keep_no_others_from_being_found() {
        let world = &mut World::in_memory();
        let mut removed = Vec::new();
        for number in 0..10 {
            let name = format!("f{number}");
            removed.push(world.put(InodeId::ROOT, &name, b"x").inode);
            world.unlink(&root(), InodeId::ROOT, &name).unwrap();
        }
        let until = Version(u64::MAX);
        let first = &mut keys::orphans();
        let all = orphans(&*world.kv, first, until, &HashSet::new(), 100).unwrap();
        assert_eq!(all, removed);
        let held = removed[..6].iter().copied().collect();
        let found = orphans(&*world.kv, first, until, &held, 3).unwrap();
        assert_eq!(found, removed[6..9]);
        let none = orphans(&*world.kv, first, Version(1), &HashSet::new(), 100).unwrap();
        assert_eq!(none, []);
    }

    #[test]
    fn what_was_an_orphan_is_not_passed_again_and_what_becomes_one_is_found() {
        let world = &mut World::in_memory();
        let remove = |world: &mut World, name: &str| {
            let inode = world.put(InodeId::ROOT, name, b"x").inode;
            world.unlink(&root(), InodeId::ROOT, name).unwrap();
            inode
        };
        let (a, b) = (remove(world, "a"), remove(world, "b"));
        let first = &mut keys::orphans();
        let find = |world: &World, first: &mut Vec<u8>, held: &[InodeId]| {
            let held = held.iter().copied().collect();
            orphans(&*world.kv, first, Version(u64::MAX), &held, 100).unwrap()
        };
        assert_eq!(
            find(world, first, &[a]),
            [b],
            "one that is held stays the first"
        );
        assert_eq!(find(world, first, &[]), [a, b]);
        assert_eq!(world.purge(vec![a], 100).0, [a]);
        assert_eq!(find(world, first, &[]), [b]);
        assert_eq!(keys::parse_orphan(first).unwrap().1, b);
        assert_eq!(world.purge(vec![b], 100).0, [b]);
        assert_eq!(find(world, first, &[]), []);
        let c = remove(world, "c");
        assert_eq!(find(world, first, &[]), [c]);
    }

    #[test]
    fn a_group_lists_its_referenced_chunks_alone() {
        let world = &mut World::in_memory();
        world.add_disks(3);
        let range = world.grant(400);
        let mut kept = BTreeSet::new();
        for sequence in 0..400 {
            let chunk = ChunkId(range.first.0 + sequence);
            let file = world.put(InodeId::ROOT, &format!("f{sequence}"), b"");
            let receipt = world.receipt(chunk, 5);
            world
                .op(&root(), commit(file.inode, 0, 5, receipt))
                .unwrap();
            if sequence % 3 == 0 {
                // Its record stays, without references.
                let cut = quarry_common::wire::meta::SetAttr {
                    size: Some(0),
                    ..Default::default()
                };
                let op = quarry_common::wire::meta::Op::SetAttr {
                    inode: file.inode,
                    set: cut,
                };
                world.op(&root(), op).unwrap();
            } else {
                kept.insert(chunk);
            }
        }
        let mut found = BTreeSet::new();
        for pg in (0..64).map(PgId) {
            let (chunks, next) = group_chunks(&*world.kv, POOL, (pg, 64), None).unwrap();
            assert_eq!(next, None);
            assert!(
                chunks
                    .iter()
                    .all(|known| pg_of(known.chunk, 64) == pg && known.len == 5)
            );
            if let [_, second, ..] = chunks[..] {
                let (rest, _) =
                    group_chunks(&*world.kv, POOL, (pg, 64), Some(second.chunk)).unwrap();
                assert_eq!(rest, chunks[1..]);
                let other = (PgId(pg.0 ^ 1), 64);
                let refused = group_chunks(&*world.kv, POOL, other, Some(second.chunk));
                assert_eq!(refused.unwrap_err().code, Code::Invalid);
            }
            found.extend(chunks.iter().map(|known| known.chunk));
        }
        assert_eq!(found, kept);
    }
}
