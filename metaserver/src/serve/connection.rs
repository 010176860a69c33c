//! Connections: each is served by a task of its own until it closes.

use super::Serving;
use super::caller::Peer;
use crate::raft::Raft;
use quarry_common::limits::REQUESTS_IN_FLIGHT_MAX;
use quarry_common::net::{self, Connection, Endpoint, StreamType};
use quarry_common::task::Stop;
use quarry_common::{Code, Error};
use std::sync::Arc;

/// Takes connections until the endpoint is closed.
pub async fn accept_loop(serving: Arc<Serving>, raft: Arc<Raft>, endpoint: Endpoint, stop: Stop) {
    while let Some(connection) = endpoint.accept().await {
        let (serving, raft, streams) = (Arc::clone(&serving), Arc::clone(&raft), stop.clone());
        stop.spawn_cancellable("connection", serve(serving, raft, connection, streams));
    }
}

async fn serve(serving: Arc<Serving>, raft: Arc<Raft>, connection: Connection, stop: Stop) {
    let peer = Arc::new(Peer {
        name: connection.peer().clone(),
        certificate: connection.peer_hash(),
    });
    loop {
        let (kind, send, receive) = match connection.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(peer = %peer.name, %error, "a connection ended");
                return;
            }
        };
        let (serving, raft, peer) = (Arc::clone(&serving), Arc::clone(&raft), Arc::clone(&peer));
        // Cut off at a stop: its client asks the next leader, or again.
        stop.spawn_cancellable("stream", async move {
            let served = match kind {
                StreamType::MetaRequests => {
                    let handler = |bytes| {
                        let (serving, peer) = (Arc::clone(&serving), Arc::clone(&peer));
                        async move { serving.handle(&peer, bytes).await }
                    };
                    net::serve(send, receive, REQUESTS_IN_FLIGHT_MAX, handler).await
                }
                StreamType::Raft => raft.serve(&peer.name, send, receive).await,
                StreamType::RaftSnapshot => raft.serve_snapshot(&peer.name, send, receive).await,
                StreamType::DataRequests
                | StreamType::WriteChunk
                | StreamType::ReadChunk
                | StreamType::Push => {
                    net::refuse_stream(send, receive);
                    Err(Error::malformed("a metaserver does not serve such streams"))
                }
            };
            match served {
                Ok(()) => {}
                // Whoever has what it wanted leaves.
                Err(error) if error.code == Code::Disconnected => {
                    tracing::debug!(peer = %peer.name, %error, "a stream ended");
                }
                Err(error) => tracing::warn!("a stream of {} was closed: {error}", peer.name),
            }
        });
    }
}
