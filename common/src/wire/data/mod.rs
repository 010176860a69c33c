//! Between clients and dataservers, and between dataservers.
//!
//! Small things go as [`DataRequest`]s on a request stream; a chunk above 64 KiB is written or read
//! on a bulk stream of its own, which begins with a [`WriteChunk`] or a [`ReadChunk`] header
//! (`u16` little-endian length, then bincode) and goes on with frames.

pub mod frame;
pub mod ticket;

use crate::checksum::Crc;
use crate::codec;
use crate::error::Error;
use crate::ids::{ChunkId, DiskId, Epoch, PgId, PoolId};
use crate::token::{Capability, CertificateHash, MemberMac};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ticket::FileTicket;

/// Names a chunk and shows the right to write it; common to bulk and small writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WriteTarget {
    /// The disk of the receiving server that this is for.
    pub disk: DiskId,
    /// The pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The epoch of its group's row in the writer's map.
    pub pg_epoch: Epoch,
    /// The right to write it.
    pub capability: Capability,
    /// The client whose right that is, when a dataserver passes the write on. Heeded only from dataservers.
    pub on_behalf_of: Option<CertificateHash>,
}

/// The header of a `WriteChunk` stream. The receiver answers with [`WriteReply`]s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WriteChunk {
    /// Where, and by which right.
    pub target: WriteTarget,
    /// The chunk will not be longer: what the disk preallocates.
    pub capacity: u32,
}

/// An answer on a `WriteChunk` stream (`u16` little-endian length, then bincode).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WriteReply {
    /// `len` bytes with that CRC are durable on this member and on all after it.
    Ack {
        /// Bytes from the start of the chunk.
        len: u32,
        /// Their CRC.
        crc: Crc,
        /// Whether it answers a `Seal`.
        sealed: bool,
        /// The words of this member and of all after it, in the order of the pipeline.
        macs: Vec<MemberMac>,
    },
    /// The chunk goes no further. What was acknowledged stays.
    Failed {
        /// The member that failed, if it is known.
        disk: Option<DiskId>,
        /// Why.
        error: Error,
    },
}

/// The header of a `ReadChunk` stream. The receiver answers with a [`ReadReply`] and `Data` frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadChunk {
    /// The disk of the receiving server that this is for.
    pub disk: DiskId,
    /// The pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The right to read it.
    pub capability: Capability,
    /// The first byte wanted.
    pub offset: u32,
    /// Bytes wanted, at least 1.
    pub len: u32,
}

/// The answer to a [`ReadChunk`], before the frames (`u16` little-endian length, then bincode).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ReadReply {
    /// Frames follow that cover bytes `start` to `end`: whole blocks around what was wanted.
    Data {
        /// A multiple of the block length.
        start: u32,
        /// Exclusive; a multiple of the block length or the end of the chunk.
        end: u32,
        /// The length of the chunk on this disk.
        chunk_len: u32,
    },
    /// Nothing follows.
    Failed(Error),
}

/// A request to a dataserver on a request stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DataRequest {
    /// Writes and seals a chunk of at most 64 KiB. Answer: [`DataReply::Written`].
    WriteSmall {
        /// Where, and by which right.
        target: WriteTarget,
        /// All of it.
        data: Bytes,
        /// The CRC of the data, made by the client.
        crc: Crc,
    },
    /// Reads at most 256 KiB. Answer: [`DataReply::Data`].
    Read(ReadChunk),
    /// What the disk knows of a chunk. Answer: [`DataReply::Chunk`].
    Stat {
        /// The disk.
        disk: DiskId,
        /// The pool.
        pool: PoolId,
        /// The chunk.
        chunk: ChunkId,
        /// The right to read it.
        capability: Capability,
    },
    /// Asks for the file of a chunk, to read it past the network. Answer: [`DataReply::FileTicket`].
    FileTicket {
        /// The disk.
        disk: DiskId,
        /// The pool.
        pool: PoolId,
        /// The chunk.
        chunk: ChunkId,
        /// The right to read it.
        capability: Capability,
    },
    /// From a dataserver that fills a member: which chunks of some groups a disk has. The disk takes over
    /// the epochs of the lister before it looks, and refuses older ones with `OldMap` (DESIGN §4.2.7). Answer:
    /// [`DataReply::Listed`].
    List(ListChunks),
    /// From the metaserver that leads: confirm as a present member that the chunk is durable at that length and
    /// CRC, fetching it first if need be (DESIGN §4.2.7, the law of publishing). Answer: [`DataReply::Written`]
    /// with one word, of `epoch`.
    Confirm {
        /// The disk of the receiving server that this is for.
        disk: DiskId,
        /// The pool.
        pool: PoolId,
        /// The chunk.
        chunk: ChunkId,
        /// The epoch of its group's row now.
        epoch: Epoch,
        /// The length that is to be committed.
        len: u32,
        /// The CRC of those bytes.
        crc: Crc,
    },
    /// From the metaserver that leads: a sign of life. Answer: [`DataReply::Pong`].
    Ping,
    /// From a reader to whom the disk gave wrong bytes: it looks at its copy, and replaces it if it is bad.
    /// Answer: [`DataReply::Pong`], before it has looked.
    Verify {
        /// The disk.
        disk: DiskId,
        /// The pool.
        pool: PoolId,
        /// The chunk.
        chunk: ChunkId,
        /// The right to read it.
        capability: Capability,
    },
}

impl DataRequest {
    /// An encoded [`DataRequest::Ping`], to see whether a dataserver lives.
    pub fn ping() -> Bytes {
        codec::encode(&DataRequest::Ping).into()
    }
}

/// Asks for the chunks of some groups on one disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListChunks {
    /// The disk of the receiving server that this is for.
    pub disk: DiskId,
    /// The pool.
    pub pool: PoolId,
    /// The groups, ascending, each with the epoch of its row in the lister's map.
    pub groups: Vec<(PgId, Epoch)>,
    /// Where the page begins: the `next` of the page before.
    pub from: Option<(PgId, ChunkId)>,
}

/// A chunk that a disk has, in any state: open ones with their durable length, set-aside ones too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedChunk {
    /// The chunk.
    pub chunk: ChunkId,
    /// How it is there.
    pub info: ReplicaInfo,
}

/// The longest [`DataRequest::Read`]; more goes on a bulk stream.
pub const SMALL_READ_LEN_MAX: u32 = 256 << 10;

/// The longest message of either direction on a dataserver's request stream.
pub const DATA_MESSAGE_LEN_MAX: usize = 512 << 10;

/// The answer to a [`DataRequest`], sent as `Result<DataReply, Error>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DataReply {
    /// Durable on this member and all after it: their words, in the order of the pipeline.
    Written {
        /// One MAC a member.
        macs: Vec<MemberMac>,
    },
    /// Whole blocks around what was wanted.
    Data {
        /// A multiple of the block length.
        start: u32,
        /// The length of the chunk on this disk.
        chunk_len: u32,
        /// One a block.
        crcs: Vec<Crc>,
        /// The blocks.
        data: Bytes,
    },
    /// What the disk knows of the chunk; `None`: nothing.
    Chunk(Option<ReplicaInfo>),
    /// How to get the file; `None`: not now, or not this chunk (small ones have no file of their own,
    /// open ones no final length): it is read over the network.
    FileTicket(Option<FileTicket>),
    /// A page of chunks, ordered by group, and in it by the bits of the chunk's hash in reverse.
    Listed {
        /// The chunks.
        chunks: Vec<(PgId, ListedChunk)>,
        /// Where the next page begins, if there is one.
        next: Option<(PgId, ChunkId)>,
    },
    /// To `Ping` and `Verify`.
    Pong,
}

/// What a disk knows of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// Durable bytes.
    pub len: u32,
    /// Their CRC.
    pub crc: Crc,
    /// What state it is in.
    pub state: ReplicaState,
}

/// The state of a disk's copy of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaState {
    /// Being written.
    Open,
    /// Complete and immutable.
    Sealed,
    /// Found damaged and set aside.
    SetAside,
}
