//! Reading chunks: whole blocks with their checksums.

use super::entry::Entry;
use super::layout::{self, Run};
use super::name::ChunkName;
use super::segment_format::RecordHead;
use super::shared::Shared;
use bytes::Bytes;
use quarry_common::checksum::{self, Crc};
use quarry_common::limits::{BLOCK_LEN, CHUNK_LEN_MAX};
use quarry_common::read_buffers::ReadBuffers;
use quarry_common::{Code, Error, Result};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
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
        Some(durable) => durable.ok_or_else(|| shared.missing(name))?,
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

/// `ChecksumMismatch` for a chunk that was set aside, `ChunkMissing` for one that a start did not find.
fn check_good(shared: &Shared, name: ChunkName) -> Result<()> {
    if shared.missing.contains(name) {
        return Err(shared.missing(name));
    }
    match shared.aside.reason(name) {
        Some(reason) => Err(bad(name, format!("was set aside: {reason}"))),
        None => Ok(()),
    }
}

/// What the index says of a chunk.
fn sealed(shared: &Shared, name: ChunkName) -> Result<Entry> {
    let entry = shared.index.get(name)?;
    entry.ok_or_else(|| shared.missing(name))
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
        io::ErrorKind::OutOfMemory => {
            Error::new(Code::Overloaded, format!("{name} can not be read: {error}"))
        }
        _ if super::health::is_out_of_files(&error) => Error::new(
            Code::Overloaded,
            format!("{name} can not be opened: {error}; raise the limit of open files (ulimit -n)"),
        ),
        _ => bad(name, format!("can not be read: {error}")),
    }
}
