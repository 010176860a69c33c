//! Which chunks may be referred to: no inode ever refers to data that was not durable (DESIGN §5.2).

use super::chunks;
use super::keys;
use super::map_state::{self, keys::receipt_key};
use super::session;
use super::stop::{OpResult, Stop};
use super::txn::Txn;
use crate::kv::Family;
use quarry_common::ids::{DiskId, KeyNumber, ServerId, SessionId};
use quarry_common::map::pg_of;
use quarry_common::token::{Key, Receipt};
use quarry_common::{Code, Error, Result};

/// Takes over that a chunk is durable, at the commit of `session`.
///
/// # Errors
/// `BadReceipt`: the chunk is not the session's to commit, waits for its deletion, is too long, was
/// committed with other bytes, or a member did not give its word. `OldReceipt`: the group has other
/// members by now. `TooFewDisks`: the group has fewer members than the pool asks for. `SessionLost`.
pub fn accept(txn: &mut Txn<'_>, session: SessionId, receipt: &Receipt) -> OpResult<()> {
    let Receipt { pool, chunk, epoch, len, crc, .. } = *receipt;
    let refuse = |what: &str| {
        let text = format!("chunk {chunk} of pool {pool} {what}: write its bytes again to a new chunk");
        Err(Stop::Refused(Error::new(Code::BadReceipt, text)))
    };
    let topology = map_state::topology(txn)?;
    let Some(in_pool) = topology.pools.get(&pool) else { return refuse("is of a pool that does not exist") };
    session::check_own(txn, session, pool, chunk)?;
    if txn.get_bytes(Family::Doomed, &keys::doomed(pool, chunk))?.is_some() {
        return refuse("was given up and waits for its deletion");
    }
    if len == 0 || len > in_pool.chunk_len_max {
        return refuse("is empty or longer than a chunk of this pool can be");
    }
    let pg = pg_of(chunk, in_pool.pg_count);
    let row = map_state::row(txn, pool, pg)?;
    if epoch != row.epoch {
        let text = format!(
            "the receipt for chunk {chunk} is of epoch {epoch}, group {pool}.{pg} has other members since epoch {}: fetch the map, and write the bytes again to a new chunk",
            row.epoch
        );
        return Err(Error::new(Code::OldReceipt, text).into());
    }
    let (present, min) = (row.present(), in_pool.redundancy.min_members());
    if present < min {
        let text = format!("group {pool}.{pg} has {present} members, {min} are needed: start more dataservers of pool '{}'", in_pool.name);
        return Err(Error::new(Code::TooFewDisks, text).into());
    }
    let server_of = |disk: DiskId| topology.disks.get(&disk).map(|disk| disk.server);
    let mut members = Vec::with_capacity(present);
    for disk in row.chain() {
        let number = receipt.macs.iter().find(|word| word.disk == disk).map(|word| word.key);
        members.push((disk, find_key(txn, server_of(disk), number)?));
    }
    let key_of = |disk: DiskId, number: KeyNumber| {
        let (_, key) = members.iter().find(|(member, _)| *member == disk)?;
        key.clone().filter(|key| key.number == number)
    };
    let checked: Result<()> = receipt.check(row.chain(), key_of);
    checked?;
    chunks::commit(txn, pool, chunk, len, crc)
}

fn find_key(txn: &Txn<'_>, server: Option<ServerId>, number: Option<KeyNumber>) -> OpResult<Option<Key>> {
    match (server, number) {
        (Some(server), Some(number)) => receipt_key(txn.state(), server, number).map_err(Stop::Broken),
        _ => Ok(None),
    }
}
