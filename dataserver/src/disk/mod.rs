//! A disk: one data directory, its chunks, and what survives of them (DESIGN §4.4).
//!
//! ```text
//! identity    cluster, disk, format                         identity
//! open        the numbers of the last two starts            identity
//! lock        held by the running dataserver                identity
//! chunks/XX/  a file for each large chunk                   chunk_format, layout, chunk_file, writer, replica
//! segments/   many small chunks in one file                 segment_format, segment, compaction
//! index/      where each chunk is; derived                  index, entry, recovery, listing
//! aside/      marks of bad copies                           aside
//! trash/      nobody's files                                trash, delete
//! metaservers where the metaservers are                     contacts
//! ```
//!
//! Writes go through threads of their own and are acknowledged when they are durable. A failed write or
//! sync is final: the disk refuses writes from then on, and reads go on.

mod aside;
mod chunk_file;
mod chunk_format;
mod claims;
mod compaction;
pub mod contacts;
mod data_file;
mod delete;
mod entry;
mod frame;
mod health;
mod identity;
mod index;
mod layout;
mod listing;
mod missing;
mod name;
mod reading;
mod recovery;
mod replica;
mod segment;
mod segment_format;
mod shared;
mod space;
#[cfg(test)]
mod tests;
mod trash;
mod writer;

pub use identity::{DiskIdentity, State, nameless, replacing};
pub use index::Counts;
pub use layout::Run;
pub use name::ChunkName;
pub use reading::{ChunkData, ChunkLayout};
pub use recovery::Report;
pub use replica::CopyWriter;
pub use space::Space;
pub use writer::ChunkWriter;

use aside::Aside;
use bytes::Bytes;
use claims::{Claim, Claims};
use compaction::Stuck;
use data_file::Buffers;
use entry::Entry;
use health::Health;
use identity::Rooms;
use missing::Missing;
use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, ClusterId, OpenNumber, PoolId};
use quarry_common::limits::{CHUNK_LEN_MAX, CLIENT_FREE_PERCENT, SMALL_CHUNK_LEN_MAX};
use quarry_common::read_buffers::ReadBuffers;
use quarry_common::{Code, Error, Kind, Result};
use recovery::{Recovered, Recovery};
use segment::{SegmentWriter, SmallWrite};
use shared::Shared;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Semaphore, mpsc, oneshot};
use trash::{TRASH_AGE_MAX, Trash};
use writer::Purpose;

/// Large chunks of clients that one disk writes at a time: each has a thread and a few MiB of memory.
pub const OPEN_CHUNKS_MAX: usize = 256;

/// Bytes of small chunks that one disk is handed at a time: enough for sixteen thousand of 4 KiB.
const SMALL_ROOM_LEN: usize = 64 << 20;

/// How long a stop waits for writers that were let go to end.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// What a start may write before anything can be freed: files of the index.
const OPEN_LEN: u64 = 16 << 20;

/// How a disk is used.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// Write past the page cache. Where the file system refuses, the disk falls back with a warning.
    pub direct_io: bool,
    /// Client writes leave this many percent free; [`CLIENT_FREE_PERCENT`] but in tests.
    pub free_percent: u8,
}

impl Default for DiskOptions {
    fn default() -> DiskOptions {
        DiskOptions {
            direct_io: true,
            free_percent: CLIENT_FREE_PERCENT,
        }
    }
}

/// How a chunk stands on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// It is being written; length and CRC are those of its last flush.
    Open,
    /// It has its final length here.
    Sealed,
    /// A bad copy, or one that is missing: not served, to be replaced.
    SetAside,
}

/// How a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkKind {
    /// In a file of its own.
    File,
    /// In a segment.
    Small,
}

/// What a disk knows of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkInfo {
    /// Durable length in bytes.
    pub len: u32,
    /// CRC of those bytes.
    pub crc: Crc,
    /// How it stands.
    pub state: ChunkState,
    /// How it is stored.
    pub kind: ChunkKind,
}

impl ChunkInfo {
    fn new(entry: Option<&Entry>, state: ChunkState) -> ChunkInfo {
        let kind = match entry {
            Some(Entry::Small { .. }) => ChunkKind::Small,
            Some(Entry::File { .. }) | None => ChunkKind::File,
        };
        ChunkInfo {
            len: entry.map_or(0, Entry::len),
            crc: entry.map_or(Crc::default(), Entry::crc),
            state,
            kind,
        }
    }
}

/// An open disk; clones are the same one.
#[derive(Clone)]
pub struct Disk(Arc<Front>);

/// What the handles of a disk share; its threads only know [`Shared`], so that they end with the last handle.
struct Front {
    shared: Arc<Shared>,
    read_buffers: Arc<ReadBuffers>,
    report: Report,
    small_writes: Mutex<Option<mpsc::Sender<SmallWrite>>>,
    /// For the bytes of small chunks that wait.
    small_room: Semaphore,
    /// One permit for each large chunk that a client writes.
    large_room: Arc<Semaphore>,
    segment_writer: Mutex<Option<JoinHandle<()>>>,
    stuck: Mutex<Stuck>,
}

impl Disk {
    /// What is at `path`; changes nothing.
    ///
    /// Errors: `NotDirectory` for a file, `AccessDenied`, `TooNew` for a newer format (with both numbers),
    /// `ChecksumMismatch` for a damaged identity file; each text names the remedy.
    pub fn inspect(path: &Path) -> Result<State> {
        identity::inspect(path)
    }

    /// Makes the empty or missing directory `path` the disk `identity`; durable when it returns. Blocks.
    ///
    /// Errors: `NotEmpty`, those of [`Disk::inspect`], IO errors.
    pub fn format(path: &Path, identity: DiskIdentity) -> Result<()> {
        identity::format(path, identity)
    }

    /// Opens the disk at `path`, which must be one of `cluster`, and recovers what a crash left. Blocks: for
    /// the listing of its chunk files, and as long as it takes to read what the index has not seen.
    ///
    /// Errors: `NotFound` where no disk is, `Configuration` for another cluster's, `Busy` for one in use,
    /// `TooNew`, `AccessDenied`, `ReadOnly`, IO errors; each text names the remedy.
    pub fn open(path: &Path, cluster: ClusterId, options: DiskOptions) -> Result<Disk> {
        let identity = identity::expect(path, cluster)?;
        let lock = identity::lock(path)?;
        let rooms = Rooms::of(path);
        // First, since a start writes: an index that finds no room can not be opened.
        let permille = space::COLLECT_FREE_PERMILLE.min(u16::from(options.free_percent) * 10);
        let lacking = Space::of(path)?.lacking(permille, OPEN_LEN);
        if lacking > 0 {
            Trash::open(&rooms.trash, OpenNumber(0))?.free(lacking)?;
        }
        // 0 is what a disk has that was never opened.
        let opens = identity::start(path, OpenNumber(rand::random::<u64>().max(1)))?;
        let direct_io = options.direct_io && data_file::takes_direct_io(path)?;
        if options.direct_io && !direct_io {
            tracing::warn!(
                "the file system of {} takes no direct IO: writes go through the page cache",
                path.display()
            );
        }
        let buffers = Buffers::default();
        let health = Arc::new(Health::default());
        let aside = Aside::open(&rooms.aside)?;
        let trash = Trash::open(&rooms.trash, opens.current)?;
        let Recovered {
            index,
            next_segment,
            report,
            missing,
        } = Recovery {
            rooms: &rooms,
            identity,
            direct_io,
            buffers: &buffers,
            health: &health,
            aside: &aside,
            trash: &trash,
        }
        .run()?;
        index.begin_use(Arc::clone(&health));
        let shared = Arc::new(Shared {
            identity,
            opens,
            rooms,
            direct_io,
            free_percent: options.free_percent,
            health,
            index,
            claims: Arc::new(Claims::default()),
            aside,
            missing: Missing::new(missing),
            trash,
            buffers,
            stopping: AtomicBool::new(false),
            active: Mutex::default(),
            _lock: lock,
        });
        let (small_writes, queue) = mpsc::channel(segment::QUEUE_LEN);
        let writer = SegmentWriter::new(Arc::clone(&shared), next_segment);
        let thread = std::thread::Builder::new()
            .name("segment-writer".into())
            .spawn(move || writer.run(queue))
            .map_err(|error| {
                Error::new(Code::Overloaded, format!("can not start a thread: {error}"))
            })?;
        Ok(Disk(Arc::new(Front {
            shared,
            read_buffers: Arc::default(),
            report,
            small_writes: Mutex::new(Some(small_writes)),
            small_room: Semaphore::new(SMALL_ROOM_LEN),
            large_room: Arc::new(Semaphore::new(OPEN_CHUNKS_MAX)),
            segment_writer: Mutex::new(Some(thread)),
            stuck: Mutex::default(),
        })))
    }

    /// Begins to write a large chunk of at most `capacity` bytes. The file is created while the first data is
    /// received. Blocks: looks into the index and at the free space.
    ///
    /// Errors: `ChunkUsed` if the disk has the id in any state; `DiskFull`, `DiskFailed`, `Stopping`,
    /// `Overloaded`; `Malformed` for an impossible capacity.
    pub fn create_chunk(&self, pool: PoolId, chunk: ChunkId, capacity: u32) -> Result<ChunkWriter> {
        if capacity == 0 || capacity > CHUNK_LEN_MAX {
            return Err(Error::malformed(format!(
                "a chunk can not have {capacity} bytes"
            )));
        }
        let room = Arc::clone(&self.0.large_room).try_acquire_owned();
        let room = room.map_err(|_| {
            let text = "too many large chunks of this disk are being written";
            Error::new(Code::Overloaded, text)
        })?;
        let claim = self.claim(ChunkName { pool, chunk })?;
        self.0.shared.check_space(u64::from(capacity))?;
        let shared = Arc::clone(&self.0.shared);
        ChunkWriter::start(shared, claim, capacity, Purpose::New, Some(room))
    }

    /// Writes a small chunk; durable and readable when it returns. Shares its sync with all others that
    /// wait. The caller has checked `crc`. If this is cancelled, the chunk may be written all the same. Nothing
    /// here blocks: a disk that hangs is waited for, by whoever wants to.
    ///
    /// Errors: as [`Disk::create_chunk`]; `Overloaded` if too many bytes wait already.
    pub async fn write_small(
        &self,
        pool: PoolId,
        chunk: ChunkId,
        data: Bytes,
        crc: Crc,
    ) -> Result<()> {
        if data.len() > SMALL_CHUNK_LEN_MAX {
            return Err(Error::malformed(format!(
                "a small chunk can not have {} bytes",
                data.len()
            )));
        }
        let room = self.0.small_room.try_acquire_many(data.len() as u32);
        let _room = room.map_err(|_| {
            let text = "too many small chunks wait for this disk";
            Error::new(Code::Overloaded, text)
        })?;
        // The rest is looked at by the segment writer, which may wait for the disk.
        let claim = self.reserve(ChunkName { pool, chunk })?;
        self.store_small(claim, data, crc, false).await
    }

    /// Lets the segment writer store a small chunk, and waits for it.
    async fn store_small(&self, claim: Claim, data: Bytes, crc: Crc, replaces: bool) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let write = SmallWrite {
            claim,
            data,
            crc,
            replaces,
            reply,
        };
        let sent = self.small_writes()?.send(write).await;
        sent.map_err(|_| segment::stopped())?;
        answer.await.unwrap_or_else(|_| Err(segment::stopped()))
    }

    /// The queue of the segment writer.
    fn small_writes(&self) -> Result<mpsc::Sender<SmallWrite>> {
        let queue = self.0.small_writes.lock();
        let queue = queue.unwrap_or_else(PoisonError::into_inner);
        queue.clone().ok_or_else(segment::stopped)
    }

    /// Takes an id for a writer, if the disk takes writes at all and does not have the id.
    fn claim(&self, name: ChunkName) -> Result<Claim> {
        // The claim comes first: whoever seals adds to the index before letting go.
        let claim = self.reserve(name)?;
        self.0.shared.check_unused(name)?;
        claim.open();
        Ok(claim)
    }

    /// [`Disk::claim`] without a look into the index.
    fn reserve(&self, name: ChunkName) -> Result<Claim> {
        let shared = &self.0.shared;
        shared.health.check()?;
        if shared.stopping.load(Ordering::Acquire) {
            return Err(segment::stopped());
        }
        let claim = shared.claims.reserve(name);
        claim.ok_or_else(|| shared.used(name))
    }

    /// Reads the blocks of a chunk that cover `offset..offset + len`, with their stored CRCs; the reader
    /// checks them. Blocks.
    ///
    /// Errors: `ChunkMissing` if the chunk, or so much of it, is not here; `ChecksumMismatch` if it was set
    /// aside, can not be read or is not what it should be; `Malformed` for an impossible range.
    pub fn read(&self, pool: PoolId, chunk: ChunkId, offset: u32, len: u32) -> Result<ChunkData> {
        let name = ChunkName { pool, chunk };
        twice(|| reading::read(&self.0.shared, &self.0.read_buffers, name, offset, len))
    }

    /// What the file of a sealed large chunk holds; `None` for open and small chunks. Blocks.
    ///
    /// Errors: `ChunkMissing`; `ChecksumMismatch` if it was set aside.
    pub fn layout(&self, pool: PoolId, chunk: ChunkId) -> Result<Option<ChunkLayout>> {
        reading::layout(&self.0.shared, ChunkName { pool, chunk })
    }

    /// Opens the file of a sealed large chunk, for reading only. Blocks.
    ///
    /// Errors: `ChunkMissing`; `ChecksumMismatch` if it was set aside or can not be opened.
    pub fn open_file(&self, pool: PoolId, chunk: ChunkId) -> Result<File> {
        reading::open_file(&self.0.shared, ChunkName { pool, chunk })
    }

    /// What the disk knows of a chunk: `None` if nothing.
    pub fn stat(&self, pool: PoolId, chunk: ChunkId) -> Result<Option<ChunkInfo>> {
        let name = ChunkName { pool, chunk };
        let shared = &self.0.shared;
        let (open, entry) = match shared.claims.get(name) {
            Some(durable) => (true, durable),
            None => (false, shared.index.get(name)?.map(Arc::new)),
        };
        // A bad copy counts as nothing else while it is replaced.
        let state = match shared.is_bad(name) {
            true => ChunkState::SetAside,
            false if open => ChunkState::Open,
            false if entry.is_some() => ChunkState::Sealed,
            false => return Ok(None),
        };
        Ok(Some(ChunkInfo::new(entry.as_deref(), state)))
    }

    /// Every chunk of the disk, in no order that means anything: the open and the set-aside ones in memory,
    /// the sealed ones as they were when this was called. Blocks.
    pub fn chunks(&self) -> impl Iterator<Item = Result<(ChunkName, ChunkInfo)>> {
        let shared = &self.0.shared;
        let open =
            shared.claims.all().into_iter().map(|(name, durable)| {
                (name, ChunkInfo::new(durable.as_deref(), ChunkState::Open))
            });
        // Bad copies without an entry are known by their marks alone.
        let aside =
            shared
                .aside
                .names()
                .into_iter()
                .filter_map(|name| match shared.index.contains(name) {
                    Ok(true) => None,
                    Ok(false) => Some(Ok((name, ChunkInfo::new(None, ChunkState::SetAside)))),
                    Err(error) => Some(Err(error)),
                });
        let sealed = shared.index.entries().map(|item| {
            let (name, entry) = item?;
            let state = match shared.is_bad(name) {
                true => ChunkState::SetAside,
                false => ChunkState::Sealed,
            };
            Ok((name, ChunkInfo::new(Some(&entry), state)))
        });
        open.map(Ok).chain(aside).chain(sealed)
    }

    /// How many sealed chunks there are, and their bytes; kept, not counted.
    pub fn counts(&self) -> Counts {
        self.0.shared.index.counts()
    }

    /// How many chunks are being written now.
    pub fn open_count(&self) -> usize {
        self.0.shared.claims.count()
    }

    /// The room of the disk; trash counts as free.
    pub fn space(&self) -> Result<Space> {
        self.0.shared.space()
    }

    /// Bytes of the free space that are in the trash.
    pub fn trash_len(&self) -> u64 {
        self.0.shared.trash.len()
    }

    /// Empties the trash of what is older than a day, and of more if room is short; then compacts at most one segment.
    /// Blocks.
    ///
    /// # Errors
    /// IO errors; those of [`Disk::compact`].
    pub fn tidy(&self) -> Result<()> {
        let shared = &self.0.shared;
        let too_old = SystemTime::now().checked_sub(TRASH_AGE_MAX);
        too_old.map_or(Ok(()), |time| shared.trash.remove_older(time))?;
        shared.make_room()?;
        self.compact().map(drop)
    }

    /// Marks a chunk as a bad copy: it is not served any more and its id stays refused. Durable when it
    /// returns. Blocks.
    ///
    /// Errors: `ChunkMissing` if the disk does not have it sealed; `DiskFailed`.
    pub fn set_aside(&self, pool: PoolId, chunk: ChunkId, reason: &str) -> Result<()> {
        let name = ChunkName { pool, chunk };
        let shared = &self.0.shared;
        shared.health.check()?;
        if !shared.index.contains(name)? {
            return Err(Error::new(
                Code::ChunkMissing,
                format!("{name} is not on disk {}", shared.identity.disk),
            ));
        }
        shared.aside.put(name, reason, &shared.health)
    }

    /// Whether the bytes of a chunk that the disk has sealed are what they should be, read from the disk. A bad
    /// copy ends at its longest flush that verifies; one without any is set aside. `false` for both, and if the
    /// chunk is not here or was set aside already. Blocks.
    ///
    /// Errors: those of the index, `DiskFailed`.
    pub fn verify(&self, pool: PoolId, chunk: ChunkId) -> Result<bool> {
        let name = ChunkName { pool, chunk };
        let shared = &self.0.shared;
        if shared.claims.get(name).is_some() {
            return Ok(true);
        }
        if shared.is_bad(name) {
            return Ok(false);
        }
        let verified = twice(|| {
            let Some(entry) = shared.index.get(name)? else {
                return Ok(false);
            };
            let verified = reading::verify(&shared.path_of(name, &entry), name, &entry);
            verified.map(|()| true)
        });
        match verified {
            Ok(is_good) => Ok(is_good),
            Err(error) if is_of_chunk(&error) => self.settle(name),
            Err(error) => Err(error),
        }
    }

    /// Looks once more at a chunk that seems to be bad, while nobody moves, replaces or deletes it, and marks it if it is:
    /// an error of the disk may pass. Whether it is good.
    fn settle(&self, name: ChunkName) -> Result<bool> {
        let shared = &self.0.shared;
        let look = || shared.index.get(name);
        // Who has it has the last word.
        let Some(claim) = shared.claims.claim_again(name, look)? else {
            return Ok(false);
        };
        let Some(entry) = claim.durable() else {
            return Ok(false);
        };
        match reading::verify(&shared.path_of(name, &entry), name, &entry) {
            Ok(()) => Ok(true),
            Err(error) if is_of_chunk(&error) => {
                if !self.is_shortened(&claim, &entry) {
                    shared.aside.put(name, &error.text, &shared.health)?;
                }
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the mark from a chunk that was set aside, or was missing, if all of its bytes are what its entry says after
    /// all: an error of the disk may have passed, or somebody has brought the file back. Whether they are. Blocks.
    ///
    /// Errors: those of the index, `DiskFailed`.
    pub fn reconsider(&self, pool: PoolId, chunk: ChunkId) -> Result<bool> {
        let name = ChunkName { pool, chunk };
        let shared = &self.0.shared;
        if !shared.is_bad(name) {
            return Ok(false);
        }
        let look = || shared.index.get(name);
        let Some(claim) = shared.claims.claim_again(name, look)? else {
            return Ok(false);
        };
        let Some(entry) = claim.durable() else {
            return Ok(false);
        };
        match reading::verify(&shared.path_of(name, &entry), name, &entry) {
            Ok(()) => replica::unmark(shared, name).map(|()| true),
            Err(error) if is_of_chunk(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets a chunk whose bytes are not what `entry` says end at its longest flush that verifies, if it has one.
    fn is_shortened(&self, claim: &Claim, entry: &Entry) -> bool {
        let (shared, name) = (&self.0.shared, claim.name());
        if matches!(entry, Entry::Small { .. }) {
            return false;
        }
        let part = match recovery::part_of(&shared.chunk_path(name), shared.owner(name)) {
            Ok(Some(part)) if part.len() < entry.len() => part,
            Ok(_) => return false,
            Err(error) => {
                tracing::warn!("{name} can not be looked at: {error}");
                return false;
            }
        };
        let (len, old_len) = (part.len(), entry.len());
        claim.set_durable(part.clone());
        match shared.index.replace(name, part) {
            Ok(()) => {
                tracing::warn!("{name} is whole up to {len} bytes of {old_len}, and ends there")
            }
            Err(error) => tracing::warn!("{error}"),
        }
        true
    }

    /// The CRC of the first `len` bytes of a chunk, which are durable here; `None` if they are not, or the copy
    /// was set aside. Reads one block at most. Blocks.
    ///
    /// Errors: `ChecksumMismatch` if that block is bad; those of the index.
    pub fn prefix_crc(&self, pool: PoolId, chunk: ChunkId, len: u32) -> Result<Option<Crc>> {
        let name = ChunkName { pool, chunk };
        let shared = &self.0.shared;
        if shared.is_bad(name) {
            return Ok(None);
        }
        twice(|| {
            let entry = match shared.claims.get(name) {
                Some(durable) => durable,
                None => shared.index.get(name)?.map(Arc::new),
            };
            let Some(entry) = entry.filter(|entry| entry.len() >= len) else {
                return Ok(None);
            };
            reading::prefix_crc(&shared.path_of(name, &entry), name, &entry, len).map(Some)
        })
    }

    /// Deletes a chunk in whatever state it is: moves its file to the trash or takes its record out of the
    /// index, and forgets the mark of a bad copy. `allowed` is asked last, when nobody else can begin to
    /// write, replace or confirm the chunk; `false` if it says no, or if nothing is there. After a crash the
    /// chunk may be there again, whole: who wants it gone finds it again. Blocks.
    ///
    /// Errors: `Busy` while it is being written or replaced; `DiskFailed`, IO errors.
    pub fn delete(
        &self,
        pool: PoolId,
        chunk: ChunkId,
        allowed: impl FnOnce() -> bool,
    ) -> Result<bool> {
        delete::delete(&self.0.shared, ChunkName { pool, chunk }, allowed)
    }

    /// Which disk of which cluster this is.
    pub fn identity(&self) -> DiskIdentity {
        self.0.shared.identity
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0.shared.rooms.root
    }

    /// The number of this start.
    pub fn open_number(&self) -> OpenNumber {
        self.0.shared.opens.current
    }

    /// Remembers that the metaservers have registered this start. Blocks.
    ///
    /// Errors: those of the disk.
    pub fn confirm_start(&self) -> Result<()> {
        identity::confirm(self.path(), self.0.shared.opens)
    }

    /// The number of the last start that was registered; 0 if there was none or it was lost.
    pub fn previous_open_number(&self) -> OpenNumber {
        self.0.shared.opens.previous
    }

    /// What this start found and did.
    pub fn report(&self) -> Report {
        self.0.report
    }

    /// Takes up to `limit` of the chunks that this start found missing: they were deleted, or are lost here. Each is told
    /// once a start, until it is replaced or deleted.
    pub fn take_missing(&self, limit: usize) -> Vec<ChunkName> {
        self.0.shared.missing.take_untold(limit)
    }

    /// Whether a start found a chunk missing, and nothing has taken its place since.
    pub fn is_missing(&self, pool: PoolId, chunk: ChunkId) -> bool {
        self.0.shared.missing.contains(ChunkName { pool, chunk })
    }

    /// Whether the disk failed and refuses writes.
    pub fn is_failed(&self) -> bool {
        self.failure().is_some()
    }

    /// Why the disk failed.
    pub fn failure(&self) -> Option<&str> {
        self.0.shared.health.failure()
    }

    /// Stops taking writes, ends those that wait, and makes the index durable, so that the next start is
    /// quick. Writers of chunks that are still held are given a few seconds to end. The directory stays
    /// locked until the last handle is gone. Blocks.
    pub fn stop(&self) -> Result<()> {
        self.0.shared.stopping.store(true, Ordering::Release);
        self.0.end_segment_writer();
        let until = Instant::now() + STOP_WAIT;
        while self.0.shared.claims.count() > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.0.shared.index.flush()
    }
}

/// A look at the index and then at a file; another one if the file is gone, since it may have been a segment that was
/// compacted in between.
fn twice<T>(mut look: impl FnMut() -> Result<T>) -> Result<T> {
    look().or_else(|error| match error.code {
        Code::ChunkMissing => look(),
        _ => Err(error),
    })
}

/// Whether an error says that what a disk has of a chunk is bad, and not that the disk failed.
fn is_of_chunk(error: &Error) -> bool {
    error.kind() == Kind::Corrupt && error.code != Code::DiskFailed
}

impl Front {
    fn stuck(&self) -> MutexGuard<'_, Stuck> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_segment_writer(&self) {
        drop(
            self.small_writes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        if let Some(thread) = self
            .segment_writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            && thread.join().is_err()
        {
            tracing::error!(
                "the segment writer of {} panicked",
                self.shared.rooms.root.display()
            );
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.end_segment_writer();
    }
}
