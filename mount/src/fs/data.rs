//! Contents: reading, writing, holes, copies.

use super::open::OpenFile;
use crate::caller::Asker;
use crate::core::Core;
use crate::errno::Answer;
use bytes::Bytes;
use fuser::{Errno, WriteFlags};
use std::sync::Arc;

/// As many bytes are copied in one call at most: its answer is a number of 32 bits.
const COPY_MAX: u64 = 1 << 30;

impl Core {
    pub async fn read(&self, open: Arc<OpenFile>, offset: u64, len: u32) -> Answer<Vec<Bytes>> {
        Ok(open.file.read_at(offset, len as usize).await?)
    }

    pub async fn write(
        &self,
        asker: Asker,
        open: Arc<OpenFile>,
        (offset, appends): (u64, bool),
        bytes: Bytes,
        flags: WriteFlags,
    ) -> Answer<u32> {
        let len = bytes.len() as u32;
        // First: whoever is killed in between has changed nothing.
        if flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            self.wrote(asker, open.file.inode()).await?;
        }
        // Pages of a mapping are where they are, whatever handle the kernel writes them through.
        let is_page = flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        match appends && !is_page {
            true => {
                open.file.append(bytes).await?;
            }
            false => open.file.write_at(offset, bytes).await?,
        }
        Ok(len)
    }

    pub async fn fallocate(
        &self,
        asker: Asker,
        open: Arc<OpenFile>,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Answer<()> {
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        self.wrote(asker, open.file.inode()).await?;
        let keeps_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            // No room is set aside: there is none that would be a file's alone.
            0 if keeps_size => {}
            0 => {
                open.file.extend(end).await?;
            }
            libc::FALLOC_FL_PUNCH_HOLE if keeps_size => open.file.punch(offset..end, true).await?,
            libc::FALLOC_FL_ZERO_RANGE => open.file.punch(offset..end, keeps_size).await?,
            _ => return Err(Errno::EOPNOTSUPP.into()),
        }
        Ok(())
    }

    /// `whence` is SEEK_DATA or SEEK_HOLE; all others are the kernel's.
    pub async fn lseek(&self, open: Arc<OpenFile>, offset: i64, whence: i32) -> Answer<i64> {
        let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let found = match whence {
            libc::SEEK_DATA => open.file.next_data(from).await?,
            libc::SEEK_HOLE => open.file.next_hole(from).await?,
            _ => return Err(Errno::EINVAL.into()),
        };
        let found = found.ok_or(Errno::ENXIO)?;
        Ok(i64::try_from(found).map_err(|_| Errno::EOVERFLOW)?)
    }

    pub async fn copy(
        &self,
        asker: Asker,
        (from, from_offset): (Arc<OpenFile>, u64),
        (to, to_offset): (Arc<OpenFile>, u64),
        len: u64,
    ) -> Answer<u32> {
        let len = len.min(COPY_MAX);
        self.wrote(asker, to.file.inode()).await?;
        let copied = to
            .file
            .clone_range_from(to_offset, &from.file, from_offset, len)
            .await?;
        Ok(copied as u32)
    }
}
