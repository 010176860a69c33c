//! What a member answers metaservers and other dataservers: confirmations, listings, reads for repair.

use super::*;
use crate::harness::client::before;
use crate::harness::{CLUSTER, receipt_key};
use quarry_common::identity::PeerName;
use quarry_common::ids::{DiskId, Epoch, PgId, ServerId};
use quarry_common::map::pg_of;
use quarry_common::token::receipt::Durable;
use quarry_common::token::{Capability, Receipt};
use quarry_common::wire::data::{DataReply, DataRequest, ListChunks, ReadChunk, ReplicaState};

/// The metaserver's word for word: a present member confirms what former ones wrote.
async fn confirm(cluster: &Cluster, disk: u32, wanted: Durable) -> quarry_common::Result<Receipt> {
    let name = PeerName::metaserver(CLUSTER, ServerId(1));
    let meta = cluster.with_identity(&name);
    confirm_as(&meta, disk, wanted).await
}

async fn confirm_as(client: &Client, disk: u32, wanted: Durable) -> quarry_common::Result<Receipt> {
    let Durable {
        pool,
        chunk,
        epoch,
        len,
        crc,
    } = wanted;
    let disk = DiskId(disk);
    let request = DataRequest::Confirm {
        disk,
        pool,
        chunk,
        epoch,
        len,
        crc,
    };
    match client.ask(disk, &request).await? {
        DataReply::Written { macs } => Ok(wanted.receipt(macs)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_present_member_confirms_what_it_has_or_can_fetch_and_nothing_else() {
    let mut cluster = Cluster::bare().await;
    for server in 1..=4 {
        cluster.start_server(server).await;
    }
    cluster.place(&[1, 2]).await;
    let client = cluster.client("anna");
    let mut written = Written::new();
    fill(&client, 100, &mut written).await;
    // A chunk that goes on after its flush, on one disk: nobody acknowledged the tail.
    let data = Bytes::from(pattern(7, 500_000));
    let mut writing = client.open(client.target(ChunkId(7))).await;
    writing.data(&data.slice(..200_001)).await.unwrap();
    writing.point(false).await.unwrap();
    let flushed = writing.receipt().await.unwrap();
    // It is a substitute that is not to stay: it does not fill.
    *cluster.meta.state.target.lock().unwrap() = vec![1, 2, 4];
    let epoch = cluster.exchange(&[1, 2, 3]).await;
    drop(writing);
    let durable = |chunk: u64, data: &[u8]| Durable {
        pool: POOL,
        chunk: ChunkId(chunk),
        epoch,
        len: data.len() as u32,
        crc: Crc::of(data),
    };
    for (chunk, data) in &written {
        let mut macs = Vec::new();
        for disk in [1, 2, 3] {
            let confirmed = confirm(&cluster, disk, durable(*chunk, data))
                .await
                .unwrap();
            macs.extend(confirmed.macs);
        }
        cluster.check(&durable(*chunk, data).receipt(macs));
        assert!(has_whole(cluster.disk(3), *chunk, data));
    }
    // As far as it was flushed, and by what is longer than it as well.
    let prefix = &data[..200_001];
    assert_eq!((flushed.len, flushed.crc), (200_001, Crc::of(prefix)));
    for disk in [1, 2, 3] {
        confirm(&cluster, disk, durable(7, prefix)).await.unwrap();
        let part = durable(7, &data[..100_000]);
        confirm(&cluster, disk, part).await.unwrap();
    }
    assert!(read(cluster.disk(3), 7, 200_001) == prefix);
    assert!(!cluster.meta.is_clean());
    // Not what nobody has, not with another sum, not of another epoch, not by a disk that is no member.
    for disk in [1, 3] {
        let more = confirm(&cluster, disk, durable(7, &data)).await;
        assert_code(more, Code::ChunkMissing);
        let mut other = durable(105, &written[&105]);
        other.crc.0 ^= 1;
        assert_code(confirm(&cluster, disk, other).await, Code::ChunkMissing);
        let unknown = confirm(&cluster, disk, durable(9_999, b"x")).await;
        assert_code(unknown, Code::ChunkMissing);
        let mut old = durable(105, &written[&105]);
        old.epoch = before(epoch);
        assert_code(confirm(&cluster, disk, old).await, Code::OldMap);
        assert!(has_whole(cluster.disk(disk), 105, &written[&105]));
    }
    let foreign = confirm(&cluster, 4, durable(105, &written[&105])).await;
    assert_code(foreign, Code::NotMember);
    let by_client = confirm_as(&client, 1, durable(105, &written[&105])).await;
    assert_code(by_client, Code::WrongRole);
    let name = PeerName::dataserver(CLUSTER, ServerId(2));
    let by_server = confirm_as(&cluster.with_identity(&name), 1, durable(105, b"x")).await;
    assert_code(by_server, Code::WrongRole);
    let word = confirm(&cluster, 3, durable(105, &written[&105]))
        .await
        .unwrap();
    assert_eq!(word.macs[0].key, receipt_key(ServerId(3)).number);
}

/// Whoever needs a disk that hangs waits for a turn, and no longer than a turn may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_copies_and_confirmations_of_a_disk_wait_for_their_turns() {
    let mut cluster = Cluster::bare().await;
    for server in 1..=4 {
        cluster.start_server(server).await;
    }
    cluster.place(&[1, 2]).await;
    let client = cluster.client("anna");
    let data = Bytes::from(pattern(7, 300_000));
    client.write(ChunkId(7), &data).await.unwrap();
    // Disk 3 does not fill: it is not to stay.
    *cluster.meta.state.target.lock().unwrap() = vec![1, 2, 4];
    let epoch = cluster.exchange(&[1, 2, 3]).await;
    let (release, hanging) = std::sync::mpsc::channel::<()>();
    let hanging = std::sync::Arc::new(std::sync::Mutex::new(hanging));
    let node = std::sync::Arc::clone(cluster.servers[&3].node());
    let mut hung = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (hanging, node) = (hanging.clone(), node.clone());
        hung.spawn(async move {
            let disk = node.disks.get(DiskId(3)).unwrap();
            let hang = move |_: &Disk| Ok(hanging.lock().unwrap().recv().is_ok());
            node.turns.take(disk, hang).await
        });
    }
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let durable = Durable {
        pool: POOL,
        chunk: ChunkId(7),
        epoch,
        len: data.len() as u32,
        crc: Crc::of(&data),
    };
    let name = PeerName::dataserver(CLUSTER, ServerId(2));
    let server = cluster.with_identity(&name);
    let group = pg_of(ChunkId(7), 8);
    let mut confirming = Box::pin(confirm(&cluster, 3, durable));
    let mut listing = Box::pin(list(&server, 3, vec![(group, epoch)]));
    let soon = std::time::Duration::from_millis(300);
    assert!(tokio::time::timeout(soon, &mut confirming).await.is_err());
    assert!(tokio::time::timeout(soon, &mut listing).await.is_err());
    // The other disks go on.
    confirm(&cluster, 1, durable).await.unwrap();
    drop(release);
    confirming.await.unwrap();
    listing.await.unwrap();
    assert!(has_whole(cluster.disk(3), 7, &data));
}

async fn list(
    client: &Client,
    disk: u32,
    groups: Vec<(PgId, Epoch)>,
) -> quarry_common::Result<Vec<(ChunkId, u32, ReplicaState)>> {
    let disk = DiskId(disk);
    let wanted = ListChunks {
        disk,
        pool: POOL,
        groups,
        from: None,
    };
    match client.ask(disk, &DataRequest::List(wanted)).await? {
        DataReply::Listed { chunks, next: None } => Ok(chunks
            .into_iter()
            .map(|(_, listed)| (listed.chunk, listed.info.len, listed.info.state))
            .collect()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_takes_over_the_listers_epoch_before_it_looks() {
    let mut cluster = Cluster::start(3).await;
    cluster.start_server(4).await;
    let client = cluster.client("anna");
    let chunk = ChunkId(7);
    let group = pg_of(chunk, 8);
    let mut writing = client.open(client.target(chunk)).await;
    writing.data(&pattern(1, 300_000).into()).await.unwrap();
    writing.point(false).await.unwrap();
    writing.receipt().await.unwrap();
    let lister = cluster.with_identity(&PeerName::dataserver(CLUSTER, ServerId(4)));
    let old = cluster.epoch_of(chunk);
    let open = (chunk, 300_000, ReplicaState::Open);
    assert_eq!(list(&lister, 1, vec![(group, old)]).await.unwrap(), [open]);
    // The metaservers have changed the members, and disk 1 does not know it yet: the listing tells it.
    let epoch = cluster.meta.exchange(&[1, 2, 4]);
    assert_eq!(
        list(&lister, 1, vec![(group, epoch)]).await.unwrap(),
        [open]
    );
    assert!(cluster.servers[&1].node().membership.map().epoch >= epoch);
    // What is sealed after the listing is acknowledged by nobody.
    writing.point(true).await.unwrap_or_default();
    assert_code(writing.receipt().await, Code::OldMap);
    assert_code(list(&lister, 1, vec![(group, old)]).await, Code::OldMap);
    let invented = list(&lister, 1, vec![(group, Epoch(1 << 40))]).await;
    assert_code(invented, Code::Overloaded);
    for groups in [vec![], vec![(group, epoch); 2], vec![(PgId(9), epoch)]] {
        assert!(list(&lister, 1, groups).await.is_err());
    }
    assert_code(
        list(&client, 1, vec![(group, epoch)]).await,
        Code::WrongRole,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dataserver_reads_for_repair_only_in_groups_that_it_has_a_place_in() {
    let mut cluster = Cluster::start(2).await;
    cluster.start_server(3).await;
    let client = cluster.client("anna");
    let data = Bytes::from(pattern(1, 100_000));
    client.write(ChunkId(1), &data).await.unwrap();
    let wanted = ReadChunk {
        disk: DiskId(1),
        pool: POOL,
        chunk: ChunkId(1),
        capability: Capability::none(POOL, ChunkId(1)),
        offset: 0,
        len: 100_000,
    };
    let stranger = cluster.with_identity(&PeerName::dataserver(CLUSTER, ServerId(3)));
    assert_code(stranger.read(wanted.clone()).await, Code::NotMember);
    let member = cluster.with_identity(&PeerName::dataserver(CLUSTER, ServerId(2)));
    assert!(member.read(wanted.clone()).await.unwrap() == data);
    // A client needs its capability.
    assert_code(client.read(wanted).await, Code::BadCapability);
}
