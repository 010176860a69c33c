//! What the leader reads of collection, page by page.

use super::is_gone;
use crate::kv::{Family, KvRead, after_prefix};
use crate::state::data_records::DoomedRecord;
use crate::state::keys;
use crate::state::records::Record;
use quarry_common::Result;
use quarry_common::ids::{ChunkId, DiskId, PgId, PoolId, Version};
use quarry_common::limits::COLLECT_CHUNKS_MAX;
use quarry_common::map::{ClusterMap, Row, pg_of};
use std::ops::ControlFlow;

/// Records looked at for one page: some milliseconds, also when few of them are wanted.
const LOOKED_AT_MAX: usize = 20_000;

/// A page of chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkPage {
    /// At most [`COLLECT_CHUNKS_MAX`] of them.
    pub chunks: Vec<(PoolId, ChunkId)>,
    /// The next page comes after this one, if there is one.
    pub next: Option<(PoolId, ChunkId)>,
}

/// Fills one page from several scans.
struct Pager {
    page: ChunkPage,
    looked_at: usize,
}

impl Pager {
    fn new() -> Pager {
        Pager {
            page: ChunkPage::default(),
            looked_at: 0,
        }
    }

    /// Whether the page is full: then `next` is set.
    fn is_full(&self) -> bool {
        self.page.next.is_some()
    }

    /// Adds the chunks of a range of keys that `wanted` wants, until the page is full.
    fn scan(
        &mut self,
        state: &dyn KvRead,
        family: Family,
        (from, to): (&[u8], Option<&[u8]>),
        mut wanted: impl FnMut(&[u8], &[u8]) -> Result<((PoolId, ChunkId), bool)>,
    ) -> Result<()> {
        let mut outcome = Ok(());
        state.scan(family, from, to, &mut |key, value| {
            let (chunk, is_wanted) = match wanted(key, value) {
                Ok(seen) => seen,
                Err(error) => {
                    outcome = Err(error);
                    return ControlFlow::Break(());
                }
            };
            self.looked_at += 1;
            if is_wanted {
                self.page.chunks.push(chunk);
            }
            if self.page.chunks.len() < COLLECT_CHUNKS_MAX && self.looked_at < LOOKED_AT_MAX {
                return ControlFlow::Continue(());
            }
            self.page.next = Some(chunk);
            ControlFlow::Break(())
        })?;
        outcome
    }
}

/// The first key after `key`.
fn after(key: Vec<u8>) -> Vec<u8> {
    [key, vec![0]].concat()
}

/// Chunks that lost their last reference and are not doomed yet.
pub fn unreferenced(state: &dyn KvRead, from: Option<(PoolId, ChunkId)>) -> Result<ChunkPage> {
    let prefix = keys::unreferenced();
    let start =
        from.map(|(pool, chunk)| after(keys::system(keys::SystemKey::Unreferenced(pool, chunk))));
    let range = (start.as_deref().unwrap_or(&prefix), after_prefix(&prefix));
    let mut pager = Pager::new();
    pager.scan(
        state,
        Family::System,
        (range.0, range.1.as_deref()),
        |key, _| Ok((keys::parse_unreferenced(key)?, true)),
    )?;
    Ok(pager.page)
}

fn read(key: &[u8], value: &[u8]) -> Result<((PoolId, ChunkId), DoomedRecord)> {
    Ok((keys::parse_doomed(key)?, DoomedRecord::from_bytes(value)?))
}

/// Whether a disk is a member or a holder of a group.
pub fn has_part(row: &Row, disk: DiskId) -> bool {
    row.chain().any(|member| member == disk) || row.holders.iter().any(|holder| holder.disk == disk)
}

/// Chunks doomed before `until` that a disk, a member or holder of their group, has not yet said to be gone.
pub fn due(
    state: &dyn KvRead,
    map: &ClusterMap,
    disk: DiskId,
    until: Version,
    from: Option<(PoolId, ChunkId)>,
) -> Result<ChunkPage> {
    let mut pager = Pager::new();
    for (id, table) in &map.rows {
        let Some(pool) = map.topology.pools.get(id) else {
            continue;
        };
        let resumed = from.map(|(in_pool, chunk)| (in_pool, pg_of(chunk, pool.pg_count)));
        for (at, row) in table.iter().enumerate() {
            let place = (*id, PgId(at as u32));
            if !has_part(row, disk) || resumed.is_some_and(|resumed| place < resumed) {
                continue;
            }
            let (mut start, end) = keys::chunks_of_pg(place.0, place.1, pool.pg_count);
            if let Some((pool, chunk)) = from.filter(|_| resumed == Some(place)) {
                start = after(keys::doomed(pool, chunk));
            }
            pager.scan(
                state,
                Family::Doomed,
                (&start, end.as_deref()),
                |key, value| {
                    let (chunk, record) = read(key, value)?;
                    let due = record.at < until && !record.gone_from.contains(&disk);
                    Ok((chunk, due))
                },
            )?;
            if pager.is_full() {
                return Ok(pager.page);
            }
        }
    }
    Ok(pager.page)
}

/// Doomed chunks that wait for nobody any more, since the members that had not deleted them have gone.
pub fn forgettable(
    state: &dyn KvRead,
    map: &ClusterMap,
    from: Option<(PoolId, ChunkId)>,
) -> Result<ChunkPage> {
    let start = from.map_or(Vec::new(), |(pool, chunk)| after(keys::doomed(pool, chunk)));
    let mut pager = Pager::new();
    pager.scan(state, Family::Doomed, (&start, None), |key, value| {
        let (chunk, record) = read(key, value)?;
        let row = map.locate(chunk.0, chunk.1);
        Ok((chunk, row.is_ok_and(|(_, row)| is_gone(row, &record))))
    })?;
    Ok(pager.page)
}
