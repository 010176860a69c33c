//! The writer of one large chunk: a bounded queue, and a thread that writes what comes out of it.
//!
//! A thread of its own per open chunk: direct writes block, and creating the file overlaps with
//! receiving the first data.

use super::chunk_file::ChunkFile;
use super::chunk_format::Owner;
use super::claims::Claim;
use super::data_file::sync_directory;
use super::entry::Entry;
use super::health::io_error;
use super::shared::{Shared, copy_path};
use super::{reading, replica};
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::limits::FRAME_LEN_MAX;
use quarry_common::{Code, Error, Kind, Result};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Frames that wait for the disk, each up to a MiB: enough to overlap receiving and writing, little
/// enough that a slow disk is felt by the client at once.
const QUEUE_LEN: usize = 4;

enum Command {
    Append {
        pieces: Vec<Bytes>,
        crcs: Vec<Crc>,
    },
    Flush {
        len: u32,
        crc: Crc,
        reply: oneshot::Sender<Result<()>>,
    },
    Seal {
        len: u32,
        crc: Crc,
        reply: oneshot::Sender<Result<()>>,
    },
}

/// The handle of a chunk that is being written; from [`super::Disk::create_chunk`].
///
/// Dropped without a seal, the chunk is sealed at its last flush; without a flush it is thrown away, and
/// its id stays refused.
pub struct ChunkWriter {
    commands: mpsc::Sender<Command>,
    failure: Arc<OnceLock<Error>>,
}

impl ChunkWriter {
    /// Starts the writer of a claimed chunk. Returns at once; a failure to create the file is the answer of
    /// the first call that notices it. `room` is given back when the chunk is over.
    pub(super) fn start(
        shared: Arc<Shared>,
        claim: Claim,
        capacity: u32,
        purpose: Purpose,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<ChunkWriter> {
        let (commands, queue) = mpsc::channel(QUEUE_LEN);
        let failure = Arc::new(OnceLock::new());
        let task = Task {
            shared,
            claim,
            capacity,
            purpose,
            room,
        };
        let outcome = Arc::clone(&failure);
        std::thread::Builder::new()
            .name("chunk-writer".into())
            .spawn(move || task.run(queue, &outcome))
            .map_err(|error| {
                Error::new(
                    Code::Overloaded,
                    format!("can not start a thread: {error}; too many chunks are written at once"),
                )
            })?;
        Ok(ChunkWriter { commands, failure })
    }

    /// Hands over the next bytes, which the caller has checked; waits while the queue is full.
    ///
    /// `crcs` are those of the bytes cut at each end of a block *of the chunk* and at their last byte, so
    /// after a flush in the middle of a block the first one covers the rest of that block. That the bytes
    /// were taken says nothing about durability; a failure may be reported by a later call.
    ///
    /// Errors: `Malformed` for more than a frame; whatever failed the chunk earlier. Cancel-safe: nothing
    /// was taken.
    pub async fn append(&self, pieces: Vec<Bytes>, crcs: &[Crc]) -> Result<()> {
        if pieces.iter().map(Bytes::len).sum::<usize>() > FRAME_LEN_MAX {
            return Err(Error::malformed(format!(
                "a frame has more than {FRAME_LEN_MAX} bytes"
            )));
        }
        self.send(Command::Append {
            pieces,
            crcs: crcs.to_vec(),
        })
        .await
    }

    /// Makes everything so far durable: the bytes, a record of it and the file's name. `len` and `crc` are
    /// those of the chunk so far.
    ///
    /// Errors: `Malformed` if they are not; `FlushesUsedUp` after `FLUSHES_MAX`, which leaves the chunk as it
    /// is; `DiskFull`, `DiskFailed`.
    pub async fn flush(&self, len: u32, crc: Crc) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Flush { len, crc, reply }).await?;
        answer.await.unwrap_or_else(|_| Err(self.failure()))
    }

    /// Ends the chunk at `len` bytes with CRC `crc`, durably; it can be read when this returns.
    ///
    /// Errors: as [`ChunkWriter::flush`].
    pub async fn seal(self, len: u32, crc: Crc) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Seal { len, crc, reply }).await?;
        answer.await.unwrap_or_else(|_| Err(self.failure()))
    }

    async fn send(&self, command: Command) -> Result<()> {
        self.commands
            .send(command)
            .await
            .map_err(|_| self.failure())
    }

    fn failure(&self) -> Error {
        self.failure
            .get()
            .cloned()
            .unwrap_or_else(|| Error::new(Code::Stopping, "the writer of the chunk has ended"))
    }
}

/// What a chunk is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A client writes it.
    New,
    /// Repair copies it from another disk: it is nothing until it is whole, was read back, and takes the place
    /// of whatever was here.
    Copy,
}

struct Task {
    shared: Arc<Shared>,
    claim: Claim,
    capacity: u32,
    purpose: Purpose,
    room: Option<OwnedSemaphorePermit>,
}

impl Task {
    fn run(self, queue: mpsc::Receiver<Command>, outcome: &OnceLock<Error>) {
        let path = self.path();
        let created = self.create();
        let mut file = match created {
            Ok(file) => file,
            Err(error) => {
                // A file that was there before is not ours to throw away, and a failed disk is left as it is.
                let ours =
                    !matches!(error.code, Code::ChunkUsed | Code::DiskFailed) && path.exists();
                self.record(outcome, error);
                if ours {
                    self.throw_away(&path);
                }
                return;
            }
        };
        match self.serve(&mut file, queue, outcome) {
            Some(reply) => {
                file.close(&self.shared.buffers);
                // Before the answer: whoever got it sees the chunk sealed, and may begin the next one.
                drop((self.claim, self.room));
                answer(reply, Ok(()));
            }
            None => self.give_up(file, &path),
        }
    }

    fn path(&self) -> PathBuf {
        let name = self.claim.name();
        match self.purpose {
            Purpose::New => self.shared.chunk_path(name),
            Purpose::Copy => copy_path(&self.shared.rooms, name),
        }
    }

    fn create(&self) -> Result<ChunkFile> {
        let name = self.claim.name();
        let shared = &self.shared;
        let owner: Owner = shared.owner(name);
        if self.purpose == Purpose::Copy && self.path().exists() {
            // Left by an attempt that could not throw it away.
            remove(&self.path())?;
        }
        let file = ChunkFile::create(
            &self.path(),
            owner,
            self.capacity,
            shared.direct_io,
            &shared.buffers,
            &shared.health,
        )?;
        // Now, while the first data is still being received, and not at the first flush.
        if self.purpose == Purpose::New {
            sync_directory(&shared.rooms.folder(name.folder()), &shared.health)?;
        }
        Ok(file)
    }

    /// Carries out commands until the chunk is sealed, and returns who is to be told; `None` if it was given
    /// up or failed.
    fn serve(
        &self,
        file: &mut ChunkFile,
        mut queue: mpsc::Receiver<Command>,
        outcome: &OnceLock<Error>,
    ) -> Option<oneshot::Sender<Result<()>>> {
        let health = &self.shared.health;
        while let Some(command) = queue.blocking_recv() {
            let usable = health.check();
            match command {
                Command::Append { pieces, crcs } => {
                    if let Err(error) = usable.and_then(|()| file.append(&pieces, &crcs, health)) {
                        self.record(outcome, error);
                        return None;
                    }
                }
                Command::Flush { len, crc, reply } => {
                    let result = usable.and_then(|()| file.flush(len, crc, health));
                    match &result {
                        Ok(()) => {
                            if let Some(durable) = file.durable() {
                                self.claim.set_durable(durable.entry());
                            }
                        }
                        Err(error) if error.code == Code::FlushesUsedUp => {}
                        Err(error) => self.record(outcome, error.clone()),
                    }
                    let failed = outcome.get().is_some();
                    answer(reply, result);
                    if failed {
                        return None;
                    }
                }
                Command::Seal { len, crc, reply } => {
                    let result = usable
                        .and_then(|()| file.seal(len, crc, health))
                        .and_then(|entry| self.make_readable(entry));
                    match result {
                        Ok(()) => return Some(reply),
                        Err(error) => {
                            self.record(outcome, error.clone());
                            answer(reply, Err(error));
                            return None;
                        }
                    }
                }
            }
        }
        None
    }

    /// The file is sealed and durable.
    fn make_readable(&self, entry: Entry) -> Result<()> {
        let name = self.claim.name();
        match self.purpose {
            Purpose::New => self.shared.add_to_index(name, entry),
            Purpose::Copy => {
                let path = self.path();
                let verified = reading::verify(&path, name, &entry);
                verified.map_err(|error| self.not_read_back(error))?;
                replica::take_place(&self.shared, name, &path, entry)
            }
        }
    }

    /// A copy can not be read back. A disk that changes what it was given has failed: else the copy would be made on and on.
    fn not_read_back(&self, error: Error) -> Error {
        match error.kind() {
            Kind::Corrupt => {
                let text = format!("a copy does not read back: {}", error.text);
                self.shared.health.fail(text)
            }
            _ => error,
        }
    }

    fn record(&self, outcome: &OnceLock<Error>, error: Error) {
        if error.code != Code::Malformed {
            tracing::warn!("writing {} failed: {error}", self.claim.name());
        }
        // The first failure is the one that explains the others.
        outcome.get_or_init(|| error);
    }

    /// The chunk ends without a seal: at its last flush, or nowhere.
    fn give_up(self, mut file: ChunkFile, path: &Path) {
        let shared = Arc::clone(&self.shared);
        if shared.health.check().is_err() {
            // The next start decides by what it finds. Until then what was acknowledged is read and listed: a member that is
            // filled from this disk would else be without it.
            return self.keep();
        }
        let name = self.claim.name();
        if self.purpose == Purpose::Copy {
            file.close(&shared.buffers);
            return self.throw_away(path);
        }
        let finished = file
            .finish_at_flush(&shared.health)
            .and_then(|entry| match entry {
                Some(entry) => shared.insist_on_entry(name, entry).map(|()| true),
                None => file.free_reserved(&shared.health).map(|()| false),
            });
        file.close(&shared.buffers);
        match finished {
            Ok(true) => {}
            Ok(false) => self.throw_away(path),
            Err(error) => {
                tracing::warn!(
                    "{name} could not be ended at its last flush: {error}; the next start does it"
                );
                self.keep();
            }
        }
    }

    /// The chunk stays open with what of it is durable. Of one that a copy was to replace, the index may know.
    fn keep(self) {
        let name = self.claim.name();
        if !matches!(self.shared.index.contains(name), Ok(true)) {
            self.claim.keep();
        }
    }

    fn throw_away(self, path: &Path) {
        let thrown_away = match self.purpose {
            Purpose::New => self.shared.trash.put(path),
            // Nobody wants a copy back that is not whole, and all the room that it was to take is reserved.
            Purpose::Copy => remove(path),
        };
        if let Err(error) = thrown_away {
            tracing::warn!("{error}; the next start does it");
        }
        if self.purpose == Purpose::New {
            self.claim.spend();
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(|error| io_error("remove", path, error))
}

/// Answers a caller who may have gone away; what was done stays done.
fn answer(reply: oneshot::Sender<Result<()>>, result: Result<()>) {
    if reply.send(result).is_err() {
        tracing::debug!("nobody waits for this answer any more");
    }
}
