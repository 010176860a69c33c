//! A chunk of at most 64 KiB: one message to every member, one answer.

use super::admit::{self, Admitted, Next};
use crate::caller::Caller;
use crate::node::Node;
use crate::turns;
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::limits::SMALL_CHUNK_LEN_MAX;
use quarry_common::token::MemberMac;
use quarry_common::token::receipt::Durable;
use quarry_common::wire::data::{DataReply, DataRequest, WriteTarget};
use quarry_common::{Code, Error, Result};

/// Writes a small chunk here and on all members after us, at the same time; the words of all of them.
///
/// # Errors
/// Those of [`admit::admit`]; `DamagedOnTheWay`; those of the disk and of the members after us, which are
/// named in the text.
pub async fn write(
    node: &Node,
    caller: Caller,
    target: WriteTarget,
    data: Bytes,
    crc: Crc,
) -> Result<Vec<MemberMac>> {
    if data.is_empty() || data.len() > SMALL_CHUNK_LEN_MAX {
        return Err(Error::malformed(format!(
            "a small chunk can not have {} bytes",
            data.len()
        )));
    }
    if Crc::of(&data) != crc {
        return Err(Error::new(
            Code::DamagedOnTheWay,
            format!("chunk {} does not match its checksum", target.chunk),
        ));
    }
    let len = data.len() as u32;
    let admitted = admit::admit(node, caller, &target, len).await?;
    node.pace.note_client();
    let place = &admitted.place;
    let (pool, chunk) = (place.pool, place.chunk);
    let write = admitted.disk.write_small(pool, chunk, data.clone(), crc);
    let write = turns::wait_for(place.disk, write);
    let (written, passed_on) =
        tokio::join!(write, pass_on(node, &admitted, &target, data.clone(), crc));
    written.map_err(|error| error.context(format_args!("disk {}", place.disk)))?;
    let words = passed_on?;
    // Durable here and on all after us; the epoch and the lease are checked again, as they may have passed.
    let key = node
        .membership
        .standing(place.pool, place.chunk, place.epoch)?;
    let durable = Durable {
        pool: place.pool,
        chunk: place.chunk,
        epoch: place.epoch,
        len,
        crc,
    };
    let mut macs = vec![durable.sign(&key, place.disk)];
    macs.extend(words);
    Ok(macs)
}

/// The words of the members after us.
async fn pass_on(
    node: &Node,
    admitted: &Admitted,
    target: &WriteTarget,
    data: Bytes,
    crc: Crc,
) -> Result<Vec<MemberMac>> {
    let Some(next) = &admitted.next else {
        return Ok(Vec::new());
    };
    let named = |error: Error| {
        let Next { disk, server, .. } = next;
        error.context(format_args!("disk {disk} of dataserver {server}"))
    };
    let request = DataRequest::WriteSmall {
        target: admitted.target_of(next, target),
        data,
        crc,
    };
    let reply = node
        .call(next.server, &next.address, &request)
        .await
        .map_err(named)?;
    let after = admitted.place.after.iter().copied();
    match reply {
        DataReply::Written { macs } if macs.iter().map(|word| word.disk).eq(after) => Ok(macs),
        DataReply::Written { .. }
        | DataReply::Data { .. }
        | DataReply::Chunk(_)
        | DataReply::FileTicket(_)
        | DataReply::Listed { .. }
        | DataReply::Pong => Err(named(Error::malformed("an answer to another question"))),
    }
}
