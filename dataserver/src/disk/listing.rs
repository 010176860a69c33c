//! What a disk has of a placement group.

use super::name::{ChunkName, orders_of};
use super::{ChunkInfo, ChunkKind, ChunkState, Disk};
use quarry_common::Result;
use quarry_common::ids::{ChunkId, PgId, PoolId};
use quarry_common::map::pg_of;
use std::collections::BTreeMap;

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Chunks in the order of the group (see [`ChunkName::order`]).
    pub chunks: Vec<(ChunkId, ChunkInfo)>,
    /// Where the next page begins, if there is one.
    pub next: Option<ChunkId>,
}

impl Disk {
    /// Up to `limit` chunks of a group in any state, from `from` on: open ones with their durable length,
    /// set-aside ones as such. Whatever was durable when this was called is in it. Blocks.
    ///
    /// # Errors
    /// Those of the index.
    pub fn group(
        &self,
        pool: PoolId,
        (pg, pg_count): (PgId, u32),
        from: Option<ChunkId>,
        limit: usize,
    ) -> Result<Page> {
        let shared = &self.0.shared;
        let order = |chunk| ChunkName { pool, chunk }.order();
        let from = from.map_or((0, ChunkId(0)), |chunk| (order(chunk), chunk));
        let is_ours = |name: &ChunkName| {
            name.pool == pool
                && pg_of(name.chunk, pg_count) == pg
                && (name.order(), name.chunk) >= from
        };
        let mut found: BTreeMap<(u64, ChunkId), ChunkInfo> = BTreeMap::new();
        // Open chunks before the index: a chunk that is sealed meanwhile is found in one of them.
        for (name, durable) in shared.claims.all() {
            if is_ours(&name) {
                let info = ChunkInfo::new(durable.as_deref(), ChunkState::Open);
                found.insert((name.order(), name.chunk), info);
            }
        }
        let bad = shared.aside.names().into_iter();
        for name in bad.chain(shared.missing.names()) {
            if is_ours(&name) {
                let info = ChunkInfo::new(shared.index.get(name)?.as_ref(), ChunkState::SetAside);
                found.insert((name.order(), name.chunk), info);
            }
        }
        let sealed = shared.index.group(pool, orders_of(pg, pg_count), from);
        for item in sealed.take(limit + 1) {
            let (name, brief) = item?;
            let info = ChunkInfo {
                len: brief.len,
                crc: brief.crc,
                state: ChunkState::Sealed,
                kind: match brief.small {
                    true => ChunkKind::Small,
                    false => ChunkKind::File,
                },
            };
            let known = found.entry((name.order(), name.chunk)).or_insert(info);
            // Being moved, replaced or deleted: what is there counts until it is not.
            if known.state == ChunkState::Open && known.len <= info.len {
                *known = info;
            }
        }
        let mut chunks: Vec<(ChunkId, ChunkInfo)> = found
            .into_iter()
            .map(|((_, chunk), info)| (chunk, info))
            .collect();
        let next = chunks.get(limit).map(|(chunk, _)| *chunk);
        chunks.truncate(limit);
        Ok(Page { chunks, next })
    }

    /// The groups of a pool of which the disk has sealed chunks. Blocks.
    ///
    /// # Errors
    /// Those of the index.
    pub fn groups(&self, pool: PoolId, pg_count: u32) -> Result<Vec<PgId>> {
        self.0.shared.index.groups(pool, pg_count)
    }

    /// Every chunk that was set aside; not those that are missing.
    pub fn bad_copies(&self) -> Vec<ChunkName> {
        self.0.shared.aside.names()
    }
}
