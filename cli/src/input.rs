//! Standard input, read by a thread of its own.

use bytes::Bytes;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

/// Read at a time.
const PIECE_LEN: usize = 256 << 10;

/// Pieces read ahead.
const AHEAD: usize = 4;

/// Standard input. A read that waits for ever is that of a thread that nobody waits for, so that Ctrl-C
/// ends a command at once and what else the runtime has under way is still ended in order.
pub struct Input {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    held: Bytes,
}

/// Begins to read standard input.
pub fn standard_input() -> Input {
    let (sender, pieces) = mpsc::channel(AHEAD);
    std::thread::spawn(move || read_all(io::stdin().lock(), &sender));
    Input {
        pieces,
        held: Bytes::new(),
    }
}

/// Reads to the end, to the first failure, or until nobody wants more.
fn read_all(mut source: impl Read, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let mut piece = vec![0; PIECE_LEN];
        let read = match source.read(&mut piece) {
            Ok(0) => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(len) => {
                piece.truncate(len);
                Ok(Bytes::from(piece))
            }
            Err(error) => Err(error),
        };
        let failed = read.is_err();
        if pieces.blocking_send(read).is_err() || failed {
            return;
        }
    }
}

impl AsyncRead for Input {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            match ready!(self.pieces.poll_recv(context)) {
                Some(piece) => self.held = piece?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.held.len().min(buffer.remaining());
        buffer.put_slice(&self.held.split_to(len));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// So many bytes, and then an error.
    struct Broken(usize);

    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.0.min(buffer.len());
            self.0 -= len;
            match len {
                0 => Err(io::Error::other("it broke")),
                len => Ok(len),
            }
        }
    }

    async fn read(source: impl Read + Send + 'static) -> (usize, io::Result<usize>) {
        let (sender, pieces) = mpsc::channel(AHEAD);
        std::thread::spawn(move || read_all(source, &sender));
        let held = Bytes::new();
        let mut bytes = Vec::new();
        let ended = Input { pieces, held }.read_to_end(&mut bytes).await;
        (bytes.len(), ended)
    }

    #[tokio::test]
    async fn an_input_that_breaks_is_not_taken_for_one_that_ends() {
        let (len, ended) = read(io::repeat(7).take(1_000_000)).await;
        assert_eq!((len, ended.unwrap()), (1_000_000, 1_000_000));
        let (len, ended) = read(Broken(1_000_000)).await;
        assert_eq!(len, 1_000_000);
        assert_eq!(ended.unwrap_err().to_string(), "it broke");
    }
}
