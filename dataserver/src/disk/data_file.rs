//! Files of data: aligned buffers, direct IO, syncs.

use super::health::Health;
use super::layout::SECTOR_LEN;
use quarry_common::limits::FRAME_LEN_MAX;
use quarry_common::{Code, Error, Result};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// One write to the disk is at most this long: direct writes of 1 MiB were the fastest measured.
pub const BUFFER_LEN: usize = FRAME_LEN_MAX;

/// Bytes on their way to the disk, aligned as direct IO asks.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Buffer {
    fn new() -> Buffer {
        let bytes = vec![0; BUFFER_LEN + SECTOR_LEN];
        let start = bytes.as_ptr().align_offset(SECTOR_LEN);
        Buffer {
            bytes,
            start,
            filled: 0,
        }
    }

    /// Appends as much of `bytes` as fits and returns how much that was.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(BUFFER_LEN - self.filled);
        let at = self.start + self.filled;
        self.bytes[at..at + len].copy_from_slice(&bytes[..len]);
        self.filled += len;
        len
    }

    /// Fills up to a multiple of `unit`, a divisor of the buffer's length, with zeros.
    pub fn pad_to(&mut self, unit: usize) {
        let padded = self.filled.next_multiple_of(unit);
        self.bytes[self.start + self.filled..self.start + padded].fill(0);
        self.filled = padded;
    }

    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether nothing more fits.
    pub fn is_full(&self) -> bool {
        self.filled == BUFFER_LEN
    }

    /// What it holds.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.filled]
    }

    /// Forgets what it holds.
    pub fn clear(&mut self) {
        self.filled = 0;
    }
}

/// Buffers to be used again: the first touch of fresh memory is slower than the disk.
#[derive(Default)]
pub struct Buffers(Mutex<Vec<Buffer>>);

/// Buffers kept; more are given back to the system.
const BUFFERS_KEPT: usize = 16;

impl Buffers {
    /// An empty buffer.
    pub fn take(&self) -> Buffer {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_else(Buffer::new)
    }

    /// Takes a buffer back.
    pub fn give(&self, mut buffer: Buffer) {
        buffer.clear();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS_KEPT {
            kept.push(buffer);
        }
    }
}

/// A file that is written in whole sectors.
pub struct DataFile {
    file: File,
    path: PathBuf,
}

impl DataFile {
    /// Creates a file that must not exist; `ChunkUsed` if it does.
    pub fn create(path: &Path, direct_io: bool, health: &Health) -> Result<DataFile> {
        let file = options(direct_io)
            .create_new(true)
            .open(path)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => Error::new(
                    Code::ChunkUsed,
                    format!("{} is there already: take another id", path.display()),
                ),
                _ => health.write_error("create", path, error),
            })?;
        Ok(DataFile {
            file,
            path: path.to_path_buf(),
        })
    }

    /// Opens an existing file for writing.
    pub fn open(path: &Path, direct_io: bool, health: &Health) -> Result<DataFile> {
        let file = options(direct_io)
            .open(path)
            .map_err(|error| health.write_error("open", path, error))?;
        Ok(DataFile {
            file,
            path: path.to_path_buf(),
        })
    }

    /// Reserves space for `len` bytes from the start; the file is then that long. A file system that
    /// can not reserve is left to allocate as it goes.
    pub fn allocate(&self, len: u64, health: &Health) -> Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(health.write_error("allocate", &self.path, error.into())),
        }
    }

    /// Writes `bytes`, whole sectors from a [`Buffer`], at `at`.
    pub fn write(&self, at: u64, bytes: &[u8], health: &Health) -> Result<()> {
        debug_assert!(
            at.is_multiple_of(SECTOR_LEN as u64) && bytes.len().is_multiple_of(SECTOR_LEN)
        );
        self.file
            .write_all_at(bytes, at)
            .map_err(|error| health.write_error("write", &self.path, error))
    }

    /// Cuts the file or lets it grow to `len` bytes.
    pub fn set_len(&self, len: u64, health: &Health) -> Result<()> {
        self.file
            .set_len(len)
            .map_err(|error| health.write_error("set the length of", &self.path, error))
    }

    /// The length of the file in bytes.
    pub fn len(&self) -> Result<u64> {
        Ok(self
            .file
            .metadata()
            .map_err(|error| super::health::io_error("stat", &self.path, error))?
            .len())
    }

    /// Makes what was written durable, with the length of the file. A failure is final for the disk.
    pub fn sync(&self, health: &Health) -> Result<()> {
        #[cfg(test)]
        if health.syncs_fail.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(health.sync_error(&self.path, rustix::io::Errno::IO.into()));
        }
        self.file
            .sync_data()
            .map_err(|error| health.sync_error(&self.path, error))
    }
}

fn options(direct_io: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if direct_io {
        options.custom_flags(OFlags::DIRECT.bits() as i32);
    }
    options
}

/// Makes the names in a directory durable; a failure is final for the disk.
pub fn sync_directory(path: &Path, health: &Health) -> Result<()> {
    quarry_common::durable::sync_directory(path).map_err(|error| health.sync_error(path, error))
}

/// Whether the file system of `dir` takes direct writes of a sector.
pub fn takes_direct_io(dir: &Path) -> Result<bool> {
    let path = dir.join("direct-io.probe");
    let mut buffer = Buffer::new();
    buffer.push(&[1; SECTOR_LEN]);
    let attempt = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(&path)
        .and_then(|file| file.write_all_at(buffer.bytes(), 0));
    let removed = std::fs::remove_file(&path);
    match attempt {
        Ok(()) => removed
            .map(|()| true)
            .map_err(|error| super::health::io_error("remove", &path, error)),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err::<bool, Error>(super::health::io_error("write", &path, error)),
    }
}
