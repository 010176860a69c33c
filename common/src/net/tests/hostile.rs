//! Peers that break the protocol, and strangers that never finish.

use super::endpoint::HANDSHAKES_TRUSTED;
use super::*;
use crate::Result;
use crate::error::Code;
use crate::identity::tls;
use crate::limits::MESSAGE_LEN_MAX;
use std::collections::{BTreeMap, BTreeSet};
use tokio::net::UdpSocket;

/// Sends `bytes` on a fresh request stream and returns how the server ended it, while an honest
/// stream of the same connection goes on working.
async fn served_with(bytes: &[u8], then_finish: bool) -> Result<()> {
    let pair = pair().await;
    let theirs = pair.theirs.clone();
    let (told, outcome) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (_, send, recv) = theirs.accept().await.unwrap();
        tokio::spawn(serve(send, recv, 8, echo));
        let (_, send, recv) = theirs.accept().await.unwrap();
        told.send(serve(send, recv, 8, echo).await).unwrap();
    });
    let honest = Requests::new(&pair.ours, StreamType::MetaRequests);
    assert_eq!(
        soon(honest.call("before".into(), SOON)).await.unwrap(),
        "before"
    );
    let (mut send, mut recv) = pair.ours.open(StreamType::MetaRequests).await.unwrap();
    // The server may have stopped the stream before all was written.
    let _stopped = send.write_all(bytes).await;
    if then_finish {
        let _stopped = send.finish();
    }
    let outcome = soon(outcome).await.unwrap();
    if outcome.is_err() {
        let end = soon(recv.read_to_end(100)).await.unwrap_err();
        assert!(
            end.to_string().contains('2'),
            "the code for a broken protocol: {end}"
        );
    }
    assert_eq!(
        soon(honest.call("after".into(), SOON)).await.unwrap(),
        "after"
    );
    assert!(!pair.ours.is_closed());
    outcome
}

fn framed(len: u32, payload: &[u8]) -> Vec<u8> {
    [&len.to_le_bytes()[..], &7u64.to_le_bytes(), payload].concat()
}

#[tokio::test]
async fn broken_frames_end_their_stream_and_nothing_else() {
    for (what, bytes) in [
        ("length 0", framed(0, b"")),
        ("length 7", framed(7, b"")),
        (
            "length+1 of the limit",
            framed(MESSAGE_LEN_MAX as u32 + 9, b"x"),
        ),
        ("length 2^31-1", framed(i32::MAX as u32, b"x")),
        ("length 2^32-1", framed(u32::MAX, b"x")),
        ("garbage", vec![0xa5; 5_000]),
        (
            "good, then garbage",
            [framed(9, b"x"), vec![0xff; 64]].concat(),
        ),
    ] {
        let error = served_with(&bytes, false).await.expect_err(what);
        assert_eq!(error.code, Code::Malformed, "{what}: {error}");
    }
}

#[tokio::test]
async fn a_stream_cut_within_a_request_is_malformed_and_between_is_not() {
    for (what, bytes) in [
        ("within the length", vec![9, 0]),
        ("within the head", framed(9, b"")),
        ("one byte short", framed(8 + 4, b"abc")),
    ] {
        let error = served_with(&bytes, true).await.expect_err(what);
        assert_eq!(error.code, Code::Malformed, "{what}: {error}");
    }
    served_with(&framed(8 + 3, b"abc"), true).await.unwrap();
    served_with(b"", true).await.unwrap();
}

#[tokio::test]
async fn broken_answers_end_the_stream_and_its_calls_only() {
    let pair = pair().await;
    let requests = Requests::new(&pair.ours, StreamType::MetaRequests);
    let call = tokio::spawn({
        let requests = requests.clone();
        async move { requests.call("a".into(), SOON).await }
    });
    let (_, mut send, _recv) = soon(pair.theirs.accept()).await.unwrap();
    // An answer that nobody asked for is dropped; a broken one ends the stream.
    send.write_all(&framed(9, b"x")).await.unwrap();
    send.write_all(&framed(u32::MAX, b"x")).await.unwrap();
    let error = soon(call).await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::Disconnected);
    assert!(requests.is_closed() && !pair.ours.is_closed());
}

#[tokio::test]
async fn streams_of_unknown_kind_are_refused_and_silent_ones_hold_up_nobody() {
    let pair = pair().await;
    let raw = pair.ours.clone();
    // Opens streams without a first byte: the later one makes them all known to the server.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(raw.open_silent().await);
    }
    let (mut send, mut recv) = raw.open_silent().await;
    send.write_all(&[0x77, 1, 2, 3]).await.unwrap();
    let (_send, _recv) = raw.open(StreamType::ReadChunk).await.unwrap();
    let (kind, _, _) = soon(pair.theirs.accept()).await.unwrap();
    assert_eq!(kind, StreamType::ReadChunk);
    // The refusal comes as the next streams are accepted.
    let refused = async {
        tokio::select! {
            end = recv.read_to_end(10) => end.unwrap_err(),
            _ = pair.theirs.accept() => panic!("a refused stream was handed out"),
        }
    };
    let end = soon(refused).await;
    assert!(end.to_string().contains("error 1"), "{end}");
    assert!(!pair.theirs.is_closed());
}

#[tokio::test]
async fn a_reader_that_never_reads_does_not_stop_the_other_streams() {
    let pair = pair().await;
    let theirs = pair.theirs.clone();
    tokio::spawn(async move {
        let mut stalled = Vec::new();
        while let Ok((kind, send, recv)) = theirs.accept().await {
            match kind {
                StreamType::WriteChunk => stalled.push((send, recv)),
                _ => drop(tokio::spawn(serve(send, recv, 8, echo))),
            }
        }
    });
    let mut writers = Vec::new();
    for _ in 0..8 {
        let (send, _recv) = pair.ours.open(StreamType::WriteChunk).await.unwrap();
        writers.push(tokio::spawn(async move {
            let mut writer = BulkWriter::new(send);
            // Twice what the peer takes of one stream unread.
            for _ in 0..8 {
                writer.write(Bytes::from(vec![1; 1 << 20])).await.unwrap();
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let requests = Requests::new(&pair.ours, StreamType::MetaRequests);
    assert_eq!(soon(requests.call("a".into(), SOON)).await.unwrap(), "a");
    assert!(writers.iter().all(|writer| !writer.is_finished()));
    writers.iter().for_each(|writer| writer.abort());
}

/// First datagrams of handshakes that nobody will go on with.
async fn first_datagrams(count: usize) -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind(LOOPBACK).await.unwrap();
    let address = sink.local_addr().unwrap();
    let own = identity(&user("anna"));
    let base = tls::client(&own).unwrap();
    let (config, _) = tls::dial(&base, &own, &meta(1)).unwrap();
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let endpoint = quinn::Endpoint::client(LOOPBACK.parse().unwrap()).unwrap();
    // Not dropped before the end: that would send a word of farewell.
    let mut connecting = Vec::new();
    let mut datagrams = BTreeMap::new();
    let mut buffer = vec![0; 2_000];
    while datagrams.len() < count {
        connecting.push(
            endpoint
                .connect_with(config.clone(), address, tls::SERVER_NAME)
                .unwrap(),
        );
        while datagrams.len() < connecting.len() {
            let (len, _) = soon(sink.recv_from(&mut buffer)).await.unwrap();
            // By the connection id that the dialler has made up for the server.
            let id = buffer[6..6 + usize::from(buffer[5])].to_vec();
            let datagram = || buffer[..len].to_vec();
            datagrams.entry(id).or_insert_with(datagram);
        }
    }
    datagrams.into_values().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_are_never_finished_do_not_keep_an_honest_peer_out() {
    let (server, address) = server(&meta(1));
    let flood = first_datagrams(600).await;
    let stranger = UdpSocket::bind(LOOPBACK).await.unwrap();
    for datagram in &flood {
        stranger.send_to(datagram, address).await.unwrap();
    }
    let client = client();
    let begun = std::time::Instant::now();
    let (_connected, accepted) = meet(&client, &server).await;
    assert_eq!(accepted.peer(), &user("anna"));
    // Not only when those have been given up.
    assert!(
        begun.elapsed() < endpoint::CONNECT_TIMEOUT,
        "{:?}",
        begun.elapsed()
    );
}

/// Whether a datagram begins with a Retry, and the connection id that it is sent to; nothing of packets
/// that are not of a handshake (RFC 9000 §17.2). A bit of the first byte may be anything (RFC 9287).
fn is_retry(datagram: &[u8]) -> Option<(bool, Vec<u8>)> {
    let (first, id) = (datagram[0], datagram.get(5..)?);
    let id = id.get(1..1 + usize::from(id[0]))?;
    (first & 0x80 != 0).then(|| (first & 0x30 == 0x30, id.to_vec()))
}

/// Invented addresses can not fill a server that sends them nothing but small Retries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_many_handshakes_in_progress_who_dials_must_show_that_it_receives() {
    let (server, address) = server(&meta(1));
    let first = first_datagrams(HANDSHAKES_TRUSTED + 1).await;
    let (last, trusted) = first.split_last().unwrap();
    let stranger = UdpSocket::bind(LOOPBACK).await.unwrap();
    for datagram in trusted {
        stranger.send_to(datagram, address).await.unwrap();
    }
    // Each of them is answered as if it were honest: the server goes on with its handshake.
    let mut buffer = vec![0; 2_000];
    let mut answered = BTreeSet::new();
    while answered.len() < HANDSHAKES_TRUSTED {
        let (len, _) = soon(stranger.recv_from(&mut buffer)).await.unwrap();
        if let Some((retry, id)) = is_retry(&buffer[..len]) {
            assert!(!retry, "after {} answers", answered.len());
            answered.insert(id);
        }
    }
    let late = UdpSocket::bind(LOOPBACK).await.unwrap();
    late.send_to(last, address).await.unwrap();
    let (len, _) = soon(late.recv_from(&mut buffer)).await.unwrap();
    assert!(is_retry(&buffer[..len]).unwrap().0, "no Retry");
    assert!(len < last.len() / 4, "{len} bytes for {}", last.len());
    // Who does receive gets in, while the others are still waited for.
    let (_connected, accepted) = meet(&client(), &server).await;
    assert_eq!(accepted.peer(), &user("anna"));
}

#[tokio::test]
async fn datagrams_of_noise_change_nothing() {
    let (server, address) = server(&meta(1));
    let stranger = UdpSocket::bind(LOOPBACK).await.unwrap();
    let mut state = 1u64;
    for number in 0..2_000usize {
        let mut noise = vec![0; 1 + number * 31 % 1_500];
        for byte in &mut noise {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        stranger.send_to(&noise, address).await.unwrap();
    }
    meet(&client(), &server).await;
}
