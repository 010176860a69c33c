//! What this client has seen of disks and servers lately: whom to avoid, who is fast.

use quarry_common::ids::{DiskId, ServerId};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A disk that failed once is avoided this long, then twice as long each time.
const AVOID_FIRST: Duration = Duration::from_millis(500);

/// No disk is avoided longer than this after one more failure.
const AVOID_LONGEST: Duration = Duration::from_secs(15);

/// A full disk is asked again after this long.
const FULL_FOR: Duration = Duration::from_secs(20);

/// A server that does not answer is reported again after this long at the earliest.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Answers over which the 95th percentile is taken.
const SAMPLES: usize = 128;

/// A slow answer is never suspected sooner than this.
const SUSPECT_AFTER_LEAST: Duration = Duration::from_millis(100);

/// Nor later than this.
const SUSPECT_AFTER_MOST: Duration = Duration::from_secs(2);

/// What was seen, bounded by the number of disks of the cluster.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    disks: HashMap<DiskId, Disk>,
    servers: HashMap<ServerId, Duration>,
    reported_at: HashMap<ServerId, Instant>,
    answers: VecDeque<Duration>,
    since_computed: usize,
    suspect_after: Option<Duration>,
}

#[derive(Debug, Default)]
struct Disk {
    reads: Failures,
    writes: Failures,
    full_until: Option<Instant>,
}

/// Failures in a row.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    avoid_until: Option<Instant>,
}

/// What a disk was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// To give bytes.
    Read,
    /// To take them.
    Write,
}

impl Disk {
    fn failures(&mut self, doing: Doing) -> &mut Failures {
        match doing {
            Doing::Read => &mut self.reads,
            Doing::Write => &mut self.writes,
        }
    }
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with this lock")
    }

    /// A disk did not do its part.
    pub fn handle_failure(&self, disk: DiskId, doing: Doing, now: Instant) {
        let mut state = self.state();
        let failures = state.disks.entry(disk).or_default().failures(doing);
        let pause = AVOID_FIRST * 2u32.saturating_pow(failures.count.min(8));
        failures.count += 1;
        failures.avoid_until = Some(now + pause.min(AVOID_LONGEST));
    }

    /// A server did not answer. Whether that is to be reported: not when it just was.
    pub fn handle_silence(&self, server: ServerId, now: Instant) -> bool {
        let mut state = self.state();
        let before = state.reported_at.get(&server);
        let due = before.is_none_or(|at| now.saturating_duration_since(*at) >= REPORT_EVERY);
        if due {
            state.reported_at.insert(server, now);
        }
        due
    }

    /// A disk said that it is full.
    pub fn handle_full(&self, disk: DiskId, now: Instant) {
        self.state().disks.entry(disk).or_default().full_until = Some(now + FULL_FOR);
    }

    /// A disk did its part. One that can be read may still be full, or fail whenever it is written to.
    pub fn handle_success(&self, disk: DiskId, doing: Doing) {
        let mut state = self.state();
        match (doing, state.disks.get_mut(&disk)) {
            (Doing::Read, Some(disk)) => disk.reads = Failures::default(),
            (Doing::Write, Some(_)) => drop(state.disks.remove(&disk)),
            (_, None) => {}
        }
    }

    /// Whether it failed lately.
    pub fn is_avoided(&self, disk: DiskId, now: Instant) -> bool {
        let state = self.state();
        let failed = |failures: &Failures| failures.avoid_until.is_some_and(|until| until > now);
        let disk = state.disks.get(&disk);
        disk.is_some_and(|disk| failed(&disk.reads) || failed(&disk.writes))
    }

    /// Whether it said lately that it is full.
    pub fn is_full(&self, disk: DiskId, now: Instant) -> bool {
        let state = self.state();
        let until = state.disks.get(&disk).and_then(|disk| disk.full_until);
        until.is_some_and(|until| until > now)
    }

    /// A server answered a read after `took`.
    pub fn handle_answer(&self, server: ServerId, took: Duration) {
        let mut state = self.state();
        let mean = state.servers.entry(server).or_insert(took);
        *mean = (*mean * 7 + took) / 8;
        if state.answers.len() == SAMPLES {
            state.answers.pop_front();
        }
        state.answers.push_back(took);
        state.since_computed += 1;
        if state.since_computed >= SAMPLES / 8 {
            state.since_computed = 0;
            let mut sorted: Vec<Duration> = state.answers.iter().copied().collect();
            sorted.sort_unstable();
            let p95 = sorted[(sorted.len() * 95 / 100).min(sorted.len() - 1)];
            state.suspect_after = Some((p95 * 2).clamp(SUSPECT_AFTER_LEAST, SUSPECT_AFTER_MOST));
        }
    }

    /// After how long an answer is so late that another replica is asked as well.
    pub fn suspect_after(&self) -> Duration {
        self.state()
            .suspect_after
            .unwrap_or(SUSPECT_AFTER_LEAST * 5)
    }

    /// How long this server takes to answer, as far as is known.
    pub fn usual(&self, server: ServerId) -> Option<Duration> {
        self.state().servers.get(&server).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_again_is_avoided_longer_and_one_success_clears_it() {
        let health = Health::default();
        let (disk, start) = (DiskId(1), Instant::now());
        for doing in [Doing::Read, Doing::Write] {
            health.handle_failure(disk, doing, start);
            assert!(health.is_avoided(disk, start));
            assert!(!health.is_avoided(disk, start + AVOID_FIRST));
            health.handle_failure(disk, doing, start);
            assert!(health.is_avoided(disk, start + AVOID_FIRST));
            health.handle_success(disk, doing);
            assert!(!health.is_avoided(disk, start));
        }
    }

    #[test]
    fn a_disk_that_can_be_read_may_still_be_full_and_fail_what_is_written() {
        let health = Health::default();
        let (disk, start) = (DiskId(1), Instant::now());
        health.handle_full(disk, start);
        health.handle_failure(disk, Doing::Write, start);
        health.handle_success(disk, Doing::Read);
        assert!(health.is_full(disk, start) && health.is_avoided(disk, start));
        health.handle_success(disk, Doing::Write);
        assert!(!health.is_full(disk, start) && !health.is_avoided(disk, start));
    }

    #[test]
    fn who_does_not_answer_is_reported_once_a_second() {
        let health = Health::default();
        let (one, start) = (ServerId(1), Instant::now());
        assert!(health.handle_silence(one, start));
        assert!(!health.handle_silence(one, start + REPORT_EVERY / 2));
        assert!(health.handle_silence(ServerId(2), start));
        assert!(health.handle_silence(one, start + REPORT_EVERY));
    }

    #[test]
    fn late_is_what_is_later_than_nearly_all_answers() {
        let health = Health::default();
        for _ in 0..SAMPLES {
            health.handle_answer(ServerId(1), Duration::from_millis(300));
        }
        assert_eq!(health.suspect_after(), Duration::from_millis(600));
        for _ in 0..SAMPLES {
            health.handle_answer(ServerId(1), Duration::from_micros(300));
        }
        assert_eq!(health.suspect_after(), SUSPECT_AFTER_LEAST);
    }
}
