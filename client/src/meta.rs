//! Calls to the metaservers: finds the leader, and asks again what got no answer.

use crate::backoff::Backoff;
use crate::roll_call::RollCall;
use crate::telling::Telling;
use crate::transport::{Peer, Transport};
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{Epoch, ServerId, ShardId, Version};
use quarry_common::wire::meta::{
    Caller, MetaAnswer, MetaBody, MetaReply, MetaRequest, leader_named,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long one attempt may take: a leader that was cut off is given up for another after this.
const ATTEMPT: Duration = Duration::from_secs(5);

/// A leader that has not answered for so long may be gone: the others are asked who leads, and again so often. A
/// busy one is not left for that, and nothing is sent twice.
const DOUBT_AFTER: Duration = Duration::from_millis(300);
const DOUBT_EVERY: Duration = Duration::from_millis(100);

/// How long one that is asked who leads may take.
const DOUBT_WAIT: Duration = Duration::from_millis(400);

/// The longest pause between rounds: an election takes a second, and whoever waits should know soon.
const PAUSE_MAX: Duration = Duration::from_millis(150);

/// So long is tried where no metaserver was ever reached and nothing listens at any of their addresses:
/// a server that restarts is back by then, and a person who forgot to start one, or has an old client
/// file, waits no longer. Silence is another thing, since packets may be lost.
const REFUSED_PATIENCE: Duration = Duration::from_secs(15);

/// A server that is not there is known at once, one that is silent after [`ATTEMPT`].
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

/// What to do where the client file may be the wrong one.
const RIGHT_FILE: &str =
    "use a client file with its right number and address ('quarry user renew NAME' prints one)";

/// The way to the metaservers, shared by everything in a client.
pub struct MetaLink {
    transport: Arc<dyn Transport>,
    known: watch::Sender<Known>,
    /// Any of them has answered anything.
    reached: AtomicBool,
    seen: AtomicU64,
    newest_epoch: watch::Sender<Epoch>,
    /// Held by the one call that asks on behalf of all who leads.
    doubting: tokio::sync::Mutex<()>,
    telling: Telling,
}

/// The metaservers that are known, of which one is asked first.
struct Known {
    servers: Vec<Peer>,
    /// The index of the one that led last.
    leader: usize,
}

impl Known {
    fn current(&self) -> &Peer {
        &self.servers[self.leader]
    }

    /// Chooses whom to ask after `peer` did not answer as a leader does; false if another call has done so already.
    fn turn_from(&mut self, peer: &Peer, named: Option<Peer>) -> bool {
        if self.current() != peer {
            return false;
        }
        self.leader = match named {
            Some(named) => self.index_of(named),
            None => (self.leader + 1) % self.servers.len(),
        };
        true
    }

    fn index_of(&mut self, named: Peer) -> usize {
        let known = |peer: &Peer| peer.server == named.server;
        match self.servers.iter().position(known) {
            Some(at) => {
                // It may have moved since the client file or the map was written.
                self.servers[at] = named;
                at
            }
            // One that became a metaserver after the client file was written; its certificate shows who it is.
            None => {
                self.servers.push(named);
                self.servers.len() - 1
            }
        }
    }
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
            | Code::OtherServer
            | Code::DamagedOnTheWay
    )
}

fn is_mutation(body: &MetaBody) -> bool {
    matches!(body, MetaBody::Mutate { .. })
}

impl MetaLink {
    /// A link to these servers, of which at least one is given.
    pub fn new(transport: Arc<dyn Transport>, servers: Vec<Peer>) -> MetaLink {
        MetaLink {
            transport,
            known: watch::Sender::new(Known { servers, leader: 0 }),
            reached: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            newest_epoch: watch::Sender::new(Epoch::ZERO),
            doubting: tokio::sync::Mutex::default(),
            telling: Telling::default(),
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
        self.known.send_if_modified(|ours| {
            if known.is_empty() || ours.servers == known {
                return false;
            }
            let leader = ours.current().server;
            let at = known.iter().position(|peer| peer.server == leader);
            *ours = Known {
                servers: known,
                leader: at.unwrap_or(0),
            };
            true
        });
    }

    /// Asks until there is an answer or the deadline has passed.
    ///
    /// # Errors
    /// As [`MetaLink::call_again`].
    pub async fn call(
        &self,
        act_as: Option<&Caller>,
        body: MetaBody,
        deadline: Instant,
    ) -> Result<MetaReply> {
        self.call_again(act_as, || body.clone(), deadline).await
    }

    /// Asks until there is an answer or the deadline has passed, with what `body` says each time. A mutation is the same
    /// (session, number) with the same operation.
    ///
    /// # Errors
    /// The answer's own error; `Configuration` when every metaserver was refused, or refuses us; `OtherServer` when none was
    /// ever reached and others answer at their addresses; at the deadline
    /// `UnknownOutcome` for a mutation that may have been carried out, `Unreachable` for anything else, and
    /// `Overloaded` if no attempt was answered in any other way.
    pub async fn call_again(
        &self,
        act_as: Option<&Caller>,
        body: impl Fn() -> MetaBody,
        deadline: Instant,
    ) -> Result<MetaReply> {
        let mut backoff = Backoff::new(Duration::from_millis(20), PAUSE_MAX);
        let mut tried = 0;
        // Whether an attempt may have been carried out.
        let mut in_doubt = false;
        // Attempts in a row that found nobody at the address.
        let mut refused = 0;
        // Who did not pass our checks, or we theirs, and why.
        let mut unfit = BTreeMap::new();
        // Whether the last attempt with each was answered: none that was is a leader.
        let mut answers: BTreeMap<ServerId, bool> = BTreeMap::new();
        let asked_at = Instant::now();
        loop {
            let request = MetaRequest {
                shard: ShardId::FIRST,
                seen: Version(self.seen.load(Ordering::Relaxed)),
                act_as: act_as.cloned(),
                body: body(),
            };
            let peer = self.known.borrow().current().clone();
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = ATTEMPT.min(left.max(Duration::from_millis(100)));
            let attempted_at = Instant::now();
            let answer = tokio::select! {
                biased;
                answer = self.transport.meta(&peer, &request, timeout) => answer,
                leader = self.another_leads(&peer) => Err(left_for(&peer, &leader)),
            };
            let (answered, error) = match answer {
                Ok(answer) => {
                    self.note(&answer);
                    match answer.result {
                        Ok(reply) => return Ok(reply),
                        Err(error) => (true, error),
                    }
                }
                Err(error) => (false, error),
            };
            let reached = self.reached.load(Ordering::Relaxed);
            // The address of one that was reached may be another's by now: then the map will tell.
            let is_other = error.code == Code::OtherServer && !reached;
            let is_unfit = !answered && (error.code == Code::Configuration || is_other);
            if is_unfit {
                unfit.insert(peer.server, error.text.clone());
            }
            let all_unfit = is_unfit && {
                let known = self.known.borrow();
                known
                    .servers
                    .iter()
                    .all(|peer| unfit.contains_key(&peer.server))
            };
            if all_unfit || !(is_unfit || unanswered(error.code)) {
                let unknown = !answered && in_doubt && is_mutation(&request.body);
                return Err(match unknown {
                    true => Error::new(Code::UnknownOutcome, error.text),
                    false if all_unfit && is_other => {
                        let text = format!("{}; {}", error.text, RIGHT_FILE);
                        Error::new(error.code, text)
                    }
                    false => error,
                });
            }
            tracing::debug!(server = %peer.server, %error, "metaserver gave no answer");
            tried += 1;
            answers.insert(peer.server, answered);
            let none_leads =
                error.code != Code::Overloaded && answers.values().any(|answered| *answered);
            // Whom we do not talk to got nothing, and who says that there is too much to do has done nothing.
            in_doubt |= !is_unfit && error.code != Code::Overloaded;
            let is_refused = is_unfit
                || error.code == Code::Unreachable && attempted_at.elapsed() < REFUSED_WITHIN;
            refused = if is_refused { refused + 1 } else { 0 };
            let nobody = refused >= self.known.borrow().servers.len() && !reached;
            let until = match nobody {
                true => deadline.min(asked_at + REFUSED_PATIENCE),
                false => deadline,
            };
            self.telling.tell(asked_at, until, || {
                let does = if none_leads { "leads" } else { "answers" };
                format!("no metaserver {does} yet ({error})")
            });
            if error.code != Code::Overloaded {
                self.turn_from(&peer, named(&error));
            }
            if Instant::now() >= until {
                if !in_doubt {
                    let seconds = asked_at.elapsed().as_secs();
                    return Err(error.context(format!("refused for {seconds} s")));
                }
                let code = match is_mutation(&request.body) {
                    true => Code::UnknownOutcome,
                    false => Code::Unreachable,
                };
                if none_leads {
                    let servers = self.known.borrow().servers.clone();
                    let waited = asked_at.elapsed().as_secs();
                    let called = RollCall::over(Arc::clone(&self.transport), servers).await;
                    let text =
                        format!("no metaserver has led for {waited} s: {}", called.verdict());
                    return Err(Error::new(code, text));
                }
                let mut text = format!(
                    "no metaserver answered within {} s ({tried} attempts, the last to metaserver {} at {}): {error}",
                    asked_at.elapsed().as_secs(),
                    peer.server,
                    peer.address
                );
                unfit.remove(&peer.server);
                for (server, why) in unfit {
                    text.push_str(&format!("; metaserver {server}: {why}"));
                }
                text.push_str(&format!(
                    "; start it ('quarry dev --detach' where it is your own cluster for trying, 'quarry metaserver run'), or {RIGHT_FILE}"
                ));
                return Err(Error::new(code, text));
            }
            // All servers are asked once before anybody waits; then an election gets its time.
            if tried % self.known.borrow().servers.len() == 0 || error.code == Code::Overloaded {
                backoff.wait(deadline).await;
            }
        }
    }

    fn note(&self, answer: &MetaAnswer) {
        self.reached.store(true, Ordering::Relaxed);
        self.seen.fetch_max(answer.version.0, Ordering::Relaxed);
        self.newest_epoch.send_if_modified(|newest| {
            let newer = answer.epoch > *newest;
            *newest = answer.epoch.max(*newest);
            newer
        });
    }

    fn turn_from(&self, peer: &Peer, named: Option<Peer>) {
        self.known
            .send_if_modified(|known| known.turn_from(peer, named));
    }

    /// Returns whom to ask instead of one that is slow to answer: when another call has turned away from it, or when
    /// the others say that it does not lead. Cancel-safe.
    async fn another_leads(&self, peer: &Peer) -> Peer {
        let mut known = self.known.subscribe();
        let turned = async {
            let turned = known.wait_for(|known| known.current() != peer).await;
            match turned.map(|known| known.current().clone()) {
                Ok(leader) => leader,
                // This link is its sender.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            leader = turned => leader,
            leader = self.doubt(peer) => {
                self.turn_from(peer, Some(leader.clone()));
                leader
            }
        }
    }

    /// Asks the others who leads, until they name another one.
    async fn doubt(&self, peer: &Peer) -> Peer {
        tokio::time::sleep(DOUBT_AFTER).await;
        // The others see that the leader is known to be another one.
        let _only = self.doubting.lock().await;
        loop {
            let servers = self.known.borrow().servers.clone();
            for other in servers
                .into_iter()
                .filter(|other| other.server != peer.server)
            {
                let request = MetaRequest {
                    shard: ShardId::FIRST,
                    seen: Version(0),
                    act_as: None,
                    // What only a leader answers, and shortly.
                    body: MetaBody::Map {
                        since: *self.newest_epoch.borrow(),
                        from: None,
                    },
                };
                match self.transport.meta(&other, &request, DOUBT_WAIT).await {
                    Ok(MetaAnswer { result: Ok(_), .. }) => return other,
                    Ok(MetaAnswer {
                        result: Err(error), ..
                    }) => match named(&error) {
                        Some(named) if named != *peer => return named,
                        Some(_) | None => {}
                    },
                    Err(_) => {}
                }
            }
            tokio::time::sleep(DOUBT_EVERY).await;
        }
    }
}

fn left_for(peer: &Peer, leader: &Peer) -> Error {
    let text = format!(
        "metaserver {} at {} was left without an answer, since metaserver {} leads",
        peer.server, peer.address, leader.server
    );
    Error::new(Code::Disconnected, text)
}

/// The leader that an error names.
fn named(error: &Error) -> Option<Peer> {
    let (server, address) = leader_named(error)?;
    let address = address.to_owned();
    Some(Peer { server, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(server: u32) -> Peer {
        Peer {
            server: ServerId(server),
            address: format!("meta-{server}:7410"),
        }
    }

    #[test]
    fn the_first_of_many_calls_turns_to_the_leader_that_was_named() {
        let mut known = Known {
            servers: vec![peer(1), peer(2), peer(3)],
            leader: 0,
        };
        assert!(known.turn_from(&peer(1), Some(peer(3))));
        assert_eq!(known.current(), &peer(3));
        assert!(!known.turn_from(&peer(1), Some(peer(2))), "old news");
        assert!(known.turn_from(&peer(3), None));
        assert_eq!(known.current(), &peer(1), "nobody was named: the next one");
        assert!(known.turn_from(&peer(1), Some(peer(4))));
        assert_eq!(known.current(), &peer(4), "one that was not known");
        let moved = Peer {
            address: "meta-2:7777".into(),
            ..peer(2)
        };
        assert!(known.turn_from(&peer(4), Some(moved.clone())));
        assert_eq!(known.current(), &moved, "one that has moved");
        assert_eq!(known.servers.len(), 4);
    }
}
