//! Compaction: a segment that is mostly dead gives its room back (DESIGN §4.4).
//!
//! Its live records go the way of every small chunk, into the segment that is being written and in syncs shared with
//! others; they are read back there before the index turns to them. When the index durably leads nowhere into
//! the old segment any more, that goes to the trash. A crash leaves a record in both: then the index has the old
//! place, or the new one, and the next start reads on to find the other.

use super::Disk;
use super::entry::Entry;
use super::health::io_error;
use super::index::SegmentState;
use super::name::ChunkName;
use super::segment::SmallWrite;
use super::segment_format::{BATCHES_AT, RecordHead, SegmentHeader, SegmentId};
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::limits::SMALL_CHUNK_LEN_MAX;
use quarry_common::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;

/// Less dead space than this is not worth the copying.
const DEAD_LEN_MIN: u64 = 1 << 20;

/// Records on their way to the new segment: clients' writes that come meanwhile do not wait for more.
const MOVES_AT_ONCE: usize = 32;

/// A part of the old segment that is read at once; holds a whole record of any length.
const WINDOW_LEN: usize = 1 << 20;

const _: () = assert!(WINDOW_LEN > 2 * (RecordHead::LEN + SMALL_CHUNK_LEN_MAX));

/// Segments that could not be emptied, with the live bytes that were left: a bad copy keeps its place until it is
/// replaced or deleted, and so does what can not be read.
#[derive(Default)]
pub struct Stuck(pub BTreeMap<SegmentId, u64>);

/// How far the live records of a segment were copied.
enum Moved {
    /// As far as they are whole, but for so many that are others' at this moment.
    All { busy: usize },
    /// Not all of the segment can be read.
    Unreadable(Error),
}

/// What becomes of a record.
enum Move {
    /// It is on its way.
    Begun(oneshot::Receiver<Result<()>>),
    /// The chunk is being deleted or replaced.
    Busy,
    /// It is dead or bad.
    No,
}

impl Disk {
    /// Compacts the segment with the most dead space, if one is mostly dead: which one it was. Blocks for as long as it
    /// takes to copy half a segment.
    ///
    /// # Errors
    /// `DiskFull` with less than 0.5 % free, `DiskFailed`, `Stopping`; errors when it is moved to the trash.
    pub fn compact(&self) -> Result<Option<SegmentId>> {
        let shared = &self.0.shared;
        shared.health.check()?;
        let mut stuck = self.0.stuck();
        let active = shared.active_segment();
        let Some((segment, live)) = choose(shared.index.segments(), active, &stuck.0) else {
            return Ok(None);
        };
        // One that is wholly dead needs no room. It is read as well: one that can not be is not known to be dead.
        if live > 0 {
            shared.check_collect_space(live)?;
        }
        let moved = self.move_live(segment)?;
        let left = shared.index.live_in(segment);
        match moved {
            // Somebody deletes or replaces a chunk at this moment: there is another attempt soon.
            Moved::All { busy } if busy > 0 => return Ok(None),
            Moved::All { .. } if left == 0 => {}
            // Bad copies are left.
            Moved::All { .. } => {
                stuck.0.insert(segment, left);
                return Ok(None);
            }
            // What it holds is for a person to look at, and keeps no other segment from being compacted.
            Moved::Unreadable(error) => {
                tracing::warn!("segment {:08x} can not be compacted: {error}", segment.0);
                stuck.0.insert(segment, left);
                return Ok(None);
            }
        }
        // Durably, before the segment goes: an index that has read more than there is is built anew.
        let forgotten = shared.index.forget_segment(segment);
        forgotten.map_err(|error| shared.index_failed(&error))?;
        shared.trash.put(&shared.segment_path(segment))?;
        tracing::info!(
            "segment {:08x} of disk {} was compacted, {live} bytes of it were live",
            segment.0,
            shared.identity.disk
        );
        Ok(Some(segment))
    }

    /// Copies every live record of a segment, and turns the index to the copies.
    fn move_live(&self, segment: SegmentId) -> Result<Moved> {
        let mut records = match Records::open(&self.0.shared.segment_path(segment)) {
            Ok(records) => records,
            Err(error) => return Ok(Moved::Unreadable(error)),
        };
        let (mut moves, mut busy) = (Vec::new(), 0);
        loop {
            let next = records.next();
            if moves.len() >= MOVES_AT_ONCE || !matches!(next, Ok(Some(_))) {
                finish(&mut moves)?;
            }
            let (head, data) = match next {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(Moved::All { busy }),
                Err(error) => return Ok(Moved::Unreadable(error)),
            };
            match self.begin_move(segment, head, data)? {
                Move::Begun(moved) => moves.push(moved),
                Move::Busy => busy += 1,
                Move::No => {}
            }
        }
    }

    /// Sends a record to the segment writer, if it is what the index leads to and is whole.
    fn begin_move(&self, segment: SegmentId, head: RecordHead, data: Bytes) -> Result<Move> {
        let shared = &self.0.shared;
        let name = ChunkName {
            pool: head.pool,
            chunk: head.chunk,
        };
        let here = Entry::Small {
            len: head.len,
            crc: head.crc,
            segment,
            at: head.at,
        };
        if shared.index.get(name)?.as_ref() != Some(&here) || shared.aside.reason(name).is_some() {
            return Ok(Move::No);
        }
        // Until the move is over nobody deletes or replaces the chunk, and it is read here.
        let look = || shared.index.get(name);
        let Some(claim) = shared.claims.claim_again(name, look)? else {
            return Ok(Move::Busy);
        };
        if claim.durable().as_deref() != Some(&here) {
            return Ok(Move::No);
        }
        if Crc::of(&data) != head.crc {
            let reason = "its record in a segment does not verify";
            shared.aside.put(name, reason, &shared.health)?;
            return Ok(Move::No);
        }
        let (reply, moved) = oneshot::channel();
        let write = SmallWrite {
            claim,
            data,
            crc: head.crc,
            replaces: true,
            reply,
        };
        let sent = self.small_writes()?.blocking_send(write);
        sent.map_err(|_| super::segment::stopped())?;
        Ok(Move::Begun(moved))
    }
}

/// Waits until all of `moves` are durable and what the index leads to.
fn finish(moves: &mut Vec<oneshot::Receiver<Result<()>>>) -> Result<()> {
    moves.drain(..).try_for_each(|moved| {
        moved
            .blocking_recv()
            .unwrap_or_else(|_| Err(super::segment::stopped()))
    })
}

/// The segment with the most dead space of those that are mostly dead, with its live bytes; first those that are wholly
/// dead. Not the `active` one, which is being written, and none that could not be emptied and is as it was then.
fn choose(
    segments: BTreeMap<SegmentId, SegmentState>,
    active: Option<SegmentId>,
    stuck: &BTreeMap<SegmentId, u64>,
) -> Option<(SegmentId, u64)> {
    let dead = |read_until: u64, live: u64| read_until.saturating_sub(BATCHES_AT + live);
    segments
        .into_iter()
        .filter(|(segment, _)| Some(*segment) != active)
        .filter(|(segment, state)| stuck.get(segment) != Some(&state.live))
        .filter(|(_, state)| {
            let dead = dead(state.read_until, state.live);
            state.live == 0 || (dead >= state.live && dead >= DEAD_LEN_MIN)
        })
        .max_by_key(|(_, state)| (state.live == 0, dead(state.read_until, state.live)))
        .map(|(segment, state)| (segment, state.live))
}

/// The records of a segment one after the other, read in parts.
struct Records {
    path: PathBuf,
    file: File,
    nonce: u64,
    at: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Records {
    /// Those of the segment at `path`.
    ///
    /// # Errors
    /// IO errors; those of the header.
    fn open(path: &Path) -> Result<Records> {
        let failed = |error| io_error("read", path, error);
        let file = File::open(path).map_err(failed)?;
        let mut front = vec![0; BATCHES_AT as usize];
        file.read_exact_at(&mut front, 0).map_err(failed)?;
        let header = SegmentHeader::decode(&front)?;
        let end = file.metadata().map_err(failed)?.len();
        Ok(Records {
            path: path.to_path_buf(),
            file,
            nonce: header.nonce,
            at: BATCHES_AT,
            end,
            window: Vec::new(),
            window_at: BATCHES_AT,
        })
    }

    /// The next head that is whole, with its data, whether that verifies or not.
    fn next(&mut self) -> Result<Option<(RecordHead, Bytes)>> {
        while self.at + RecordHead::LEN as u64 <= self.end {
            let filled = self.fill();
            filled.map_err(|error| io_error("read", &self.path, error))?;
            let rest = &self.window[(self.at - self.window_at) as usize..];
            let Some(head) = RecordHead::decode(rest, self.nonce, self.at) else {
                self.at += RecordHead::ALIGN as u64;
                continue;
            };
            self.at += head.record_len() as u64;
            let data = rest.get(RecordHead::LEN..RecordHead::LEN + head.len as usize);
            return Ok(data.map(|data| (head, Bytes::copy_from_slice(data))));
        }
        Ok(None)
    }

    /// Sees to it that a whole record that begins here is in the window, as far as the file goes.
    fn fill(&mut self) -> std::io::Result<()> {
        let wanted_until = self
            .end
            .min(self.at + (RecordHead::LEN + SMALL_CHUNK_LEN_MAX) as u64);
        if self.window_at + self.window.len() as u64 >= wanted_until {
            return Ok(());
        }
        let len = (self.end - self.at).min(WINDOW_LEN as u64);
        self.window.resize(len as usize, 0);
        self.window_at = self.at;
        self.file.read_exact_at(&mut self.window, self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It needs no room: a full disk has no other way to get some.
    #[test]
    fn a_segment_that_is_wholly_dead_goes_first() {
        let state = |read_until, live| SegmentState { read_until, live };
        let segments = BTreeMap::from([
            (SegmentId(1), state(64 << 20, 5 << 20)),
            (SegmentId(2), state(1 << 20, 0)),
            (SegmentId(3), state(2 << 20, 0)),
            (SegmentId(4), state(64 << 20, 60 << 20)),
        ]);
        let chosen = |active, stuck: &[(u32, u64)]| {
            let stuck = stuck
                .iter()
                .map(|(segment, live)| (SegmentId(*segment), *live));
            choose(segments.clone(), active, &stuck.collect())
        };
        assert_eq!(chosen(None, &[]), Some((SegmentId(3), 0)));
        assert_eq!(chosen(Some(SegmentId(3)), &[]), Some((SegmentId(2), 0)));
        let tried = [(2, 0), (3, 0)];
        assert_eq!(chosen(None, &tried), Some((SegmentId(1), 5 << 20)));
        let tried = [(1, 5 << 20), (2, 0), (3, 0)];
        assert_eq!(chosen(None, &tried), None, "most of the last one is live");
    }
}
