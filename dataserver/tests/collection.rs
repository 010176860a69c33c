//! A disk deletes what the metaservers have doomed, and asks about what they may not know.

mod harness;

use bytes::Bytes;
use harness::{Cluster, POOL, pattern, until};
use quarry_common::ids::{ChunkId, DiskId};
use quarry_common::map::pg_of;
use quarry_dataserver::Dataserver;
use quarry_dataserver::disk::{ChunkState, Disk, DiskOptions};

const OPTIONS: DiskOptions = DiskOptions {
    direct_io: false,
    free_percent: 0,
};

/// Two dataservers that look for work every second, with chunks 1 (large), 2 (small) and 3 (large).
async fn begun() -> Cluster {
    let mut cluster = Cluster::bare().await;
    for server in [1, 2] {
        let mut config = cluster.config(server);
        config.collect_every_seconds = 1;
        let started = Dataserver::start(config, cluster.identity_of(server)).await;
        cluster.servers.insert(server, started.unwrap());
    }
    cluster.place(&[1, 2]).await;
    let client = cluster.client("anna");
    for chunk in [1, 3] {
        let data = pattern(chunk, 200_000).into();
        client.write(ChunkId(chunk), &data).await.unwrap();
    }
    let small = client.write_small(client.target(ChunkId(2)), pattern(2, 3_000).into());
    small.await.unwrap();
    cluster
}

fn disk(cluster: &Cluster, id: u32) -> Disk {
    let node = cluster.servers[&id].node();
    node.disks.get(DiskId(id)).unwrap().clone()
}

fn has(disk: &Disk, chunk: u64) -> bool {
    disk.stat(POOL, ChunkId(chunk)).unwrap().is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_moved_to_the_trash_and_said_to_be_gone() {
    let cluster = begun().await;
    // Chunk 9 was never here: that is as good as deleted.
    let due = [1, 2, 9].map(ChunkId);
    cluster.meta.state.due.lock().unwrap().extend(due);
    let expected = || {
        [1, 2]
            .map(|disk| due.map(|chunk| (DiskId(disk), chunk)))
            .concat()
    };
    until(|| {
        let gone = cluster.meta.state.gone.lock().unwrap();
        expected().iter().all(|word| gone.contains(word))
    })
    .await;
    assert_eq!(cluster.meta.state.gone.lock().unwrap().len(), 6);
    for id in [1, 2] {
        let disk = disk(&cluster, id);
        assert!(!has(&disk, 1) && !has(&disk, 2) && has(&disk, 3));
        assert!(disk.trash_len() >= 200_000);
        let reported = || {
            let reports = cluster.meta.state.reports.lock().unwrap();
            reports[&quarry_common::ids::ServerId(id)][0].trash
        };
        until(|| reported() >= 200_000).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_written_is_not_deleted_and_not_said_to_be_gone() {
    let cluster = begun().await;
    let client = cluster.client("anna");
    // In a group in which there is something to ask about.
    let group = |chunk| pg_of(chunk, 8);
    let mut ids = (5..).map(ChunkId);
    let open = ids
        .find(|chunk| group(*chunk) == group(ChunkId(3)))
        .unwrap();
    let mut writing = client.open(client.target(open)).await;
    let data = Bytes::from(pattern(5, 100_000));
    writing.data(&data).await.unwrap();
    writing.point(false).await.unwrap();
    until(|| has(&disk(&cluster, 1), open.0)).await;
    // A whole pass, after one that had perhaps begun.
    for _ in 0..2 {
        cluster.meta.state.told.lock().unwrap().clear();
        let told = || cluster.meta.state.told.lock().unwrap().clone();
        until(|| told().contains(&(DiskId(1), ChunkId(3)))).await;
    }
    let due = [open, ChunkId(1)];
    cluster.meta.state.due.lock().unwrap().extend(due);
    until(|| cluster.meta.state.gone.lock().unwrap().len() == 2).await;
    let gone = cluster.meta.state.gone.lock().unwrap().clone();
    assert!(
        gone.iter().all(|(_, chunk)| *chunk == ChunkId(1)),
        "{gone:?}"
    );
    let info = disk(&cluster, 1).stat(POOL, open).unwrap().unwrap();
    assert_eq!(info.state, ChunkState::Open);
    let told = cluster.meta.state.told.lock().unwrap().clone();
    assert!(!told.contains(&(DiskId(1), open)), "it is not asked about");
    // Once its writer has ended it goes like any other.
    drop(writing);
    until(|| cluster.meta.state.gone.lock().unwrap().len() == 4).await;
    assert!(!has(&disk(&cluster, 1), open.0) && !has(&disk(&cluster, 2), open.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_tells_all_it_has_and_deletes_what_is_nobodys() {
    let cluster = begun().await;
    disk(&cluster, 2)
        .set_aside(POOL, ChunkId(1), "a test")
        .unwrap();
    cluster
        .meta
        .state
        .unwanted
        .lock()
        .unwrap()
        .extend([1, 2].map(ChunkId));
    until(|| {
        let told = cluster.meta.state.told.lock().unwrap();
        let all = [1, 2].map(|disk| [1, 2, 3].map(|chunk| (DiskId(disk), ChunkId(chunk))));
        all.concat().iter().all(|word| told.contains(word))
    })
    .await;
    for id in [1, 2] {
        until(|| !has(&disk(&cluster, id), 1) && !has(&disk(&cluster, id), 2)).await;
        assert!(has(&disk(&cluster, id), 3));
    }
    assert!(cluster.meta.state.gone.lock().unwrap().is_empty());
}

/// One chunk that does not go, as on a damaged file system, keeps no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_can_not_be_moved_to_the_trash_keeps_no_other() {
    let cluster = begun().await;
    let client = cluster.client("anna");
    for chunk in 4..8 {
        let data = pattern(chunk, 200_000).into();
        client.write(ChunkId(chunk), &data).await.unwrap();
    }
    // What can not be opened.
    let socket = cluster.dir.path().join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for chunk in [3, 6] {
        let folder = cluster.disk_path(1).join(format!("chunks/{chunk:02x}"));
        let path = folder.join(format!("{:04x}-{chunk:016x}", POOL.0));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&socket, &path).unwrap();
    }
    let due = (1..6).map(ChunkId);
    cluster.meta.state.due.lock().unwrap().extend(due);
    let unwanted = [6, 7].map(ChunkId);
    cluster.meta.state.unwanted.lock().unwrap().extend(unwanted);
    let of = |id, chunk| has(&disk(&cluster, id), chunk);
    until(|| (1..8).all(|chunk| of(1, chunk) == [3, 6].contains(&chunk) && !of(2, chunk))).await;
    let said = |id| {
        let gone = cluster.meta.state.gone.lock().unwrap();
        let gone = gone.iter().filter(|(disk, _)| *disk == DiskId(id));
        gone.map(|(_, chunk)| chunk.0).collect::<Vec<u64>>()
    };
    until(|| (said(1), said(2)) == (vec![1, 2, 4, 5], vec![1, 2, 3, 4, 5])).await;
}

/// A disk that has deleted a doomed chunk gets it back from nobody, though another still has it.
/// Reads from disk 2, which comes to know with its next heartbeat that it should have everything.
async fn read_until_missing(client: &harness::client::Client, chunk: ChunkId) {
    loop {
        let wanted = client.wanted(DiskId(2), chunk, 0, 10);
        match client.read(wanted).await {
            Err(error) if error.code == quarry_common::Code::NotYet => {}
            read => {
                harness::assert_code(read, quarry_common::Code::ChunkMissing);
                return;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_doomed_is_not_fetched_again_and_not_lost() {
    let mut cluster = begun().await;
    let state = std::sync::Arc::clone(&cluster.meta.state);
    for chunk in [1, 3] {
        let data = pattern(chunk, 200_000);
        let committed = (200_000, quarry_common::checksum::Crc::of(&data));
        state
            .referenced
            .lock()
            .unwrap()
            .insert(ChunkId(chunk), committed);
    }
    // Disk 2 has deleted what disk 1 has not yet.
    state.unwanted.lock().unwrap().insert(ChunkId(2));
    until(|| !has(&disk(&cluster, 1), 2) && !has(&disk(&cluster, 2), 2)).await;
    state.unwanted.lock().unwrap().clear();
    cluster.stop_server(1).await;
    let again = Disk::open(&cluster.disk_path(1), harness::CLUSTER, OPTIONS).unwrap();
    let data = Bytes::from(pattern(2, 3_000));
    let crc = quarry_common::checksum::Crc::of(&data);
    let mut copy = again.create_copy(POOL, ChunkId(2), 3_000).unwrap();
    copy.append(vec![data], &[crc]).await.unwrap();
    copy.seal(3_000, crc).await.unwrap();
    again.stop().unwrap();
    drop(again);
    // So that it does not ask.
    cluster.start_server(1).await;
    assert!(has(&disk(&cluster, 1), 2));
    let client = cluster.client("anna");
    // A read of it there wakes nothing.
    let wanted = client.wanted(DiskId(2), ChunkId(2), 0, 10);
    harness::assert_code(client.read(wanted).await, quarry_common::Code::ChunkMissing);
    // Nor does it come when the disk fills the group anew.
    cluster.exchange(&[1]).await;
    assert!(has(&disk(&cluster, 2), 1));
    let epoch = cluster.exchange(&[1, 2]).await;
    until(|| cluster.meta.is_clean()).await;
    assert!(cluster.epoch_of(ChunkId(2)) >= epoch);
    assert!(!has(&disk(&cluster, 2), 2) && has(&disk(&cluster, 2), 3));
    // One that is missing and referenced does come, after the same read.
    let gone = disk(&cluster, 2).delete(POOL, ChunkId(3), || true);
    assert!(gone.unwrap());
    read_until_missing(&client, ChunkId(3)).await;
    until(|| has(&disk(&cluster, 2), 3)).await;
    assert!(!has(&disk(&cluster, 2), 2));
    // Deleted everywhere, it is not lost; and what was lost is so no more when nothing refers to it.
    let node = std::sync::Arc::clone(cluster.servers[&2].node());
    for id in [1, 2] {
        let deleted = disk(&cluster, id).delete(POOL, ChunkId(1), || true);
        assert!(deleted.unwrap());
    }
    read_until_missing(&client, ChunkId(1)).await;
    until(|| node.reports()[0].lost == 1).await;
    state.referenced.lock().unwrap().remove(&ChunkId(1));
    until(|| node.reports()[0].lost == 0).await;
}
