//! The cache of peers.

use super::endpoint::CONNECT_TIMEOUT;
use super::*;
use crate::error::Code;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_ask_at_once_share_one_connection() {
    let dialled = Arc::new(AtomicUsize::new(0));
    let count = dialled.clone();
    let listen = LOOPBACK.parse().unwrap();
    let server = Endpoint::server(identity(&meta(1)), listen, move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        true
    });
    let server = server.unwrap();
    let address = server.local_addr().unwrap();
    serve_echo(server);
    let peers = Peers::new(client());
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let peers = peers.clone();
        calls.spawn(async move {
            let peer = peers.get(&meta(1), address).await.unwrap();
            peer.requests.call("a".into(), SOON).await.unwrap()
        });
    }
    soon(calls.join_all()).await;
    assert_eq!(dialled.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_closed_connection_is_replaced() {
    let (server, address) = server(&meta(1));
    serve_echo(server);
    let peers = Peers::new(client());
    let first = peers.get(&meta(1), address).await.unwrap();
    first.connection.close("test");
    assert!(first.is_closed());
    let second = soon(peers.get(&meta(1), address)).await.unwrap();
    assert_eq!(
        soon(second.requests.call("a".into(), SOON)).await.unwrap(),
        "a"
    );
}

#[tokio::test]
async fn a_failure_is_remembered_for_a_moment_and_for_its_address_only() {
    let (server, good) = server(&meta(1));
    serve_echo(server);
    let silent = tokio::net::UdpSocket::bind(LOOPBACK).await.unwrap();
    let wrong = silent.local_addr().unwrap();
    let peers = Peers::new(client());
    let begun = Instant::now();
    let error = loop {
        let asked = Instant::now();
        let error = peers.get(&meta(1), wrong).await.unwrap_err();
        assert_eq!(error.code, Code::Unreachable);
        assert!(
            asked.elapsed() < CONNECT_TIMEOUT / 2,
            "nobody waits so long"
        );
        // That of the attempt, not of the second that was waited for it.
        if error.to_string().contains("no answer within 5 s") {
            break error;
        }
        assert!(begun.elapsed() < CONNECT_TIMEOUT * 2, "{error}");
    };
    // A new attempt would be waited for.
    let asked = Instant::now();
    let again = peers.get(&meta(1), wrong).await.unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
    assert!(asked.elapsed() < Duration::from_millis(500));
    soon(peers.get(&meta(1), good)).await.unwrap();
}

/// Passes on what comes from one peer, the other way too, once it is told to.
async fn relay(to: SocketAddr, open: Arc<AtomicBool>) -> SocketAddr {
    let outside = tokio::net::UdpSocket::bind(LOOPBACK).await.unwrap();
    let inside = tokio::net::UdpSocket::bind(LOOPBACK).await.unwrap();
    inside.connect(to).await.unwrap();
    let address = outside.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut dialler, mut there, mut back) = (None, [0; 65_536], [0; 65_536]);
        loop {
            tokio::select! {
                Ok((len, from)) = outside.recv_from(&mut there) => {
                    dialler = Some(from);
                    if open.load(Ordering::Acquire) {
                        inside.send(&there[..len]).await.unwrap();
                    }
                }
                Ok(len) = inside.recv(&mut back) => {
                    outside.send_to(&back[..len], dialler.unwrap()).await.unwrap();
                }
            }
        }
    });
    address
}

#[tokio::test]
async fn a_slow_handshake_serves_whoever_asks_later() {
    let dialled = Arc::new(AtomicUsize::new(0));
    let count = dialled.clone();
    let listen = LOOPBACK.parse().unwrap();
    let server = Endpoint::server(identity(&meta(1)), listen, move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        true
    });
    let server = server.unwrap();
    let open = Arc::new(AtomicBool::new(false));
    let address = relay(server.local_addr().unwrap(), open.clone()).await;
    serve_echo(server);
    let peers = Peers::new(client());
    let begun = Instant::now();
    let error = peers.get(&meta(1), address).await.unwrap_err();
    assert_eq!(error.code, Code::Unreachable);
    assert!(begun.elapsed() < Duration::from_millis(1_500), "{begun:?}");
    open.store(true, Ordering::Release);
    while peers.get(&meta(1), address).await.is_err() {
        assert!(begun.elapsed() < CONNECT_TIMEOUT, "it began anew");
    }
    assert_eq!(dialled.load(Ordering::SeqCst), 1);
}
