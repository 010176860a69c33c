//! How fast a disk is rebuilt.

use super::*;

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
