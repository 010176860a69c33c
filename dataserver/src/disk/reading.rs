//! Reading chunks: whole blocks with their checksums.

use super::entry::Entry;
use super::layout::{self, Run};
use super::name::ChunkName;
use super::segment_format::RecordHead;
use super::shared::Shared;
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::limits::{BLOCK_LEN, CHUNK_LEN_MAX};
use quarry_common::read_buffers::ReadBuffers;
use quarry_common::{Code, Error, Result};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

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
    check_good(shared, name)?;
    let entry = match shared.claims.get(name) {
        Some(durable) => durable.ok_or_else(|| missing(shared, name))?,
        None => Arc::new(sealed(shared, name)?),
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

/// What the file of a chunk holds.
#[derive(Clone, Debug)]
pub struct ChunkLayout {
    /// Length of the chunk in bytes.
    pub len: u32,
    /// CRC of the chunk.
    pub crc: Crc,
    /// Where its bytes stand in the file, in order.
    pub runs: Vec<Run>,
    /// The CRC of each block.
    pub crcs: Vec<Crc>,
}

/// What the file of a sealed large chunk holds; `None` for an open chunk, whose file still changes, and
/// for a small one, which has no file of its own.
///
/// Errors: `ChunkMissing`; `ChecksumMismatch` if it was set aside.
pub fn layout(shared: &Shared, name: ChunkName) -> Result<Option<ChunkLayout>> {
    check_good(shared, name)?;
    if shared.claims.get(name).is_some() {
        return Ok(None);
    }
    match sealed(shared, name)? {
        Entry::File {
            len,
            crc,
            cuts,
            blocks,
        } => Ok(Some(ChunkLayout {
            len,
            crc,
            runs: layout::runs(&cuts, 0, len),
            crcs: blocks,
        })),
        Entry::Small { .. } => Ok(None),
    }
}

/// Opens the file of a chunk, for reading only.
///
/// Errors: `ChunkMissing`; `ChecksumMismatch` if it was set aside or can not be opened.
pub fn open_file(shared: &Shared, name: ChunkName) -> Result<File> {
    check_good(shared, name)?;
    File::open(shared.chunk_path(name)).map_err(|error| unreadable(name, error))
}

/// `ChecksumMismatch` for a chunk that was set aside.
fn check_good(shared: &Shared, name: ChunkName) -> Result<()> {
    match shared.aside.reason(name) {
        Some(reason) => Err(bad(name, format!("was set aside: {reason}"))),
        None => Ok(()),
    }
}

/// What the index says of a chunk.
fn sealed(shared: &Shared, name: ChunkName) -> Result<Entry> {
    let entry = shared.index.get(name)?;
    entry.ok_or_else(|| missing(shared, name))
}

fn missing(shared: &Shared, name: ChunkName) -> Error {
    Error::new(
        Code::ChunkMissing,
        format!("{name} is not on disk {}", shared.identity.disk),
    )
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
