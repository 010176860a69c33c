//! The newest entries in memory, so that applying does not read back what was just written.

use crate::raft::types::LogEntry;
use openraft::EntryPayload;
use std::collections::VecDeque;

/// Bytes of payload kept: a few entries of the greatest length, thousands of usual ones.
const TAIL_LEN_MAX: usize = 16 << 20;

/// Consecutive entries up to the end of the log, as many as fit.
#[derive(Default)]
pub(super) struct Tail {
    entries: VecDeque<LogEntry>,
    len: usize,
}

fn len(entry: &LogEntry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(bytes) => bytes.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

impl Tail {
    /// Adds the entry that follows the last one.
    pub(super) fn push(&mut self, entry: LogEntry) {
        self.len += len(&entry);
        self.entries.push_back(entry);
        while self.len > TAIL_LEN_MAX && self.entries.len() > 1 {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(oldest) = self.entries.pop_front() {
            self.len -= len(&oldest);
        }
    }

    /// Forgets the entries from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        while self
            .entries
            .back()
            .is_some_and(|last| last.log_id.index >= index)
        {
            if let Some(last) = self.entries.pop_back() {
                self.len -= len(&last);
            }
        }
    }

    /// Forgets the entries up to `index`, inclusive.
    pub(super) fn purge(&mut self, index: u64) {
        while self
            .entries
            .front()
            .is_some_and(|first| first.log_id.index <= index)
        {
            self.pop_front();
        }
    }

    /// The entries from `from` (inclusive) to `to` (exclusive), if the first of them is here.
    pub(super) fn range(&self, from: u64, to: u64) -> Option<Vec<LogEntry>> {
        let first = self.entries.front()?.log_id.index;
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        if skip >= self.entries.len() {
            return None;
        }
        let found = self
            .entries
            .iter()
            .skip(skip)
            .take_while(|entry| entry.log_id.index < to);
        Some(found.cloned().collect())
    }
}
