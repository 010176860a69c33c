//! Puts the contents of a file together: cuts bytes into ranges along multiples of 64 MiB, keeps
//! several ranges in flight, and collects the extents in order.

use super::writer::{RangeWriter, WrittenPart};
use crate::data::DataLink;
use bytes::Bytes;
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::FileOffset;
use quarry_common::limits::{CHUNK_LEN_MAX, FILE_LEN_MAX, INLINE_LEN_MAX};
use quarry_common::token::Receipt;
use quarry_common::wire::meta::{NewExtent, Source};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Ranges that were ended and are not durable yet: bounded in number, and in bytes so that
/// what they hold for resending stays small.
const ENDED_MAX: usize = 32;
const ENDED_LEN_MAX: u64 = 3 * CHUNK_LEN_MAX as u64;

/// Writes at increasing or any offsets; the extents are collected in the order of the writes.
pub struct Assembler {
    link: Arc<DataLink>,
    current: Option<Current>,
    ended: VecDeque<(u64, u64, RangeWriter)>,
    ended_len: u64,
    done: Vec<Written>,
}

/// The range that takes bytes.
struct Current {
    base: u64,
    len: u64,
    /// The first bytes: as long as there are so few, they may go inline.
    inline: Vec<u8>,
    writer: Option<RangeWriter>,
}

/// A range of the file whose bytes are durable, or are to go inline.
#[derive(Debug)]
pub enum Written {
    /// Bytes that go into the metadata.
    Inline(u64, Vec<u8>),
    /// In a chunk, from the offset in the file on.
    Part(u64, WrittenPart),
}

impl Written {
    /// Where it is in the file.
    pub fn range(&self) -> Range<u64> {
        match self {
            Written::Inline(at, bytes) => *at..*at + bytes.len() as u64,
            Written::Part(base, part) => {
                let start = base + part.offset;
                start..start + u64::from(part.receipt.len)
            }
        }
    }
}

/// Whether the session in which some of these were written was lost: then they can not be committed any more.
pub fn any_lost(written: &[Written]) -> bool {
    written.iter().any(|range| match range {
        Written::Inline(..) => false,
        Written::Part(_, part) => part.is_lost(),
    })
}

/// What a commit sends. The parts are to be held until it is answered.
#[derive(Debug, Default)]
pub struct Batch {
    /// The extents.
    pub extents: Vec<NewExtent>,
    /// Their receipts.
    pub receipts: Vec<Receipt>,
}

impl Batch {
    /// The extents and receipts of some written ranges.
    pub fn of(written: &[Written]) -> Batch {
        let mut batch = Batch::default();
        for range in written {
            let (offset, len, source) = match range {
                Written::Inline(at, bytes) => {
                    (*at, bytes.len() as u64, Source::Inline(bytes.clone()))
                }
                Written::Part(base, part) => {
                    let receipt = batch.receipts.len() as u32;
                    batch.receipts.push(part.receipt.clone());
                    let source = Source::Chunk {
                        receipt,
                        chunk_offset: 0,
                    };
                    (base + part.offset, u64::from(part.receipt.len), source)
                }
            };
            batch.extents.push(NewExtent {
                offset: FileOffset(offset),
                len,
                source,
            });
        }
        batch
    }
}

impl Assembler {
    /// Nothing yet.
    pub fn new(link: Arc<DataLink>) -> Assembler {
        Assembler {
            link,
            current: None,
            ended: VecDeque::new(),
            ended_len: 0,
            done: Vec::new(),
        }
    }

    /// Ranges that are durable and were not taken yet.
    pub fn done_count(&self) -> usize {
        self.done.len()
    }

    /// Writes at an offset of the file.
    ///
    /// # Errors
    /// Why an earlier range could not be made durable; `FileTooBig`.
    pub async fn write(&mut self, mut offset: u64, mut bytes: Bytes) -> Result<()> {
        if offset.saturating_add(bytes.len() as u64) > FILE_LEN_MAX {
            return Err(Error::new(Code::FileTooBig, "the file would be too long"));
        }
        while !bytes.is_empty() {
            let stride = u64::from(CHUNK_LEN_MAX);
            let continues = self
                .current
                .as_ref()
                .is_some_and(|current| current.base + current.len == offset);
            if !continues || offset.is_multiple_of(stride) {
                self.end_range().await?;
            }
            let room = stride - offset % stride;
            let piece = bytes.split_to(room.min(bytes.len() as u64) as usize);
            let current = self.current.get_or_insert_with(|| Current {
                base: offset,
                len: 0,
                inline: Vec::new(),
                writer: None,
            });
            offset += piece.len() as u64;
            current.write(&self.link, piece).await;
        }
        Ok(())
    }

    /// Seals the current range in the background.
    ///
    /// # Errors
    /// Why an earlier range could not be made durable.
    pub async fn end_range(&mut self) -> Result<()> {
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        match current.writer {
            Some(writer) => {
                writer.end();
                self.ended_len += current.len;
                self.ended.push_back((current.base, current.len, writer));
            }
            None => {
                // In order with the ranges before it, which may overlap it.
                self.settle(0, 0).await?;
                self.done
                    .push(Written::Inline(current.base, current.inline));
            }
        }
        self.settle(ENDED_MAX, ENDED_LEN_MAX).await
    }

    /// Waits for the oldest ranges until no more than these are in flight.
    async fn settle(&mut self, count: usize, len: u64) -> Result<()> {
        while self.ended.len() > count || (self.ended_len > len && !self.ended.is_empty()) {
            let Some((base, range_len, writer)) = self.ended.pop_front() else {
                break;
            };
            self.ended_len -= range_len;
            let parts = writer.finish().await?;
            let parts = parts.into_iter().map(|part| Written::Part(base, part));
            self.done.extend(parts);
        }
        Ok(())
    }

    /// Waits for the oldest range that was ended. Whether there was one.
    ///
    /// # Errors
    /// Why it could not be made durable.
    pub async fn settle_oldest(&mut self) -> Result<bool> {
        let count = self.ended.len();
        self.settle(count.saturating_sub(1), u64::MAX).await?;
        Ok(count > 0)
    }

    /// Takes what is durable already.
    pub fn take_done(&mut self) -> Vec<Written> {
        std::mem::take(&mut self.done)
    }

    /// Ends the current range, waits for all, and takes them.
    ///
    /// # Errors
    /// Why a range could not be made durable; the others are lost with it.
    pub async fn take(&mut self) -> Result<Vec<Written>> {
        self.end_range().await?;
        self.settle(0, 0).await?;
        Ok(self.take_done())
    }
}

impl Current {
    async fn write(&mut self, link: &Arc<DataLink>, bytes: Bytes) {
        self.len += bytes.len() as u64;
        if self.len <= INLINE_LEN_MAX as u64 {
            self.inline.extend_from_slice(&bytes);
            return;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let writer = RangeWriter::start(link.clone());
                let first = Bytes::from(std::mem::take(&mut self.inline));
                if !first.is_empty() {
                    writer.push(&first).await;
                }
                self.writer.insert(writer)
            }
        };
        writer.push(&bytes).await;
    }
}
