//! Points in time as they are stored and sent.

use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file time: nanoseconds since 1970-01-01 UTC, before it negative; good until 2262.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Nanos(pub i64);

impl Nanos {
    /// The wall clock. For the edges only: the cores take times as parameters.
    pub fn now() -> Nanos {
        Nanos::from(SystemTime::now())
    }

    /// From seconds and nanoseconds, as `stat` gives them; clamped to what fits.
    pub fn from_parts(seconds: i64, nanos: u32) -> Nanos {
        Nanos(
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(nanos)),
        )
    }

    /// Seconds (rounded down) and the nanoseconds after them.
    pub fn parts(self) -> (i64, u32) {
        (
            self.0.div_euclid(1_000_000_000),
            self.0.rem_euclid(1_000_000_000) as u32,
        )
    }

    /// Microseconds since 1970, 0 before: the unit of versions.
    pub fn micros(self) -> u64 {
        u64::try_from(self.0 / 1_000).unwrap_or(0)
    }
}

impl From<SystemTime> for Nanos {
    fn from(time: SystemTime) -> Nanos {
        let count = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Nanos(count(after)),
            Err(before) => Nanos(-count(before.duration())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_times_before_1970_are_as_in_stat() {
        assert_eq!(Nanos(-1).parts(), (-1, 999_999_999));
        assert_eq!(Nanos::from_parts(-1, 999_999_999), Nanos(-1));
    }
}
