//! Writing one range of a file to the dataservers: the shell around [`core`].
//!
//! A range has a task of its own, so that the next range's stream is opened while the last one's
//! seal is not acknowledged yet. Failures are ridden out here: a member that fails, an old map, a
//! full disk each lead to a new chunk on other members.

pub mod core;

use self::core::{Core, Durable, HELD_MAX, Part, Plan};
use crate::backoff::Backoff;
use crate::data::{DataLink, Target};
use crate::health::Doing;
use crate::session::ranges::OpenChunk;
use crate::transport::patience::in_time;
use crate::transport::{Peer, WriteStream};
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::error::{Code, Error, Kind, Result};
use quarry_common::ids::DiskId;
use quarry_common::limits::{FRAME_LEN_MAX, FREED_AFTER, STREAM_SILENCE_MAX};
use quarry_common::token::{Receipt, receipt};
use quarry_common::wire::data::{DataReply, DataRequest, WriteChunk, WriteReply};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A stream that neither takes nor acknowledges anything for so long is given up, over a slow link later ([`in_time`]).
/// Longer than a dataserver needs for a flush of everything in flight on a slow disk.
const STALL: Duration = Duration::from_secs(10);

/// How often it is looked whether there is something to acknowledge by now.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// One small write may take so long.
const SMALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that refuses a chunk says why and stops reading; the reason may be lost on the way and sent
/// again while the news that it stopped is here. It ends both directions, so nobody waits in vain.
const REFUSAL_WAIT: Duration = Duration::from_secs(3);

/// Nonsense from servers is not waited out: so many in a row fail the transfer.
const NONSENSE_MAX: u32 = 8;

/// When so many chunks in a row met a full disk, the cluster is called full.
const FULL_MAX: u32 = 24;

/// A piece of a range in a chunk, with the proof that it is durable.
#[derive(Debug)]
pub struct WrittenPart {
    /// Where it starts in the range.
    pub offset: u64,
    /// What the members confirmed.
    pub receipt: Receipt,
    /// The chunk, which stays open with the metaserver until this is dropped.
    chunk: OpenChunk,
}

impl WrittenPart {
    /// Whether the session of its chunk was lost: then it can not be committed any more.
    pub fn is_lost(&self) -> bool {
        self.chunk.is_lost()
    }
}

/// One range of a file on its way. Dropping it stops the transfer.
pub struct RangeWriter {
    shared: Arc<Shared>,
    task: JoinHandle<Result<Vec<WrittenPart>>>,
}

struct Shared {
    core: Mutex<Core>,
    /// Bytes came, or the end.
    fed: Notify,
    /// Bytes were acknowledged.
    room: Notify,
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect("nobody panics with this lock")
    }
}

impl Drop for RangeWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RangeWriter {
    /// Starts a range.
    pub fn start(link: Arc<DataLink>) -> RangeWriter {
        let shared = Arc::new(Shared {
            core: Mutex::default(),
            fed: Notify::new(),
            room: Notify::new(),
        });
        let runner = Runner {
            link,
            shared: shared.clone(),
            parts: Vec::new(),
        };
        RangeWriter {
            task: tokio::spawn(runner.run()),
            shared,
        }
    }

    /// Takes bytes over, when there is room for them. Cancel-safe: the bytes are taken or not.
    /// A range that has failed takes nothing; [`RangeWriter::finish`] tells why.
    pub async fn push(&self, bytes: &Bytes) {
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.task.is_finished() {
                return;
            }
            {
                let mut core = self.shared.core();
                if core.held_len() < HELD_MAX {
                    core.handle_bytes(bytes.clone());
                    drop(core);
                    self.shared.fed.notify_one();
                    return;
                }
            }
            // The task's end is not announced; it is looked at now and then.
            let _elapsed = tokio::time::timeout(Duration::from_millis(100), room).await;
        }
    }

    /// No more bytes come; what is there is sealed in the background.
    pub fn end(&self) {
        self.shared.core().handle_end();
        self.shared.fed.notify_one();
    }

    /// Waits until everything is durable.
    ///
    /// # Errors
    /// Why it can not be made so.
    pub async fn finish(mut self) -> Result<Vec<WrittenPart>> {
        self.end();
        match (&mut self.task).await {
            Ok(done) => done,
            Err(error) => Err(Error::bug("a writer's task failed").with_source(error)),
        }
    }
}

struct Runner {
    link: Arc<DataLink>,
    shared: Arc<Shared>,
    parts: Vec<WrittenPart>,
}

/// Why a chunk goes no further, and which disk is to blame, if one is.
struct Failure {
    disk: Option<DiskId>,
    /// Who said so, if it was another member: it may be the one that is cut off.
    teller: Option<DiskId>,
    error: Error,
    /// For how long the pipeline had done all that was asked of it, and waited for more: it worked until then.
    idle: Duration,
}

impl Failure {
    /// A disk did not do what it was asked for.
    fn of(disk: Option<DiskId>, error: Error) -> Failure {
        Failure {
            disk,
            teller: None,
            error,
            idle: Duration::ZERO,
        }
    }

    /// The same in a pipeline of these members: each is told of by the one before it.
    fn among(mut self, members: &[DiskId]) -> Failure {
        let at = members.iter().position(|member| Some(*member) == self.disk);
        let before = at.and_then(|at| at.checked_sub(1));
        self.teller = before.and_then(|at| members.get(at).copied());
        self
    }

    /// Whether a member gave the stream up because we sent nothing for so long.
    fn is_our_silence(&self) -> bool {
        let told = self.disk.is_some() && self.error.code == Code::Disconnected;
        told && self.idle >= STREAM_SILENCE_MAX - 2 * STALL
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::of(None, error)
    }
}

impl Runner {
    async fn run(mut self) -> Result<Vec<WrittenPart>> {
        let mut trouble = Trouble::new(self.link.clone());
        loop {
            let plan = self.shared.core().plan();
            let before = self.shared.core().acknowledged();
            let done = match plan {
                Plan::Done => return Ok(self.parts),
                Plan::Wait => {
                    // Bytes that came since the plan was made have left their permit here.
                    self.shared.fed.notified().await;
                    continue;
                }
                Plan::Small(bytes) => self.small(bytes, trouble.deadline()).await,
                Plan::Stream { capacity } => self.stream(capacity, trouble.deadline()).await,
            };
            let worked = done.as_ref().is_err_and(|failure| !failure.idle.is_zero());
            if worked || self.shared.core().acknowledged() > before {
                trouble = Trouble::new(self.link.clone());
            }
            if let Err(failure) = done {
                trouble.handle(failure).await?;
            }
            self.shared.room.notify_one();
        }
    }

    async fn small(&mut self, data: Bytes, deadline: Instant) -> Result<(), Failure> {
        let target = self.link.target(true, deadline).await?;
        let crc = Crc::of(&data);
        let len = data.len() as u32;
        let request = DataRequest::WriteSmall {
            target: target.wire(),
            data,
            crc,
        };
        let reply = self
            .link
            .transport
            .data(&target.head, &request, SMALL_TIMEOUT);
        match reply.await {
            Ok(DataReply::Written { macs }) => {
                self.link.handle_written(&target);
                let part = self.shared.core().handle_small_written(len, crc, macs);
                self.keep(part, target);
                Ok(())
            }
            Ok(_) => Err(Error::malformed("a dataserver answered something else").into()),
            Err(error) => {
                let named = disk_named(&error.text, &target.members);
                // Without a name the head is suspected, but not of being full.
                let head = (error.kind() != Kind::NoSpace).then_some(target.disk);
                Err(Failure::of(named.or(head), error).among(&target.members))
            }
        }
    }

    fn keep(&mut self, part: Part, target: Target) {
        let durable = receipt::Durable {
            pool: target.chunk.pool,
            chunk: target.chunk.chunk,
            epoch: target.pg_epoch,
            len: part.durable.len,
            crc: part.durable.crc,
        };
        self.parts.push(WrittenPart {
            offset: part.offset,
            receipt: durable.receipt(part.durable.macs),
            chunk: target.chunk,
        });
    }

    async fn stream(&mut self, capacity: u32, deadline: Instant) -> Result<(), Failure> {
        let target = self.link.target(false, deadline).await?;
        let header = WriteChunk {
            target: target.wire(),
            capacity,
        };
        let opening = self.link.transport.write(&target.head, header);
        let opened = tokio::time::timeout(STALL, opening).await;
        let stream = opened.unwrap_or_else(|_| Err(stalled("could not be opened")));
        let stream = stream.map_err(|error| Failure::of(Some(target.disk), error))?;
        self.shared.core().handle_opened();
        let sent = self.transfer(stream, &target.head).await;
        match sent {
            Ok(part) => {
                self.link.handle_written(&target);
                self.keep(part, target);
                Ok(())
            }
            Err(mut failure) => {
                failure.disk = match failure.is_our_silence() {
                    true => None,
                    false => failure.disk.or(Some(target.disk)),
                };
                let broke = matches!(failure.error.code, Code::Disconnected | Code::Unreachable);
                let prefix = self.shared.core().give_up(broke);
                let failure = failure.among(&target.members);
                if let Some(part) = prefix {
                    self.keep(part, target);
                }
                Err(failure)
            }
        }
    }

    /// Sends frames and takes acknowledgements until the seal's.
    async fn transfer(&self, stream: WriteStream, head: &Peer) -> Result<Part, Failure> {
        let WriteStream {
            mut sink,
            mut replies,
        } = stream;
        let moved = || self.link.transport.moved(head);
        let sending = async {
            loop {
                let frame = self.shared.core().next_frame();
                match frame {
                    Some(frame) => {
                        let sent = in_time(STALL, moved, sink.send(frame)).await;
                        sent.unwrap_or_else(|| Err(stalled("takes no more data")))?;
                    }
                    None => self.shared.fed.notified().await,
                }
            }
        };
        let receiving = async {
            // How many bytes the pipeline had when it was first seen with nothing to do, and when that was.
            let mut idle: Option<(u64, tokio::time::Instant)> = None;
            let failed = |disk, error, idle: Option<(u64, tokio::time::Instant)>| {
                let still = idle.filter(|(sent, _)| self.shared.core().idle_after() == Some(*sent));
                Failure {
                    disk,
                    teller: None,
                    error,
                    idle: still.map_or(Duration::ZERO, |(_, since)| since.elapsed()),
                }
            };
            loop {
                let awaited = self.shared.core().awaits_reply();
                let next = replies.next();
                let reply = match awaited {
                    true => in_time(STALL, moved, next).await,
                    false => tokio::time::timeout(IDLE_LOOK, next).await.ok(),
                };
                let reply = match reply {
                    Some(Ok(reply)) => reply,
                    Some(Err(error)) => return Err(failed(None, error, idle)),
                    // Without anything to answer silence is fine: the caller may be slow.
                    None if !awaited => {
                        let sent = self.shared.core().idle_after();
                        if idle.map(|(sent, _)| sent) != sent {
                            idle = sent.map(|sent| (sent, tokio::time::Instant::now()));
                        }
                        continue;
                    }
                    None => return Err(stalled("acknowledges nothing").into()),
                };
                match reply {
                    WriteReply::Ack {
                        len,
                        crc,
                        sealed,
                        macs,
                    } => {
                        let durable = Durable { len, crc, macs };
                        let part = self.shared.core().handle_ack(durable, sealed)?;
                        self.shared.room.notify_one();
                        if let Some(part) = part {
                            return Ok(part);
                        }
                    }
                    WriteReply::Failed { disk, error } => {
                        return Err(failed(disk, error, idle));
                    }
                }
            }
        };
        tokio::pin!(receiving);
        let broken: Result<(), Failure> = tokio::select! {
            biased;
            done = &mut receiving => return done,
            broken = sending => broken,
        };
        // The refusal is the better reason.
        let why = tokio::time::timeout(REFUSAL_WAIT, receiving).await;
        match (why, broken) {
            (Ok(outcome), _) => outcome,
            (Err(_), Err(failure)) => Err(failure),
            (Err(_), Ok(())) => Err(Error::bug("sending ended by itself").into()),
        }
    }
}

/// The disk that the answer to a small write blames: each member puts its name before what it
/// heard, so it is the last that is named.
fn disk_named(text: &str, members: &[DiskId]) -> Option<DiskId> {
    let named = text.rmatch_indices("disk ").find_map(|(at, word)| {
        let after = &text[at + word.len()..];
        let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    });
    let disk = DiskId(named?);
    members.contains(&disk).then_some(disk)
}

fn stalled(what: &str) -> Error {
    let text = format!(
        "the pipeline {what} ({} s without progress)",
        STALL.as_secs()
    );
    Error::new(Code::Disconnected, text)
}

/// Decides after each failure whether and when to go on.
struct Trouble {
    link: Arc<DataLink>,
    /// Since when it fails, and until when it is tried; from the first failure of a row on, since a range may take its time.
    since_and_deadline: Option<(Instant, Instant)>,
    backoff: Backoff,
    nonsense: u32,
    full_count: u32,
    count: u32,
}

impl Trouble {
    fn new(link: Arc<DataLink>) -> Trouble {
        Trouble {
            since_and_deadline: None,
            backoff: Backoff::new(Duration::from_millis(30), Duration::from_secs(2)),
            nonsense: 0,
            full_count: 0,
            count: 0,
            link,
        }
    }

    /// Until when the next chunk may be waited for.
    fn deadline(&self) -> Instant {
        let fresh = || Instant::now() + self.link.deadline;
        self.since_and_deadline
            .map_or_else(fresh, |(_, deadline)| deadline)
    }

    /// Returns when the next chunk may be tried.
    async fn handle(&mut self, failure: Failure) -> Result<()> {
        let Failure {
            disk,
            teller,
            error,
            ..
        } = failure;
        self.count += 1;
        tracing::debug!(?disk, %error, code = ?error.code, "a chunk was given up");
        let now = Instant::now();
        let (since, deadline) = *self
            .since_and_deadline
            .get_or_insert((now, now + self.link.deadline));
        self.link.telling.tell(since, deadline, || {
            format!("the dataservers do not take the bytes yet ({error})")
        });
        match error.kind() {
            Kind::NoSpace => {
                if let Some(disk) = disk {
                    self.link.health.handle_full(disk, now);
                }
                self.full_count += 1;
                let map = self.link.map.get();
                let full = map.rows.keys().all(|pool| self.link.all_full(*pool));
                if full || self.full_count >= FULL_MAX {
                    let text = format!(
                        "every placement group that was tried has a full disk ({}): add disks, or remove \
                         files, whose room is free within about {} minutes ({error})",
                        self.link.full_disks(),
                        FREED_AFTER.as_secs() / 60
                    );
                    return Err(Error::new(Code::ClusterFull, text));
                }
            }
            Kind::Fenced if error.code == Code::ChunkUsed => {}
            Kind::Fenced if error.code == Code::BadCapability => {
                // Keys have rotated, or the session is another one: these ids are of no use.
                let map = self.link.map.get();
                let pools = map.topology.pools.keys();
                pools.for_each(|pool| self.link.sessions.discard_ranges(*pool));
                self.nonsense += 1;
            }
            // A server whose certificate is refused is out of order; others may be in order.
            Kind::Posix(_) if error.code == Code::Configuration && disk.is_some() => {
                disk.inspect(|disk| self.link.handle_failure(*disk, Doing::Write, &error));
                self.nonsense += 1;
            }
            Kind::Malformed | Kind::Bug => {
                disk.inspect(|disk| self.link.handle_failure(*disk, Doing::Write, &error));
                self.nonsense += 1;
            }
            Kind::Posix(_) => return Err(error),
            Kind::Retry | Kind::Refresh | Kind::Fenced | Kind::Corrupt | Kind::Unavailable => {
                if error.code != Code::OldMap {
                    disk.inspect(|disk| self.link.handle_failure(*disk, Doing::Write, &error));
                    teller.inspect(|disk| {
                        self.link.health.handle_failure(*disk, Doing::Write, now);
                    });
                }
                self.link.refresh().await;
            }
        }
        if self.nonsense > NONSENSE_MAX || Instant::now() >= deadline {
            let text = format!("{} attempts, the last: {error}", self.count);
            return Err(Error::new(error.code, text));
        }
        // The first new chunk is tried at once: usually one member has failed.
        if self.count > 1 {
            self.backoff.wait(deadline).await;
        }
        Ok(())
    }
}

const _: () = assert!(HELD_MAX > FRAME_LEN_MAX as u64);
const _: () = assert!(STREAM_SILENCE_MAX.as_secs() > 4 * STALL.as_secs());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_tells_of_another_member_is_the_one_before_it() {
        let members = [DiskId(5), DiskId(7), DiskId(9)];
        let told = |disk| {
            let error = Error::new(Code::Disconnected, "gone");
            Failure::of(disk, error).among(&members).teller
        };
        assert_eq!(told(Some(DiskId(9))), Some(DiskId(7)));
        assert_eq!(told(Some(DiskId(7))), Some(DiskId(5)));
        assert_eq!(told(Some(DiskId(5))), None, "that is what the client saw");
        assert_eq!((told(Some(DiskId(1))), told(None)), (None, None));
    }

    #[test]
    fn the_last_disk_that_is_named_is_blamed() {
        let members = [DiskId(1), DiskId(5), DiskId(12)];
        let text = "disk 5 of dataserver 2: disk 12 of dataserver 3: the disk is full";
        assert_eq!(disk_named(text, &members), Some(DiskId(12)));
        assert_eq!(disk_named("disk 7: it is full", &members), None);
        assert_eq!(disk_named("the disk is full", &members), None);
    }
}
