//! How dataservers start and stop.

mod harness;

use bytes::Bytes;
use harness::meta::Meta;
use harness::{CLUSTER, Cluster, assert_code, pattern, until};
use quarry_common::Code;
use quarry_common::identity::{PeerName, SERVER_VALID};
use quarry_common::ids::{ChunkId, DiskId, OpenNumber, ServerId};
use quarry_dataserver::disk::{Disk, DiskOptions};
use quarry_dataserver::{Dataserver, DiskConfig};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_is_there_after_a_restart() {
    let mut cluster = Cluster::start(2).await;
    let client = cluster.client("anna");
    let (large, small) = (pattern(1, 300_000), pattern(2, 3_000));
    client
        .write(ChunkId(1), &large.clone().into())
        .await
        .unwrap();
    let written = client.write_small(client.target(ChunkId(2)), small.clone().into());
    written.await.unwrap();
    for server in [1, 2] {
        cluster.stop_server(server).await;
        cluster.start_server(server).await;
    }
    cluster.wait_for(cluster.map().epoch).await;
    let client = cluster.client("anna");
    for disk in [1, 2].map(DiskId) {
        let wanted = client.wanted(disk, ChunkId(1), 0, 300_000);
        assert!(client.read(wanted).await.unwrap() == large);
        let wanted = client.wanted(disk, ChunkId(2), 0, 3_000);
        assert!(client.read_small(wanted).await.unwrap() == small);
    }
    let data = Bytes::from(pattern(3, 100_000));
    cluster.check(&client.write(ChunkId(3), &data).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_formatted_only_after_the_registration() {
    let mut cluster = Cluster::bare().await;
    cluster.meta.state.refuse.store(true, Ordering::SeqCst);
    std::fs::create_dir(cluster.disk_path(1)).unwrap();
    let started = Dataserver::start(cluster.config(1), cluster.identity_of(1)).await;
    let text = assert_code(started.map(|_| ()), Code::Configuration);
    assert!(text.contains("disk 7 was there"), "{text}");
    let files = std::fs::read_dir(cluster.disk_path(1)).unwrap().count();
    assert_eq!(files, 0, "nothing was written");
    // Without a metaserver it waits.
    let mut config = cluster.config(1);
    config.metaservers = vec![(ServerId(1), "127.0.0.1:1".into())];
    let waiting = Dataserver::start(config, cluster.identity_of(1));
    let waited = tokio::time::timeout(Duration::from_secs(1), waiting).await;
    assert!(waited.is_err(), "it waits for a metaserver");
    let files = std::fs::read_dir(cluster.disk_path(1)).unwrap().count();
    assert_eq!(files, 0, "nothing was written");
    cluster.meta.state.refuse.store(false, Ordering::SeqCst);
    cluster.start_server(1).await;
    // The first start of the new disk is registered too.
    let registrations = cluster.meta.state.registrations.lock().unwrap().clone();
    let disks: Vec<_> = registrations.iter().map(|all| &all.disks[0]).collect();
    assert_eq!(disks[0].disk, None);
    assert_eq!(disks[1].disk, Some(DiskId(1)));
    assert_ne!(disks[1].open_number, OpenNumber(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metaserver_with_an_expired_certificate_stands_in_nobodys_way() {
    let cluster = Cluster::bare().await;
    let (longer, name) = (2 * SERVER_VALID, PeerName::metaserver(CLUSTER, ServerId(3)));
    let expired = cluster
        .authority
        .issue(&name, SERVER_VALID, SystemTime::now() - longer);
    let third = Meta::start(Arc::new(expired.unwrap()));
    let mut config = cluster.config(1);
    // It is asked first.
    config
        .metaservers
        .push((ServerId(3), third.address.to_string()));
    let server = Dataserver::start(config.clone(), cluster.identity_of(1)).await;
    // And again, when the other one was silent for a while.
    let state = &cluster.meta.state;
    state.silent.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(4)).await;
    state.silent.store(false, Ordering::SeqCst);
    state.reports.lock().unwrap().clear();
    until(|| !state.reports.lock().unwrap().is_empty()).await;
    server.unwrap().stop().await.unwrap();
    // Where there is no other, it says why.
    config.metaservers.remove(0);
    let started = Dataserver::start(config, cluster.identity_of(1)).await;
    let text = assert_code(started.map(|_| ()), Code::Configuration);
    assert!(text.contains("metaserver 3"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_reached_touches_no_disk_and_asks_again() {
    let mut cluster = Cluster::bare().await;
    cluster
        .meta
        .state
        .unreached
        .store(usize::MAX, Ordering::SeqCst);
    let left = || cluster.meta.state.unreached.load(Ordering::SeqCst);
    tokio::select! {
        started = Dataserver::start(cluster.config(1), cluster.identity_of(1)) => {
            panic!("it does not wait: {:?}", started.err());
        }
        // It asks again.
        () = until(|| left() < usize::MAX - 1) => {}
    }
    assert!(!cluster.disk_path(1).exists());
    cluster.meta.state.unreached.store(1, Ordering::SeqCst);
    cluster.start_server(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_on_one_file_system_share_its_capacity() {
    let cluster = Cluster::bare().await;
    let mut config = cluster.config(1);
    config.disks.push(DiskConfig {
        path: cluster.dir.path().join("second"),
    });
    let server = Dataserver::start(config, cluster.identity_of(1)).await;
    let server = server.unwrap();
    let reports = cluster.meta.state.reports.lock().unwrap()[&ServerId(1)].clone();
    let whole = quarry_dataserver::disk::Space::of(cluster.dir.path()).unwrap();
    assert_eq!(reports.len(), 2);
    for report in reports {
        assert_eq!(report.total, whole.total / 2);
        assert_eq!(report.failed, None);
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_can_not_remember_its_start_is_left_out_and_the_others_serve() {
    let cluster = Cluster::bare().await;
    let mut config = cluster.config(1);
    config.disks.push(DiskConfig {
        path: cluster.dir.path().join("second"),
    });
    let started = Dataserver::start(config.clone(), cluster.identity_of(1)).await;
    started.unwrap().stop().await.unwrap();
    // The number of this start is written before its registration, and once more after it.
    let open = Disk::open(&cluster.disk_path(1), CLUSTER, DiskOptions::default()).unwrap();
    drop(open);
    std::fs::create_dir(cluster.disk_path(1).join("open.new")).unwrap();
    let server = Dataserver::start(config, cluster.identity_of(1)).await;
    let server = server.unwrap();
    assert!(server.node().disks.get(DiskId(101)).is_ok());
    assert_code(
        server.node().disks.get(DiskId(1)).map(drop),
        Code::DiskFailed,
    );
    let failed = || {
        let reports = cluster.meta.state.reports.lock().unwrap()[&ServerId(1)].clone();
        let failed = reports.iter().filter(|report| report.failed.is_some());
        failed.map(|report| report.disk).collect::<Vec<_>>()
    };
    until(|| failed() == [Some(DiskId(1))]).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_the_metaservers_refuse_is_left_out_and_the_others_serve() {
    let cluster = Cluster::bare().await;
    let mut config = cluster.config(1);
    for name in ["second", "third"] {
        config.disks.push(DiskConfig {
            path: cluster.dir.path().join(name),
        });
    }
    let start = || Dataserver::start(config.clone(), cluster.identity_of(1));
    start().await.unwrap().stop().await.unwrap();
    let refuse = |disks: &[u32]| {
        let disks = disks.iter().map(|disk| DiskId(*disk)).collect();
        *cluster.meta.state.rolled_back.lock().unwrap() = disks;
    };
    refuse(&[1, 102]);
    let server = start().await.unwrap();
    let disks = &server.node().disks;
    assert!(disks.get(DiskId(101)).is_ok());
    for disk in [1, 102] {
        let text = assert_code(disks.get(DiskId(disk)).map(drop), Code::DiskFailed);
        assert!(text.contains("rolled back"), "{text}");
    }
    let failed = || {
        let reports = cluster.meta.state.reports.lock().unwrap()[&ServerId(1)].clone();
        let failed = reports.iter().filter(|report| report.failed.is_some());
        failed.map(|report| report.disk).collect::<Vec<_>>()
    };
    until(|| failed() == [Some(DiskId(1)), Some(DiskId(102))]).await;
    server.stop().await.unwrap();
    // Nothing is left to serve.
    refuse(&[1, 101, 102]);
    let text = assert_code(start().await.map(drop), Code::Configuration);
    assert!(text.contains("rolled back"), "{text}");
    // It was mounted again.
    refuse(&[]);
    let server = start().await.unwrap();
    assert_eq!(server.node().disks.all().count(), 3);
    server.stop().await.unwrap();
}

/// Which one is the copy only an operator can say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_copies_of_a_disk_are_refused_together() {
    let cluster = Cluster::bare().await;
    let mut config = cluster.config(1);
    config.disks.push(DiskConfig {
        path: cluster.dir.path().join("second"),
    });
    let start = || Dataserver::start(config.clone(), cluster.identity_of(1));
    start().await.unwrap().stop().await.unwrap();
    let [original, copy] = [0, 1].map(|at| config.disks[at].path.join("identity"));
    std::fs::copy(original, copy).unwrap();
    let text = assert_code(start().await.map(drop), Code::Configuration);
    assert!(text.contains("a copy"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_directory_is_refused_and_left_alone() {
    let cluster = Cluster::bare().await;
    let path = cluster.disk_path(1);
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("letter"), "dear").unwrap();
    let started = Dataserver::start(cluster.config(1), cluster.identity_of(1)).await;
    assert_code(started.map(|_| ()), Code::Configuration);
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_says_goodbye_and_no_metaserver_keeps_it_from_stopping() {
    let mut cluster = Cluster::start(2).await;
    cluster.stop_server(1).await;
    assert_eq!(*cluster.meta.state.goodbyes.lock().unwrap(), [ServerId(1)]);
    cluster.meta.state.silent.store(true, Ordering::SeqCst);
    let began = std::time::Instant::now();
    cluster.stop_server(2).await;
    assert!(began.elapsed() < Duration::from_secs(4));
}
