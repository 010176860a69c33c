//! What others are told of a group.

use super::*;
use crate::disk::listing::Page;
use quarry_common::ids::PgId;
use quarry_common::map::pg_of;

#[tokio::test]
async fn a_group_lists_what_is_open_sealed_and_bad_page_by_page() {
    let dir = formatted();
    let disk = open(&dir);
    for chunk in 0..40 {
        write_small(&disk, chunk, &bytes(chunk, 10 + chunk as usize))
            .await
            .unwrap();
    }
    write(&disk, 40, &bytes(40, 100_000)).await.unwrap();
    for chunk in [3, 17, 40] {
        disk.set_aside(POOL, ChunkId(chunk), "test").unwrap();
    }
    let data = bytes(50, 100_000);
    let mut writers = Vec::new();
    for chunk in 50..60 {
        let writer = disk.create_chunk(POOL, ChunkId(chunk), 100_000).unwrap();
        append(&writer, 0, data.clone()).await.unwrap();
        if chunk % 2 == 0 {
            writer.flush(100_000, Crc::of(&data)).await.unwrap();
        }
        writers.push(writer);
    }
    let listed = |pg, limit: usize| {
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            let page = disk.group(POOL, (PgId(pg), 4), from, limit).unwrap();
            assert!(page.chunks.len() <= limit);
            all.extend(page.chunks);
            match page.next {
                Some(next) => from = Some(next),
                None => return all,
            }
        }
    };
    let mut count = 0;
    for pg in 0..4 {
        let whole = listed(pg, 1_000);
        for limit in [1, 2, 7] {
            assert_eq!(listed(pg, limit), whole);
        }
        for (chunk, info) in &whole {
            assert_eq!(pg_of(*chunk, 4), PgId(pg));
            let expected = match chunk.0 {
                3 | 17 | 40 => ChunkState::SetAside,
                50.. => ChunkState::Open,
                _ => ChunkState::Sealed,
            };
            let len = match chunk.0 {
                40 => 100_000,
                50.. if chunk.0 % 2 == 0 => 100_000,
                50.. => 0,
                small => 10 + small as u32,
            };
            assert_eq!((info.state, info.len), (expected, len), "{chunk}");
        }
        count += whole.len();
    }
    assert_eq!(count, 51);
    let other = disk.group(PoolId(2), (PgId(0), 4), None, 10).unwrap();
    assert_eq!(other, Page::default());
    // While it is replaced, what is there counts.
    let copying = disk.create_copy(POOL, ChunkId(0), 70_000).unwrap();
    let all: Vec<_> = (0..4).flat_map(|pg| listed(pg, 9)).collect();
    let found = all.iter().find(|(chunk, _)| *chunk == ChunkId(0)).unwrap();
    assert_eq!(found.1.len, 10);
    drop(copying);
}

#[tokio::test]
async fn a_chunk_that_is_moved_is_sealed_and_a_bad_copy_that_is_replaced_is_bad() {
    let dir = formatted();
    let disk = open(&dir);
    write_small(&disk, 1, &bytes(1, 700)).await.unwrap();
    write(&disk, 2, &bytes(2, 70_000)).await.unwrap();
    let shared = &disk.0.shared;
    let look = || shared.index.get(name_of(1));
    let moved = shared.claims.claim_again(name_of(1), look).unwrap();
    assert!(moved.is_some());
    let listed = disk.group(POOL, (PgId(0), 1), None, 10).unwrap().chunks;
    let of = |chunk| listed.iter().find(|(found, _)| *found == ChunkId(chunk));
    assert_eq!(of(1).unwrap().1.state, ChunkState::Sealed);
    drop(moved);
    disk.set_aside(POOL, ChunkId(2), "test").unwrap();
    let copying = disk.create_copy(POOL, ChunkId(2), 70_000).unwrap();
    let state = || disk.stat(POOL, ChunkId(2)).unwrap().unwrap().state;
    assert_eq!(state(), ChunkState::SetAside);
    drop(copying);
    settled(&disk).await;
    copy(&disk, 2, &bytes(2, 70_000)).await.unwrap();
    assert_eq!(state(), ChunkState::Sealed);
}
