//! Copies of chunks that repair fetches from other disks.
//!
//! A copy is nothing until it is whole, durable and was read back: then it takes the place of whatever the disk
//! has of the chunk, a bad copy or a shorter one, and nothing ever stands between the two.

use super::data_file::sync_directory;
use super::entry::Entry;
use super::name::ChunkName;
use super::segment;
use super::shared::Shared;
use super::writer::Purpose;
use super::{ChunkWriter, Disk, reading};
use bytes::{Bytes, BytesMut};
use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, PoolId};
use quarry_common::limits::{CHUNK_LEN_MAX, SMALL_CHUNK_LEN_MAX};
use quarry_common::{Code, Error, Kind as ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;

/// Writes a copy of a chunk; from [`Disk::create_copy`]. Dropped without a seal, it leaves nothing.
pub struct CopyWriter {
    disk: Disk,
    name: ChunkName,
    kind: Kind,
}

enum Kind {
    /// In a file.
    File(ChunkWriter),
    /// All of it, for a segment.
    Small(BytesMut),
}

impl Disk {
    /// Begins to write a copy of a chunk of `len` bytes, which the disk may have in any state but open. Blocks:
    /// looks at the free space, empties the trash if it must, and looks into the index.
    ///
    /// # Errors
    /// `Busy` while it is being written or deleted; `DiskFull` with less than 2 % free, `DiskFailed`,
    /// `Overloaded`, `Stopping`; `Malformed` for an impossible length.
    pub fn create_copy(&self, pool: PoolId, chunk: ChunkId, len: u32) -> Result<CopyWriter> {
        let name = ChunkName { pool, chunk };
        let shared = &self.0.shared;
        if len == 0 || len > CHUNK_LEN_MAX {
            return Err(Error::malformed(format!("a copy can not have {len} bytes")));
        }
        shared.check_repair_space(u64::from(len))?;
        // What a file holds is replaced by a file: one rename decides.
        let has_file = shared.chunk_path(name).exists();
        let kind = match len as usize <= SMALL_CHUNK_LEN_MAX && !has_file {
            true => Kind::Small(BytesMut::with_capacity(len as usize)),
            false => {
                let claim = self.claim_copy(name)?;
                let shared = Arc::clone(shared);
                Kind::File(ChunkWriter::start(shared, claim, len, Purpose::Copy, None)?)
            }
        };
        Ok(CopyWriter {
            disk: self.clone(),
            name,
            kind,
        })
    }

    fn claim_copy(&self, name: ChunkName) -> Result<super::Claim> {
        let shared = &self.0.shared;
        shared.health.check()?;
        if shared.stopping.load(std::sync::atomic::Ordering::Acquire) {
            return Err(segment::stopped());
        }
        let busy = || {
            let text = format!("{name} is being written on disk {}", shared.identity.disk);
            Error::new(Code::Busy, text)
        };
        let claim = shared.claims.claim_again(name, || shared.index.get(name))?;
        claim.ok_or_else(busy)
    }

    /// Takes a chunk for a copy in a segment; `None` if the disk has these bytes already. Blocks.
    fn claim_small_copy(
        &self,
        name: ChunkName,
        len: u32,
        crc: Crc,
    ) -> Result<Option<super::Claim>> {
        let claim = self.claim_copy(name)?;
        if is_superfluous(&self.0.shared, name, len, crc)? {
            return Ok(None);
        }
        match self.0.shared.chunk_path(name).exists() {
            true => Err(Error::new(Code::Busy, format!("{name} has a file by now"))),
            false => Ok(Some(claim)),
        }
    }
}

impl CopyWriter {
    /// Hands over the next bytes; see [`ChunkWriter::append`].
    ///
    /// # Errors
    /// As [`ChunkWriter::append`].
    pub async fn append(&mut self, pieces: Vec<Bytes>, crcs: &[Crc]) -> Result<()> {
        match &mut self.kind {
            Kind::File(writer) => writer.append(pieces, crcs).await,
            Kind::Small(data) => {
                let len: usize = pieces.iter().map(Bytes::len).sum();
                if data.len() + len > SMALL_CHUNK_LEN_MAX {
                    return Err(Error::malformed(format!("{} has more bytes", self.name)));
                }
                pieces
                    .iter()
                    .for_each(|piece| data.extend_from_slice(piece));
                Ok(())
            }
        }
    }

    /// Ends the copy at `len` bytes with CRC `crc`. When it returns, the copy is durable, was read back, and is
    /// what the disk has of the chunk; the mark of a bad copy is gone.
    ///
    /// # Errors
    /// `Malformed` if the bytes are not those; those of the disk, which has failed if they do not read back.
    pub async fn seal(self, len: u32, crc: Crc) -> Result<()> {
        let CopyWriter { disk, name, kind } = self;
        let data = match kind {
            Kind::File(writer) => return writer.seal(len, crc).await,
            Kind::Small(data) => data.freeze(),
        };
        if (data.len(), Crc::of(&data)) != (len as usize, crc) {
            return Err(Error::malformed(format!("the copy of {name} is not it")));
        }
        let looking = disk.clone();
        let claim = blocking(move || looking.claim_small_copy(name, len, crc));
        let Some(claim) = claim.await? else {
            return Ok(());
        };
        // It was read back before the index turned to it.
        disk.store_small(claim, data, crc, true).await?;
        blocking(move || unmark(&disk.0.shared, name)).await
    }
}

/// Work on a disk that may hang, on a thread for such work: there are no more of them than copies at a time.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::bug(format!("work on a disk was lost: {error}"))))
}

/// Whether the disk has these bytes in a good copy, which may be longer: then that one stays. The caller holds the
/// claim, so nothing changes. It may have been written since somebody found that it was missing.
fn is_superfluous(shared: &Shared, name: ChunkName, len: u32, crc: Crc) -> Result<bool> {
    if shared.is_bad(name) {
        return Ok(false);
    }
    let entry = shared.index.get(name)?;
    let Some(entry) = entry.filter(|entry| entry.len() >= len) else {
        return Ok(false);
    };
    match reading::prefix_crc(&shared.path_of(name, &entry), name, &entry, len) {
        Ok(found) => Ok(found == crc),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets the whole, durable and verified copy at `path` take the place of what the disk has of the chunk, whose
/// claim the caller holds.
///
/// A crash at any moment leaves one of the two, with an entry that is its own or none, so that the next start
/// finds out which: so the entry of an old file goes durably before the file changes, also if it was removed before. That
/// of a record stays, since nothing would lead to the record without it: at a start the longer file wins.
pub fn take_place(shared: &Shared, name: ChunkName, path: &Path, entry: Entry) -> Result<()> {
    if is_superfluous(shared, name, entry.len(), entry.crc())? {
        return shared.trash.put(path);
    }
    let index_failed = |error: Error| shared.index_failed(&error);
    let old = shared.index.get(name)?;
    let mut ready = Ok(());
    if let Some(Entry::File { .. }) = &old {
        shared.index.remove(name).map_err(index_failed)?;
        ready = shared.index.flush().map_err(index_failed);
    } else if old.is_none() && shared.index.may_come_back(name) {
        ready = shared.index.flush().map_err(index_failed);
    }
    let to = shared.chunk_path(name);
    let renamed = ready.and_then(|()| {
        std::fs::rename(path, &to).map_err(|error| shared.health.write_error("rename", path, error))
    });
    if let Err(error) = renamed {
        // It stays what the disk has.
        if let Some(old @ Entry::File { .. }) = old {
            shared.insist_on_entry(name, old)?;
        }
        return Err(error);
    }
    sync_directory(&shared.rooms.folder(name.folder()), &shared.health)?;
    shared.insist_on_entry(name, entry)?;
    unmark(shared, name)
}

/// Forgets that a chunk had a bad copy, or was missing, after its entry is that of a good one, durably.
pub fn unmark(shared: &Shared, name: ChunkName) -> Result<()> {
    shared.missing.forget(name);
    if shared.aside.reason(name).is_none() {
        return Ok(());
    }
    let flushed = shared.index.flush();
    flushed.map_err(|error| shared.index_failed(&error))?;
    shared.aside.remove(name, &shared.health)?;
    tracing::info!(
        "{name} has a good copy on disk {} again",
        shared.identity.disk
    );
    Ok(())
}
