//! The cache of peers.

use super::endpoint::CONNECT_TIMEOUT;
use super::*;
use crate::error::Code;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    // Whoever dials the silent one waits for five seconds.
    let silent = tokio::net::UdpSocket::bind(LOOPBACK).await.unwrap();
    let wrong = silent.local_addr().unwrap();
    let peers = Peers::new(client());
    let is_remembered = async || {
        let error = peers.get(&meta(1), wrong).await.unwrap_err();
        assert_eq!(error.code, Code::Unreachable);
        let begun = std::time::Instant::now();
        let again = peers.get(&meta(1), wrong).await.unwrap_err();
        assert_eq!(again.code, error.code);
        begun.elapsed() < CONNECT_TIMEOUT / 2
    };
    // On a slow machine the moment may be over before the second one asks: then once more.
    assert!(is_remembered().await || is_remembered().await);
    soon(peers.get(&meta(1), good)).await.unwrap();
}
