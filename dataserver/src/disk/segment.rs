//! The writer of small chunks: one thread a disk, one write and one sync for all that wait.
//!
//! A segment grows by zeros that are written ahead: a sync over space that was written before needs no
//! journal, and so does not wait for what others sync either. Measured on a busy machine, 32 writers of
//! 4 KiB: 49,000 to 60,000 a second, against 4,000 to 10,000 into a growing or an allocated file. Each
//! start begins a new segment with its first small chunk, so that nothing is ever written after a torn batch.

use super::claims::Claim;
use super::data_file::{BUFFER_LEN, Buffer, DataFile, sync_directory};
use super::entry::Entry;
use super::layout::SECTOR_LEN;
use super::name::ChunkName;
use super::segment_format::{BATCHES_AT, RecordHead, SEGMENT_LEN_MAX, SegmentHeader, SegmentId};
use super::shared::Shared;
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::{Code, Error, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Small chunks that wait for the disk, up to 64 KiB each.
pub const QUEUE_LEN: usize = 256;

/// Zeros are written this far ahead at a time.
const AHEAD_LEN: u64 = 4 << 20;

/// A small chunk on its way to the disk.
pub struct SmallWrite {
    /// The right to write it.
    pub claim: Claim,
    /// Its bytes.
    pub data: Bytes,
    /// Their CRC.
    pub crc: Crc,
    /// Whether it may take the place of what the disk has of the chunk.
    pub replaces: bool,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Result<()>>,
}

/// The segment that is being written.
struct Active {
    file: DataFile,
    segment: SegmentId,
    nonce: u64,
    /// Where the next batch goes.
    at: u64,
    /// Up to where zeros were written.
    zeroed_until: u64,
}

/// The state of the thread.
pub struct SegmentWriter {
    shared: Arc<Shared>,
    next: SegmentId,
    active: Option<Active>,
    buffer: Buffer,
    /// A write that did not fit into the last batch.
    left: Option<SmallWrite>,
}

impl SegmentWriter {
    /// A writer whose first segment is `next`, which must not exist.
    pub fn new(shared: Arc<Shared>, next: SegmentId) -> SegmentWriter {
        let buffer = shared.buffers.take();
        SegmentWriter {
            shared,
            next,
            active: None,
            buffer,
            left: None,
        }
    }

    /// Writes what comes until the queue is closed.
    pub fn run(mut self, mut queue: mpsc::Receiver<SmallWrite>) {
        while let Some(first) = self.left.take().or_else(|| queue.blocking_recv()) {
            let gathered = self.gather(first, &mut queue);
            let batch = self.admit(gathered);
            if batch.is_empty() {
                continue;
            }
            let result = self.write(&batch);
            if let Err(error) = &result {
                tracing::warn!("writing {} small chunks failed: {error}", batch.len());
            }
            for SmallWrite { claim, reply, .. } in batch {
                // Before the answer: whoever got it may ask for the chunk at once.
                match &result {
                    Ok(()) => drop(claim),
                    Err(_) => claim.spend(),
                }
                answer(reply, result.clone());
            }
        }
        if let Some(active) = self.active.take()
            && let Err(error) = active.file.set_len(active.at, &self.shared.health)
        {
            tracing::warn!("{error}; the segment keeps some zeros at its end");
        }
    }

    /// Everything that waits and fits into one write.
    fn gather(
        &mut self,
        first: SmallWrite,
        queue: &mut mpsc::Receiver<SmallWrite>,
    ) -> Vec<SmallWrite> {
        let mut len = RecordHead::record_len_of(first.data.len());
        let mut batch = vec![first];
        while let Ok(write) = queue.try_recv() {
            len += RecordHead::record_len_of(write.data.len());
            if len > BUFFER_LEN {
                self.left = Some(write);
                break;
            }
            batch.push(write);
        }
        batch
    }

    /// Those of a batch that may be written; the others are answered. A chunk that replaces nothing must be new to
    /// the disk, and is a client's.
    fn admit(&self, batch: Vec<SmallWrite>) -> Vec<SmallWrite> {
        let new = batch.iter().filter(|write| !write.replaces);
        let len: u64 = new.map(|write| write.data.len() as u64).sum();
        let room = match len {
            0 => Ok(()),
            len => self.shared.check_space(len),
        };
        let mut admitted = Vec::with_capacity(batch.len());
        for write in batch {
            let unused = || self.shared.check_unused(write.claim.name());
            let refused = match write.replaces {
                true => None,
                false => room.clone().and_then(|()| unused()).err(),
            };
            match refused {
                None => {
                    write.claim.open();
                    admitted.push(write);
                }
                Some(error) => {
                    drop(write.claim);
                    answer(write.reply, Err(error));
                }
            }
        }
        admitted
    }

    /// Makes a batch durable and readable.
    fn write(&mut self, batch: &[SmallWrite]) -> Result<()> {
        let health = &self.shared.health;
        health.check()?;
        // Clients' were held to what they must leave free.
        self.shared.check_collect_space(BUFFER_LEN as u64)?;
        let active = match &mut self.active {
            Some(active) if active.at + BUFFER_LEN as u64 <= SEGMENT_LEN_MAX => active,
            _ => {
                let created = create(&self.shared, self.next, &mut self.buffer);
                self.shared.set_active_segment(Some(self.next));
                self.next.0 += 1;
                self.active.insert(created?)
            }
        };
        self.buffer.clear();
        let mut entries = Vec::with_capacity(batch.len());
        for write in batch {
            let name = write.claim.name();
            let at = (active.at + self.buffer.len() as u64) as u32;
            let len = write.data.len() as u32;
            let head = RecordHead {
                pool: name.pool,
                nonce: active.nonce,
                chunk: name.chunk,
                at,
                len,
                crc: write.crc,
            };
            self.buffer.push(&head.encode());
            self.buffer.push(&write.data);
            self.buffer.pad_to(RecordHead::ALIGN);
            entries.push((
                name,
                Entry::Small {
                    len,
                    crc: write.crc,
                    segment: active.segment,
                    at,
                },
            ));
        }
        self.buffer.pad_to(SECTOR_LEN);
        let end = active.at + self.buffer.len() as u64;
        let mut written = active.put(self.buffer.bytes(), end, &self.shared);
        if written.is_ok() && batch.iter().any(|write| write.replaces) {
            // Before what it was copied from is let go.
            written = active.read_back(self.buffer.bytes(), &self.shared);
        }
        if let Err(error) = written {
            // Half a batch may be there: nothing goes after it, and the next one goes elsewhere.
            self.active = None;
            self.shared.set_active_segment(None);
            return Err(error);
        }
        active.at = end;
        let index = &self.shared.index;
        let replaced = batch.iter().filter(|write| write.replaces);
        let replaced: Vec<ChunkName> = replaced.map(|write| write.claim.name()).collect();
        index
            .put_segment(&replaced, &entries, active.segment, end)
            .map_err(|error| self.shared.index_failed(&error))
    }
}

impl Active {
    fn put(&mut self, bytes: &[u8], end: u64, shared: &Shared) -> Result<()> {
        if end > self.zeroed_until {
            let mut zeros = shared.buffers.take();
            zeros.push(&[0; SECTOR_LEN]);
            zeros.pad_to(BUFFER_LEN);
            let until = (self.zeroed_until + AHEAD_LEN).min(SEGMENT_LEN_MAX);
            let mut result = Ok(());
            while self.zeroed_until < until && result.is_ok() {
                let len = (until - self.zeroed_until).min(BUFFER_LEN as u64);
                let bytes = &zeros.bytes()[..len as usize];
                result = self.file.write(self.zeroed_until, bytes, &shared.health);
                self.zeroed_until += len;
            }
            shared.buffers.give(zeros);
            result?;
        }
        self.file.write(self.at, bytes, &shared.health)?;
        self.file.sync(&shared.health)
    }

    /// Whether the batch that was written last is what the disk has. A disk that changes what it was given has failed.
    fn read_back(&self, bytes: &[u8], shared: &Shared) -> Result<()> {
        let path = shared.segment_path(self.segment);
        let failed = |error| super::health::io_error("read back", &path, error);
        let file = File::open(&path).map_err(failed)?;
        // A hint, for a file system that takes no direct IO: not what is in memory.
        let len = std::num::NonZeroU64::new(bytes.len() as u64);
        let _taken = rustix::fs::fadvise(&file, self.at, len, rustix::fs::Advice::DontNeed);
        let mut found = vec![0; bytes.len()];
        file.read_exact_at(&mut found, self.at).map_err(failed)?;
        match found == bytes {
            true => Ok(()),
            false => Err(shared.health.fail(format!(
                "{} does not hold what was written to it at {}",
                path.display(),
                self.at
            ))),
        }
    }
}

/// Creates a segment; its name and header are durable when this returns.
fn create(shared: &Shared, segment: SegmentId, buffer: &mut Buffer) -> Result<Active> {
    let path = shared.segment_path(segment);
    let file = DataFile::create(&path, shared.direct_io, &shared.health)?;
    let header = SegmentHeader {
        cluster: shared.identity.cluster,
        disk: shared.identity.disk,
        segment,
        nonce: rand::random(),
    };
    buffer.clear();
    buffer.push(&header.encode());
    file.write(0, buffer.bytes(), &shared.health)?;
    file.sync(&shared.health)?;
    sync_directory(&shared.rooms.segments, &shared.health)?;
    Ok(Active {
        file,
        segment,
        nonce: header.nonce,
        at: BATCHES_AT,
        zeroed_until: BATCHES_AT,
    })
}

fn answer(reply: oneshot::Sender<Result<()>>, result: Result<()>) {
    if reply.send(result).is_err() {
        tracing::debug!("nobody waits for this answer any more");
    }
}

/// That a small write can not be answered any more.
pub fn stopped() -> Error {
    Error::new(Code::Stopping, "the disk is stopping")
}
