//! Whether a peer still lives while it is waited for.
//!
//! A disk may take seconds for what is asked of it, and QUIC waits ten for a peer that has gone. A process that
//! lives answers a ping at once, whatever its disks do, so that the death of a peer is known within a second.
//!
//! A peer that we do not reach may still reach us: it repeats what it has said until its own time for us is over. So not
//! every datagram is a sign of life, but an acknowledgement is, which answers ours. (Or many datagrams: where they wait in
//! line on a slow link the answer does so too.)
//!
//! Where many packets are lost QUIC waits twice as long each time before it says something again, so that a connection may
//! be silent for seconds between two processes that live. So it is also asked without the connection, often, whether one
//! listens there. And after an outage it may wait longer and longer: an acknowledgement that was lost and said again
//! seconds later is taken for a round trip of seconds (RFC 9002 §5.3 puts no more than 25 ms of it down to the peer). A
//! connection that stays silent while its peer answers far sooner than it believes is closed, to be dialled anew.

use super::connection::Connection;
use super::peers::Peer;
use super::probe::{Listener, who_listens};
use crate::error::{Code, Error, Result};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::Mutex as WaitingMutex;
use tokio::time::{sleep, timeout};

/// How often it is looked whether anything came.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A peer that is silent for so long is asked for a sign of life.
const ASK_AFTER: Duration = Duration::from_millis(150);

/// A ping that is not answered so soon leads to the question who listens there.
const PROBE_AFTER: Duration = Duration::from_millis(100);

/// How often that is asked: 15 KB/s.
const PROBE_EVERY: Duration = Duration::from_millis(80);

/// No sign of life came for so long although it was asked for: the peer is gone, or as good as gone. With a third of
/// all packets lost, of four pings and their answers one in fifty is missed, and of seven probes one in a hundred.
const GONE_AFTER: Duration = Duration::from_millis(800);

/// None came over the connection for so long, though a process answers at the peer's address: it may be another, or the
/// way of this connection be blocked.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(3);

/// So many datagrams within [`GONE_AFTER`] are more than the repetitions of somebody who hears nothing, two at a time, each
/// after twice as long (on Ethernet after 27, 81, 189 and 405 ms): what a link of 25 KB/s brings.
const DATAGRAMS_OF_LIFE: u64 = 12;

/// How often it is looked how long a round trip takes, as the connection believes.
const ROUND_TRIP_EVERY: Duration = Duration::from_millis(500);

/// A round trip of so much is doubted.
pub(super) const ROUND_TRIP_LONG: Duration = Duration::from_millis(200);

/// What has come from a peer.
#[derive(Clone, Copy)]
struct Heard {
    acknowledgements: u64,
    datagrams: u64,
}

impl Heard {
    fn of(connection: &Connection) -> Heard {
        let stats = connection.stats();
        Heard {
            acknowledgements: stats.frame_rx.acks,
            datagrams: stats.udp_rx.datagrams,
        }
    }

    fn is_alive_since(self, before: Heard) -> bool {
        self.acknowledgements != before.acknowledgements
            || self.datagrams >= before.datagrams + DATAGRAMS_OF_LIFE
    }
}

/// What all who wait for one peer share: one of them asks for all.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// Held by the one who asks whether the peer lives.
    for_life: WaitingMutex<()>,
    /// Held by the one who asks how long a round trip takes.
    for_round_trip: WaitingMutex<()>,
    /// When a process last answered at the peer's address.
    answered_at: Mutex<Option<Instant>>,
}

impl Asking {
    fn answered_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.answered_at
            .lock()
            .expect("nobody panics with this lock")
    }
}

impl Peer {
    /// Waits for what the peer does, as long as it lives. `ping` is a request that it answers at once.
    ///
    /// # Errors
    /// Those of `work`; `Disconnected` if the peer gave no sign of life for 800 ms, its connection none for 3 s, or the
    /// connection is of no use any more; `Unreachable` if nothing listens at its address. What `work` asked for **may
    /// have happened**.
    pub async fn while_alive<T>(
        &self,
        ping: Bytes,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            done = work => done,
            gone = self.silence(&ping) => Err(gone),
            out = self.out_of_step(&ping) => Err(out),
        }
    }

    /// Ends when the peer is gone.
    async fn silence(&self, ping: &Bytes) -> Error {
        let mut heard_at = Instant::now();
        loop {
            let (before, since) = (Heard::of(&self.connection), Instant::now());
            let is_heard = || Heard::of(&self.connection).is_alive_since(before);
            let lives = || is_heard() || *self.asking.answered_at() > Some(since);
            sleep(ASK_AFTER).await;
            if is_heard() {
                heard_at = Instant::now();
                continue;
            }
            if heard_at.elapsed() >= SILENT_AFTER {
                return self.gave_no_sign(SILENT_AFTER);
            }
            let came = async {
                while !lives() {
                    if since.elapsed() >= GONE_AFTER {
                        return Some(self.gave_no_sign(GONE_AFTER));
                    }
                    sleep(LOOK_EVERY).await;
                }
                None
            };
            let asked = async {
                let _for_all = self.asking.for_life.lock().await;
                match lives() {
                    true => None,
                    false => self.ask(ping).await,
                }
            };
            let gone = tokio::select! {
                gone = came => gone,
                gone = asked => gone,
            };
            if let Some(gone) = gone {
                return gone;
            }
            if is_heard() {
                heard_at = Instant::now();
            }
        }
    }

    /// Ends with the first sign of life, or the reason why there is none.
    async fn ask(&self, ping: &Bytes) -> Option<Error> {
        let probed = async {
            sleep(PROBE_AFTER).await;
            match who_listens(self.connection.remote_address(), PROBE_EVERY).await {
                Listener::Quic => {
                    *self.asking.answered_at() = Some(Instant::now());
                    None
                }
                Listener::Nobody(error) => Some(error.context(self.connection.peer())),
                // Anybody can send such an answer.
                Listener::Other => std::future::pending().await,
            }
        };
        tokio::select! {
            // Whatever it answers, and if the stream has ended its user knows as well.
            _ = self.requests.call(ping.clone(), GONE_AFTER) => None,
            gone = probed => gone,
        }
    }

    fn gave_no_sign(&self, after: Duration) -> Error {
        let text = format!(
            "{} at {} has given no sign of life for {} ms",
            self.connection.peer(),
            self.connection.remote_address(),
            after.as_millis()
        );
        Error::new(Code::Disconnected, text)
    }

    /// Ends when the connection is of no use, and closes it.
    async fn out_of_step(&self, ping: &Bytes) -> Error {
        loop {
            sleep(ROUND_TRIP_EVERY).await;
            let believed = self.connection.round_trip();
            if believed < ROUND_TRIP_LONG {
                continue;
            }
            let Ok(_for_all) = self.asking.for_round_trip.try_lock() else {
                continue;
            };
            if !self.answers_sooner(believed, ping).await {
                continue;
            }
            let text = format!(
                "{} at {} answers at once, but the connection to it waits for {} ms each time after the packets \
                 that it lost",
                self.connection.peer(),
                self.connection.remote_address(),
                believed.as_millis()
            );
            self.connection.close("it waits for too long");
            return Error::new(Code::Disconnected, text);
        }
    }

    /// Whether a process answers at the peer's address in a quarter of the time that a round trip takes, as the connection
    /// believes, and then not the peer in half of it. A connection that only had to wait in a line, which is gone, hears
    /// the peer as soon as others do.
    async fn answers_sooner(&self, believed: Duration, ping: &Bytes) -> bool {
        let address: SocketAddr = self.connection.remote_address();
        let answer = timeout(believed / 4, who_listens(address, believed / 8)).await;
        if !matches!(answer, Ok(Listener::Quic)) {
            return false;
        }
        let acknowledged = || self.connection.stats().frame_rx.acks;
        let before = acknowledged();
        let pinged = timeout(believed / 2, self.requests.call(ping.clone(), believed)).await;
        pinged.is_err() && acknowledged() == before
    }
}
