//! Gives a session chunk ids to write.

use crate::state::map_state;
use crate::state::session;
use crate::state::stop::OpResult;
use crate::state::txn::{Txn, Who};
use quarry_common::ids::{ChunkId, KeyNumber, PgId, PoolId, Slot};
use quarry_common::limits::RANGE_CHUNKS_MAX;
use quarry_common::map::{DiskState, Pool, Topology};
use quarry_common::token::{Access, Capability};
use quarry_common::wire::meta::{OpReply, Range, RangeGrant};
use quarry_common::{Code, Error};
use std::collections::BTreeSet;

/// Ids of the home slot. The capability has no MAC and no expiry: the leader, which has a clock, adds
/// both to the answer.
///
/// # Errors
/// `Invalid` for a count that can not be, `NotFound` for an unknown pool, `TooFewDisks` if a group of it has
/// fewer members than it needs for a write when the first range is given, `Overloaded` for too many ranges.
pub fn grant_range(
    txn: &mut Txn<'_>,
    who: &Who<'_>,
    pool_id: PoolId,
    count: u32,
) -> OpResult<OpReply> {
    session::check_open(txn, who.session)?;
    if count == 0 || count > RANGE_CHUNKS_MAX {
        let text = format!(
            "a range of {count} chunk ids was asked for: 1 to {RANGE_CHUNKS_MAX} are possible"
        );
        return Err(Error::new(Code::Invalid, text).into());
    }
    let topology = map_state::topology(txn)?;
    let Some(pool) = topology.pools.get(&pool_id) else {
        return Err(Error::new(Code::NotFound, format!("there is no pool {pool_id}")).into());
    };
    // Later the leader looks, which has the rows at hand: here each would be read and decoded for every range.
    if !pool.in_use {
        for pg in 0..pool.pg_count {
            if map_state::row(txn, pool_id, PgId(pg))?.present() < pool.redundancy.min_members() {
                return Err(too_few(&topology, pool).into());
            }
        }
        map_state::set_in_use(txn, pool_id)?;
    }
    // One id more than is given: the mark at the end of a range is then never the start of the next.
    let first = txn.new_chunk_ids(Slot(0), count + 1)?;
    session::add_range(txn, who.session, pool_id, first, count)?;
    let capability = Capability {
        key: KeyNumber(0),
        access: Access::Write,
        pool: pool_id,
        first,
        last: ChunkId(first.0 + u64::from(count) - 1),
        expires_at: 0,
        mac: [0; 16],
    };
    Ok(OpReply::Range(RangeGrant {
        range: Range {
            pool: pool_id,
            first,
            count,
        },
        capability,
    }))
}

/// That a group of a pool has fewer members than it needs for a write.
pub fn too_few(topology: &Topology, pool: &Pool) -> Error {
    let taking_part = topology
        .disks
        .values()
        .filter(|disk| disk.state == DiskState::In);
    let hosts: BTreeSet<&str> = taking_part
        .filter_map(|disk| topology.servers.get(&disk.server))
        .map(|server| server.host.as_str())
        .collect();
    let known = match hosts.len() {
        0 => "none has registered".to_owned(),
        count => {
            let shown: Vec<&str> = hosts.iter().take(8).copied().collect();
            let rest = if count > shown.len() { ", ..." } else { "" };
            format!("{count} have disks ({}{rest})", shown.join(", "))
        }
    };
    let min = pool.redundancy.min_members();
    let text = format!(
        "pool '{}' can not be written yet: each of its groups needs disks of {min} hosts, and {known}; start dataservers on more hosts, or wait until those that started have been placed",
        pool.name
    );
    Error::new(Code::TooFewDisks, text)
}
