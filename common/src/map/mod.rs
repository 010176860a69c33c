//! The cluster map: which disks exist, and which of them hold each placement group (DESIGN §4.1).
//!
//! Small, versioned by [`Epoch`], kept in the metaserver's Raft log, cached by everybody else.

pub mod fill;
pub mod fixed_log;
pub mod placement;
pub mod row;
pub mod topology;

pub use row::{EpochRange, Holder, Member, MemberState, Row};
pub use topology::{Disk, DiskState, FailureDomain, Pool, Redundancy, Server, Topology};

use crate::error::{Code, Error, Result};
use crate::ids::{ChunkId, DiskId, Epoch, PgId, PoolId, ServerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The placement group of a chunk in a pool of `pg_count` groups (a power of two).
///
/// The hash is pinned for ever: XXH3-64, seed 0, of the eight big-endian bytes of the chunk id.
pub fn pg_of(chunk: ChunkId, pg_count: u32) -> PgId {
    PgId((hash_of(chunk) & u64::from(pg_count - 1)) as u32)
}

/// The hash of which [`pg_of`] takes the low bits.
pub fn hash_of(chunk: ChunkId) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&chunk.0.to_be_bytes())
}

/// Everything a client or a dataserver knows of the cluster at one epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterMap {
    /// The newest epoch in it.
    pub epoch: Epoch,
    /// Servers, disks and pools.
    pub topology: Topology,
    /// The rows of each pool, by placement group; empty until the pool has been placed.
    pub rows: BTreeMap<PoolId, Vec<Row>>,
}

/// What changed in the map after some epoch; pages follow each other by `next`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapUpdate {
    /// The epoch of the map that this was cut from.
    pub epoch: Epoch,
    /// The whole topology, if it changed.
    pub topology: Option<Topology>,
    /// Rows that changed.
    pub rows: Vec<(PoolId, PgId, Row)>,
    /// Where the next page starts, if there is one.
    pub next: Option<(PoolId, PgId)>,
}

/// Rows in one page of an update: about half a megabyte.
pub const ROWS_PER_PAGE: usize = 8_192;

impl ClusterMap {
    /// What someone who has the map of epoch `since` lacks, from row `from` on.
    pub fn update_since(&self, since: Epoch, from: Option<(PoolId, PgId)>) -> MapUpdate {
        let start = from.unwrap_or_default();
        let mut rows = Vec::new();
        let mut next = None;
        'pools: for (pool, table) in self.rows.range(start.0..) {
            let first = if *pool == start.0 {
                start.1.0 as usize
            } else {
                0
            };
            for (at, row) in table.iter().enumerate().skip(first) {
                if row.changed_at <= since {
                    continue;
                }
                let place = (*pool, PgId(at as u32));
                if rows.len() == ROWS_PER_PAGE {
                    next = Some(place);
                    break 'pools;
                }
                rows.push((place.0, place.1, row.clone()));
            }
        }
        let topology = (self.topology.changed_at > since).then(|| self.topology.clone());
        MapUpdate {
            epoch: self.epoch,
            topology,
            rows,
            next,
        }
    }

    /// Takes over an update. The epoch moves only with the last page.
    ///
    /// # Errors
    /// `Malformed` for a row of a pool or a group that the topology does not have.
    pub fn apply(&mut self, update: MapUpdate) -> Result<()> {
        if let Some(topology) = update.topology {
            self.topology = topology;
        }
        for (pool, pg, row) in update.rows {
            let pg_count = self.topology.pools.get(&pool).map(|pool| pool.pg_count);
            let Some(pg_count) = pg_count.filter(|count| pg.0 < *count) else {
                return Err(Error::malformed(format!(
                    "the map has no group {pool}.{pg}"
                )));
            };
            let table = self.rows.entry(pool).or_default();
            table.resize(pg_count as usize, Row::default());
            table[pg.0 as usize] = row;
        }
        if update.next.is_none() {
            self.epoch = update.epoch;
        }
        Ok(())
    }

    /// The pool of that number.
    ///
    /// # Errors
    /// `OldMap` if it is not in this map.
    pub fn pool(&self, pool: PoolId) -> Result<&Pool> {
        let unknown = || {
            Error::new(
                Code::OldMap,
                format!("pool {pool} is not in the map of epoch {}", self.epoch),
            )
        };
        self.topology.pools.get(&pool).ok_or_else(unknown)
    }

    /// The group of a chunk and its row.
    ///
    /// # Errors
    /// `OldMap` if the pool is not in this map, `TooFewDisks` if it has not been placed.
    pub fn locate(&self, pool: PoolId, chunk: ChunkId) -> Result<(PgId, &Row)> {
        let pg = pg_of(chunk, self.pool(pool)?.pg_count);
        let row = self
            .rows
            .get(&pool)
            .and_then(|table| table.get(pg.0 as usize));
        let unplaced = || {
            let text = format!(
                "pool {pool} has no disks yet: start its dataservers (quarry disk list shows them)"
            );
            Error::new(Code::TooFewDisks, text)
        };
        Ok((
            pg,
            row.filter(|row| !row.members.is_empty())
                .ok_or_else(unplaced)?,
        ))
    }

    /// A disk and the server it is in.
    ///
    /// # Errors
    /// `OldMap` if this map has no such disk.
    pub fn disk(&self, disk: DiskId) -> Result<(&Disk, &Server)> {
        let found = self.topology.disks.get(&disk);
        let found = found.and_then(|disk| Some((disk, self.topology.servers.get(&disk.server)?)));
        found.ok_or_else(|| {
            Error::new(
                Code::OldMap,
                format!("disk {disk} is not in the map of epoch {}", self.epoch),
            )
        })
    }

    /// The disks of one server.
    pub fn disks_of(&self, server: ServerId) -> impl Iterator<Item = (DiskId, &Disk)> {
        let all = self.topology.disks.iter();
        all.filter(move |(_, disk)| disk.server == server)
            .map(|(id, disk)| (*id, disk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Slot;

    /// These pairs are in every cluster's data: they never change.
    #[test]
    fn the_hash_of_a_chunk_is_pinned_for_ever() {
        // Computed by another implementation of XXH3 as well (python-xxhash 3.5).
        for (id, group) in [(1, 35_827), (2, 20_764), (u64::MAX, 17_427)] {
            assert_eq!(pg_of(ChunkId(id), 1 << 16), PgId(group));
        }
    }

    #[test]
    fn a_group_of_a_doubled_pool_is_its_parent_or_the_parent_and_half() {
        for sequence in 0..1000 {
            let chunk = ChunkId::new(Slot(3), sequence);
            assert_eq!(pg_of(chunk, 2048).0 & 1023, pg_of(chunk, 1024).0);
        }
    }
}
