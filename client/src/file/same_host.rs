//! Reading past the network: a dataserver on this host hands out the files of its chunks, and they
//! are read and checked here (DESIGN §4.3).
//!
//! A replica that can not be read so is read over the network; nothing fails that would not fail
//! there. Only a wrong checksum counts against it, as it does on the network.

use super::extents::ChunkRange;
use crate::transport::{Peer, Transport};
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::error::{Code, Error, Kind, Result};
use quarry_common::ids::{ChunkId, DiskId, PoolId, ServerId};
use quarry_common::limits::{
    BLOCK_LEN, FILE_KEPT_FOR, FRAME_LEN_MAX, KEPT_FILES_MAX, SMALL_CHUNK_LEN_MAX,
};
use quarry_common::map::Server;
use quarry_common::read_buffers::ReadBuffers;
use quarry_common::wire::data::ticket::FileTicket;
use quarry_common::wire::data::{DataReply, DataRequest, SMALL_READ_LEN_MAX};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// A server whose file could not be had or read is read over the network for this long.
const PAUSE: Duration = Duration::from_secs(10);

/// How often files that were kept long enough are closed.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Bytes are checked this many at a time, while they are in the processor's cache.
const STEP_LEN: usize = 4 * BLOCK_LEN;

/// A replica on this host.
type Replica = (DiskId, PoolId, ChunkId);

/// The files that this client has open, and where it gets them.
pub struct SameHost {
    enabled: bool,
    kept: Mutex<Kept>,
    buffers: Arc<ReadBuffers>,
    read_len: AtomicU64,
}

#[derive(Default)]
struct Kept {
    /// The one used last is first.
    files: VecDeque<KeptFile>,
    paused: HashMap<ServerId, Instant>,
    /// Whether an address of a server is this host's.
    here: HashMap<String, bool>,
}

struct KeptFile {
    replica: Replica,
    until: Instant,
    file: Place,
}

/// Empty while the file is being fetched: all who want it wait for the same outcome.
type Place = Arc<OnceCell<Result<Arc<ChunkFile>>>>;

/// The file of a chunk, open for reading.
pub struct ChunkFile {
    server: ServerId,
    replica: Replica,
    file: File,
    ticket: FileTicket,
}

impl SameHost {
    /// Without files; with `enabled` false for ever. Needs a tokio runtime.
    pub fn new(enabled: bool) -> Arc<SameHost> {
        let same_host = Arc::new(SameHost {
            enabled,
            kept: Mutex::default(),
            buffers: Arc::default(),
            read_len: AtomicU64::new(0),
        });
        if enabled {
            let weak = Arc::downgrade(&same_host);
            tokio::spawn(async move {
                while let Some(same_host) = weak.upgrade() {
                    same_host.sweep(Instant::now());
                    drop(same_host);
                    tokio::time::sleep(SWEEP_EVERY).await;
                }
            });
        }
        same_host
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nobody panics with this lock")
    }

    /// Bytes that were read so.
    pub fn read_len(&self) -> u64 {
        self.read_len.load(Ordering::Relaxed)
    }

    /// Whether a server is on the host that is named `host`: its label says so, or its address.
    pub fn is_here(&self, server: &Server, host: &str) -> bool {
        if server.host == host {
            return true;
        }
        let mut kept = self.kept();
        if let Some(here) = kept.here.get(&server.address) {
            return *here;
        }
        let here = is_own_address(&server.address);
        kept.here.insert(server.address.clone(), here);
        here
    }

    /// Closes what was kept long enough.
    fn sweep(&self, now: Instant) {
        let mut kept = self.kept();
        kept.files.retain(|kept| kept.until > now);
        if kept.files.is_empty() {
            self.buffers.clear();
        }
    }

    fn is_paused(&self, server: ServerId, now: Instant) -> bool {
        let kept = self.kept();
        kept.paused.get(&server).is_some_and(|until| *until > now)
    }

    /// Its server is read over the network for a while, and the file is closed.
    fn pause(&self, server: ServerId, replica: Replica, now: Instant) {
        self.kept().paused.insert(server, now + PAUSE);
        self.forget(replica);
    }

    fn forget(&self, replica: Replica) {
        self.kept().files.retain(|kept| kept.replica != replica);
    }

    /// The place of a file, which is made if `fetch` says so.
    fn place(&self, replica: Replica, fetch: bool, now: Instant) -> Option<Place> {
        let mut kept = self.kept();
        let found = kept.files.iter().position(|kept| kept.replica == replica);
        let kept_file = found.and_then(|at| kept.files.remove(at));
        let kept_file = kept_file.filter(|kept| kept.until > now).or_else(|| {
            fetch.then(|| KeptFile {
                replica,
                until: now + FILE_KEPT_FOR,
                file: Arc::default(),
            })
        })?;
        let file = kept_file.file.clone();
        kept.files.push_front(kept_file);
        kept.files.truncate(KEPT_FILES_MAX);
        Some(file)
    }

    /// The file of a replica, if it can be had. Fetched for large reads only: a small one takes no
    /// longer over the network than the fetching.
    ///
    /// # Errors
    /// Those that the replica would give over the network as well: it is bad.
    pub async fn file(
        &self,
        transport: &dyn Transport,
        range: &ChunkRange,
        (disk, peer): (DiskId, &Peer),
        (small, patience): (bool, Duration),
    ) -> Result<Option<Arc<ChunkFile>>> {
        let now = Instant::now();
        let has_file = range.chunk_len as usize > SMALL_CHUNK_LEN_MAX;
        if !self.enabled || !has_file || self.is_paused(peer.server, now) {
            return Ok(None);
        }
        let replica = (disk, range.pool, range.chunk);
        let Some(place) = self.place(replica, !small, now) else {
            return Ok(None);
        };
        let fetching = || async {
            let fetched = fetch(transport, range, replica, peer, patience).await;
            match &fetched {
                Ok(_) => {}
                // The replica is bad, not the way to it.
                Err(error) if error.kind() == Kind::Corrupt => self.forget(replica),
                Err(_) => self.pause(peer.server, replica, now),
            }
            fetched
        };
        match place.get_or_init(fetching).await {
            Ok(file) if file.covers(range) => Ok(Some(file.clone())),
            // The network's answer says what is wrong.
            Ok(_) => Ok(None),
            Err(error) if error.kind() == Kind::Corrupt => Err(error.clone()),
            Err(error) => {
                tracing::debug!(%error, %disk, chunk = %range.chunk, "a chunk is read over the network");
                Ok(None)
            }
        }
    }

    /// Reads bytes `from` to `to` of a chunk, checked, from its file; what was good before a fault
    /// is returned with it.
    pub async fn read(
        &self,
        file: Arc<ChunkFile>,
        (from, to): (u32, u32),
        patience: Duration,
    ) -> (Vec<Bytes>, Result<()>) {
        let (server, replica) = (file.server, file.replica);
        let buffers = self.buffers.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut pieces = Vec::new();
            let done = file.read(&buffers, (from, to), &mut pieces);
            (pieces, done)
        });
        let (pieces, done) = match tokio::time::timeout(patience, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                let error = Error::bug("the reading of a file was lost").with_source(error);
                (Vec::new(), Err(error))
            }
            Err(_) => {
                let error = Error::new(Code::Disconnected, "the disk did not answer in time");
                (Vec::new(), Err(error))
            }
        };
        let len = pieces.iter().map(Bytes::len).sum::<usize>() as u64;
        self.read_len.fetch_add(len, Ordering::Relaxed);
        if done.is_err() {
            self.pause(server, replica, Instant::now());
        }
        (pieces, done)
    }
}

/// Whether a server at `host:port` is on this host.
fn is_own_address(address: &str) -> bool {
    if let Ok(address) = address.parse::<SocketAddr>() {
        // A socket can be bound to the addresses of this host alone.
        return UdpSocket::bind((address.ip(), 0)).is_ok();
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let own = rustix::system::uname();
    host == "localhost" || host.as_bytes() == own.nodename().to_bytes()
}

fn no_file(why: &str) -> Error {
    Error::new(Code::Unreachable, format!("no file was had: {why}"))
}

/// Gets a ticket and redeems it.
async fn fetch(
    transport: &dyn Transport,
    range: &ChunkRange,
    replica: Replica,
    peer: &Peer,
    patience: Duration,
) -> Result<Arc<ChunkFile>> {
    let (disk, pool, chunk) = replica;
    let request = DataRequest::FileTicket {
        disk,
        pool,
        chunk,
        capability: (*range.capability).clone(),
    };
    let ticket = match transport.data(peer, &request, patience).await? {
        DataReply::FileTicket(Some(ticket)) => ticket,
        DataReply::FileTicket(None) => return Err(no_file("its dataserver gives none now")),
        _ => return Err(Error::malformed("a dataserver answered something else")),
    };
    ticket.check()?;
    // A replica may be whole in itself and not be the chunk.
    if ticket.len == range.chunk_len && ticket.crc != range.chunk_crc {
        let text = "its bytes are not those that were committed";
        return Err(Error::new(Code::ChecksumMismatch, text));
    }
    let file = transport.redeem(&ticket).await?;
    Ok(Arc::new(ChunkFile {
        server: peer.server,
        replica,
        file,
        ticket,
    }))
}

impl ChunkFile {
    /// Whether it has what was committed, and the range.
    fn covers(&self, range: &ChunkRange) -> bool {
        let end = u64::from(range.offset) + u64::from(range.len);
        self.ticket.len >= range.chunk_len && end <= u64::from(self.ticket.len)
    }

    /// Reads whole blocks, checks them, and keeps what was wanted of them. Blocks.
    fn read(
        &self,
        buffers: &Arc<ReadBuffers>,
        (from, to): (u32, u32),
        pieces: &mut Vec<Bytes>,
    ) -> Result<()> {
        let mut at = from - from % BLOCK_LEN as u32;
        while at < to {
            let len = (self.ticket.len - at).min(FRAME_LEN_MAX as u32);
            let len = len.min((to - at).next_multiple_of(BLOCK_LEN as u32));
            let bytes = if len <= SMALL_READ_LEN_MAX {
                // Whoever keeps a few bytes keeps no buffer of a frame.
                let mut bytes = vec![0; len as usize];
                self.fill(at, &mut bytes)?;
                Bytes::from(bytes)
            } else {
                let mut buffer = ReadBuffers::take(buffers, len as usize);
                self.fill(at, buffer.bytes_mut())?;
                Bytes::from_owner(buffer)
            };
            let first = from.saturating_sub(at) as usize;
            let last = len.min(to - at) as usize;
            pieces.push(bytes.slice(first..last));
            at += len;
        }
        Ok(())
    }

    /// Reads and checks the blocks from `at` on.
    fn fill(&self, at: u32, bytes: &mut [u8]) -> Result<()> {
        let mut block = at as usize / BLOCK_LEN;
        for step in bytes.chunks_mut(STEP_LEN) {
            self.read_exact((block * BLOCK_LEN) as u32, step)
                .map_err(|error| {
                    let text = format!("its file can not be read: {error}");
                    Error::new(Code::ChecksumMismatch, text)
                })?;
            for bytes in step.chunks(BLOCK_LEN) {
                if self.ticket.crcs.get(block) != Some(&Crc::of(bytes)) {
                    let text = format!("block {block} of its file does not match its checksum");
                    return Err(Error::new(Code::ChecksumMismatch, text));
                }
                block += 1;
            }
        }
        Ok(())
    }

    /// Reads the bytes of the chunk from `at` on.
    fn read_exact(&self, at: u32, mut bytes: &mut [u8]) -> std::io::Result<()> {
        let mut at = u64::from(at);
        let mut run_at = 0;
        for run in &self.ticket.runs {
            let run_end = run_at + u64::from(run.len);
            if at < run_end && !bytes.is_empty() {
                let now = bytes.len().min((run_end - at) as usize);
                let (part, rest) = bytes.split_at_mut(now);
                self.file.read_exact_at(part, run.file_at + (at - run_at))?;
                at += now as u64;
                bytes = rest;
            }
            run_at = run_end;
        }
        Ok(())
    }
}
