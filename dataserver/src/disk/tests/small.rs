//! Small chunks.

use super::*;

/// Writes chunks `from..from + lens.len()` all at once.
async fn write_many(disk: &Disk, from: u64, lens: &[usize]) {
    let writes: Vec<_> = lens
        .iter()
        .enumerate()
        .map(|(i, len)| {
            let (disk, chunk, len) = (disk.clone(), from + i as u64, *len);
            tokio::spawn(async move { write_small(&disk, chunk, &bytes(chunk, len)).await })
        })
        .collect();
    for write in writes {
        write.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn small_chunks_of_every_length_read_back_also_after_a_restart() {
    let dir = formatted();
    let lens: Vec<usize> = [0, 1, 7, 8, 9, 4055, 4056, 4057, 65_535, 65_536]
        .into_iter()
        .chain((0..200).map(|i| i * 97))
        .collect();
    let disk = open(&dir);
    write_many(&disk, 0, &lens).await;
    let check_all = |disk: &Disk| {
        for (chunk, len) in lens.iter().enumerate() {
            same(read(disk, chunk as u64).unwrap(), bytes(chunk as u64, *len));
            assert_eq!(
                disk.stat(POOL, ChunkId(chunk as u64))
                    .unwrap()
                    .unwrap()
                    .kind,
                ChunkKind::Small
            );
        }
    };
    check_all(&disk);
    let copy = crashed(&dir);
    disk.stop().unwrap();
    drop(disk);
    let disk = open(&dir);
    assert_eq!(disk.report(), Report::default());
    check_all(&disk);
    assert_eq!(disk.counts().small, lens.len() as u64);
    check_all(&open(&copy));
}

#[tokio::test]
async fn many_that_wait_share_their_syncs() {
    let dir = formatted();
    let disk = open(&dir);
    write_many(&disk, 0, &[100; 200]).await;
    let segment = fs::read(segment_path(&dir, 0)).unwrap();
    let used = segment
        .chunks(4096)
        .filter(|sector| sector.iter().any(|byte| *byte != 0))
        .count();
    assert!(
        used < 100,
        "200 chunks of 100 bytes took {used} sectors: a sector each is not sharing"
    );
}

#[tokio::test]
async fn more_than_a_disk_may_be_handed_is_refused_and_the_rest_is_written() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(0, SMALL_CHUNK_LEN_MAX);
    // All begin before one of them is answered.
    let mut writes = tokio::task::JoinSet::new();
    let fitting = SMALL_ROOM_LEN / data.len();
    for chunk in 0..fitting as u64 + 100 {
        let (disk, data) = (disk.clone(), data.clone());
        writes.spawn(async move { write_small(&disk, chunk, &data).await });
    }
    let mut refused = 0;
    for written in writes.join_all().await {
        if written.is_err() {
            assert_eq!(code(written), Code::Overloaded);
            refused += 1;
        }
    }
    assert_eq!(refused, 100);
    assert_eq!(disk.counts().small, fitting as u64);
    write_small(&disk, 5_000, &data).await.unwrap();
}

#[tokio::test]
async fn a_chunk_of_the_disk_is_read_while_its_id_is_refused_to_a_writer() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(1, 100);
    write_small(&disk, 1, &data).await.unwrap();
    let claim = disk.reserve(ChunkName {
        pool: POOL,
        chunk: ChunkId(1),
    });
    // Nobody has looked yet whether the id may be used.
    same(read(&disk, 1).unwrap(), data.clone());
    drop(claim.unwrap());
    assert_eq!(code(write_small(&disk, 1, &data).await), Code::ChunkUsed);
    same(read(&disk, 1).unwrap(), data);
}

#[tokio::test]
async fn a_small_chunk_that_is_too_large_is_refused() {
    let dir = formatted();
    let disk = open(&dir);
    assert_eq!(
        code(write_small(&disk, 1, &bytes(1, 65_537)).await),
        Code::Malformed
    );
}

#[tokio::test]
async fn a_damaged_record_never_gives_wrong_bytes() {
    let dir = formatted();
    let disk = open(&dir);
    write_small(&disk, 1, &bytes(1, 100)).await.unwrap();
    let path = segment_path(&dir, 0);
    let whole = fs::read(&path).unwrap();
    for at in 8192..8192 + 144 {
        flip(&path, at);
        match read(&disk, 1) {
            Ok(data) => same(data, bytes(1, 100)),
            Err(error) => assert_eq!(error.code, Code::ChecksumMismatch),
        }
        assert!(
            read(&disk, 1).is_err() || at >= 8192 + 140 || (8200..8208).contains(&at),
            "byte {at} was not noticed"
        );
        fs::write(&path, &whole).unwrap();
    }
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(8192 + 50)
        .unwrap();
    assert_eq!(code(read(&disk, 1)), Code::ChecksumMismatch);
}

#[tokio::test]
async fn a_stopped_disk_takes_no_writes() {
    let dir = formatted();
    let disk = open(&dir);
    write_small(&disk, 1, &bytes(1, 100)).await.unwrap();
    disk.stop().unwrap();
    assert_eq!(
        code(write_small(&disk, 2, &bytes(1, 100)).await),
        Code::Stopping
    );
    assert_eq!(code(write(&disk, 3, &bytes(1, 100)).await), Code::Stopping);
    same(read(&disk, 1).unwrap(), bytes(1, 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_segment_is_followed_by_the_next() {
    let dir = formatted();
    let disk = open(&dir);
    let data = bytes(0, 65_536);
    for from in (0..4_200).step_by(200) {
        let writes: Vec<_> = (from..from + 200)
            .map(|chunk| (disk.clone(), data.clone(), chunk))
            .map(|(disk, data, chunk)| {
                tokio::spawn(async move { write_small(&disk, chunk, &data).await })
            })
            .collect();
        for write in writes {
            write.await.unwrap().unwrap();
        }
    }
    assert!(fs::metadata(segment_path(&dir, 0)).unwrap().len() <= segment_format::SEGMENT_LEN_MAX);
    assert!(segment_path(&dir, 1).exists());
    disk.stop().unwrap();
    drop(disk);
    remove_index(&dir);
    let disk = open(&dir);
    assert_eq!(disk.counts().small, 4_200);
    same(read(&disk, 4_199).unwrap(), &data);
}
