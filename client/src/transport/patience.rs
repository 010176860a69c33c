//! How long something may take on a link: less if nothing moves there, or much else does, than while the link is slow.
//!
//! Whoever is dead is noticed otherwise (`while_alive`). What is waited out here is a stream that stands still though its
//! server answers: a disk that hangs, a pipeline that is stuck. Over 10 Mbit/s with 32 files at a time a healthy stream
//! waits 27 s for its turn to move a frame of 1 MiB, and giving it up would send the frame again.

use std::time::Duration;
use tokio::time::{Instant, timeout};

/// So long is waited at most, however slow the link is.
const SLOW_MAX: Duration = Duration::from_secs(60);

/// Bytes that may be before what is awaited: the frames of so many streams. When more have gone by, it had its turn.
const AHEAD_LEN_MAX: u64 = 32 << 20;

/// A link that moved less since the last look does not move: acknowledgements, signs of life, what is sent again.
const MOVED_LEN_MIN: u64 = 64 << 10;

/// What is awaited, if it comes within `patience`, or later over a link that is slow but moves. `moved` counts the bytes
/// that went over the link.
///
/// What is awaited is dropped when it is too late.
pub async fn in_time<T>(
    patience: Duration,
    moved: impl Fn() -> u64,
    awaited: impl Future<Output = T>,
) -> Option<T> {
    tokio::pin!(awaited);
    let (begun, first) = (Instant::now(), moved());
    let mut last = first;
    loop {
        if let Ok(done) = timeout(patience, &mut awaited).await {
            return Some(done);
        }
        let now = moved();
        let stands_still = now.saturating_sub(last) < MOVED_LEN_MIN;
        let had_its_turn = now.saturating_sub(first) >= AHEAD_LEN_MAX;
        if stands_still || had_its_turn || begun.elapsed() + patience > SLOW_MAX {
            return None;
        }
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When something that never comes is given up over a link that moves so many bytes a second.
    async fn given_up_after(rate: u64) -> Duration {
        let begun = Instant::now();
        let moved = || begun.elapsed().as_millis() as u64 * rate / 1_000;
        let never = std::future::pending::<()>();
        assert_eq!(in_time(Duration::from_secs(10), moved, never).await, None);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_slower_a_link_the_longer_is_waited_unless_nothing_moves() {
        for (rate, seconds) in [
            (0, 10),
            (1_000, 10),
            (100_000, 60),
            (1_250_000, 30),
            (100_000_000, 10),
        ] {
            let after = given_up_after(rate).await;
            assert_eq!(after.as_secs(), seconds, "{rate} bytes/s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_time_is_there() {
        let begun = Instant::now();
        let moved = || begun.elapsed().as_secs() * 100_000;
        let late = async {
            tokio::time::sleep(Duration::from_secs(45)).await;
            7
        };
        let came = in_time(Duration::from_secs(4), moved, late).await;
        assert_eq!((came, begun.elapsed().as_secs()), (Some(7), 45));
    }
}
