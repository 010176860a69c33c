//! How many operations were done, and how long there was none.

use quarry_common::error::{Code, Error, Result};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Kinds of operations, each with clients of its own that do nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Reading what was there before.
    Read,
    /// Publishing, replacing, writing over, moving, removing files.
    Write,
    /// Appending records.
    Append,
    /// Changing and listing names.
    Metadata,
    /// Trees up and down.
    Tree,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [
        Kind::Read,
        Kind::Write,
        Kind::Append,
        Kind::Metadata,
        Kind::Tree,
    ];
}

/// What was done of one kind.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Operations that were acknowledged.
    pub done: u64,
    /// Operations that were begun again with the same bytes, as the library asks for.
    pub again: u64,
    /// Operations whose outcome the library called unknown.
    pub unknown: u64,
    /// The longest time without an acknowledged operation.
    pub gap: Duration,
    /// The longest time that an operation took.
    pub slowest: Duration,
    /// Which one it was.
    pub slowest_what: String,
}

/// What became of an operation.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It was acknowledged.
    Done(T),
    /// It may have been done.
    Unknown,
    /// It was not done: a defect, and noted as such.
    Failed,
}

/// Counts for all clients.
#[derive(Debug)]
pub struct Meter {
    tallies: Mutex<Tallies>,
}

#[derive(Debug)]
struct Tallies {
    since: Instant,
    kinds: BTreeMap<Kind, Tally>,
    failures: Vec<String>,
}

#[derive(Debug, Default)]
struct Tally {
    figures: Figures,
    last: Option<Instant>,
}

impl Meter {
    /// For these kinds.
    pub fn new(kinds: impl IntoIterator<Item = Kind>) -> Meter {
        let kinds = kinds.into_iter().map(|kind| (kind, Tally::default()));
        Meter {
            tallies: Mutex::new(Tallies {
                since: Instant::now(),
                kinds: kinds.collect(),
                failures: Vec::new(),
            }),
        }
    }

    fn tallies(&self) -> MutexGuard<'_, Tallies> {
        self.tallies.lock().expect("nobody panics with this lock")
    }

    /// Waits for an operation. One that the library asks to do again, since members of its chunks came or went or its
    /// session was lost, is done again up to three times.
    pub async fn measure<T, F: Future<Output = Result<T>>>(
        &self,
        kind: Kind,
        what: &str,
        op: impl Fn() -> F,
    ) -> Outcome<T> {
        let begun = Instant::now();
        let mut again = 0;
        loop {
            match op().await {
                Ok(done) => {
                    self.tallies().handle_done(kind, what, begun, again);
                    return Outcome::Done(done);
                }
                Err(error)
                    if matches!(error.code, Code::OldReceipt | Code::SessionLost) && again < 3 =>
                {
                    again += 1;
                }
                Err(error) => return self.handle_error(kind, what, begun, &error),
            }
        }
    }

    fn handle_error<T>(&self, kind: Kind, what: &str, begun: Instant, error: &Error) -> Outcome<T> {
        let took = begun.elapsed().as_secs_f64();
        let mut tallies = self.tallies();
        if error.code == Code::UnknownOutcome {
            tallies.kinds.entry(kind).or_default().figures.unknown += 1;
            return Outcome::Unknown;
        }
        let failure = format!("{what} failed after {took:.1} s: {error}");
        tallies.failures.push(failure);
        Outcome::Failed
    }

    /// Something that an operation found to be wrong.
    pub fn handle_fault(&self, fault: String) {
        self.tallies().failures.push(fault);
    }

    /// Operations of a kind so far.
    pub fn done(&self, kind: Kind) -> u64 {
        self.tallies()
            .kinds
            .get(&kind)
            .map_or(0, |tally| tally.figures.done)
    }

    /// What failed so far.
    pub fn failures(&self) -> Vec<String> {
        self.tallies().failures.clone()
    }

    /// Gaps and slowest operations are those from now on; what is counted is counted on.
    pub fn begin_period(&self) {
        let mut tallies = self.tallies();
        tallies.since = Instant::now();
        for tally in tallies.kinds.values_mut() {
            tally.figures.gap = Duration::ZERO;
            tally.figures.slowest = Duration::ZERO;
            tally.last = None;
        }
    }

    /// The figures; gaps are those of the period, one that is not over yet included.
    pub fn figures(&self) -> BTreeMap<Kind, Figures> {
        let tallies = self.tallies();
        let now = Instant::now();
        let figures = |(kind, tally): (&Kind, &Tally)| {
            let mut figures = tally.figures.clone();
            figures.gap = figures.gap.max(now - tally.last.unwrap_or(tallies.since));
            (*kind, figures)
        };
        tallies.kinds.iter().map(figures).collect()
    }
}

impl Tallies {
    fn handle_done(&mut self, kind: Kind, what: &str, begun: Instant, again: u64) {
        let now = Instant::now();
        let since = self.since;
        let Tally { figures, last } = self.kinds.entry(kind).or_default();
        figures.done += 1;
        figures.again += again;
        figures.gap = figures.gap.max(now - last.unwrap_or(since));
        if now - begun > figures.slowest {
            figures.slowest = now - begun;
            figures.slowest_what = what.to_owned();
        }
        *last = Some(now);
    }
}
