//! Random operations, restarts and crashes against a model.

use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

/// What must be there: the bytes of each chunk, `None` for a chunk that was set aside.
type Model = BTreeMap<u64, Option<Bytes>>;

/// What was deleted may be back after a crash, whole or as one that is missing, and is deleted again.
fn delete_again(disk: &Disk, deleted: &BTreeMap<u64, Bytes>) {
    for (chunk, data) in deleted {
        let found = disk.stat(POOL, ChunkId(*chunk)).unwrap();
        match found.map(|info| info.state) {
            None => continue,
            // Its file is in the trash.
            Some(ChunkState::SetAside) => {
                assert_eq!(code(read(disk, *chunk)), Code::ChunkMissing);
            }
            Some(_) => same(read(disk, *chunk).unwrap(), data),
        }
        assert!(disk.delete(POOL, ChunkId(*chunk), || true).unwrap());
    }
}

fn check_all(disk: &Disk, model: &Model, seed: u64) {
    for (chunk, data) in model {
        match data {
            Some(data) => same(read(disk, *chunk).unwrap(), data),
            None => assert_eq!(
                code(disk.read(POOL, ChunkId(*chunk), 0, 0)),
                Code::ChecksumMismatch,
                "seed {seed}"
            ),
        }
    }
    let items = disk.chunks().map(|item| item.unwrap());
    let listed: BTreeMap<u64, ChunkState> = items
        .map(|(name, info)| (name.chunk.0, info.state))
        .collect();
    let expected = model
        .iter()
        .map(|(chunk, data)| {
            (
                *chunk,
                if data.is_some() {
                    ChunkState::Sealed
                } else {
                    ChunkState::SetAside
                },
            )
        })
        .collect();
    assert_eq!(listed, expected, "seed {seed}");
    assert_eq!(
        disk.counts().files + disk.counts().small,
        model.len() as u64,
        "seed {seed}"
    );
}

async fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut dir = formatted();
    let mut disk = open(&dir);
    let mut model = Model::new();
    let mut deleted = BTreeMap::new();
    let mut next = 0;
    for _ in 0..40 {
        next += random.random_range(1..300u64);
        let len = random.random_range(1..400_000usize);
        let data = bytes(next ^ seed, len);
        match random.random_range(0..11) {
            0..4 => {
                let data = data.slice(..len.min(random.random_range(0..65_536)));
                write_small(&disk, next, &data).await.unwrap();
                model.insert(next, Some(data));
            }
            4..8 => {
                let writer = disk
                    .create_chunk(
                        POOL,
                        ChunkId(next),
                        random.random_range(len..500_000) as u32,
                    )
                    .unwrap();
                let (mut at, mut flushed) = (0, 0);
                while at < len {
                    let end = random.random_range(at + 1..=len);
                    append(&writer, at, data.slice(at..end)).await.unwrap();
                    at = end;
                    if random.random_bool(0.3) {
                        match writer.flush(at as u32, Crc::of(&data[..at])).await {
                            Ok(()) => flushed = at,
                            Err(error) => assert_eq!(error.code, Code::FlushesUsedUp),
                        }
                    }
                }
                if random.random_bool(0.7) {
                    writer.seal(len as u32, Crc::of(&data)).await.unwrap();
                    flushed = len;
                } else if random.random_bool(0.5) {
                    // A crash: the copy goes on, without whatever the old process does next.
                    let copy = crashed(&dir);
                    drop(writer);
                    drop(disk);
                    dir = copy;
                    disk = open(&dir);
                    delete_again(&disk, &deleted);
                } else {
                    drop(writer);
                    settled(&disk).await;
                }
                if flushed > 0 {
                    model.insert(next, Some(data.slice(..flushed)));
                }
            }
            8 => {
                if let Some(chunk) = model
                    .keys()
                    .nth(random.random_range(0..model.len().max(1)))
                    .copied()
                {
                    disk.set_aside(POOL, ChunkId(chunk), "model").unwrap();
                    model.insert(chunk, None);
                }
            }
            9 => {
                let chosen = random.random_range(0..model.len().max(1));
                if let Some(chunk) = model.keys().nth(chosen).copied() {
                    assert!(disk.delete(POOL, ChunkId(chunk), || true).unwrap());
                    // A bad copy goes durably, with its mark.
                    if let Some(data) = model.remove(&chunk).unwrap() {
                        deleted.insert(chunk, data);
                    }
                }
            }
            _ => {
                let clean = random.random_bool(0.5);
                if clean {
                    disk.stop().unwrap();
                }
                let copy = (!clean).then(|| crashed(&dir));
                drop(disk);
                dir = copy.unwrap_or(dir);
                if random.random_bool(0.3) {
                    remove_index(&dir);
                }
                disk = open(&dir);
                delete_again(&disk, &deleted);
                check_all(&disk, &model, seed);
            }
        }
    }
    check_all(&disk, &model, seed);
}

#[tokio::test]
async fn random_operations_with_crashes_keep_exactly_what_was_acknowledged() {
    for seed in 0..4 {
        run(seed).await;
    }
}
