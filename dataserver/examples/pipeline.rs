//! Measures the data plane on this machine: a client and three dataservers in one process over loopback.
//!
//! `cargo run --release -p quarry-dataserver --example pipeline [MiB]`

#[path = "../tests/harness/mod.rs"]
mod harness;

use bytes::Bytes;
use harness::{Cluster, POOL, build_folder, pattern};
use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, ClusterId, DiskId};
use quarry_common::wire::data::frame;
use quarry_dataserver::disk::{Disk, DiskIdentity, DiskOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const CHUNK_LEN: usize = 64 * MIB;

/// CPU seconds of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}

fn report(what: &str, bytes: usize, began: Instant, cpu: f64) {
    let gigabytes = bytes as f64 / 1e9;
    println!(
        "{what:40} {:6.3} GB/s  {:5.2} CPU-s/GB",
        gigabytes / began.elapsed().as_secs_f64(),
        (cpu_seconds() - cpu) / gigabytes
    );
}

#[tokio::main]
async fn main() {
    let mib: usize = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(1024);
    let chunks = mib.div_ceil(64) as u64;
    let data = Bytes::from(pattern(1, CHUNK_LEN));
    plain_disk(&data, chunks).await;
    let cluster = Cluster::bare_in(build_folder()).await.with(3).await;
    let mut client = cluster.client("bench");
    client.capacity = CHUNK_LEN as u32;
    // The first one warms up: connections, buffers, the path's MTU.
    client.write(ChunkId(1), &data).await.unwrap();

    let (began, cpu) = (Instant::now(), cpu_seconds());
    for chunk in 0..chunks {
        let receipt = client.write(ChunkId(100 + chunk), &data).await.unwrap();
        cluster.check(&receipt);
    }
    let all = chunks as usize * CHUNK_LEN;
    report("write, 3 replicas, one after the other", all, began, cpu);

    let (began, cpu) = (Instant::now(), cpu_seconds());
    let next = Arc::new(AtomicU64::new(0));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (client, data, next) = (client.clone(), data.clone(), Arc::clone(&next));
        writers.spawn(async move {
            loop {
                let chunk = next.fetch_add(1, Ordering::Relaxed);
                if chunk >= chunks {
                    return;
                }
                client.write(ChunkId(10_000 + chunk), &data).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    report("write, 3 replicas, two at a time", all, began, cpu);

    let (began, cpu) = (Instant::now(), cpu_seconds());
    for chunk in 0..chunks {
        let disk = DiskId(1 + chunk as u32 % 3);
        let wanted = client.wanted(disk, ChunkId(100 + chunk), 0, CHUNK_LEN as u32);
        client.read(wanted).await.unwrap();
    }
    report("read (copied by the reader)", all, began, cpu);

    small(&cluster, 32, Duration::from_secs(4)).await;
}

/// One disk, without any network.
async fn plain_disk(data: &Bytes, chunks: u64) {
    let dir = tempfile::tempdir_in(build_folder()).unwrap();
    let identity = DiskIdentity {
        cluster: ClusterId([1; 16]),
        disk: DiskId(1),
    };
    Disk::format(dir.path(), identity).unwrap();
    let disk = Disk::open(dir.path(), identity.cluster, DiskOptions::default()).unwrap();
    let whole = Crc::of(data);
    let (began, cpu) = (Instant::now(), cpu_seconds());
    for chunk in 0..chunks {
        let len = data.len() as u32;
        let writer = disk.create_chunk(POOL, ChunkId(chunk), len).unwrap();
        for (at, piece) in data.chunks(MIB).enumerate() {
            let pieces = vec![data.slice_ref(piece)];
            let crcs = frame::compute_crcs((at * MIB) as u32, &pieces);
            writer.append(pieces, &crcs).await.unwrap();
        }
        writer.seal(len, whole).await.unwrap();
    }
    report(
        "one disk alone, one copy",
        chunks as usize * data.len(),
        began,
        cpu,
    );
}

/// Small chunks of 4 KiB by many clients at once.
async fn small(cluster: &Cluster, clients: u64, so_long: Duration) {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let mut writers = tokio::task::JoinSet::new();
    for client in 0..clients {
        let handle = cluster.client(&format!("client-{client}"));
        writers.spawn(async move {
            let data = Bytes::from(pattern(client, 4096));
            let mut count = 0;
            while began.elapsed() < so_long {
                let target = handle.target(ChunkId((1 + client) << 32 | count));
                handle.write_small(target, data.clone()).await.unwrap();
                count += 1;
            }
            count
        });
    }
    let count: u64 = writers.join_all().await.into_iter().sum();
    println!(
        "{:40} {:6.0} /s   {:5.0} CPU-µs each",
        format!("small writes of 4 KiB, {clients} clients"),
        count as f64 / began.elapsed().as_secs_f64(),
        (cpu_seconds() - cpu) * 1e6 / count as f64
    );
}
