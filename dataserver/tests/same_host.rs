//! Files of chunks for clients on the same host: a descriptor for a ticket, and nothing else.

mod harness;

use bytes::Bytes;
use harness::client::Client;
use harness::{Cluster, POOL, assert_code, capability, pattern};
use quarry_common::checksum::{Crc, blocks};
use quarry_common::ids::{ChunkId, DiskId};
use quarry_common::limits::{
    REDEEM_WAIT, REDEEMED_AT_ONCE_MAX, SMALL_CHUNK_LEN_MAX, TICKET_LIFE, TICKETS_MAX,
};
use quarry_common::token::{Access, Capability};
use quarry_common::wire::data::ticket::{FileTicket, Secret, socket_name};
use quarry_common::wire::data::{DataReply, DataRequest};
use quarry_common::{Code, Result};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

async fn ask(
    client: &Client,
    disk: u32,
    chunk: ChunkId,
    capability: Capability,
) -> Result<Option<FileTicket>> {
    let disk = DiskId(disk);
    let request = DataRequest::FileTicket {
        disk,
        pool: POOL,
        chunk,
        capability,
    };
    match client.ask(disk, &request).await? {
        DataReply::FileTicket(ticket) => Ok(ticket),
        other => panic!("{other:?}"),
    }
}

async fn ticket(client: &Client, disk: u32, chunk: ChunkId) -> FileTicket {
    let right = capability(&client.hash, Access::Read);
    let ticket = ask(client, disk, chunk, right).await.unwrap().unwrap();
    assert_eq!(ticket.check(), Ok(()));
    ticket
}

fn call(socket: &Secret) -> UnixStream {
    let name = socket_name(socket);
    let address = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
    let stream = UnixStream::connect_addr(&address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// Shows a secret on a socket; the proof and the file, or nothing.
async fn redeem(socket: Secret, secret: Secret) -> Option<(Secret, File)> {
    let redeemed = tokio::task::spawn_blocking(move || {
        let mut stream = call(&socket);
        stream.write_all(&secret).unwrap();
        let mut proof = Secret::default();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut pieces = [IoSliceMut::new(&mut proof)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(&stream, &mut pieces, &mut control, flags).unwrap();
        let mut files: Vec<File> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                files.extend(descriptors.map(File::from));
            }
        }
        match files.pop() {
            None => {
                assert_eq!(received.bytes, 0, "something was said");
                None
            }
            Some(file) => {
                assert_eq!((received.bytes, files.len()), (16, 0));
                Some((proof, file))
            }
        }
    });
    redeemed.await.unwrap()
}

/// The chunk as the ticket says it stands in the file.
fn read(ticket: &FileTicket, file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    for run in &ticket.runs {
        let mut part = vec![0; run.len as usize];
        file.read_exact_at(&mut part, run.file_at).unwrap();
        bytes.extend(part);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_gets_the_file_of_its_chunk_for_reading_only() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client("anna");
    let chunk = ChunkId(7);
    let data = Bytes::from(pattern(1, 3_500_001));
    let mut writing = client.open(client.target(chunk)).await;
    // A flush that ends within a sector: the data goes on in the next one.
    writing.data(&data.slice(..1_234_567)).await.unwrap();
    writing.point(false).await.unwrap();
    writing.receipt().await.unwrap();
    let right = capability(&client.hash, Access::Read);
    let open = ask(&client, 1, chunk, right).await;
    assert_eq!(open, Ok(None), "the file of an open chunk changes");
    writing.data(&data.slice(1_234_567..)).await.unwrap();
    writing.point(true).await.unwrap();
    writing.receipt().await.unwrap();
    for disk in 1..=3 {
        let ticket = ticket(&client, disk, chunk).await;
        assert_eq!((ticket.len, ticket.crc), (3_500_001, Crc::of(&data)));
        assert_eq!(ticket.crcs, blocks(&data));
        assert_eq!(ticket.runs.len(), 2);
        let (proof, mut file) = redeem(ticket.socket, ticket.secret).await.unwrap();
        assert_eq!(proof, ticket.proof);
        assert!(read(&ticket, &file) == data);
        assert!(file.write_all(b"x").is_err(), "it can be written");
        assert!(file.set_len(1).is_err(), "it can be cut");
    }
}

/// Whoever has the file open goes on to read what he opened; whoever opens it again gets the other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_open_stays_good_when_a_copy_takes_its_place_or_it_is_deleted() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client("anna");
    let chunk = ChunkId(7);
    let data = Bytes::from(pattern(1, 300_000));
    // What is here ends at a flush within a block; what others have is longer.
    let mut writing = client.open(client.target(chunk)).await;
    writing.data(&data.slice(..100_001)).await.unwrap();
    writing.point(false).await.unwrap();
    writing.receipt().await.unwrap();
    drop(writing);
    let disk = cluster.disk(1);
    let info = || disk.stat(POOL, chunk).unwrap().unwrap();
    harness::until(|| info().state == quarry_dataserver::disk::ChunkState::Sealed).await;
    let old = ticket(&client, 1, chunk).await;
    let (_, open) = redeem(old.socket, old.secret).await.unwrap();
    let late = ticket(&client, 1, chunk).await;
    let mut copy = disk.create_copy(POOL, chunk, 300_000).unwrap();
    copy.append(vec![data.clone()], &blocks(&data))
        .await
        .unwrap();
    copy.seal(300_000, Crc::of(&data)).await.unwrap();
    assert!(read(&old, &open) == data[..100_001]);
    // A ticket says where the bytes stood; those of the file that is there now are checked.
    let (_, file) = redeem(late.socket, late.secret).await.unwrap();
    assert_eq!(read(&late, &file).len(), 100_001);
    let new = ticket(&client, 1, chunk).await;
    assert_eq!((new.len, new.crc), (300_000, Crc::of(&data)));
    let (_, file) = redeem(new.socket, new.secret).await.unwrap();
    assert!(read(&new, &file) == data);
    let late = ticket(&client, 1, chunk).await;
    assert!(disk.delete(POOL, chunk, || true).unwrap());
    assert!(read(&new, &file) == data && read(&old, &open) == data[..100_001]);
    assert!(redeem(late.socket, late.secret).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_reused_old_and_foreign_tickets_are_refused() {
    let cluster = Cluster::start(2).await;
    let client = cluster.client("anna");
    let chunk = ChunkId(7);
    let data = Bytes::from(pattern(1, 100_000));
    client.write(chunk, &data).await.unwrap();
    let (good, old) = (
        ticket(&client, 1, chunk).await,
        ticket(&client, 1, chunk).await,
    );
    assert_ne!(good.secret, old.secret);
    let issued = Instant::now();
    let socket = good.socket;
    for at in 0..16 {
        let mut forged = good.secret;
        forged[at] ^= 1;
        assert!(redeem(socket, forged).await.is_none());
    }
    assert!(redeem(socket, [0; 16]).await.is_none());
    assert!(redeem(socket, good.proof).await.is_none());
    let foreign = ticket(&client, 2, chunk).await;
    assert_ne!(foreign.socket, socket);
    assert!(redeem(socket, foreign.secret).await.is_none());
    assert!(redeem(foreign.socket, foreign.secret).await.is_some());
    assert!(redeem(socket, good.secret).await.is_some());
    assert!(redeem(socket, good.secret).await.is_none());
    tokio::time::sleep_until((issued + TICKET_LIFE).into()).await;
    assert!(redeem(socket, old.secret).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_may_read_a_chunk_gets_a_ticket_and_only_for_a_file() {
    let mut cluster = Cluster::start(2).await;
    let (client, other) = (cluster.client("anna"), cluster.client("berta"));
    let chunk = ChunkId(7);
    client
        .write(chunk, &pattern(1, 100_000).into())
        .await
        .unwrap();
    let right = |access| capability(&client.hash, access);
    let stolen = ask(&other, 1, chunk, right(Access::Read)).await;
    assert_code(stolen, Code::BadCapability);
    let written = ask(&client, 1, chunk, right(Access::Write)).await;
    assert_code(written, Code::BadCapability);
    let missing = ask(&client, 1, ChunkId(8), right(Access::Read)).await;
    assert_code(missing, Code::ChunkMissing);
    let small = ChunkId(9);
    let data = Bytes::from(pattern(2, SMALL_CHUNK_LEN_MAX));
    client
        .write_small(client.target(small), data)
        .await
        .unwrap();
    assert_eq!(ask(&client, 1, small, right(Access::Read)).await, Ok(None));

    // Set aside after the ticket, and before the next.
    let early = ticket(&client, 1, chunk).await;
    let disk = cluster.servers[&1].node().disks.get(DiskId(1)).unwrap();
    disk.set_aside(POOL, chunk, "a test").unwrap();
    assert!(redeem(early.socket, early.secret).await.is_none());
    let aside = ask(&client, 1, chunk, right(Access::Read)).await;
    assert_code(aside, Code::ChecksumMismatch);
    // No member any more.
    cluster.place(&[1]).await;
    let former = ask(&client, 2, chunk, right(Access::Read)).await;
    assert_code(former, Code::NotMember);
    // The socket goes with the server.
    let name = socket_name(&early.socket);
    let address = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
    assert!(UnixStream::connect_addr(&address).is_ok());
    cluster.stop_server(1).await;
    assert!(UnixStream::connect_addr(&address).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_that_nobody_redeems_are_bounded_and_harm_only_themselves() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client("anna");
    let chunk = ChunkId(7);
    let data = Bytes::from(pattern(1, 100_000));
    client.write(chunk, &data).await.unwrap();
    let right = || capability(&client.hash, Access::Read);
    let mut given = 0;
    let begun = Instant::now();
    while ask(&client, 1, chunk, right()).await.unwrap().is_some() {
        given += 1;
        assert!(given <= TICKETS_MAX, "there is no end to them");
    }
    let by_now = begun.elapsed();
    assert!(
        given == TICKETS_MAX || by_now > TICKET_LIFE,
        "{given} in {by_now:?}"
    );
    let whole = client.wanted(DiskId(1), chunk, 0, 100_000);
    assert!(client.read(whole).await.unwrap() == data);
    tokio::time::sleep(TICKET_LIFE).await;
    let ticket = ticket(&client, 1, chunk).await;
    assert!(redeem(ticket.socket, ticket.secret).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_without_a_ticket_are_let_go_soon_and_harm_nobody() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client("anna");
    let chunk = ChunkId(7);
    let data = Bytes::from(pattern(1, 100_000));
    client.write(chunk, &data).await.unwrap();
    let socket = ticket(&client, 1, chunk).await.socket;
    // As many as are listened to at once say nothing, or stop in the middle.
    let begun = Instant::now();
    let mut silent: Vec<UnixStream> = (0..REDEEMED_AT_ONCE_MAX).map(|_| call(&socket)).collect();
    for (at, stream) in silent.iter_mut().enumerate() {
        stream.write_all(&[7; 15][..at % 16]).unwrap();
    }
    // What others do goes on meanwhile.
    let whole = client.wanted(DiskId(1), chunk, 0, 100_000);
    assert!(client.read(whole).await.unwrap() == data);
    let closed = tokio::task::spawn_blocking(move || {
        for mut stream in silent {
            // A socket that is closed over unread bytes is reset.
            let said = stream.read(&mut [0; 64]).unwrap_or(0);
            assert_eq!(said, 0, "something was said");
        }
    });
    closed.await.unwrap();
    let took = begun.elapsed();
    assert!(took < REDEEM_WAIT * 5, "{took:?}");
    // Garbage of all lengths, and calls that end at once.
    let noise = tokio::task::spawn_blocking(move || {
        for len in [0, 1, 15, 16, 17, 100, 5_000, 100_000] {
            let mut stream = call(&socket);
            // It may have been closed by then.
            stream.write_all(&pattern(len as u64, len)).ok();
            stream.shutdown(std::net::Shutdown::Write).ok();
            assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0);
        }
    });
    noise.await.unwrap();
    let ticket = ticket(&client, 1, chunk).await;
    let (_, file) = redeem(ticket.socket, ticket.secret).await.unwrap();
    assert!(read(&ticket, &file) == data);
}
