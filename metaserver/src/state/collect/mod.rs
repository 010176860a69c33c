//! Collection (DESIGN §5.4): what nothing refers to and nobody may commit is doomed, deleted by the disks, and
//! forgotten.
//!
//! Both reasons are checked when the command is applied. Together they hold for ever once they hold: without a
//! reference a chunk can only be committed anew, by the session whose range it is in, and there it is
//! below a mark that only rises, or the session has ended. So a word that a chunk is doomed never grows old.

mod query;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use query::{ChunkPage, due, forgettable, has_part, unreferenced};

use super::chunks;
use super::command::Reply;
use super::data_records::DoomedRecord;
use super::keys::{self, SystemKey};
use super::map_state;
use super::records::{ChunkRecord, NumberRecord};
use super::session::OpenRanges;
use super::stop::{OpResult, Stop};
use super::txn::{Txn, load};
use crate::kv::Family;
use quarry_common::ids::{ChunkId, DiskId, PoolId};
use quarry_common::limits::COLLECT_CHUNKS_MAX;
use quarry_common::map::{Row, Topology, pg_of};
use quarry_common::{Error, Result};
use std::collections::BTreeSet;

/// How a chunk stands in the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Something refers to it.
    Referenced,
    /// A live session may still commit it.
    Open,
    /// It waits for its deletion.
    Doomed,
    /// This state never gave its id out, so it can say nothing of it: it belongs to a newer state, of which this
    /// is an older copy.
    NotGivenOut,
    /// None of these: it may be doomed.
    Nobodys,
}

/// How a chunk stands in the state of `open`.
pub fn standing(
    topology: &Topology,
    open: &OpenRanges<'_>,
    pool: PoolId,
    chunk: ChunkId,
) -> Result<Standing> {
    let state = open.state();
    let next = keys::system(SystemKey::NextChunk(chunk.slot()));
    let next: Option<NumberRecord> = load(state, Family::System, &next)?;
    if chunk.sequence() >= next.unwrap_or_default().0 || !topology.pools.contains_key(&pool) {
        return Ok(Standing::NotGivenOut);
    }
    if state
        .get(Family::Doomed, &keys::doomed(pool, chunk))?
        .is_some()
    {
        return Ok(Standing::Doomed);
    }
    let record: Option<ChunkRecord> = load(state, Family::Chunks, &keys::chunk(pool, chunk))?;
    if record.is_some_and(|record| record.references > 0) {
        return Ok(Standing::Referenced);
    }
    Ok(match open.may_commit(pool, chunk)? {
        true => Standing::Open,
        false => Standing::Nobodys,
    })
}

/// `Doom`: those of `chunks` that nothing refers to and nobody may commit. The others were candidates when somebody
/// looked, and are not any more.
pub fn doom(txn: &mut Txn<'_>, chunks: &[(PoolId, ChunkId)]) -> OpResult<Reply> {
    let topology = map_state::topology(txn)?;
    let open = OpenRanges::of(txn.state());
    let mut nobodys = BTreeSet::new();
    for (pool, chunk) in chunks.iter().take(COLLECT_CHUNKS_MAX) {
        let standing = standing(&topology, &open, *pool, *chunk);
        if standing.map_err(Stop::Broken)? == Standing::Nobodys {
            nobodys.insert((*pool, *chunk));
        }
    }
    for (pool, chunk) in &nobodys {
        let record = DoomedRecord {
            at: txn.version(),
            gone_from: Vec::new(),
        };
        txn.put(Family::Doomed, keys::doomed(*pool, *chunk), &record);
        chunks::unlist(txn, *pool, *chunk)?;
    }
    let doomed = nobodys.len() as u32;
    count_doomed(txn, i64::from(doomed))?;
    Ok(Reply::Doomed(doomed))
}

/// `Gone`: a disk does not have these doomed chunks, or not any more. Those that no present member of their group has
/// are forgotten; without a disk they are only looked at again. Of a disk that comes back later with one, the
/// chunk is nobody's again.
pub fn gone(
    txn: &mut Txn<'_>,
    disk: Option<DiskId>,
    chunks: &[(PoolId, ChunkId)],
) -> OpResult<Reply> {
    let topology = map_state::topology(txn)?;
    let mut forgotten = 0;
    for (pool, chunk) in chunks.iter().take(COLLECT_CHUNKS_MAX) {
        let key = keys::doomed(*pool, *chunk);
        let Some(mut record) = txn.get::<DoomedRecord>(Family::Doomed, &key)? else {
            continue;
        };
        if let Some(disk) = disk.filter(|disk| !record.gone_from.contains(disk)) {
            record.gone_from.push(disk);
            txn.put(Family::Doomed, key.clone(), &record);
        }
        let Some(in_pool) = topology.pools.get(pool) else {
            continue;
        };
        let row = map_state::row(txn, *pool, pg_of(*chunk, in_pool.pg_count))?;
        if is_gone(&row, &record) {
            chunks::forget(txn, *pool, *chunk)?;
            txn.delete(Family::Doomed, key);
            forgotten += 1;
        }
    }
    count_doomed(txn, -i64::from(forgotten))?;
    Ok(Reply::Forgotten(forgotten))
}

/// Whether every present member has said that it does not have the chunk. Without members nobody has said so.
fn is_gone(row: &Row, record: &DoomedRecord) -> bool {
    row.present() > 0 && row.chain().all(|disk| record.gone_from.contains(&disk))
}

fn count_doomed(txn: &mut Txn<'_>, change: i64) -> OpResult<()> {
    if change == 0 {
        return Ok(());
    }
    let count = txn.number(SystemKey::DoomedChunks)?;
    let wrong = || Stop::Broken(Error::bug("there are fewer doomed chunks than none"));
    let count = count.checked_add_signed(change).ok_or_else(wrong)?;
    txn.set_number(SystemKey::DoomedChunks, count);
    Ok(())
}
