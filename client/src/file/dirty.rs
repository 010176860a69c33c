//! What was written to an open file and is not committed yet: pure.
//!
//! Bytes are *fresh* until they are handed on to the dataservers, *leaving* until they are committed, and then gone from
//! here. A place may be fresh and leaving: the fresh bytes count, and are handed on only after the others are committed,
//! since extents of one commit do not overlap.

use super::overlay::Overlay;
use bytes::{Bytes, BytesMut};
use std::ops::Range;

/// Small writes that follow each other are gathered up to this length.
pub const GATHER_LEN: usize = 1 << 20;

/// What is not committed of one file.
#[derive(Debug, Default)]
pub struct Dirty {
    /// Small writes that follow each other: the newest of all.
    gathered: BytesMut,
    gathered_at: u64,
    fresh: Overlay,
    leaving: Overlay,
}

impl Dirty {
    /// Bytes that are held.
    pub fn len(&self) -> u64 {
        self.fresh_len() + self.leaving.len()
    }

    /// Whether everything is committed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that are not handed on.
    pub fn fresh_len(&self) -> u64 {
        self.fresh.len() + self.gathered.len() as u64
    }

    /// Bytes that are handed on.
    pub fn leaving_len(&self) -> u64 {
        self.leaving.len()
    }

    /// Where the last of the bytes ends.
    pub fn end(&self) -> u64 {
        let gathered = match self.gathered.len() as u64 {
            0 => 0,
            len => self.gathered_at + len,
        };
        gathered.max(self.fresh.end()).max(self.leaving.end())
    }

    /// Takes bytes over.
    pub fn write(&mut self, offset: u64, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let follows = self.gathered_at + self.gathered.len() as u64 == offset;
        if !follows || self.gathered.len() + bytes.len() > GATHER_LEN {
            self.settle();
        }
        if bytes.len() >= GATHER_LEN / 2 {
            self.settle();
            self.fresh.put(offset, bytes);
            return;
        }
        if self.gathered.is_empty() {
            self.gathered_at = offset;
        }
        self.gathered.extend_from_slice(&bytes);
    }

    /// What is gathered becomes a piece as any other.
    fn settle(&mut self) {
        if !self.gathered.is_empty() {
            let bytes = self.gathered.split().freeze();
            self.fresh.put(self.gathered_at, bytes);
        }
    }

    /// The newest bytes of a range, as far as there are some, in order.
    pub fn read(&mut self, range: &Range<u64>) -> Vec<(u64, Bytes)> {
        self.settle();
        if !self.leaving.overlaps(range) {
            return self.fresh.range(range);
        }
        let mut newest = Overlay::default();
        let leaving = self.leaving.range(range).into_iter();
        for (offset, bytes) in leaving.chain(self.fresh.range(range)) {
            newest.put(offset, bytes);
        }
        newest.range(range)
    }

    /// Where there are fresh bytes, of at least `least` without a gap.
    pub fn runs(&mut self, least: u64) -> Vec<Range<u64>> {
        self.settle();
        let mut runs = self.fresh.runs();
        runs.retain(|run| run.end - run.start >= least);
        runs
    }

    /// Whether bytes of a range are leaving: then fresh ones there have to wait.
    pub fn is_leaving(&self, range: &Range<u64>) -> bool {
        self.leaving.overlaps(range)
    }

    /// Takes fresh bytes that are handed on now; none there is leaving.
    pub fn hand_on(&mut self, range: &Range<u64>) -> Vec<(u64, Bytes)> {
        let pieces = self.fresh.range(range);
        self.fresh.remove(range);
        for (offset, bytes) in &pieces {
            self.leaving.put(*offset, bytes.clone());
        }
        pieces
    }

    /// What is leaving of a range, in order: to be written again if its session was lost.
    pub fn leaving(&self, range: &Range<u64>) -> Vec<(u64, Bytes)> {
        self.leaving.range(range)
    }

    /// What was leaving there is committed.
    pub fn handle_committed(&mut self, range: &Range<u64>) {
        self.leaving.remove(range);
    }

    /// Nothing of it can be committed.
    pub fn discard(&mut self) {
        *self = Dirty::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type HandedOn = (Range<u64>, Vec<(u64, Bytes)>);

    /// What a file of bytes would hold.
    #[derive(Debug, Default)]
    struct Model {
        /// With everything that was written.
        newest: Vec<Option<u8>>,
        committed: Vec<Option<u8>>,
        /// What was handed on, in the order of its commits.
        on_the_way: Vec<HandedOn>,
    }

    fn lay(over: &mut Vec<Option<u8>>, offset: u64, bytes: &[u8]) {
        let end = offset as usize + bytes.len();
        if over.len() < end {
            over.resize(end, None);
        }
        for (at, byte) in bytes.iter().enumerate() {
            over[offset as usize + at] = Some(*byte);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, usize, u8),
        HandOn(u64),
        Commit,
        Read(u64, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u64..200, 1usize..40, any::<u8>()).prop_map(|(at, len, fill)| Step::Write(at, len, fill)),
            1 => (1u64..30).prop_map(Step::HandOn),
            1 => Just(Step::Commit),
            2 => (0u64..240, 1u64..80).prop_map(|(at, len)| Step::Read(at, len)),
        ];
        proptest::collection::vec(step, 1..80)
    }

    proptest! {
        #[test]
        fn what_was_written_last_is_read_and_committed_last(steps in steps()) {
            let (mut dirty, mut model) = (Dirty::default(), Model::default());
            for (count, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Write(offset, len, fill) => {
                        // Each write's bytes are its own.
                        let bytes = vec![fill ^ count as u8; len];
                        lay(&mut model.newest, offset, &bytes);
                        dirty.write(offset, bytes.into());
                    }
                    Step::HandOn(least) => {
                        for run in dirty.runs(least) {
                            if !dirty.is_leaving(&run) {
                                let pieces = dirty.hand_on(&run);
                                model.on_the_way.push((run, pieces));
                            }
                        }
                    }
                    Step::Commit => {
                        for (run, pieces) in model.on_the_way.drain(..) {
                            for (offset, bytes) in pieces {
                                lay(&mut model.committed, offset, &bytes);
                            }
                            dirty.handle_committed(&run);
                        }
                    }
                    Step::Read(offset, len) => {
                        let range = offset..offset + len;
                        let mut seen = model.committed.clone();
                        for (at, bytes) in dirty.read(&range) {
                            prop_assert!(at >= range.start && at + bytes.len() as u64 <= range.end);
                            lay(&mut seen, at, &bytes);
                        }
                        for at in range {
                            let of = |bytes: &Vec<Option<u8>>| bytes.get(at as usize).copied().flatten();
                            prop_assert_eq!(of(&seen), of(&model.newest), "at {}", at);
                        }
                    }
                }
                let end = model.newest.len() as u64;
                let committed = model.committed.len() as u64;
                prop_assert_eq!(dirty.end().max(committed), end.max(committed));
            }
            // In the end all goes, the older first.
            while !dirty.is_empty() {
                for (run, pieces) in model.on_the_way.drain(..) {
                    for (offset, bytes) in pieces {
                        lay(&mut model.committed, offset, &bytes);
                    }
                    dirty.handle_committed(&run);
                }
                for run in dirty.runs(1) {
                    prop_assert!(!dirty.is_leaving(&run));
                    let pieces = dirty.hand_on(&run);
                    model.on_the_way.push((run, pieces));
                }
            }
            prop_assert_eq!(model.committed, model.newest);
        }
    }
}
