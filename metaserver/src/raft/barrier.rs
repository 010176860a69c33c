//! One read barrier for all reads that wait.
//!
//! A barrier shows that this metaserver led at some moment after it began, and that everything
//! agreed until then is applied. A read may use a barrier that begins after the read arrived,
//! never one that is running: all that arrive meanwhile share the next one.

use super::group::failed;
use super::leading::{leads_not, not_leader};
use super::types::{NodeId, Pending, Types};
use openraft::BasicNode;
use openraft::error::{CheckIsLeaderError, RaftError};
use quarry_common::{Code, Error, Result};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Reads that wait; more are refused with `Overloaded`.
const WAITING_MAX: usize = 16_384;

/// How long a barrier is tried again when a majority does not answer at once.
const BARRIER_WITHIN: Duration = Duration::from_millis(1_000);

/// A barrier that failed at once is tried again after so long.
const BARRIER_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Runs barriers, one at a time.
pub(crate) struct Barrier {
    queue: mpsc::Sender<oneshot::Sender<Result<()>>>,
}

impl Barrier {
    /// Starts the task; `pass` is one barrier.
    pub(crate) fn start(
        pass: impl Fn() -> Pending<'static, ()> + Send + Sync + 'static,
    ) -> Barrier {
        let (queue, mut waiting) = mpsc::channel::<oneshot::Sender<Result<()>>>(WAITING_MAX);
        tokio::spawn(async move {
            let mut readers = Vec::new();
            while waiting.recv_many(&mut readers, WAITING_MAX).await > 0 {
                let passed = pass().await;
                for reader in readers.drain(..) {
                    // A reader that went away does not need the answer.
                    reader.send(passed.clone()).ok();
                }
            }
        });
        Barrier { queue }
    }

    /// Returns when a barrier that began after this call has passed.
    pub(crate) async fn wait(&self) -> Result<()> {
        let (reader, passed) = oneshot::channel();
        self.queue.try_send(reader).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::new(
                Code::Overloaded,
                format!("{WAITING_MAX} reads wait already: try again later"),
            ),
            mpsc::error::TrySendError::Closed(_) => stopping(),
        })?;
        passed.await.map_err(|_| stopping())?
    }
}

fn stopping() -> Error {
    Error::new(Code::Stopping, "this metaserver is stopping")
}

/// One barrier. A majority that does not answer within one request is asked again: a disk that syncs for long is no
/// reason to send the readers elsewhere.
pub(super) async fn pass_barrier(
    inner: openraft::Raft<Types>,
    leading: watch::Receiver<Option<u64>>,
) -> Result<()> {
    let until = Instant::now() + BARRIER_WITHIN;
    let own = inner.metrics().borrow().id;
    loop {
        if leading.borrow().is_none() {
            return Err(leads_not(&inner));
        }
        let passed = tokio::time::timeout(BARRIER_WITHIN, inner.ensure_linearizable()).await;
        let error = match passed {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => barrier_failed(own, error),
            Err(_) => too_few("nothing is agreed on"),
        };
        if error.code != Code::Unreachable || Instant::now() >= until {
            return Err(error);
        }
        // Those who refuse one that was removed do so at once.
        tokio::time::sleep(BARRIER_AGAIN_AFTER).await;
    }
}

fn barrier_failed(
    own: NodeId,
    error: RaftError<NodeId, CheckIsLeaderError<NodeId, BasicNode>>,
) -> Error {
    match error {
        RaftError::APIError(CheckIsLeaderError::ForwardToLeader(leader)) => {
            not_leader(own, leader.leader_id, leader.leader_node.as_ref())
        }
        RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(error)) => {
            too_few(&error.to_string())
        }
        RaftError::Fatal(error) => failed(error),
    }
}

fn too_few(why: &str) -> Error {
    Error::new(
        Code::Unreachable,
        format!("too few metaservers can be reached: {why}; try again"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn readers_that_arrive_while_a_barrier_runs_share_the_next_one() {
        let begun = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let barrier = {
            let (begun, gate) = (Arc::clone(&begun), Arc::clone(&gate));
            Arc::new(Barrier::start(move || {
                let (begun, gate) = (Arc::clone(&begun), Arc::clone(&gate));
                Box::pin(async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.unwrap().forget();
                    Ok(())
                })
            }))
        };
        let read = || {
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move { barrier.wait().await })
        };
        let first = read();
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..100).map(|_| read()).collect();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(1);
        first.await.unwrap().unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(
            others.iter().all(|other| !other.is_finished()),
            "they use a barrier of their own"
        );
        gate.add_permits(10);
        for other in others {
            other.await.unwrap().unwrap();
        }
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}
