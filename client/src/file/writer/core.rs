//! The bookkeeping of writing one range of a file, at most 64 MiB, into chunks (DESIGN §4.2).
//! Pure: takes bytes and replies, says what to send.
//!
//! Normally a range becomes one chunk. When a hop fails, the chunk is given up at its last
//! acknowledged length, which becomes a part of the range; the bytes after it are still held and
//! go into a new chunk. Three points of the range, in this order, always:
//! `acknowledged <= sent <= received`. Bytes are held until they are acknowledged, so
//! flushes are asked for often enough to bound them, and sooner after a chunk of which nothing got through: where chunk
//! after chunk is lost the bytes go in small steps.

use crate::transport::{DataFrame, WriteFrame};
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::error::{Error, Result};
use quarry_common::limits::{
    BLOCK_LEN, CHUNK_LEN_MAX, FLUSHES_MAX, FRAME_LEN_MAX, SMALL_CHUNK_LEN_MAX,
};
use quarry_common::token::MemberMac;
use quarry_common::wire::data::frame::compute_crcs;
use std::collections::VecDeque;

/// A flush is asked for after so many bytes, so that no more than about twice as many are held.
pub const FLUSH_EVERY: u32 = 16 << 20;

/// The caller waits while so many bytes are not acknowledged.
pub const HELD_MAX: u64 = 2 * FLUSH_EVERY as u64;

/// The first flush of a chunk comes after no less than this.
const FLUSH_FIRST_MIN: u32 = 2 * BLOCK_LEN as u32;

/// Each step is twice as long as the one before.
const STEPS_MAX: u32 = (FLUSH_EVERY / FLUSH_FIRST_MIN).ilog2() + CHUNK_LEN_MAX / FLUSH_EVERY;

const _: () = assert!(STEPS_MAX <= FLUSHES_MAX);

/// The state of one range. Offsets are from the start of the range.
#[derive(Debug)]
pub struct Core {
    /// Bytes from `acknowledged` on.
    held: VecDeque<Bytes>,
    acknowledged: u64,
    received: u64,
    ended: bool,
    /// Bytes before the first flush of the next chunk.
    flush_first: u32,
    attempt: Option<Attempt>,
}

impl Default for Core {
    fn default() -> Core {
        Core {
            held: VecDeque::new(),
            acknowledged: 0,
            received: 0,
            ended: false,
            flush_first: FLUSH_EVERY,
            attempt: None,
        }
    }
}

/// One chunk that is being written.
#[derive(Debug)]
struct Attempt {
    /// Where the chunk starts in the range.
    start: u64,
    sent: u32,
    /// The CRC of what was sent.
    crc: Crc,
    /// The piece of `held` that goes next, and the bytes of it that were sent.
    cursor: (usize, usize),
    flushed: u32,
    /// Bytes between the last flush and the next.
    step: u32,
    /// Lengths and CRCs whose acknowledgement is awaited.
    awaited: VecDeque<(u32, Crc)>,
    acknowledged: Option<Durable>,
    sealing: bool,
}

/// What every member confirmed of a chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct Durable {
    /// Bytes from the start of the chunk.
    pub len: u32,
    /// Their CRC.
    pub crc: Crc,
    /// The members' words.
    pub macs: Vec<MemberMac>,
}

/// A piece of the range that is durable in a chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Where it starts in the range.
    pub offset: u64,
    /// What is durable.
    pub durable: Durable,
}

/// What to do when no chunk is being written.
#[derive(Debug, PartialEq)]
pub enum Plan {
    /// Nothing: more bytes have to come, or the end.
    Wait,
    /// Write these last bytes in one message.
    Small(Bytes),
    /// Open a stream for a chunk of at most so many bytes.
    Stream {
        /// An upper bound of the chunk's length.
        capacity: u32,
    },
    /// Everything is durable.
    Done,
}

impl Core {
    /// Bytes that are held because they are not acknowledged.
    pub fn held_len(&self) -> u64 {
        self.received - self.acknowledged
    }

    /// Bytes acknowledged so far; grows whenever there is progress.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Takes bytes over.
    pub fn handle_bytes(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.received += bytes.len() as u64;
            self.held.push_back(bytes);
        }
    }

    /// No more bytes come.
    pub fn handle_end(&mut self) {
        self.ended = true;
    }

    /// What to do now. To be asked while no chunk is being written.
    pub fn plan(&self) -> Plan {
        let left = self.held_len();
        match (self.ended, left) {
            (true, 0) => Plan::Done,
            (true, left) if left <= SMALL_CHUNK_LEN_MAX as u64 => Plan::Small(self.rest()),
            (false, left) if left <= SMALL_CHUNK_LEN_MAX as u64 => Plan::Wait,
            (true, left) => Plan::Stream {
                capacity: left.min(u64::from(CHUNK_LEN_MAX)) as u32,
            },
            (false, _) => Plan::Stream {
                capacity: (u64::from(CHUNK_LEN_MAX) - self.acknowledged) as u32,
            },
        }
    }

    /// All bytes held, as one.
    fn rest(&self) -> Bytes {
        if let [one] = self.held.as_slices().0
            && self.held.len() == 1
        {
            return one.clone();
        }
        let mut rest = Vec::with_capacity(self.held_len() as usize);
        self.held
            .iter()
            .for_each(|piece| rest.extend_from_slice(piece));
        rest.into()
    }

    /// The bytes of a [`Plan::Small`] are durable.
    pub fn handle_small_written(&mut self, len: u32, crc: Crc, macs: Vec<MemberMac>) -> Part {
        let part = Part {
            offset: self.acknowledged,
            durable: Durable { len, crc, macs },
        };
        self.forget(u64::from(len));
        part
    }

    /// A stream for a new chunk is open.
    pub fn handle_opened(&mut self) {
        self.attempt = Some(Attempt {
            start: self.acknowledged,
            sent: 0,
            crc: Crc::default(),
            cursor: (0, 0),
            flushed: 0,
            step: self.flush_first,
            awaited: VecDeque::new(),
            acknowledged: None,
            sealing: false,
        });
    }

    /// The next frame to send; `None` until there are more bytes or replies.
    pub fn next_frame(&mut self) -> Option<WriteFrame> {
        let attempt = self.attempt.as_mut()?;
        if attempt.sealing {
            return None;
        }
        let here = attempt.start + u64::from(attempt.sent);
        let available = self.received - here;
        let len = attempt.sent;
        if available == 0 && self.ended {
            attempt.sealing = true;
            attempt.awaited.push_back((len, attempt.crc));
            let crc = attempt.crc;
            return Some(WriteFrame::Seal { len, crc });
        }
        if len - attempt.flushed >= attempt.step {
            attempt.flushed = len;
            attempt.step = FLUSH_EVERY.min(2 * attempt.step);
            attempt.awaited.push_back((len, attempt.crc));
            let crc = attempt.crc;
            return Some(WriteFrame::Flush { len, crc });
        }
        let wanted = attempt.wanted();
        if available == 0 || (available < wanted && !self.ended) {
            return None;
        }
        let pieces = attempt.take(&self.held, available.min(wanted) as usize);
        let crcs = compute_crcs(len, &pieces);
        let frame = DataFrame {
            offset: len,
            pieces,
            crcs,
        };
        attempt.handle_sent(&frame);
        Some(WriteFrame::Data(frame))
    }

    /// An acknowledgement. Returns the part that is complete if it answers the seal.
    ///
    /// # Errors
    /// `Malformed` for an acknowledgement of something that was not asked for.
    pub fn handle_ack(&mut self, durable: Durable, sealed: bool) -> Result<Option<Part>> {
        let unasked = || Error::malformed("an acknowledgement of what was not sent");
        let attempt = self.attempt.as_mut().ok_or_else(unasked)?;
        let awaited = attempt.awaited.pop_front();
        let last = attempt.awaited.is_empty() && attempt.sealing;
        if awaited != Some((durable.len, durable.crc)) || sealed != last {
            return Err(unasked());
        }
        let before = attempt.acknowledged.as_ref().map_or(0, |known| known.len);
        let (start, more) = (attempt.start, durable.len - before);
        attempt.acknowledged = Some(durable.clone());
        self.forget(u64::from(more));
        if !sealed {
            return Ok(None);
        }
        self.attempt = None;
        Ok(Some(Part {
            offset: start,
            durable,
        }))
    }

    /// The chunk goes no further, because its pipeline broke or fell silent (`broke`) or for another reason. Returns what
    /// of it was acknowledged, if anything was.
    pub fn give_up(&mut self, broke: bool) -> Option<Part> {
        let attempt = self.attempt.take()?;
        if broke && attempt.acknowledged.is_none() && attempt.sent > 0 {
            let tried = self.flush_first.min(attempt.sent) / 4;
            self.flush_first = FLUSH_FIRST_MIN.max(tried - tried % BLOCK_LEN as u32);
        }
        Some(Part {
            offset: attempt.start,
            durable: attempt.acknowledged?,
        })
    }

    /// Whether an acknowledgement is awaited.
    pub fn awaits_reply(&self) -> bool {
        self.attempt
            .as_ref()
            .is_some_and(|attempt| !attempt.awaited.is_empty())
    }

    /// How many bytes were sent, if a chunk is open of which nothing is asked now: all full frames were sent, all
    /// flushes answered, and more bytes are to come.
    pub fn idle_after(&self) -> Option<u64> {
        let attempt = self.attempt.as_ref()?;
        let sent = attempt.start + u64::from(attempt.sent);
        let fills_no_frame = self.received - sent < attempt.wanted();
        let idle = !self.ended && fills_no_frame && attempt.awaited.is_empty();
        idle.then_some(sent)
    }

    /// Drops `len` bytes from the front of what is held.
    fn forget(&mut self, len: u64) {
        self.acknowledged += len;
        let mut left = len as usize;
        while let Some(front) = self.held.front_mut() {
            if left < front.len() {
                let _acknowledged = front.split_to(left);
                if let Some(attempt) = &mut self.attempt
                    && attempt.cursor.0 == 0
                {
                    attempt.cursor.1 -= left;
                }
                break;
            }
            left -= front.len();
            self.held.pop_front();
            if let Some(attempt) = &mut self.attempt {
                // The cursor is not before what was sent, and only that can be acknowledged.
                attempt.cursor.0 -= 1;
            }
        }
        debug_assert!(self.acknowledged <= self.received);
    }
}

impl Attempt {
    /// The length of the next frame, if there are as many bytes. Frames end at multiples of their greatest length and
    /// where a flush is due, so that each but the last is full.
    fn wanted(&self) -> u64 {
        let frame = FRAME_LEN_MAX - self.sent as usize % FRAME_LEN_MAX;
        let step = self.step.saturating_sub(self.sent - self.flushed);
        (frame as u64).min(u64::from(step))
    }

    /// The next `len` bytes, of which there are as many.
    fn take(&mut self, held: &VecDeque<Bytes>, len: usize) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        let mut left = len;
        while left > 0 {
            let piece = &held[self.cursor.0];
            let end = piece.len().min(self.cursor.1 + left);
            pieces.push(piece.slice(self.cursor.1..end));
            left -= end - self.cursor.1;
            self.cursor.1 = end;
            if end == piece.len() {
                self.cursor = (self.cursor.0 + 1, 0);
            }
        }
        pieces
    }

    fn handle_sent(&mut self, frame: &DataFrame) {
        let mut left = frame.len() as usize;
        let mut place = frame.offset as usize;
        for crc in &frame.crcs {
            let len = left.min(BLOCK_LEN - place % BLOCK_LEN);
            self.crc = self.crc.then(*crc, len as u64);
            left -= len;
            place += len;
        }
        self.sent += frame.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn bytes(len: usize, seed: usize) -> Bytes {
        (0..len).map(|at| (((at + seed) * 31) >> 3) as u8).collect()
    }

    fn drain(core: &mut Core) -> Vec<WriteFrame> {
        std::iter::from_fn(|| core.next_frame()).collect()
    }

    fn durable(len: usize, crc: Crc) -> Durable {
        Durable {
            len: len as u32,
            crc,
            macs: Vec::new(),
        }
    }

    #[test]
    fn a_short_range_goes_in_one_message_and_only_when_its_end_is_known() {
        let mut core = Core::default();
        core.handle_bytes(bytes(1000, 0));
        assert_eq!(core.plan(), Plan::Wait);
        core.handle_bytes(bytes(500, 1000));
        core.handle_end();
        assert_eq!(core.plan(), Plan::Small(bytes(1500, 0)));
        let part = core.handle_small_written(1500, Crc(1), Vec::new());
        assert_eq!((part.offset, part.durable.len), (0, 1500));
        assert_eq!(core.plan(), Plan::Done);
    }

    #[test]
    fn frames_are_full_but_the_last_and_the_seal_covers_everything() {
        let mut core = Core::default();
        let all = bytes(2 * MIB + 100, 0);
        for piece in [0..10, 10..MIB + 5, MIB + 5..2 * MIB + 100] {
            core.handle_bytes(all.slice(piece));
        }
        assert_eq!(core.plan(), Plan::Stream { capacity: 64 << 20 });
        core.handle_opened();
        let frames = drain(&mut core);
        assert_eq!(frames.len(), 2, "the last bytes wait for more");
        core.handle_end();
        let frames = [frames, drain(&mut core)].concat();
        let mut sent = Vec::new();
        for frame in &frames[..3] {
            let WriteFrame::Data(frame) = frame else {
                panic!("{frame:?}")
            };
            assert_eq!(frame.offset as usize, sent.len());
            frame
                .pieces
                .iter()
                .for_each(|piece| sent.extend_from_slice(piece));
        }
        assert_eq!(sent, all);
        let crc = Crc::of(&all);
        let len = all.len() as u32;
        assert_eq!(frames[3..], [WriteFrame::Seal { len, crc }]);
        let part = core
            .handle_ack(durable(all.len(), crc), true)
            .unwrap()
            .unwrap();
        assert_eq!((part.offset, part.durable.len), (0, len));
        assert_eq!((core.held_len(), core.plan()), (0, Plan::Done));
    }

    #[test]
    fn after_a_failure_the_acknowledged_prefix_is_kept_and_the_rest_goes_to_a_new_chunk() {
        let mut core = Core::default();
        let all = bytes(20 * MIB, 3);
        // Pieces that end within frames.
        for at in (0..all.len()).step_by(300_000) {
            core.handle_bytes(all.slice(at..all.len().min(at + 300_000)));
        }
        core.handle_opened();
        let frames = drain(&mut core);
        let crc = Crc::of(&all[..16 * MIB]);
        assert!(frames.contains(&WriteFrame::Flush { len: 16 << 20, crc }));
        assert_eq!(core.handle_ack(durable(16 * MIB, crc), false), Ok(None));
        let part = core.give_up(true).unwrap();
        assert_eq!((part.offset, part.durable.len), (0, 16 << 20));
        core.handle_end();
        assert_eq!(core.plan(), Plan::Stream { capacity: 4 << 20 });
        core.handle_opened();
        let frames = drain(&mut core);
        let crc = Crc::of(&all[16 * MIB..]);
        assert_eq!(frames.last(), Some(&WriteFrame::Seal { len: 4 << 20, crc }));
        let part = core
            .handle_ack(durable(4 * MIB, crc), true)
            .unwrap()
            .unwrap();
        assert_eq!(part.offset, 16 << 20);
        assert_eq!(core.plan(), Plan::Done);
    }

    #[test]
    fn a_failure_before_any_acknowledgement_loses_no_byte() {
        let mut core = Core::default();
        core.handle_bytes(bytes(3 * MIB, 0));
        core.handle_opened();
        drain(&mut core);
        assert_eq!(core.give_up(true), None);
        assert_eq!(core.held_len(), 3 << 20);
    }

    /// Where the flushes of a chunk are, if so many bytes are there and nothing is acknowledged.
    fn flushes(core: &mut Core) -> Vec<u32> {
        core.handle_opened();
        let frames = drain(core);
        let flushes = frames.iter().filter_map(|frame| match frame {
            WriteFrame::Flush { len, .. } => Some(*len),
            WriteFrame::Data(frame) => {
                assert!(frame.len() as usize <= FRAME_LEN_MAX);
                None
            }
            WriteFrame::Seal { .. } => None,
        });
        flushes.collect()
    }

    #[test]
    fn the_less_gets_through_the_shorter_are_the_steps() {
        const KIB: u32 = 1 << 10;
        let mut core = Core::default();
        core.handle_bytes(bytes(3 * MIB, 0));
        core.handle_end();
        assert!(flushes(&mut core).is_empty());
        core.give_up(false);
        assert!(flushes(&mut core).is_empty());
        core.give_up(true);
        assert_eq!(flushes(&mut core), [768 * KIB, 2_304 * KIB]);
        core.give_up(true);
        assert_eq!(
            flushes(&mut core),
            [192, 576, 1_344, 2_880].map(|k| k * KIB)
        );
        core.give_up(true);
        let shortest = [128, 384, 896, 1_920].map(|k| k * KIB);
        assert_eq!(flushes(&mut core), shortest);
        core.give_up(true);
        assert_eq!(flushes(&mut core), shortest);
        // What was acknowledged stays.
        let crc = Crc::of(&bytes(128 << 10, 0));
        core.handle_ack(durable(128 << 10, crc), false).unwrap();
        let part = core.give_up(true).unwrap();
        assert_eq!((part.offset, part.durable.len), (0, 128 << 10));
        assert_eq!(core.held_len(), (3 << 20) - (128 << 10));
        assert_eq!(flushes(&mut core), shortest);
    }

    #[test]
    fn a_chunk_of_the_shortest_steps_is_flushed_no_more_often_than_it_may_be() {
        let mut core = Core {
            flush_first: FLUSH_FIRST_MIN,
            ..Core::default()
        };
        core.handle_bytes(bytes(CHUNK_LEN_MAX as usize, 0));
        core.handle_end();
        let count = flushes(&mut core).len() as u32;
        assert!(count > 8 && count <= STEPS_MAX, "{count}");
    }

    #[test]
    fn an_acknowledgement_of_other_bytes_is_refused() {
        let mut core = Core::default();
        core.handle_bytes(bytes(2 * MIB, 0));
        core.handle_end();
        core.handle_opened();
        drain(&mut core);
        assert!(core.handle_ack(durable(2 * MIB, Crc(1)), true).is_err());
        let mut core = Core::default();
        core.handle_bytes(bytes(2 * MIB, 0));
        core.handle_end();
        core.handle_opened();
        drain(&mut core);
        let crc = Crc::of(&bytes(2 * MIB, 0));
        assert!(core.handle_ack(durable(2 * MIB, crc), false).is_err());
    }

    #[test]
    fn what_is_held_is_bounded_by_flushes() {
        let mut core = Core::default();
        core.handle_opened();
        for _ in 0..64 {
            core.handle_bytes(bytes(MIB, 0));
            for frame in drain(&mut core) {
                if let WriteFrame::Flush { len, crc } = frame {
                    core.handle_ack(durable(len as usize, crc), false).unwrap();
                }
            }
            assert!(core.held_len() <= HELD_MAX);
        }
    }
}
