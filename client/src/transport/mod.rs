//! What the library needs of the network, as a small trait: QUIC in programs ([`quic`]), an
//! in-memory cluster with faults in tests.

pub mod patience;
pub mod quic;
mod unix;

use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::error::Result;
use quarry_common::ids::ServerId;
use quarry_common::wire::data::ticket::FileTicket;
use quarry_common::wire::data::{
    DataReply, DataRequest, ReadChunk, ReadReply, WriteChunk, WriteReply,
};
use quarry_common::wire::meta::{MetaAnswer, MetaRequest};
use std::fs::File;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// What a call of the transport returns.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A server and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number within its role.
    pub server: ServerId,
    /// `host:port`.
    pub address: String,
}

/// The network. An error of the outer `Result` means that there is no answer: the request may
/// have been carried out (`Disconnected`) or not (`Unreachable`).
pub trait Transport: Send + Sync + 'static {
    /// Asks a metaserver.
    fn meta(&self, to: &Peer, request: &MetaRequest, timeout: Duration) -> Pending<'_, MetaAnswer>;

    /// Asks a dataserver; its own refusals come as errors too.
    fn data(&self, to: &Peer, request: &DataRequest, timeout: Duration) -> Pending<'_, DataReply>;

    /// Opens a stream that writes a chunk.
    fn write(&self, to: &Peer, header: WriteChunk) -> Pending<'_, WriteStream>;

    /// Opens a stream that reads a chunk and waits for the reply before the frames.
    fn read(&self, to: &Peer, header: ReadChunk) -> Pending<'_, ReadStream>;

    /// Fetches the file of a chunk from a dataserver on this host.
    fn redeem<'a>(&'a self, ticket: &'a FileTicket) -> Pending<'a, File>;

    /// Whether a dataserver can be asked without a handshake.
    fn connected(&self, to: &Peer) -> bool;

    /// How many bytes came and went over the link to a dataserver, also those that were sent again.
    fn moved(&self, to: &Peer) -> u64;
}

/// Both directions of a stream that writes a chunk.
pub struct WriteStream {
    /// Towards the head of the pipeline.
    pub sink: Box<dyn FrameSink>,
    /// From it.
    pub replies: Box<dyn ReplySource>,
}

/// A stream that reads a chunk.
pub struct ReadStream {
    /// What came before the frames.
    pub reply: ReadReply,
    /// The frames, if the reply announces some.
    pub frames: Box<dyn FrameSource>,
}

/// One frame towards the head.
#[derive(Clone, Debug, PartialEq)]
pub enum WriteFrame {
    /// Bytes of the chunk.
    Data(DataFrame),
    /// Make everything so far durable.
    Flush {
        /// The length of the chunk so far.
        len: u32,
        /// The CRC of all of it.
        crc: Crc,
    },
    /// The same, and the chunk is complete.
    Seal {
        /// The length of the chunk.
        len: u32,
        /// The CRC of all of it.
        crc: Crc,
    },
}

/// Bytes of a chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct DataFrame {
    /// Of the first byte in the chunk.
    pub offset: u32,
    /// The bytes.
    pub pieces: Vec<Bytes>,
    /// One a block touched.
    pub crcs: Vec<Crc>,
}

impl DataFrame {
    /// Bytes in it.
    pub fn len(&self) -> u32 {
        self.pieces.iter().map(Bytes::len).sum::<usize>() as u32
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The sending half of a stream that writes a chunk. Dropping it resets the stream.
pub trait FrameSink: Send {
    /// Sends a frame. Not cancel-safe: a stream whose `send` was dropped is of no more use.
    fn send(&mut self, frame: WriteFrame) -> Pending<'_, ()>;
}

/// The receiving half of a stream that writes a chunk.
pub trait ReplySource: Send {
    /// The next reply.
    fn next(&mut self) -> Pending<'_, WriteReply>;
}

/// The frames of a stream that reads a chunk.
pub trait FrameSource: Send {
    /// The next frame, not yet checked; `None` after the last.
    fn next(&mut self) -> Pending<'_, Option<DataFrame>>;
}
