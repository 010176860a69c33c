//! What is left of a deleted chunk.

use super::*;

fn delete(disk: &Disk, chunk: u64) -> Result<bool> {
    disk.delete(POOL, ChunkId(chunk), || true)
}

fn is_listed(disk: &Disk, chunk: u64) -> bool {
    disk.chunks()
        .any(|item| item.unwrap().0.chunk == ChunkId(chunk))
}

/// Chunk 1 has a file, 2 is in a segment; both twice, 3 and 4 stay.
async fn filled() -> (TempDir, Disk) {
    let dir = formatted();
    let disk = open(&dir);
    for (large, small) in [(1, 2), (3, 4)] {
        write(&disk, large, &bytes(large, 200_000)).await.unwrap();
        write_small(&disk, small, &bytes(small, 700)).await.unwrap();
    }
    (dir, disk)
}

fn check_gone(disk: &Disk) {
    for chunk in [1, 2] {
        assert_eq!(disk.stat(POOL, ChunkId(chunk)).unwrap(), None);
        assert_eq!(
            code(disk.read(POOL, ChunkId(chunk), 0, 1)),
            Code::ChunkMissing
        );
        assert!(!is_listed(disk, chunk));
    }
    same(read(disk, 3).unwrap(), bytes(3, 200_000));
    same(read(disk, 4).unwrap(), bytes(4, 700));
    let counts = Counts {
        files: 1,
        small: 1,
        len: 200_700,
    };
    assert_eq!(disk.counts(), counts);
}

#[tokio::test]
async fn a_deleted_chunk_is_gone_and_stays_gone_after_a_stop() {
    let (dir, disk) = filled().await;
    assert!(delete(&disk, 1).unwrap() && delete(&disk, 2).unwrap());
    check_gone(&disk);
    assert!(!chunk_path(&dir, 1).exists());
    assert!(!delete(&disk, 1).unwrap(), "there is nothing any more");
    disk.stop().unwrap();
    drop(disk);
    let disk = open(&dir);
    assert_eq!(disk.report(), Report::default());
    check_gone(&disk);
    // The file is kept for a while.
    let trash = fs::read_dir(dir.path().join("trash")).unwrap();
    assert_eq!(trash.count(), 1);
}

#[tokio::test]
async fn after_a_crash_a_deleted_chunk_is_gone_or_whole() {
    let (dir, disk) = filled().await;
    disk.stop().unwrap();
    drop(disk);
    let disk = open(&dir);
    delete(&disk, 1).unwrap();
    delete(&disk, 2).unwrap();
    // The index has forgotten the deletions, the folders have not.
    let copy = crashed(&dir);
    let again = open(&copy);
    let dropped = Report {
        files_missing: 1,
        ..Report::default()
    };
    assert_eq!(again.report(), dropped);
    // It may as well have been lost: those who are asked will say that it is to be deleted.
    let missing = again.stat(POOL, ChunkId(1)).unwrap().unwrap();
    assert_eq!(missing.state, ChunkState::SetAside);
    same(read(&again, 2).unwrap(), bytes(2, 700));
    assert!(delete(&again, 1).unwrap() && delete(&again, 2).unwrap());
    check_gone(&again);
    // The index has not, the folders have: a power cut took the move to the trash back.
    drop(again);
    disk.stop().unwrap();
    let copy = crashed(&dir);
    let kept = fs::read_dir(copy.path().join("trash")).unwrap().next();
    fs::rename(kept.unwrap().unwrap().path(), chunk_path(&copy, 1)).unwrap();
    let again = open(&copy);
    assert_eq!(again.report().files_found, 1);
    same(read(&again, 1).unwrap(), bytes(1, 200_000));
    assert!(delete(&again, 1).unwrap());
    check_gone(&again);
}

#[tokio::test]
async fn a_bad_copy_is_deleted_with_its_mark() {
    for chunk in [1, 2] {
        let (dir, disk) = filled().await;
        disk.set_aside(POOL, ChunkId(chunk), "test").unwrap();
        assert!(delete(&disk, chunk).unwrap());
        assert_eq!(disk.stat(POOL, ChunkId(chunk)).unwrap(), None);
        assert!(!is_listed(&disk, chunk));
        // At once, without a stop: the mark does not go before the copy.
        let copy = crashed(&dir);
        let again = open(&copy);
        assert_eq!(again.stat(POOL, ChunkId(chunk)).unwrap(), None);
        drop((again, disk));
    }
    // A bad copy that start-up found has a file and no entry.
    let (dir, disk) = filled().await;
    disk.stop().unwrap();
    drop(disk);
    remove_index(&dir);
    let path = chunk_path(&dir, 1);
    fs::copy(chunk_path(&dir, 3), &path).unwrap();
    let disk = open(&dir);
    assert_eq!(disk.report().set_aside, 1);
    assert!(delete(&disk, 1).unwrap());
    assert!(!path.exists() && !is_listed(&disk, 1));
    drop(disk);
    let disk = open(&dir);
    assert!(!is_listed(&disk, 1));
}

#[tokio::test]
async fn a_chunk_that_is_being_written_is_not_deleted_and_who_may_not_deletes_nothing() {
    let (_dir, disk) = filled().await;
    let writer = disk.create_chunk(POOL, ChunkId(9), 100_000).unwrap();
    assert_eq!(code(delete(&disk, 9)), Code::Busy);
    drop(writer);
    settled(&disk).await;
    for chunk in [1, 2] {
        assert!(!disk.delete(POOL, ChunkId(chunk), || false).unwrap());
    }
    same(read(&disk, 1).unwrap(), bytes(1, 200_000));
    same(read(&disk, 2).unwrap(), bytes(2, 700));
    // While it is asked, nothing of the chunk counts, and nobody else gets at it.
    let asked = disk.delete(POOL, ChunkId(1), || {
        assert_eq!(code(disk.read(POOL, ChunkId(1), 0, 1)), Code::ChunkMissing);
        assert_eq!(code(delete(&disk, 1)), Code::Busy);
        false
    });
    assert!(!asked.unwrap());
    same(read(&disk, 1).unwrap(), bytes(1, 200_000));
}
