//! Connections: each is served by a task of its own until it closes.

use super::Serving;
use super::caller::Peer;
use quarry_common::limits::REQUESTS_IN_FLIGHT_MAX;
use quarry_common::net::{self, Connection, Endpoint, StreamType};
use quarry_common::task::Stop;
use std::sync::Arc;

/// Takes connections until the endpoint is closed.
pub async fn accept_loop(serving: Arc<Serving>, endpoint: Endpoint, stop: Stop) {
    while let Some(connection) = endpoint.accept().await {
        let (serving, streams) = (Arc::clone(&serving), stop.clone());
        stop.spawn_cancellable("connection", serve(serving, connection, streams));
    }
}

async fn serve(serving: Arc<Serving>, connection: Connection, stop: Stop) {
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
        if kind != StreamType::MetaRequests {
            tracing::warn!(peer = %peer.name, ?kind, "a metaserver does not serve such streams");
            net::refuse_stream(send, receive);
            continue;
        }
        let (serving, peer) = (Arc::clone(&serving), Arc::clone(&peer));
        // Cut off at a stop: its client asks the next leader, or again.
        stop.spawn_cancellable("requests", async move {
            let handler = |bytes| {
                let (serving, peer) = (Arc::clone(&serving), Arc::clone(&peer));
                async move { serving.handle(&peer, bytes).await }
            };
            if let Err(error) = net::serve(send, receive, REQUESTS_IN_FLIGHT_MAX, handler).await {
                tracing::warn!(peer = %peer.name, %error, "a stream of requests was closed");
            }
        });
    }
}
