//! Peers by name and `host:port`.

use super::endpoint::Endpoint;
use super::peers::{Peer, Peers};
use crate::error::{Code, Error, Result};
use crate::identity::PeerName;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the address of a host's name is believed.
const RESOLVED_FOR: Duration = Duration::from_secs(30);

/// Connections by name, made when first needed. Cheap to clone.
#[derive(Clone)]
pub struct Dial {
    peers: Peers,
    resolved: Arc<Mutex<HashMap<String, (SocketAddr, Instant)>>>,
}

impl Dial {
    /// Dials from that endpoint.
    pub fn new(endpoint: Endpoint) -> Dial {
        Dial {
            peers: Peers::new(endpoint),
            resolved: Arc::default(),
        }
    }

    /// The peer of that name, connected; `address` is `host:port`.
    ///
    /// # Errors
    /// `Unreachable`, and the others of [`Endpoint::connect`].
    pub async fn get(&self, name: &PeerName, address: &str) -> Result<Peer> {
        if let Ok(address) = address.parse() {
            return self.peers.get(name, address).await;
        }
        let known = self.lock().get(address).copied();
        if let Some((found, _)) = known.filter(|(_, at)| at.elapsed() < RESOLVED_FOR) {
            let peer = self.peers.get(name, found).await;
            if peer.is_err() {
                self.lock().remove(address);
            }
            return peer;
        }
        let unresolved = |what: String| {
            let text = format!("the address {address} of {name} {what}");
            Error::new(Code::Unreachable, text)
        };
        let all = tokio::net::lookup_host(address)
            .await
            .map_err(|error| unresolved(format!("can not be resolved: {error}")))?;
        let mut last = unresolved("has no entry".into());
        for found in all {
            match self.peers.get(name, found).await {
                Ok(peer) => {
                    let now = Instant::now();
                    self.lock().insert(address.to_owned(), (found, now));
                    return Ok(peer);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (SocketAddr, Instant)>> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
