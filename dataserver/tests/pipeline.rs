//! Three dataservers over loopback: what is acknowledged is on all of them, and nothing else is said.

mod harness;

use bytes::Bytes;
use harness::client::before;
use harness::{Cluster, POOL, assert_code, capability, capability_key, pattern, until};
use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, DiskId, Epoch, KeyNumber, PoolId};
use quarry_common::map::MemberState;
use quarry_common::net::{BulkReader, BulkWriter, StreamType};
use quarry_common::token::{Access, Capability, Key};
use quarry_common::wire::data::frame;
use quarry_common::wire::data::{ReplicaState, WriteReply};
use quarry_common::{Code, Kind};
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_reads_back_from_every_member() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client("anna");
    let data = Bytes::from(pattern(1, 3_500_001));
    let chunk = ChunkId(7);
    let mut writing = client.open(client.target(chunk)).await;
    writing.data(&data.slice(..1_234_567)).await.unwrap();
    writing.point(false).await.unwrap();
    let flushed = writing.receipt().await.unwrap();
    assert_eq!(flushed.len, 1_234_567);
    cluster.check(&flushed);
    for disk in 1..=3 {
        let found = client.stat(DiskId(disk), chunk).await.unwrap().unwrap();
        assert_eq!((found.len, found.state), (1_234_567, ReplicaState::Open));
    }
    writing.data(&data.slice(1_234_567..)).await.unwrap();
    writing.point(true).await.unwrap();
    let receipt = writing.receipt().await.unwrap();
    assert_eq!((receipt.len, receipt.crc), (3_500_001, Crc::of(&data)));
    cluster.check(&receipt);
    let again = client.write(chunk, &data).await;
    assert_code(again, Code::ChunkUsed);
    for disk in [1, 2, 3].map(DiskId) {
        let whole = client.read(client.wanted(disk, chunk, 0, 3_500_001)).await;
        assert!(whole.unwrap() == data, "disk {disk}");
        for (offset, len) in [(0, 1), (65_535, 2), (1_234_560, 100), (3_500_000, 1)] {
            let expected = &data[offset as usize..(offset + len) as usize];
            let wanted = client.wanted(disk, chunk, offset, len);
            assert_eq!(client.read(wanted.clone()).await.unwrap(), expected);
            assert_eq!(client.read_small(wanted).await.unwrap(), expected);
        }
        let beyond = client.read(client.wanted(disk, chunk, 3_500_000, 2)).await;
        assert_code(beyond, Code::ChunkMissing);
        let info = client.stat(disk, chunk).await.unwrap().unwrap();
        assert_eq!(
            (info.len, info.crc, info.state),
            (receipt.len, receipt.crc, ReplicaState::Sealed)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_chunks_read_back_from_every_member() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client("anna");
    for (chunk, len) in [(1, 1), (2, 4096), (3, 65_536)] {
        let chunk = ChunkId(chunk);
        let data = Bytes::from(pattern(chunk.0, len));
        let written = client.write_small(client.target(chunk), data.clone()).await;
        cluster.check(&written.unwrap());
        for disk in [1, 2, 3].map(DiskId) {
            let wanted = client.wanted(disk, chunk, 0, len as u32);
            assert!(client.read_small(wanted.clone()).await.unwrap() == data);
            assert!(client.read(wanted).await.unwrap() == data);
        }
        let again = client.write_small(client.target(chunk), data).await;
        assert_code(again, Code::ChunkUsed);
    }
    for bad in [0, 65_537] {
        let data = Bytes::from(vec![1; bad]);
        let written = client.write_small(client.target(ChunkId(9)), data).await;
        assert_code(written, Code::Malformed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stops_in_the_middle_is_named_and_acknowledges_nothing_more() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client("anna");
    let chunk = ChunkId(1);
    let mut writing = client.open(client.target(chunk)).await;
    writing.data(&pattern(1, 100_000).into()).await.unwrap();
    writing.point(false).await.unwrap();
    cluster.check(&writing.receipt().await.unwrap());
    writing.data(&pattern(2, 100_000).into()).await.unwrap();
    cluster.stop_server(3).await;
    // The stream may be closed already.
    drop(writing.point(true).await);
    let (disk, error) = writing.receipt_or_failure().await.unwrap_err();
    assert_eq!(disk, Some(DiskId(3)), "{error}");
    for disk in [1, 2].map(DiskId) {
        // What was acknowledged stays, and nothing after it.
        let mut info = client.stat(disk, chunk).await.unwrap().unwrap();
        for _ in 0..200 {
            if info.state == ReplicaState::Sealed {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            info = client.stat(disk, chunk).await.unwrap().unwrap();
        }
        assert_eq!(info.state, ReplicaState::Sealed);
        assert!(info.len == 100_000, "disk {disk}: {}", info.len);
    }
    // The next one is refused at once, until the members change.
    let (disk, _) = refused(&cluster, ChunkId(2)).await;
    assert_eq!(disk, Some(DiskId(3)));
    let data = Bytes::from_static(b"x");
    let small = client.write_small(client.target(ChunkId(3)), data).await;
    let text = assert_code(small, Code::Unreachable);
    assert!(text.contains("disk 3"), "{text}");
    cluster.place(&[1, 2]).await;
    let data = Bytes::from(pattern(4, 200_000));
    cluster.check(&client.write(ChunkId(4), &data).await.unwrap());
}

async fn refused(cluster: &Cluster, chunk: ChunkId) -> (Option<DiskId>, quarry_common::Error) {
    let client = cluster.client("anna");
    let mut writing = client.open(client.target(chunk)).await;
    writing.receipt_or_failure().await.unwrap_err()
}

/// The refusal travels against the data: whoever sends meets a stream that takes no more before, or while,
/// it reads why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_refuses_a_chunk_is_named_with_its_reason_however_much_is_being_sent() {
    let cluster = Cluster::start(2).await;
    let client = cluster.client("anna");
    let data = Bytes::from(pattern(1, 6_000_000));
    cluster.place(&[2]).await;
    for chunk in (1..=40).map(ChunkId) {
        let small = client.write_small(client.target(chunk), data.slice(..10));
        small.await.unwrap();
    }
    // By the head itself, and by the member after it.
    for (members, chunks) in [([2, 1], 1..=20), ([1, 2], 21..=40)] {
        cluster.place(&members).await;
        for chunk in chunks.map(ChunkId) {
            let (disk, error) = client.write_or_failure(chunk, &data).await.unwrap_err();
            let refused = (disk, error.code);
            assert_eq!(refused, (Some(DiskId(2)), Code::ChunkUsed), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_foreign_and_expired_capabilities_are_refused() {
    let cluster = Cluster::start(2).await;
    let client = cluster.client("anna");
    let thief = cluster.client("thief");
    let data = Bytes::from(pattern(1, 100));
    let all = ChunkId(0)..=ChunkId(u64::MAX);
    let issue = |key: &Key, access, pool, chunks, until| {
        Capability::issue(key, &client.hash, access, pool, chunks, until)
    };
    let key = capability_key();
    let other_key = Key {
        secret: [7; 32],
        ..key.clone()
    };
    let unknown_key = Key {
        number: KeyNumber(9),
        ..key.clone()
    };
    let (write, read) = (Access::Write, Access::Read);
    let bad = [
        issue(&other_key, write, POOL, all.clone(), u64::MAX),
        issue(&unknown_key, write, POOL, all.clone(), u64::MAX),
        issue(&key, read, POOL, all.clone(), u64::MAX),
        issue(&key, write, PoolId(2), all.clone(), u64::MAX),
        issue(&key, write, POOL, ChunkId(0)..=ChunkId(4), u64::MAX),
        issue(&key, write, POOL, all.clone(), 1_000_000_000),
        capability(&thief.hash, write),
    ];
    for capability in bad {
        let mut target = client.target(ChunkId(5));
        target.capability = capability.clone();
        let small = client.write_small(target.clone(), data.clone()).await;
        assert_code(small, Code::BadCapability);
        let mut writing = client.open(target).await;
        assert_code(writing.receipt().await, Code::BadCapability);
        let mut wanted = client.wanted(DiskId(1), ChunkId(5), 0, 1);
        wanted.capability = capability;
        if wanted.capability.access == write {
            assert_code(client.read(wanted).await, Code::BadCapability);
        }
    }
    // To act for somebody is the privilege of dataservers.
    let mut target = thief.target(ChunkId(5));
    target.capability = capability(&client.hash, write);
    target.on_behalf_of = Some(client.hash);
    assert_code(thief.write_small(target, data).await, Code::BadCapability);
    assert_eq!(client.stat(DiskId(1), ChunkId(5)).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_of_another_epoch_is_refused_or_waits_for_the_map() {
    let cluster = Cluster::start(2).await;
    let client = cluster.client("anna");
    let data = Bytes::from(pattern(1, 1000));
    let mut old = client.target(ChunkId(1));
    old.pg_epoch = before(old.pg_epoch);
    let small = client.write_small(old.clone(), data.clone()).await;
    assert_code(small, Code::OldMap);
    assert_code(client.open(old).await.receipt().await, Code::OldMap);
    // The map of the metaserver is newer than the servers', and so is the client's.
    cluster
        .meta
        .place(&[(2, MemberState::Complete), (1, MemberState::Complete)]);
    let newer = client.target(ChunkId(2));
    assert_eq!(newer.disk, DiskId(2));
    cluster.check(&client.write_small(newer, data.clone()).await.unwrap());
    let mut invented = client.target(ChunkId(3));
    invented.pg_epoch = Epoch(1 << 40);
    let error = client.write_small(invented, data).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Retry, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seal_is_refused_when_the_members_changed_during_the_write() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client("anna");
    let mut writing = client.open(client.target(ChunkId(1))).await;
    writing.data(&pattern(1, 300_000).into()).await.unwrap();
    writing.point(false).await.unwrap();
    writing.receipt().await.unwrap();
    cluster.place(&[1, 2]).await;
    writing.point(true).await.unwrap();
    assert_code(writing.receipt().await, Code::OldMap);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_writes_to_the_head_and_nowhere_else() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client("anna");
    cluster.place(&[1, 2]).await;
    let data = Bytes::from(pattern(1, 100));
    for disk in [2, 3].map(DiskId) {
        let mut target = client.target(ChunkId(1));
        target.disk = disk;
        let small = client.write_small(target.clone(), data.clone()).await;
        assert_code(small, Code::NotMember);
        assert_code(client.open(target).await.receipt().await, Code::NotMember);
    }
    let mut target = client.target(ChunkId(1));
    let peer = client.peer(DiskId(1)).await;
    target.disk = DiskId(77);
    let (send, recv) = peer.connection.open(StreamType::WriteChunk).await.unwrap();
    let (mut writer, mut reader) = (BulkWriter::new(send), BulkReader::new(recv));
    let header = quarry_common::wire::data::WriteChunk {
        target,
        capacity: 100,
    };
    writer.write_message(&header).await.unwrap();
    let reply: WriteReply = reader.read_message("a reply").await.unwrap().unwrap();
    assert!(matches!(reply, WriteReply::Failed { error, .. } if error.code == Code::NotMember));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_damaged_on_the_way_reaches_no_disk() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client("anna");
    let data = Bytes::from(pattern(1, 700_000));
    let mut crcs = frame::compute_crcs(0, std::slice::from_ref(&data));
    crcs[3].0 ^= 1;
    let mut writing = client.open(client.target(ChunkId(1))).await;
    writing.frame(data.clone(), &crcs).await.unwrap();
    let (disk, error) = writing.receipt_or_failure().await.unwrap_err();
    assert_eq!(
        (disk, error.code),
        (Some(DiskId(1)), Code::DamagedOnTheWay),
        "{error}"
    );
    // Good frames under a wrong sum of all are no better.
    let mut writing = client.open(client.target(ChunkId(2))).await;
    writing.data(&data).await.unwrap();
    writing.crc.0 ^= 1;
    writing.point(true).await.unwrap();
    assert_code(writing.receipt().await, Code::DamagedOnTheWay);
    for disk in [1, 2, 3].map(DiskId) {
        for chunk in [1, 2].map(ChunkId) {
            let read = client.read(client.wanted(disk, chunk, 0, 1)).await;
            assert_code(read, Code::ChunkMissing);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_closes_its_stream_and_harms_nothing_else() {
    let cluster = Cluster::start(2).await;
    let client = cluster.client("anna");
    let peer = client.peer(DiskId(1)).await;
    for seed in 0..30 {
        let garbage = Bytes::from(pattern(seed, 1 + (seed as usize * 37) % 3000));
        for kind in StreamType::ALL {
            let (send, _recv) = peer.connection.open(kind).await.unwrap();
            let mut writer = BulkWriter::new(send);
            // It may be refused before it is written.
            drop(writer.write(garbage.clone()).await);
            drop(writer.finish());
        }
        let mut writing = client.open(client.target(ChunkId(1000 + seed))).await;
        drop(writing.writer.write(garbage).await);
        drop(writing.writer.finish());
        let reply = writing.reader.read_message::<WriteReply>("a reply").await;
        assert!(
            !matches!(reply, Ok(Some(WriteReply::Ack { .. }))),
            "{reply:?}"
        );
    }
    assert!(!peer.connection.is_closed());
    let data = Bytes::from(pattern(1, 100_000));
    cluster.check(&client.write(ChunkId(1), &data).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_should_not_have_a_chunk_says_so_and_one_that_should_is_missing_it() {
    let cluster = Cluster::start(5).await;
    let client = cluster.client("anna");
    use MemberState::{Complete, Filling};
    // The second is to leave again: it fetches nothing.
    *cluster.meta.state.target.lock().unwrap() = vec![1, 3, 4];
    cluster
        .place_as(&[(1, Complete), (2, Filling), (3, Complete), (4, Complete)])
        .await;
    // The third stays as a holder.
    cluster.exchange(&[1, 2, 4]).await;
    let expected = [
        (1, Code::ChunkMissing),
        (2, Code::NotYet),
        (3, Code::NotYet),
        (4, Code::ChunkMissing),
        (5, Code::NotMember),
    ];
    for (disk, code) in expected {
        let wanted = client.wanted(DiskId(disk), ChunkId(1), 0, 1);
        assert_code(client.read(wanted.clone()).await, code);
        assert_code(client.read_small(wanted).await, code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_metaservers_writes_end_with_the_lease_and_reads_go_on() {
    let cluster = Cluster::start(2).await;
    let client = cluster.client("anna");
    let data = Bytes::from(pattern(1, 100));
    let target = client.target(ChunkId(1));
    client.write_small(target, data.clone()).await.unwrap();
    let mut writing = client.open(client.target(ChunkId(2))).await;
    writing.data(&data).await.unwrap();
    cluster.meta.state.silent.store(true, Ordering::SeqCst);
    let node = std::sync::Arc::clone(cluster.servers[&1].node());
    until(|| node.membership.check_lease().is_err()).await;
    let small = client.write_small(client.target(ChunkId(3)), data.clone());
    assert_code(small.await, Code::NoLease);
    writing.point(true).await.unwrap();
    assert_code(writing.receipt().await, Code::NoLease);
    let wanted = client.wanted(DiskId(2), ChunkId(1), 0, 100);
    assert!(client.read(wanted).await.unwrap() == data);
    cluster.meta.state.silent.store(false, Ordering::SeqCst);
    until(|| node.membership.check_lease().is_ok()).await;
}
