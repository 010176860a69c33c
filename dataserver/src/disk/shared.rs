//! What the threads of a disk share.

use super::aside::Aside;
use super::chunk_format::Owner;
use super::claims::Claims;
use super::data_file::Buffers;
use super::entry::Entry;
use super::health::Health;
use super::identity::{DiskIdentity, Opens, Rooms};
use super::index::Index;
use super::missing::Missing;
use super::name::ChunkName;
use super::segment_format::SegmentId;
use super::space::{COLLECT_FREE_PERMILLE, REPAIR_FREE_PERMILLE, Space};
use super::trash::Trash;
use quarry_common::{Code, Error, Result};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// An entry for which there was no room is stored again after so long.
const ENTRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The parts of an open disk.
pub struct Shared {
    pub identity: DiskIdentity,
    pub opens: Opens,
    pub rooms: Rooms,
    /// Whether data is written past the page cache.
    pub direct_io: bool,
    /// Percent that client writes leave free.
    pub free_percent: u8,
    pub health: Arc<Health>,
    pub index: Index,
    pub claims: Arc<Claims>,
    pub aside: Aside,
    pub missing: Missing,
    pub trash: Trash,
    pub buffers: Buffers,
    pub stopping: AtomicBool,
    /// The segment that is being written.
    pub active: Mutex<Option<SegmentId>>,
    /// Held while anything of the disk lives.
    pub _lock: File,
}

impl Shared {
    /// Where the file of a chunk is.
    pub fn chunk_path(&self, name: ChunkName) -> PathBuf {
        chunk_path(&self.rooms, name)
    }

    /// Where a segment is.
    pub fn segment_path(&self, segment: SegmentId) -> PathBuf {
        segment_path(&self.rooms, segment)
    }

    /// Where the bytes of a chunk are.
    pub fn path_of(&self, name: ChunkName, entry: &Entry) -> PathBuf {
        match entry {
            Entry::File { .. } => self.chunk_path(name),
            Entry::Small { segment, .. } => self.segment_path(*segment),
        }
    }

    /// What the records of a chunk must say.
    pub fn owner(&self, name: ChunkName) -> Owner {
        owner(self.identity, name)
    }

    /// Makes a durable chunk readable. The index is derived, but without an entry the chunk could not be
    /// found until the next start: so the disk fails, unless there is just no room.
    pub fn add_to_index(&self, name: ChunkName, entry: Entry) -> Result<()> {
        self.index
            .replace(name, entry)
            .map_err(|error| self.index_failed(&error))
    }

    /// Makes a chunk readable that may have been acknowledged: waits until there is room for its entry, for as long as
    /// the disk is not stopped. Whoever calls holds its claim, so it is found meanwhile.
    pub fn insist_on_entry(&self, name: ChunkName, entry: Entry) -> Result<()> {
        loop {
            match self.add_to_index(name, entry.clone()) {
                Err(error)
                    if error.code == Code::DiskFull && !self.stopping.load(Ordering::Acquire) =>
                {
                    tracing::warn!("{name} waits for its entry: {error}");
                    self.make_room()?;
                    std::thread::sleep(ENTRY_AGAIN_AFTER);
                }
                settled => return settled,
            }
        }
    }

    /// Whether what the disk should have of a chunk is a bad copy, or is missing.
    pub fn is_bad(&self, name: ChunkName) -> bool {
        self.aside.reason(name).is_some() || self.missing.contains(name)
    }

    /// That a chunk is not here.
    pub fn missing(&self, name: ChunkName) -> Error {
        let text = format!("{name} is not on disk {}", self.identity.disk);
        Error::new(Code::ChunkMissing, text)
    }

    /// That an id can not be used for a new chunk.
    pub fn used(&self, name: ChunkName) -> Error {
        let disk = self.identity.disk;
        let text = format!("{name} is or was on disk {disk}: take another id");
        Error::new(Code::ChunkUsed, text)
    }

    /// `ChunkUsed` if the disk has the chunk in any state but open.
    pub fn check_unused(&self, name: ChunkName) -> Result<()> {
        match self.index.contains(name)? || self.aside.reason(name).is_some() {
            true => Err(self.used(name)),
            false => Ok(()),
        }
    }

    /// The index could not be written. That there is no room passes; after anything else the database takes no more
    /// writes until the next start.
    pub fn index_failed(&self, error: &Error) -> Error {
        match error.code {
            Code::DiskFull => error.clone(),
            _ => self.health.fail(error.text.clone()),
        }
    }

    /// What its file system says. A disk that can not even say that is gone.
    fn file_system(&self) -> Result<Space> {
        Space::of(&self.rooms.root).map_err(|error| self.health.fail(error.text))
    }

    /// The room of the disk; trash counts as free.
    pub fn space(&self) -> Result<Space> {
        let space = self.file_system()?;
        Ok(Space {
            free: (space.free + self.trash.len()).min(space.total),
            ..space
        })
    }

    /// Per mille of the disk that work which may leave so little free, leaves free.
    fn reserve(&self, permille: u16) -> u16 {
        permille.min(u16::from(self.free_percent) * 10)
    }

    /// `DiskFull` if a client may not write `len` bytes more.
    pub fn check_space(&self, len: u64) -> Result<()> {
        self.check_free(u16::from(self.free_percent) * 10, len)
    }

    /// `DiskFull` if repair may not write `len` bytes more.
    pub fn check_repair_space(&self, len: u64) -> Result<()> {
        self.check_free(self.reserve(REPAIR_FREE_PERMILLE), len)
    }

    /// `DiskFull` if compaction may not write `len` bytes more.
    pub fn check_collect_space(&self, len: u64) -> Result<()> {
        self.check_free(self.reserve(COLLECT_FREE_PERMILLE), len)
    }

    fn check_free(&self, permille: u16, len: u64) -> Result<()> {
        let lacking = self.file_system()?.lacking(permille, len);
        if lacking == 0 {
            return Ok(());
        }
        self.trash.free(lacking)?;
        self.file_system()?.check(permille, len, &self.rooms.root)
    }

    /// Empties the trash until twice of what clients leave free is free, or nothing is left in it. Clients whose disk is on
    /// the same file system can not empty it: they are not to be refused before this was looked at again.
    pub fn make_room(&self) -> Result<()> {
        let permille = (2 * u16::from(self.free_percent) * 10).min(1000);
        let lacking = self.file_system()?.lacking(permille, 0);
        self.trash.free(lacking)
    }

    /// The segment that is being written.
    pub fn active_segment(&self) -> Option<SegmentId> {
        *self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another segment is being written from now on, or none.
    pub fn set_active_segment(&self, segment: Option<SegmentId>) {
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = segment;
    }
}

/// Where the file of a chunk is.
pub fn chunk_path(rooms: &Rooms, name: ChunkName) -> PathBuf {
    rooms.folder(name.folder()).join(name.file_name())
}

/// Where the file of a copy is until it is whole: beside the chunk file whose place it takes.
pub fn copy_path(rooms: &Rooms, name: ChunkName) -> PathBuf {
    let file_name = name.file_name() + COPY_SUFFIX;
    rooms.folder(name.folder()).join(file_name)
}

/// Ends the file name of a copy that is not whole.
pub const COPY_SUFFIX: &str = ".copy";

/// Where a segment is.
pub fn segment_path(rooms: &Rooms, segment: SegmentId) -> PathBuf {
    rooms.segments.join(format!("{:08x}", segment.0))
}

/// The segment of a file name; exactly what [`segment_path`] writes.
pub fn parse_segment(text: &str) -> Option<SegmentId> {
    let segment = u32::from_str_radix(text, 16).ok()?;
    (format!("{segment:08x}") == text).then_some(SegmentId(segment))
}

/// What the records of a chunk on a disk must say.
pub fn owner(identity: DiskIdentity, name: ChunkName) -> Owner {
    Owner {
        cluster: identity.cluster,
        disk: identity.disk,
        pool: name.pool,
        chunk: name.chunk,
    }
}
