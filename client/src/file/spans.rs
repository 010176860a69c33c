//! A set of byte ranges that grows.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges that do not touch each other, by their start.
#[derive(Debug, Default)]
pub struct Spans(BTreeMap<u64, u64>);

impl Spans {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a byte of `range` is in here.
    pub fn overlaps(&self, range: Range<u64>) -> bool {
        let before = self.0.range(..range.end).next_back();
        before.is_some_and(|(_, end)| *end > range.start)
    }

    /// Adds a range that overlaps none; it grows together with those it touches.
    pub fn add(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if let Some(more) = self.0.remove(&end) {
            end = more;
        }
        if let Some((before, until)) = self.0.range(..start).next_back()
            && *until == start
        {
            start = *before;
        }
        self.0.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_become_one_and_only_shared_bytes_overlap() {
        let mut spans = Spans::default();
        spans.add(10..20);
        spans.add(30..40);
        assert!(!spans.overlaps(20..30) && spans.overlaps(19..20) && spans.overlaps(0..11));
        spans.add(20..30);
        assert_eq!(spans.0, BTreeMap::from([(10, 40)]));
        assert!(spans.overlaps(25..26) && !spans.overlaps(40..50));
    }
}
