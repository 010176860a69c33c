//! The files of chunks for clients on this host, which read them past the network (DESIGN §4.3).

use super::Readable;
use super::tickets::{Granted, Tickets};
use crate::caller::Caller;
use crate::disk::Disk;
use crate::node::Node;
use quarry_common::ids::{ChunkId, DiskId, PoolId};
use quarry_common::limits::{REDEEM_WAIT, REDEEMED_AT_ONCE_MAX};
use quarry_common::token::Capability;
use quarry_common::wire::data::DataReply;
use quarry_common::wire::data::ticket::{FileRun, FileTicket, Secret, socket_name};
use quarry_common::{Code, Error, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// After a failure to accept (too many open files) the next caller waits this long.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Where this dataserver hands out files, and to whom.
pub struct Files {
    /// Makes the name of the Unix socket.
    socket: Secret,
    tickets: Tickets,
}

impl Files {
    /// Listens on a Unix socket under a new name. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system's: then nothing is handed out, and all is read over the network.
    pub fn listen() -> io::Result<(Files, UnixListener)> {
        let socket = rand::random();
        let listener = UnixListener::bind(socket_name(&socket))?;
        let tickets = Tickets::default();
        Ok((Files { socket, tickets }, listener))
    }
}

/// Answers a [`quarry_common::wire::data::DataRequest::FileTicket`].
///
/// # Errors
/// `BadCapability`, `NotMember`, `ChunkMissing`, `ChecksumMismatch` for one that was set aside.
pub async fn ticket(
    node: &Node,
    caller: Caller,
    disk: DiskId,
    name: (PoolId, ChunkId),
    capability: &Capability,
) -> Result<DataReply> {
    let readable = Readable::admit(node, caller, disk, name, capability)?;
    let Some(files) = &node.files else {
        return Ok(DataReply::FileTicket(None));
    };
    let look = move |disk: &Disk| disk.layout(name.0, name.1);
    let layout = match node.turns.take(readable.disk, look).await {
        Err(error) if error.code == Code::ChunkMissing => {
            return Err(readable.lacking(0, error.text));
        }
        layout => layout?,
    };
    let Some(layout) = layout else {
        return Ok(DataReply::FileTicket(None));
    };
    let (secret, proof) = (rand::random(), rand::random());
    let granted = Granted {
        disk,
        pool: name.0,
        chunk: name.1,
        proof,
    };
    let issued = files.tickets.issue(secret, granted, Instant::now());
    let runs = layout.runs.into_iter().map(|run| FileRun {
        file_at: run.file_at,
        len: run.len,
    });
    Ok(DataReply::FileTicket(issued.then(|| FileTicket {
        socket: files.socket,
        secret,
        proof,
        len: layout.len,
        crc: layout.crc,
        runs: runs.collect(),
        crcs: layout.crcs,
    })))
}

/// Hands out files for tickets. Any program of this host may call: it is listened to for a moment, and
/// gets nothing without a ticket. Callers are tasks of `tasks`, so that a stop can wait for them.
pub async fn hand_out(node: Arc<Node>, listener: UnixListener, tasks: TaskTracker) {
    let callers = Arc::new(Semaphore::new(REDEEMED_AT_ONCE_MAX));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&callers).acquire_owned().await {
        match listener.accept().await {
            Ok((mut stream, _)) => {
                let node = Arc::clone(&node);
                tasks.spawn(async move {
                    let redeemed = tokio::time::timeout(REDEEM_WAIT, redeem(&node, &mut stream));
                    match redeemed.await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!("a caller got no file: {error}"),
                        Err(_) => tracing::debug!("a caller for a file showed no ticket"),
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("a caller for a file can not be heard: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves one caller.
async fn redeem(node: &Node, stream: &mut UnixStream) -> Result<()> {
    let mut secret = Secret::default();
    let broken = |error: io::Error| Error::malformed(format!("its socket: {error}"));
    stream.read_exact(&mut secret).await.map_err(broken)?;
    let tickets = node.files.as_ref().map(|files| &files.tickets);
    let granted = tickets.and_then(|tickets| tickets.redeem(&secret, Instant::now()));
    let granted = granted.ok_or_else(|| Error::malformed("it has no ticket that is good"))?;
    let disk = node.disks.get(granted.disk)?;
    let opening = move |disk: &Disk| disk.open_file(granted.pool, granted.chunk);
    let file = node.turns.take(disk, opening).await?;
    let sent = stream.async_io(Interest::WRITABLE, || send(stream, &granted.proof, &file));
    sent.await.map_err(broken)
}

/// Sends the proof and the descriptor of the file.
fn send(stream: &UnixStream, proof: &Secret, file: &File) -> io::Result<()> {
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    // It goes into the empty buffer of the socket whole, or not at all.
    let proof = [IoSlice::new(proof)];
    rustix::net::sendmsg(stream, &proof, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
