//! What survives a crash, and what damage does.

use super::*;
use crate::disk::chunk_format::FOOTER_LEN_MAX;
use crate::disk::layout::{DATA_AT, SECTOR_LEN};
use crate::disk::segment_format::RecordHead;
use quarry_common::ids::PgId;

/// A disk with sealed chunks 1 and 2 (large), 10 to 19 (small), stopped cleanly.
async fn filled() -> TempDir {
    let dir = formatted();
    let disk = open(&dir);
    write(&disk, 1, &bytes(1, 100_000)).await.unwrap();
    write(&disk, 2, &bytes(2, 1 << 20)).await.unwrap();
    for chunk in 10..20 {
        write_small(&disk, chunk, &bytes(chunk, 500)).await.unwrap();
    }
    disk.stop().unwrap();
    dir
}

fn check_filled(disk: &Disk) {
    same(read(disk, 1).unwrap(), bytes(1, 100_000));
    same(read(disk, 2).unwrap(), bytes(2, 1 << 20));
    for chunk in 10..20 {
        same(read(disk, chunk).unwrap(), bytes(chunk, 500));
    }
    assert_eq!(disk.chunks().filter(Result::is_ok).count(), 12);
    assert_eq!(
        disk.counts(),
        Counts {
            files: 2,
            small: 10,
            len: 100_000 + (1 << 20) + 5000
        }
    );
}

#[tokio::test]
async fn a_lost_index_is_rebuilt_from_the_disk() {
    let dir = filled().await;
    remove_index(&dir);
    let disk = open(&dir);
    assert_eq!(
        (disk.report().files_found, disk.report().small_found),
        (2, 10)
    );
    check_filled(&disk);
}

#[tokio::test]
async fn a_damaged_index_is_moved_away_and_rebuilt() {
    for victim in ["CURRENT", "MANIFEST", ".sst"] {
        let dir = filled().await;
        let mut hit = 0;
        for item in fs::read_dir(dir.path().join("index")).unwrap() {
            let path = item.unwrap().path();
            if path.to_str().unwrap().contains(victim) {
                fs::write(&path, "damaged").unwrap();
                hit += 1;
            }
        }
        assert!(hit > 0, "{victim}");
        let disk = open(&dir);
        assert!(disk.report().index_rebuilt, "{victim}");
        check_filled(&disk);
    }
}

#[tokio::test]
async fn an_older_index_is_brought_up_to_date() {
    let dir = filled().await;
    let old = tempfile::tempdir().unwrap();
    copy_folder(&dir.path().join("index"), old.path());
    let disk = open(&dir);
    write(&disk, 3, &bytes(3, 70_000)).await.unwrap();
    write_small(&disk, 20, &bytes(20, 500)).await.unwrap();
    drop(disk);
    remove_index(&dir);
    fs::create_dir(dir.path().join("index")).unwrap();
    copy_folder(old.path(), &dir.path().join("index"));
    let disk = open(&dir);
    assert_eq!(
        disk.report(),
        Report {
            small_found: 1,
            files_found: 1,
            ..Report::default()
        }
    );
    same(read(&disk, 3).unwrap(), bytes(3, 70_000));
    same(read(&disk, 20).unwrap(), bytes(20, 500));
}

#[tokio::test]
async fn an_index_that_knows_more_than_the_disk_is_not_believed() {
    let dir = filled().await;
    let before = crashed(&dir);
    let disk = open(&dir);
    write(&disk, 3, &bytes(3, 70_000)).await.unwrap();
    write_small(&disk, 20, &bytes(20, 500)).await.unwrap();
    disk.stop().unwrap();
    drop(disk);
    // The data is rolled back, the index is not.
    remove_index(&before);
    fs::create_dir(before.path().join("index")).unwrap();
    copy_folder(&dir.path().join("index"), &before.path().join("index"));
    let disk = open(&before);
    assert!(disk.report().index_rebuilt);
    check_filled(&disk);
    drop(disk);
    fs::remove_file(chunk_path(&before, 1)).unwrap();
    let disk = open(&before);
    assert_eq!(
        disk.report(),
        Report {
            files_missing: 1,
            ..Report::default()
        }
    );
}

#[tokio::test]
async fn a_chunk_whose_file_is_gone_is_a_bad_copy_until_it_is_replaced_or_deleted() {
    let dir = filled().await;
    for chunk in [1, 2] {
        fs::remove_file(chunk_path(&dir, chunk)).unwrap();
    }
    let missing = |disk: &Disk| -> Vec<u64> {
        let missing = disk.take_missing(10);
        missing.iter().map(|name| name.chunk.0).collect()
    };
    let state = |disk: &Disk, chunk| {
        let listed = disk.group(POOL, (PgId(0), 1), None, 100).unwrap().chunks;
        let of = listed
            .into_iter()
            .find(|(found, _)| *found == ChunkId(chunk));
        assert_eq!(of.map(|of| of.1), disk.stat(POOL, ChunkId(chunk)).unwrap());
        of.map(|(_, info)| (info.len, info.state))
    };
    // Each start tells whoever repairs.
    for _ in 0..2 {
        let disk = open(&dir);
        assert_eq!((missing(&disk), missing(&disk)), (vec![1, 2], vec![]));
        assert_eq!(state(&disk, 1), Some((100_000, ChunkState::SetAside)));
        assert_eq!(code(disk.read(POOL, ChunkId(1), 0, 1)), Code::ChunkMissing);
        let crc = disk.prefix_crc(POOL, ChunkId(1), 100_000).unwrap();
        assert_eq!(crc, None, "it is not confirmed");
        assert!(!disk.verify(POOL, ChunkId(1)).unwrap());
        let data = bytes(9, 10);
        assert_eq!(code(write(&disk, 1, &data).await), Code::ChunkUsed);
    }
    let disk = open(&dir);
    let data = bytes(1, 100_000);
    let mut writer = disk.create_copy(POOL, ChunkId(1), 100_000).unwrap();
    let crcs = frame_crcs(0, &data);
    writer.append(vec![data.clone()], &crcs).await.unwrap();
    writer.seal(100_000, Crc::of(&data)).await.unwrap();
    assert!(disk.delete(POOL, ChunkId(2), || true).unwrap());
    for disk in [&disk, &open(&crashed(&dir))] {
        same(read(disk, 1).unwrap(), &data);
        assert_eq!(state(disk, 1), Some((100_000, ChunkState::Sealed)));
    }
    assert_eq!(state(&disk, 2), None);
    disk.stop().unwrap();
    drop(disk);
    let disk = open(&dir);
    assert_eq!((missing(&disk), state(&disk, 2)), (vec![], None));
}

/// Nothing else knows of them.
#[tokio::test]
async fn chunks_whose_files_are_gone_are_bad_copies_also_when_the_index_is_built_anew() {
    let dir = filled().await;
    let disk = open(&dir);
    disk.0.shared.index.spoil_folder(0xff);
    disk.stop().unwrap();
    drop(disk);
    fs::remove_file(chunk_path(&dir, 1)).unwrap();
    for is_first in [true, false] {
        let disk = open(&dir);
        assert_eq!(disk.report().index_rebuilt, is_first);
        let bad: Vec<_> = disk.bad_copies().iter().map(|name| name.chunk.0).collect();
        assert_eq!(bad, [1]);
        let found = disk.stat(POOL, ChunkId(1)).unwrap().unwrap();
        assert_eq!(found.state, ChunkState::SetAside);
        same(read(&disk, 2).unwrap(), bytes(2, 1 << 20));
    }
}

#[tokio::test]
async fn a_crash_at_any_moment_keeps_what_was_acknowledged() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(9, 400_000);
    let writer = disk.create_chunk(POOL, ChunkId(9), 500_000).unwrap();
    append(&writer, 0, data.slice(..100_001)).await.unwrap();
    writer
        .flush(100_001, Crc::of(&data[..100_001]))
        .await
        .unwrap();
    write(&disk, 1, &bytes(1, 100_000)).await.unwrap();
    write_small(&disk, 2, &bytes(2, 300)).await.unwrap();
    append(&writer, 100_001, data.slice(100_001..))
        .await
        .unwrap();
    let copy = crashed(&dir);
    writer.seal(400_000, Crc::of(&data)).await.unwrap();
    drop(disk);
    let disk = open(&copy);
    same(read(&disk, 1).unwrap(), bytes(1, 100_000));
    same(read(&disk, 2).unwrap(), bytes(2, 300));
    same(read(&disk, 9).unwrap(), &data[..100_001]);
    assert_eq!(disk.report().files_finished, 1);
    drop(disk);
    remove_index(&copy);
    let disk = open(&copy);
    same(read(&disk, 9).unwrap(), &data[..100_001]);
    assert_eq!(disk.report().files_finished, 0);
}

#[tokio::test]
async fn recovery_takes_the_longest_flush_that_verifies() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 300_000);
    let writer = disk.create_chunk(POOL, ChunkId(1), 300_000).unwrap();
    let ends = [50_000, 120_000, 250_000];
    let mut at = 0;
    for end in ends {
        append(&writer, at, data.slice(at..end)).await.unwrap();
        writer
            .flush(end as u32, Crc::of(&data[..end]))
            .await
            .unwrap();
        at = end;
    }
    let recovered = |damage: &dyn Fn(&Path)| {
        let copy = crashed(&dir);
        damage(&chunk_path(&copy, 1));
        let disk = open(&copy);
        (read(&disk, 1), disk.report())
    };
    same(recovered(&|_| ()).0.unwrap(), &data[..250_000]);
    // The last 10,000 bytes of the last flush never reached the disk.
    same(
        recovered(&|path| flip(path, DATA_AT as usize + 245_000))
            .0
            .unwrap(),
        &data[..120_000],
    );
    // Nor did its record.
    same(
        recovered(&|path| flip(path, 3 * SECTOR_LEN + 20))
            .0
            .unwrap(),
        &data[..120_000],
    );
    // A damaged header changes nothing, whatever it says of its format.
    for at in [20, 4] {
        same(
            recovered(&|path| flip(path, at)).0.unwrap(),
            &data[..250_000],
        );
    }
    same(
        recovered(&|path| flip(path, 3 * SECTOR_LEN + 4)).0.unwrap(),
        &data[..120_000],
    );
    let (result, report) = recovered(&|path| flip(path, DATA_AT as usize + 10));
    assert_eq!(
        code(result),
        Code::ChecksumMismatch,
        "acknowledged bytes are damaged: never served"
    );
    assert_eq!(report.set_aside, 1);
    drop(writer);
}

/// Somebody has to mend it, or to say that nothing refers to it.
#[tokio::test]
async fn a_chunk_whose_only_flush_record_is_damaged_is_a_bad_copy_until_it_is_deleted() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 50_000);
    let writer = disk.create_chunk(POOL, ChunkId(1), 300_000).unwrap();
    append(&writer, 0, data.clone()).await.unwrap();
    writer.flush(50_000, Crc::of(&data)).await.unwrap();
    let copy = crashed(&dir);
    drop(writer);
    flip(&chunk_path(&copy, 1), SECTOR_LEN + 20);
    let again = open(&copy);
    assert_eq!(
        (again.report().set_aside, again.report().files_trashed),
        (1, 0)
    );
    assert_eq!(code(read(&again, 1)), Code::ChecksumMismatch);
    let listed = again.group(POOL, (PgId(0), 1), None, 10).unwrap().chunks;
    let states: Vec<_> = listed
        .iter()
        .map(|(chunk, info)| (chunk.0, info.state))
        .collect();
    assert_eq!(states, [(1, ChunkState::SetAside)]);
    assert!(again.delete(POOL, ChunkId(1), || true).unwrap());
    assert_eq!(again.bad_copies(), []);
    assert!(!chunk_path(&copy, 1).exists());
    drop(again);
    let again = open(&copy);
    assert_eq!(
        (again.report(), again.bad_copies()),
        (Report::default(), vec![])
    );
}

#[tokio::test]
async fn a_chunk_that_was_never_flushed_goes_to_the_trash() {
    let dir = formatted();
    let disk = open(&dir);
    let writer = disk.create_chunk(POOL, ChunkId(1), 3 << 20).unwrap();
    append(&writer, 0, bytes(1, 2 << 20)).await.unwrap();
    while !chunk_path(&dir, 1).exists() {
        tokio::task::yield_now().await;
    }
    let copy = crashed(&dir);
    drop(writer);
    settled(&disk).await;
    let disk = open(&copy);
    assert_eq!(
        disk.report(),
        Report {
            files_trashed: 1,
            ..Report::default()
        }
    );
    assert_eq!(disk.stat(POOL, ChunkId(1)).unwrap(), None);
    write(&disk, 1, &bytes(5, 10)).await.unwrap();
}

#[tokio::test]
async fn damage_to_a_sealed_file_is_never_served_when_the_index_is_lost() {
    let dir = filled().await;
    let path = chunk_path(&dir, 1);
    let len = fs::metadata(&path).unwrap().len() as usize;
    let footer_at = len - FOOTER_LEN_MAX / 2;
    for at in [
        footer_at,
        footer_at + 5,
        footer_at + 14,
        footer_at + 45,
        footer_at + 60,
        len - 1,
        len - 10,
        len - 16,
        DATA_AT as usize + 99_999,
        20,
    ] {
        let copy = crashed(&dir);
        remove_index(&copy);
        flip(&chunk_path(&copy, 1), at);
        let disk = open(&copy);
        match read(&disk, 1) {
            Ok(data) => same(data, bytes(1, 100_000)),
            Err(error) => assert_eq!(
                error.code,
                Code::ChecksumMismatch,
                "byte {at} of {len}: {error}"
            ),
        }
        same(read(&disk, 2).unwrap(), bytes(2, 1 << 20));
    }
}

/// A power cut may keep the footer of a chunk that was being sealed, and lose data before it.
#[tokio::test]
async fn a_footer_without_its_data_does_not_take_with_it_what_was_flushed() {
    let data = bytes(9, 300_000);
    // In a block, and between two: there the blocks before are whole anyway.
    for flushed in [100_001, 2 * BLOCK_LEN] {
        let dir = formatted();
        let disk = open(&dir);
        let writer = disk.create_chunk(POOL, ChunkId(9), 300_000).unwrap();
        let front = data.slice(..flushed);
        append(&writer, 0, front.clone()).await.unwrap();
        writer.flush(flushed as u32, Crc::of(&front)).await.unwrap();
        append(&writer, flushed, data.slice(flushed..))
            .await
            .unwrap();
        writer.seal(300_000, Crc::of(&data)).await.unwrap();
        disk.stop().unwrap();
        drop(disk);
        remove_index(&dir);
        let whole = crashed(&dir);
        // The first byte after the flush stands in a sector of its own.
        flip(
            &chunk_path(&dir, 9),
            DATA_AT as usize + flushed.next_multiple_of(SECTOR_LEN),
        );
        let disk = open(&dir);
        let part = disk.read(POOL, ChunkId(9), 0, flushed as u32).unwrap();
        check(&part).unwrap();
        same(&part.data[..flushed], &front);
        drop(disk);
        same(read(&open(&whole), 9).unwrap(), &data);
    }
}

/// Without its entry nobody knows how long it was; who has the whole file may still get its end back.
#[tokio::test]
async fn a_chunk_whose_footer_is_damaged_is_served_up_to_a_flush_and_its_file_stays_as_it_is() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(9, 400_000);
    let writer = disk.create_chunk(POOL, ChunkId(9), 400_000).unwrap();
    for (from, to) in [(0, 100_001), (100_001, 200_000)] {
        append(&writer, from, data.slice(from..to)).await.unwrap();
        let crc = Crc::of(&data[..to]);
        writer.flush(to as u32, crc).await.unwrap();
    }
    append(&writer, 200_000, data.slice(200_000..))
        .await
        .unwrap();
    writer.seal(400_000, Crc::of(&data)).await.unwrap();
    disk.stop().unwrap();
    drop(disk);
    remove_index(&dir);
    let whole = fs::read(chunk_path(&dir, 9)).unwrap();
    let footer_at = whole.len() - SECTOR_LEN;
    let in_second_flush = DATA_AT as usize + 150_000;
    for (damaged, len) in [
        (vec![footer_at + 20], 200_000),
        (vec![whole.len() - 1], 200_000),
        (vec![footer_at + 20, in_second_flush], 100_001),
        (vec![footer_at, whole.len() - 16, in_second_flush], 100_001),
        (
            vec![footer_at, whole.len() - 16, 2 * SECTOR_LEN + 20],
            100_001,
        ),
    ] {
        let copy = crashed(&dir);
        let path = chunk_path(&copy, 9);
        damaged.iter().for_each(|at| flip(&path, *at));
        let left = fs::read(&path).unwrap();
        let disk = open(&copy);
        same(read(&disk, 9).unwrap(), &data[..len]);
        assert_eq!(disk.report().files_found, 1);
        drop(disk);
        same(fs::read(&path).unwrap(), &left);
        damaged.iter().for_each(|at| flip(&path, *at));
        remove_index(&copy);
        same(read(&open(&copy), 9).unwrap(), &data);
    }
}

#[tokio::test]
async fn the_file_of_another_chunk_or_disk_is_refused_under_this_name() {
    let dir = filled().await;
    fs::copy(chunk_path(&dir, 2), chunk_path(&dir, 3)).unwrap();
    let other = tempfile::tempdir().unwrap();
    Disk::format(
        other.path(),
        DiskIdentity {
            disk: DiskId(8),
            ..IDENTITY
        },
    )
    .unwrap();
    fs::copy(chunk_path(&dir, 2), chunk_path(&other, 2)).unwrap();
    fs::copy(segment_path(&dir, 0), segment_path(&other, 0)).unwrap();
    for (dir, chunk) in [(&dir, 3), (&other, 2)] {
        let disk = open(dir);
        assert_eq!(
            code(disk.read(POOL, ChunkId(chunk), 0, 1)),
            Code::ChecksumMismatch
        );
        assert_eq!(
            disk.stat(POOL, ChunkId(chunk)).unwrap().unwrap().state,
            ChunkState::SetAside
        );
    }
    assert_eq!(
        open(&other).stat(POOL, ChunkId(10)).unwrap(),
        None,
        "a foreign segment is not read"
    );
    // Swapped under the index: the reader notices.
    fs::copy(chunk_path(&dir, 1), chunk_path(&dir, 2)).unwrap();
    assert!(read(&open(&dir), 2).is_err());
}

#[tokio::test]
async fn a_torn_segment_keeps_all_earlier_records_and_takes_new_ones() {
    let dir = formatted();
    let disk = open(&dir);
    for chunk in 0..3 {
        write_small(&disk, chunk, &bytes(chunk, 100)).await.unwrap();
    }
    disk.stop().unwrap();
    drop(disk);
    remove_index(&dir);
    let segment = fs::read(segment_path(&dir, 0)).unwrap();
    let last_at = 8192 + 2 * SECTOR_LEN;
    let record_len = RecordHead::record_len_of(100);
    // Every byte: see `scan` in recovery.rs. Here the whole disk, at the places that differ.
    for cut in [0, 39, 139, record_len] {
        // Cut short, and cut by zeros or by garbage as a torn write leaves it.
        let variants = [segment[..last_at + cut].to_vec(), {
            let mut torn = segment.clone();
            torn[last_at + cut..].fill(0);
            torn
        }];
        for variant in variants {
            let copy = crashed(&dir);
            fs::write(segment_path(&copy, 0), variant).unwrap();
            let disk = open(&copy);
            for chunk in 0..2 {
                same(read(&disk, chunk).unwrap(), bytes(chunk, 100));
            }
            match read(&disk, 2) {
                Ok(data) => assert!(data == bytes(2, 100) && cut >= 140, "cut at {cut}"),
                Err(error) => assert!(
                    error.code == Code::ChunkMissing && cut < 140,
                    "cut at {cut}: {error}"
                ),
            }
            write_small(&disk, 77, &bytes(77, 100)).await.unwrap();
            drop(disk);
            same(read(&open(&copy), 77).unwrap(), bytes(77, 100));
        }
    }
}

#[tokio::test]
async fn a_damaged_record_takes_no_other_with_it() {
    let dir = filled().await;
    remove_index(&dir);
    for (at, what) in [
        (8192 + SECTOR_LEN + 20, "head"),
        (8192 + SECTOR_LEN + 60, "data"),
    ] {
        let copy = crashed(&dir);
        flip(&segment_path(&copy, 0), at);
        let disk = open(&copy);
        for chunk in (10..20).filter(|chunk| *chunk != 11) {
            same(read(&disk, chunk).unwrap(), bytes(chunk, 500));
        }
        let error = disk.read(POOL, ChunkId(11), 0, 500).unwrap_err();
        let expected = if what == "data" {
            Code::ChecksumMismatch
        } else {
            Code::ChunkMissing
        };
        assert_eq!(error.code, expected, "{what}: {error}");
    }
}

#[tokio::test]
async fn a_record_inside_the_data_of_a_user_is_never_read_as_one() {
    let dir = formatted();
    let disk = open(&dir);
    write_small(&disk, 1, &bytes(1, 100)).await.unwrap();
    // The best forgery: a copy of a true record, of this disk; it even knows the nonce.
    let forged = Bytes::from(fs::read(segment_path(&dir, 0)).unwrap()[8192..8192 + 144].to_vec());
    write_small(&disk, 2, &forged).await.unwrap();
    disk.stop().unwrap();
    drop(disk);
    remove_index(&dir);
    flip(&segment_path(&dir, 0), 8192 + 10);
    flip(&segment_path(&dir, 0), 8192 + SECTOR_LEN + 10);
    let disk = open(&dir);
    assert_eq!(disk.chunks().count(), 0);
}

#[tokio::test]
async fn strangers_in_the_folders_are_left_alone() {
    let dir = filled().await;
    let strangers = [
        "chunks/01/letter",
        "chunks/01/0001-0000000000000002",
        "segments/notes",
        "aside/readme",
    ];
    for path in strangers {
        fs::write(dir.path().join(path), "mine").unwrap();
    }
    check_filled(&open(&dir));
    for path in strangers {
        assert_eq!(fs::read(dir.path().join(path)).unwrap(), b"mine");
    }
}

#[tokio::test]
async fn an_index_that_turns_out_damaged_in_use_is_rebuilt_at_the_next_start() {
    let dir = filled().await;
    for item in fs::read_dir(dir.path().join("index")).unwrap() {
        let path = item.unwrap().path();
        if path.extension().is_some_and(|end| end == "sst") {
            (0..200).step_by(10).for_each(|at| flip(&path, at));
        }
    }
    let attempt = Disk::open(dir.path(), CLUSTER, OPTIONS);
    if let Ok(disk) = &attempt
        && !disk.report().index_rebuilt
    {
        let codes: Vec<_> = (10..20)
            .filter_map(|chunk| read(disk, chunk).err())
            .map(|error| error.code)
            .collect();
        assert!(
            !codes.is_empty() && codes.iter().all(|code| *code == Code::DiskFailed),
            "{codes:?}"
        );
        assert!(disk.is_failed());
    }
    let rebuilt = attempt.unwrap().report().index_rebuilt;
    let disk = open(&dir);
    assert!(rebuilt || disk.report().index_rebuilt);
    check_filled(&disk);
}

#[tokio::test]
async fn a_file_that_is_in_the_way_is_neither_overwritten_nor_thrown_away() {
    let dir = formatted();
    let disk = open(&dir);
    fs::write(chunk_path(&dir, 1), "somebody's").unwrap();
    assert_eq!(code(write(&disk, 1, &bytes(1, 100)).await), Code::ChunkUsed);
    assert!(!disk.is_failed());
    assert_eq!(fs::read(chunk_path(&dir, 1)).unwrap(), b"somebody's");
    write(&disk, 2, &bytes(2, 100)).await.unwrap();
}

/// Not that a chunk is missing or bad: others would do without it.
#[tokio::test]
async fn a_disk_whose_index_turns_out_damaged_in_use_has_failed() {
    let dir = filled().await;
    let disk = open(&dir);
    disk.0.shared.index.spoil(ChunkName {
        pool: POOL,
        chunk: ChunkId(1),
    });
    assert_eq!(code(disk.stat(POOL, ChunkId(1))), Code::DiskFailed);
    assert_eq!(code(disk.verify(POOL, ChunkId(1))), Code::DiskFailed);
    assert!(disk.is_failed() && disk.bad_copies().is_empty());
    assert_eq!(
        code(write(&disk, 3, &bytes(3, 100)).await),
        Code::DiskFailed
    );
    // What needs no entry that is damaged is read on.
    same(read(&disk, 2).unwrap(), bytes(2, 1 << 20));
    disk.stop().unwrap();
    drop(disk);
    let disk = open(&dir);
    assert!(disk.report().index_rebuilt);
    check_filled(&disk);
}
