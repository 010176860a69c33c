//! Reading local files for an upload, holes left out.

use super::local_error;
use super::xattrs::{self, Xattrs};
use crate::file::source::{Piece, Source, cut_zeros};
use crate::progress::Progress;
use bytes::Bytes;
use quarry_common::error::{Code, Error, Result};
use quarry_common::limits::BLOCK_LEN;
use rustix::fs::SeekFrom;
use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinHandle;

/// Bytes read at a time.
const READ_LEN: u64 = 1 << 20;

/// A local file that is read block by block, one block ahead.
pub struct LocalFile {
    path: PathBuf,
    pieces: VecDeque<Piece>,
    next: Option<JoinHandle<(Cursor, io::Result<Step>)>>,
    progress: Option<Arc<Progress>>,
    counted: u64,
    finished: bool,
    /// It was written to while it was read.
    changed: bool,
}

/// A file that was opened, and what goes with its bytes.
pub struct Opened {
    /// Its bytes.
    pub file: LocalFile,
    /// Mode, owner, times.
    pub meta: Metadata,
    /// Extended attributes of users.
    pub xattrs: Xattrs,
}

/// Where reading is.
struct Cursor {
    file: File,
    /// What it was when it was opened.
    meta: Metadata,
    at: u64,
    /// Up to here there is data, as far as is known.
    data_until: u64,
    sparse: bool,
    /// All of it was read.
    ended: bool,
    /// It was written to until then.
    changed: bool,
}

/// What one read found.
enum Step {
    Data(Bytes),
    Zeros(u64),
    End,
}

impl Cursor {
    /// Reads on; at the end looks whether the file is still the one that was opened.
    fn step(&mut self) -> io::Result<Step> {
        let step = self.read()?;
        self.ended = match &step {
            Step::End => true,
            Step::Data(bytes) => (bytes.len() as u64) < READ_LEN && !self.sparse,
            Step::Zeros(_) => false,
        };
        if self.ended {
            self.changed = self.has_changed()?;
        }
        Ok(step)
    }

    /// Whether the file was written to since it was opened. (Some of the kernel's files are shorter than they say.)
    ///
    /// # Errors
    /// It became shorter before all of it was read.
    fn has_changed(&self) -> io::Result<bool> {
        let now = self.file.metadata()?;
        let (len, was) = (now.len(), self.meta.len());
        if self.at < was && len < was {
            return Err(io::Error::other(format!(
                "it shrank from {was} to {len} bytes meanwhile: put it again when nobody writes to it"
            )));
        }
        let written_at = |meta: &Metadata| (meta.mtime(), meta.mtime_nsec());
        Ok(len != was || written_at(&now) != written_at(&self.meta))
    }

    fn read(&mut self) -> io::Result<Step> {
        if self.sparse && self.at >= self.data_until {
            let size = self.file.metadata()?.len();
            if self.at >= size {
                return Ok(Step::End);
            }
            let data = match rustix::fs::seek(&self.file, SeekFrom::Data(self.at)) {
                Ok(data) => data,
                // No data up to the end.
                Err(rustix::io::Errno::NXIO) => size,
                // This file system does not tell: everything is read.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {
                    self.sparse = false;
                    self.at
                }
                Err(error) => return Err(error.into()),
            };
            let block = BLOCK_LEN as u64;
            let skip_to = if data >= size {
                size
            } else {
                data / block * block
            };
            if self.sparse && data < size {
                let hole = match rustix::fs::seek(&self.file, SeekFrom::Hole(data)) {
                    // It shrank just now: reading finds the end.
                    Err(rustix::io::Errno::NXIO) => size,
                    found => found?,
                };
                self.data_until = hole.next_multiple_of(block);
            }
            if skip_to > self.at {
                let zeros = skip_to - self.at;
                self.at = skip_to;
                return Ok(Step::Zeros(zeros));
            }
        }
        let mut wanted = READ_LEN;
        if self.sparse {
            wanted = wanted.min(self.data_until.max(self.at + 1) - self.at);
        }
        let mut bytes: Vec<u8> = Vec::with_capacity(wanted as usize);
        // Whole buffers, so that blocks stay aligned to the file.
        while (bytes.len() as u64) < wanted {
            let at = self.at + bytes.len() as u64;
            let room = rustix::buffer::spare_capacity(&mut bytes);
            match rustix::io::pread(&self.file, room, at) {
                Ok(0) => break,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.at += bytes.len() as u64;
        Ok(match bytes.is_empty() {
            true => Step::End,
            false => Step::Data(bytes.into()),
        })
    }
}

impl LocalFile {
    /// Opens a regular file and reads its first block. The bytes are counted in `progress`, and
    /// taken back if the transfer does not come to its end.
    ///
    /// # Errors
    /// As open(2), naming the file.
    pub async fn open(path: &Path, progress: Option<Arc<Progress>>) -> Result<Opened> {
        let path = path.to_path_buf();
        let opened = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || {
                // A pipe that took the file's place must not hold us up.
                use std::os::unix::fs::OpenOptionsExt;
                let file = File::options()
                    .read(true)
                    .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
                    .open(&path)?;
                let meta = file.metadata()?;
                if !meta.is_file() {
                    return Err(io::Error::other("it is not a regular file"));
                }
                let xattrs = xattrs::read(&file)?;
                let mut cursor = Cursor {
                    sparse: meta.blocks() * 512 < meta.len(),
                    file,
                    meta: meta.clone(),
                    at: 0,
                    data_until: 0,
                    ended: false,
                    changed: false,
                };
                let first = cursor.step()?;
                Ok((cursor, first, meta, xattrs))
            })
            .await
        };
        let (cursor, first, meta, xattrs) = opened
            .map_err(|error| Error::bug("a file's reader failed").with_source(error))?
            .map_err(|error| local_error(&path, "be read", error))?;
        let mut file = LocalFile {
            path,
            pieces: VecDeque::new(),
            next: None,
            progress,
            counted: 0,
            finished: false,
            changed: false,
        };
        // A short first block is nearly always all there is; only a read can tell.
        file.handle(cursor, first);
        Ok(Opened { file, meta, xattrs })
    }

    fn handle(&mut self, mut cursor: Cursor, step: Step) {
        match step {
            Step::End => {}
            Step::Zeros(len) => self.pieces.push_back(Piece::Zeros(len)),
            Step::Data(bytes) => self.pieces = cut_zeros(bytes),
        }
        if cursor.ended {
            self.changed = cursor.changed;
            return;
        }
        self.next = Some(tokio::task::spawn_blocking(move || {
            let step = cursor.step();
            (cursor, step)
        }));
    }

    /// The transfer has come to its end: what was counted stays counted.
    ///
    /// # Errors
    /// `Busy`: the file was written to meanwhile, so that what was read may be what it never was.
    pub fn finish(&mut self) -> Result<()> {
        self.finished = true;
        if !self.changed {
            return Ok(());
        }
        let text = format!(
            "{}: changed while it was read; what was read is stored: put it again when nobody writes to it",
            self.path.display()
        );
        Err(Error::new(Code::Busy, text))
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        if let (Some(progress), false) = (&self.progress, self.finished) {
            progress.bytes.fetch_sub(self.counted, Ordering::Relaxed);
        }
    }
}

impl Source for &mut LocalFile {
    async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                let len = match &piece {
                    Piece::Data(bytes) => bytes.len() as u64,
                    Piece::Zeros(len) => *len,
                };
                self.counted += len;
                if let Some(progress) = &self.progress {
                    Progress::add(&progress.bytes, len);
                }
                return Ok(Some(piece));
            }
            let Some(next) = self.next.take() else {
                return Ok(None);
            };
            let (cursor, step) = next
                .await
                .map_err(|error| Error::bug("a file's reader failed").with_source(error))?;
            let step = step.map_err(|error| local_error(&self.path, "be read", error))?;
            self.handle(cursor, step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};
    use std::os::unix::fs::FileExt;

    async fn pieces(path: &Path) -> Vec<Piece> {
        let mut file = LocalFile::open(path, None).await.unwrap().file;
        let mut source = &mut file;
        let mut all = Vec::new();
        while let Some(piece) = source.next().await.unwrap() {
            all.push(piece);
        }
        all
    }

    fn content(pieces: &[Piece]) -> Vec<u8> {
        let mut all = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Data(bytes) => all.extend_from_slice(bytes),
                Piece::Zeros(len) => all.resize(all.len() + *len as usize, 0),
            }
        }
        all
    }

    #[tokio::test]
    async fn a_sparse_file_is_read_without_its_holes_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"begin").unwrap();
        file.seek(io::SeekFrom::Start((5 << 20) + 4_096)).unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        file.set_len(9 << 20).unwrap();
        drop(file);
        let pieces = pieces(&path).await;
        assert!(content(&pieces) == std::fs::read(&path).unwrap());
        let data: usize = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Data(bytes) => bytes.len(),
                Piece::Zeros(_) => 0,
            })
            .sum();
        assert!(data <= 5 * BLOCK_LEN, "{data}");
    }

    #[tokio::test]
    async fn a_file_that_is_written_to_while_it_is_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let touched = File::create(&path).unwrap();
        for len in [1_000, 3 << 20] {
            std::fs::write(&path, vec![1; len]).unwrap();
            for (to, failed) in [(len as u64, false), (len as u64, true), (9 << 20, true)] {
                let mut file = LocalFile::open(&path, None).await.unwrap().file;
                // A short one has been read by now.
                let told = failed && len > 1_000;
                if failed {
                    touched.set_len(to).unwrap();
                    touched.set_modified(std::time::UNIX_EPOCH).unwrap();
                }
                let mut source = &mut file;
                while source.next().await.unwrap().is_some() {}
                let finished = file.finish();
                assert_eq!(finished.is_err(), told, "{len} to {to}");
                if let Err(error) = finished {
                    assert!(error.text.contains("file: changed while"), "{error}");
                }
                std::fs::write(&path, vec![1; len]).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_shrinks_while_it_is_read_fails_and_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for sparse in [false, true] {
            let file = File::create(&path).unwrap();
            if !sparse {
                std::fs::write(&path, vec![1; 9 << 20]).unwrap();
            }
            file.set_len(9 << 20).unwrap();
            file.write_all_at(b"x", 5 << 20).unwrap();
            let mut reading = LocalFile::open(&path, None).await.unwrap().file;
            file.set_len(3).unwrap();
            let mut source = &mut reading;
            let error = loop {
                match source.next().await {
                    Ok(piece) => assert!(piece.is_some(), "it ended as if nothing had been"),
                    Err(error) => break error,
                }
            };
            assert!(
                error
                    .text
                    .contains("file: can not be read: it shrank from 9437184 to 3 bytes"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn files_around_the_length_of_a_read_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for len in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
            let bytes: Vec<u8> = (0..len).map(|at: usize| (at % 251) as u8 + 1).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert!(content(&pieces(&path).await) == bytes, "{len}");
        }
    }
}
