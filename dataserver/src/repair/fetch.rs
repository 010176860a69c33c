//! Copying a chunk from another disk to ours: whole, checked, durable and read back.

use crate::disk::{CopyWriter, Disk};
use crate::node::Node;
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, DiskId, PoolId};
use quarry_common::limits::{BLOCK_LEN, FRAME_LEN_MAX};
use quarry_common::map::{ClusterMap, DiskState};
use quarry_common::net::{BulkReader, BulkWriter, StreamType};
use quarry_common::token::Capability;
use quarry_common::wire::data::frame::{self, Head};
use quarry_common::wire::data::{
    DataReply, DataRequest, ReadChunk, ReadReply, ReplicaInfo, SMALL_READ_LEN_MAX,
};
use quarry_common::{Code, Error, Kind, Result};
use std::time::{Duration, Instant};

/// A source that gives nothing for so long is left.
const SOURCE_WAIT: Duration = Duration::from_secs(20);

/// How long the end of an attempt may take.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// A chunk as it is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// Its first so many bytes.
    pub len: u32,
    /// Their CRC.
    pub crc: Crc,
}

/// What came of an attempt to copy a chunk.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Our disk has it.
    Stored,
    /// Every source that there is said that it can not give it, or it is doomed.
    Nobody,
    /// Not now: a source can not be reached, or our disk can not take it.
    Later(Error),
}

/// Why a source gave nothing.
enum Failure {
    /// It does not have it, or has it damaged.
    CanNot(Error),
    /// It may have it.
    Unknown(Error),
    /// Our own disk does not take it.
    Own(Error),
}

/// Whether a copy yields to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// It keeps to the pace of repair.
    Paced,
    /// It does not.
    Now,
}

/// Copies a chunk to `disk` from the first of `sources` that can give it.
pub async fn fetch(
    node: &Node,
    disk: &Disk,
    wanted: Wanted,
    sources: &[DiskId],
    haste: Haste,
) -> Outcome {
    if node.doomed.contains(wanted.pool, wanted.chunk) {
        return Outcome::Nobody;
    }
    // It may have been written or copied meanwhile.
    match is_held(node, disk, wanted).await {
        Ok(true) => return Outcome::Stored,
        Ok(false) => {}
        Err(error) => return Outcome::Later(error),
    }
    let map = node.membership.map();
    let mut later = None;
    let own = disk.identity().disk;
    let others = sources.iter().filter(|source| **source != own);
    for (attempt, source) in others.enumerate() {
        // The copy of the attempt before has just been given up; who else has the chunk may take long.
        let patience = if attempt == 0 {
            Duration::ZERO
        } else {
            BUSY_WAIT
        };
        match copy(node, &map, disk, wanted, *source, (haste, patience)).await {
            Ok(()) => return Outcome::Stored,
            Err(Failure::Own(error)) => return Outcome::Later(error),
            Err(Failure::CanNot(error)) => {
                tracing::debug!("disk {source} can not give chunk {}: {error}", wanted.chunk);
            }
            // A disk that is out and silent will hardly ever give it; if it does come back, it brings it.
            Err(Failure::Unknown(error)) if is_out(&map, *source) => {
                tracing::debug!("disk {source}, which is out, is silent: {error}");
            }
            Err(Failure::Unknown(error)) => later = Some(error),
        }
    }
    later.map_or(Outcome::Nobody, Outcome::Later)
}

/// Whether the first bytes of a chunk are durable on a disk, with that CRC. A longer tail is nobody's.
///
/// # Errors
/// Those of the index; `Overloaded` if the disk does not answer in time.
pub async fn is_held(node: &Node, disk: &Disk, wanted: Wanted) -> Result<bool> {
    let Wanted {
        pool,
        chunk,
        len,
        crc,
    } = wanted;
    let look = move |disk: &Disk| match disk.prefix_crc(pool, chunk, len) {
        Ok(found) => Ok(found == Some(crc)),
        // The block that is cut is bad: the rest may be as well.
        Err(error) if error.kind() == Kind::Corrupt => disk.verify(pool, chunk).map(|_| false),
        Err(error) => Err(error),
    };
    node.turns.take(disk, look).await
}

/// Whether a disk takes no part in placement, or is not there any more.
pub fn is_out(map: &ClusterMap, disk: DiskId) -> bool {
    let disk = map.topology.disks.get(&disk);
    disk.is_none_or(|disk| disk.state == DiskState::Out)
}

/// What a source knows of a chunk.
///
/// # Errors
/// Its own, or that it can not be reached.
pub async fn stat(
    node: &Node,
    map: &ClusterMap,
    source: DiskId,
    (pool, chunk): (PoolId, ChunkId),
) -> Result<Option<ReplicaInfo>> {
    if let Ok(own) = node.disks.get(source) {
        let look = move |disk: &Disk| disk.stat(pool, chunk);
        let found = node.turns.take(own, look).await?;
        return Ok(found.map(crate::read::replica_info));
    }
    let (found, server) = map.disk(source)?;
    let request = DataRequest::Stat {
        disk: source,
        pool,
        chunk,
        capability: Capability::none(pool, chunk),
    };
    match node.call(found.server, &server.address, &request).await? {
        DataReply::Chunk(found) => Ok(found),
        _ => Err(Error::malformed("an answer to another question")),
    }
}

/// Where the bytes come from.
enum Feed {
    /// Another disk of this dataserver.
    Own(Disk),
    /// All of it, in one piece.
    Whole(Frame),
    /// A stream.
    Stream(BulkReader),
}

struct Frame {
    offset: u32,
    pieces: Vec<Bytes>,
    crcs: Vec<Crc>,
}

async fn copy(
    node: &Node,
    map: &ClusterMap,
    disk: &Disk,
    wanted: Wanted,
    source: DiskId,
    (haste, patience): (Haste, Duration),
) -> Result<(), Failure> {
    let mut feed = open(node, map, wanted, source).await.map_err(of_source)?;
    let mut writer = create(node, disk, wanted, patience)
        .await
        .map_err(Failure::Own)?;
    let copied = take_all(node, &mut feed, wanted, &mut writer, haste).await;
    if let Err(Failure::CanNot(error)) = &copied
        && matches!(error.code, Code::DamagedOnTheWay | Code::ChecksumMismatch)
    {
        report(node, map, source, wanted).await;
    }
    copied?;
    if node.doomed.contains(wanted.pool, wanted.chunk) {
        let text = "the metaservers have doomed the chunk meanwhile";
        return Err(Failure::CanNot(Error::new(Code::ChunkMissing, text)));
    }
    // The seal syncs, reads back, and only then replaces what was there.
    let sealed = writer.seal(wanted.len, wanted.crc).await;
    sealed.map_err(Failure::Own)?;
    node.tally.add_copied(disk.identity().disk, wanted.len);
    Ok(())
}

/// Begins a copy, once whoever else writes, copies or deletes the chunk has ended.
async fn create(
    node: &Node,
    disk: &Disk,
    wanted: Wanted,
    patience: Duration,
) -> Result<CopyWriter> {
    let Wanted {
        pool, chunk, len, ..
    } = wanted;
    let began = Instant::now();
    loop {
        let create = move |disk: &Disk| disk.create_copy(pool, chunk, len);
        match node.turns.take(disk, create).await {
            Err(error) if error.code == Code::Busy && began.elapsed() < patience => {
                tokio::time::sleep(BUSY_WAIT / 100).await;
            }
            settled => return settled,
        }
    }
}

fn of_source(error: Error) -> Failure {
    match error.code {
        // A filling member may get it later, from those whom we ask as well.
        Code::ChunkMissing | Code::NotYet => Failure::CanNot(error),
        Code::ChecksumMismatch | Code::DamagedOnTheWay => Failure::CanNot(error),
        _ => Failure::Unknown(error),
    }
}

/// Asks a source for the chunk.
async fn open(node: &Node, map: &ClusterMap, wanted: Wanted, source: DiskId) -> Result<Feed> {
    if let Ok(own) = node.disks.get(source) {
        return Ok(Feed::Own(own.clone()));
    }
    let (found, server) = map.disk(source)?;
    let request = ReadChunk {
        disk: source,
        pool: wanted.pool,
        chunk: wanted.chunk,
        capability: Capability::none(wanted.pool, wanted.chunk),
        offset: 0,
        len: wanted.len,
    };
    // Whole blocks travel.
    if wanted.len.next_multiple_of(BLOCK_LEN as u32) <= SMALL_READ_LEN_MAX {
        let request = DataRequest::Read(request);
        return match node.call(found.server, &server.address, &request).await? {
            DataReply::Data {
                start: 0,
                crcs,
                data,
                ..
            } => Ok(Feed::Whole(Frame {
                offset: 0,
                pieces: vec![data],
                crcs,
            })),
            _ => Err(Error::malformed("an answer to another question")),
        };
    }
    let opening = async {
        let peer = node.dataserver(found.server, &server.address).await?;
        let (send, recv) = peer.connection.open(StreamType::ReadChunk).await?;
        let (mut writer, mut reader) = (BulkWriter::new(send), BulkReader::new(recv));
        writer.write_message(&request).await?;
        writer.finish()?;
        let ended = || Error::new(Code::Disconnected, "the source ended its stream");
        let reply = reader.read_message("a source's answer").await?;
        match reply.ok_or_else(ended)? {
            ReadReply::Data { start: 0, .. } => Ok(Feed::Stream(reader)),
            ReadReply::Data { .. } => Err(Error::malformed("a chunk's data came out of order")),
            ReadReply::Failed(error) => Err(error),
        }
    };
    in_time(opening).await
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| {
        let text = format!("the source gave nothing for {} s", SOURCE_WAIT.as_secs());
        Err(Error::new(Code::Disconnected, text))
    };
    let done = tokio::time::timeout(SOURCE_WAIT, work).await;
    done.unwrap_or_else(late)
}

/// Takes the bytes, checks each block and the whole, and hands them to the disk.
async fn take_all(
    node: &Node,
    feed: &mut Feed,
    wanted: Wanted,
    writer: &mut CopyWriter,
    haste: Haste,
) -> Result<(), Failure> {
    let (mut at, mut crc) = (0, Crc::default());
    while at < wanted.len {
        let frame = next(node, feed, wanted, at).await.map_err(of_source)?;
        let frame = check(frame, at, wanted.len).map_err(of_source)?;
        let len: usize = frame.pieces.iter().map(Bytes::len).sum();
        for (part_len, part) in frame::parts(at, len as u32).zip(&frame.crcs) {
            crc = crc.then(*part, part_len as u64);
        }
        at += len as u32;
        if at == wanted.len && crc != wanted.crc {
            let text = "its bytes are not those that were listed";
            return Err(Failure::CanNot(Error::new(Code::ChecksumMismatch, text)));
        }
        if haste == Haste::Paced {
            node.pace.take(len).await;
        }
        let taken = writer.append(frame.pieces, &frame.crcs).await;
        taken.map_err(Failure::Own)?;
    }
    Ok(())
}

/// The frame at `at`.
async fn next(node: &Node, feed: &mut Feed, wanted: Wanted, at: u32) -> Result<Frame> {
    match feed {
        Feed::Own(disk) => {
            let len = (wanted.len - at).min(FRAME_LEN_MAX as u32);
            let Wanted { pool, chunk, .. } = wanted;
            let read = move |disk: &Disk| disk.read(pool, chunk, at, len);
            let data = node.turns.take(disk, read).await?;
            Ok(Frame {
                offset: data.offset,
                pieces: vec![data.data],
                crcs: data.crcs,
            })
        }
        Feed::Whole(frame) => Ok(Frame {
            offset: frame.offset,
            pieces: std::mem::take(&mut frame.pieces),
            crcs: std::mem::take(&mut frame.crcs),
        }),
        Feed::Stream(reader) => {
            let reading = async {
                let mut head = [0; frame::HEAD_LEN];
                head.copy_from_slice(&reader.read_small(frame::HEAD_LEN).await?);
                let Head::Data { offset, len } = Head::decode(&head)? else {
                    return Err(Error::malformed("a source sent something else than data"));
                };
                let crcs = reader.read_small(4 * frame::crcs_of(offset, len)).await?;
                Ok(Frame {
                    offset,
                    crcs: frame::decode_crcs(&crcs),
                    pieces: reader.read_exact_pieces(len as usize).await?,
                })
            };
            in_time(reading).await
        }
    }
}

/// Checks a frame, and cuts it to what is wanted: whole blocks come, of a chunk that may be longer.
fn check(mut frame: Frame, at: u32, wanted_len: u32) -> Result<Frame> {
    let len: usize = frame.pieces.iter().map(Bytes::len).sum();
    if frame.offset != at || len == 0 {
        return Err(Error::malformed("a chunk's data came out of order"));
    }
    frame::check_crcs(frame.offset, &frame.pieces, &frame.crcs)?;
    let mut left = (wanted_len - at) as usize;
    if len > left {
        for piece in &mut frame.pieces {
            piece.truncate(left);
            left -= piece.len();
        }
        frame.crcs = frame::compute_crcs(at, &frame.pieces);
    }
    Ok(frame)
}

/// Tells a source that what it gave is wrong.
async fn report(node: &Node, map: &ClusterMap, source: DiskId, wanted: Wanted) {
    let Wanted { pool, chunk, .. } = wanted;
    if node.disks.get(source).is_ok() {
        node.suspects.put(source, pool, chunk);
        return;
    }
    let request = DataRequest::Verify {
        disk: source,
        pool,
        chunk,
        capability: Capability::none(pool, chunk),
    };
    let told = match map.disk(source) {
        Ok((found, server)) => node.call(found.server, &server.address, &request).await,
        Err(error) => Err(error),
    };
    if let Err(error) = told {
        tracing::debug!("disk {source} did not hear of its bad copy: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_checked_and_cut_to_what_is_wanted() {
        let data: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let pieces = vec![
            Bytes::copy_from_slice(&data[..70_000]),
            Bytes::copy_from_slice(&data[70_000..]),
        ];
        let frame = |offset, change: usize| {
            let mut crcs = frame::compute_crcs(0, &pieces);
            crcs[1].0 ^= change as u32;
            Frame {
                offset,
                pieces: pieces.clone(),
                crcs,
            }
        };
        for len in [1, 65_536, 65_537, 69_999, 70_001, 200_000] {
            let cut = check(frame(0, 0), 0, len).unwrap();
            let bytes: Vec<u8> = cut.pieces.concat();
            assert_eq!(bytes, data[..len as usize]);
            assert_eq!(cut.crcs, frame::compute_crcs(0, &[Bytes::from(bytes)]));
        }
        let code = |frame, at| check(frame, at, 200_000).map(drop).unwrap_err().code;
        assert_eq!(code(frame(0, 1), 0), Code::DamagedOnTheWay);
        assert_eq!(code(frame(65_536, 0), 0), Code::Malformed);
        let empty = Frame {
            offset: 0,
            pieces: vec![],
            crcs: vec![],
        };
        assert_eq!(code(empty, 0), Code::Malformed);
    }
}
