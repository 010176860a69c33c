//! Peers that live, hang and are gone, while something is awaited from them.

use super::*;
use crate::error::{Code, Result};
use crate::net::alive::{ROUND_TRIP_LONG, SILENT_AFTER};
use std::sync::mpsc;
use std::time::Instant;
use tokio::net::UdpSocket;
use tokio::runtime::Builder;

/// A server with a thread of its own, which can be made to hang.
struct Apart {
    address: SocketAddr,
    tell: mpsc::Sender<Fate>,
}

enum Fate {
    Hang(Duration),
    Die,
}

impl Apart {
    fn start() -> Apart {
        let (tell, told) = mpsc::channel();
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let endpoint = runtime.block_on(async {
                let (endpoint, address) = server(&meta(1));
                say.send(address).unwrap();
                endpoint
            });
            runtime.spawn(async move {
                while let Some(connection) = endpoint.accept().await {
                    tokio::spawn(serve_echo_on(connection));
                }
            });
            loop {
                match told.try_recv() {
                    Ok(Fate::Hang(time)) => std::thread::sleep(time),
                    Ok(Fate::Die) | Err(mpsc::TryRecvError::Disconnected) => return,
                    Err(mpsc::TryRecvError::Empty) => {
                        runtime
                            .block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
                    }
                }
            }
        });
        let address = said.recv().unwrap();
        Apart { address, tell }
    }

    async fn peer(&self) -> Peer {
        let peer = Peers::new(client()).get(&meta(1), self.address).await;
        let peer = peer.unwrap();
        peer.requests.call("b".into(), SOON).await.unwrap();
        peer
    }
}

async fn never() -> Result<()> {
    std::future::pending().await
}

#[tokio::test]
async fn work_that_takes_long_is_waited_for_while_the_peer_lives() {
    let apart = Apart::start();
    let peer = apart.peer().await;
    let work = async {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        Ok(7)
    };
    assert_eq!(peer.while_alive("b".into(), work).await.unwrap(), 7);
}

#[tokio::test]
async fn a_peer_that_hangs_is_given_up_within_about_a_second() {
    let apart = Apart::start();
    let peer = apart.peer().await;
    apart.tell.send(Fate::Hang(Duration::from_secs(4))).unwrap();
    let began = Instant::now();
    let error = peer.while_alive("b".into(), never()).await.unwrap_err();
    assert_eq!(error.code, Code::Disconnected, "{error}");
    assert!(error.text.contains("no sign of life"), "{error}");
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(700) && took < Duration::from_secs(3),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_peer_that_died_is_given_up_sooner_where_its_machine_says_so() {
    let apart = Apart::start();
    let peer = apart.peer().await;
    apart.tell.send(Fate::Die).unwrap();
    let began = Instant::now();
    let error = peer.while_alive("b".into(), never()).await.unwrap_err();
    assert!(
        began.elapsed() < Duration::from_millis(700),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(error.code, Code::Unreachable, "{error}");
}

/// What a relay does to datagrams.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// None passes. What the server said last comes again and again, as from one that waits for our acknowledgement.
    All,
    /// None of the connection passes.
    Connection,
    /// What we say comes so much later: in the connection, or also aside from it.
    Late {
        by: Duration,
        aside: bool,
    },
}

type Faulty = Arc<std::sync::Mutex<Fault>>;

/// A relay to a server.
async fn relay(to: SocketAddr, faulty: Faulty, repeats_every: Duration) -> SocketAddr {
    let outside = bind().await;
    let [inside, aside] = [bind().await, bind().await].map(Arc::new);
    inside.connect(to).await.unwrap();
    aside.connect(to).await.unwrap();
    let address = outside.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut us, mut stranger) = (address, address);
        let [mut ours, mut theirs, mut answer] = [const { [0; 65_536] }; 3].map(Box::new);
        let mut theirs_len = 0;
        let mut again = tokio::time::interval(repeats_every);
        loop {
            let fault = || *faulty.lock().unwrap();
            tokio::select! {
                received = outside.recv_from(&mut *ours) => {
                    let (len, from) = received.unwrap();
                    // Who listens here is asked from another address, in a version that does not exist.
                    let is_ours = ours[1..5] != [0x1a, 0x2a, 0x3a, 0x4a];
                    let passes = match fault() {
                        Fault::None | Fault::Late { .. } => true,
                        Fault::All => false,
                        Fault::Connection => !is_ours,
                    };
                    if !passes {
                        continue;
                    }
                    let to = match is_ours {
                        true => {
                            us = from;
                            Arc::clone(&inside)
                        }
                        false => {
                            stranger = from;
                            Arc::clone(&aside)
                        }
                    };
                    let late = match fault() {
                        Fault::Late { by, aside } if is_ours || aside => by,
                        _ => Duration::ZERO,
                    };
                    let datagram = ours[..len].to_vec();
                    tokio::spawn(async move {
                        tokio::time::sleep(late).await;
                        to.send(&datagram).await.unwrap();
                    });
                    continue;
                }
                received = aside.recv(&mut *answer) => {
                    outside.send_to(&answer[..received.unwrap()], stranger).await.unwrap();
                    continue;
                }
                received = inside.recv(&mut *theirs) => {
                    theirs_len = received.unwrap();
                    if fault() == Fault::Connection { continue }
                }
                _ = again.tick() => if fault() != Fault::All { continue },
            }
            outside.send_to(&theirs[..theirs_len], us).await.unwrap();
        }
    });
    address
}

async fn bind() -> UdpSocket {
    UdpSocket::bind(LOOPBACK).await.unwrap()
}

async fn peer_behind_a_relay(repeats_every: Duration) -> (Peer, Faulty) {
    let (endpoint, address) = server(&meta(1));
    serve_echo(endpoint);
    let faulty = Arc::new(std::sync::Mutex::new(Fault::None));
    let address = relay(address, Arc::clone(&faulty), repeats_every).await;
    let peer = Peers::new(client()).get(&meta(1), address).await.unwrap();
    peer.requests.call("b".into(), SOON).await.unwrap();
    (peer, faulty)
}

/// A peer behind a relay that does this from now on.
async fn peer_with(fault: Fault) -> (Peer, Faulty) {
    let (peer, faulty) = peer_behind_a_relay(SOON).await;
    *faulty.lock().unwrap() = fault;
    (peer, faulty)
}

/// A peer that has ceased to hear us, and repeats itself so often.
async fn peer_that_is_deaf(repeats_every: Duration) -> Peer {
    let (peer, faulty) = peer_behind_a_relay(repeats_every).await;
    *faulty.lock().unwrap() = Fault::All;
    peer
}

/// A peer whose connection believes that a round trip takes long, as after an outage.
async fn peer_that_was_slow(aside: bool) -> (Peer, Faulty) {
    let by = Duration::from_millis(500);
    let (peer, faulty) = peer_with(Fault::Late { by, aside }).await;
    calls(&peer, 8).await.unwrap();
    let believed = peer.connection.round_trip();
    assert!(believed > 3 * ROUND_TRIP_LONG / 2, "{believed:?}");
    (peer, faulty)
}

async fn calls(peer: &Peer, count: usize) -> Result<()> {
    for _ in 0..count {
        peer.requests.call("b".into(), SOON).await?;
    }
    Ok(())
}

/// Where much is on its way, our answer waits in line.
#[tokio::test]
async fn a_peer_of_which_much_arrives_is_waited_for_though_it_does_not_hear_us() {
    let peer = peer_that_is_deaf(Duration::from_millis(40)).await;
    let work = async {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        Ok(7)
    };
    assert_eq!(peer.while_alive("b".into(), work).await.unwrap(), 7);
}

#[tokio::test]
async fn a_peer_that_does_not_hear_us_is_given_up_though_it_is_heard() {
    let peer = peer_that_is_deaf(Duration::from_millis(200)).await;
    let before = peer.connection.stats().udp_rx.datagrams;
    let error = soon(peer.while_alive("b".into(), never())).await;
    let error = error.unwrap_err();
    assert_eq!(error.code, Code::Disconnected, "{error}");
    assert!(error.text.contains("no sign of life"), "{error}");
    let heard = peer.connection.stats().udp_rx.datagrams - before;
    assert!(heard >= 3, "only {heard} datagrams came");
}

/// As where so many packets are lost that a connection pauses.
#[tokio::test]
async fn a_peer_that_answers_is_waited_for_though_its_connection_is_silent() {
    let (peer, _faulty) = peer_with(Fault::Connection).await;
    let acknowledged = || peer.connection.stats().frame_rx.acks;
    let before = acknowledged();
    let work = async {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        Ok(7)
    };
    assert_eq!(peer.while_alive("b".into(), work).await.unwrap(), 7);
    assert_eq!(acknowledged(), before, "the connection was not cut");
}

#[tokio::test]
async fn a_peer_that_answers_is_not_waited_for_for_ever_while_its_connection_is_silent() {
    let (peer, _faulty) = peer_with(Fault::Connection).await;
    let began = Instant::now();
    let error = soon(peer.while_alive("b".into(), never())).await;
    assert_eq!(error.unwrap_err().code, Code::Disconnected);
    assert!(began.elapsed() >= SILENT_AFTER, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_connection_that_is_silent_and_waits_far_longer_than_its_peer_takes_is_closed() {
    let (peer, faulty) = peer_that_was_slow(false).await;
    *faulty.lock().unwrap() = Fault::Connection;
    let began = Instant::now();
    let error = soon(peer.while_alive("b".into(), never())).await;
    let error = error.unwrap_err();
    assert_eq!(error.code, Code::Disconnected, "{error}");
    assert!(error.text.contains("answers at once"), "{error}");
    assert!(began.elapsed() < SILENT_AFTER && peer.is_closed());
}

/// What is slow for everyone is no reason.
#[tokio::test]
async fn a_connection_whose_peer_is_as_slow_as_it_believes_stays() {
    let (peer, _faulty) = peer_that_was_slow(true).await;
    let work = calls(&peer, 6);
    peer.while_alive("b".into(), work).await.unwrap();
    assert!(!peer.is_closed());
}

/// Nor is a line in which all had to wait, and which is gone.
#[tokio::test]
async fn a_connection_that_hears_its_peer_as_soon_as_others_do_stays() {
    let (peer, faulty) = peer_that_was_slow(true).await;
    *faulty.lock().unwrap() = Fault::None;
    let work = async {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        Ok(())
    };
    peer.while_alive("b".into(), work).await.unwrap();
    assert!(!peer.is_closed());
}
