//! Listing groups for those who fill a member (DESIGN §4.5).

use crate::caller::Caller;
use crate::disk::Disk;
use crate::node::Node;
use crate::read::replica_info;
use quarry_common::ids::{ChunkId, PgId, PoolId};
use quarry_common::map::ClusterMap;
use quarry_common::wire::data::{DataReply, ListChunks, ListedChunk};
use quarry_common::{Code, Error, Result};

/// Groups of one listing.
pub const GROUPS_MAX: usize = 1_024;

/// Chunks in one page: about 200 KiB.
pub const PAGE_LEN: usize = 8_192;

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The chunks.
    pub chunks: Vec<(PgId, ListedChunk)>,
    /// Where the next page begins, if there is one.
    pub next: Option<(PgId, ChunkId)>,
}

/// Answers a [`quarry_common::wire::data::DataRequest::List`].
///
/// Before it looks, the whole dataserver has a map that is not older than the lister's: whatever is acknowledged
/// from then on was written under an epoch of which the lister knows, and whatever was acknowledged before is
/// durable and found. So nothing of an older epoch is ever acknowledged unseen.
///
/// # Errors
/// `WrongRole` for others than dataservers; `OldMap` if the lister's map is older than ours; `Overloaded` if ours
/// is older and no newer one came, or none has come since our start; `NotMember`, `Malformed`; those of the disk.
pub async fn answer(node: &Node, caller: Caller, wanted: ListChunks) -> Result<DataReply> {
    if !matches!(caller, Caller::Dataserver(..)) {
        return Err(Error::new(
            Code::WrongRole,
            "only a dataserver lists what another one has",
        ));
    }
    let Page { chunks, next } = page(node, wanted).await?;
    Ok(DataReply::Listed { chunks, next })
}

/// A page of one of our disks.
///
/// # Errors
/// As [`answer`].
pub async fn page(node: &Node, wanted: ListChunks) -> Result<Page> {
    let ascending = wanted.groups.is_sorted_by(|(a, _), (b, _)| a < b);
    if wanted.groups.is_empty() || wanted.groups.len() > GROUPS_MAX || !ascending {
        let text = format!("a listing of {} groups", wanted.groups.len());
        return Err(Error::malformed(text));
    }
    let disk = node.disks.get(wanted.disk)?;
    let newest = wanted.groups.iter().map(|(_, epoch)| *epoch).max();
    let knows = |map: &ClusterMap| {
        wanted.groups.iter().all(|(pg, epoch)| {
            let row = map.rows.get(&wanted.pool);
            let row = row.and_then(|rows| rows.get(pg.0 as usize));
            row.is_some_and(|row| row.epoch >= *epoch)
        })
    };
    let map = node.membership.map_with(newest.unwrap_or_default(), knows);
    let pg_count = check_epochs(&*map.await?, &wanted)?;
    let looking = move |disk: &Disk| look(disk, &wanted, pg_count);
    node.turns.take(disk, looking).await
}

/// Whether the lister's epochs are the newest of their groups; how many groups the pool has.
fn check_epochs(map: &ClusterMap, wanted: &ListChunks) -> Result<u32> {
    let rows = map.rows.get(&wanted.pool).map_or(&[][..], Vec::as_slice);
    for (pg, epoch) in &wanted.groups {
        let known = rows.get(pg.0 as usize).map(|row| row.epoch);
        if known != Some(*epoch) {
            let ours = known.map_or("none".to_owned(), |known| known.to_string());
            let text = format!(
                "the lister's epoch of group {}.{pg} is {epoch}, ours is {ours}",
                wanted.pool
            );
            return Err(Error::new(Code::OldMap, text));
        }
    }
    Ok(map.pool(wanted.pool)?.pg_count)
}

fn look(disk: &Disk, wanted: &ListChunks, pg_count: u32) -> Result<Page> {
    let mut page = Page::default();
    let pool: PoolId = wanted.pool;
    for (pg, _) in &wanted.groups {
        let from = match wanted.from {
            Some((first, _)) if *pg < first => continue,
            Some((first, chunk)) if *pg == first => Some(chunk),
            Some(_) | None => None,
        };
        let room = PAGE_LEN - page.chunks.len();
        let found = disk.group(pool, (*pg, pg_count), from, room)?;
        page.chunks
            .extend(found.chunks.into_iter().map(|(chunk, info)| {
                let info = replica_info(info);
                (*pg, ListedChunk { chunk, info })
            }));
        if let Some(next) = found.next {
            page.next = Some((*pg, next));
            break;
        }
    }
    Ok(page)
}
