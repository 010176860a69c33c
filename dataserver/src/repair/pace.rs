//! How fast a dataserver copies: as fast as it can, and slowly while clients are served.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes a second that repair writes here while clients read or write: an eighth of what one disk takes, so that
/// they hardly notice, and a terabyte is still copied within five hours.
const BYTES_PER_SECOND: u64 = 64 << 20;

/// Clients count as being served for so long after they were last heard of.
const CLIENTS_FOR: Duration = Duration::from_secs(2);

/// Shared by all that copies to the disks of a dataserver.
#[derive(Default)]
pub struct Pace(Mutex<State>);

#[derive(Default)]
struct State {
    client_at: Option<Instant>,
    /// When the next bytes may be taken.
    free_at: Option<Instant>,
}

impl State {
    /// Takes `len` bytes; how long to wait before they are copied.
    fn take(&mut self, len: usize, now: Instant) -> Duration {
        let busy = self
            .client_at
            .is_some_and(|at| now.saturating_duration_since(at) < CLIENTS_FOR);
        if !busy {
            self.free_at = None;
            return Duration::ZERO;
        }
        let from = self.free_at.map_or(now, |at| at.max(now));
        let takes = Duration::from_nanos(len as u64 * 1_000_000_000 / BYTES_PER_SECOND);
        self.free_at = Some(from + takes);
        from - now
    }
}

impl Pace {
    /// A client was heard of.
    pub fn note_client(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.client_at = Some(Instant::now());
    }

    /// Waits until `len` bytes may be copied.
    pub async fn take(&self, len: usize) {
        let wait = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.take(len, Instant::now())
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repair_is_slow_while_clients_are_served_and_free_afterwards() {
        let (mut state, now) = (State::default(), Instant::now());
        let second = BYTES_PER_SECOND as usize;
        assert_eq!(state.take(second, now), Duration::ZERO);
        assert_eq!(state.take(second, now), Duration::ZERO);
        state.client_at = Some(now);
        assert_eq!(state.take(second, now), Duration::ZERO);
        assert_eq!(state.take(second, now), Duration::from_secs(1));
        assert_eq!(state.take(second, now), Duration::from_secs(2));
        assert_eq!(state.take(second, now + CLIENTS_FOR), Duration::ZERO);
    }
}
