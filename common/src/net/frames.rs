//! Frames of a request stream (all integers little-endian):
//!
//! ```text
//! len u32 = 8 + length of the payload | request id u64 | payload of at most MESSAGE_LEN_MAX bytes
//! ```
//!
//! No IO: [`FrameReader`] takes pieces as they arrive, [`FrameWriter`] gathers what waits.

use crate::error::{Error, Result};
use crate::limits::MESSAGE_LEN_MAX;
use bytes::{Buf, BufMut, Bytes, BytesMut};

const LEN_LEN: usize = 4;
const ID_LEN: usize = 8;
const HEAD_LEN: usize = LEN_LEN + ID_LEN;

/// Payloads up to this long are copied behind their head, so that many frames are one piece;
/// longer ones travel as they are.
const COPIED_LEN_MAX: usize = 4 << 10;

/// Gathered frames go into pieces of this capacity, which never grow: growing would copy them.
const PIECE_CAPACITY: usize = 32 << 10;

/// A request or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Chosen by who asks; the answer carries it again.
    pub id: u64,
    /// An encoded message.
    pub payload: Bytes,
}

/// Cuts frames out of the pieces of a stream. A payload that lies within one piece is not copied.
#[derive(Default)]
pub struct FrameReader {
    /// What was not cut yet of the last piece.
    piece: Bytes,
    /// The beginning of a frame that did not fit its piece; grows with what has arrived, never with
    /// what a length promises.
    begun: BytesMut,
}

impl FrameReader {
    /// Takes the next piece; all frames of the one before have been taken.
    pub fn push(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty(), "frames of the last piece are left");
        self.piece = piece;
    }

    /// The next frame, `None` when more bytes are needed.
    ///
    /// # Errors
    /// `Malformed`: a length below 8 or above the limit. Nothing after it can be read.
    pub fn take(&mut self) -> Result<Option<Frame>> {
        if self.begun.is_empty() {
            if let Some(len) = frame_len(&self.piece)?
                && self.piece.len() >= len
            {
                return Ok(Some(frame(self.piece.split_to(len))));
            }
            self.begun.extend_from_slice(&self.piece);
            self.piece.clear();
            return Ok(None);
        }
        if self.begun.len() < LEN_LEN {
            self.fill(LEN_LEN);
        }
        let Some(len) = frame_len(&self.begun)? else {
            return Ok(None);
        };
        self.fill(len);
        if self.begun.len() < len {
            return Ok(None);
        }
        Ok(Some(frame(std::mem::take(&mut self.begun).freeze())))
    }

    /// Whether the stream may end here: between two frames.
    pub fn is_between_frames(&self) -> bool {
        self.begun.is_empty() && self.piece.is_empty()
    }

    /// Moves bytes to the frame that was begun until it has `len` or there are no more.
    fn fill(&mut self, len: usize) {
        let missing = len.saturating_sub(self.begun.len()).min(self.piece.len());
        self.begun.extend_from_slice(&self.piece[..missing]);
        self.piece.advance(missing);
    }
}

/// The length of the whole frame that `bytes` begins, if four bytes are there.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(head) = bytes.first_chunk::<LEN_LEN>() else {
        return Ok(None);
    };
    let len = u32::from_le_bytes(*head) as usize;
    if !(ID_LEN..=ID_LEN + MESSAGE_LEN_MAX).contains(&len) {
        return Err(Error::malformed(format!(
            "a frame of {len} bytes: {ID_LEN} to {} are allowed",
            ID_LEN + MESSAGE_LEN_MAX
        )));
    }
    Ok(Some(LEN_LEN + len))
}

/// `bytes` is a whole frame.
fn frame(mut bytes: Bytes) -> Frame {
    bytes.advance(LEN_LEN);
    let id = bytes.get_u64_le();
    Frame { id, payload: bytes }
}

/// Gathers frames into few pieces for one write.
#[derive(Default)]
pub struct FrameWriter {
    pieces: Vec<Bytes>,
    /// Heads and short payloads since the last piece.
    tail: BytesMut,
    len: usize,
}

impl FrameWriter {
    /// Adds a frame.
    ///
    /// # Errors
    /// `Bug`: the payload is longer than a message may be; nothing was added.
    pub fn push(&mut self, frame: Frame) -> Result<()> {
        let payload_len = frame.payload.len();
        check_len(payload_len)?;
        let copied_len = HEAD_LEN + payload_len.min(COPIED_LEN_MAX);
        if self.tail.capacity() - self.tail.len() < copied_len {
            if !self.tail.is_empty() {
                self.pieces.push(self.tail.split().freeze());
            }
            self.tail.reserve(PIECE_CAPACITY);
        }
        self.tail.put_u32_le((ID_LEN + payload_len) as u32);
        self.tail.put_u64_le(frame.id);
        if payload_len <= COPIED_LEN_MAX {
            self.tail.put_slice(&frame.payload);
        } else {
            self.pieces.push(self.tail.split().freeze());
            self.pieces.push(frame.payload);
        }
        self.len += HEAD_LEN + payload_len;
        Ok(())
    }

    /// Bytes gathered.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes all that was gathered.
    pub fn take(&mut self) -> Vec<Bytes> {
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
        self.len = 0;
        std::mem::take(&mut self.pieces)
    }
}

/// Whether a payload may be sent.
///
/// # Errors
/// `Bug`: who built it should have bounded it.
pub fn check_len(payload_len: usize) -> Result<()> {
    match payload_len <= MESSAGE_LEN_MAX {
        true => Ok(()),
        false => Err(Error::bug(format!(
            "a message of {payload_len} bytes is longer than {MESSAGE_LEN_MAX}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(pieces: impl IntoIterator<Item = Bytes>) -> Result<(Vec<Frame>, FrameReader)> {
        let mut reader = FrameReader::default();
        let mut frames = Vec::new();
        for piece in pieces {
            reader.push(piece);
            while let Some(frame) = reader.take()? {
                frames.push(frame);
            }
        }
        Ok((frames, reader))
    }

    fn written(frames: &[Frame]) -> Bytes {
        let mut writer = FrameWriter::default();
        for frame in frames {
            writer.push(frame.clone()).unwrap();
        }
        let len = writer.len();
        let bytes: Vec<u8> = writer.take().concat();
        assert_eq!(bytes.len(), len);
        bytes.into()
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_the_stream_is_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6_000), 0..12),
            piece_len in 1usize..9_000,
        ) {
            let frames: Vec<Frame> = payloads
                .into_iter()
                .enumerate()
                .map(|(id, payload)| Frame { id: id as u64 * 7, payload: payload.into() })
                .collect();
            let bytes = written(&frames);
            let pieces = bytes.chunks(piece_len).map(Bytes::copy_from_slice);
            let (read, reader) = read_all(pieces).unwrap();
            prop_assert_eq!(read, frames);
            prop_assert!(reader.is_between_frames());
        }

        #[test]
        fn garbage_never_panics_and_never_yields_too_long_a_frame(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            piece_len in 1usize..40,
        ) {
            let pieces = bytes.chunks(piece_len).map(Bytes::copy_from_slice);
            if let Ok((frames, _)) = read_all(pieces) {
                prop_assert!(frames.iter().all(|frame| frame.payload.len() <= bytes.len()));
            }
        }
    }

    #[test]
    fn golden_bytes() {
        let frame = Frame {
            id: 0x0102_0304_0506_0708,
            payload: "ab".into(),
        };
        #[rustfmt::skip]
        assert_eq!(written(&[frame])[..], [
            10, 0, 0, 0,             // length of id and payload
            8, 7, 6, 5, 4, 3, 2, 1,  // id
            b'a', b'b',              // payload
        ]);
    }

    #[test]
    fn lengths_are_bounded_at_both_ends() {
        for len in [0u32, 7, (MESSAGE_LEN_MAX + 9) as u32, 1 << 31, u32::MAX] {
            let piece = Bytes::copy_from_slice(&len.to_le_bytes());
            assert!(read_all([piece]).is_err(), "{len}");
            // In two pieces, too.
            let bytes = len.to_le_bytes();
            let pieces = [&bytes[..1], &bytes[1..]].map(Bytes::copy_from_slice);
            assert!(read_all(pieces).is_err(), "{len}");
        }
        for len in [0, 1, MESSAGE_LEN_MAX] {
            let frame = Frame {
                id: u64::MAX,
                payload: vec![7; len].into(),
            };
            let (frames, _) = read_all([written(std::slice::from_ref(&frame))]).unwrap();
            assert_eq!(frames, [frame]);
        }
        let too_long = Frame {
            id: 0,
            payload: vec![0; MESSAGE_LEN_MAX + 1].into(),
        };
        assert!(FrameWriter::default().push(too_long).is_err());
    }

    #[test]
    fn a_promised_length_is_not_allocated_before_it_arrives() {
        let len = (MESSAGE_LEN_MAX + ID_LEN) as u32;
        let mut piece = len.to_le_bytes().to_vec();
        piece.push(0);
        let (frames, reader) = read_all([piece.into()]).unwrap();
        assert!(frames.is_empty() && reader.begun.capacity() < 1_024);
        assert!(!reader.is_between_frames());
    }

    #[test]
    fn a_frame_within_one_piece_is_not_copied() {
        let frame = Frame {
            id: 1,
            payload: vec![1; 100].into(),
        };
        let bytes = written(&[frame]);
        let (frames, _) = read_all([bytes.clone()]).unwrap();
        assert_eq!(frames[0].payload.as_ptr(), bytes[HEAD_LEN..].as_ptr());
    }
}
