//! Segments that are mostly dead give their room back, and no live chunk goes with them.

use super::*;
use crate::disk::segment_format::SegmentId;

const LEN: usize = 20_000;
const COUNT: u64 = 300;

/// The chunks that stay.
fn stays(chunk: u64) -> bool {
    chunk.is_multiple_of(5)
}

async fn write_all(disk: &Disk) {
    let writes: Vec<_> = (0..COUNT)
        .map(|chunk| (disk.clone(), chunk))
        .map(|(disk, chunk)| {
            tokio::spawn(async move { write_small(&disk, chunk, &bytes(chunk, LEN)).await })
        })
        .collect();
    for write in writes {
        write.await.unwrap().unwrap();
    }
}

fn delete_most(disk: &Disk) {
    for chunk in (0..COUNT).filter(|chunk| !stays(*chunk)) {
        assert!(disk.delete(POOL, ChunkId(chunk), || true).unwrap());
    }
}

/// A disk whose segment 0 is mostly dead and not written to any more.
async fn mostly_dead() -> (TempDir, Disk) {
    let dir = formatted();
    let disk = open(&dir);
    write_all(&disk).await;
    disk.stop().unwrap();
    drop(disk);
    let disk = open(&dir);
    delete_most(&disk);
    (dir, disk)
}

async fn compact(disk: &Disk) -> Result<Option<u32>> {
    let disk = disk.clone();
    let compacted = tokio::task::spawn_blocking(move || disk.compact()).await;
    Ok(compacted.unwrap()?.map(|segment| segment.0))
}

fn check_live(disk: &Disk) {
    for chunk in (0..COUNT).filter(|chunk| stays(*chunk)) {
        same(read(disk, chunk).unwrap(), bytes(chunk, LEN));
    }
}

fn check_all(disk: &Disk) {
    check_live(disk);
    for chunk in (0..COUNT).filter(|chunk| !stays(*chunk)) {
        assert_eq!(disk.stat(POOL, ChunkId(chunk)).unwrap(), None);
    }
    assert_eq!(disk.counts().small, COUNT / 5);
}

fn trashed(dir: &TempDir) -> Vec<PathBuf> {
    let items = fs::read_dir(dir.path().join("trash")).unwrap();
    items.map(|item| item.unwrap().path()).collect()
}

#[tokio::test]
async fn a_mostly_dead_segment_is_emptied_and_goes_to_the_trash() {
    let (dir, disk) = mostly_dead().await;
    assert_eq!(compact(&disk).await.unwrap(), Some(0));
    assert!(!segment_path(&dir, 0).exists());
    assert_eq!(trashed(&dir).len(), 1);
    check_all(&disk);
    assert_eq!(compact(&disk).await.unwrap(), None, "there is no other");
    let room = fs::metadata(segment_path(&dir, 1)).unwrap().len();
    assert!(room < 8 << 20, "{room} bytes for what is left");
    disk.stop().unwrap();
    drop(disk);
    let disk = open(&dir);
    assert_eq!(disk.report(), Report::default());
    check_all(&disk);
    drop(disk);
    remove_index(&dir);
    check_all(&open(&dir));
}

#[tokio::test]
async fn a_segment_without_anything_live_goes_at_once_and_others_stay() {
    let dir = formatted();
    let disk = open(&dir);
    write_all(&disk).await;
    delete_most(&disk);
    assert_eq!(compact(&disk).await.unwrap(), None, "it is being written");
    let rest = || (0..COUNT).filter(|chunk| stays(*chunk));
    for chunk in rest() {
        disk.delete(POOL, ChunkId(chunk), || true).unwrap();
    }
    assert_eq!(compact(&disk).await.unwrap(), None, "and goes on to be");
    for chunk in rest() {
        let chunk = chunk + COUNT;
        write_small(&disk, chunk, &bytes(chunk, LEN)).await.unwrap();
    }
    disk.stop().unwrap();
    drop(disk);
    let disk = open(&dir);
    write_small(&disk, 1_000, &bytes(7, 100)).await.unwrap();
    disk.stop().unwrap();
    drop(disk);
    // Segment 1 has little dead space; of segment 0 nothing is left alive.
    let disk = open(&dir);
    for chunk in rest().map(|chunk| chunk + COUNT) {
        same(read(&disk, chunk).unwrap(), bytes(chunk, LEN));
        disk.delete(POOL, ChunkId(chunk), || true).unwrap();
    }
    assert_eq!(compact(&disk).await.unwrap(), Some(0));
    assert_eq!(compact(&disk).await.unwrap(), None);
    same(read(&disk, 1_000).unwrap(), bytes(7, 100));
    assert!(segment_path(&dir, 1).exists() && !segment_path(&dir, 2).exists());
}

/// With an index as of before the compaction, as of after it, or none; and with both segments, or the new one alone.
#[tokio::test]
async fn a_crash_during_a_compaction_loses_no_live_chunk() {
    let (dir, disk) = mostly_dead().await;
    let index_of = |dir: &TempDir| dir.path().join("index");
    disk.stop().unwrap();
    drop(disk);
    let before = crashed(&dir);
    let disk = open(&dir);
    assert_eq!(compact(&disk).await.unwrap(), Some(0));
    drop(disk);
    let segment_0 = trashed(&dir).remove(0);
    for old_index in [Some(true), Some(false), None] {
        let copy = crashed(&dir);
        fs::copy(&segment_0, segment_path(&copy, 0)).unwrap();
        if old_index != Some(false) {
            remove_index(&copy);
        }
        if old_index == Some(true) {
            fs::create_dir(index_of(&copy)).unwrap();
            copy_folder(&index_of(&before), &index_of(&copy));
        }
        let disk = open(&copy);
        let was_rebuilt = disk.report().index_rebuilt;
        assert!(!was_rebuilt, "{old_index:?}");
        check_live(&disk);
        // Deleted ones may be there again, whole, and are found and deleted again.
        for chunk in (0..COUNT).filter(|chunk| !stays(*chunk)) {
            if disk.stat(POOL, ChunkId(chunk)).unwrap().is_some() {
                same(read(&disk, chunk).unwrap(), bytes(chunk, LEN));
                disk.delete(POOL, ChunkId(chunk), || true).unwrap();
            }
        }
        // Whichever of the two segments has less to lose goes first.
        while compact(&disk).await.unwrap().is_some() {}
        check_all(&disk);
        disk.stop().unwrap();
        drop(disk);
        remove_index(&copy);
        check_live(&open(&copy));
    }
}

#[tokio::test]
async fn a_damaged_record_keeps_its_segment_until_it_is_replaced_or_deleted() {
    let (dir, disk) = mostly_dead().await;
    let segment = fs::read(segment_path(&dir, 0)).unwrap();
    let data = bytes(10, LEN);
    let at = segment.windows(64).position(|part| part == &data[500..564]);
    flip(&segment_path(&dir, 0), at.unwrap());
    assert_eq!(compact(&disk).await.unwrap(), None);
    assert!(segment_path(&dir, 0).exists());
    assert_eq!(code(read(&disk, 10)), Code::ChecksumMismatch);
    let info = disk.stat(POOL, ChunkId(10)).unwrap().unwrap();
    assert_eq!(info.state, ChunkState::SetAside);
    for chunk in (0..COUNT).filter(|chunk| stays(*chunk) && *chunk != 10) {
        same(read(&disk, chunk).unwrap(), bytes(chunk, LEN));
    }
    // It is not read again and again.
    assert!(disk.0.stuck().0.contains_key(&SegmentId(0)));
    assert_eq!(compact(&disk).await.unwrap(), None);
    disk.delete(POOL, ChunkId(10), || true).unwrap();
    assert_eq!(compact(&disk).await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_segment_without_a_readable_header_is_left_for_a_person() {
    let (dir, disk) = mostly_dead().await;
    disk.stop().unwrap();
    drop(disk);
    flip(&segment_path(&dir, 0), 6);
    flip(&segment_path(&dir, 0), 4_096 + 6);
    let disk = open(&dir);
    assert_eq!(compact(&disk).await.unwrap(), None);
    assert!(segment_path(&dir, 0).exists());
    // Its records can be read all the same, and none of them is lost by that.
    check_live(&disk);
}

#[tokio::test]
async fn a_segment_that_can_not_be_read_keeps_no_other_from_being_compacted() {
    let (dir, disk) = mostly_dead().await;
    for chunk in (0..COUNT).map(|chunk| chunk + COUNT) {
        write_small(&disk, chunk, &bytes(chunk, LEN)).await.unwrap();
    }
    disk.stop().unwrap();
    drop(disk);
    let disk = open(&dir);
    // Less is dead than in the first one, which is chosen before it.
    for chunk in (100..COUNT).map(|chunk| chunk + COUNT) {
        disk.delete(POOL, ChunkId(chunk), || true).unwrap();
    }
    let path = segment_path(&dir, 0);
    let away = dir.path().join("away");
    fs::rename(&path, &away).unwrap();
    assert_eq!(compact(&disk).await.unwrap(), None);
    assert_eq!(compact(&disk).await.unwrap(), Some(1));
    assert_eq!(compact(&disk).await.unwrap(), None);
    fs::rename(&away, &path).unwrap();
    check_live(&disk);
    // What was deleted there since makes it worth another look.
    disk.delete(POOL, ChunkId(0), || true).unwrap();
    assert_eq!(compact(&disk).await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_chunk_that_is_somebody_elses_for_a_moment_keeps_its_segment_for_a_moment() {
    let (_dir, disk) = mostly_dead().await;
    let name = ChunkName {
        pool: POOL,
        chunk: ChunkId(10),
    };
    let shared = &disk.0.shared;
    let look = || shared.index.get(name);
    let claim = shared.claims.claim_again(name, look).unwrap();
    assert!(claim.is_some());
    assert_eq!(compact(&disk).await.unwrap(), None);
    drop(claim);
    assert_eq!(compact(&disk).await.unwrap(), Some(0));
    check_all(&disk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_are_read_written_and_deleted_while_their_segment_is_compacted() {
    let (_dir, disk) = mostly_dead().await;
    let compacting = tokio::spawn({
        let disk = disk.clone();
        async move { compact(&disk).await.unwrap() }
    });
    let reading = tokio::task::spawn_blocking({
        let disk = disk.clone();
        move || (0..20).for_each(|_| check_live(&disk))
    });
    for chunk in 2_000..2_050 {
        write_small(&disk, chunk, &bytes(chunk, 300)).await.unwrap();
    }
    reading.await.unwrap();
    compacting.await.unwrap();
    check_live(&disk);
    for chunk in (0..COUNT).filter(|chunk| stays(*chunk)) {
        assert!(disk.delete(POOL, ChunkId(chunk), || true).unwrap());
    }
    for chunk in 2_000..2_050 {
        same(read(&disk, chunk).unwrap(), bytes(chunk, 300));
    }
    assert_eq!(disk.counts().small, 50);
    let live: u64 = disk
        .0
        .shared
        .index
        .segments()
        .values()
        .map(|state| state.live)
        .sum();
    assert_eq!(live, 50 * 344, "what is live is counted exactly");
    assert_eq!(disk.0.shared.index.live_in(SegmentId(0)), 0);
}

#[tokio::test]
async fn the_trash_is_kept_for_a_day_unless_clients_lack_the_room() {
    let (dir, disk) = mostly_dead().await;
    write(&disk, 5_000, &bytes(1, 300_000)).await.unwrap();
    assert!(disk.delete(POOL, ChunkId(5_000), || true).unwrap());
    let tidy = async |disk: &Disk| {
        let disk = disk.clone();
        tokio::task::spawn_blocking(move || disk.tidy())
            .await
            .unwrap()
    };
    tidy(&disk).await.unwrap();
    assert_eq!(trashed(&dir).len(), 2, "a chunk and a segment");
    assert!(disk.trash_len() > 300_000);
    disk.stop().unwrap();
    drop(disk);
    // However much is free, clients lack some.
    let options = DiskOptions {
        free_percent: 100,
        ..OPTIONS
    };
    let disk = Disk::open(dir.path(), CLUSTER, options).unwrap();
    let refused = disk.create_chunk(POOL, ChunkId(6_000), 1_000).map(|_| ());
    assert_eq!(code(refused), Code::DiskFull);
    assert_eq!((trashed(&dir).len(), disk.trash_len()), (0, 0));
    // Compaction goes on where clients do not.
    delete_stayers_but_few(&disk);
    tidy(&disk).await.unwrap();
    assert!(!segment_path(&dir, 1).exists());
    tidy(&disk).await.unwrap();
    assert_eq!(trashed(&dir).len(), 0);
    same(read(&disk, 0).unwrap(), bytes(0, LEN));
}

#[tokio::test]
async fn the_trash_is_emptied_before_clients_of_another_disk_lack_room() {
    let dir = formatted();
    let disk = open(&dir);
    write(&disk, 1, &bytes(1, 100_000)).await.unwrap();
    assert!(disk.delete(POOL, ChunkId(1), || true).unwrap());
    disk.tidy().unwrap();
    assert_eq!(trashed(&dir).len(), 1);
    let space = disk.space().unwrap();
    disk.stop().unwrap();
    drop(disk);
    // A little more than half of what is free; others use the same disk.
    let free_percent = (space.free * 50 / space.total) as u8 + 2;
    let options = DiskOptions {
        free_percent,
        ..OPTIONS
    };
    let disk = Disk::open(dir.path(), CLUSTER, options).unwrap();
    write(&disk, 2, &bytes(2, 100_000)).await.unwrap();
    assert_eq!(trashed(&dir).len(), 1, "clients had room");
    disk.tidy().unwrap();
    assert_eq!(trashed(&dir).len(), 0);
}

/// Leaves chunk 0 alone.
fn delete_stayers_but_few(disk: &Disk) {
    for chunk in (1..COUNT).filter(|chunk| stays(*chunk)) {
        assert!(disk.delete(POOL, ChunkId(chunk), || true).unwrap());
    }
}
