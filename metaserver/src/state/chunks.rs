//! The count of what refers to each chunk: kept exactly, since collection trusts it.

use super::data_records::Present;
use super::keys::{self, SystemKey};
use super::records::ChunkRecord;
use super::stop::{OpResult, Stop};
use super::txn::Txn;
use crate::kv::Family;
use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, PoolId};
use quarry_common::{Code, Error};

/// What the state knows of a chunk, if it was ever committed.
pub fn find(txn: &Txn<'_>, pool: PoolId, chunk: ChunkId) -> OpResult<Option<ChunkRecord>> {
    txn.get(Family::Chunks, &keys::chunk(pool, chunk))
}

/// Takes over that so many bytes of a chunk are durable. A chunk that is known may have grown since; a
/// shorter length is an older word of the same bytes.
///
/// # Errors
/// `BadReceipt` if the same length had another CRC: then they are not the bytes that were committed.
pub fn commit(txn: &mut Txn<'_>, pool: PoolId, chunk: ChunkId, len: u32, crc: Crc) -> OpResult<()> {
    let record = match find(txn, pool, chunk)? {
        None => ChunkRecord {
            references: 0,
            len,
            crc,
            referenced: 0,
        },
        Some(known) if known.len == len && known.crc != crc => {
            let text = format!(
                "the receipt for chunk {chunk} of pool {pool} says CRC {crc:?} over {len} bytes, committed were bytes with {:?}: write them again to another chunk",
                known.crc
            );
            return Err(Error::new(Code::BadReceipt, text).into());
        }
        Some(known) if known.len >= len => return Ok(()),
        Some(known) => ChunkRecord { len, crc, ..known },
    };
    txn.put(Family::Chunks, keys::chunk(pool, chunk), &record);
    Ok(())
}

/// Extents came and went: so many more references (fewer, if negative), so many more bytes referred to.
pub fn refer(
    txn: &mut Txn<'_>,
    pool: PoolId,
    chunk: ChunkId,
    references: i64,
    bytes: i64,
) -> OpResult<()> {
    if references == 0 && bytes == 0 {
        return Ok(());
    }
    let damaged = |what: &str| {
        let text =
            format!("chunk {chunk} of pool {pool} {what}: the counts in the state are wrong");
        Stop::Broken(Error::bug(text))
    };
    let mut record =
        find(txn, pool, chunk)?.ok_or_else(|| damaged("is referred to and not known"))?;
    let before = record.references;
    record.references = before
        .checked_add_signed(references)
        .ok_or_else(|| damaged("has fewer references than were removed"))?;
    record.referenced = record
        .referenced
        .checked_add_signed(bytes)
        .ok_or_else(|| damaged("has fewer bytes than were removed"))?;
    match (before, record.references) {
        (0, after) if after > 0 => unlist(txn, pool, chunk)?,
        (before, 0) if before > 0 => {
            count_listed(txn, 1)?;
            let key = keys::system(SystemKey::Unreferenced(pool, chunk));
            txn.put(Family::System, key, &Present);
        }
        _ => {}
    }
    txn.put(Family::Chunks, keys::chunk(pool, chunk), &record);
    Ok(())
}

/// Takes a chunk off the list of those that lost their last reference, if it is on it. A chunk that was never
/// referred to is not: it costs no write, and the disks that have it ask.
pub fn unlist(txn: &mut Txn<'_>, pool: PoolId, chunk: ChunkId) -> OpResult<()> {
    let key = keys::system(SystemKey::Unreferenced(pool, chunk));
    if txn.get_bytes(Family::System, &key)?.is_some() {
        count_listed(txn, -1)?;
        txn.delete(Family::System, key);
    }
    Ok(())
}

/// Forgets a chunk that nothing refers to and no disk has.
///
/// # Errors
/// `Bug` if something refers to it: it is left as it is.
pub fn forget(txn: &mut Txn<'_>, pool: PoolId, chunk: ChunkId) -> OpResult<()> {
    match find(txn, pool, chunk)? {
        None => {}
        Some(record) if record.references == 0 => {
            txn.delete(Family::Chunks, keys::chunk(pool, chunk));
        }
        Some(_) => {
            let text =
                format!("chunk {chunk} of pool {pool} is referred to and was to be forgotten");
            return Err(Error::bug(text).into());
        }
    }
    unlist(txn, pool, chunk)
}

/// Counts those on the list.
fn count_listed(txn: &mut Txn<'_>, change: i64) -> OpResult<()> {
    let count = txn.number(SystemKey::UnreferencedChunks)?;
    let wrong = || Stop::Broken(Error::bug("there are fewer unreferenced chunks than none"));
    let count = count.checked_add_signed(change).ok_or_else(wrong)?;
    txn.set_number(SystemKey::UnreferencedChunks, count);
    Ok(())
}

/// What is wrong with the counts, from a recount of all extents: for tests.
#[cfg(test)]
pub(crate) fn miscounts(state: &dyn crate::kv::KvRead) -> Vec<String> {
    use super::records::{ExtentRecord, ExtentSource, NumberRecord, Record};
    use std::collections::BTreeMap;
    use std::ops::ControlFlow;
    let mut counted: BTreeMap<(PoolId, ChunkId), (u64, u64)> = BTreeMap::new();
    let mut kept = BTreeMap::new();
    let mut wrong = Vec::new();
    state
        .scan(Family::Extents, &[], None, &mut |_, value| {
            let extent = ExtentRecord::from_bytes(value).unwrap();
            if let ExtentSource::Chunk { pool, chunk, .. } = extent.source {
                let counts = counted.entry((pool, chunk)).or_default();
                *counts = (counts.0 + 1, counts.1 + extent.len);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    state
        .scan(Family::Chunks, &[], None, &mut |key, value| {
            let record = ChunkRecord::from_bytes(value).unwrap();
            kept.insert(
                keys::parse_chunk(key).unwrap(),
                (record.references, record.referenced),
            );
            ControlFlow::Continue(())
        })
        .unwrap();
    for (chunk, kept) in &kept {
        let counted = counted.remove(chunk).unwrap_or_default();
        if counted != *kept {
            wrong.push(format!(
                "{chunk:?} counts {kept:?}, its extents are {counted:?}"
            ));
        }
    }
    wrong.extend(
        counted
            .keys()
            .map(|chunk| format!("{chunk:?} has extents and no record")),
    );
    let prefix = keys::unreferenced();
    let end = crate::kv::after_prefix(&prefix);
    let mut listed = 0;
    state
        .scan(Family::System, &prefix, end.as_deref(), &mut |key, _| {
            listed += 1;
            let (pool, chunk) = keys::parse_unreferenced(key).unwrap();
            let doomed = state.get(Family::Doomed, &keys::doomed(pool, chunk));
            if kept.get(&(pool, chunk)) != Some(&(0, 0)) || doomed.unwrap().is_some() {
                wrong.push(format!("{chunk} is listed as unreferenced and is not"));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let number: Option<NumberRecord> = super::txn::load(
        state,
        Family::System,
        &keys::system(SystemKey::UnreferencedChunks),
    )
    .unwrap();
    if number.unwrap_or_default().0 != listed {
        wrong.push(format!(
            "{number:?} unreferenced chunks are counted, {listed} are listed"
        ));
    }
    wrong
}
