//! The cluster map, its users and its keys in the state, and the commands that change them.
//!
//! The topology is one record and every placement group's row another. The epoch in `system` says
//! whether anything changed: a server compares it with its map's and loads the map again.

pub mod bootstrap;
pub mod downs;
mod homes;
pub mod keys;
pub mod place;
pub mod register;
#[cfg(test)]
mod tests;
pub mod users;

use super::command::Reply;
use super::data_records::{RowRecord, TopologyRecord};
use super::keys::{self as state_keys, MapKey, SystemKey};
use super::records::NumberRecord;
use super::stop::{OpResult, Stop};
use super::txn::{Txn, load as load_record};
use crate::kv::{Family, KvRead};
use quarry_common::ids::{DiskId, Epoch, PgId, PoolId, ServerId};
use quarry_common::map::{ClusterMap, DiskState, Row, Topology};
use quarry_common::wire::meta::{Complete, Registration};
use quarry_common::{Code, Error, Result};
use std::ops::ControlFlow;
use std::sync::Arc;

/// The rules that this program knows how to apply.
pub const FEATURE_LEVEL: u64 = 1;

/// The epoch of the map: what a server compares to know that the map changed.
pub fn epoch(state: &dyn KvRead) -> Result<Epoch> {
    let record =
        load_record::<NumberRecord>(state, Family::System, &state_keys::system(SystemKey::Epoch))?;
    Ok(Epoch(record.unwrap_or_default().0))
}

/// The whole map, empty before the bootstrap: at the start of a server, after a snapshot, and
/// whenever [`epoch`] has changed.
pub fn load(state: &dyn KvRead) -> Result<ClusterMap> {
    let topology =
        load_record::<TopologyRecord>(state, Family::Map, &state_keys::map(MapKey::Topology))?;
    let mut map = ClusterMap {
        epoch: epoch(state)?,
        topology: topology.unwrap_or_default().0,
        ..ClusterMap::default()
    };
    let from = state_keys::map(MapKey::Row(PoolId(0), PgId(0)));
    let mut failed = None;
    state.scan(
        Family::Map,
        &from,
        None,
        &mut |key, value| match read_row(&mut map, key, value) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    match failed {
        Some(error) => Err(error),
        None => Ok(map),
    }
}

fn read_row(map: &mut ClusterMap, key: &[u8], value: &[u8]) -> Result<()> {
    let MapKey::Row(pool, pg) = state_keys::parse_map(key)? else {
        return Err(Error::malformed("a key of the cluster map is out of place"));
    };
    let row = <RowRecord as super::records::Record>::from_bytes(value)?.0;
    let count = map
        .topology
        .pools
        .get(&pool)
        .map(|pool| pool.pg_count)
        .filter(|count| pg.0 < *count);
    let Some(count) = count else {
        return Err(Error::malformed(format!(
            "there is a row of group {pool}.{pg}, which the topology does not have"
        )));
    };
    let table = map.rows.entry(pool).or_default();
    table.resize(count as usize, Row::default());
    table[pg.0 as usize] = row;
    Ok(())
}

/// The topology as it is now.
pub fn topology(txn: &mut Txn<'_>) -> OpResult<Arc<Topology>> {
    if let Some(topology) = &txn.topology {
        return Ok(topology.clone());
    }
    let record: Option<TopologyRecord> =
        txn.get(Family::Map, &state_keys::map(MapKey::Topology))?;
    let topology = Arc::new(record.unwrap_or_default().0);
    txn.topology = Some(topology.clone());
    Ok(topology)
}

/// Writes a topology that changed at `epoch`.
fn put_topology(txn: &mut Txn<'_>, mut topology: Topology, epoch: Epoch) {
    topology.changed_at = epoch;
    let record = TopologyRecord(topology);
    txn.put(Family::Map, state_keys::map(MapKey::Topology), &record);
    txn.topology = Some(Arc::new(record.0));
}

/// The epoch of the map as it is now.
pub fn current_epoch(txn: &Txn<'_>) -> OpResult<Epoch> {
    Ok(Epoch(txn.number(SystemKey::Epoch)?))
}

/// One epoch more.
fn next_epoch(txn: &mut Txn<'_>) -> OpResult<Epoch> {
    let next = current_epoch(txn)?.next();
    txn.set_number(SystemKey::Epoch, next.0);
    Ok(next)
}

/// The row of a group; one without members if the pool has not been placed.
pub fn row(txn: &Txn<'_>, pool: PoolId, pg: PgId) -> OpResult<Row> {
    let record: Option<RowRecord> =
        txn.get(Family::Map, &state_keys::map(MapKey::Row(pool, pg)))?;
    Ok(record.unwrap_or_default().0)
}

fn put_row(txn: &mut Txn<'_>, pool: PoolId, pg: PgId, row: Row) {
    txn.put(
        Family::Map,
        state_keys::map(MapKey::Row(pool, pg)),
        &RowRecord(row),
    );
}

/// Refuses what comes before the bootstrap.
pub fn check_begun(txn: &Txn<'_>) -> OpResult<()> {
    if current_epoch(txn)? == Epoch::ZERO {
        return Err(Error::new(
            Code::Overloaded,
            "the cluster has not been bootstrapped yet: try again",
        )
        .into());
    }
    Ok(())
}

/// `SetMetaservers`.
pub fn set_metaservers(txn: &mut Txn<'_>, metaservers: Vec<(ServerId, String)>) -> OpResult<Reply> {
    check_begun(txn)?;
    let metaservers = metaservers.into_iter().collect();
    let mut changed = Topology::clone(&*topology(txn)?);
    if changed.metaservers != metaservers {
        // Before some are forgotten: their numbers are never given out again.
        let next = next_metaserver(txn)?;
        txn.set_number(SystemKey::NextMetaserver, next);
        changed.metaservers = metaservers;
        let epoch = next_epoch(txn)?;
        put_topology(txn, changed, epoch);
    }
    Ok(Reply::Nothing)
}

/// `NumberMetaserver`: beyond every number that a metaserver has or had, since certificates of old ones are still valid.
pub fn number_metaserver(txn: &mut Txn<'_>) -> OpResult<Reply> {
    check_begun(txn)?;
    let next = next_metaserver(txn)?;
    let exhausted = || Error::bug("the number of the next metaserver is out of range");
    let id = u32::try_from(next).map_err(|_| Stop::Broken(exhausted()))?;
    txn.set_number(SystemKey::NextMetaserver, next + 1);
    Ok(Reply::Metaserver(ServerId(id)))
}

fn next_metaserver(txn: &mut Txn<'_>) -> OpResult<u64> {
    let known = topology(txn)?.metaservers.keys().next_back().copied();
    let after_known = known.map_or(1, |last| u64::from(last.0) + 1);
    Ok(txn.number(SystemKey::NextMetaserver)?.max(after_known))
}

/// `Register`: see [`register::register`]. A dataserver without a key for receipts gets one.
pub fn register(
    txn: &mut Txn<'_>,
    server: ServerId,
    registration: &Registration,
    secret: [u8; 32],
) -> OpResult<Reply> {
    check_begun(txn)?;
    let before = topology(txn)?;
    let mut after = Topology::clone(&*before);
    let next = txn.number(SystemKey::NextDisk)?.max(1);
    let exhausted = || Stop::Broken(Error::bug("the number of the next disk is out of range"));
    let mut fresh = u32::try_from(next).map_err(|_| exhausted())?;
    let ids: Vec<DiskId> = register::register(&mut after, &mut fresh, server, registration)?;
    txn.set_number(SystemKey::NextDisk, u64::from(fresh));
    keys::ensure_receipt_key(txn, server, secret)?;
    if after != *before {
        let epoch = next_epoch(txn)?;
        put_topology(txn, after, epoch);
    }
    Ok(Reply::Registered(ids))
}

/// `Place`: valid only for the map it was computed from; all changes of one command have one epoch.
pub fn place(
    txn: &mut Txn<'_>,
    computed_at: Epoch,
    pool_id: PoolId,
    rows: &[(PgId, Vec<Option<DiskId>>)],
) -> OpResult<Reply> {
    check_begun(txn)?;
    let now = current_epoch(txn)?;
    if computed_at != now {
        let text = format!(
            "the members were computed from the map of epoch {computed_at}, which is {now} now: compute them again"
        );
        return Err(Error::new(Code::OldMap, text).into());
    }
    let topology = topology(txn)?;
    let missing = || Error::new(Code::Invalid, format!("there is no pool {pool_id}"));
    let pool = topology.pools.get(&pool_id).ok_or_else(missing)?;
    let epoch = now.next();
    let mut changed = false;
    for (pg, members) in rows {
        place::check(&topology, pool_id, pool, *pg, members)?;
        let before = row(txn, pool_id, *pg)?;
        let mut after =
            place::place(&before, members, pool.in_use, epoch).unwrap_or_else(|| before.clone());
        place::forget_holders(&topology, pool_id, pool, *pg, &mut after, epoch);
        if after != before {
            put_row(txn, pool_id, *pg, after);
            changed = true;
        }
    }
    if changed {
        txn.set_number(SystemKey::Epoch, epoch.0);
    }
    Ok(Reply::Nothing)
}

/// `Complete`: what does not count is passed over; all that does has one epoch.
pub fn complete(txn: &mut Txn<'_>, reports: &[Complete]) -> OpResult<Reply> {
    check_begun(txn)?;
    let topology = topology(txn)?;
    let epoch = current_epoch(txn)?.next();
    let mut changed = false;
    for report in reports {
        let Complete { disk, pool, pg, .. } = *report;
        let in_pool = topology.pools.get(&pool);
        let Some(in_pool) = in_pool.filter(|in_pool| pg.0 < in_pool.pg_count) else {
            continue;
        };
        let before = row(txn, pool, pg)?;
        if let Some(mut after) = place::complete(&before, disk, report.epoch, epoch) {
            place::forget_holders(&topology, pool, in_pool, pg, &mut after, epoch);
            put_row(txn, pool, pg, after);
            changed = true;
        }
    }
    if changed {
        txn.set_number(SystemKey::Epoch, epoch.0);
    }
    Ok(Reply::Nothing)
}

/// `SetDisks`: all of them in one epoch. A disk that does not exist is passed over.
pub fn set_disks(txn: &mut Txn<'_>, disks: &[(DiskId, DiskState)]) -> OpResult<Reply> {
    check_begun(txn)?;
    let before = topology(txn)?;
    let mut after = Topology::clone(&*before);
    for (disk, state) in disks {
        if let Some(disk) = after.disks.get_mut(disk) {
            disk.state = *state;
        }
    }
    if after != *before {
        let epoch = next_epoch(txn)?;
        put_topology(txn, after, epoch);
    }
    Ok(Reply::Nothing)
}

/// The first chunk ids of a pool are given out: who joins from now on is filling.
pub fn set_in_use(txn: &mut Txn<'_>, pool: PoolId) -> OpResult<()> {
    let mut changed = Topology::clone(&*topology(txn)?);
    match changed.pools.get_mut(&pool) {
        Some(pool) if !pool.in_use => pool.in_use = true,
        _ => return Ok(()),
    }
    let epoch = next_epoch(txn)?;
    put_topology(txn, changed, epoch);
    Ok(())
}

/// `RaiseFeatureLevel`: never lowers it. A level that this program does not know ends it, since it
/// could not apply what follows.
pub fn raise_feature_level(txn: &mut Txn<'_>, level: u32) -> OpResult<Reply> {
    let level = u64::from(level);
    if level > FEATURE_LEVEL {
        let text = format!(
            "the cluster goes on to feature level {level}, this program knows {FEATURE_LEVEL}: use a newer quarry"
        );
        return Err(Stop::Broken(Error::new(Code::TooNew, text)));
    }
    if level > txn.number(SystemKey::FeatureLevel)? {
        txn.set_number(SystemKey::FeatureLevel, level);
    }
    Ok(Reply::Nothing)
}
