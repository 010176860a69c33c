//! How long something may take on a link that moves bytes, if slowly: only the time in which nothing moves counts.
//!
//! Many streams share a link, so that one may stand still because others have their turn. Bytes of the link count for it
//! too, up to a bound: a disk that hangs must show although other disks of its server are busy.

use quarry_common::net::BUFFER_LEN;
use std::time::Duration;

/// Bytes that have moved so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// On the stream that is waited for.
    pub stream: u64,
    /// On the whole link.
    pub link: u64,
}

impl Moved {
    /// Of what has no stream of its own.
    pub fn of_link(link: u64) -> Moved {
        Moved { stream: 0, link }
    }
}

/// Looks in the time that a silence may last.
pub const LOOKS: u32 = 8;

/// A link that moves less between two looks stands still: pings and what is sent again are less.
const LINK_LEAST: u64 = 16 << 10;

/// So many bytes of the link count while the stream itself moves none: some times what may be in flight before it.
const BEHIND_MAX: u64 = 4 * BUFFER_LEN as u64;

/// How long nothing has moved. Pure.
#[derive(Debug)]
pub struct Silence {
    most: Duration,
    silent: Duration,
    moved: Moved,
    behind: u64,
}

impl Silence {
    /// It may last for `most`.
    pub fn new(most: Duration, moved: Moved) -> Silence {
        Silence {
            most,
            silent: Duration::ZERO,
            moved,
            behind: 0,
        }
    }

    /// When to look next.
    pub fn look_every(&self) -> Duration {
        self.most / LOOKS
    }

    /// So much had moved when it was looked at, `after` the last look. Whether the silence has lasted too long.
    pub fn handle_look(&mut self, moved: Moved, after: Duration) -> bool {
        let link = moved.link.saturating_sub(self.moved.link);
        if moved.stream != self.moved.stream {
            (self.silent, self.behind) = (Duration::ZERO, 0);
        } else if link >= LINK_LEAST && self.behind < BEHIND_MAX {
            self.behind += link;
        } else {
            self.silent += after;
        }
        self.moved = moved;
        self.silent >= self.most
    }
}

/// Does `work`; `None` if nothing moved for `most`.
pub async fn while_flowing<T>(
    most: Duration,
    moved: impl Fn() -> Moved,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut silence = Silence::new(most, moved());
    tokio::pin!(work);
    loop {
        let looked_at = tokio::time::Instant::now();
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            () = tokio::time::sleep(silence.look_every()) => {}
        }
        if silence.handle_look(moved(), looked_at.elapsed()) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Looks each second until the silence is over, at most so many times.
    fn over_after(most: u32, mut moved: impl FnMut(u64) -> Moved) -> Option<u64> {
        let mut silence = Silence::new(most * SECOND, moved(0));
        (1..100_000).find(|second| silence.handle_look(moved(*second), SECOND))
    }

    #[test]
    fn a_silence_is_over_on_time_and_any_byte_of_the_stream_begins_it_anew() {
        assert_eq!(over_after(8, |_| Moved::default()), Some(8));
        let moved = |second: u64| Moved {
            stream: second.min(70) / 7,
            link: 0,
        };
        assert_eq!(over_after(8, moved), Some(78));
    }

    #[test]
    fn who_stands_behind_others_is_waited_for_and_not_for_ever() {
        let moved = |per_second: u64| move |second: u64| Moved::of_link(second * per_second);
        assert_eq!(over_after(8, moved(LINK_LEAST - 1)), Some(8), "pings");
        let slow = over_after(8, moved(1 << 20)).unwrap();
        assert_eq!(slow, (BEHIND_MAX >> 20) + 8);
        // Pauses add up.
        let bursts = |second: u64| Moved::of_link((second / 5) << 20);
        assert_eq!(over_after(8, bursts), Some(9));
    }
}
