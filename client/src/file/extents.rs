//! Where the bytes of a file are, asked of the metaserver a window at a time.

use crate::client::Client;
use crate::meta::unexpected;
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::error::Result;
use quarry_common::ids::{ChunkId, FileOffset, InodeId, PoolId, Version};
use quarry_common::token::Capability;
use quarry_common::wire::meta::{Extent, ExtentPage, ExtentSource, Read, ReadReply, View};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Extents are asked for this far ahead of a read: sixteen chunks.
const AHEAD: u64 = 1 << 30;

/// What is known is asked again after this long, since others may write to the file.
const GOOD_FOR: Duration = Duration::from_secs(2);

/// Bytes of a file that are read in one go.
#[derive(Clone, Debug)]
pub enum Segment {
    /// Zeros that take no space.
    Hole(u64),
    /// Bytes that stand in the metadata.
    Inline(Bytes),
    /// Bytes of a chunk.
    Chunk(ChunkRange),
}

/// A range of a chunk and the right to read it.
#[derive(Clone, Debug)]
pub struct ChunkRange {
    /// The pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The first byte's place in the chunk.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
    /// The committed length of the chunk: a replica that is shorter is damaged.
    pub chunk_len: u32,
    /// The committed CRC of those bytes.
    pub chunk_crc: Crc,
    /// The right.
    pub capability: Arc<Capability>,
}

impl Segment {
    /// Bytes of the file that it stands for.
    pub fn span(&self) -> u64 {
        match self {
            Segment::Hole(len) => *len,
            Segment::Inline(bytes) => bytes.len() as u64,
            Segment::Chunk(range) => u64::from(range.len),
        }
    }
}

/// A window of a file's extents.
#[derive(Clone, Debug)]
pub struct Window {
    from: u64,
    to: u64,
    /// The length of the file.
    pub size: u64,
    /// The version of its contents.
    pub data_version: Version,
    extents: Vec<Extent>,
    fetched_at: Instant,
}

impl Window {
    /// Asks for the extents from an offset on.
    ///
    /// # Errors
    /// As any read.
    pub async fn fetch(client: &Client, inode: InodeId, offset: u64) -> Result<Window> {
        Window::fetch_to(client, inode, offset, offset.saturating_add(AHEAD)).await
    }

    /// As [`Window::fetch`], up to `to` or to where one answer has no room for more.
    pub async fn fetch_to(client: &Client, inode: InodeId, offset: u64, to: u64) -> Result<Window> {
        let read = Read::Extents {
            view: View::Live,
            inode,
            offset: FileOffset(offset),
            len: to.saturating_sub(offset),
        };
        match client.read(read).await? {
            ReadReply::Extents(page) => Ok(Window::of(page, offset, to)),
            _ => Err(unexpected("extents")),
        }
    }

    fn of(page: ExtentPage, offset: u64, mut to: u64) -> Window {
        if page.more {
            let last = page.extents.last();
            to = last.map_or(offset, |last| last.offset.0.saturating_add(last.len));
        }
        Window {
            from: offset,
            to,
            size: page.size,
            data_version: page.data_version,
            extents: page.extents,
            fetched_at: Instant::now(),
        }
    }

    /// Whether it can answer for an offset now.
    pub fn covers(&self, offset: u64) -> bool {
        offset >= self.from && offset < self.to && self.fetched_at.elapsed() < GOOD_FOR
    }

    /// What stands at `offset`, at most `len` bytes of it; `None` at the end of the file and
    /// of the window.
    pub fn at(&self, offset: u64, len: u64) -> Option<Segment> {
        let end = offset.saturating_add(len).min(self.size).min(self.to);
        if offset >= end {
            return None;
        }
        let after = self
            .extents
            .partition_point(|extent| extent.offset.0 <= offset);
        let here = after
            .checked_sub(1)
            .and_then(|at| self.extents.get(at))
            .filter(|extent| offset - extent.offset.0 < extent.len);
        let Some(extent) = here else {
            let next = self.extents.get(after);
            let hole_end = next.map_or(end, |next| next.offset.0.min(end));
            return Some(Segment::Hole(hole_end - offset));
        };
        let inside = offset - extent.offset.0;
        let len = (extent.len - inside).min(end - offset);
        Some(match &extent.source {
            ExtentSource::Inline(bytes) => {
                let all = Bytes::copy_from_slice(bytes);
                let end = (inside + len).min(all.len() as u64);
                if inside >= end {
                    // The metaserver's lengths disagree: zeros, as a short inline extent reads.
                    return Some(Segment::Hole(len));
                }
                Segment::Inline(all.slice(inside as usize..end as usize))
            }
            ExtentSource::Chunk {
                pool,
                chunk,
                offset: chunk_offset,
                chunk_len,
                chunk_crc,
                capability,
            } => {
                // Lengths come from the network: a chunk's are bounded before they are cast.
                let most = u64::from(u32::MAX - chunk_offset.0);
                let inside = inside.min(most);
                Segment::Chunk(ChunkRange {
                    pool: *pool,
                    chunk: *chunk,
                    offset: chunk_offset.0 + inside as u32,
                    len: len.min(most - inside).max(1) as u32,
                    chunk_len: *chunk_len,
                    chunk_crc: *chunk_crc,
                    capability: Arc::new(capability.clone()),
                })
            }
        })
    }

    /// All extents of the window.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Where the window ends.
    pub fn end(&self) -> u64 {
        self.to.min(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        let inline = |offset, bytes: &[u8]| Extent {
            offset: FileOffset(offset),
            len: bytes.len() as u64,
            source: ExtentSource::Inline(bytes.to_vec()),
        };
        let page = ExtentPage {
            size: 100,
            data_version: Version(1),
            extents: vec![inline(10, b"abcde"), inline(20, b"xyz")],
            more: false,
        };
        Window::of(page, 0, AHEAD)
    }

    #[test]
    fn holes_are_what_is_between_extents_and_up_to_the_end() {
        let window = window();
        let hole = |offset, len| match window.at(offset, len) {
            Some(Segment::Hole(len)) => len,
            other => panic!("{other:?}"),
        };
        assert_eq!(hole(0, 1000), 10);
        assert_eq!(hole(15, 2), 2);
        assert_eq!(hole(15, 1000), 5);
        assert_eq!(hole(23, 1000), 77);
        assert!(window.at(100, 1).is_none());
    }

    #[test]
    fn a_read_that_starts_within_an_extent_gets_its_rest() {
        let window = window();
        match window.at(12, 1000) {
            Some(Segment::Inline(bytes)) => assert_eq!(&bytes[..], b"cde"),
            other => panic!("{other:?}"),
        }
        match window.at(20, 1) {
            Some(Segment::Inline(bytes)) => assert_eq!(&bytes[..], b"x"),
            other => panic!("{other:?}"),
        }
    }
}
