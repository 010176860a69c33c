//! Members that come, go, and lose what they had: in the end every member holds every chunk.

#[path = "../harness/mod.rs"]
mod harness;

mod answers;
mod bad_copies;
mod members;
mod speed;

use bytes::Bytes;
use harness::client::Client;
use harness::{Cluster, POOL, assert_code, pattern};
use quarry_common::Code;
use quarry_common::checksum::Crc;
use quarry_common::ids::ChunkId;
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

/// Reads all of it, instead of believing the index.
fn has_whole(disk: &Disk, chunk: u64, data: &Bytes) -> bool {
    let info = disk.stat(POOL, ChunkId(chunk)).unwrap();
    let is_good = info.is_some_and(|info| info.state == ChunkState::Sealed);
    is_good && try_read(disk, chunk, data.len()).is_ok_and(|found| found == *data)
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
