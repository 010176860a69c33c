//! Where the bytes of an upload come from, with runs of zeros told apart.

use bytes::{Bytes, BytesMut};
use quarry_common::error::{Code, Error, Result};
use quarry_common::limits::BLOCK_LEN;
use std::collections::VecDeque;
use std::future::Future;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes read at a time.
const READ_LEN: usize = 1 << 20;

/// The next piece of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// So many zeros.
    Zeros(u64),
}

/// A stream of pieces, in order.
pub trait Source: Send {
    /// The next piece; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Piece>>> + Send;
}

/// Cuts bytes that start at a block boundary into data and runs of zero blocks. A part of a block
/// counts as data.
pub fn cut_zeros(bytes: Bytes) -> VecDeque<Piece> {
    let mut pieces = VecDeque::new();
    let mut at = 0;
    let mut run: Option<(bool, usize)> = None;
    let mut close = |zeros: bool, start: usize, end: usize| {
        pieces.push_back(if zeros {
            Piece::Zeros((end - start) as u64)
        } else {
            Piece::Data(bytes.slice(start..end))
        });
    };
    for block in bytes.chunks(BLOCK_LEN) {
        let zeros = block.len() == BLOCK_LEN && is_zero(block);
        match run {
            Some((same, _)) if same == zeros => {}
            Some((other, start)) => {
                close(other, start, at);
                run = Some((zeros, at));
            }
            None => run = Some((zeros, at)),
        }
        at += block.len();
    }
    if let Some((zeros, start)) = run {
        close(zeros, start, at);
    }
    pieces
}

/// Looks at 32 bytes at a time: most data is found out by the first look.
fn is_zero(block: &[u8]) -> bool {
    block
        .chunks(32)
        .all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Any reader.
pub struct ReaderSource<R> {
    reader: R,
    pieces: VecDeque<Piece>,
    ended: bool,
}

impl<R: AsyncRead + Send + Unpin> ReaderSource<R> {
    /// Reads until the end.
    pub fn new(reader: R) -> ReaderSource<R> {
        ReaderSource {
            reader,
            pieces: VecDeque::new(),
            ended: false,
        }
    }
}

impl<R: AsyncRead + Send + Unpin> Source for ReaderSource<R> {
    async fn next(&mut self) -> Result<Option<Piece>> {
        while self.pieces.is_empty() && !self.ended {
            let mut buffer = BytesMut::with_capacity(READ_LEN);
            // A full buffer each time, so that blocks stay aligned to the file.
            while buffer.len() < READ_LEN {
                let mut room = (&mut self.reader).take((READ_LEN - buffer.len()) as u64);
                let got = room.read_buf(&mut buffer).await.map_err(|error| {
                    Error::new(Code::Io, format!("the source can not be read: {error}"))
                })?;
                if got == 0 {
                    self.ended = true;
                    break;
                }
            }
            self.pieces = cut_zeros(buffer.freeze());
        }
        Ok(self.pieces.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_zeros_are_told_apart_from_data() {
        let mut file = vec![1u8; BLOCK_LEN];
        file.extend(vec![0; 2 * BLOCK_LEN]);
        file.extend([0, 0, 7]);
        let bytes = Bytes::from(file);
        let pieces: Vec<Piece> = cut_zeros(bytes.clone()).into();
        assert_eq!(
            pieces,
            [
                Piece::Data(bytes.slice(..BLOCK_LEN)),
                Piece::Zeros(2 * BLOCK_LEN as u64),
                Piece::Data(bytes.slice(3 * BLOCK_LEN..)),
            ]
        );
        assert!(cut_zeros(Bytes::new()).is_empty());
        let mut late = vec![0; BLOCK_LEN];
        late[BLOCK_LEN - 1] = 1;
        assert!(matches!(cut_zeros(late.into())[0], Piece::Data(_)));
    }
}
