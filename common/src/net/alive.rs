//! Whether a peer still lives while it is waited for.
//!
//! A disk may take seconds for what is asked of it, and QUIC waits ten for a peer that has gone. A process that
//! lives answers a ping at once, whatever its disks do, so that the death of a peer is known within a second.

use super::endpoint::nobody_there;
use super::peers::Peer;
use crate::error::{Code, Error, Result};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How often it is looked whether anything came.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A peer that is silent for so long is asked for a sign of life.
const ASK_AFTER: Duration = Duration::from_millis(150);

/// A ping that is not answered so soon leads to the question whether anybody listens there.
const PROBE_AFTER: Duration = Duration::from_millis(100);

/// Nothing at all came for so long although that was asked for: the peer is gone, or as good as gone. With a third of
/// all packets lost, of four pings and their answers one in fifty is missed: that costs a retry.
const GONE_AFTER: Duration = Duration::from_millis(800);

impl Peer {
    /// Waits for what the peer does, as long as it lives. `ping` is a request that it answers at once.
    ///
    /// # Errors
    /// Those of `work`; `Disconnected` if nothing came from the peer for 800 ms, `Unreachable` if nothing listens at its
    /// address. What `work` asked for **may have happened**.
    pub async fn while_alive<T>(
        &self,
        ping: Bytes,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            done = work => done,
            gone = self.silence(ping) => Err(gone),
        }
    }

    /// Ends when the peer is gone.
    async fn silence(&self, ping: Bytes) -> Error {
        let heard = || self.connection.stats().udp_rx.datagrams;
        loop {
            let (count, since) = (heard(), Instant::now());
            sleep(ASK_AFTER).await;
            if heard() != count {
                continue;
            }
            let asked = self.requests.call(ping.clone(), GONE_AFTER);
            let came = async {
                while heard() == count {
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
                refused = refusal(address) => Some(refused.context(self.connection.peer())),
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

async fn refusal(address: SocketAddr) -> Error {
    sleep(PROBE_AFTER).await;
    nobody_there(address).await
}
