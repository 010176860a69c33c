//! Arithmetic of byte ranges of a file.

use quarry_common::limits::CHUNK_LEN_MAX;

/// No extent crosses a multiple of this offset, so that the extent at an offset starts at most so far before it.
pub const WINDOW_LEN: u64 = CHUNK_LEN_MAX as u64;

/// Bytes `start` to `end` (exclusive) of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
}

impl Span {
    /// `len` bytes from `start` on; `None` if they end beyond 2^64.
    pub fn new(start: u64, len: u64) -> Option<Span> {
        Some(Span {
            start,
            end: start.checked_add(len)?,
        })
    }

    /// Bytes in it.
    pub fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// Bytes in both.
    pub fn common(self, other: Span) -> Option<Span> {
        let common = Span {
            start: self.start.max(other.start),
            end: self.end.min(other.end),
        };
        (!common.is_empty()).then_some(common)
    }

    /// What is left of this range without `cut`, before and after it.
    pub fn without(self, cut: Span) -> [Option<Span>; 2] {
        if self.common(cut).is_none() {
            return [Some(self), None];
        }
        let before = Span {
            start: self.start,
            end: cut.start,
        };
        let after = Span {
            start: cut.end,
            end: self.end,
        };
        [before, after].map(|span| (!span.is_empty()).then_some(span))
    }

    /// Whether a multiple of [`WINDOW_LEN`] lies within it.
    pub fn crosses_window(self) -> bool {
        !self.is_empty() && self.start / WINDOW_LEN != (self.end - 1) / WINDOW_LEN
    }

    /// It in pieces, none of which crosses a multiple of [`WINDOW_LEN`].
    pub fn windows(self) -> impl Iterator<Item = Span> {
        let mut at = self.start;
        std::iter::from_fn(move || {
            if at >= self.end {
                return None;
            }
            let border = window_start(at).saturating_add(WINDOW_LEN);
            let span = Span {
                start: at,
                end: border.min(self.end),
            };
            at = span.end;
            Some(span)
        })
    }
}

/// The multiple of [`WINDOW_LEN`] at or before `offset`: no extent with `offset` in it starts before.
pub fn window_start(offset: u64) -> u64 {
    offset - offset % WINDOW_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, end: u64) -> Span {
        Span { start, end }
    }

    #[test]
    fn what_is_left_and_what_is_common_are_the_whole() {
        for (start, end) in [(10, 20), (10, 11)] {
            for cut_start in 5..25 {
                for cut_end in cut_start..25 {
                    let (whole, cut) = (span(start, end), span(cut_start, cut_end));
                    let left = whole.without(cut);
                    let kept: Vec<u64> = left
                        .into_iter()
                        .flatten()
                        .flat_map(|span| span.start..span.end)
                        .collect();
                    let expected: Vec<u64> = (start..end)
                        .filter(|at| !(cut_start..cut_end).contains(at))
                        .collect();
                    assert_eq!(kept, expected, "{whole:?} {cut:?}");
                    let common = whole.common(cut).map_or(0, Span::len);
                    assert_eq!(kept.len() as u64 + common, whole.len());
                }
            }
        }
    }

    #[test]
    fn windows_cover_a_range_and_cross_no_multiple() {
        let whole = span(WINDOW_LEN - 3, 3 * WINDOW_LEN + 1);
        assert!(whole.crosses_window());
        let windows: Vec<Span> = whole.windows().collect();
        assert_eq!(windows.len(), 4);
        assert!(windows.iter().all(|window| !window.crosses_window()));
        assert_eq!((windows[0].start, windows[3].end), (whole.start, whole.end));
        assert!(windows.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(!span(0, WINDOW_LEN).crosses_window());
        assert_eq!(span(u64::MAX - 1, u64::MAX).windows().count(), 1);
    }
}
