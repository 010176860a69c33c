//! Deletes what a disk no longer is to hold (DESIGN §4.5).
//!
//! Two reasons are needed for each chunk: the group is clean without the disk, and every member has listed the
//! chunk, under that row, with the same length and CRC. And nothing newer may be known at the deletion itself. An
//! error anywhere ends the work on the group.

use super::core::Group;
use super::list::PAGE_LEN;
use super::mend::committed;
use super::worker::page;
use crate::disk::{ChunkInfo, ChunkName, ChunkState, Disk};
use crate::membership::Membership;
use crate::metaservers::Metaservers;
use crate::node::Node;
use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, DiskId, PgId, PoolId};
use quarry_common::map::{ClusterMap, DiskState, MemberState, Row, pg_of, placement};
use quarry_common::wire::data::{ListChunks, ListedChunk, ReplicaInfo, ReplicaState};
use quarry_common::{Error, Result};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Groups are looked at this often, and when the map changes.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Where something went wrong, or is still being written, it is looked again after so long.
const LOOK_SOON: Duration = Duration::from_secs(2);

/// A group in which something had to stay is looked at again after so long, if its row stays the same.
const AGAIN_AFTER: Duration = Duration::from_secs(600);

/// The row under which a disk may delete its chunks of a group: it has no place in it, every member has
/// everything, and no holder is needed any more. A disk that is to come back keeps what it has.
fn licence(map: &ClusterMap, (pool, pg): Group, disk: DiskId) -> Option<&Row> {
    let row = map.rows.get(&pool)?.get(pg.0 as usize)?;
    let in_pool = map.topology.pools.get(&pool)?;
    let own = map.topology.disks.get(&disk)?;
    let mut members = row.members.iter().flatten();
    let is_clean = row.present() >= in_pool.redundancy.min_members().max(1)
        && row.holders.is_empty()
        && members.all(|member| member.state == MemberState::Complete && member.disk != disk);
    let comes_back = || placement::target(&map.topology, pool, in_pool, pg).contains(&Some(disk));
    (is_clean && own.state != DiskState::Out && !comes_back()).then_some(row)
}

/// Whether a licence is still that of the newest map that is known.
fn still_holds(membership: &Membership, (pool, pg): Group, licensed: &Row) -> bool {
    let map = membership.map();
    let row = map.rows.get(&pool).and_then(|rows| rows.get(pg.0 as usize));
    row == Some(licensed) && membership.check_lease().is_ok()
}

/// Whether a member's copy makes ours superfluous. `prefix` gives the CRC of the first bytes of ours.
async fn is_held<Reading: Future<Output = Result<Option<Crc>>>>(
    own: &ChunkInfo,
    member: Option<ReplicaInfo>,
    prefix: impl FnOnce(u32) -> Reading,
) -> Result<bool> {
    let Some(member) = member.filter(|member| member.state == ReplicaState::Sealed) else {
        return Ok(false);
    };
    Ok(match own.state {
        ChunkState::Open => false,
        // What of it was good, if anything, the member has.
        ChunkState::SetAside => member.len >= own.len,
        // A tail that the member does not have is nobody's, unless it was committed: see below.
        ChunkState::Sealed if member.len < own.len => prefix(member.len).await? == Some(member.crc),
        ChunkState::Sealed => (member.len, member.crc) == (own.len, own.crc),
    })
}

/// Deletes until it is dropped. Cancel-safe.
pub async fn run(node: Arc<Node>, disk: Disk, metaservers: Metaservers) {
    let id = disk.identity().disk;
    let mut changes = node.membership.changes();
    let mut rest: BTreeMap<Group, (Row, Instant)> = BTreeMap::new();
    loop {
        let map = Arc::clone(&changes.borrow_and_update());
        let groups = groups(&map, disk.clone()).await;
        rest.retain(|group, (row, until)| {
            let same = licence(&map, *group, id) == Some(&*row);
            same && *until > Instant::now()
        });
        let mut pause = LOOK_EVERY;
        for group in groups.unwrap_or_else(|error| {
            tracing::warn!("the groups of disk {id} can not be listed: {error}");
            Vec::new()
        }) {
            let Some(row) = licence(&map, group, id).filter(|_| !rest.contains_key(&group)) else {
                continue;
            };
            let (pool, pg) = group;
            match leave(&node, &disk, &metaservers, group, row).await {
                Ok(Left {
                    deleted,
                    kept,
                    open,
                }) => {
                    if deleted > 0 {
                        tracing::info!(
                            "disk {id} left group {pool}.{pg}: {deleted} chunks deleted"
                        );
                    }
                    if open > 0 {
                        pause = LOOK_SOON;
                    } else if kept > 0 {
                        let until = Instant::now() + AGAIN_AFTER;
                        rest.insert(group, (row.clone(), until));
                    }
                }
                Err(error) => {
                    tracing::debug!("disk {id} stays in group {pool}.{pg}: {error}");
                    pause = LOOK_SOON;
                }
            }
        }
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The groups of which a disk has chunks.
async fn groups(map: &ClusterMap, disk: Disk) -> Result<Vec<Group>> {
    let pools: Vec<(PoolId, u32)> = map
        .topology
        .pools
        .iter()
        .map(|(pool, found)| (*pool, found.pg_count))
        .collect();
    let look = move || {
        let mut groups: Vec<Group> = Vec::new();
        for (pool, pg_count) in pools {
            let found = disk.groups(pool, pg_count)?;
            groups.extend(found.into_iter().map(|pg| (pool, pg)));
            let bad = disk
                .bad_copies()
                .into_iter()
                .filter(|name| name.pool == pool);
            groups.extend(bad.map(|name| (pool, pg_of(name.chunk, pg_count))));
        }
        groups.sort_unstable();
        groups.dedup();
        Ok(groups)
    };
    blocking(look).await
}

/// What was done in a group.
#[derive(Default)]
struct Left {
    deleted: usize,
    kept: usize,
    /// Of those that are kept: here or at a member still being written.
    open: usize,
}

/// Deletes what every member has.
async fn leave(
    node: &Arc<Node>,
    disk: &Disk,
    metaservers: &Metaservers,
    group: Group,
    row: &Row,
) -> Result<Left> {
    let (pool, pg) = group;
    let pg_count = node.membership.map().pool(pool)?.pg_count;
    let mut members: Vec<Cursor> = row
        .chain()
        .map(|disk| Cursor::new(disk, group, row))
        .collect();
    let (mut left, mut from) = (Left::default(), None);
    loop {
        let own = disk.clone();
        let listed = blocking(move || own.group(pool, (pg, pg_count), from, PAGE_LEN)).await?;
        for (chunk, info) in listed.chunks {
            let mut is_everywhere = true;
            let mut is_open = info.state == ChunkState::Open;
            let mut shortest = info.len;
            for member in &mut members {
                let found = member.find(node, chunk).await?;
                is_open |= found.is_some_and(|found| found.state == ReplicaState::Open);
                shortest = shortest.min(found.map_or(0, |found| found.len));
                let prefix = |len| {
                    let look = move |disk: &Disk| disk.prefix_crc(pool, chunk, len);
                    node.turns.take(disk, look)
                };
                is_everywhere &= is_held(&info, found, prefix).await?;
            }
            // A member may have lost the end of what was committed, and not know it yet.
            if is_everywhere && shortest < info.len {
                let committed = committed(node, metaservers, group, chunk).await?;
                is_everywhere = committed.is_none_or(|committed| committed.len <= shortest);
            }
            if !is_everywhere {
                left.kept += 1;
                left.open += usize::from(is_open);
                continue;
            }
            let (own, node, row) = (disk.clone(), Arc::clone(node), row.clone());
            let delete =
                move || own.delete(pool, chunk, || still_holds(&node.membership, group, &row));
            if !blocking(delete).await? {
                // The licence is over.
                return Ok(left);
            }
            left.deleted += 1;
        }
        match listed.next {
            Some(next) => from = Some(next),
            None => return Ok(left),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::bug(format!("work on a disk was lost: {error}"))))
}

/// Walks through a member's list of a group, in the order of ours.
struct Cursor {
    group: Group,
    wanted: ListChunks,
    page: VecDeque<(PgId, ListedChunk)>,
    is_over: bool,
}

impl Cursor {
    fn new(disk: DiskId, group: Group, row: &Row) -> Cursor {
        Cursor {
            group,
            wanted: ListChunks {
                disk,
                pool: group.0,
                groups: vec![(group.1, row.epoch)],
                from: None,
            },
            page: VecDeque::new(),
            is_over: false,
        }
    }

    /// What the member has of a chunk; chunks are asked for in their order.
    async fn find(&mut self, node: &Node, chunk: ChunkId) -> Result<Option<ReplicaInfo>> {
        let place = |chunk| {
            let name = ChunkName {
                pool: self.group.0,
                chunk,
            };
            (name.order(), chunk)
        };
        loop {
            while let Some((_, listed)) = self.page.front() {
                if place(listed.chunk) > place(chunk) {
                    return Ok(None);
                }
                let found = *listed;
                self.page.pop_front();
                if found.chunk == chunk {
                    return Ok(Some(found.info));
                }
            }
            if self.is_over {
                return Ok(None);
            }
            let next = page(node, self.wanted.clone()).await?;
            self.page = next.chunks.into();
            self.wanted.from = next.next;
            self.is_over = next.next.is_none();
        }
    }
}

#[cfg(test)]
mod tests;
