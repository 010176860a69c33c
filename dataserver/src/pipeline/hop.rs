//! One hop of a pipeline over its streams and its disk; the bookkeeping is in [`super::core`].
//!
//! Four loops run in one task. One reads what comes from the hop before, one what the next member answers,
//! one feeds the disk, and the fourth owns the bookkeeping: it takes their events and carries out what
//! follows. When it ends, the others go with it; a chunk writer that is let go ends at its last flush.

use super::admit::{self, Admitted, Next};
use super::core::{Action, Core, Point, Standing};
use crate::caller::Caller;
use crate::disk::{ChunkWriter, Disk};
use crate::node::Node;
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::ids::DiskId;
use quarry_common::limits::{FLUSHES_MAX, STREAM_SILENCE_MAX};
use quarry_common::net::{BulkReader, BulkWriter, Peer, StreamType};
use quarry_common::wire::data::frame::{self, HEAD_LEN, Head};
use quarry_common::wire::data::{DataRequest, WriteChunk, WriteReply};
use quarry_common::{Code, Error, Result};
use std::time::Duration;
use tokio::sync::mpsc;

/// Data is passed on in pieces of so many bytes while the rest of its frame still arrives. The last one
/// waits for the check of the frame, so that no damaged frame is ever passed on whole.
const SLICE_LEN: usize = 256 << 10;

/// Slices between the loop that reads and the one that passes on: with the disk's queue and the windows
/// of the connections this bounds a stream to a few MiB.
const SLICES_WAITING: usize = 4;

/// A point that is neither durable nor acknowledged for so long is given up.
const SYNC_WAIT: Duration = Duration::from_secs(30);

/// How long the next member may take to be reached.
const CONNECT_WAIT: Duration = Duration::from_secs(3);

/// What comes from the hop before.
enum Arrival {
    Head(Head, Vec<Crc>),
    /// A slice of the data of the frame whose head came last.
    Slice(Vec<Bytes>),
}

/// What the disk is to do.
enum DiskWork {
    Append(Vec<Bytes>, Vec<Crc>),
    Sync(Point),
}

/// Serves one stream on which a chunk is written, from its header to its end.
pub async fn serve(
    node: &Node,
    caller: Caller,
    header: WriteChunk,
    reader: BulkReader,
    mut writer: BulkWriter,
) {
    let Ok(_permit) = node.write_streams.try_acquire() else {
        let error = Error::new(
            Code::Overloaded,
            "this dataserver writes as many chunks at once as it can",
        );
        return answer_failure(&mut writer, Some(header.target.disk), error).await;
    };
    match Hop::start(node, caller, &header).await {
        Ok(hop) => Box::pin(hop.run(node, reader, writer)).await,
        Err((disk, error)) => answer_failure(&mut writer, Some(disk), error).await,
    }
}

async fn answer_failure(writer: &mut BulkWriter, disk: Option<DiskId>, error: Error) {
    tracing::debug!("a chunk goes no further at disk {disk:?}: {error}");
    let reply = WriteReply::Failed { disk, error };
    let sent = async {
        writer.write_message(&reply).await?;
        writer.finish()
    };
    if let Err(error) = sent.await {
        tracing::debug!("the writer did not hear of a failure: {error}");
    }
}

/// The stream to the next member.
struct Downstream {
    peer: Peer,
    reader: BulkReader,
    writer: BulkWriter,
}

/// A hop that may begin.
struct Hop {
    core: Core,
    disk: ChunkWriter,
    next: Option<Downstream>,
}

impl Hop {
    /// Checks, opens the stream to the next member, and begins the chunk on our disk; the error names the
    /// member that failed.
    async fn start(
        node: &Node,
        caller: Caller,
        header: &WriteChunk,
    ) -> Result<Hop, (DiskId, Error)> {
        let own = |error| (header.target.disk, error);
        let admitted = admit::admit(node, caller, &header.target, header.capacity)
            .await
            .map_err(own)?;
        let next = match &admitted.next {
            Some(next) => {
                let opening = open_next(node, &admitted, next, header);
                let opened = tokio::time::timeout(CONNECT_WAIT, opening).await;
                let late = |_| {
                    Err(Error::new(
                        Code::Unreachable,
                        format!(
                            "dataserver {} at {} does not answer",
                            next.server, next.address
                        ),
                    ))
                };
                Some(
                    opened
                        .unwrap_or_else(late)
                        .map_err(|error| (next.disk, error))?,
                )
            }
            None => None,
        };
        let place = admitted.place;
        let (pool, chunk, capacity) = (place.pool, place.chunk, place.capacity);
        // It looks into the index and at the free space.
        let create = move |disk: &Disk| disk.create_chunk(pool, chunk, capacity);
        let created = node.turns.take(&admitted.disk, create).await;
        let disk = created.map_err(own)?;
        Ok(Hop {
            core: Core::new(place),
            disk,
            next,
        })
    }

    async fn run(self, node: &Node, reader: BulkReader, upstream: BulkWriter) {
        let Hop { core, disk, next } = self;
        let (next_reader, next_writer) = match next {
            Some(next) => (
                Some((next.reader, next.peer.clone())),
                Some((next.writer, next.peer)),
            ),
            None => (None, None),
        };
        let (arrivals_in, arrivals) = mpsc::channel(SLICES_WAITING);
        let (replies_in, replies) = mpsc::channel(1);
        let (work, work_out) = mpsc::channel(1);
        // Never full, since there are no more points: the disk's loop must not wait for the owner, which
        // may be waiting for the disk's loop.
        let (done_in, done) = mpsc::channel(FLUSHES_MAX as usize + 2);
        let owner = Owner {
            node,
            core,
            upstream,
            next: next_writer,
            next_broken: false,
            stuck: None,
            work,
            frame: Incoming::default(),
        };
        let others = async {
            tokio::join!(
                read_frames(reader, arrivals_in),
                read_replies(next_reader, replies_in),
                feed_disk(disk, work_out, done_in),
            );
            // Only the owner knows when it is over.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = owner.run(arrivals, replies, done) => {}
            () = others => {}
        }
    }
}

async fn open_next(
    node: &Node,
    admitted: &Admitted,
    next: &Next,
    header: &WriteChunk,
) -> Result<Downstream> {
    let peer = node.dataserver(next.server, &next.address).await?;
    let (send, recv) = peer.connection.open(StreamType::WriteChunk).await?;
    let (mut writer, reader) = (BulkWriter::new(send), BulkReader::new(recv));
    let header = WriteChunk {
        target: admitted.target_of(next, &header.target),
        capacity: header.capacity,
    };
    writer.write_message(&header).await?;
    Ok(Downstream {
        peer,
        reader,
        writer,
    })
}

/// Reads frames until the end of the stream or the first error; the channel closes after a clean end.
async fn read_frames(mut reader: BulkReader, arrivals: mpsc::Sender<Result<Arrival>>) {
    loop {
        match read_frame(&mut reader, &arrivals).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                // If the owner has gone, nobody wants to know.
                arrivals.send(Err(error)).await.unwrap_or_default();
                return;
            }
        }
    }
}

/// Reads one frame; false at the end of the stream, or if nobody wants more.
async fn read_frame(
    reader: &mut BulkReader,
    arrivals: &mpsc::Sender<Result<Arrival>>,
) -> Result<bool> {
    let Some(bytes) = reader.read_small_or_end(HEAD_LEN).await? else {
        return Ok(false);
    };
    let mut head = [0; HEAD_LEN];
    head.copy_from_slice(&bytes);
    let head = Head::decode(&head)?;
    let Head::Data { offset, len } = head else {
        let wanted = arrivals.send(Ok(Arrival::Head(head, Vec::new()))).await;
        return Ok(wanted.is_ok());
    };
    let crcs = reader.read_small(4 * frame::crcs_of(offset, len)).await?;
    let crcs = frame::decode_crcs(&crcs);
    if arrivals.send(Ok(Arrival::Head(head, crcs))).await.is_err() {
        return Ok(false);
    }
    let mut left = len as usize;
    while left > 0 {
        let slice = reader.read_exact_pieces(left.min(SLICE_LEN)).await?;
        left -= left.min(SLICE_LEN);
        if arrivals.send(Ok(Arrival::Slice(slice))).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads what the next member answers.
async fn read_replies(next: Option<(BulkReader, Peer)>, replies: mpsc::Sender<Result<WriteReply>>) {
    let Some((mut reader, peer)) = next else {
        return std::future::pending().await;
    };
    loop {
        let ended = || Error::new(Code::Disconnected, "the next member ended its stream");
        let reading = reader.read_message("a reply of the next member");
        let reply = peer.while_alive(DataRequest::ping(), reading).await;
        let reply = reply.and_then(|reply| reply.ok_or_else(ended));
        let last = reply.is_err();
        if replies.send(reply).await.is_err() || last {
            return;
        }
    }
}

/// Hands work to the disk in order, and says when a point is durable.
async fn feed_disk(
    writer: ChunkWriter,
    mut work: mpsc::Receiver<DiskWork>,
    done: mpsc::Sender<Result<()>>,
) {
    let mut writer = Some(writer);
    while let (Some(work), Some(open)) = (work.recv().await, writer.as_ref()) {
        let result = match work {
            DiskWork::Append(pieces, crcs) => match open.append(pieces, &crcs).await {
                Ok(()) => continue,
                failed => failed,
            },
            DiskWork::Sync(point) if !point.seal => open.flush(point.len, point.crc).await,
            DiskWork::Sync(point) => match writer.take() {
                Some(open) => open.seal(point.len, point.crc).await,
                None => return,
            },
        };
        let failed = result.is_err();
        if done.send(result).await.is_err() || failed {
            return;
        }
    }
}

/// The loop that owns the bookkeeping.
struct Owner<'a> {
    node: &'a Node,
    core: Core,
    upstream: BulkWriter,
    next: Option<(BulkWriter, Peer)>,
    /// Nothing can be passed on any more; the reason comes on the other direction of that stream.
    next_broken: bool,
    /// Who took nothing for too long: a disk or a member that hangs must not keep the stream, whose writer
    /// has long gone elsewhere, and with it the right of another one to write here.
    stuck: Option<Stuck>,
    work: mpsc::Sender<DiskWork>,
    frame: Incoming,
}

/// What hangs.
enum Stuck {
    Disk,
    Next,
}

/// The data frame that is arriving.
#[derive(Default)]
struct Incoming {
    offset: u32,
    /// Bytes that have not arrived.
    left: usize,
    crcs: Vec<Crc>,
    /// What has arrived.
    data: Vec<Bytes>,
    /// What is to be passed on next.
    outgoing: Vec<Bytes>,
}

impl Owner<'_> {
    async fn run(
        mut self,
        mut arrivals: mpsc::Receiver<Result<Arrival>>,
        mut replies: mpsc::Receiver<Result<WriteReply>>,
        mut done: mpsc::Receiver<Result<()>>,
    ) {
        loop {
            let takes_frames = self.core.takes_frames() && !self.next_broken;
            // Who takes no more says why soon, or ends its stream.
            let silence_max = match self.core.is_waiting() || self.next_broken {
                true => SYNC_WAIT,
                false => STREAM_SILENCE_MAX,
            };
            let actions = tokio::select! {
                biased;
                Some(result) = done.recv() => match result {
                    Ok(()) => {
                        let standing = self.standing();
                        self.core.handle_durable(&standing)
                    }
                    Err(error) => self.core.handle_failure(error),
                },
                Some(reply) = replies.recv() => match reply {
                    Ok(reply) => {
                        let standing = self.standing();
                        self.core.handle_reply(reply, &standing)
                    }
                    Err(error) => self.core.handle_next_lost(error),
                },
                arrival = arrivals.recv(), if takes_frames => match arrival {
                    Some(Ok(Arrival::Head(head, crcs))) => self.take_head(head, crcs),
                    Some(Ok(Arrival::Slice(pieces))) => self.take_slice(pieces).await,
                    Some(Err(error)) => self.core.handle_failure(error),
                    // The writer gave the chunk up: it ends at its last flush, here and after us.
                    None => return,
                },
                () = tokio::time::sleep(silence_max) => match self.next_broken {
                    true => self.give_up(Stuck::Next),
                    false => self.core.handle_silence(silence_max),
                },
            };
            for action in actions {
                self.carry_out(action).await;
            }
            if let Some(stuck) = self.stuck.take() {
                for action in self.give_up(stuck) {
                    self.carry_out(action).await;
                }
            }
            if self.core.is_over() {
                return;
            }
        }
    }

    fn give_up(&mut self, stuck: Stuck) -> Vec<Action> {
        let silent = |what: &str| {
            let text = format!("{what} took nothing for {} s", SYNC_WAIT.as_secs());
            Error::new(Code::Disconnected, text)
        };
        match stuck {
            Stuck::Disk => self.core.handle_failure(silent("the disk")),
            Stuck::Next => self.core.handle_next_lost(silent("the next member")),
        }
    }

    /// Whether we may acknowledge at this moment.
    fn standing(&self) -> Standing {
        let place = self.core.place();
        let membership = &self.node.membership;
        membership.standing(place.pool, place.chunk, place.epoch)
    }

    fn take_head(&mut self, head: Head, crcs: Vec<Crc>) -> Vec<Action> {
        self.node.pace.note_client();
        let actions = self.core.handle_head(head);
        if let (Head::Data { offset, len }, true) = (head, actions.is_empty()) {
            self.frame = Incoming {
                offset,
                left: len as usize,
                outgoing: vec![frame::data_prefix(offset, len, &crcs)],
                crcs,
                data: Vec::new(),
            };
        }
        actions
    }

    async fn take_slice(&mut self, pieces: Vec<Bytes>) -> Vec<Action> {
        let frame = &mut self.frame;
        let len: usize = pieces.iter().map(Bytes::len).sum();
        frame.left = frame.left.saturating_sub(len);
        frame.data.extend(pieces.iter().cloned());
        frame.outgoing.extend(pieces);
        if frame.left > 0 {
            let outgoing = std::mem::take(&mut frame.outgoing);
            self.pass_on(outgoing).await;
            return Vec::new();
        }
        match frame::check_crcs(frame.offset, &frame.data, &frame.crcs) {
            Ok(()) => self.core.handle_data(&self.frame.crcs),
            Err(error) => self.core.handle_failure(error),
        }
    }

    async fn carry_out(&mut self, action: Action) {
        match action {
            Action::Append => {
                let frame = std::mem::take(&mut self.frame);
                let work = self.work.clone();
                let append = DiskWork::Append(frame.data, frame.crcs);
                let sending = tokio::time::timeout(SYNC_WAIT, work.send(append));
                let (taken, ()) = tokio::join!(sending, self.pass_on(frame.outgoing));
                match taken {
                    // A disk that takes nothing more has said why.
                    Ok(taken) => taken.unwrap_or_default(),
                    Err(_) => self.stuck = Some(Stuck::Disk),
                }
            }
            Action::Forward(Point { len, crc, seal }) => {
                let head = match seal {
                    true => Head::Seal { len, crc },
                    false => Head::Flush { len, crc },
                };
                let bytes = Bytes::copy_from_slice(&head.encode());
                self.pass_on(vec![bytes]).await;
            }
            Action::Sync(point) => {
                let sending = self.work.send(DiskWork::Sync(point));
                match tokio::time::timeout(SYNC_WAIT, sending).await {
                    Ok(taken) => taken.unwrap_or_default(),
                    Err(_) => self.stuck = Some(Stuck::Disk),
                }
            }
            Action::Acknowledge { point, macs } => {
                // The core says so only after our disk and all after us have it on stable storage.
                let reply = WriteReply::Ack {
                    len: point.len,
                    crc: point.crc,
                    sealed: point.seal,
                    macs,
                };
                if let Err(error) = self.upstream.write_message(&reply).await {
                    let actions = self.core.handle_failure(error);
                    tracing::debug!("the writer has gone: {actions:?}");
                }
            }
            Action::Fail { disk, error } => {
                answer_failure(&mut self.upstream, disk, error).await;
            }
            Action::Finish => {
                if let Err(error) = self.upstream.finish() {
                    tracing::debug!("the writer has gone: {error}");
                }
            }
        }
    }

    /// Passes bytes to the next member, if there is one.
    async fn pass_on(&mut self, mut pieces: Vec<Bytes>) {
        let Some((next, peer)) = self.next.as_mut().filter(|_| !self.next_broken) else {
            return;
        };
        // Replies are not looked at meanwhile: a member that is gone would keep us until its connection's time is over.
        let writing = peer.while_alive(DataRequest::ping(), next.write_pieces(&mut pieces));
        match tokio::time::timeout(SYNC_WAIT, writing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!("the next member takes no more: {error}");
                self.next_broken = true;
            }
            Err(_) => {
                self.next_broken = true;
                self.stuck = Some(Stuck::Next);
            }
        }
    }
}
