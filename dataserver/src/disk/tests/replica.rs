//! Copies that repair makes, and what others are told of a group.

use super::*;
use crate::disk::listing::Page;
use crate::disk::segment_format::SegmentId;
use quarry_common::ids::PgId;
use quarry_common::map::pg_of;

fn name_of(chunk: u64) -> ChunkName {
    ChunkName {
        pool: POOL,
        chunk: ChunkId(chunk),
    }
}

async fn copy(disk: &Disk, chunk: u64, data: &Bytes) -> Result<()> {
    let mut writer = disk.create_copy(POOL, ChunkId(chunk), data.len() as u32)?;
    let (mut at, mut rest) = (0, data.clone());
    while !rest.is_empty() {
        let frame = rest.split_to(rest.len().min(FRAME_LEN_MAX));
        let crcs = frame_crcs(at, &frame);
        at += frame.len();
        writer.append(vec![frame], &crcs).await?;
    }
    writer.seal(data.len() as u32, Crc::of(data)).await
}

fn copies_left(dir: &TempDir) -> usize {
    let mut left = 0;
    for folder in fs::read_dir(dir.path().join("chunks")).unwrap() {
        for item in fs::read_dir(folder.unwrap().path()).unwrap() {
            let name = item.unwrap().file_name();
            left += usize::from(name.to_str().unwrap().ends_with(shared::COPY_SUFFIX));
        }
    }
    left
}

#[tokio::test]
async fn a_copy_of_a_new_chunk_is_there_and_stays() {
    let dir = formatted();
    let disk = open(&dir);
    let lens = [1, 500, 65_536, 65_537, 3_000_001];
    for (chunk, len) in (0..).zip(lens) {
        copy(&disk, chunk, &bytes(chunk, len)).await.unwrap();
        let kind = disk.stat(POOL, ChunkId(chunk)).unwrap().unwrap().kind;
        assert_eq!(kind == ChunkKind::Small, len <= 65_536);
    }
    assert_eq!(disk.counts().files + disk.counts().small, 5);
    assert_eq!(copies_left(&dir), 0);
    // Nobody else may write it.
    assert_eq!(code(write(&disk, 4, &bytes(4, 10)).await), Code::ChunkUsed);
    // At once: what was sealed is durable. And without an index.
    for indexed in [true, false] {
        let after = crashed(&dir);
        if !indexed {
            remove_index(&after);
        }
        let again = open(&after);
        for (chunk, len) in (0..).zip(lens) {
            same(read(&again, chunk).unwrap(), bytes(chunk, len));
        }
    }
}

#[tokio::test]
async fn a_copy_takes_the_place_of_a_bad_one() {
    let dir = formatted();
    let disk = open(&dir);
    for (chunk, len) in [(1, 200_000), (2, 700)] {
        let data = bytes(chunk, len);
        if len > 65_536 {
            write(&disk, chunk, &data).await.unwrap();
        } else {
            write_small(&disk, chunk, &data).await.unwrap();
        }
        disk.set_aside(POOL, ChunkId(chunk), "test").unwrap();
        assert_eq!(code(read(&disk, chunk)), Code::ChecksumMismatch);
        copy(&disk, chunk, &data).await.unwrap();
        same(read(&disk, chunk).unwrap(), &data);
        assert_eq!(disk.bad_copies(), []);
        // Without a stop: the mark did not go before the good copy was durable in the index too.
        let after = crashed(&dir);
        let again = open(&after);
        same(read(&again, chunk).unwrap(), &data);
        assert_eq!(again.bad_copies(), []);
    }
    assert_eq!((disk.counts().files, disk.counts().small), (1, 1));
    // A lost index finds the small one twice, and serves a good one.
    flip(&segment_path(&dir, 0), 8192 + 40 + 5);
    drop(disk);
    remove_index(&dir);
    let disk = open(&dir);
    for (chunk, len) in [(1, 200_000), (2, 700)] {
        same(read(&disk, chunk).unwrap(), bytes(chunk, len));
    }
    assert_eq!(disk.bad_copies(), []);
    assert_eq!((disk.counts().files, disk.counts().small), (1, 1));
}

#[tokio::test]
async fn a_crash_between_a_good_copy_and_its_entry_ends_with_one_of_the_two() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 300_000);
    let writer = disk.create_chunk(POOL, ChunkId(1), 300_000).unwrap();
    append(&writer, 0, data.slice(..100_000)).await.unwrap();
    writer
        .flush(100_000, Crc::of(&data[..100_000]))
        .await
        .unwrap();
    drop(writer);
    settled(&disk).await;
    disk.stop().unwrap();
    let before = crashed(&dir);
    drop(disk);
    let disk = open(&dir);
    // The shorter one is served until the longer one is whole.
    let mut writer = disk.create_copy(POOL, ChunkId(1), 300_000).unwrap();
    let crcs = frame_crcs(0, &data);
    writer.append(vec![data.clone()], &crcs).await.unwrap();
    same(read(&disk, 1).unwrap(), &data[..100_000]);
    let unfinished = crashed(&dir);
    writer.seal(300_000, Crc::of(&data)).await.unwrap();
    same(read(&disk, 1).unwrap(), &data);
    assert_eq!(copies_left(&dir), 0);
    // Finished: the entry of the old one went durably, that of the new one need not be there yet.
    let finished = crashed(&dir);
    let again = open(&finished);
    same(read(&again, 1).unwrap(), &data);
    assert_eq!(again.counts().files, 1);
    // Unfinished: the old one, and nothing of the copy.
    assert_eq!(copies_left(&unfinished), 1);
    let again = open(&unfinished);
    same(read(&again, 1).unwrap(), &data[..100_000]);
    assert_eq!((copies_left(&unfinished), again.trash_len()), (0, 0));
    assert_eq!(again.counts().files, 1);
    // The entry of the old one is gone, the file is not exchanged yet; and it is, without its entry.
    for file in [&before, &dir] {
        let between = crashed(&before);
        fs::copy(chunk_path(file, 1), chunk_path(&between, 1)).unwrap();
        remove_index(&between);
        let again = open(&between);
        let len = if file.path() == dir.path() {
            300_000
        } else {
            100_000
        };
        same(read(&again, 1).unwrap(), &data[..len]);
    }
    // The take-over itself: the old entry is durably gone before the file changes, so this can not be.
    let wrong = crashed(&before);
    fs::copy(chunk_path(&dir, 1), chunk_path(&wrong, 1)).unwrap();
    let again = open(&wrong);
    let found = read(&again, 1);
    assert!(found.is_err() || found.unwrap() == data[..100_000]);
}

#[tokio::test]
async fn a_short_copy_of_a_chunk_that_has_a_file_is_a_file_too() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 30_000);
    write(&disk, 1, &data).await.unwrap();
    disk.set_aside(POOL, ChunkId(1), "test").unwrap();
    copy(&disk, 1, &data).await.unwrap();
    for disk in [&disk, &open(&crashed(&dir))] {
        same(read(disk, 1).unwrap(), &data);
        assert_eq!((disk.counts().files, disk.counts().small), (1, 0));
    }
}

/// It may have been written between the moment at which it was found missing and the copy.
#[tokio::test]
async fn a_copy_never_takes_the_place_of_a_good_one_that_has_more() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 300_000);
    write(&disk, 1, &data).await.unwrap();
    write_small(&disk, 2, &data.slice(..700)).await.unwrap();
    for len in [100, 65_536, 200_000, 300_000] {
        copy(&disk, 1, &data.slice(..len)).await.unwrap();
        same(read(&disk, 1).unwrap(), &data);
    }
    for len in [100, 700] {
        copy(&disk, 2, &data.slice(..len)).await.unwrap();
        same(read(&disk, 2).unwrap(), &data[..700]);
    }
    assert_eq!(copies_left(&dir), 0);
    assert_eq!((disk.counts().files, disk.counts().small), (1, 1));
    // One that has other bytes is none.
    copy(&disk, 1, &bytes(9, 100_000)).await.unwrap();
    same(read(&disk, 1).unwrap(), bytes(9, 100_000));
}

#[tokio::test]
async fn a_copy_that_is_not_sealed_or_is_another_leaves_nothing() {
    let dir = formatted();
    let disk = open(&dir);
    let good = bytes(1, 200_000);
    write(&disk, 1, &good).await.unwrap();
    for chunk in [1, 2] {
        let data = bytes(9, 200_000);
        let mut writer = disk.create_copy(POOL, ChunkId(chunk), 200_000).unwrap();
        let busy = disk.create_copy(POOL, ChunkId(chunk), 200_000);
        assert_eq!(busy.err().map(|error| error.code), Some(Code::Busy));
        writer
            .append(vec![data.clone()], &frame_crcs(0, &data))
            .await
            .unwrap();
        drop(writer);
        settled(&disk).await;
        let mut writer = disk.create_copy(POOL, ChunkId(chunk), 200_000).unwrap();
        writer
            .append(vec![data.clone()], &frame_crcs(0, &data))
            .await
            .unwrap();
        assert!(writer.seal(200_000, Crc(7)).await.is_err());
        settled(&disk).await;
    }
    let mut writer = disk.create_copy(POOL, ChunkId(3), 5).unwrap();
    writer
        .append(vec![bytes(3, 5)], &[Crc::of(&bytes(3, 5))])
        .await
        .unwrap();
    assert!(writer.seal(5, Crc(7)).await.is_err());
    assert_eq!(copies_left(&dir), 0);
    assert_eq!(disk.trash_len(), 0, "nor does it keep any room");
    same(read(&disk, 1).unwrap(), &good);
    assert_eq!(disk.chunks().count(), 1);
    // The id of a client's chunk that was given up can be copied.
    drop(disk.create_chunk(POOL, ChunkId(4), 100_000).unwrap());
    settled(&disk).await;
    assert_eq!(code(write(&disk, 4, &good).await), Code::ChunkUsed);
    copy(&disk, 4, &good).await.unwrap();
}

#[tokio::test]
async fn repair_goes_on_where_clients_have_to_stop() {
    let dir = formatted();
    let space = open(&dir).space().unwrap();
    let percent = (space.free * 100 / space.total) as u8;
    let options = DiskOptions {
        free_percent: percent + 1,
        ..OPTIONS
    };
    let disk = Disk::open(dir.path(), CLUSTER, options).unwrap();
    if percent < 4 {
        return;
    }
    assert_eq!(
        code(write(&disk, 1, &bytes(1, 100_000)).await),
        Code::DiskFull
    );
    assert_eq!(
        code(write_small(&disk, 2, &bytes(2, 10)).await),
        Code::DiskFull
    );
    copy(&disk, 1, &bytes(1, 100_000)).await.unwrap();
    copy(&disk, 2, &bytes(2, 10)).await.unwrap();
}

#[tokio::test]
async fn every_prefix_has_the_crc_of_its_bytes() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 300_000);
    let writer = disk.create_chunk(POOL, ChunkId(1), 400_000).unwrap();
    append(&writer, 0, data.slice(..70_001)).await.unwrap();
    writer
        .flush(70_001, Crc::of(&data[..70_001]))
        .await
        .unwrap();
    let crc = |chunk, len| disk.prefix_crc(POOL, ChunkId(chunk), len).unwrap();
    assert_eq!(crc(1, 70_002), None, "not durable");
    for len in [1, 65_536, 70_000, 70_001] {
        assert_eq!(crc(1, len), Some(Crc::of(&data[..len as usize])), "{len}");
    }
    append(&writer, 70_001, data.slice(70_001..)).await.unwrap();
    writer.seal(300_000, Crc::of(&data)).await.unwrap();
    write_small(&disk, 2, &data.slice(..500)).await.unwrap();
    for len in [1, 65_535, 65_536, 65_537, 70_001, 131_072, 299_999, 300_000] {
        assert_eq!(crc(1, len), Some(Crc::of(&data[..len as usize])), "{len}");
    }
    for len in [1, 499, 500] {
        assert_eq!(crc(2, len), Some(Crc::of(&data[..len as usize])), "{len}");
    }
    assert_eq!(
        (crc(1, 300_001), crc(2, 501), crc(3, 1)),
        (None, None, None)
    );
    // A damaged block is not believed.
    flip(&chunk_path(&dir, 1), layout::DATA_AT as usize + 10);
    assert_eq!(
        code(disk.prefix_crc(POOL, ChunkId(1), 100)),
        Code::ChecksumMismatch
    );
    disk.set_aside(POOL, ChunkId(2), "test").unwrap();
    assert_eq!(crc(2, 500), None);
}

#[tokio::test]
async fn a_look_at_a_damaged_chunk_sets_it_aside() {
    let dir = formatted();
    let disk = open(&dir);
    write(&disk, 1, &bytes(1, 300_000)).await.unwrap();
    write_small(&disk, 2, &bytes(2, 700)).await.unwrap();
    write(&disk, 3, &bytes(3, 300_000)).await.unwrap();
    let verify = |chunk| disk.verify(POOL, ChunkId(chunk)).unwrap();
    assert!(verify(1) && verify(2) && verify(3) && !verify(4));
    flip(&chunk_path(&dir, 1), layout::DATA_AT as usize + 299_999);
    flip(&segment_path(&dir, 0), 8192 + 40 + 699);
    assert!(!verify(1) && !verify(2) && verify(3));
    let names: Vec<u64> = disk.bad_copies().iter().map(|name| name.chunk.0).collect();
    assert_eq!(names, [1, 2]);
    assert!(!verify(1), "it stays so");
}

/// A power cut in the middle of a seal may leave the same on every member.
#[tokio::test]
async fn a_look_at_a_chunk_whose_end_is_damaged_keeps_what_was_flushed() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 400_000);
    let writer = disk.create_chunk(POOL, ChunkId(1), 400_000).unwrap();
    for (from, to) in [(0, 65_536), (65_536, 131_072)] {
        append(&writer, from, data.slice(from..to)).await.unwrap();
        let crc = Crc::of(&data[..to]);
        writer.flush(to as u32, crc).await.unwrap();
    }
    append(&writer, 131_072, data.slice(131_072..))
        .await
        .unwrap();
    writer.seal(400_000, Crc::of(&data)).await.unwrap();
    let verify = || disk.verify(POOL, ChunkId(1)).unwrap();
    assert!(verify());
    for (at, len) in [(300_000, 131_072), (70_000, 65_536)] {
        flip(&chunk_path(&dir, 1), layout::DATA_AT as usize + at);
        assert!(!verify());
        same(read(&disk, 1).unwrap(), &data[..len]);
        assert!(verify(), "what is left is good");
        assert_eq!((disk.counts().files, disk.counts().len), (1, len as u64));
    }
    assert_eq!(disk.bad_copies(), []);
    // What repair brings takes its place.
    copy(&disk, 1, &data).await.unwrap();
    same(read(&disk, 1).unwrap(), &data);
    copy(&disk, 2, &data).await.unwrap();
    flip(&chunk_path(&dir, 2), layout::DATA_AT as usize + 300_000);
    assert!(!disk.verify(POOL, ChunkId(2)).unwrap());
    assert_eq!(disk.bad_copies(), [name_of(2)], "it was never flushed");
}

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

/// The index is written out now and then only: after a crash it may be that of long ago.
async fn flushed(dir: &TempDir, disk: Disk) -> Disk {
    disk.stop().unwrap();
    drop(disk);
    open(dir)
}

async fn compact(disk: &Disk) -> Option<SegmentId> {
    let disk = disk.clone();
    let compacted = tokio::task::spawn_blocking(move || disk.compact());
    compacted.await.unwrap().unwrap()
}

#[tokio::test]
async fn the_last_record_of_a_chunk_counts_after_a_crash_with_an_old_index_or_none() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 60_000);
    write_small(&disk, 1, &data.slice(..40_000)).await.unwrap();
    let disk = flushed(&dir, disk).await;
    copy(&disk, 1, &data).await.unwrap();
    same(read(&disk, 1).unwrap(), &data);
    for indexed in [true, false] {
        let after = crashed(&dir);
        if !indexed {
            remove_index(&after);
        }
        let again = open(&after);
        same(read(&again, 1).unwrap(), &data);
        assert_eq!((again.counts().small, again.counts().len), (1, 60_000));
        // Both records were read: what is live is counted right, and the old segment goes.
        while compact(&again).await.is_some() {}
        assert!(!segment_path(&after, 0).exists());
        same(read(&again, 1).unwrap(), &data);
    }
    // Twice in one segment as well.
    let data = bytes(2, 50_000);
    write_small(&disk, 2, &data.slice(..20_000)).await.unwrap();
    copy(&disk, 2, &data).await.unwrap();
    same(read(&open(&crashed(&dir)), 2).unwrap(), &data);
}

#[tokio::test]
async fn a_mark_goes_only_with_a_copy_that_came_after_the_bad_one() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 60_000);
    write_small(&disk, 1, &data.slice(..40_000)).await.unwrap();
    let segment = fs::read(segment_path(&dir, 0)).unwrap();
    let disk = flushed(&dir, disk).await;
    copy(&disk, 1, &data).await.unwrap();
    disk.set_aside(POOL, ChunkId(1), "test").unwrap();
    assert_eq!(compact(&disk).await, Some(SegmentId(0)));
    drop(flushed(&dir, disk).await);
    // The move of the old segment to the trash was undone by a crash.
    fs::write(segment_path(&dir, 0), segment).unwrap();
    let disk = open(&dir);
    assert_eq!(code(read(&disk, 1)), Code::ChecksumMismatch);
    assert_eq!(disk.stat(POOL, ChunkId(1)).unwrap().unwrap().len, 60_000);
    // A crash before the mark of a bad copy went.
    let before = crashed(&dir);
    copy(&disk, 1, &data).await.unwrap();
    let after = crashed(&dir);
    fs::remove_dir_all(after.path().join("index")).unwrap();
    copy_folder(&before.path().join("index"), &after.path().join("index"));
    copy_folder(&before.path().join("aside"), &after.path().join("aside"));
    let again = open(&after);
    same(read(&again, 1).unwrap(), &data);
    assert_eq!(again.bad_copies(), []);
}

/// As a leaver's, that becomes a member again.
#[tokio::test]
async fn a_chunk_that_was_deleted_can_be_copied_again_and_no_crash_takes_the_copy() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 50_000);
    let chunks = [1, 2, 3, 4];
    for chunk in [1, 2] {
        // Ended at a flush: shorter than what others have.
        let writer = disk.create_chunk(POOL, ChunkId(chunk), 100_000).unwrap();
        append(&writer, 0, data.slice(..30_000)).await.unwrap();
        writer
            .flush(30_000, Crc::of(&data[..30_000]))
            .await
            .unwrap();
        drop(writer);
    }
    settled(&disk).await;
    write_small(&disk, 3, &data.slice(..300)).await.unwrap();
    // With a tail that nobody else has.
    write(&disk, 4, &bytes(1, 100_000)).await.unwrap();
    let disk = flushed(&dir, disk).await;
    let file = fs::read(chunk_path(&dir, 2)).unwrap();
    for chunk in chunks {
        assert!(disk.delete(POOL, ChunkId(chunk), || true).unwrap());
        copy(&disk, chunk, &data).await.unwrap();
    }
    for indexed in [true, false] {
        let after = crashed(&dir);
        // That the file of one went to the trash was undone.
        fs::write(chunk_path(&after, 2), &file).unwrap();
        if !indexed {
            remove_index(&after);
        }
        let again = open(&after);
        for chunk in chunks {
            same(read(&again, chunk).unwrap(), &data);
        }
        assert_eq!((again.counts().files, again.counts().small), (0, 4));
        // It has become durable.
        again.stop().unwrap();
        drop(again);
        let again = open(&after);
        for chunk in chunks {
            same(read(&again, chunk).unwrap(), &data);
        }
    }
}

#[tokio::test]
async fn a_shorter_copy_of_a_deleted_chunk_is_not_measured_by_an_entry_that_a_crash_brings_back() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 300_000);
    write(&disk, 1, &data).await.unwrap();
    let disk = flushed(&dir, disk).await;
    assert!(disk.delete(POOL, ChunkId(1), || true).unwrap());
    copy(&disk, 1, &data.slice(..200_000)).await.unwrap();
    let after = crashed(&dir);
    let again = open(&after);
    same(read(&again, 1).unwrap(), &data[..200_000]);
    assert!(again.verify(POOL, ChunkId(1)).unwrap());
}

#[tokio::test]
async fn a_record_stays_until_a_file_has_taken_its_place() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 300_000);
    write_small(&disk, 1, &data.slice(..40_000)).await.unwrap();
    let disk = flushed(&dir, disk).await;
    // The rename fails, as if the power had gone before it.
    fs::create_dir(chunk_path(&dir, 1)).unwrap();
    copy(&disk, 1, &data).await.unwrap_err();
    let after = crashed(&dir);
    fs::remove_dir(chunk_path(&after, 1)).unwrap();
    let again = open(&after);
    same(read(&again, 1).unwrap(), &data[..40_000]);
    // And with it: of the two the file counts, with an index of before.
    copy(&again, 1, &data).await.unwrap();
    for indexed in [true, false] {
        let after = crashed(&after);
        if !indexed {
            remove_index(&after);
        }
        let again = open(&after);
        same(read(&again, 1).unwrap(), &data);
        assert_eq!((again.counts().files, again.counts().small), (1, 0));
    }
}

#[tokio::test]
async fn copies_deletions_and_compaction_of_the_same_chunks_lose_nothing() {
    let dir = formatted();
    let disk = open(&dir);
    let len = 20_000;
    let count = 300;
    for chunk in 0..count {
        write_small(&disk, chunk, &bytes(chunk, len)).await.unwrap();
    }
    let disk = flushed(&dir, disk).await;
    // Two in three go; a good copy takes the place of each bad one meanwhile.
    let goes = |chunk: u64| !chunk.is_multiple_of(3);
    let is_bad = |chunk: u64| chunk.is_multiple_of(12);
    for chunk in (0..count).filter(|chunk| is_bad(*chunk)) {
        disk.set_aside(POOL, ChunkId(chunk), "test").unwrap();
    }
    let deleting = {
        let disk = disk.clone();
        tokio::task::spawn_blocking(move || {
            for chunk in (0..count).filter(|chunk| goes(*chunk)) {
                while let Err(error) = disk.delete(POOL, ChunkId(chunk), || true) {
                    assert_eq!(error.code, Code::Busy);
                    std::thread::yield_now();
                }
            }
        })
    };
    let compacting = {
        let disk = disk.clone();
        tokio::task::spawn_blocking(move || {
            while !disk.bad_copies().is_empty() || disk.0.shared.segment_path(SegmentId(0)).exists()
            {
                disk.compact().unwrap();
                std::thread::yield_now();
            }
        })
    };
    for chunk in (0..count).filter(|chunk| is_bad(*chunk)) {
        while let Err(error) = copy(&disk, chunk, &bytes(chunk, len)).await {
            assert_eq!(error.code, Code::Busy);
        }
    }
    deleting.await.unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(30), compacting)
        .await
        .unwrap()
        .unwrap();
    let check = |disk: &Disk| {
        for chunk in 0..count {
            if goes(chunk) {
                continue;
            }
            same(read(disk, chunk).unwrap(), bytes(chunk, len));
        }
        assert_eq!(disk.bad_copies(), []);
    };
    check(&disk);
    assert_eq!(disk.counts().small, count / 3);
    for indexed in [true, false] {
        let after = crashed(&dir);
        if !indexed {
            remove_index(&after);
        }
        check(&open(&after));
    }
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

#[tokio::test]
async fn a_file_that_is_gone_is_a_bad_copy() {
    let dir = formatted();
    let disk = open(&dir);
    write(&disk, 1, &bytes(1, 70_000)).await.unwrap();
    fs::remove_file(chunk_path(&dir, 1)).unwrap();
    assert!(!disk.verify(POOL, ChunkId(1)).unwrap());
    assert_eq!(disk.bad_copies().len(), 1);
    copy(&disk, 1, &bytes(1, 70_000)).await.unwrap();
    same(read(&disk, 1).unwrap(), bytes(1, 70_000));
    assert_eq!(disk.bad_copies(), []);
}

#[tokio::test]
async fn a_copy_that_does_not_read_back_leaves_what_was_there_and_fails_the_disk() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 5_000_000);
    copy(&disk, 1, &data.slice(..200_000)).await.unwrap();
    let mut writer = disk.create_copy(POOL, ChunkId(1), 5_000_000).unwrap();
    let (mut at, mut rest) = (0, data.clone());
    while !rest.is_empty() {
        let frame = rest.split_to(rest.len().min(FRAME_LEN_MAX));
        let crcs = frame_crcs(at, &frame);
        at += frame.len();
        writer.append(vec![frame], &crcs).await.unwrap();
    }
    // What has been written is changed before the end.
    let path = shared::copy_path(&disk.0.shared.rooms, name_of(1));
    let first = layout::DATA_AT as usize + 7;
    let is_written = || fs::read(&path).is_ok_and(|file| file.get(first) == Some(&data[7]));
    while !is_written() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let file = fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[data[7] ^ 1], first as u64).unwrap();
    let sealed = writer.seal(5_000_000, Crc::of(&data)).await;
    assert_eq!(code(sealed), Code::DiskFailed);
    settled(&disk).await;
    assert!(disk.failure().unwrap().contains("read back"));
    let found = disk.stat(POOL, ChunkId(1)).unwrap().unwrap();
    assert_eq!(found.state, ChunkState::Sealed);
    for disk in [&disk, &open(&crashed(&dir))] {
        same(read(disk, 1).unwrap(), &data[..200_000]);
    }
}

#[tokio::test]
async fn a_copy_that_can_not_take_its_place_leaves_the_entry_of_what_was_there() {
    let dir = formatted();
    let disk = open(&dir);
    write(&disk, 1, &bytes(1, 100_000)).await.unwrap();
    // Nothing can be renamed to where a directory is.
    fs::remove_file(chunk_path(&dir, 1)).unwrap();
    fs::create_dir(chunk_path(&dir, 1)).unwrap();
    let copied = copy(&disk, 1, &bytes(1, 200_000)).await;
    assert_eq!(code(copied), Code::DiskFailed);
    settled(&disk).await;
    let found = disk.stat(POOL, ChunkId(1)).unwrap().unwrap();
    assert_eq!((found.len, found.state), (100_000, ChunkState::Sealed));
}

/// A file that hangs: what is in its place can not be opened for reading until the end, and then not be read.
struct Hanging {
    path: PathBuf,
    kept: PathBuf,
    fifo: PathBuf,
}

impl Hanging {
    fn at(dir: &TempDir, path: &Path) -> Hanging {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let (kept, fifo) = (dir.path().join("kept"), dir.path().join("fifo"));
        fs::rename(path, &kept).unwrap();
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        fs::hard_link(&fifo, path).unwrap();
        let path = path.to_path_buf();
        Hanging { path, kept, fifo }
    }

    /// The file is there again; whoever had begun to open it gets an error.
    fn end(self) {
        fs::rename(&self.kept, &self.path).unwrap();
        // Waits for nobody, and lets go who waits.
        let opened = fs::File::options().read(true).write(true).open(&self.fifo);
        drop(opened.unwrap());
    }
}

#[tokio::test]
async fn a_copy_waits_for_a_disk_that_hangs_and_keeps_nobody_from_going_on() {
    let dir = formatted();
    let disk = open(&dir);
    write_small(&disk, 1, &bytes(1, 700)).await.unwrap();
    let path = segment_path(&dir, 0);
    let hanging = Hanging::at(&dir, &path);
    let copying = {
        let disk = disk.clone();
        tokio::spawn(async move { copy(&disk, 1, &bytes(1, 600)).await })
    };
    let went_on = Arc::new(AtomicBool::new(false));
    // Whether this thread hangs or not, it is let go.
    let releasing = {
        let went_on = Arc::clone(&went_on);
        std::thread::spawn(move || {
            let began = Instant::now();
            while !went_on.load(Ordering::Acquire) && began.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let in_time = went_on.load(Ordering::Acquire);
            hanging.end();
            in_time
        })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!copying.is_finished());
    went_on.store(true, Ordering::Release);
    let in_time = tokio::task::spawn_blocking(|| releasing.join().unwrap());
    assert!(in_time.await.unwrap(), "it took the thread of all others");
    copying.await.unwrap().unwrap();
    same(read(&disk, 1).unwrap(), bytes(1, 600));
}

#[tokio::test]
async fn an_error_that_passes_makes_no_bad_copy() {
    let dir = formatted();
    let disk = open(&dir);
    write(&disk, 1, &bytes(1, 200_000)).await.unwrap();
    let hanging = Hanging::at(&dir, &chunk_path(&dir, 1));
    let verifying = {
        let disk = disk.clone();
        std::thread::spawn(move || disk.verify(POOL, ChunkId(1)))
    };
    std::thread::sleep(Duration::from_millis(300));
    // The first look has begun, and fails when the file is there again.
    hanging.end();
    assert!(verifying.join().unwrap().unwrap());
    assert_eq!(disk.bad_copies(), []);
    same(read(&disk, 1).unwrap(), bytes(1, 200_000));
}

#[tokio::test]
async fn a_bad_copy_is_reconsidered_and_its_mark_goes_if_all_of_it_is_good() {
    let dir = formatted();
    let disk = open(&dir);
    write(&disk, 1, &bytes(1, 200_000)).await.unwrap();
    write_small(&disk, 2, &bytes(2, 700)).await.unwrap();
    let at = layout::DATA_AT as usize + 199_999;
    flip(&chunk_path(&dir, 1), at);
    flip(&segment_path(&dir, 0), 8192 + 40 + 699);
    let reconsider = |disk: &Disk, chunk| disk.reconsider(POOL, ChunkId(chunk)).unwrap();
    for chunk in [1, 2] {
        assert!(!disk.verify(POOL, ChunkId(chunk)).unwrap());
        assert!(!reconsider(&disk, chunk), "it is bad still");
        assert_eq!(code(read(&disk, chunk)), Code::ChecksumMismatch);
    }
    flip(&chunk_path(&dir, 1), at);
    flip(&segment_path(&dir, 0), 8192 + 40 + 699);
    assert!(reconsider(&disk, 1) && reconsider(&disk, 2));
    assert!(!reconsider(&disk, 3));
    for disk in [&disk, &open(&crashed(&dir))] {
        same(read(disk, 1).unwrap(), bytes(1, 200_000));
        same(read(disk, 2).unwrap(), bytes(2, 700));
        assert_eq!(disk.bad_copies(), []);
    }
    disk.stop().unwrap();
    drop(disk);
    // So it is with one whose file somebody has brought back.
    let kept = dir.path().join("kept");
    fs::rename(chunk_path(&dir, 1), &kept).unwrap();
    let disk = open(&dir);
    assert!(!reconsider(&disk, 1) && disk.is_missing(POOL, ChunkId(1)));
    fs::rename(&kept, chunk_path(&dir, 1)).unwrap();
    assert_eq!(code(disk.read(POOL, ChunkId(1), 0, 1)), Code::ChunkMissing);
    assert!(reconsider(&disk, 1) && !disk.is_missing(POOL, ChunkId(1)));
    same(read(&disk, 1).unwrap(), bytes(1, 200_000));
}
