//! Whether a peer still lives while it is waited for.
//!
//! A disk may take seconds for what is asked of it, and QUIC waits ten for a peer that has gone. A process that
//! lives answers a ping at once, whatever its disks do, so that the death of a peer is known within a second.
//!
//! A peer that we do not reach may still reach us: it repeats what it has said until its own time for us is over. So not
//! every datagram is a sign of life, but an acknowledgement is, which answers ours. (Or many datagrams: where they wait in
//! line on a slow link the answer does so too.)

use super::connection::Connection;
use super::peers::Peer;
use super::probe::{Listener, who_listens};
use crate::error::{Code, Error, Result};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How often it is looked whether anything came.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A peer that is silent for so long is asked for a sign of life.
const ASK_AFTER: Duration = Duration::from_millis(150);

/// A ping that is not answered so soon leads to the question who listens there.
const PROBE_AFTER: Duration = Duration::from_millis(100);

/// No sign of life came for so long although it was asked for: the peer is gone, or as good as gone. With a third of
/// all packets lost, of eleven questions and their answers one in a thousand is missed.
const GONE_AFTER: Duration = Duration::from_millis(800);

/// So many datagrams within [`GONE_AFTER`] are more than the repetitions of somebody who hears nothing, two at a time, each
/// after twice as long (on Ethernet after 27, 81, 189 and 405 ms): what a link of 25 KB/s brings.
const DATAGRAMS_OF_LIFE: u64 = 12;

/// How often it is looked how long a round trip takes, as the connection believes.
const ROUND_TRIP_EVERY: Duration = Duration::from_millis(500);

/// A round trip of so much is doubted.
const ROUND_TRIP_LONG: Duration = Duration::from_millis(200);

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

impl Peer {
    /// Waits for what the peer does, as long as it lives. `ping` is a request that it answers at once.
    ///
    /// # Errors
    /// Those of `work`; `Disconnected` if the peer gave no sign of life for 800 ms, or as [`Peer::while_in_step`];
    /// `Unreachable` if nothing listens at its address. What `work` asked for **may have happened**.
    pub async fn while_alive<T>(
        &self,
        ping: Bytes,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            done = work => done,
            gone = self.silence(ping) => Err(gone),
            out = self.out_of_step() => Err(out),
        }
    }

    /// Waits for what the peer does, as long as its connection is of use.
    ///
    /// # Errors
    /// Those of `work`; `Disconnected` if the peer answers far sooner than the connection believes: it is closed. What
    /// `work` asked for **may have happened**.
    pub async fn while_in_step<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            done = work => done,
            out = self.out_of_step() => Err(out),
        }
    }

    /// Ends when the connection is of no use, and closes it.
    async fn out_of_step(&self) -> Error {
        let address = self.connection.remote_address();
        loop {
            sleep(ROUND_TRIP_EVERY).await;
            let believed = self.connection.round_trip();
            if believed < ROUND_TRIP_LONG {
                continue;
            }
            let answer = timeout(believed / 4, who_listens(address, LOOK_EVERY)).await;
            if matches!(answer, Ok(Listener::Quic)) {
                let text = format!(
                    "{} at {address} answers at once, but the connection to it waits for {} ms each time after the \
                     packets that it lost",
                    self.connection.peer(),
                    believed.as_millis()
                );
                self.connection.close("it waits for too long");
                return Error::new(Code::Disconnected, text);
            }
        }
    }

    /// Ends when the peer is gone.
    async fn silence(&self, ping: Bytes) -> Error {
        loop {
            let (before, since) = (Heard::of(&self.connection), Instant::now());
            let lives = || Heard::of(&self.connection).is_alive_since(before);
            sleep(ASK_AFTER).await;
            if lives() {
                continue;
            }
            let asked = self.requests.call(ping.clone(), GONE_AFTER);
            let came = async {
                while !lives() {
                    if since.elapsed() >= GONE_AFTER {
                        return Some(self.gave_no_sign());
                    }
                    sleep(LOOK_EVERY).await;
                }
                None
            };
            let address = self.connection.remote_address();
            let gone = tokio::select! {
                // Whatever it answers, and if the stream has ended its user knows as well.
                _ = asked => None,
                gone = came => gone,
                gone = is_gone(address) => gone.map(|gone| gone.context(self.connection.peer())),
            };
            if let Some(gone) = gone {
                return gone;
            }
        }
    }

    fn gave_no_sign(&self) -> Error {
        let text = format!(
            "{} at {} has given no sign of life for {} ms",
            self.connection.peer(),
            self.connection.remote_address(),
            GONE_AFTER.as_millis()
        );
        Error::new(Code::Disconnected, text)
    }
}

/// Ends when a process answers at an address, or with the reason why none does.
async fn is_gone(address: SocketAddr) -> Option<Error> {
    sleep(PROBE_AFTER).await;
    match who_listens(address, LOOK_EVERY).await {
        Listener::Quic => None,
        Listener::Nobody(error) => Some(error),
        // Anybody can send such an answer.
        Listener::Other => std::future::pending().await,
    }
}
