//! Looks at chunks: prefixes and their CRCs, bad copies that are found, and those that are good again.

use super::*;

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
