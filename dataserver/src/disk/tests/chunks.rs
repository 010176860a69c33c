//! Large chunks.

use super::*;
use crate::disk::layout::{DATA_AT, SECTOR_LEN};
use quarry_common::ids::PgId;
use quarry_common::limits::FLUSHES_MAX;

#[tokio::test]
async fn what_was_sealed_reads_back_also_after_a_restart() {
    let dir = formatted();
    let lens = [
        1,
        4095,
        4096,
        65_536,
        65_537,
        (1 << 20) - 1,
        1 << 20,
        (1 << 20) + 1,
        3 << 20,
    ];
    let disk = open(&dir);
    for (chunk, len) in lens.iter().enumerate() {
        let data = bytes(chunk as u64, *len);
        write(&disk, chunk as u64, &data).await.unwrap();
        same(read(&disk, chunk as u64).unwrap(), data);
    }
    disk.stop().unwrap();
    drop(disk);
    let disk = open(&dir);
    assert_eq!(
        disk.report(),
        Report::default(),
        "a clean stop leaves nothing to recover"
    );
    for (chunk, len) in lens.iter().enumerate() {
        same(
            read(&disk, chunk as u64).unwrap(),
            bytes(chunk as u64, *len),
        );
    }
    assert_eq!(
        disk.counts(),
        Counts {
            files: 9,
            small: 0,
            len: lens.iter().sum::<usize>() as u64
        }
    );
}

#[tokio::test]
async fn a_read_covers_whole_blocks() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 200_000);
    write(&disk, 1, &data).await.unwrap();
    let part = disk.read(POOL, ChunkId(1), 70_000, 10).unwrap();
    assert_eq!(
        (part.offset, part.crcs.len(), part.chunk_len),
        (65_536, 1, 200_000)
    );
    assert_eq!(part.data, data[65_536..131_072]);
    let part = disk.read(POOL, ChunkId(1), 131_071, 68_929).unwrap();
    assert_eq!((part.offset, part.crcs.len()), (65_536, 3));
    check(&part).unwrap();
    assert_eq!(
        code(disk.read(POOL, ChunkId(1), 0, 200_001)),
        Code::ChunkMissing
    );
    assert_eq!(
        code(disk.read(POOL, ChunkId(1), u32::MAX, 2)),
        Code::Malformed
    );
    assert_eq!(code(disk.read(POOL, ChunkId(2), 0, 1)), Code::ChunkMissing);
    assert_eq!(
        code(disk.read(PoolId(2), ChunkId(1), 0, 1)),
        Code::ChunkMissing
    );
}

#[tokio::test]
async fn an_id_is_used_once_whatever_became_of_it() {
    let dir = formatted();
    let disk = open(&dir);
    let refused = |disk: &Disk, chunk| {
        assert_eq!(
            disk.create_chunk(POOL, ChunkId(chunk), 10)
                .err()
                .map(|e| e.code),
            Some(Code::ChunkUsed),
            "{chunk}"
        );
    };
    let data = bytes(1, 1000);
    let held = disk.create_chunk(POOL, ChunkId(1), 10).unwrap();
    write(&disk, 2, &data).await.unwrap();
    write_small(&disk, 3, &data).await.unwrap();
    write(&disk, 4, &data).await.unwrap();
    disk.set_aside(POOL, ChunkId(4), "test").unwrap();
    drop(disk.create_chunk(POOL, ChunkId(5), 10).unwrap());
    while disk.open_count() > 1 {
        tokio::task::yield_now().await;
    }
    for chunk in 1..=5 {
        refused(&disk, chunk);
        assert_eq!(
            code(write_small(&disk, chunk, &data).await),
            Code::ChunkUsed
        );
    }
    drop(held);
    disk.stop().unwrap();
    drop(disk);
    let disk = open(&dir);
    (2..=4).for_each(|chunk| refused(&disk, chunk));
    write(&disk, 1, &data).await.unwrap();
}

#[tokio::test]
async fn flushed_bytes_are_readable_before_the_seal_and_never_rewritten() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 300_000);
    let writer = disk.create_chunk(POOL, ChunkId(1), 400_000).unwrap();
    let mut at = 0;
    let mut sectors: Vec<(usize, Vec<u8>)> = Vec::new();
    for end in [100, 5000, 8192, 70_001, 131_072, 299_999] {
        append(&writer, at, data.slice(at..end)).await.unwrap();
        writer
            .flush(end as u32, Crc::of(&data[..end]))
            .await
            .unwrap();
        at = end;
        same(read(&disk, 1).unwrap(), &data[..end]);
        assert_eq!(
            disk.stat(POOL, ChunkId(1)).unwrap().unwrap().state,
            ChunkState::Open
        );
        let now = fs::read(chunk_path(&dir, 1)).unwrap();
        for (sector, was) in &sectors {
            assert_eq!(
                now[*sector..sector + SECTOR_LEN],
                was[..],
                "sector at {sector} was rewritten"
            );
        }
        let used = (0..now.len())
            .step_by(SECTOR_LEN)
            .filter(|sector| *sector >= DATA_AT as usize);
        sectors = used
            .map(|sector| (sector, now[sector..sector + SECTOR_LEN].to_vec()))
            .filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
            .collect();
    }
    append(&writer, at, data.slice(at..)).await.unwrap();
    writer.seal(300_000, Crc::of(&data)).await.unwrap();
    same(read(&disk, 1).unwrap(), &data);
    let part = disk.read(POOL, ChunkId(1), 60_000, 100_000).unwrap();
    check(&part).unwrap();
    assert_eq!(part.data, data[..196_608]);
}

#[tokio::test]
async fn a_chunk_without_flushes_left_can_still_be_sealed() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 100);
    let writer = disk.create_chunk(POOL, ChunkId(1), 100).unwrap();
    for i in 0..FLUSHES_MAX as usize {
        append(&writer, i, data.slice(i..i + 1)).await.unwrap();
        writer
            .flush(i as u32 + 1, Crc::of(&data[..i + 1]))
            .await
            .unwrap();
        writer
            .flush(i as u32 + 1, Crc::of(&data[..i + 1]))
            .await
            .unwrap();
    }
    append(&writer, 15, data.slice(15..)).await.unwrap();
    assert_eq!(
        code(writer.flush(100, Crc::of(&data)).await),
        Code::FlushesUsedUp
    );
    writer.seal(100, Crc::of(&data)).await.unwrap();
    same(read(&disk, 1).unwrap(), &data);
}

#[tokio::test]
async fn a_writer_that_goes_away_leaves_the_last_flush_or_nothing() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 2 << 20);
    for (chunk, flush_at) in [(1, 100_000), (2, 131_072)] {
        let writer = disk.create_chunk(POOL, ChunkId(chunk), 4 << 20).unwrap();
        append(&writer, 0, data.slice(..flush_at)).await.unwrap();
        writer
            .flush(flush_at as u32, Crc::of(&data[..flush_at]))
            .await
            .unwrap();
        append(&writer, flush_at, data.slice(flush_at..))
            .await
            .unwrap();
    }
    let writer = disk.create_chunk(POOL, ChunkId(3), 4 << 20).unwrap();
    append(&writer, 0, data.clone()).await.unwrap();
    drop(writer);
    settled(&disk).await;
    same(read(&disk, 1).unwrap(), &data[..100_000]);
    same(read(&disk, 2).unwrap(), &data[..131_072]);
    assert_eq!(
        disk.stat(POOL, ChunkId(2)).unwrap().unwrap().state,
        ChunkState::Sealed
    );
    assert_eq!(disk.stat(POOL, ChunkId(3)).unwrap(), None);
    assert!(!chunk_path(&dir, 3).exists());
    remove_index(&dir);
    let copy = crashed(&dir);
    let disk = open(&copy);
    same(read(&disk, 1).unwrap(), &data[..100_000]);
    same(read(&disk, 2).unwrap(), &data[..131_072]);
}

#[tokio::test]
async fn a_seal_or_flush_of_other_bytes_is_refused() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 1000);
    let begin = |chunk| disk.create_chunk(POOL, ChunkId(chunk), 1000).unwrap();
    for (chunk, len, crc) in [
        (1, 1000, Crc(1)),
        (2, 999, Crc::of(&data)),
        (3, 1001, Crc::of(&data)),
    ] {
        let writer = begin(chunk);
        append(&writer, 0, data.clone()).await.unwrap();
        assert_eq!(code(writer.seal(len, crc).await), Code::Malformed);
    }
    let writer = begin(4);
    append(&writer, 0, data.clone()).await.unwrap();
    assert_eq!(code(writer.flush(1000, Crc(1)).await), Code::Malformed);
    let writer = begin(5);
    writer
        .append(vec![bytes(1, 1001)], &[Crc(1)])
        .await
        .unwrap();
    assert_eq!(
        code(writer.seal(1001, Crc(1)).await),
        Code::Malformed,
        "beyond the capacity"
    );
    let writer = begin(6);
    writer
        .append(vec![data.clone()], &[Crc(1), Crc(2)])
        .await
        .unwrap();
    assert_eq!(
        code(writer.seal(1000, Crc::of(&data)).await),
        Code::Malformed,
        "CRCs that do not fit"
    );
    settled(&disk).await;
    assert_eq!(disk.chunks().count(), 0);
    assert!(!disk.is_failed());
}

#[tokio::test]
async fn a_failed_sync_is_final_and_reads_go_on() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 100_000);
    write(&disk, 1, &data).await.unwrap();
    let front = data.slice(..50_000);
    let mut writers = Vec::new();
    // One ends with a seal, one is let go.
    for chunk in [2, 6] {
        let held = disk.create_chunk(POOL, ChunkId(chunk), 100_000).unwrap();
        append(&held, 0, front.clone()).await.unwrap();
        held.flush(50_000, Crc::of(&front)).await.unwrap();
        append(&held, 50_000, data.slice(50_000..)).await.unwrap();
        writers.push(held);
    }
    let faults = &disk.0.shared.health.syncs_fail;
    faults.store(true, Ordering::Relaxed);
    assert_eq!(code(write(&disk, 3, &data).await), Code::DiskFailed);
    faults.store(false, Ordering::Relaxed);
    assert!(disk.is_failed() && disk.failure().unwrap().contains("sync"));
    assert_eq!(
        code(writers.remove(0).seal(100_000, Crc::of(&data)).await),
        Code::DiskFailed,
        "a sync that works again proves nothing"
    );
    drop(writers);
    settled(&disk).await;
    assert_eq!(code(write(&disk, 4, &data).await), Code::DiskFailed);
    assert_eq!(
        code(write_small(&disk, 5, &bytes(1, 10)).await),
        Code::DiskFailed
    );
    assert_eq!(
        code(disk.set_aside(POOL, ChunkId(1), "x")),
        Code::DiskFailed
    );
    same(read(&disk, 1).unwrap(), &data);
    assert_eq!(
        code(disk.read(POOL, ChunkId(3), 0, 1)),
        Code::ChunkMissing,
        "what was not acknowledged is not shown"
    );
    // What was, is.
    let listed = disk.group(POOL, (PgId(0), 1), None, 10).unwrap().chunks;
    for chunk in [2, 6] {
        same(read(&disk, chunk).unwrap(), &front);
        let crc = Some(Crc::of(&front));
        assert_eq!(disk.prefix_crc(POOL, ChunkId(chunk), 50_000).unwrap(), crc);
        let of = listed.iter().find(|(found, _)| *found == ChunkId(chunk));
        let info = of.unwrap().1;
        assert_eq!((info.len, info.state), (50_000, ChunkState::Open));
        assert_eq!(code(write(&disk, chunk, &data).await), Code::DiskFailed);
    }
    let copy = crashed(&dir);
    let again = open(&copy);
    for chunk in [2, 6] {
        same(read(&again, chunk).unwrap(), &front);
    }
}

#[tokio::test]
async fn a_failed_sync_of_a_small_chunk_is_final_too() {
    let dir = formatted();
    let disk = open(&dir);
    write_small(&disk, 1, &bytes(1, 10)).await.unwrap();
    disk.0
        .shared
        .health
        .syncs_fail
        .store(true, Ordering::Relaxed);
    assert_eq!(
        code(write_small(&disk, 2, &bytes(1, 10)).await),
        Code::DiskFailed
    );
    disk.0
        .shared
        .health
        .syncs_fail
        .store(false, Ordering::Relaxed);
    assert_eq!(
        code(write_small(&disk, 3, &bytes(1, 10)).await),
        Code::DiskFailed
    );
    same(read(&disk, 1).unwrap(), bytes(1, 10));
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_is_not_failed() {
    let dir = formatted();
    let disk = Disk::open(
        dir.path(),
        CLUSTER,
        DiskOptions {
            free_percent: 100,
            ..OPTIONS
        },
    )
    .unwrap();
    assert_eq!(code(write(&disk, 1, &bytes(1, 100)).await), Code::DiskFull);
    assert_eq!(
        code(write_small(&disk, 2, &bytes(1, 100)).await),
        Code::DiskFull
    );
    assert!(!disk.is_failed());
    let space = disk.space().unwrap();
    assert!(space.free > 0 && space.free <= space.total);
}

/// Its clients go to other disks then.
#[tokio::test]
async fn a_disk_whose_directory_has_gone_is_failed() {
    let dir = formatted();
    let disk = open(&dir);
    write(&disk, 1, &bytes(1, 100)).await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::rename(dir.path(), elsewhere.path().join("moved")).unwrap();
    assert_eq!(
        code(write(&disk, 2, &bytes(2, 100)).await),
        Code::DiskFailed
    );
    assert!(disk.is_failed());
    std::fs::rename(elsewhere.path().join("moved"), dir.path()).unwrap();
}

#[tokio::test]
async fn a_chunk_that_was_set_aside_is_never_served_again() {
    let dir = formatted();
    let disk = open(&dir);
    write(&disk, 1, &bytes(1, 100_000)).await.unwrap();
    write_small(&disk, 2, &bytes(2, 100)).await.unwrap();
    for chunk in [1, 2] {
        disk.set_aside(POOL, ChunkId(chunk), "a reader found wrong bytes")
            .unwrap();
        disk.set_aside(POOL, ChunkId(chunk), "again").unwrap();
    }
    assert_eq!(
        code(disk.set_aside(POOL, ChunkId(3), "x")),
        Code::ChunkMissing
    );
    let copy = crashed(&dir);
    for disk in [disk, open(&copy)] {
        for chunk in [1, 2] {
            let error = disk.read(POOL, ChunkId(chunk), 0, 1).unwrap_err();
            assert!(
                error.code == Code::ChecksumMismatch && error.text.contains("a reader found"),
                "{error}"
            );
            assert_eq!(
                disk.stat(POOL, ChunkId(chunk)).unwrap().unwrap().state,
                ChunkState::SetAside
            );
        }
        assert_eq!(
            disk.chunks()
                .map(|item| item.unwrap().1.state)
                .collect::<Vec<_>>(),
            [ChunkState::SetAside; 2]
        );
    }
}

#[tokio::test]
async fn writing_through_the_page_cache_works_as_well() {
    let dir = formatted();
    let disk = Disk::open(
        dir.path(),
        CLUSTER,
        DiskOptions {
            direct_io: false,
            ..OPTIONS
        },
    )
    .unwrap();
    let data = bytes(1, 2_000_001);
    write(&disk, 1, &data).await.unwrap();
    write_small(&disk, 2, &data.slice(..777)).await.unwrap();
    same(read(&disk, 1).unwrap(), &data);
    same(read(&disk, 2).unwrap(), &data[..777]);
}

#[tokio::test]
async fn a_damaged_block_is_noticed_by_the_reader() {
    let dir = formatted();
    let disk = open(&dir);
    write(&disk, 1, &bytes(1, 200_000)).await.unwrap();
    flip(&chunk_path(&dir, 1), DATA_AT as usize + 70_000);
    check(&disk.read(POOL, ChunkId(1), 0, 65_536).unwrap()).unwrap();
    assert_eq!(
        code(check(&disk.read(POOL, ChunkId(1), 65_536, 1).unwrap())),
        Code::ChecksumMismatch
    );
    let file = fs::OpenOptions::new()
        .write(true)
        .open(chunk_path(&dir, 1))
        .unwrap();
    file.set_len(DATA_AT + 100_000).unwrap();
    assert_eq!(
        code(disk.read(POOL, ChunkId(1), 150_000, 1)),
        Code::ChecksumMismatch
    );
    fs::remove_file(chunk_path(&dir, 1)).unwrap();
    assert_eq!(code(disk.read(POOL, ChunkId(1), 0, 1)), Code::ChunkMissing);
}

#[tokio::test]
async fn small_chunks_that_wait_take_no_room_from_large_ones() {
    let dir = formatted();
    let disk = open(&dir);
    let shared = &disk.0.shared;
    // As many as may wait in all, and more.
    let claims: Vec<_> = (1_000..1_000 + OPEN_CHUNKS_MAX as u64 + 300)
        .map(|chunk| {
            let name = ChunkName {
                pool: POOL,
                chunk: ChunkId(chunk),
            };
            let claim = shared.claims.reserve(name).unwrap();
            claim.open();
            claim
        })
        .collect();
    let create = |chunk| disk.create_chunk(POOL, ChunkId(chunk), 70_000);
    let mut writers: Vec<_> = (0..OPEN_CHUNKS_MAX as u64)
        .map(|chunk| create(chunk).unwrap())
        .collect();
    let refused = create(999).err().unwrap();
    assert_eq!(refused.code, Code::Overloaded);
    // One is over: sealed, or given up.
    let data = bytes(0, 70_000);
    let first = writers.remove(0);
    append(&first, 0, data.clone()).await.unwrap();
    first.seal(70_000, Crc::of(&data)).await.unwrap();
    drop(create(999).unwrap());
    drop((writers, claims));
    settled(&disk).await;
    create(998).unwrap();
}
