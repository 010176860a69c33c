//! Peers by name and `host:port`.

use super::connection::Connection;
use super::endpoint::Endpoint;
use super::peers::{Peer, Peers};
use crate::error::{Code, Error, Result};
use crate::identity::PeerName;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

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
        let mut last = unresolved(name, address, "has no entry");
        for found in resolve(name, address).await? {
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

    /// A connection that did not exist before, and is not kept for others: to find out who is there now.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// As [`Dial::get`].
    pub async fn anew(&self, name: &PeerName, address: &str) -> Result<Connection> {
        let mut last = unresolved(name, address, "has no entry");
        // All addresses of the host at the same time: some may lead nowhere.
        let mut dialling = JoinSet::new();
        for found in resolve(name, address).await? {
            let (endpoint, name) = (self.peers.endpoint().clone(), name.clone());
            dialling.spawn(async move { endpoint.connect(found, &name).await });
        }
        while let Some(dialled) = dialling.join_next().await {
            match dialled {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => last = error,
                Err(error) => last = Error::bug(format!("dialling {name} failed: {error}")),
            }
        }
        Err(last)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (SocketAddr, Instant)>> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn resolve(name: &PeerName, address: &str) -> Result<impl Iterator<Item = SocketAddr>> {
    let failed =
        |error: std::io::Error| unresolved(name, address, &format!("can not be resolved: {error}"));
    tokio::net::lookup_host(address).await.map_err(failed)
}

fn unresolved(name: &PeerName, address: &str, what: &str) -> Error {
    let text = format!("the address {address} of {name} {what}");
    Error::new(Code::Unreachable, text)
}
