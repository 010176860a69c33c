//! Requests over one stream.

use super::*;
use crate::error::Code;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;
use tokio::task::JoinSet;

async fn echoing() -> (Requests, Pair) {
    let pair = pair().await;
    tokio::spawn(serve_echo_on(pair.theirs.clone()));
    (Requests::new(&pair.ours, StreamType::MetaRequests), pair)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_in_flight_come_back_right() {
    let (requests, _pair) = echoing().await;
    let mut calls = JoinSet::new();
    for number in 0..6_000u32 {
        let requests = requests.clone();
        calls.spawn(async move {
            // Of all sizes: within a datagram, across many.
            let mut payload = number.to_le_bytes().to_vec();
            payload.resize(4 + (number as usize * 37) % 900, number as u8);
            if number % 500 == 0 {
                payload.resize(200_000, 3);
            }
            let payload = Bytes::from(payload);
            let answer = requests.call(payload.clone(), SOON).await.unwrap();
            assert_eq!(answer, payload);
        });
    }
    let answered = soon(calls.join_all()).await;
    assert_eq!(answered.len(), 6_000);
}

#[tokio::test]
async fn a_slow_request_holds_up_no_other() {
    let pair = pair().await;
    let release = Arc::new(Notify::new());
    let theirs = pair.theirs.clone();
    let wait = release.clone();
    tokio::spawn(async move {
        let (_, send, recv) = theirs.accept().await.unwrap();
        serve(send, recv, 16, move |request: Bytes| {
            let wait = wait.clone();
            async move {
                if request.starts_with(b"slow") {
                    wait.notified().await;
                }
                request
            }
        })
        .await
    });
    let requests = Requests::new(&pair.ours, StreamType::MetaRequests);
    let slow = tokio::spawn({
        let requests = requests.clone();
        async move { requests.call("slow".into(), SOON).await }
    });
    for _ in 0..100 {
        soon(requests.call("quick".into(), SOON)).await.unwrap();
    }
    assert!(!slow.is_finished());
    release.notify_one();
    assert_eq!(soon(slow).await.unwrap().unwrap(), "slow");
}

#[tokio::test]
async fn handlers_in_flight_are_bounded_and_all_are_answered() {
    let pair = pair().await;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let theirs = pair.theirs.clone();
    let counters = (running.clone(), most.clone());
    tokio::spawn(async move {
        let (_, send, recv) = theirs.accept().await.unwrap();
        serve(send, recv, 8, move |request: Bytes| {
            let (running, most) = counters.clone();
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                request
            }
        })
        .await
    });
    let requests = Requests::new(&pair.ours, StreamType::MetaRequests);
    let mut calls = JoinSet::new();
    for number in 0..200u8 {
        let requests = requests.clone();
        calls.spawn(async move { requests.call(vec![number].into(), SOON).await.unwrap() });
    }
    assert_eq!(soon(calls.join_all()).await.len(), 200);
    assert_eq!(most.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn serve_returns_when_its_handlers_have_ended() {
    let pair = pair().await;
    let ended = Arc::new(AtomicUsize::new(0));
    let begun = Arc::new(tokio::sync::Notify::new());
    let theirs = pair.theirs.clone();
    let (count, begins) = (ended.clone(), begun.clone());
    let serving = tokio::spawn(async move {
        let (_, send, recv) = theirs.accept().await.unwrap();
        let handler = move |request: Bytes| {
            let (count, begins) = (count.clone(), begins.clone());
            async move {
                begins.notify_one();
                tokio::time::sleep(Duration::from_millis(100)).await;
                count.fetch_add(1, Ordering::SeqCst);
                request
            }
        };
        serve(send, recv, 8, handler).await
    });
    let requests = Requests::new(&pair.ours, StreamType::MetaRequests);
    let call = tokio::spawn(async move { requests.call("a".into(), SOON).await });
    soon(begun.notified()).await;
    // The peer goes away while its request is worked on.
    pair.ours.close("test");
    let called = soon(call).await.unwrap();
    assert_eq!(called.unwrap_err().code, Code::Disconnected);
    let served = soon(serving).await.unwrap();
    assert_eq!(served.unwrap_err().code, Code::Disconnected);
    assert_eq!(ended.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_given_up_and_the_stream_goes_on() {
    let pair = pair().await;
    let theirs = pair.theirs.clone();
    tokio::spawn(async move {
        let (_, send, recv) = theirs.accept().await.unwrap();
        let handler = |request: Bytes| async move {
            if request == "never" {
                std::future::pending::<()>().await;
            }
            request
        };
        serve(send, recv, 8, handler).await
    });
    let requests = Requests::new(&pair.ours, StreamType::MetaRequests);
    let error = requests
        .call("never".into(), Duration::from_millis(30))
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::Disconnected);
    assert!(
        error.text.contains("did not answer within 30 ms"),
        "{error}"
    );
    assert_eq!(soon(requests.call("b".into(), SOON)).await.unwrap(), "b");
    assert!(!requests.is_closed());
}

#[tokio::test]
async fn when_the_stream_dies_every_waiting_call_is_told() {
    let pair = pair().await;
    let theirs = pair.theirs.clone();
    let requests = Requests::new(&pair.ours, StreamType::MetaRequests);
    let mut calls = JoinSet::new();
    for _ in 0..300 {
        let requests = requests.clone();
        calls.spawn(async move { requests.call("a".into(), SOON * 10).await });
    }
    let (_, mut send, _recv) = soon(theirs.accept()).await.unwrap();
    send.reset(9u32.into()).unwrap();
    for result in soon(calls.join_all()).await {
        assert_eq!(result.unwrap_err().code, Code::Disconnected);
    }
    assert!(requests.is_closed());
    assert!(!pair.ours.is_closed());
    let error = soon(requests.call("a".into(), SOON)).await.unwrap_err();
    assert_eq!(error.code, Code::Disconnected);
    // Another stream of the same connection works.
    tokio::spawn(serve_echo_on(theirs));
    let again = Requests::new(&pair.ours, StreamType::MetaRequests);
    assert_eq!(soon(again.call("b".into(), SOON)).await.unwrap(), "b");
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_stream() {
    let pair = pair().await;
    let requests = Requests::new(&pair.ours, StreamType::MetaRequests);
    let theirs = pair.theirs.clone();
    let serving = tokio::spawn(async move {
        let (_, send, recv) = theirs.accept().await.unwrap();
        serve(send, recv, 8, echo).await
    });
    soon(requests.call("a".into(), SOON)).await.unwrap();
    drop(requests);
    soon(serving).await.unwrap().unwrap_err();
    assert!(!pair.ours.is_closed());
}

#[tokio::test]
async fn too_long_a_request_is_refused_here_and_harms_no_other() {
    let (requests, _pair) = echoing().await;
    let long = Bytes::from(vec![0; crate::limits::MESSAGE_LEN_MAX + 1]);
    assert_eq!(
        requests.call(long.clone(), SOON).await.unwrap_err().code,
        Code::Bug
    );
    let longest = long.slice(1..);
    assert_eq!(
        soon(requests.call(longest.clone(), SOON)).await.unwrap(),
        longest
    );
}
