//! How what was written leaves: it is handed on to the dataservers, is durable there, and is committed.

use super::{FRESH_DUE, SharedFile};
use crate::file::assembler::{Assembler, Written};
use crate::file::publish::REPEATS;
use quarry_common::error::{Code, Error, Result};
use quarry_common::limits::CHUNK_LEN_MAX;
use std::ops::Range;
use std::time::Instant;

/// Fresh bytes without a gap leave once there are so many of them.
const RUN_LEN: u64 = 1 << 20;

/// Bytes that have left are held until they are committed, since those of a session that is lost are written again. With
/// more, the oldest are committed first.
const LEAVING_MAX: u64 = 2 * CHUNK_LEN_MAX as u64;

/// Ranges that are durable and not committed: more are committed at once.
const UNCOMMITTED_MAX: usize = 128;

/// What has left and is not committed.
pub(super) struct Leaving {
    assembler: Assembler,
    /// Durable, in the order of the writes, none overlapping another.
    uncommitted: Vec<Written>,
}

impl Leaving {
    pub(super) fn new(assembler: Assembler) -> Leaving {
        Leaving {
            assembler,
            uncommitted: Vec::new(),
        }
    }
}

impl SharedFile {
    /// What is not committed is lost.
    pub(super) fn lose(&self, leaving: &mut Leaving, why: Error) {
        *leaving = Leaving::new(Assembler::new(self.client.shared.data.clone()));
        self.change(|state| {
            state.dirty.discard();
            state.failed.get_or_insert(why);
        });
        self.client.shared.shared_files.handle_loss(self);
        self.fewer.notify_waiters();
    }

    /// Hands on much of what is fresh: long runs, and if there are few of them all. After an error as [`SharedFile::hand_on`].
    pub(super) async fn hand_on_many(&self, leaving: &mut Leaving) -> Result<()> {
        self.hand_on(leaving, RUN_LEN).await?;
        let are_few = self.state().dirty.fresh_len() < FRESH_DUE;
        match are_few {
            true => Ok(()),
            false => self.hand_on(leaving, 1).await,
        }
    }

    /// Hands on what is fresh now, of runs of at least `least`. After an error all is to be given up: [`SharedFile::lose`].
    pub(super) async fn hand_on(&self, leaving: &mut Leaving, least: u64) -> Result<()> {
        let runs = self.state().dirty.runs(least);
        for run in runs {
            if self.state().dirty.is_leaving(&run) {
                // Older bytes of the same place first.
                self.commit_leaving(leaving).await?;
            }
            let pieces = self.change(|state| state.dirty.hand_on(&run));
            self.fewer.notify_waiters();
            for (offset, bytes) in pieces {
                leaving.assembler.write(offset, bytes).await?;
            }
            self.keep_few(leaving).await?;
        }
        Ok(())
    }

    /// Commits what is durable while there is much of it.
    async fn keep_few(&self, leaving: &mut Leaving) -> Result<()> {
        leaving.uncommitted.extend(leaving.assembler.take_done());
        if leaving.uncommitted.len() >= UNCOMMITTED_MAX {
            self.commit_durable(leaving).await?;
        }
        while self.state().dirty.leaving_len() > LEAVING_MAX {
            let waited = leaving.assembler.settle_oldest().await?;
            leaving.uncommitted.extend(leaving.assembler.take_done());
            self.commit_durable(leaving).await?;
            if !waited {
                break;
            }
        }
        Ok(())
    }

    /// Commits what has left.
    async fn commit_leaving(&self, leaving: &mut Leaving) -> Result<()> {
        let rest = leaving.assembler.take().await?;
        leaving.uncommitted.extend(rest);
        self.commit_durable(leaving).await
    }

    async fn commit_durable(&self, leaving: &mut Leaving) -> Result<()> {
        let (begun, patience) = (Instant::now(), self.client.shared.options.data_deadline);
        // What a look at the file showed before. Whose clock is late gets the metaserver's time.
        let mtime = {
            let state = self.state();
            let at = state.written.map(|(.., at)| at);
            at.filter(|at| *at >= state.mtime_seen)
        };
        let mut rest = std::mem::take(&mut leaving.uncommitted);
        while !rest.is_empty() {
            let after = rest.split_off(rest.len().min(UNCOMMITTED_MAX));
            let mut some = std::mem::replace(&mut rest, after);
            let mut repeats = 0;
            loop {
                let committed = self.client.commit_extents(self.inode, &some, None, mtime);
                match committed.await {
                    // Refused: the session that wrote them was lost, or the members of their groups have changed.
                    Err(error) if is_outdated(&error) && repeats < REPEATS => {
                        tracing::info!(name = self.name, %error, "what was not committed is written again");
                        repeats += 1;
                        some = self.write_again(&ranges(&some)).await?;
                    }
                    // The session ended before the answer came. The same bytes at the same place once more do no harm.
                    Err(error)
                        if error.code == Code::UnknownOutcome && begun.elapsed() < patience =>
                    {
                        tracing::info!(name = self.name, %error, "what may be committed is written again");
                        some = self.write_again(&ranges(&some)).await?;
                    }
                    // It replaces more extents than one command may: fewer at a time, and if it is one, its halves.
                    Err(error) if error.code == Code::TooBig && some.len() > 1 => {
                        rest.splice(0..0, some.split_off(some.len() / 2));
                    }
                    Err(error) if error.code == Code::TooBig && len_of(&some) > 1 => {
                        some = self.write_again(&halves(&some)).await?;
                    }
                    committed => {
                        let seen = committed?.mtime;
                        self.state().mtime_seen = seen;
                        break;
                    }
                }
            }
            // Before they are gone from here: who reads sees them in one place at least.
            self.reader.forget();
            self.change(|state| {
                let ranges = some.iter().map(Written::range);
                ranges.for_each(|range| state.dirty.handle_committed(&range));
            });
        }
        self.fewer.notify_waiters();
        Ok(())
    }

    /// The same bytes in new chunks, of each range in chunks of its own.
    async fn write_again(&self, ranges: &[Range<u64>]) -> Result<Vec<Written>> {
        let mut assembler = Assembler::new(self.client.shared.data.clone());
        for range in ranges {
            assembler.end_range().await?;
            let pieces = self.state().dirty.leaving(range);
            let len: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
            if len as u64 != range.end - range.start {
                let text = format!("{}: bytes that are not committed were not kept", self.name);
                return Err(Error::bug(text));
            }
            for (offset, bytes) in pieces {
                assembler.write(offset, bytes).await?;
            }
        }
        assembler.take().await
    }

    /// Commits everything that was written before. After an error as [`SharedFile::hand_on`].
    pub(super) async fn commit_all(&self, leaving: &mut Leaving) -> Result<()> {
        self.change(|state| {
            if let Some((first, ..)) = &mut state.written {
                // What comes from now on counts from now on.
                *first = Instant::now();
            }
        });
        self.hand_on(leaving, 1).await?;
        self.commit_leaving(leaving).await
    }
}

fn ranges(written: &[Written]) -> Vec<Range<u64>> {
    written.iter().map(Written::range).collect()
}

fn halves(written: &[Written]) -> Vec<Range<u64>> {
    let halves = ranges(written).into_iter().flat_map(|range| {
        let middle = range.start + (range.end - range.start) / 2;
        [range.start..middle, middle..range.end]
    });
    halves.collect()
}

fn len_of(written: &[Written]) -> u64 {
    let ranges = ranges(written).into_iter();
    ranges.map(|range| range.end - range.start).sum()
}

/// Whether a commit was refused because of receipts that others would not be.
pub(super) fn is_outdated(error: &Error) -> bool {
    matches!(error.code, Code::OldReceipt | Code::BadReceipt)
}
