//! Tasks of a server: started under a name, stopped together; and what a panic does.

use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Starts tasks, and stops them all. Cheap to clone.
///
/// A task watches [`Stop::stopped`] and runs to an end of its own: nothing is cut off.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Stop {
    /// With no tasks.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// A part that can be stopped alone, and is stopped with this one. Its tasks are waited for by
    /// its own [`Stop::stop`] only.
    pub fn part(&self) -> Stop {
        Stop {
            token: self.token.child_token(),
            tasks: TaskTracker::new(),
        }
    }

    /// Starts a task. `name` is for the logs. A task must end soon after [`Stop::stopped`] does.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(async move {
            future.await;
            tracing::trace!(task = name, "task ended");
        });
    }

    /// Starts a task that is dropped wherever it waits once all is stopped: only for work that may be
    /// cut off at any wait.
    pub fn spawn_cancellable<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.spawn(name, async move {
            token.run_until_cancelled(future).await;
        });
    }

    /// Waits until all is to stop. Cancel-safe.
    pub async fn stopped(&self) {
        self.token.cancelled().await;
    }

    /// Whether all is to stop.
    pub fn is_stopped(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits for `duration`; `false` at once if all is to stop. Cancel-safe.
    pub async fn sleep(&self, duration: Duration) -> bool {
        self.token
            .run_until_cancelled(tokio::time::sleep(duration))
            .await
            .is_some()
    }

    /// Asks all tasks to stop, without waiting.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Asks all tasks to stop and waits until each has ended.
    pub async fn stop(&self) {
        self.token.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// From now on a panic anywhere ends the process, after it was logged: a server that lost a task
/// would go on answering with half of its state.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?");
        tracing::error!("a defect: thread {name}: {panic}\n{backtrace}");
        // Once more without the logger, which may be what panicked or not be there.
        eprintln!("quarry: a defect, the process ends: thread {name}: {panic}");
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn stop_waits_until_every_task_has_ended() {
        let stop = Stop::new();
        let ended = Arc::new(AtomicUsize::new(0));
        for _ in 0..10 {
            let (watch, ended) = (stop.clone(), ended.clone());
            stop.spawn("test", async move {
                watch.stopped().await;
                tokio::task::yield_now().await;
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        stop.spawn_cancellable("endless", std::future::pending());
        assert!(!stop.is_stopped());
        stop.stop().await;
        assert_eq!(ended.load(Ordering::SeqCst), 10);
        assert!(!stop.sleep(Duration::from_secs(3600)).await);
    }

    #[tokio::test]
    async fn a_part_stops_alone_and_with_the_whole() {
        let stop = Stop::new();
        let (one, two) = (stop.part(), stop.part());
        one.stop().await;
        assert!(one.is_stopped() && !two.is_stopped() && !stop.is_stopped());
        stop.stop().await;
        assert!(two.is_stopped());
    }
}
