//! Copies that are damaged, gone, cut short or lost: who finds them, and what takes their place.

use super::*;
use crate::harness::until;
use quarry_common::ids::{DiskId, ServerId};
use quarry_common::wire::data::{DataReply, DataRequest};

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
