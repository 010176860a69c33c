//! What is done to an open file as a whole, after everything that was written before.

use super::SharedFile;
use super::leaving::is_outdated;
use crate::file::assembler::{Assembler, Batch};
use crate::file::extents::{Segment, Window};
use crate::file::publish::REPEATS;
use crate::meta::unexpected;
use bytes::Bytes;
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::FileOffset;
use quarry_common::limits::CHUNK_LEN_MAX;
use quarry_common::wire::meta::{Attr, NewExtent, Op, OpReply, SetAttr, Source};
use std::ops::Range;
use std::sync::Arc;

impl SharedFile {
    /// Adds bytes, at most 64 MiB, at the end of the file, wherever that is by then, whole and exactly once; returns where
    /// they went. Durable and visible when this returns.
    ///
    /// # Errors
    /// `TooBig`; `UnknownOutcome` if the session was lost before the answer.
    pub async fn append(self: &Arc<Self>, bytes: Bytes) -> Result<u64> {
        if bytes.len() > CHUNK_LEN_MAX as usize {
            let most = CHUNK_LEN_MAX >> 20;
            let text = format!("{}: one append is at most {most} MiB", self.name);
            return Err(Error::new(Code::TooBig, text));
        }
        self.alone(async move |file| {
            for _ in 0..REPEATS {
                match file.append_once(bytes.clone()).await {
                    // Refused, so nothing was appended: the bytes go into new chunks.
                    Err(error) if is_outdated(&error) => {
                        tracing::info!(name = file.name, %error, "an append is begun again");
                    }
                    other => return other,
                }
            }
            file.append_once(bytes).await
        })
        .await
    }

    async fn append_once(&self, bytes: Bytes) -> Result<u64> {
        let len = bytes.len() as u64;
        let mut record = Assembler::new(self.client.shared.data.clone());
        record.write(0, bytes).await?;
        let written = record.take().await?;
        let Batch { extents, receipts } = Batch::of(&written);
        let op = Op::Append {
            inode: self.inode,
            extents,
            receipts,
            len,
        };
        let OpReply::Appended { offset, .. } = self.client.commit(op).await? else {
            return Err(unexpected("where an append went"));
        };
        self.reader.forget();
        Ok(offset.0)
    }

    /// Sets attributes, after everything that was written before; `size` cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// `FileTooBig`, `NotPermitted`; why bytes were lost.
    pub async fn set_attr(self: &Arc<Self>, set: SetAttr) -> Result<Attr> {
        self.alone(async move |file| {
            let done = file.client.set_attr_inode(file.inode, set).await;
            file.reader.forget();
            done
        })
        .await
    }

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// As [`SharedFile::set_attr`].
    pub async fn set_len(self: &Arc<Self>, len: u64) -> Result<Attr> {
        let set = SetAttr {
            size: Some(len),
            ..SetAttr::default()
        };
        self.set_attr(set).await
    }

    /// Makes the file at least so long, with zeros that take no room.
    ///
    /// # Errors
    /// `FileTooBig`; why bytes were lost.
    pub async fn extend(self: &Arc<Self>, len: u64) -> Result<Attr> {
        self.check_len(len, 0)?;
        self.alone(async move |file| file.commit_holes(Vec::new(), Some(len)).await)
            .await
    }

    /// Makes a hole, in which zeros are read and which takes no room; one beyond the end makes the file longer unless
    /// `keep_size`.
    ///
    /// # Errors
    /// As [`SharedFile::extend`].
    pub async fn punch(self: &Arc<Self>, range: Range<u64>, keep_size: bool) -> Result<()> {
        self.check_len(range.end, 0)?;
        self.alone(async move |file| {
            let mut range = range;
            if keep_size {
                range.end = range
                    .end
                    .min(file.client.stat_inode(file.inode).await?.size);
            }
            file.clear(range).await
        })
        .await
    }

    /// Makes a range a hole, in several commands if it has more extents than one may remove.
    async fn clear(&self, range: Range<u64>) -> Result<()> {
        let Range { mut start, end } = range;
        let mut step = end.saturating_sub(start);
        while start < end {
            let len = step.min(end - start);
            let hole = NewExtent {
                offset: FileOffset(start),
                len,
                source: Source::Hole,
            };
            match self.commit_holes(vec![hole], None).await {
                Ok(_) => start += len,
                Err(error) if error.code == Code::TooBig && step > 1 => step = len.div_ceil(2),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn commit_holes(&self, extents: Vec<NewExtent>, size: Option<u64>) -> Result<Attr> {
        let op = Op::CommitExtents {
            inode: self.inode,
            extents,
            receipts: Vec::new(),
            size,
            mtime: None,
        };
        let committed = self.client.commit(op).await;
        self.reader.forget();
        match committed? {
            OpReply::Attr(attr) => Ok(attr),
            _ => Err(unexpected("attributes")),
        }
    }

    /// Makes a range of this file share the chunks of a range of another, or of another part of itself; returns how many
    /// bytes that were, which may be fewer than asked for, and are none at the end of the file read.
    ///
    /// # Errors
    /// `Invalid` for ranges of one file that overlap; why bytes of either were lost.
    pub async fn clone_range_from(
        self: &Arc<Self>,
        offset: u64,
        from: &Arc<SharedFile>,
        from_offset: u64,
        len: u64,
    ) -> Result<u64> {
        from.sync().await?;
        let from = (from.inode, from_offset);
        self.alone(async move |file| {
            let cloned = file
                .client
                .clone_range(from, (file.inode, offset), len)
                .await;
            file.reader.forget();
            cloned
        })
        .await
    }

    /// Where the next byte that is no hole is, from an offset on; `None` if there is none.
    ///
    /// # Errors
    /// As any read.
    pub async fn next_data(self: &Arc<Self>, offset: u64) -> Result<Option<u64>> {
        self.find(offset, |segment| !matches!(segment, Segment::Hole(_)))
            .await
    }

    /// Where the next hole is, from an offset on: there is one at the end of each file. `None` from there on.
    ///
    /// # Errors
    /// As any read.
    pub async fn next_hole(self: &Arc<Self>, offset: u64) -> Result<Option<u64>> {
        let found = self.find(offset, |segment| matches!(segment, Segment::Hole(_)));
        if let Some(hole) = found.await? {
            return Ok(Some(hole));
        }
        let size = self.client.stat_inode(self.inode).await?.size;
        Ok((offset < size).then_some(size))
    }

    /// Where the first segment begins, from an offset on, that is one of these.
    async fn find(
        self: &Arc<Self>,
        mut offset: u64,
        is_one: fn(&Segment) -> bool,
    ) -> Result<Option<u64>> {
        self.alone(async move |file| {
            loop {
                let window = Window::fetch(&file.client, file.inode, offset).await?;
                while let Some(segment) = window.at(offset, u64::MAX) {
                    if is_one(&segment) {
                        return Ok(Some(offset));
                    }
                    offset += segment.span();
                }
                if offset >= window.size {
                    return Ok(None);
                }
            }
        })
        .await
    }
}
