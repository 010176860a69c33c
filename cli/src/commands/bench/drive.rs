//! Many callers at a time, and how long each operation took.

use super::Bed;
use super::report::{Figure, Work};
use anyhow::Result;
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const HOUR_MICROS: u64 = 3_600_000_000;

/// How long operations took, in microseconds, with three digits.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub fn new() -> Latencies {
        // Fixed bounds, about 200 KiB: what takes longer than an hour is shown as an hour.
        let bounds = Histogram::new_with_bounds(1, HOUR_MICROS, 3);
        Latencies(bounds.expect("a histogram of three digits"))
    }

    /// Adds one.
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros);
    }

    fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// Half were no slower, in microseconds.
    pub fn p50(&self) -> u64 {
        self.0.value_at_quantile(0.5)
    }

    /// All but one in a hundred were no slower, in microseconds.
    pub fn p99(&self) -> u64 {
        self.0.value_at_quantile(0.99)
    }

    /// The slowest, in microseconds.
    pub fn max(&self) -> u64 {
        self.0.max()
    }
}

impl Bed<'_> {
    /// Runs `count` operations with `callers` at a time; `operation` gets the number of its caller and
    /// its own. `work` says what the whole is; `best` what is possible a second.
    ///
    /// # Errors
    /// The first of any operation.
    pub async fn drive<F, W>(
        &self,
        name: &str,
        (callers, count): (u32, u64),
        work: Work,
        best: Option<f64>,
        operation: F,
    ) -> Result<Figure>
    where
        F: Fn(u32, u64) -> W + Clone + Send + 'static,
        W: Future<Output = Result<()>> + Send,
    {
        eprintln!("{name}");
        let before = self.processes.so_far();
        let started = Instant::now();
        let next = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new();
        for caller in 0..callers {
            let (next, operation) = (next.clone(), operation.clone());
            running.spawn(async move {
                let mut latencies = Latencies::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Ok::<_, anyhow::Error>(latencies);
                    }
                    let started = Instant::now();
                    operation(caller, number).await?;
                    latencies.record(started.elapsed());
                }
            });
        }
        let mut latencies = Latencies::new();
        while let Some(ended) = running.join_next().await {
            latencies.add(&ended??);
        }
        Ok(Figure {
            name: name.to_owned(),
            work,
            elapsed: started.elapsed(),
            spent: self.processes.since(before),
            latencies,
            best,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_of_every_length_are_kept() {
        let mut latencies = Latencies::new();
        for millis in [1, 20, 3_000] {
            latencies.record(Duration::from_millis(millis));
        }
        let about = |micros: u64, wanted: u64| micros.abs_diff(wanted) * 100 < wanted;
        assert!(about(latencies.p50(), 20_000), "{}", latencies.p50());
        assert!(about(latencies.max(), 3_000_000), "{}", latencies.max());
    }
}
