//! Reading chunks: whole blocks with their checksums.

use super::data_file::BUFFER_LEN;
use super::entry::Entry;
use super::layout;
use super::name::ChunkName;
use super::segment_format::RecordHead;
use super::shared::Shared;
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::limits::{BLOCK_LEN, CHUNK_LEN_MAX};
use quarry_common::{Code, Error, Result};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

/// A part of a chunk as it is stored; the reader checks it.
#[derive(Clone, Debug)]
pub struct ChunkData {
    /// Where `data` starts in the chunk: the start of a block.
    pub offset: u32,
    /// Whole blocks; the last one of the chunk may be shorter.
    pub data: Bytes,
    /// The stored CRC of each block of `data`.
    pub crcs: Vec<Crc>,
    /// Length of the chunk in bytes.
    pub chunk_len: u32,
}

/// Reads the blocks that cover `offset..offset + len`.
///
/// Errors: `ChunkMissing` if the chunk, or so much of it, is not here; `ChecksumMismatch` if it was set aside,
/// can not be read, or is not what the index says; `Malformed` for an impossible range.
pub fn read(
    shared: &Shared,
    buffers: &Arc<ReadBuffers>,
    name: ChunkName,
    offset: u32,
    len: u32,
) -> Result<ChunkData> {
    if offset
        .checked_add(len)
        .is_none_or(|end| end > CHUNK_LEN_MAX)
    {
        return Err(Error::malformed(format!(
            "{len} bytes at {offset} of a chunk were asked for"
        )));
    }
    if let Some(reason) = shared.aside.reason(name) {
        return Err(bad(name, format!("was set aside: {reason}")));
    }
    let missing = || {
        Error::new(
            Code::ChunkMissing,
            format!("{name} is not on disk {}", shared.identity.disk),
        )
    };
    let entry = match shared.claims.get(name) {
        Some(durable) => durable.ok_or_else(missing)?,
        None => Arc::new(shared.index.get(name)?.ok_or_else(missing)?),
    };
    if offset + len > entry.len() {
        return Err(Error::new(
            Code::ChunkMissing,
            format!(
                "{name} has {} bytes on disk {}, bytes up to {} were asked for",
                entry.len(),
                shared.identity.disk,
                offset + len
            ),
        ));
    }
    match &*entry {
        Entry::File {
            len: chunk_len,
            cuts,
            blocks,
            ..
        } => {
            let first = offset as usize / BLOCK_LEN;
            let from = first * BLOCK_LEN;
            let until = ((offset + len) as usize)
                .next_multiple_of(BLOCK_LEN)
                .min(*chunk_len as usize);
            let path = shared.chunk_path(name);
            let mut buffer = ReadBuffers::take(buffers, until - from);
            let filled = File::open(&path).and_then(|file| {
                let mut rest = buffer.bytes_mut();
                for run in layout::runs(cuts, from as u32, (until - from) as u32) {
                    let (part, after) = rest.split_at_mut(run.len as usize);
                    file.read_exact_at(part, run.file_at)?;
                    rest = after;
                }
                Ok(())
            });
            filled.map_err(|error| unreadable(name, error))?;
            Ok(ChunkData {
                offset: from as u32,
                data: Bytes::from_owner(buffer),
                crcs: blocks[first..until.div_ceil(BLOCK_LEN).max(first)].to_vec(),
                chunk_len: *chunk_len,
            })
        }
        Entry::Small {
            len,
            crc,
            segment,
            at,
        } => {
            let mut bytes = vec![0; RecordHead::LEN + *len as usize];
            let file = File::open(shared.segment_path(*segment))
                .map_err(|error| unreadable(name, error))?;
            file.read_exact_at(&mut bytes, u64::from(*at))
                .map_err(|error| unreadable(name, error))?;
            // The head need not be believed, only agree: then these bytes were written as this chunk.
            let expected = |nonce| RecordHead {
                pool: name.pool,
                nonce,
                chunk: name.chunk,
                at: *at,
                len: *len,
                crc: *crc,
            };
            let nonce = u64::from_le_bytes(bytes[8..16].try_into().unwrap_or_default());
            if RecordHead::decode(&bytes, nonce, u64::from(*at)) != Some(expected(nonce)) {
                return Err(bad(name, "has a damaged record".into()));
            }
            Ok(ChunkData {
                offset: 0,
                data: Bytes::from(bytes).slice(RecordHead::LEN..),
                crcs: if *len == 0 { vec![] } else { vec![*crc] },
                chunk_len: *len,
            })
        }
    }
}

fn bad(name: ChunkName, why: String) -> Error {
    Error::new(Code::ChecksumMismatch, format!("{name} {why}"))
}

fn unreadable(name: ChunkName, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Error::new(Code::ChunkMissing, format!("the file of {name} is gone"))
        }
        io::ErrorKind::UnexpectedEof => bad(name, "is cut short".into()),
        _ if super::health::is_out_of_files(&error) => Error::new(
            Code::Overloaded,
            format!("{name} can not be opened: {error}; raise the limit of open files (ulimit -n)"),
        ),
        _ => bad(name, format!("can not be read: {error}")),
    }
}

/// Buffers for reads, used again: the first touch of fresh memory is three times slower than the page cache.
#[derive(Default)]
pub struct ReadBuffers(Mutex<Vec<Vec<u8>>>);

/// A buffer of the pool holds a frame of any alignment.
const READ_BUFFER_LEN: usize = BUFFER_LEN + BLOCK_LEN;
/// Buffers kept; more are given back to the system.
const READ_BUFFERS_KEPT: usize = 32;

struct ReadBuffer {
    bytes: Vec<u8>,
    len: usize,
    pool: Arc<ReadBuffers>,
}

impl ReadBuffers {
    fn take(pool: &Arc<ReadBuffers>, len: usize) -> ReadBuffer {
        let kept = if len > READ_BUFFER_LEN {
            None
        } else {
            pool.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
        };
        let bytes = kept.unwrap_or_else(|| vec![0; len.max(READ_BUFFER_LEN)]);
        ReadBuffer {
            bytes,
            len,
            pool: Arc::clone(pool),
        }
    }
}

impl ReadBuffer {
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let mut kept = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bytes.len() == READ_BUFFER_LEN && kept.len() < READ_BUFFERS_KEPT {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}
