//! What a benchmark prints.

use super::cpu::Spent;
use super::drive::Latencies;
use crate::size::grouped;
use crate::table::Table;
use serde_json::{Value, json};
use std::time::Duration;

/// A gigabyte, as in all figures here.
const GB: f64 = 1e9;

/// Everything that a benchmark found.
pub struct Report {
    /// What was done, in a few words.
    pub what: String,
    /// What the cluster did.
    pub figures: Vec<Figure>,
    /// What this machine could do at best.
    pub limits: Vec<Limit>,
    /// What a reader of the figures should know.
    pub notes: Vec<String>,
}

/// What the cluster did.
pub struct Figure {
    /// In a few words.
    pub name: String,
    /// What was counted.
    pub work: Work,
    /// How long it took.
    pub elapsed: Duration,
    /// What was used for it.
    pub spent: Spent,
    /// How long each operation took.
    pub latencies: Latencies,
    /// What this machine could do at best, in the same unit a second.
    pub best: Option<f64>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Bytes.
    Bytes(u64),
    /// Operations.
    Operations(u64),
}

/// What this machine could do at best.
pub struct Limit {
    /// What was done.
    pub name: String,
    /// How much of it a second: bytes, or operations.
    pub rate: f64,
    /// Whether `rate` is of bytes.
    pub is_bytes: bool,
}

impl Figure {
    fn amount(&self) -> f64 {
        match self.work {
            Work::Bytes(count) | Work::Operations(count) => count as f64,
        }
    }

    fn is_bytes(&self) -> bool {
        matches!(self.work, Work::Bytes(_))
    }

    /// Bytes or operations a second.
    pub fn rate(&self) -> f64 {
        self.amount() / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// CPU seconds a gigabyte, or microseconds an operation.
    fn cpu(&self) -> f64 {
        let per = if self.is_bytes() { GB } else { 1e6 };
        self.spent.seconds * per / self.amount().max(1.0)
    }
}

fn rate_text(rate: f64, is_bytes: bool) -> String {
    match is_bytes {
        true => format!("{:.3} GB/s", rate / GB),
        false => format!("{}/s", grouped(rate as u64)),
    }
}

fn time_text(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let head = [
            "",
            "reached",
            "best here",
            "of it",
            "CPU",
            "p50",
            "p99",
            "max",
        ];
        let mut figures = Table::new(&head, &[1, 2, 3, 4, 5, 6, 7]);
        for figure in &self.figures {
            let is_bytes = figure.is_bytes();
            let (best, share) = match figure.best {
                None => (String::new(), String::new()),
                Some(best) => (
                    rate_text(best, is_bytes),
                    format!("{:.0}%", 100.0 * figure.rate() / best),
                ),
            };
            let unit = if is_bytes { "s/GB" } else { "us/op" };
            figures.row(vec![
                figure.name.clone(),
                rate_text(figure.rate(), is_bytes),
                best,
                share,
                format!("{:.2} {unit}", figure.cpu()),
                time_text(figure.latencies.p50()),
                time_text(figure.latencies.p99()),
                time_text(figure.latencies.max()),
            ]);
        }
        let mut limits = Table::new(&["this machine, in the same run", ""], &[1]);
        for limit in &self.limits {
            limits.row(vec![
                limit.name.clone(),
                rate_text(limit.rate, limit.is_bytes),
            ]);
        }
        let mut text = format!("{}\n\n{}\n{}", self.what, figures.text(), limits.text());
        for note in &self.notes {
            text.push_str(&format!("\n  {note}"));
        }
        text.push('\n');
        text
    }

    /// For programs: bytes and operations a second, seconds, microseconds.
    pub fn json(&self) -> Value {
        let figure = |figure: &Figure| {
            let mut object = json!({
                "name": figure.name,
                "seconds": figure.elapsed.as_secs_f64(),
                "best_per_second": figure.best,
                "cpu_seconds": figure.spent.seconds,
                "cpu_of_all_servers": figure.spent.whole,
                "p50_us": figure.latencies.p50(),
                "p99_us": figure.latencies.p99(),
                "max_us": figure.latencies.max(),
            });
            match figure.work {
                Work::Bytes(bytes) => {
                    object["bytes"] = bytes.into();
                    object["bytes_per_second"] = figure.rate().into();
                    object["cpu_seconds_per_gb"] = figure.cpu().into();
                }
                Work::Operations(count) => {
                    object["operations"] = count.into();
                    object["operations_per_second"] = figure.rate().into();
                    object["cpu_us_per_operation"] = figure.cpu().into();
                }
            }
            object
        };
        let limit = |limit: &Limit| {
            let unit = if limit.is_bytes {
                "bytes_per_second"
            } else {
                "operations_per_second"
            };
            json!({ "name": limit.name, unit: limit.rate })
        };
        json!({
            "what": self.what,
            "figures": self.figures.iter().map(figure).collect::<Vec<_>>(),
            "limits": self.limits.iter().map(limit).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_beside_what_is_possible() {
        let mut latencies = Latencies::new();
        (1..=100).for_each(|micros| latencies.record(Duration::from_micros(micros * 100)));
        let report = Report {
            what: "write".into(),
            figures: vec![Figure {
                name: "write".into(),
                work: Work::Bytes(4_000_000_000),
                elapsed: Duration::from_secs(8),
                spent: Spent {
                    seconds: 12.0,
                    whole: true,
                },
                latencies,
                best: Some(1e9),
            }],
            limits: vec![Limit {
                name: "memory copy".into(),
                rate: 1e10,
                is_bytes: true,
            }],
            notes: vec!["a note".into()],
        };
        let text = report.text();
        for part in [
            "0.500 GB/s",
            "1.000 GB/s",
            "50%",
            "3.00 s/GB",
            "5.0 ms",
            "10.0 ms",
            "10.000 GB/s",
            "a note",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let json = report.json();
        assert_eq!(json["figures"][0]["cpu_seconds_per_gb"], 3.0);
        assert_eq!(json["limits"][0]["bytes_per_second"], 1e10);
    }
}
