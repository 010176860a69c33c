//! Waiting longer each time, with some chance in it so that many clients do not come back at once.

use std::time::{Duration, Instant};

/// Pauses that double from `first` to `longest`.
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// The first pause is `first`, no pause is longer than `longest`.
    pub fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff {
            next: first,
            longest,
        }
    }

    /// Sleeps for half to all of the next pause, not beyond the deadline.
    pub async fn wait(&mut self, deadline: Instant) {
        let pause = self.next.mul_f64(rand::random_range(0.5..1.0));
        self.next = (self.next * 2).min(self.longest);
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(pause.min(left)).await;
    }
}
