//! Calls to the metaservers: finds the leader, and asks again what got no answer.

use crate::backoff::Backoff;
use crate::transport::{Peer, Transport};
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{Epoch, ServerId, ShardId, Version};
use quarry_common::wire::meta::{Caller, MetaBody, MetaReply, MetaRequest};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long one attempt may take: a leader that was cut off is given up for another after this.
const ATTEMPT: Duration = Duration::from_secs(5);

/// After so long without an answer a person who waits is told why.
const PATIENCE_SHOWN: Duration = Duration::from_secs(3);

/// So long is tried where no metaserver was ever reached and nothing listens at any of their addresses:
/// a server that restarts is back by then, and a person who forgot to start one, or has an old client
/// file, waits no longer. Silence is another thing, since packets may be lost.
const REFUSED_PATIENCE: Duration = Duration::from_secs(15);

/// A server that is not there is known at once, one that is silent after [`ATTEMPT`].
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

/// The way to the metaservers, shared by everything in a client.
pub struct MetaLink {
    transport: Arc<dyn Transport>,
    servers: RwLock<Vec<Peer>>,
    /// The index of the server that led last.
    leader: AtomicUsize,
    /// Any of them has answered anything.
    reached: AtomicBool,
    seen: AtomicU64,
    newest_epoch: watch::Sender<Epoch>,
}

/// An answer of another kind than the question.
pub fn unexpected(what: &str) -> Error {
    Error::malformed(format!(
        "the metaserver answered something else than {what}"
    ))
}

/// Whether asking the same again, here or elsewhere, can bring an answer. Everything else is an
/// answer: the metaserver keeps it for the request's number.
fn unanswered(code: Code) -> bool {
    matches!(
        code,
        Code::Disconnected
            | Code::NotLeader
            | Code::Overloaded
            | Code::Stopping
            | Code::Unreachable
            | Code::DamagedOnTheWay
    )
}

impl MetaLink {
    /// A link to these servers, of which at least one is given.
    pub fn new(transport: Arc<dyn Transport>, servers: Vec<Peer>) -> MetaLink {
        MetaLink {
            transport,
            servers: RwLock::new(servers),
            leader: AtomicUsize::new(0),
            reached: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            newest_epoch: watch::Sender::new(Epoch::ZERO),
        }
    }

    /// The newest epoch of the map that any answer named.
    pub fn newest_epoch(&self) -> watch::Receiver<Epoch> {
        self.newest_epoch.subscribe()
    }

    /// The addresses that the cluster map names are newer than those of the client file.
    pub fn learn(&self, metaservers: impl Iterator<Item = (ServerId, String)>) {
        let known: Vec<Peer> = metaservers
            .map(|(server, address)| Peer { server, address })
            .collect();
        let mut servers = self.servers.write().expect("nobody panics with this lock");
        if known.is_empty() || *servers == known {
            return;
        }
        let leader = servers
            .get(self.leader.load(Ordering::Relaxed))
            .map(|peer| peer.server);
        let at = known.iter().position(|peer| Some(peer.server) == leader);
        *servers = known;
        self.leader.store(at.unwrap_or(0), Ordering::Relaxed);
    }

    fn server(&self, at: usize) -> Peer {
        let servers = self.servers.read().expect("nobody panics with this lock");
        servers[at % servers.len()].clone()
    }

    fn count(&self) -> usize {
        self.servers
            .read()
            .expect("nobody panics with this lock")
            .len()
    }

    /// Asks until there is an answer or the deadline has passed. The request is sent unchanged
    /// each time, so that a mutation is the same (session, number) with the same body.
    ///
    /// # Errors
    /// The answer's own error; at the deadline the last failure, with what was tried.
    pub async fn call(
        &self,
        act_as: Option<&Caller>,
        body: MetaBody,
        deadline: Instant,
    ) -> Result<MetaReply> {
        self.call_counted(act_as, body, deadline, &mut 0).await
    }

    /// As [`MetaLink::call`]; `unanswered_count` becomes the number of attempts before the last
    /// one, each of which may have been carried out.
    ///
    /// # Errors
    /// As [`MetaLink::call`].
    pub async fn call_counted(
        &self,
        act_as: Option<&Caller>,
        body: MetaBody,
        deadline: Instant,
        unanswered_count: &mut usize,
    ) -> Result<MetaReply> {
        let mut request = MetaRequest {
            shard: ShardId::FIRST,
            seen: Version(0),
            act_as: act_as.cloned(),
            body,
        };
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut tried = 0;
        // Attempts in a row that found nobody at the address.
        let mut refused = 0;
        let asked_at = Instant::now();
        let mut told = false;
        loop {
            *unanswered_count = tried;
            request.seen = Version(self.seen.load(Ordering::Relaxed));
            let at = self.leader.load(Ordering::Relaxed);
            let peer = self.server(at);
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = ATTEMPT.min(left.max(Duration::from_millis(100)));
            let attempted_at = Instant::now();
            let error = match self.transport.meta(&peer, &request, timeout).await {
                Ok(answer) => {
                    self.reached.store(true, Ordering::Relaxed);
                    self.seen.fetch_max(answer.version.0, Ordering::Relaxed);
                    self.newest_epoch.send_if_modified(|newest| {
                        let newer = answer.epoch > *newest;
                        *newest = answer.epoch.max(*newest);
                        newer
                    });
                    match answer.result {
                        Ok(reply) => return Ok(reply),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            if !unanswered(error.code) {
                return Err(error);
            }
            tracing::debug!(server = %peer.server, %error, "metaserver gave no answer");
            tried += 1;
            let is_refused =
                error.code == Code::Unreachable && attempted_at.elapsed() < REFUSED_WITHIN;
            refused = if is_refused { refused + 1 } else { 0 };
            let nobody = refused >= self.count() && !self.reached.load(Ordering::Relaxed);
            let until = match nobody {
                true => deadline.min(asked_at + REFUSED_PATIENCE),
                false => deadline,
            };
            if !told && asked_at.elapsed() >= PATIENCE_SHOWN {
                told = true;
                let seconds = until.saturating_duration_since(asked_at).as_secs();
                tracing::warn!("no metaserver answers yet ({error}); trying for {seconds} s");
            }
            if error.code != Code::Overloaded {
                self.turn_from(at, &error);
            }
            if Instant::now() >= until {
                let code = if matches!(request.body, MetaBody::Mutate { .. }) {
                    Code::UnknownOutcome
                } else {
                    Code::Unreachable
                };
                let text = format!(
                    "no metaserver answered within {} s ({tried} attempts, the last to metaserver {} at {}): {error}; \
                     start it ('quarry dev --detach' where it is your own cluster for trying, 'quarry metaserver run'), \
                     or use a client file with its right address",
                    asked_at.elapsed().as_secs(),
                    peer.server,
                    peer.address
                );
                return Err(Error::new(code, text));
            }
            // All servers are asked once before anybody waits; then an election gets its time.
            if tried % self.count() == 0 || error.code == Code::Overloaded {
                backoff.wait(deadline).await;
            }
        }
    }

    /// Chooses the server to ask next, unless another call has already done so.
    fn turn_from(&self, at: usize, error: &Error) {
        let servers = self.servers.read().expect("nobody panics with this lock");
        let named = (error.code == Code::NotLeader)
            .then(|| leader_named(&error.text))
            .flatten();
        let next = named
            .and_then(|leader| servers.iter().position(|peer| peer.server == leader))
            .unwrap_or((at + 1) % servers.len());
        // A failure only means that another call was quicker.
        let _ = self
            .leader
            .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The leader that a `NotLeader` text names: its last number after the word "metaserver".
fn leader_named(text: &str) -> Option<ServerId> {
    let (_, after) = text.rsplit_once("metaserver ")?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().map(ServerId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_read_from_the_text() {
        let text = "metaserver 2 does not lead: ask metaserver 13";
        assert_eq!(leader_named(text), Some(ServerId(13)));
        assert_eq!(leader_named("nobody leads now"), None);
    }
}
