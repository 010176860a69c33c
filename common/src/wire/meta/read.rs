//! Reads of the namespace. Each sees one state.

#![expect(
    missing_docs,
    reason = "the doc of a variant or type explains its fields"
)]

use super::attr::{Attr, FileKind};
use crate::checksum::Crc;
use crate::ids::{ChunkId, ChunkOffset, FileOffset, InodeId, PoolId, Version};
use crate::token::Capability;
use serde::{Deserialize, Serialize};

/// What a read reads from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    /// The current state.
    #[default]
    Live,
}

/// A read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Read {
    /// Walks a path from `base`, following symbolic links (absolute ones from `/`). → `Resolved`
    Resolve {
        view: View,
        base: InodeId,
        /// At most 4096 bytes; empty for `base` itself.
        path: Vec<u8>,
        /// Whether a symbolic link at the end is followed.
        follow: bool,
    },
    /// Walks to the parent of the last name, which need not exist. → `Resolved`, whose `attr` is then missing
    ResolveParent {
        view: View,
        base: InodeId,
        path: Vec<u8>,
    },
    /// One name in one directory. → `Attr`
    Lookup {
        view: View,
        parent: InodeId,
        name: Vec<u8>,
    },
    /// Attributes of up to 4,096 inodes from one state. → `Attrs`
    Stat { view: View, inodes: Vec<InodeId> },
    /// Entries after a name, in byte order. → `Page`
    List {
        view: View,
        dir: InodeId,
        after: Option<Vec<u8>>,
        limit: u32,
        with_attrs: bool,
    },
    /// → `Bytes`
    ReadLink { view: View, inode: InodeId },
    /// Extents that touch bytes from `offset` on, up to `len` bytes and 4,096 extents. → `Extents`
    Extents {
        view: View,
        inode: InodeId,
        offset: FileOffset,
        len: u64,
    },
    /// → `Bytes`
    GetXattr {
        view: View,
        inode: InodeId,
        name: Vec<u8>,
    },
    /// → `Names`
    ListXattr { view: View, inode: InodeId },
    /// What is below a directory, from counters. → `Usage`
    Usage { view: View, dir: InodeId },
}

/// What a read replies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ReadReply {
    /// The end of a path.
    Resolved(Resolved),
    /// One inode.
    Attr(Attr),
    /// One answer an inode asked for.
    Attrs(Vec<Result<Attr, crate::Error>>),
    /// Some entries.
    Page(Page),
    /// A link's target or an attribute's value.
    Bytes(Vec<u8>),
    /// Names of extended attributes.
    Names(Vec<Vec<u8>>),
    /// Where contents are.
    Extents(ExtentPage),
    /// What is below a directory.
    Usage {
        /// Bytes of files.
        bytes: u64,
        /// Everything but directories.
        files: u64,
        /// Directories.
        directories: u64,
    },
}

/// The end of a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    /// The directory of the last name (`/` for `/`).
    pub parent: Attr,
    /// The last name, after symbolic links; empty for `/` or the base itself.
    pub name: Vec<u8>,
    /// What it leads to, if it exists.
    pub attr: Option<Attr>,
}

/// Entries of a directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// In byte order of their names.
    pub entries: Vec<DirEntry>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DirEntry {
    /// The name.
    pub name: Vec<u8>,
    /// What it leads to.
    pub inode: InodeId,
    /// What that is.
    pub kind: FileKind,
    /// If asked for.
    pub attr: Option<Attr>,
}

/// Where a range of a file is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExtentPage {
    /// The length of the file.
    pub size: u64,
    /// The version of its contents.
    pub data_version: Version,
    /// Ascending; between them are holes.
    pub extents: Vec<Extent>,
    /// Whether extents follow that were not sent: ask again from the end of the last.
    pub more: bool,
}

/// A range of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Extent {
    /// The first byte's place in the file.
    pub offset: FileOffset,
    /// Bytes.
    pub len: u64,
    /// Where they are.
    pub source: ExtentSource,
}

/// Where the bytes of a range are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ExtentSource {
    /// In a chunk.
    Chunk {
        /// The pool.
        pool: PoolId,
        /// The chunk.
        chunk: ChunkId,
        /// The first byte's place in it.
        offset: ChunkOffset,
        /// The committed length of the chunk.
        chunk_len: u32,
        /// The CRC of those bytes.
        chunk_crc: Crc,
        /// The right to read it.
        capability: Capability,
    },
    /// Here.
    Inline(Vec<u8>),
}
