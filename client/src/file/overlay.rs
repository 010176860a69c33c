//! Bytes of a file by where they are: what was written last is what counts.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;

/// Pieces by their offset; none overlaps another.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    pieces: BTreeMap<u64, Bytes>,
    len: u64,
}

impl Overlay {
    /// Bytes in it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Where the last piece ends.
    pub fn end(&self) -> u64 {
        let last = self.pieces.last_key_value();
        last.map_or(0, |(offset, bytes)| offset + bytes.len() as u64)
    }

    /// Puts a piece over what there is.
    pub fn put(&mut self, offset: u64, bytes: Bytes) {
        let range = offset..offset + bytes.len() as u64;
        if self.overlaps(&range) {
            self.remove(&range);
        }
        self.add(offset, bytes);
    }

    fn add(&mut self, offset: u64, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len() as u64;
            self.pieces.insert(offset, bytes);
        }
    }

    /// Whether there is a byte of a range.
    pub fn overlaps(&self, range: &Range<u64>) -> bool {
        let before = self.pieces.range(..range.end).next_back();
        before.is_some_and(|(offset, bytes)| offset + bytes.len() as u64 > range.start)
    }

    /// Where there are bytes without a gap, in order.
    pub fn runs(&self) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (offset, bytes) in &self.pieces {
            let end = offset + bytes.len() as u64;
            match runs.last_mut() {
                Some(run) if run.end == *offset => run.end = end,
                _ => runs.push(*offset..end),
            }
        }
        runs
    }

    /// What there is of a range, in order.
    pub fn range(&self, range: &Range<u64>) -> Vec<(u64, Bytes)> {
        let cut = |(offset, bytes): (&u64, &Bytes)| {
            let end = offset + bytes.len() as u64;
            let (from, to) = (range.start.max(*offset), range.end.min(end));
            (from < to).then(|| {
                let part = (from - offset) as usize..(to - offset) as usize;
                (from, bytes.slice(part))
            })
        };
        let before = self.pieces.range(..=range.start).next_back();
        let first = before.map_or(range.start, |(offset, _)| *offset);
        let touched = self.pieces.range(first..range.end.max(first));
        touched.filter_map(cut).collect()
    }

    /// Forgets a range.
    pub fn remove(&mut self, range: &Range<u64>) {
        for (offset, part) in self.range(range) {
            let before = self.pieces.range(..=offset).next_back();
            let Some(start) = before.map(|(start, _)| *start) else {
                continue;
            };
            let Some(mut piece) = self.pieces.remove(&start) else {
                continue;
            };
            let whole = piece.len();
            self.len -= whole as u64;
            let head = piece.split_to((offset - start) as usize);
            let tail = piece.split_off(part.len());
            self.add(start, own(head, whole));
            self.add(offset + part.len() as u64, own(tail, whole));
        }
    }
}

/// A rest of a piece, which does not hold on to all of it if it is the smaller part.
fn own(rest: Bytes, whole: usize) -> Bytes {
    match rest.len() < whole / 2 {
        true => Bytes::copy_from_slice(&rest),
        false => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u64, text: &'static str) -> (u64, Bytes) {
        (offset, Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn what_is_left_is_what_was_not_removed() {
        let mut overlay = Overlay::default();
        for (offset, bytes) in [part(10, "abcdef"), part(16, "gh"), part(30, "xyz")] {
            overlay.put(offset, bytes);
        }
        assert_eq!((overlay.len(), overlay.end()), (11, 33));
        assert_eq!(overlay.runs(), [10..18, 30..33]);
        assert_eq!(overlay.range(&(12..17)), [part(12, "cdef"), part(16, "g")]);
        assert_eq!(overlay.range(&(18..30)), []);
        overlay.remove(&(12..14));
        overlay.remove(&(15..31));
        assert_eq!(
            overlay.range(&(0..100)),
            [part(10, "ab"), part(14, "e"), part(31, "yz")]
        );
        assert_eq!(overlay.len(), 5);
        overlay.remove(&(0..100));
        assert_eq!((overlay.len(), overlay.range(&(0..100))), (0, vec![]));
    }

    #[test]
    fn what_was_put_last_counts() {
        let mut overlay = Overlay::default();
        overlay.put(10, Bytes::from_static(b"abcdef"));
        overlay.put(12, Bytes::from_static(b"XY"));
        overlay.put(15, Bytes::from_static(b"Zzz"));
        let expected = [
            part(10, "ab"),
            part(12, "XY"),
            part(14, "e"),
            part(15, "Zzz"),
        ];
        assert_eq!(overlay.range(&(0..100)), expected);
        assert_eq!(overlay.runs(), vec![10..18; 1]);
        overlay.put(0, Bytes::from_static(b"0123456789abcdefghij"));
        assert_eq!((overlay.range(&(0..100)).len(), overlay.len()), (1, 20));
        assert!(overlay.overlaps(&(19..20)) && !overlay.overlaps(&(20..30)));
    }
}
