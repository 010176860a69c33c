//! Streams of bulk data: heads are small and read whole, data is handed on in the pieces in which it
//! arrived, never copied (copying costs a third of the throughput).

use super::connection::{EndCode, refuse};
use crate::error::{Code, Error, Result};
use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};

/// The longest thing that [`BulkReader::read_small`] reads.
pub const SMALL_LEN_MAX: usize = 64 << 10;

/// The longest piece taken from a stream at a time.
const PIECE_LEN_MAX: usize = 1 << 20;

/// Reads one direction of a bulk stream.
///
/// Nothing here is cancel-safe: a dropped read may have taken bytes with it.
pub struct BulkReader {
    recv: RecvStream,
    /// What has arrived and was not asked for yet.
    held: Bytes,
}

impl BulkReader {
    /// Reads from where the stream is.
    pub fn new(recv: RecvStream) -> BulkReader {
        BulkReader {
            recv,
            held: Bytes::new(),
        }
    }

    /// Exactly `len` bytes, at most 64 KiB, in one piece: copied only where the wire cut them.
    ///
    /// # Errors
    /// `Disconnected`: the stream broke. `Malformed`: it ended before. `Bug`: `len` is too large.
    pub async fn read_small(&mut self, len: usize) -> Result<Bytes> {
        match self.read_small_or_end(len).await? {
            Some(bytes) => Ok(bytes),
            None => Err(ended_early(len)),
        }
    }

    /// As [`BulkReader::read_small`], or `None` when the peer ended the stream right here.
    ///
    /// # Errors
    /// As [`BulkReader::read_small`].
    pub async fn read_small_or_end(&mut self, len: usize) -> Result<Option<Bytes>> {
        if len > SMALL_LEN_MAX {
            return Err(Error::bug(format!("{len} bytes are not a small read")));
        }
        if len == 0 {
            return Ok(Some(Bytes::new()));
        }
        if self.held.is_empty() && !self.refill().await? {
            return Ok(None);
        }
        if self.held.len() >= len {
            return Ok(Some(self.held.split_to(len)));
        }
        let mut bytes = BytesMut::with_capacity(len);
        bytes.extend_from_slice(&self.held);
        self.held.clear();
        while bytes.len() < len {
            if !self.refill().await? {
                return Err(ended_early(len - bytes.len()));
            }
            let missing = (len - bytes.len()).min(self.held.len());
            bytes.extend_from_slice(&self.held.split_to(missing));
        }
        Ok(Some(bytes.freeze()))
    }

    /// Exactly `len` bytes in the pieces in which they arrived; none is empty. The caller has
    /// bounded `len`: all of it is in memory at the end.
    ///
    /// # Errors
    /// `Disconnected`: the stream broke. `Malformed`: it ended before.
    pub async fn read_exact_pieces(&mut self, len: usize) -> Result<Vec<Bytes>> {
        let mut pieces = Vec::new();
        let mut missing = len;
        while missing > 0 {
            if self.held.is_empty() && !self.refill().await? {
                return Err(ended_early(missing));
            }
            let piece = self.held.split_to(missing.min(self.held.len()));
            missing -= piece.len();
            pieces.push(piece);
        }
        Ok(pieces)
    }

    /// Waits for the end of the stream, which must be here.
    ///
    /// # Errors
    /// `Malformed`: there is more. `Disconnected`: the stream broke.
    pub async fn read_end(&mut self) -> Result<()> {
        match self.held.is_empty() && !self.refill().await? {
            true => Ok(()),
            false => Err(Error::malformed("the stream goes on beyond its end")),
        }
    }

    /// Tells the peer to stop sending; `malformed` says whether that is its fault.
    pub fn stop(&mut self, malformed: bool) {
        // That it has ended already is as good.
        let _ended = self.recv.stop(code_of(malformed).into());
    }

    /// The next piece; `false` at the end.
    async fn refill(&mut self) -> Result<bool> {
        debug_assert!(self.held.is_empty());
        loop {
            match self.recv.read_chunk(PIECE_LEN_MAX, true).await {
                Ok(Some(chunk)) if chunk.bytes.is_empty() => {}
                Ok(Some(chunk)) => {
                    self.held = chunk.bytes;
                    return Ok(true);
                }
                Ok(None) => return Ok(false),
                Err(error) => {
                    return Err(Error::new(
                        Code::Disconnected,
                        format!("the data stream broke ({error})"),
                    )
                    .with_source(error));
                }
            }
        }
    }
}

fn ended_early(missing: usize) -> Error {
    Error::malformed(format!("the stream ended {missing} bytes early"))
}

fn code_of(malformed: bool) -> EndCode {
    match malformed {
        true => EndCode::Malformed,
        false => EndCode::Done,
    }
}

/// Writes one direction of a bulk stream.
pub struct BulkWriter {
    send: SendStream,
}

impl BulkWriter {
    /// Writes to where the stream is.
    pub fn new(send: SendStream) -> BulkWriter {
        BulkWriter { send }
    }

    /// Writes all pieces, in order, without copying them; they are empty afterwards. Waits while the
    /// peer does not read. Not cancel-safe: a part may have been written.
    ///
    /// # Errors
    /// `Disconnected`: the peer stopped the stream, or the connection broke.
    pub async fn write_pieces(&mut self, pieces: &mut [Bytes]) -> Result<()> {
        self.send
            .write_all_chunks(pieces)
            .await
            .map_err(|error| broke(&error).with_source(error))
    }

    /// Writes one piece; see [`BulkWriter::write_pieces`].
    ///
    /// # Errors
    /// As [`BulkWriter::write_pieces`].
    pub async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.write_pieces(&mut [piece]).await
    }

    /// Ends the stream: the peer sees its end after all that was written.
    ///
    /// # Errors
    /// `Disconnected`: the stream had been ended before.
    pub fn finish(&mut self) -> Result<()> {
        self.send
            .finish()
            .map_err(|error| broke(&error).with_source(error))
    }

    /// Waits until the peer has all bytes (after [`BulkWriter::finish`]) or has stopped reading.
    ///
    /// # Errors
    /// `Disconnected`: the peer stopped it with an error, or the connection broke.
    pub async fn delivered(&mut self) -> Result<()> {
        match self.send.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) if code == EndCode::Done.into() => Ok(()),
            Ok(Some(code)) => Err(broke(&format!("the peer stopped it, code {code}"))),
            Err(error) => Err(broke(&error).with_source(error)),
        }
    }

    /// Ends the stream with an error: what was not delivered is dropped.
    pub fn reset(&mut self, malformed: bool) {
        // That it has ended already is as good.
        let _ended = self.send.reset(code_of(malformed).into());
    }
}

fn broke(error: &dyn std::fmt::Display) -> Error {
    Error::new(
        Code::Disconnected,
        format!("the data stream broke ({error})"),
    )
}

/// Ends both directions of a stream that a peer has no right to, or spoke nonsense on.
pub fn refuse_stream(mut send: SendStream, mut recv: RecvStream) {
    refuse(&mut send, &mut recv, EndCode::Malformed);
}
