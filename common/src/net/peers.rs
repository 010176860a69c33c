//! Connections to the peers of a process, made when first needed and kept.

use super::alive::Asking;
use super::connection::{Connection, StreamType};
use super::endpoint::Endpoint;
use super::request::Requests;
use crate::error::{Code, Error, Result};
use crate::identity::{PeerName, Role};
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Mutex as WaitingMutex;
use tokio::time::Instant;

/// After a failure the peer is not dialled again for this long: all who ask get the same answer.
const BACK_OFF: Duration = Duration::from_millis(200);

/// Whoever asks for a peer waits for a handshake for so long at most. The handshake goes on without it: who asks later
/// finds it done. (A server that was unplugged or paused costs a writer a second then, not the five of a handshake;
/// where a third of all packets is lost some handshakes take three.)
const PATIENCE: Duration = Duration::from_secs(1);

/// A peer that is connected. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer {
    /// For streams of their own.
    pub connection: Connection,
    /// For requests.
    pub requests: Requests,
    pub(super) asking: Arc<Asking>,
}

impl Peer {
    /// Whether the connection or its request stream has ended.
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed() || self.requests.is_closed()
    }
}

/// A cache of peers. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    kind: Option<StreamType>,
    slots: Mutex<HashMap<PeerName, Arc<Slot>>>,
}

/// One peer. The lock is held while it is dialled: that is how the others wait for it.
#[derive(Default)]
struct Slot(WaitingMutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Unknown,
    Connected(Peer),
    Failed {
        error: Error,
        address: SocketAddr,
        at: Instant,
    },
}

impl State {
    fn connected(&self) -> Option<Peer> {
        match self {
            State::Connected(peer) if !peer.is_closed() => Some(peer.clone()),
            State::Connected(_) | State::Failed { .. } | State::Unknown => None,
        }
    }
}

impl Slot {
    async fn dial(&self, inner: &Inner, name: &PeerName, address: SocketAddr) -> Result<Peer> {
        let mut state = self.0.lock().await;
        if let Some(peer) = state.connected() {
            return Ok(peer);
        }
        if let State::Failed {
            error,
            address: failed_at,
            at,
        } = &*state
            && *failed_at == address
            && at.elapsed() < BACK_OFF
        {
            return Err(error.clone());
        }
        match inner.endpoint.connect(address, name).await {
            Ok(connection) => {
                let kind = inner.kind.unwrap_or(match name.role {
                    Role::Metaserver => StreamType::MetaRequests,
                    Role::Dataserver => StreamType::DataRequests,
                    Role::User | Role::Join => StreamType::Push,
                });
                let peer = Peer {
                    requests: Requests::new(&connection, kind),
                    connection,
                    asking: Arc::default(),
                };
                *state = State::Connected(peer.clone());
                Ok(peer)
            }
            Err(error) => {
                *state = State::Failed {
                    error: error.clone(),
                    address,
                    at: Instant::now(),
                };
                Err(error)
            }
        }
    }
}

impl Peers {
    /// Dials with `endpoint`; request streams are those for the peer's role.
    pub fn new(endpoint: Endpoint) -> Peers {
        Peers::with(endpoint, None)
    }

    /// As [`Peers::new`], but request streams are of the given kind: Raft has its own.
    pub fn with_stream(endpoint: Endpoint, kind: StreamType) -> Peers {
        Peers::with(endpoint, Some(kind))
    }

    fn with(endpoint: Endpoint, kind: Option<StreamType>) -> Peers {
        Peers {
            inner: Arc::new(Inner {
                endpoint,
                kind,
                slots: Mutex::default(),
            }),
        }
    }

    /// The endpoint that dials.
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// The peer of that name, dialled at `address` if it is not connected. All who ask at the same
    /// time wait for one attempt, each for a second; for 200 ms after a failure they get its error.
    ///
    /// Cancel-safe: an attempt goes on when nobody waits for it.
    ///
    /// # Errors
    /// As [`Endpoint::connect`]; `Unreachable` also when the attempt takes longer than a second.
    pub async fn get(&self, name: &PeerName, address: SocketAddr) -> Result<Peer> {
        let slot = self.slot(name);
        if let Ok(state) = slot.0.try_lock()
            && let Some(peer) = state.connected()
        {
            return Ok(peer);
        }
        let (inner, peer) = (self.inner.clone(), name.clone());
        let attempt = tokio::spawn(async move { slot.dial(&inner, &peer, address).await });
        match tokio::time::timeout(PATIENCE, attempt).await {
            Ok(Ok(dialled)) => dialled,
            Ok(Err(error)) => Err(Error::bug(format!("dialling {name} failed: {error}"))),
            Err(_) => {
                let text = format!(
                    "{name} at {address} has not answered within {} ms",
                    PATIENCE.as_millis()
                );
                Err(Error::new(Code::Unreachable, text))
            }
        }
    }

    fn slot(&self, name: &PeerName) -> Arc<Slot> {
        let mut slots = self.slots();
        match slots.get(name) {
            Some(slot) => slot.clone(),
            None => slots.entry(name.clone()).or_default().clone(),
        }
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<PeerName, Arc<Slot>>> {
        self.inner
            .slots
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peers({} known)", self.slots().len())
    }
}
