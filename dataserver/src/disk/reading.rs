//! Reading chunks: whole blocks with their checksums.

use super::data_file::BUFFER_LEN;
use super::entry::Entry;
use super::layout;
use super::name::ChunkName;
use super::segment_format::RecordHead;
use super::shared::Shared;
use bytes::Bytes;
use quarry_common::checksum::{self, Crc};
use quarry_common::limits::{BLOCK_LEN, CHUNK_LEN_MAX};
use quarry_common::{Code, Error, Result};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
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
            let filled = File::open(&path)
                .and_then(|file| read_runs(&file, cuts, from as u32, buffer.bytes_mut()));
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
            let file = File::open(shared.segment_path(*segment))
                .map_err(|error| unreadable(name, error))?;
            let data = read_record(&file, name, *len, *crc, *at)?;
            Ok(ChunkData {
                offset: 0,
                data,
                crcs: if *len == 0 { vec![] } else { vec![*crc] },
                chunk_len: *len,
            })
        }
    }
}

/// Whether the bytes of a chunk are what its entry says, read from the disk and not from the page cache.
///
/// Errors: `ChecksumMismatch` if they are not, or can not be read; `ChunkMissing` if the file is gone.
pub fn verify(path: &Path, name: ChunkName, entry: &Entry) -> Result<()> {
    let file = File::open(path).map_err(|error| unreadable(name, error))?;
    // A hint: where it is not taken, what is checked may be what is in memory.
    let forget = |at: u64, len: u32| {
        let len = std::num::NonZeroU64::new(u64::from(len));
        let _taken = rustix::fs::fadvise(&file, at, len, rustix::fs::Advice::DontNeed);
    };
    match entry {
        Entry::File {
            len, cuts, blocks, ..
        } => {
            forget(0, 0);
            let mut block = vec![0; BLOCK_LEN];
            for (at, crc) in blocks.iter().enumerate() {
                let from = (at * BLOCK_LEN) as u32;
                let bytes = &mut block[..(len - from).min(BLOCK_LEN as u32) as usize];
                read_runs(&file, cuts, from, bytes).map_err(|error| unreadable(name, error))?;
                if Crc::of(bytes) != *crc {
                    return Err(bad(name, format!("does not match its checksum at {from}")));
                }
            }
            forget(0, 0);
            Ok(())
        }
        Entry::Small { len, crc, at, .. } => {
            forget(u64::from(*at), *len + RecordHead::LEN as u32);
            let bytes = read_record(&file, name, *len, *crc, *at)?;
            match Crc::of(&bytes) == *crc {
                true => Ok(()),
                false => Err(bad(name, "does not match its checksum".into())),
            }
        }
    }
}

/// The CRC of the first `len` bytes of a chunk that has at least so many: from the stored ones, but for a
/// block that is cut, which is read.
///
/// Errors: as [`verify`].
pub fn prefix_crc(path: &Path, name: ChunkName, entry: &Entry, len: u32) -> Result<Crc> {
    if len == entry.len() {
        return Ok(entry.crc());
    }
    let file = || File::open(path).map_err(|error| unreadable(name, error));
    let mismatch = || bad(name, "does not match its checksum".into());
    match entry {
        Entry::File {
            len: chunk_len,
            cuts,
            blocks,
            ..
        } => {
            let whole = len as usize / BLOCK_LEN;
            let from = (whole * BLOCK_LEN) as u32;
            let crc = checksum::whole(&blocks[..whole], u64::from(from));
            if from == len {
                return Ok(crc);
            }
            let mut block = vec![0; (chunk_len - from).min(BLOCK_LEN as u32) as usize];
            read_runs(&file()?, cuts, from, &mut block).map_err(|error| unreadable(name, error))?;
            if Crc::of(&block) != blocks[whole] {
                return Err(mismatch());
            }
            let rest = (len - from) as usize;
            Ok(crc.then(Crc::of(&block[..rest]), rest as u64))
        }
        Entry::Small {
            len: chunk_len,
            crc,
            at,
            ..
        } => {
            let bytes = read_record(&file()?, name, *chunk_len, *crc, *at)?;
            if Crc::of(&bytes) != *crc {
                return Err(mismatch());
            }
            Ok(Crc::of(&bytes[..len as usize]))
        }
    }
}

/// Reads the bytes of a chunk file from `from` of the chunk on.
fn read_runs(file: &File, cuts: &[u32], from: u32, bytes: &mut [u8]) -> io::Result<()> {
    let mut rest = bytes;
    for run in layout::runs(cuts, from, rest.len() as u32) {
        let (part, after) = rest.split_at_mut(run.len as usize);
        file.read_exact_at(part, run.file_at)?;
        rest = after;
    }
    Ok(())
}

/// Reads the data of a record of a segment, whose head must be that of the chunk.
fn read_record(file: &File, name: ChunkName, len: u32, crc: Crc, at: u32) -> Result<Bytes> {
    let mut bytes = vec![0; RecordHead::LEN + len as usize];
    file.read_exact_at(&mut bytes, u64::from(at))
        .map_err(|error| unreadable(name, error))?;
    // The head need not be believed, only agree: then these bytes were written as this chunk.
    let expected = |nonce| RecordHead {
        pool: name.pool,
        nonce,
        chunk: name.chunk,
        at,
        len,
        crc,
    };
    let nonce = u64::from_le_bytes(bytes[8..16].try_into().unwrap_or_default());
    if RecordHead::decode(&bytes, nonce, u64::from(at)) != Some(expected(nonce)) {
        return Err(bad(name, "has a damaged record".into()));
    }
    Ok(Bytes::from(bytes).slice(RecordHead::LEN..))
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
