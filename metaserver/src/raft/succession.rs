//! When this metaserver asks for votes before openraft's timeout.
//!
//! Silence alone does not tell a dead leader from a slow one: openraft waits for 1 to 1.3 s of it ([`super::group`]). Twice
//! more is known. A machine that runs says at once that nothing listens at an address: then the leader's process has
//! died, and all that is waited for is the end of the lease, before which nobody votes. And who is asked for a vote by
//! somebody with a shorter log knows that this one asks in vain.
//! (Measured, twenty deaths of leaders: see the README.)

use super::fitness::Fitness;
use super::group::LEASE;
use super::types::{NodeId, Types};
use quarry_common::net;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether the leader is silent.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A leader that is silent for so long, three heartbeats, is looked for.
const LOOKED_FOR_AFTER: Duration = Duration::from_millis(300);

/// How long its machine has to say that nothing listens there: twice what a lost word takes.
const REFUSED_WITHIN: Duration = Duration::from_millis(700);

/// Who has a higher number waits for longer, so that not all ask for votes at the same time: about an election.
const TURN: Duration = Duration::from_millis(120);

/// How often and how long votes are asked for: two syncs, one after the other, of disks that have other work.
const STANDS: u32 = 3;
const STAND_WAIT: Duration = Duration::from_millis(250);

/// What is known of the leader, and the decision to succeed it.
pub(super) struct Succession {
    pub(super) inner: openraft::Raft<Types>,
    pub(super) fitness: Arc<Fitness>,
    /// The term in which this metaserver leads, while it does.
    pub(super) leading: watch::Receiver<Option<u64>>,
    /// When a leader spoke last.
    pub(super) heard_at: Mutex<Option<Instant>>,
}

impl Succession {
    /// A leader has spoken.
    pub(super) fn handle_heard(&self) {
        *self.lock() = Some(Instant::now());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.heard_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn silence(&self) -> Option<Duration> {
        self.lock().map(|at| at.elapsed())
    }

    /// Whether nobody has led for so long that votes are given.
    pub(super) fn is_leader_silent(&self) -> bool {
        self.silence().is_none_or(|silence| silence > LEASE) && self.leading.borrow().is_none()
    }

    /// Asks for votes at once. Left to itself the group would wait for its turns, for seconds if somebody with a shorter
    /// log asks first. (Measured: one failover in five took up to 3.8 s.)
    pub(super) fn stand(&self) {
        let inner = self.inner.clone();
        tokio::spawn(async move {
            // Another one's term may be ahead of ours: the first attempt may only tell us so.
            for _ in 0..STANDS {
                if inner.trigger().elect().await.is_err() {
                    return;
                }
                sleep(STAND_WAIT).await;
                if inner.metrics().borrow().current_leader.is_some() {
                    return;
                }
            }
        });
    }

    /// Looks after the leader until it is cancelled.
    pub(super) async fn run(self: Arc<Self>, stopped: CancellationToken) {
        stopped.run_until_cancelled(self.look()).await;
    }

    async fn look(&self) {
        loop {
            sleep(LOOK_EVERY).await;
            let is_silent = self
                .silence()
                .is_some_and(|silence| silence > LOOKED_FOR_AFTER);
            if !is_silent || self.fitness.is_new() {
                continue;
            }
            let Some((leader, address, turn)) = self.leader() else {
                continue;
            };
            let refused = async { Some(net::nobody_there(resolve(&address).await?).await) };
            let Ok(Some(_)) = timeout(REFUSED_WITHIN, refused).await else {
                continue;
            };
            let rest = LEASE.saturating_sub(self.silence().unwrap_or_default());
            sleep(rest + TURN * turn).await;
            if self.is_leader_silent() && self.leader().is_some_and(|(now, ..)| now == leader) {
                tracing::info!(%leader, "its machine says that it does not run: asking for votes");
                self.stand();
                sleep(STAND_WAIT * STANDS).await;
            }
        }
    }

    /// The leader, where it is, and how many others may succeed it before this metaserver; `None` if that is no question
    /// for this one.
    fn leader(&self) -> Option<(NodeId, String, u32)> {
        let metrics = self.inner.metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader.filter(|id| *id != metrics.id)?;
        let membership = metrics.membership_config.membership();
        let address = membership.get_node(&leader)?.addr.clone();
        let mut others = membership.voter_ids().filter(|id| *id != leader);
        let turn = others.position(|id| id == metrics.id)?;
        Some((leader, address, turn as u32))
    }
}

async fn resolve(address: &str) -> Option<SocketAddr> {
    tokio::net::lookup_host(address).await.ok()?.next()
}
