//! Tells a person who waits why: once, not for each of the many things that wait at a time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After so long a person who waits is told why.
const PATIENCE: Duration = Duration::from_secs(3);

/// And again after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// What is tried for longer than this is tried until it is done, as far as anybody waits.
const WITHOUT_END: Duration = Duration::from_secs(365 * 86_400);

/// When something was told last.
#[derive(Debug, Default)]
pub struct Telling(Mutex<Option<Instant>>);

impl Telling {
    /// Logs what `text` says and how long it will be tried until `deadline`, if it is waited since `since` for long enough
    /// and nothing was told lately.
    pub fn tell(&self, since: Instant, deadline: Instant, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.is_due(since, now) {
            match deadline.saturating_duration_since(now) {
                left if left > WITHOUT_END => tracing::warn!("{}; trying on", text()),
                left => tracing::warn!("{}; trying for {} s more", text(), left.as_secs()),
            }
        }
    }

    fn is_due(&self, since: Instant, now: Instant) -> bool {
        if now.saturating_duration_since(since) < PATIENCE {
            return false;
        }
        let mut told_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told_at.is_none_or(|at| now.saturating_duration_since(at) >= AGAIN_AFTER);
        if is_due {
            *told_at = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_that_wait_one_is_told_of_now_and_then() {
        let telling = Telling::default();
        let since = Instant::now();
        assert!(!telling.is_due(since, since + PATIENCE / 2), "it is soon");
        let now = since + PATIENCE;
        assert!(telling.is_due(since, now));
        assert!(!telling.is_due(since, now), "another one that waits");
        assert!(!telling.is_due(since, now + AGAIN_AFTER / 2));
        assert!(telling.is_due(since, now + AGAIN_AFTER));
    }
}
