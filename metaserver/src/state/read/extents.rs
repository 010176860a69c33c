//! Where the contents of a file are.

use super::Reader;
use crate::kv::Family;
use crate::state::access::{self, Want, shown};
use crate::state::extents::span::Span;
use crate::state::extents::{Looks, visible};
use crate::state::keys;
use crate::state::records::{self, ChunkRecord};
use crate::state::txn::load;
use quarry_common::ids::{ChunkId, FileOffset, InodeId, PoolId};
use quarry_common::token::Capability;
use quarry_common::wire::meta::{Extent, ExtentPage, ExtentSource, FileKind};
use quarry_common::{Code, Error, Result};
use std::collections::BTreeMap;

/// Extents in one page.
pub const EXTENTS_PER_PAGE: usize = 4_096;

impl Reader<'_> {
    /// Extents that touch `len` bytes from `offset` on. What truncations cut off does not show.
    pub(super) fn extents(
        &self,
        inode: InodeId,
        offset: FileOffset,
        len: u64,
        capability: &dyn Fn(PoolId, ChunkId) -> Capability,
    ) -> Result<ExtentPage> {
        let file = self.inode(inode)?;
        match file.kind {
            FileKind::File => {}
            FileKind::Directory => {
                let text = format!("{} ({inode}) is a directory, not a file", shown(&file));
                return Err(Error::new(Code::IsDirectory, text));
            }
            _ => {
                let text = format!(
                    "{} ({inode}) is no regular file: it has no contents",
                    shown(&file)
                );
                return Err(Error::new(Code::Invalid, text));
            }
        }
        access::check(self.caller, &file, Want::READ)?;
        let span = Span {
            start: offset.0,
            end: offset.0.saturating_add(len),
        };
        let mut looks = Looks::ANY;
        let (found, more) = visible(self.state, inode, &file, span, EXTENTS_PER_PAGE, &mut looks)??;
        let mut chunks = BTreeMap::new();
        let mut extents = Vec::with_capacity(found.len());
        for (offset, extent) in found {
            let source = match extent.source {
                records::ExtentSource::Inline(bytes) => ExtentSource::Inline(bytes),
                records::ExtentSource::Chunk {
                    pool,
                    chunk,
                    offset,
                } => {
                    let (record, capability) = match chunks.entry((pool, chunk)) {
                        std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                        std::collections::btree_map::Entry::Vacant(new) => {
                            new.insert((self.chunk(pool, chunk)?, capability(pool, chunk)))
                        }
                    };
                    ExtentSource::Chunk {
                        pool,
                        chunk,
                        offset,
                        chunk_len: record.len,
                        chunk_crc: record.crc,
                        capability: capability.clone(),
                    }
                }
            };
            extents.push(Extent {
                offset: FileOffset(offset),
                len: extent.len,
                source,
            });
        }
        Ok(ExtentPage {
            size: file.size,
            data_version: file.data_version,
            extents,
            more,
        })
    }

    fn chunk(&self, pool: PoolId, chunk: ChunkId) -> Result<ChunkRecord> {
        let missing = || {
            Error::bug(format!(
                "chunk {chunk} of pool {pool} is referred to and not known"
            ))
        };
        load(self.state, Family::Chunks, &keys::chunk(pool, chunk))?.ok_or_else(missing)
    }
}
