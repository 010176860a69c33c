//! Members that come, go and catch up.

use super::*;
use crate::harness::until;

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
