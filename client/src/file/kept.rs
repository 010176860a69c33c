//! Bytes of a file that were written and are not committed: they may have to be written again.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;

/// Pieces by their offset; none overlaps another.
#[derive(Debug, Default)]
pub struct Kept {
    pieces: BTreeMap<u64, Bytes>,
    len: u64,
}

impl Kept {
    /// Bytes in it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Keeps a piece that overlaps none.
    pub fn add(&mut self, offset: u64, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len() as u64;
            self.pieces.insert(offset, bytes);
        }
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
            self.len -= piece.len() as u64;
            let head = piece.split_to((offset - start) as usize);
            let tail = piece.split_off(part.len());
            self.add(start, head);
            self.add(offset + part.len() as u64, tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_was_not_removed() {
        let mut kept = Kept::default();
        kept.add(10, Bytes::from_static(b"abcdef"));
        kept.add(16, Bytes::from_static(b"gh"));
        kept.add(30, Bytes::from_static(b"xyz"));
        assert_eq!(kept.len(), 11);
        let part = |offset, text: &'static str| (offset, Bytes::from_static(text.as_bytes()));
        assert_eq!(kept.range(&(12..17)), [part(12, "cdef"), part(16, "g")]);
        assert_eq!(kept.range(&(18..30)), []);
        kept.remove(&(12..14));
        kept.remove(&(15..31));
        assert_eq!(
            kept.range(&(0..100)),
            [part(10, "ab"), part(14, "e"), part(31, "yz")]
        );
        assert_eq!(kept.len(), 5);
        kept.remove(&(0..100));
        assert_eq!((kept.len(), kept.range(&(0..100))), (0, vec![]));
    }
}
