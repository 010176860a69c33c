//! A connection to one peer whose name is known, and the kinds of its streams.

use crate::error::{Code, Error, Result};
use crate::identity::{PeerName, tls};
use crate::ids::ProcessNumber;
use quinn::{ConnectionError, RecvStream, SendStream, VarInt};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// What a stream is for: its first byte. Numbers are stable on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StreamType {
    /// Requests to a metaserver.
    MetaRequests = 1,
    /// Requests to a dataserver.
    DataRequests = 2,
    /// One chunk being written.
    WriteChunk = 3,
    /// One chunk being read.
    ReadChunk = 4,
    /// Raft between metaservers.
    Raft = 5,
    /// From a server to who dialled it.
    Push = 6,
    /// A snapshot of a shard's state between metaservers.
    RaftSnapshot = 7,
}

impl StreamType {
    /// Every kind.
    pub const ALL: [StreamType; 7] = [
        StreamType::MetaRequests,
        StreamType::DataRequests,
        StreamType::WriteChunk,
        StreamType::ReadChunk,
        StreamType::Raft,
        StreamType::Push,
        StreamType::RaftSnapshot,
    ];

    fn from_byte(byte: u8) -> Option<StreamType> {
        StreamType::ALL
            .into_iter()
            .find(|known| *known as u8 == byte)
    }

    /// Small messages overtake bulk data that waits on the same connection.
    fn priority(self) -> i32 {
        match self {
            StreamType::MetaRequests
            | StreamType::DataRequests
            | StreamType::Raft
            | StreamType::Push => 1,
            StreamType::WriteChunk | StreamType::ReadChunk | StreamType::RaftSnapshot => 0,
        }
    }
}

/// Why a stream or a connection was ended, for the other end (QUIC application error codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum EndCode {
    /// Nothing is wrong.
    Done = 0,
    /// The stream's first byte is unknown, or did not come.
    UnknownStream = 1,
    /// The peer broke the protocol on this stream.
    Malformed = 2,
    /// The peer may not connect here.
    NotAllowed = 3,
    /// Too many at once.
    Overloaded = 4,
}

impl From<EndCode> for VarInt {
    fn from(code: EndCode) -> VarInt {
        VarInt::from_u32(code as u32)
    }
}

/// The first byte of a stream comes this soon or the stream is refused.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);

/// The opening of a stream gives up after this long: the peer has all that it allows open already.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// An authenticated connection. Cheap to clone; the QUIC connection ends when it is closed, or when
/// the last clone and the last stream are dropped.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    quic: quinn::Connection,
    peer: PeerName,
    peer_hash: [u8; 32],
    peer_process: Option<ProcessNumber>,
    /// Streams whose first byte is awaited. A queue, not protocol state: the lock is held while
    /// waiting for the next stream, so that each stream goes to one of several callers.
    arriving: Mutex<JoinSet<Option<Arrived>>>,
}

type Arrived = (StreamType, SendStream, RecvStream);

impl Connection {
    pub(super) fn new(
        quic: quinn::Connection,
        peer: PeerName,
        peer_hash: [u8; 32],
        peer_process: Option<ProcessNumber>,
    ) -> Connection {
        Connection {
            inner: Arc::new(Inner {
                quic,
                peer,
                peer_hash,
                peer_process,
                arriving: Mutex::default(),
            }),
        }
    }

    /// The name in the peer's certificate.
    pub fn peer(&self) -> &PeerName {
        &self.inner.peer
    }

    /// The BLAKE3 hash of the peer's certificate, which capabilities are bound to.
    pub fn peer_hash(&self) -> [u8; 32] {
        self.inner.peer_hash
    }

    /// Which process of that name was dialled, if it said so; nobody knows it of who dialled us.
    pub fn peer_process(&self) -> Option<ProcessNumber> {
        self.inner.peer_process
    }

    /// Where the peer is.
    pub fn remote_address(&self) -> SocketAddr {
        canonical(self.inner.quic.remote_address())
    }

    /// Opens a stream of a kind.
    ///
    /// Cancel-safe. The peer sees the stream at once.
    ///
    /// # Errors
    /// `Disconnected`; `Overloaded`: for ten seconds the peer had as many streams open as it allows.
    pub async fn open(&self, kind: StreamType) -> Result<(SendStream, RecvStream)> {
        let opened = tokio::time::timeout(OPEN_TIMEOUT, self.inner.quic.open_bi()).await;
        let (mut send, recv) = opened
            .map_err(|_| {
                Error::new(
                    Code::Overloaded,
                    format!("{} has too many streams of ours open", self.peer()),
                )
            })?
            .map_err(|error| self.lost(error))?;
        let lost = |error: &dyn fmt::Display| {
            Error::new(
                Code::Disconnected,
                format!("a stream to {} ended at once ({error})", self.peer()),
            )
        };
        send.set_priority(kind.priority())
            .map_err(|error| lost(&error))?;
        send.write_all(&[kind as u8])
            .await
            .map_err(|error| lost(&error))?;
        Ok((send, recv))
    }

    /// The next stream that the peer opened. One of an unknown kind is refused and skipped; one
    /// whose first byte does not come holds up no other.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// `Disconnected`: the connection has ended.
    pub async fn accept(&self) -> Result<(StreamType, SendStream, RecvStream)> {
        let mut arriving = self.inner.arriving.lock().await;
        loop {
            tokio::select! {
                biased;
                Some(arrived) = arriving.join_next() => {
                    // A task that was aborted has no stream for us either.
                    if let Ok(Some(arrived)) = arrived {
                        return Ok(arrived);
                    }
                }
                // Bounded by the number of streams that the peer may have open.
                opened = self.inner.quic.accept_bi() => {
                    let (send, recv) = opened.map_err(|error| self.lost(error))?;
                    arriving.spawn(first_byte(self.inner.peer.clone(), send, recv));
                }
            }
        }
    }

    /// Waits until the connection has ended and says why.
    pub async fn closed(&self) -> Error {
        let error = self.inner.quic.closed().await;
        self.lost(error)
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.inner.quic.close_reason().is_some()
    }

    /// Ends it at once; what was not delivered is lost. `reason` is for the peer's logs.
    pub fn close(&self, reason: &str) {
        self.inner
            .quic
            .close(EndCode::Done.into(), reason.as_bytes());
    }

    /// For measurements: round-trip time, losses, the size of datagrams.
    pub fn stats(&self) -> quinn::ConnectionStats {
        self.inner.quic.stats()
    }

    /// How long a round trip takes, smoothed, as QUIC has measured (RFC 9002 §5.3).
    pub(super) fn round_trip(&self) -> Duration {
        self.inner.quic.rtt()
    }

    fn lost(&self, error: ConnectionError) -> Error {
        Error::new(
            Code::Disconnected,
            format!(
                "the connection to {} at {} has ended: {}",
                self.peer(),
                self.remote_address(),
                why(&error)
            ),
        )
        .with_source(error)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Connection({} at {})",
            self.peer(),
            self.remote_address()
        )
    }
}

/// An IPv4 address as such, however the socket writes it.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The other end's own words where there are some.
pub(super) fn why(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            format!("the peer closed it: {}", told(&close.reason))
        }
        ConnectionError::ConnectionClosed(close) if !close.reason.is_empty() => {
            format!("the peer refused us: {}", told(&close.reason))
        }
        ConnectionError::LocallyClosed => "closed by us".to_owned(),
        ConnectionError::TimedOut => "nothing was heard from the peer".to_owned(),
        ConnectionError::Reset => "the peer was started again".to_owned(),
        other => other.to_string(),
    }
}

/// A stranger's text: bounded by a datagram, and never control characters on a terminal.
fn told(reason: &[u8]) -> String {
    let text = String::from_utf8_lossy(reason);
    let text: String = tls::refusal_text(&text).chars().take(512).collect();
    text.escape_debug().to_string().replace("\\'", "'")
}

async fn first_byte(peer: PeerName, mut send: SendStream, mut recv: RecvStream) -> Option<Arrived> {
    let chunk = tokio::time::timeout(FIRST_BYTE_TIMEOUT, recv.read_chunk(1, true)).await;
    let byte = match chunk {
        Ok(Ok(Some(chunk))) => chunk.bytes.first().copied(),
        // Too late, or ended at once.
        Err(_) | Ok(Ok(None)) => None,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a stream ended before its first byte");
            refuse(&mut send, &mut recv, EndCode::UnknownStream);
            return None;
        }
    };
    let Some(kind) = byte.and_then(StreamType::from_byte) else {
        match byte {
            Some(byte) => tracing::warn!("a stream of {peer} was refused: kind {byte} is unknown"),
            None => tracing::warn!("a stream of {peer} was refused: it did not say its kind"),
        }
        refuse(&mut send, &mut recv, EndCode::UnknownStream);
        return None;
    };
    // Fails only for a stream that has ended: its reader and writer will see that.
    let _ended = send.set_priority(kind.priority());
    Some((kind, send, recv))
}

/// Ends both directions of a stream with an error. That either has ended already is as good.
pub(super) fn refuse(send: &mut SendStream, recv: &mut RecvStream, code: EndCode) {
    let _ended = send.reset(code.into());
    let _ended = recv.stop(code.into());
}

#[cfg(test)]
impl Connection {
    /// Opens a stream and sends no first byte.
    pub(super) async fn open_silent(&self) -> (SendStream, RecvStream) {
        self.inner
            .quic
            .open_bi()
            .await
            .expect("the connection is open")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_the_wire_never_change_their_meaning() {
        let kinds = StreamType::ALL.map(|kind| (kind as u8, format!("{kind:?}")));
        let pinned = [
            (1, "MetaRequests"),
            (2, "DataRequests"),
            (3, "WriteChunk"),
            (4, "ReadChunk"),
            (5, "Raft"),
            (6, "Push"),
            (7, "RaftSnapshot"),
        ];
        assert_eq!(kinds, pinned.map(|(byte, name)| (byte, name.to_owned())));
        for (code, pinned) in [
            (EndCode::Done, 0),
            (EndCode::UnknownStream, 1),
            (EndCode::Malformed, 2),
            (EndCode::NotAllowed, 3),
            (EndCode::Overloaded, 4),
        ] {
            assert_eq!(VarInt::from(code), VarInt::from_u32(pinned));
        }
    }
}
