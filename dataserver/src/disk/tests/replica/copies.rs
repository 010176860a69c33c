//! Copies that repair makes: new ones, in the place of bad ones, of less than there is, that fail, that wait.

use super::*;

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
