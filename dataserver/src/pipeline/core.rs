//! The bookkeeping of one hop of a pipeline, without IO (DESIGN §4.2).
//!
//! Three points of a chunk are kept apart: what was *received*, what is *durable* here, and what was
//! *acknowledged* to the hop before. `durable <= received`, and `acknowledged` goes beyond neither what is
//! durable here nor what the next member has acknowledged. [`super::hop`] reads streams, calls the
//! `handle_*` functions in the order in which things happen, and carries out what they return.

use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, DiskId, Epoch, PoolId};
use quarry_common::limits::FLUSHES_MAX;
use quarry_common::token::receipt::Durable;
use quarry_common::token::{Key, MemberMac};
use quarry_common::wire::data::WriteReply;
use quarry_common::wire::data::frame::{Head, parts};
use quarry_common::{Code, Error, Result};
use std::collections::VecDeque;
use std::time::Duration;

/// What this hop is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The epoch of its group's row, under which it is written.
    pub epoch: Epoch,
    /// Our disk.
    pub disk: DiskId,
    /// The members after it, in the order of the pipeline.
    pub after: Vec<DiskId>,
    /// The chunk is at most this long.
    pub capacity: u32,
}

/// A point at which everything so far is to become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Bytes from the start of the chunk.
    pub len: u32,
    /// Their CRC.
    pub crc: Crc,
    /// Whether the chunk ends here.
    pub seal: bool,
}

/// What the shell is to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Hand the frame that was just received and checked to the disk.
    Append,
    /// Send the point to the next member.
    Forward(Point),
    /// Make everything up to the point durable, then call [`Core::handle_durable`].
    Sync(Point),
    /// Tell the hop before that the point is durable here and on all members after us.
    Acknowledge {
        /// Which point.
        point: Point,
        /// Our word and those of all members after us.
        macs: Vec<MemberMac>,
    },
    /// Tell the hop before that the chunk goes no further, and close everything.
    Fail {
        /// The member that failed, if it is known.
        disk: Option<DiskId>,
        /// Why.
        error: Error,
    },
    /// The seal is acknowledged: nothing more happens on this stream.
    Finish,
}

/// The right to acknowledge at this moment: the key to sign with, if the dataserver has a lease and the
/// chunk's epoch is still the newest that it knows of its group; else why not.
pub type Standing = Result<Key>;

/// A point on its way.
#[derive(Debug)]
struct Pending {
    point: Point,
    durable: bool,
    /// The words of the members after us, once they have acknowledged it; empty from the start at the tail.
    words: Option<Vec<MemberMac>>,
}

/// The bookkeeping of one hop.
#[derive(Debug)]
pub struct Core {
    place: Place,
    received: u32,
    crc: Crc,
    durable: u32,
    acknowledged: u32,
    /// Points that are not acknowledged, oldest first.
    pending: VecDeque<Pending>,
    /// The data frame whose head was taken and whose data is on its way.
    expected: Option<u32>,
    flushes: u32,
    /// A seal was received.
    sealing: bool,
    /// It failed or finished: whatever happens now means nothing.
    over: bool,
}

impl Core {
    /// A hop that has received nothing.
    pub fn new(place: Place) -> Core {
        Core {
            place,
            received: 0,
            crc: Crc::default(),
            durable: 0,
            acknowledged: 0,
            pending: VecDeque::new(),
            expected: None,
            flushes: 0,
            sealing: false,
            over: false,
        }
    }

    /// What it is part of.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Bytes that arrived and were checked.
    pub fn received(&self) -> u32 {
        self.received
    }

    /// Bytes that are on this disk's stable storage.
    pub fn durable(&self) -> u32 {
        self.durable
    }

    /// Bytes of which the hop before was told that they are durable here and on all members after us.
    pub fn acknowledged(&self) -> u32 {
        self.acknowledged
    }

    /// Whether it failed or finished.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether a point is on its way.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether frames may still come: after a seal there are none.
    pub fn takes_frames(&self) -> bool {
        !self.over && !self.sealing
    }

    /// The head of a frame arrived. Data follows a head of data that was not refused.
    pub fn handle_head(&mut self, head: Head) -> Vec<Action> {
        if self.over {
            return Vec::new();
        }
        if self.sealing {
            return self.refuse(Error::malformed("a frame came after the seal"));
        }
        match head {
            Head::Data { offset, len } => self.handle_data_head(offset, len),
            Head::Flush { len, crc } => self.handle_point(Point {
                len,
                crc,
                seal: false,
            }),
            Head::Seal { len, crc } => self.handle_point(Point {
                len,
                crc,
                seal: true,
            }),
        }
    }

    fn handle_data_head(&mut self, offset: u32, len: u32) -> Vec<Action> {
        if offset != self.received {
            let text = format!(
                "a frame starts at {offset} of the chunk where {} was due",
                self.received
            );
            return self.refuse(Error::malformed(text));
        }
        if len > self.place.capacity.saturating_sub(offset) {
            let text = format!(
                "{len} bytes at {offset} are more than the {} announced for the chunk",
                self.place.capacity
            );
            return self.refuse(Error::malformed(text));
        }
        self.expected = Some(len);
        Vec::new()
    }

    /// The data of the frame whose head came last has arrived and matches `crcs`.
    pub fn handle_data(&mut self, crcs: &[Crc]) -> Vec<Action> {
        if self.over {
            return Vec::new();
        }
        let Some(len) = self.expected.take() else {
            return self.refuse(Error::bug("data was received without a head"));
        };
        for (part_len, crc) in parts(self.received, len).zip(crcs) {
            self.crc = self.crc.then(*crc, part_len as u64);
        }
        self.received += len;
        vec![Action::Append]
    }

    fn handle_point(&mut self, point: Point) -> Vec<Action> {
        if (point.len, point.crc) != (self.received, self.crc) {
            let text = format!(
                "{} bytes with CRC {:?} were to be made durable, {} with {:?} were received",
                point.len, point.crc, self.received, self.crc
            );
            return self.refuse(Error::new(Code::DamagedOnTheWay, text));
        }
        if point.seal {
            self.sealing = true;
        } else if self.flushes == FLUSHES_MAX {
            let text = format!(
                "chunk {} was flushed {FLUSHES_MAX} times: seal it and go on in another",
                self.place.chunk
            );
            return self.refuse(Error::new(Code::FlushesUsedUp, text));
        } else {
            self.flushes += 1;
        }
        let tail = self.place.after.is_empty();
        self.pending.push_back(Pending {
            point,
            durable: false,
            words: tail.then(Vec::new),
        });
        match tail {
            true => vec![Action::Sync(point)],
            false => vec![Action::Forward(point), Action::Sync(point)],
        }
    }

    /// The oldest point that was not durable here is so now.
    pub fn handle_durable(&mut self, standing: &Standing) -> Vec<Action> {
        if self.over {
            return Vec::new();
        }
        let Some(first) = self.pending.iter_mut().find(|pending| !pending.durable) else {
            return self.refuse(Error::bug("a sync ended that nobody asked for"));
        };
        first.durable = true;
        self.durable = first.point.len;
        self.acknowledge(standing)
    }

    /// The next member answered.
    pub fn handle_reply(&mut self, reply: WriteReply, standing: &Standing) -> Vec<Action> {
        if self.over {
            return Vec::new();
        }
        let next = self.place.after.first().copied();
        let (len, crc, sealed, macs) = match reply {
            WriteReply::Ack {
                len,
                crc,
                sealed,
                macs,
            } => (len, crc, sealed, macs),
            WriteReply::Failed { disk, error } => return self.fail(disk.or(next), error),
        };
        let point = Point {
            len,
            crc,
            seal: sealed,
        };
        let speakers = macs.iter().map(|word| word.disk);
        let complete = speakers.eq(self.place.after.iter().copied());
        let due = self
            .pending
            .iter_mut()
            .find(|pending| pending.words.is_none());
        match due {
            Some(due) if due.point == point && complete => {
                due.words = Some(macs);
                self.acknowledge(standing)
            }
            _ => {
                let text = format!(
                    "the next member acknowledged {len} bytes with {} words, which were not asked for",
                    macs.len()
                );
                self.fail(next, Error::malformed(text))
            }
        }
    }

    /// Something of our own failed: the disk, a checksum, a frame.
    pub fn handle_failure(&mut self, error: Error) -> Vec<Action> {
        self.refuse(error)
    }

    /// The stream to the next member broke or ended. That it ends after the acknowledgement of the seal is as
    /// it should be, even if our own disk is not done yet.
    pub fn handle_next_lost(&mut self, error: Error) -> Vec<Action> {
        let answered = |pending: &Pending| pending.words.is_some();
        if self.sealing && self.pending.iter().all(answered) {
            return Vec::new();
        }
        let next = self.place.after.first().copied();
        self.fail(next, error)
    }

    /// Nothing happened for `so_long`.
    pub fn handle_silence(&mut self, so_long: Duration) -> Vec<Action> {
        let silent = |what: &str| {
            let text = format!("{what} for {} s", so_long.as_secs());
            Error::new(Code::Disconnected, text)
        };
        match self.pending.front() {
            None => self.refuse(silent("the writer sent nothing")),
            Some(pending) if !pending.durable => self.refuse(silent("the disk did not sync")),
            Some(_) => self.handle_next_lost(silent("the next member did not answer")),
        }
    }

    /// Acknowledges every point, in order, that is durable here and on all members after us, as long as we
    /// have the right to: the epoch that was checked on arrival is checked again now, because a member that
    /// was replaced meanwhile must not vouch for what its substitute does not have.
    fn acknowledge(&mut self, standing: &Standing) -> Vec<Action> {
        let mut actions = Vec::new();
        let ready = |pending: &Pending| pending.durable && pending.words.is_some();
        while self.pending.front().is_some_and(ready) {
            let Some(Pending { point, words, .. }) = self.pending.pop_front() else {
                break;
            };
            let key = match standing {
                Ok(key) => key,
                Err(error) => {
                    actions.extend(self.refuse(error.clone()));
                    return actions;
                }
            };
            let durable = Durable {
                pool: self.place.pool,
                chunk: self.place.chunk,
                epoch: self.place.epoch,
                len: point.len,
                crc: point.crc,
            };
            let mut macs = vec![durable.sign(key, self.place.disk)];
            macs.extend(words.into_iter().flatten());
            self.acknowledged = point.len;
            actions.push(Action::Acknowledge { point, macs });
            if point.seal {
                self.over = true;
                actions.push(Action::Finish);
            }
        }
        actions
    }

    fn refuse(&mut self, error: Error) -> Vec<Action> {
        self.fail(Some(self.place.disk), error)
    }

    fn fail(&mut self, disk: Option<DiskId>, error: Error) -> Vec<Action> {
        if self.over {
            return Vec::new();
        }
        self.over = true;
        vec![Action::Fail { disk, error }]
    }
}

#[cfg(test)]
mod tests;
