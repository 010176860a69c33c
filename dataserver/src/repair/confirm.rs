//! The word of a present member for a chunk that was written under former ones: the law of publishing
//! (DESIGN §4.2.7).

use super::fetch::{self, Haste, Outcome, Wanted, is_held};
use crate::caller::Caller;
use crate::disk::{ChunkState, Disk};
use crate::membership::check_epoch;
use crate::node::Node;
use quarry_common::ids::DiskId;
use quarry_common::limits::CHUNK_LEN_MAX;
use quarry_common::token::MemberMac;
use quarry_common::token::receipt::Durable;
use quarry_common::{Code, Error, Result};
use std::time::Duration;

/// Copies at a time that the metaservers wait for.
pub const CONFIRMS_MAX: usize = 32;

/// How long a write of an older epoch, which can not be acknowledged any more, may take to end here.
const END_WAIT: Duration = Duration::from_secs(3);

/// How long a confirmation may keep others waiting: a disk or a source that hangs must not have all permits.
const CONFIRM_WAIT: Duration = Duration::from_secs(30);

/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Answers a [`quarry_common::wire::data::DataRequest::Confirm`]: our disk's word that it holds these bytes, which
/// it fetches if it does not.
///
/// # Errors
/// `WrongRole` for others than metaservers; `OldMap` if the group's epoch is another; `NotMember`; `NoLease`;
/// `ChunkMissing` if nobody has these bytes; `Overloaded` if it could not be found out now; those of the disk.
pub async fn answer(
    node: &Node,
    caller: Caller,
    disk: DiskId,
    durable: Durable,
) -> Result<MemberMac> {
    let Durable {
        pool,
        chunk,
        epoch,
        len,
        crc,
    } = durable;
    if !matches!(caller, Caller::Metaserver(_)) {
        return Err(Error::new(
            Code::WrongRole,
            "only a metaserver asks for the confirmation of a chunk",
        ));
    }
    if len == 0 || len > CHUNK_LEN_MAX {
        return Err(Error::malformed(format!("a chunk of {len} bytes")));
    }
    let found = node.disks.get(disk)?;
    // From here on no deletion of a former member's chunks is allowed that an older map allowed.
    let map = node.membership.map_of(pool, chunk, epoch).await?;
    let (_, row) = map.locate(pool, chunk)?;
    check_epoch(row, epoch, chunk)?;
    if row.next_after(disk).is_err() {
        let text = format!("disk {disk} is no member of chunk {chunk}'s group");
        return Err(Error::new(Code::NotMember, text));
    }
    let wanted = Wanted {
        pool,
        chunk,
        len,
        crc,
    };
    if !is_held(node, found, wanted).await? {
        let busy = |_| Error::new(Code::Overloaded, "too many chunks are being confirmed");
        let _permit = node.confirms.try_acquire().map_err(busy)?;
        let late = |_| {
            let text = format!("chunk {chunk} could not be fetched in time");
            Err(Error::new(Code::Overloaded, text))
        };
        let sources = row.sources();
        let getting = get(node, found, wanted, &sources);
        let got = tokio::time::timeout(CONFIRM_WAIT, getting).await;
        got.unwrap_or_else(late)?;
    }
    // These bytes are on stable storage here; the epoch and the lease are checked again.
    let key = node.membership.standing(pool, chunk, epoch)?;
    Ok(durable.sign(&key, disk))
}

/// Sees to it that our disk has the chunk, once nobody writes it here any more. A copy that is not whole when this is dropped
/// leaves nothing.
async fn get(node: &Node, disk: &Disk, wanted: Wanted, sources: &[DiskId]) -> Result<()> {
    wait_for_end(node, disk, wanted).await?;
    let Wanted { chunk, len, .. } = wanted;
    if is_held(node, disk, wanted).await? {
        return Ok(());
    }
    // A client waits for it.
    match fetch::fetch(node, disk, wanted, sources, Haste::Now).await {
        Outcome::Stored => Ok(()),
        Outcome::Nobody => {
            let text = format!("nobody has {len} bytes of chunk {chunk} with that checksum");
            Err(Error::new(Code::ChunkMissing, text))
        }
        Outcome::Later(error) => {
            let text = format!("chunk {chunk} can not be fetched now: {error}");
            Err(Error::new(Code::Overloaded, text))
        }
    }
}

/// Waits until nobody writes the chunk here.
async fn wait_for_end(node: &Node, disk: &Disk, wanted: Wanted) -> Result<()> {
    let Wanted { pool, chunk, .. } = wanted;
    let waiting = async {
        loop {
            let look = move |disk: &Disk| disk.stat(pool, chunk);
            let found = node.turns.take(disk, look).await?;
            if found.is_none_or(|info| info.state != ChunkState::Open) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let late = |_| {
        let text = format!("chunk {chunk} is still being written");
        Err(Error::new(Code::Overloaded, text))
    };
    let ended = tokio::time::timeout(END_WAIT, waiting).await;
    ended.unwrap_or_else(late)
}
