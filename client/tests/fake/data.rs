//! The dataservers of the fake cluster.

use super::{Fake, POOL, unreachable};
use bytes::Bytes;
use quarry_client::transport::{
    DataFrame, FrameSink, FrameSource, Pending, ReadStream, ReplySource, WriteFrame, WriteStream,
};
use quarry_common::checksum::{Crc, blocks};
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{ChunkId, DiskId, KeyNumber};
use quarry_common::limits::{BLOCK_LEN, FRAME_LEN_MAX};
use quarry_common::token::MemberMac;
use quarry_common::wire::data::frame::{check_crcs, compute_crcs};
use quarry_common::wire::data::ticket::{FileRun, FileTicket};
use quarry_common::wire::data::{
    DataReply, DataRequest, ReadChunk, ReadReply, ReplicaInfo, ReplicaState, WriteChunk,
    WriteReply, WriteTarget,
};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use tokio::sync::mpsc;

fn words(members: &[DiskId]) -> Vec<MemberMac> {
    let word = |disk: &DiskId| MemberMac {
        disk: *disk,
        key: KeyNumber(1),
        mac: [0; 16],
    };
    members.iter().map(word).collect()
}

impl Fake {
    fn members(&self, target: &WriteTarget) -> Result<Vec<DiskId>> {
        let state = self.state();
        if state.faults.cut {
            return Err(unreachable());
        }
        let (_, row) = state.map.locate(POOL, target.chunk)?;
        let members: Vec<DiskId> = row.chain().collect();
        assert_eq!(members[0], target.disk, "written to the head");
        assert!(
            !state.chunks.contains_key(&(members[0], target.chunk)),
            "an id used twice"
        );
        Ok(members)
    }

    fn failing(&self, members: &[DiskId], len: u64) -> Option<(DiskId, Error)> {
        let state = self.state();
        let full = members.iter().find(|disk| state.faults.full.contains(disk));
        if let Some(disk) = full {
            return Some((*disk, Error::new(Code::DiskFull, "the disk is full")));
        }
        members.iter().find_map(|disk| {
            let after = state.faults.fails_after.get(disk)?;
            (len > *after).then(|| (*disk, Error::new(Code::Unreachable, "it was killed")))
        })
    }

    fn store(&self, members: &[DiskId], chunk: ChunkId, bytes: &[u8]) {
        let mut state = self.state();
        for disk in members {
            state.chunks.insert((*disk, chunk), bytes.to_vec());
        }
    }
}

pub fn open_write(fake: &Fake, header: WriteChunk) -> Result<WriteStream> {
    let members = fake.members(&header.target)?;
    fake.state().write_streams += 1;
    let (replies, receiver) = mpsc::unbounded_channel();
    let given_up_after = fake.state().faults.given_up_after.pop_front();
    if let Some(given_up_after) = given_up_after {
        let (replies, disk) = (replies.clone(), Some(header.target.disk));
        tokio::spawn(async move {
            tokio::time::sleep(given_up_after).await;
            let error = Error::new(Code::Disconnected, "the writer sent nothing");
            // A writer that has gone hears nothing.
            let _gone = replies.send(WriteReply::Failed { disk, error });
        });
    }
    Ok(WriteStream {
        sink: Box::new(Sink {
            fake: fake.clone(),
            members,
            chunk: header.target.chunk,
            bytes: Vec::new(),
            replies,
        }),
        replies: Box::new(Replies(receiver)),
    })
}

struct Sink {
    fake: Fake,
    members: Vec<DiskId>,
    chunk: ChunkId,
    bytes: Vec<u8>,
    replies: mpsc::UnboundedSender<WriteReply>,
}

/// Takes the time that so many bytes of a stream take.
async fn flow(fake: &Fake, len: u64) {
    let rate = fake.state().faults.stream_rate;
    let mut left = len;
    while let Some(rate) = rate
        && left > 0
    {
        let piece = left.min(16 << 10);
        tokio::time::sleep(Duration::from_secs_f64(piece as f64 / rate as f64)).await;
        fake.state().link_moved += piece;
        left -= piece;
    }
}

impl FrameSink for Sink {
    fn send(&mut self, frame: WriteFrame) -> Pending<'_, ()> {
        Box::pin(async move {
            let (len, crc, sealed) = match frame {
                WriteFrame::Data(frame) => {
                    assert_eq!(frame.offset as usize, self.bytes.len());
                    check_crcs(frame.offset, &frame.pieces, &frame.crcs).unwrap();
                    flow(&self.fake, u64::from(frame.len())).await;
                    for piece in frame.pieces {
                        self.bytes.extend_from_slice(&piece);
                    }
                    let breaks = self
                        .fake
                        .state()
                        .faults
                        .breaks_after
                        .get(&self.members[0])
                        .copied();
                    if breaks.is_some_and(|after| self.bytes.len() as u64 > after) {
                        // The other end goes with it.
                        self.replies = mpsc::unbounded_channel().0;
                        return Err(Error::new(Code::Disconnected, "the stream broke"));
                    }
                    let failing = self.fake.failing(&self.members, self.bytes.len() as u64);
                    if let Some((disk, error)) = failing {
                        let disk = Some(disk);
                        let (replies, late) =
                            (self.replies.clone(), self.fake.state().faults.refusals_late);
                        tokio::spawn(async move {
                            tokio::time::sleep(late).await;
                            // A writer that has gone hears nothing.
                            let _gone = replies.send(WriteReply::Failed { disk, error });
                        });
                        return Err(Error::new(Code::Disconnected, "the stream broke"));
                    }
                    return Ok(());
                }
                WriteFrame::Flush { len, crc } => (len, crc, false),
                WriteFrame::Seal { len, crc } => (len, crc, true),
            };
            assert_eq!(
                (len as usize, crc),
                (self.bytes.len(), Crc::of(&self.bytes))
            );
            self.fake.store(&self.members, self.chunk, &self.bytes);
            let macs = words(&self.members);
            let ack = WriteReply::Ack {
                len,
                crc,
                sealed,
                macs,
            };
            let late = self.fake.state().faults.acks_late;
            let (fake, replies) = (self.fake.clone(), self.replies.clone());
            let acknowledging = async move {
                let due = tokio::time::Instant::now() + late;
                while tokio::time::Instant::now() < due {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let mut state = fake.state();
                    state.link_moved += state.faults.link_rate / 10;
                }
                // A writer that has gone hears nothing.
                let _gone = replies.send(ack);
            };
            match late.is_zero() {
                true => acknowledging.await,
                false => drop(tokio::spawn(acknowledging)),
            }
            Ok(())
        })
    }
}

struct Replies(mpsc::UnboundedReceiver<WriteReply>);

impl ReplySource for Replies {
    fn next(&mut self) -> Pending<'_, WriteReply> {
        Box::pin(async {
            let ended = || Error::new(Code::Disconnected, "the stream ended");
            self.0.recv().await.ok_or_else(ended)
        })
    }
}

/// Whole blocks around a range, damaged where the disk is.
async fn blocks_of(fake: &Fake, read: &ReadChunk) -> Result<(u32, u32, Vec<u8>, Vec<Crc>)> {
    let slow = {
        let mut state = fake.state();
        if state.faults.cut {
            return Err(unreachable());
        }
        *state.reads.entry(read.disk).or_default() += 1;
        if state.faults.dead.contains(&read.disk) {
            return Err(unreachable());
        }
        state.faults.slow.get(&read.disk).copied()
    };
    if let Some(slow) = slow {
        tokio::time::sleep(slow).await;
    }
    let state = fake.state();
    let missing = || Error::new(Code::ChunkMissing, "the chunk is not here");
    let chunk = state
        .chunks
        .get(&(read.disk, read.chunk))
        .ok_or_else(missing)?;
    let start = read.offset as usize / BLOCK_LEN * BLOCK_LEN;
    let end = ((read.offset + read.len) as usize)
        .next_multiple_of(BLOCK_LEN)
        .min(chunk.len());
    let mut bytes = chunk[start..end].to_vec();
    let crcs = blocks(&bytes);
    if state.faults.corrupt.contains(&read.disk) {
        bytes[0] ^= 1;
    }
    Ok((start as u32, chunk.len() as u32, bytes, crcs))
}

pub async fn ask(fake: Fake, request: DataRequest) -> Result<DataReply> {
    match request {
        DataRequest::WriteSmall { target, data, crc } => {
            let members = fake.members(&target)?;
            fake.state().small_writes += 1;
            if let Some((disk, error)) = fake.failing(&members, data.len() as u64) {
                let error = error.context(format!("disk {disk} of dataserver {disk}"));
                return Err(error.context("disk 999 of dataserver 999"));
            }
            assert_eq!(Crc::of(&data), crc);
            fake.store(&members, target.chunk, &data);
            let macs = words(&members);
            Ok(DataReply::Written { macs })
        }
        DataRequest::Read(read) => {
            let (start, chunk_len, bytes, crcs) = blocks_of(&fake, &read).await?;
            Ok(DataReply::Data {
                start,
                chunk_len,
                crcs,
                data: Bytes::from(bytes),
            })
        }
        DataRequest::FileTicket { disk, chunk, .. } => {
            let mut state = fake.state();
            state.tickets.push((disk, chunk));
            let missing = || Error::new(Code::ChunkMissing, "the chunk is not here");
            let bytes = state.chunks.get(&(disk, chunk)).ok_or_else(missing)?;
            Ok(DataReply::FileTicket(Some(FileTicket {
                socket: [0; 16],
                secret: (state.tickets.len() as u128 - 1).to_le_bytes(),
                proof: [0; 16],
                len: bytes.len() as u32,
                crc: Crc::of(bytes),
                runs: runs(bytes.len()).to_vec(),
                crcs: blocks(bytes),
            })))
        }
        DataRequest::Stat { disk, chunk, .. } => {
            let state = fake.state();
            let found = state.chunks.get(&(disk, chunk));
            Ok(DataReply::Chunk(found.map(|bytes| ReplicaInfo {
                len: bytes.len() as u32,
                crc: Crc::of(bytes),
                state: ReplicaState::Sealed,
            })))
        }
        DataRequest::Verify { disk, chunk, .. } => {
            fake.state().reported.insert((disk, chunk));
            Ok(DataReply::Pong)
        }
        DataRequest::List(_) | DataRequest::Confirm { .. } | DataRequest::Ping => {
            Err(Error::malformed("a client asks no such thing"))
        }
    }
}

/// The bytes of a chunk stand in two runs, with a gap in a block between them.
fn runs(len: usize) -> [FileRun; 2] {
    let first = (len as u32).min(70_001);
    let run = |file_at, len| FileRun { file_at, len };
    [run(10, first), run(80_000, len as u32 - first)]
}

/// The file of a chunk.
pub fn file(fake: &Fake, ticket: &FileTicket) -> Result<File> {
    let state = fake.state();
    if state.faults.no_files {
        return Err(unreachable());
    }
    let (disk, chunk) = state.tickets[u128::from_le_bytes(ticket.secret) as usize];
    let bytes = &state.chunks[&(disk, chunk)];
    let file = tempfile::tempfile().unwrap();
    let [first, second] = runs(bytes.len());
    let (head, tail) = bytes.split_at(first.len as usize);
    file.write_all_at(head, first.file_at).unwrap();
    file.write_all_at(tail, second.file_at).unwrap();
    if state.faults.bad_files.contains(&disk) {
        let at = second.file_at + tail.len() as u64 / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
    if state.faults.short_files.contains(&disk) {
        let len = second.file_at + tail.len() as u64;
        file.set_len(len - 1).unwrap();
    }
    Ok(file)
}

pub async fn open_read(fake: Fake, read: ReadChunk) -> Result<ReadStream> {
    let (start, chunk_len, mut bytes, _) = match blocks_of(&fake, &read).await {
        Ok(found) => found,
        Err(error) if error.code == Code::Unreachable => return Err(error),
        Err(error) => {
            return Ok(ReadStream {
                reply: ReadReply::Failed(error),
                frames: Box::new(Frames {
                    fake,
                    frames: Vec::new(),
                }),
            });
        }
    };
    let corrupt = fake.state().faults.corrupt.contains(&read.disk);
    if corrupt {
        // Frames are damaged below, where their checksums show it.
        bytes[0] ^= 1;
    }
    let end = start + bytes.len() as u32;
    let mut frames = Vec::new();
    for (at, piece) in bytes.chunks_mut(FRAME_LEN_MAX).enumerate() {
        let offset = start + (at * FRAME_LEN_MAX) as u32;
        let whole = [Bytes::copy_from_slice(piece)];
        let crcs = compute_crcs(offset, &whole);
        // Readers have taken some bytes by then.
        if corrupt && offset >= 2 << 20 {
            piece[5] ^= 1;
        }
        frames.push(DataFrame {
            offset,
            pieces: vec![Bytes::copy_from_slice(piece)],
            crcs,
        });
    }
    frames.reverse();
    Ok(ReadStream {
        reply: ReadReply::Data {
            start,
            end,
            chunk_len,
        },
        frames: Box::new(Frames { fake, frames }),
    })
}

struct Frames {
    fake: Fake,
    frames: Vec<DataFrame>,
}

impl FrameSource for Frames {
    fn next(&mut self) -> Pending<'_, Option<DataFrame>> {
        Box::pin(async {
            let next = self.frames.pop();
            let len = next.as_ref().map_or(0, |frame| u64::from(frame.len()));
            let hangs = self.fake.state().faults.reads_hang_after;
            flow(&self.fake, len.min(hangs.unwrap_or(len))).await;
            if hangs.is_some() {
                std::future::pending::<()>().await;
            }
            Ok(next)
        })
    }
}
