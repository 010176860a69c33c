//! Fetching a range of a chunk from its replicas, verified, from another one whenever one is wrong
//! or late (DESIGN §4.3).

use super::extents::ChunkRange;
use super::same_host::ChunkFile;
use crate::backoff::Backoff;
use crate::data::{DataLink, peer_of};
use crate::health::Doing;
use crate::transport::patience::in_time;
use crate::transport::{Peer, ReadStream};
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::error::{Code, Error, Kind, Result};
use quarry_common::ids::DiskId;
use quarry_common::limits::BLOCK_LEN;
use quarry_common::map::{ClusterMap, MemberState};
use quarry_common::wire::data::frame::check_crcs;
use quarry_common::wire::data::{DataReply, DataRequest, ReadChunk, ReadReply, SMALL_READ_LEN_MAX};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One replica may take so long for a small answer or for the next frame, which may take longer over a slow link
/// ([`in_time`]); longer each round.
const PATIENCE: Duration = Duration::from_secs(4);

/// A replica is believed to be bad for good when it was so in this many rounds.
const ROUNDS_OF_BAD: u32 = 2;

/// A disk to read from.
#[derive(Clone)]
struct Source {
    disk: DiskId,
    peer: Peer,
    /// Whether it is on this host.
    here: bool,
}

/// What came of the first step of an attempt.
enum Answer {
    /// A small read is over with it.
    Whole(Vec<Bytes>),
    /// Frames follow from that server, from the first byte of a block to the end of one.
    Frames(Peer, ReadStream, u32, u32),
    /// The replica is on this host: its file.
    File(Arc<ChunkFile>),
}

impl DataLink {
    /// Reads a range of a chunk. `file` names the file in errors.
    ///
    /// # Errors
    /// `Io` with every replica's fault when all are bad, or none could be read within the data
    /// deadline; `BadCapability` when the extents have to be asked for again.
    pub async fn fetch(&self, file: &str, range: &ChunkRange) -> Result<Vec<Bytes>> {
        let begun = Instant::now();
        let deadline = begun + self.deadline;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        let mut faults: BTreeMap<DiskId, (u32, Error)> = BTreeMap::new();
        // What one replica delivered before it failed need not be fetched again.
        let mut have: Vec<Bytes> = Vec::new();
        for round in 0.. {
            let map = self.map.get();
            let mut sources = match self.sources(&map, range) {
                Ok(sources) => sources,
                Err(error) if Instant::now() >= deadline => return Err(error.context(file)),
                Err(_) => Vec::new(),
            };
            sources.retain(|source| {
                let known = faults.get(&source.disk);
                known.is_none_or(|(bad_rounds, _)| *bad_rounds < ROUNDS_OF_BAD)
            });
            let patience = PATIENCE * 2u32.pow(round.min(3));
            let mut untried = sources.into_iter();
            let mut failed: Vec<(DiskId, Error)> = Vec::new();
            while let Some(source) = untried.next() {
                let answered = self.race(range, &have, source, &mut untried, patience, &mut failed);
                let Some((disk, answer)) = answered.await else {
                    continue;
                };
                let done = self.drain(range, &mut have, answer, patience).await;
                let done = done.and_then(|()| check_whole(range, &mut have));
                match done {
                    Ok(()) => {
                        self.health.handle_success(disk, Doing::Read);
                        self.report_bad(range, &failed);
                        // The next unit need not wait for them again.
                        for (disk, error) in &failed {
                            self.note_failure(*disk, error);
                        }
                        return Ok(have);
                    }
                    Err(error) => failed.push((disk, error)),
                }
            }
            self.report_bad(range, &failed);
            // Who has them and does not answer is worth more words than a member that never had them.
            let told = failed.iter().rfind(|(_, error)| has_part(error));
            if let Some((disk, error)) = told.or(failed.last()) {
                self.telling.tell(begun, deadline, || {
                    format!("no dataserver gives the bytes of {file} yet (disk {disk}: {error})")
                });
            }
            for (disk, error) in failed {
                tracing::debug!(%disk, %error, chunk = %range.chunk, "a replica could not be read");
                if error.code == Code::BadCapability {
                    return Err(error);
                }
                self.note_failure(disk, &error);
                let bad = is_bad(&error);
                let known = faults.entry(disk).or_insert((0, error.clone()));
                *known = (known.0 + u32::from(bad), error);
            }
            self.refresh().await;
            let map = self.map.get();
            let all_bad = self.sources(&map, range).is_ok_and(|sources| {
                let bad = |source: &Source| {
                    let known = faults.get(&source.disk);
                    known.is_some_and(|(rounds, _)| *rounds >= ROUNDS_OF_BAD)
                };
                !sources.is_empty() && sources.iter().all(bad)
            });
            if all_bad || Instant::now() >= deadline {
                break;
            }
            if round > 0 {
                backoff.wait(deadline).await;
            }
        }
        let faults: Vec<String> = faults
            .iter()
            .map(|(disk, (_, error))| format!("disk {disk}: {error}"))
            .collect();
        let text = format!(
            "{file}: chunk {} of pool {} can not be read from any replica ({})",
            range.chunk,
            range.pool,
            faults.join("; ")
        );
        Err(Error::new(Code::Io, text))
    }

    /// Remembers that a disk could not be read; not if it is only that one of us knows an older map, or the right to
    /// read has expired.
    fn note_failure(&self, disk: DiskId, error: &Error) {
        if !matches!(
            error.code,
            Code::NotYet | Code::NotMember | Code::OldMap | Code::BadCapability
        ) {
            self.handle_failure(disk, Doing::Read, error);
        }
    }

    /// Tells the disks that gave wrong bytes, or lack what a complete member has, which look at their copies and replace
    /// bad ones. Nobody waits for it.
    fn report_bad(&self, range: &ChunkRange, failed: &[(DiskId, Error)]) {
        let map = self.map.get();
        for (disk, error) in failed.iter().filter(|(_, error)| is_bad(error)) {
            // A server that was away may not know yet that it became a holder.
            if error.code == Code::ChunkMissing && !is_complete(&map, range, *disk) {
                tracing::debug!(%disk, %error, chunk = %range.chunk, "a replica lacks the chunk");
                continue;
            }
            let Ok(peer) = peer_of(&map, *disk) else {
                continue;
            };
            tracing::warn!(%disk, %error, chunk = %range.chunk, "a replica is bad");
            let request = DataRequest::Verify {
                disk: *disk,
                pool: range.pool,
                chunk: range.chunk,
                capability: (*range.capability).clone(),
            };
            let transport = Arc::clone(&self.transport);
            tokio::spawn(async move {
                if let Err(error) = transport.data(&peer, &request, PATIENCE).await {
                    tracing::debug!(%error, "a bad replica could not be reported");
                }
            });
        }
    }

    /// Asks one replica, and another as well when the first is late. Failures go to `failed`.
    async fn race(
        &self,
        range: &ChunkRange,
        have: &[Bytes],
        source: Source,
        untried: &mut impl Iterator<Item = Source>,
        patience: Duration,
        failed: &mut Vec<(DiskId, Error)>,
    ) -> Option<(DiskId, Answer)> {
        let late = tokio::time::sleep(self.health.suspect_after());
        let first = self.ask(range, have, &source, patience);
        tokio::pin!(first);
        let mut settle = |disk: DiskId, outcome: Result<Answer>| match outcome {
            Ok(answer) => Some((disk, answer)),
            Err(error) => {
                failed.push((disk, error));
                None
            }
        };
        tokio::select! {
            outcome = &mut first => return settle(source.disk, outcome),
            () = late => {}
        }
        let Some(other) = untried.next() else {
            let outcome = first.await;
            return settle(source.disk, outcome);
        };
        tracing::debug!(disk = %source.disk, other = %other.disk, "an answer is late, another replica is asked");
        let second = self.ask(range, have, &other, patience);
        tokio::pin!(second);
        tokio::select! {
            outcome = &mut first => match settle(source.disk, outcome) {
                Some(answer) => Some(answer),
                None => settle(other.disk, second.await),
            },
            outcome = &mut second => match settle(other.disk, outcome) {
                Some(answer) => {
                    // Late once more it would hold up each unit. It may be slow and alive: nobody is told.
                    self.health.handle_failure(source.disk, Doing::Read, Instant::now());
                    Some(answer)
                }
                None => settle(source.disk, first.await),
            },
        }
    }

    /// Asks one replica for what is still missing.
    async fn ask(
        &self,
        range: &ChunkRange,
        have: &[Bytes],
        source: &Source,
        patience: Duration,
    ) -> Result<Answer> {
        let have_len = total(have);
        let (offset, len) = (range.offset + have_len, range.len - have_len);
        // Whole blocks travel: what is asked may grow by one at each end.
        let small = len.saturating_add(2 * BLOCK_LEN as u32) <= SMALL_READ_LEN_MAX;
        if source.here {
            let (transport, from) = (&*self.transport, (source.disk, &source.peer));
            let file = self
                .same_host
                .file(transport, range, from, (small, patience));
            if let Some(file) = file.await? {
                return Ok(Answer::File(file));
            }
        }
        let asked_at = Instant::now();
        let request = ReadChunk {
            disk: source.disk,
            pool: range.pool,
            chunk: range.chunk,
            capability: (*range.capability).clone(),
            offset,
            len,
        };
        let answer = if small {
            let request = DataRequest::Read(request);
            let reply = self.transport.data(&source.peer, &request, patience);
            let DataReply::Data {
                start,
                chunk_len,
                crcs,
                data,
            } = reply.await?
            else {
                return Err(Error::malformed("a dataserver answered something else"));
            };
            let end = start.saturating_add(data.len() as u32);
            check_bounds(range, (offset, len), (start, end), chunk_len)?;
            check_crcs(start, std::slice::from_ref(&data), &crcs)?;
            let skip = (offset - start) as usize;
            Answer::Whole(vec![data.slice(skip..skip + len as usize)])
        } else {
            let opening = self.transport.read(&source.peer, request);
            let opened = tokio::time::timeout(patience, opening).await;
            let stream = opened.unwrap_or_else(|_| Err(too_late()))?;
            match stream.reply {
                ReadReply::Failed(error) => return Err(error),
                ReadReply::Data {
                    start,
                    end,
                    chunk_len,
                } => {
                    check_bounds(range, (offset, len), (start, end), chunk_len)?;
                    Answer::Frames(source.peer.clone(), stream, start, end)
                }
            }
        };
        self.health
            .handle_answer(source.peer.server, asked_at.elapsed());
        Ok(answer)
    }

    /// Takes the frames, checks them, and keeps what was wanted of them.
    async fn drain(
        &self,
        range: &ChunkRange,
        have: &mut Vec<Bytes>,
        answer: Answer,
        patience: Duration,
    ) -> Result<()> {
        let (peer, mut stream, start, end) = match answer {
            Answer::Whole(pieces) => {
                have.extend(pieces);
                return Ok(());
            }
            Answer::Frames(peer, stream, start, end) => (peer, stream, start, end),
            Answer::File(file) => {
                let wanted = (range.offset + total(have), range.offset + range.len);
                let (pieces, done) = self.same_host.read(file, wanted, patience).await;
                have.extend(pieces);
                return done;
            }
        };
        let wanted_end = range.offset + range.len;
        let moved = || self.transport.moved(&peer);
        let mut at = start;
        while at < end {
            let next = in_time(patience, moved, stream.frames.next()).await;
            let Some(frame) = next.unwrap_or_else(|| Err(too_late()))? else {
                return Err(Error::malformed("a chunk's data ended early"));
            };
            if frame.offset != at || frame.is_empty() || frame.len() > end - at {
                return Err(Error::malformed("a chunk's data came out of order"));
            }
            check_crcs(frame.offset, &frame.pieces, &frame.crcs)?;
            for piece in frame.pieces {
                let from = (range.offset + total(have)).max(at);
                let to = wanted_end.min(at + piece.len() as u32);
                if from < to {
                    have.push(piece.slice((from - at) as usize..(to - at) as usize));
                }
                at += piece.len() as u32;
            }
        }
        Ok(())
    }

    /// Disks to read from, the best first.
    fn sources(&self, map: &ClusterMap, range: &ChunkRange) -> Result<Vec<Source>> {
        let (_, row) = map.locate(range.pool, range.chunk)?;
        let now = Instant::now();
        let rack = map
            .topology
            .servers
            .values()
            .find(|server| server.host == self.host)
            .map(|server| server.rack.as_str());
        let mut ranked = Vec::new();
        for disk in row.sources() {
            let Ok(peer) = peer_of(map, disk) else {
                continue;
            };
            let Some(server) = map.topology.servers.get(&peer.server) else {
                continue;
            };
            let member = row
                .members
                .iter()
                .flatten()
                .find(|member| member.disk == disk);
            let state = member.map(|member| member.state);
            let here = self.same_host.is_here(server, &self.host);
            // Only powers of two tell: close ones share the load by the chunk's number.
            let speed = self.health.usual(peer.server).map_or(0, |usual| {
                (usual.as_micros() as u64 / 256)
                    .checked_ilog2()
                    .map_or(0, |log| log + 1)
            });
            let share = (range.chunk.0 ^ u64::from(disk.0)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let rank = (
                state == Some(MemberState::Filling),
                self.health.is_avoided(disk, now),
                // A holder may never have had the chunk.
                state.is_none(),
                !here,
                rack != Some(server.rack.as_str()),
                speed,
                share,
            );
            ranked.push((rank, Source { disk, peer, here }));
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        Ok(ranked.into_iter().map(|(_, source)| source).collect())
    }
}

/// Whether a disk should have every chunk of a range's group.
fn is_complete(map: &ClusterMap, range: &ChunkRange, disk: DiskId) -> bool {
    let Ok((_, row)) = map.locate(range.pool, range.chunk) else {
        return false;
    };
    let mut members = row.members.iter().flatten();
    members.any(|member| member.disk == disk && member.state == MemberState::Complete)
}

/// Whether the disk may have the chunk, as far as its failure tells.
fn has_part(error: &Error) -> bool {
    !matches!(
        error.code,
        Code::ChunkMissing | Code::NotYet | Code::NotMember
    )
}

/// Whether a replica has wrong bytes, or none.
fn is_bad(error: &Error) -> bool {
    error.kind() == Kind::Corrupt || error.code == Code::DamagedOnTheWay
}

fn total(pieces: &[Bytes]) -> u32 {
    pieces.iter().map(Bytes::len).sum::<usize>() as u32
}

fn too_late() -> Error {
    Error::new(Code::Disconnected, "the answer did not come in time")
}

/// A chunk that was read from end to end is checked against what was committed as well: this finds
/// a replica that is whole in itself and is not the chunk.
fn check_whole(range: &ChunkRange, have: &mut Vec<Bytes>) -> Result<()> {
    let whole = range.offset == 0 && range.len == range.chunk_len;
    if !whole || Crc::of_pieces(have.iter().map(|piece| &piece[..])) == range.chunk_crc {
        return Ok(());
    }
    have.clear();
    let text = "its bytes are not those that were committed";
    Err(Error::new(Code::ChecksumMismatch, text))
}

/// Checks what a replica says it sends against what was asked and what was committed.
fn check_bounds(
    range: &ChunkRange,
    (offset, len): (u32, u32),
    (start, end): (u32, u32),
    chunk_len: u32,
) -> Result<()> {
    if chunk_len < range.chunk_len {
        let text = format!(
            "it has {chunk_len} bytes of the chunk, {} were committed",
            range.chunk_len
        );
        return Err(Error::new(Code::ChunkMissing, text));
    }
    let aligned = (start as usize).is_multiple_of(BLOCK_LEN);
    if !aligned || start > offset || u64::from(end) < u64::from(offset) + u64::from(len) {
        return Err(Error::malformed(format!(
            "bytes {start} to {end} came, not {len} from {offset}"
        )));
    }
    Ok(())
}
