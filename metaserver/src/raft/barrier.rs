//! One read barrier for all reads that wait.
//!
//! A barrier shows that this metaserver led at some moment after it began, and that everything
//! agreed until then is applied. A read may use a barrier that begins after the read arrived,
//! never one that is running: all that arrive meanwhile share the next one.

use super::types::Pending;
use quarry_common::{Code, Error, Result};
use tokio::sync::{mpsc, oneshot};

/// Reads that wait; more are refused with `Overloaded`.
const WAITING_MAX: usize = 16_384;

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
