//! Members that come, go, and lose what they had: in the end every member holds every chunk.

mod harness;

use bytes::Bytes;
use harness::client::{Client, before};
use harness::{CLUSTER, Cluster, POOL, assert_code, pattern, receipt_key, until};
use quarry_common::Code;
use quarry_common::checksum::Crc;
use quarry_common::identity::PeerName;
use quarry_common::ids::{ChunkId, DiskId, Epoch, PgId, ServerId};
use quarry_common::map::pg_of;
use quarry_common::token::receipt::Durable;
use quarry_common::token::{Capability, Receipt};
use quarry_common::wire::data::{DataReply, DataRequest, ListChunks, ReadChunk, ReplicaState};
use quarry_dataserver::disk::{ChunkState, Disk};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What was written, by chunk.
type Written = BTreeMap<u64, Bytes>;

/// Writes chunks of many lengths, as files and in segments.
async fn fill(client: &Client, first: u64, written: &mut Written) {
    for at in 0..24 {
        let (chunk, len) = (
            first + at,
            [1, 4_000, 65_536, 65_537, 300_000, 2_500_001][at as usize % 6],
        );
        let data = Bytes::from(pattern(chunk, len));
        let done = if len <= 65_536 {
            let target = client.target(ChunkId(chunk));
            client.write_small(target, data.clone()).await.map(drop)
        } else {
            client.write(ChunkId(chunk), &data).await.map(drop)
        };
        match done {
            // A filling member got it from its source sooner than from the pipeline: a writer takes another id.
            Err(error) if error.code == Code::ChunkUsed => continue,
            done => done.unwrap(),
        }
        written.insert(chunk, data);
    }
}

/// Refers to everything that was written.
fn refer(cluster: &Cluster, written: &Written) {
    let mut referenced = cluster.meta.state.referenced.lock().unwrap();
    for (chunk, data) in written {
        referenced.insert(ChunkId(*chunk), (data.len() as u32, Crc::of(data)));
    }
}

fn read(disk: &Disk, chunk: u64, len: usize) -> Vec<u8> {
    try_read(disk, chunk, len).unwrap()
}

fn try_read(disk: &Disk, chunk: u64, len: usize) -> quarry_common::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let at = bytes.len() as u32;
        let part_len = (len as u32 - at).min(1 << 20);
        let part = disk.read(POOL, ChunkId(chunk), at, part_len)?;
        bytes.extend_from_slice(&part.data);
    }
    // Whole blocks come.
    bytes.truncate(len);
    Ok(bytes)
}

fn has(disk: &Disk, chunk: u64, data: &Bytes) -> bool {
    let found = disk.prefix_crc(POOL, ChunkId(chunk), data.len() as u32);
    found.is_ok_and(|crc| crc == Some(Crc::of(data)))
}

fn check(cluster: &Cluster, server: u32, written: &Written) {
    for (chunk, data) in written {
        let found = read(cluster.disk(server), *chunk, data.len());
        assert!(found == *data, "chunk {chunk} of disk {server}");
    }
}

fn chunk_file(cluster: &Cluster, server: u32, chunk: u64) -> PathBuf {
    let folder = cluster.disk_path(server).join("chunks");
    let name = format!("{:04x}-{chunk:016x}", POOL.0);
    folder.join(format!("{:02x}", chunk as u8)).join(name)
}

/// Flips a bit of a chunk that has a file.
fn damage(cluster: &Cluster, server: u32, chunk: u64) {
    let path = chunk_file(cluster, server, chunk);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[65_536 + 1_000] ^= 4;
    std::fs::write(&path, bytes).unwrap();
}

async fn clean(cluster: &Cluster) {
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), async {
        while !cluster.meta.is_clean() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("it never became clean");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_gets_everything_and_the_one_that_left_deletes_it() {
    let mut cluster = Cluster::bare().await;
    for server in 1..=4 {
        cluster.start_server(server).await;
    }
    cluster.place(&[1, 2, 3]).await;
    let client = cluster.client("anna");
    let mut written = Written::new();
    fill(&client, 100, &mut written).await;
    // One that is still open, as far as it was flushed.
    let open = Bytes::from(pattern(7, 400_000));
    let mut writing = client.open(client.target(ChunkId(7))).await;
    writing.data(&open).await.unwrap();
    writing.point(false).await.unwrap();
    writing.receipt().await.unwrap();
    written.insert(7, open);
    refer(&cluster, &written);
    // One that nobody else has: whoever leaves keeps it, since nobody has said that it is not needed.
    let own = Bytes::from(pattern(8, 1_000));
    let crc = Crc::of(&own);
    let mut copy = cluster
        .disk(3)
        .create_copy(POOL, ChunkId(8), 1_000)
        .unwrap();
    copy.append(vec![own.clone()], &[crc]).await.unwrap();
    copy.seal(1_000, crc).await.unwrap();

    let epoch = cluster.exchange(&[1, 2, 4]).await;
    // While it fills, new writes go to all three.
    fill(&client, 200, &mut written).await;
    writing
        .data(&Bytes::from_static(b"more"))
        .await
        .unwrap_or_default();
    writing.point(true).await.unwrap_or_default();
    assert_code(writing.receipt().await, Code::OldMap);
    clean(&cluster).await;
    assert_eq!(cluster.epoch_of(ChunkId(7)), epoch);
    for server in [1, 2, 4] {
        check(&cluster, server, &written);
    }
    // Only what every member has goes, and all of it does.
    let left = cluster.disk(3);
    until(|| left.counts().files + left.counts().small <= 1).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(has(left, 8, &own));
    assert_eq!(left.chunks().count(), 1);
    for server in [1, 2, 4] {
        check(&cluster, server, &written);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_member_and_one_that_was_away_catch_up() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client("anna");
    let mut written = Written::new();
    fill(&client, 100, &mut written).await;
    // Away: the others go on without it.
    cluster.stop_server(3).await;
    cluster.exchange(&[1, 2]).await;
    fill(&client, 200, &mut written).await;
    refer(&cluster, &written);
    cluster.start_server(3).await;
    assert_eq!(
        cluster.disk(3).counts().files + cluster.disk(3).counts().small,
        24
    );
    cluster.exchange(&[1, 2, 3]).await;
    clean(&cluster).await;
    check(&cluster, 3, &written);
    // Emptied.
    cluster.stop_server(2).await;
    std::fs::remove_dir_all(cluster.disk_path(2)).unwrap();
    cluster.exchange(&[1, 3]).await;
    for row in cluster
        .meta
        .map
        .lock()
        .unwrap()
        .rows
        .get_mut(&POOL)
        .unwrap()
    {
        row.holders.clear();
    }
    cluster.start_server(2).await;
    assert_eq!(cluster.disk(2).chunks().count(), 0);
    cluster.exchange(&[1, 2, 3]).await;
    clean(&cluster).await;
    for server in 1..=3 {
        check(&cluster, server, &written);
    }
    // It is durable: a start finds all of it.
    cluster.stop_server(2).await;
    cluster.start_server(2).await;
    check(&cluster, 2, &written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_source_is_passed_over_and_gets_a_good_copy_itself() {
    let mut cluster = Cluster::bare().await;
    for server in 1..=3 {
        cluster.start_server(server).await;
    }
    cluster.place(&[1, 2]).await;
    let client = cluster.client("anna");
    let mut written = Written::new();
    fill(&client, 100, &mut written).await;
    refer(&cluster, &written);
    let large: Vec<u64> = written
        .iter()
        .filter(|(_, data)| data.len() > 65_536)
        .map(|(chunk, _)| *chunk)
        .collect();
    for (at, chunk) in large.iter().enumerate() {
        damage(&cluster, 1 + at as u32 % 2, *chunk);
    }
    cluster.exchange(&[1, 2, 3]).await;
    clean(&cluster).await;
    check(&cluster, 3, &written);
    // Each was either asked and found bad, or never asked: reading finds the others.
    let bad = |server: u32| {
        let disk = cluster.disk(server);
        let is_bad = |chunk: &&u64| !has_whole(disk, **chunk, &written[*chunk]);
        large.iter().filter(is_bad).count()
    };
    for server in [1, 2] {
        for chunk in &large {
            let disk = DiskId(server);
            verify(&client, disk, ChunkId(*chunk)).await.unwrap();
        }
        until(|| bad(server) == 0).await;
    }
    for server in 1..=3 {
        check(&cluster, server, &written);
        assert_eq!(cluster.disk(server).bad_copies(), []);
    }
}

/// Reads all of it, instead of believing the index.
fn has_whole(disk: &Disk, chunk: u64, data: &Bytes) -> bool {
    let info = disk.stat(POOL, ChunkId(chunk)).unwrap();
    let is_good = info.is_some_and(|info| info.state == ChunkState::Sealed);
    is_good && try_read(disk, chunk, data.len()).is_ok_and(|found| found == *data)
}

async fn verify(client: &Client, disk: DiskId, chunk: ChunkId) -> quarry_common::Result<DataReply> {
    let capability = client.wanted(disk, chunk, 0, 1).capability;
    let pool = POOL;
    let request = DataRequest::Verify {
        disk,
        pool,
        chunk,
        capability,
    };
    client.ask(disk, &request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_gone_or_unreadable_comes_back_after_a_read() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client("anna");
    let mut written = Written::new();
    fill(&client, 100, &mut written).await;
    refer(&cluster, &written);
    let large = 105;
    let small = 101;
    assert_eq!(written[&large].len(), 2_500_001);
    // Gone.
    for chunk in [large, small] {
        assert!(
            cluster
                .disk(1)
                .delete(POOL, ChunkId(chunk), || true)
                .unwrap()
        );
        let wanted = client.wanted(DiskId(1), ChunkId(chunk), 0, 10);
        assert_code(client.read(wanted).await, Code::ChunkMissing);
        until(|| has(cluster.disk(1), chunk, &written[&chunk])).await;
    }
    // Set aside, as a scrub would; a small one too.
    for chunk in [large, small] {
        cluster
            .disk(2)
            .set_aside(POOL, ChunkId(chunk), "test")
            .unwrap();
        let wanted = client.wanted(DiskId(2), ChunkId(chunk), 0, 10);
        assert_code(client.read(wanted).await, Code::ChecksumMismatch);
        until(|| has_whole(cluster.disk(2), chunk, &written[&chunk])).await;
    }
    // Cut short.
    let path = chunk_file(&cluster, 3, large);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(100_000).unwrap();
    let wanted = client.wanted(DiskId(3), ChunkId(large), 2_000_000, 10);
    assert_code(client.read(wanted).await, Code::ChecksumMismatch);
    until(|| has_whole(cluster.disk(3), large, &written[&large])).await;
    for server in 1..=3 {
        check(&cluster, server, &written);
    }
}

/// Writes a chunk that was flushed at 200,001 bytes on its way to its end, and refers to all of it.
async fn write_flushed(cluster: &Cluster, client: &Client, chunk: u64, len: usize) -> Bytes {
    let data = Bytes::from(pattern(chunk, len));
    let mut writing = client.open(client.target(ChunkId(chunk))).await;
    for (from, to, seal) in [(0, 200_001, false), (200_001, len, true)] {
        writing.data(&data.slice(from..to)).await.unwrap();
        writing.point(seal).await.unwrap();
        writing.receipt().await.unwrap();
    }
    refer(cluster, &Written::from([(chunk, data.clone())]));
    data
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_which_a_start_found_less_is_whole_again_after_a_read() {
    let mut cluster = Cluster::start(2).await;
    let client = cluster.client("anna");
    let large = write_flushed(&cluster, &client, 7, 2_500_001).await;
    let small = write_flushed(&cluster, &client, 8, 400_000).await;
    cluster.stop_server(1).await;
    std::fs::remove_dir_all(cluster.disk_path(1).join("index")).unwrap();
    for chunk in [7, 8] {
        // The footer, but for its last bytes.
        let path = chunk_file(&cluster, 1, chunk);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() - 4096 + 20;
        bytes[at] ^= 4;
        std::fs::write(&path, bytes).unwrap();
    }
    cluster.start_server(1).await;
    cluster.wait_for(cluster.map().epoch).await;
    let disk = cluster.disk(1);
    for chunk in [7, 8] {
        let info = disk.stat(POOL, ChunkId(chunk)).unwrap().unwrap();
        assert_eq!((info.state, info.len), (ChunkState::Sealed, 200_001));
    }
    let client = cluster.client("berta");
    let wanted = client.wanted(DiskId(1), ChunkId(7), 0, 2_500_001);
    assert_code(client.read(wanted).await, Code::ChunkMissing);
    let wanted = client.wanted(DiskId(1), ChunkId(8), 399_000, 1_000);
    assert_code(client.read_small(wanted).await, Code::ChunkMissing);
    until(|| has_whole(disk, 7, &large) && has_whole(disk, 8, &small)).await;
    // A read beyond what was committed changes nothing.
    let wanted = client.wanted(DiskId(1), ChunkId(8), 400_000, 1_000);
    assert_code(client.read_small(wanted).await, Code::ChunkMissing);
    let wanted = client.wanted(DiskId(1), ChunkId(8), 0, 400_000);
    assert!(client.read(wanted).await.unwrap() == small);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_start_finds_missing_is_fetched_again_if_it_is_referenced() {
    let mut cluster = Cluster::start(2).await;
    let client = cluster.client("anna");
    let mut written = Written::new();
    fill(&client, 100, &mut written).await;
    written.retain(|_, data| data.len() > 65_536);
    refer(&cluster, &written);
    let nobodys = Bytes::from(pattern(7, 100_000));
    client.write(ChunkId(7), &nobodys).await.unwrap();
    cluster.stop_server(1).await;
    for chunk in written.keys().chain([&7]) {
        std::fs::remove_file(chunk_file(&cluster, 1, *chunk)).unwrap();
    }
    cluster.start_server(1).await;
    let disk = cluster.disk(1);
    assert_eq!(disk.report().files_missing, written.len() as u64 + 1);
    until(|| {
        written
            .iter()
            .all(|(chunk, data)| has_whole(disk, *chunk, data))
    })
    .await;
    assert!(!has(disk, 7, &nobodys));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_keeps_what_the_members_have_lost_the_end_of() {
    let mut cluster = Cluster::bare().await;
    for server in 1..=4 {
        cluster.start_server(server).await;
    }
    cluster.place(&[1, 2, 3]).await;
    let client = cluster.client("anna");
    let mut written = Written::new();
    fill(&client, 100, &mut written).await;
    refer(&cluster, &written);
    let data = write_flushed(&cluster, &client, 7, 2_500_001).await;
    for server in [1, 2] {
        let path = chunk_file(&cluster, server, 7);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[65_536 + 1_000_000] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        assert!(!cluster.disk(server).verify(POOL, ChunkId(7)).unwrap());
    }
    cluster.exchange(&[1, 2, 4]).await;
    clean(&cluster).await;
    let left = cluster.disk(3);
    until(|| left.counts().files + left.counts().small == 1).await;
    assert!(has_whole(left, 7, &data));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_give_keeps_no_group_from_being_clean() {
    let mut cluster = Cluster::bare().await;
    for server in 1..=3 {
        cluster.start_server(server).await;
    }
    cluster.place(&[1, 2]).await;
    let client = cluster.client("anna");
    let mut written = Written::new();
    fill(&client, 100, &mut written).await;
    let (garbage, lost) = (105, 111);
    for server in [1, 2] {
        for chunk in [garbage, lost] {
            damage(&cluster, server, chunk);
            cluster
                .disk(server)
                .set_aside(POOL, ChunkId(chunk), "test")
                .unwrap();
        }
    }
    // One to which nobody refers either, and that only looks as if somebody could give it.
    let rotten = 117;
    damage(&cluster, 2, rotten);
    damage(&cluster, 1, rotten);
    cluster
        .disk(1)
        .set_aside(POOL, ChunkId(rotten), "test")
        .unwrap();
    written.remove(&garbage);
    written.remove(&rotten);
    refer(&cluster, &written);
    written.remove(&lost);
    cluster.exchange(&[1, 2, 3]).await;
    clean(&cluster).await;
    check(&cluster, 3, &written);
    let count = || cluster.servers[&3].node().reports()[0].lost;
    until(|| count() == 1).await;
    let reported = || {
        let reports = cluster.meta.state.reports.lock().unwrap();
        reports[&ServerId(3)][0].lost
    };
    until(|| reported() == 1).await;
    let is_aside = |server| {
        let found = cluster.disk(server).stat(POOL, ChunkId(rotten)).unwrap();
        found.unwrap().state == ChunkState::SetAside
    };
    until(|| is_aside(2)).await;
    let count = |server| cluster.servers[&server].node().reports()[0].lost;
    until(|| [1, 2, 3].map(count) == [1, 1, 1]).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!([1, 2, 3].map(count), [1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_copy_that_nobody_can_replace_is_good_again_when_its_disk_reads_it() {
    let mut cluster = Cluster::bare().await;
    for server in 1..=2 {
        cluster.start_server(server).await;
    }
    cluster.place(&[1, 2]).await;
    let client = cluster.client("anna");
    let data = Bytes::from(pattern(7, 300_000));
    client.write(ChunkId(7), &data).await.unwrap();
    refer(&cluster, &Written::from([(7, data.clone())]));
    for server in [1, 2] {
        damage(&cluster, server, 7);
        let disk = cluster.disk(server);
        disk.set_aside(POOL, ChunkId(7), "test").unwrap();
    }
    let lost = |server| cluster.servers[&server].node().reports()[0].lost;
    until(|| [1, 2].map(lost) == [1, 1]).await;
    // The other one gets it from there.
    damage(&cluster, 1, 7);
    until(|| has_whole(cluster.disk(1), 7, &data) && has_whole(cluster.disk(2), 7, &data)).await;
    until(|| [1, 2].map(lost) == [0, 0]).await;
}

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

/// `cargo test --release -p quarry-dataserver --test repair rebuild_rate -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn rebuild_rate() {
    let mut cluster = Cluster::bare_in(harness::build_folder()).await;
    for server in 1..=3 {
        cluster.start_server(server).await;
    }
    cluster.place(&[1, 2]).await;
    let mut client = cluster.client("anna");
    client.capacity = 64 << 20;
    let data = Bytes::from(pattern(1, 64 << 20));
    let (large, small) = (24, 20_000);
    for chunk in 0..large {
        client.write(ChunkId(chunk), &data).await.unwrap();
    }
    for first in (0..small).step_by(100) {
        let writes = (first..first + 100).map(|chunk| {
            let target = client.target(ChunkId(1_000 + chunk));
            client.write_small(target, data.slice(..4_096))
        });
        let writing: Vec<_> = writes.map(Box::pin).collect();
        for write in writing {
            write.await.unwrap();
        }
    }
    // Clients have gone.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let began = std::time::Instant::now();
    cluster.exchange(&[1, 2, 3]).await;
    let counts = || cluster.disk(3).counts();
    let (mut files_at, mut small_at) = (None, None);
    while !cluster.meta.is_clean() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        files_at = files_at.or((counts().files == large).then(|| began.elapsed()));
        small_at = small_at.or((counts().small == small).then(|| began.elapsed()));
    }
    let took = began.elapsed();
    println!(
        "{} MiB in {large} files and {small} chunks of 4 KiB, mixed, in {took:?} (files {files_at:?}, small {small_at:?})",
        large * 64
    );
    let path = cluster.disk_path(1).join("limit");
    let began = std::time::Instant::now();
    let written = std::process::Command::new("dd")
        .args([
            "if=/dev/zero",
            "bs=1M",
            "count=1536",
            "oflag=direct",
            "conv=fdatasync",
            "status=none",
        ])
        .arg(format!("of={}", path.display()))
        .status();
    assert!(written.unwrap().success());
    println!("the disk writes 1536 MiB in {:?}", began.elapsed());
}
