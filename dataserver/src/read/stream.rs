//! A chunk, or a part of it, as frames on a stream of its own.

use super::Readable;
use crate::caller::Caller;
use crate::disk::ChunkData;
use crate::node::Node;
use quarry_common::checksum::Crc;
use quarry_common::limits::{BLOCK_LEN, FRAME_LEN_MAX};
use quarry_common::net::BulkWriter;
use quarry_common::wire::data::frame;
use quarry_common::wire::data::{ReadChunk, ReadReply};
use quarry_common::{Code, Error, Result};
use std::time::Duration;

/// A reader that does not take a frame within this time is given up: it holds two frames in memory.
const READER_WAIT: Duration = Duration::from_secs(60);

/// Serves one stream on which a chunk is read, after its header.
pub async fn serve(node: &Node, caller: Caller, wanted: ReadChunk, mut writer: BulkWriter) {
    if let Err(error) = answer(node, caller, &wanted, &mut writer).await {
        tracing::debug!("a read of chunk {} ended early: {error}", wanted.chunk);
        // Without its last frame the reader must not take the stream for whole.
        writer.reset(false);
    }
}

/// Answers; an error is one that the reader can not be told any more.
async fn answer(
    node: &Node,
    caller: Caller,
    wanted: &ReadChunk,
    writer: &mut BulkWriter,
) -> Result<()> {
    let begun = begin(node, caller, wanted).await;
    let (readable, mut now, end) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            writer.write_message(&ReadReply::Failed(error)).await?;
            return writer.finish();
        }
    };
    let reply = ReadReply::Data {
        start: now.offset,
        end,
        chunk_len: now.chunk_len,
    };
    writer.write_message(&reply).await?;
    loop {
        let from = now.offset + now.data.len() as u32;
        let send = tokio::time::timeout(READER_WAIT, send_frame(writer, &now));
        let late = |_| Err(Error::new(Code::Disconnected, "the reader takes nothing"));
        if from >= end {
            send.await.unwrap_or_else(late)?;
            return writer.finish();
        }
        // The next frame is read while this one is sent.
        let ahead = async {
            let len = (end - from).min(FRAME_LEN_MAX as u32);
            cut(readable.read(from, len).await?, len)
        };
        let (sent, next) = tokio::join!(send, ahead);
        sent.unwrap_or_else(late)?;
        now = next?;
    }
}

/// Checks the request and reads the first frame; where the last one ends.
async fn begin<'a>(
    node: &'a Node,
    caller: Caller,
    wanted: &ReadChunk,
) -> Result<(Readable<'a>, ChunkData, u32)> {
    let end = wanted.offset.checked_add(wanted.len);
    let Some(wanted_end) = end.filter(|_| wanted.len > 0) else {
        return Err(Error::malformed(format!(
            "{} bytes at {} of a chunk can not be read",
            wanted.len, wanted.offset
        )));
    };
    let name = (wanted.pool, wanted.chunk);
    let readable = Readable::admit(node, caller, wanted.disk, name, &wanted.capability)?;
    let start = wanted.offset - wanted.offset % BLOCK_LEN as u32;
    let first_len = (wanted_end - start).min(FRAME_LEN_MAX as u32);
    let first = readable.read(start, first_len).await?;
    if wanted_end > first.chunk_len {
        let text = format!(
            "chunk {} has {} bytes on disk {}, bytes up to {wanted_end} were asked for",
            wanted.chunk, first.chunk_len, wanted.disk
        );
        return Err(readable.lacking(wanted_end, text));
    }
    let end = wanted_end.next_multiple_of(BLOCK_LEN as u32);
    let end = end.min(first.chunk_len);
    Ok((readable, first, end))
}

/// Cuts a frame to `len` bytes: a chunk that is being written may have grown since the stream began.
///
/// # Errors
/// `ChecksumMismatch`: the cut needs a checksum of its own, and the block does not match the stored one.
fn cut(mut frame: ChunkData, len: u32) -> Result<ChunkData> {
    let len = len as usize;
    if frame.data.len() <= len {
        return Ok(frame);
    }
    let last = (len - 1) / BLOCK_LEN;
    let (from, to) = (
        last * BLOCK_LEN,
        frame.data.len().min((last + 1) * BLOCK_LEN),
    );
    if frame.crcs.get(last) != Some(&Crc::of(&frame.data[from..to])) {
        return Err(Error::new(
            Code::ChecksumMismatch,
            format!("block {last} of a frame does not match its stored checksum"),
        ));
    }
    frame.data.truncate(len);
    frame.crcs.truncate(last + 1);
    frame.crcs[last] = Crc::of(&frame.data[from..]);
    Ok(frame)
}

async fn send_frame(writer: &mut BulkWriter, frame: &ChunkData) -> Result<()> {
    let prefix = frame::data_prefix(frame.offset, frame.data.len() as u32, &frame.crcs);
    let mut pieces = [prefix, frame.data.clone()];
    writer.write_pieces(&mut pieces).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quarry_common::checksum;

    #[test]
    fn a_frame_of_a_chunk_that_grew_is_cut_under_its_checksums() {
        let data: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let frame = |crcs| ChunkData {
            offset: 0,
            data: Bytes::from(data.clone()),
            crcs,
            chunk_len: 100_000,
        };
        let crcs = checksum::blocks(&data);
        let same = cut(frame(crcs.clone()), 100_000).unwrap();
        assert_eq!(same.crcs, crcs);
        let shorter = cut(frame(crcs.clone()), 70_000).unwrap();
        assert_eq!(&shorter.data[..], &data[..70_000]);
        assert_eq!(shorter.crcs, checksum::blocks(&data[..70_000]));
        let error = cut(frame(vec![crcs[0], Crc(1)]), 70_000).unwrap_err();
        assert_eq!(error.code, Code::ChecksumMismatch);
    }
}
