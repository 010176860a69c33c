//! What crashes, old indexes, deletions and compaction leave of copies.

use super::*;
use crate::disk::segment_format::SegmentId;

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
