//! A power cut and a full disk, on file systems of their own. They need root, a loop device and xfs_io.

use super::*;
use std::process::Command;

fn run(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let place = tempfile::tempdir().unwrap();
    let image = place.path().join("image");
    let mount = place.path().join("mount");
    fs::create_dir(&mount).unwrap();
    fs::File::create(&image).unwrap().set_len(2 << 30).unwrap();
    let (image, mount) = (image.display(), mount.display());
    run(&format!(
        "mkfs.ext4 -q -F {image} && mount -o loop {image} {mount}"
    ));
    let root = PathBuf::from(format!("{mount}/disk"));
    Disk::format(&root, IDENTITY).unwrap();
    let mut kept: Vec<(u64, Bytes)> = Vec::new();
    let mut lost = 0;
    for round in 0..4u64 {
        let disk = Disk::open(&root, CLUSTER, OPTIONS).unwrap();
        for (chunk, data) in &kept {
            same(read(&disk, *chunk).unwrap(), data);
        }
        let mut writers = Vec::new();
        let unsynced = PathBuf::from(format!("{mount}/unsynced-{round}"));
        // Nothing syncs after the last one, which is of another kind in each round.
        for i in 0..40 + round {
            let chunk = round * 1000 + i;
            let data = bytes(chunk, 40_000 * (i as usize + 1));
            // In one round the last one is the first small chunk of its start.
            let kind = if round == 2 && i < 41 && i % 4 == 1 {
                0
            } else {
                i % 4
            };
            match kind {
                0 => write(&disk, chunk, &data).await.unwrap(),
                1 => write_small(&disk, chunk, &data.slice(..5000))
                    .await
                    .unwrap(),
                _ => {
                    let writer = disk
                        .create_chunk(POOL, ChunkId(chunk), data.len() as u32)
                        .unwrap();
                    append(&writer, 0, data.slice(..30_001)).await.unwrap();
                    writer
                        .flush(30_001, Crc::of(&data[..30_001]))
                        .await
                        .unwrap();
                    append(&writer, 30_001, data.slice(30_001..)).await.unwrap();
                    writers.push(writer);
                }
            }
            let len = [data.len(), 5000, 30_001, 30_001][kind as usize];
            kept.push((chunk, data.slice(..len)));
        }
        fs::write(&unsynced, "x").unwrap();
        run(&format!("xfs_io -x -c shutdown {mount}"));
        // They end on a dead file system.
        drop(writers);
        settled(&disk).await;
        drop(disk);
        run(&format!("umount {mount} && mount -o loop {image} {mount}"));
        lost += usize::from(!unsynced.exists());
    }
    assert!(lost > 0, "the cut was none");
    let disk = Disk::open(&root, CLUSTER, OPTIONS).unwrap();
    for (chunk, data) in &kept {
        same(read(&disk, *chunk).unwrap(), data);
    }
    drop(disk);
    run(&format!("umount {mount}"));
}

/// Nothing else gives such a disk room again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_gives_back_the_room_of_small_chunks_that_are_all_deleted() {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let shown = mount.display();
    run(&format!("mount -t tmpfs -o size=64m tmpfs {shown}"));
    let root = mount.join("disk");
    Disk::format(&root, IDENTITY).unwrap();
    let options = DiskOptions {
        direct_io: false,
        free_percent: 5,
    };
    let disk = Disk::open(&root, CLUSTER, options).unwrap();
    for chunk in 0..50 {
        write_small(&disk, chunk, &bytes(chunk, 20_000))
            .await
            .unwrap();
    }
    disk.stop().unwrap();
    drop(disk);
    let disk = Disk::open(&root, CLUSTER, options).unwrap();
    for chunk in 0..50 {
        assert!(disk.delete(POOL, ChunkId(chunk), || true).unwrap());
    }
    let mut filling = fs::File::create(mount.join("filling")).unwrap();
    while std::io::Write::write_all(&mut filling, &[1; 4096]).is_ok() {}
    // The index needs a little, less than compaction leaves free.
    let len = filling.metadata().unwrap().len();
    filling.set_len(len - 200_000).unwrap();
    let compacting = disk.clone();
    let compacted = tokio::task::spawn_blocking(move || compacting.compact());
    assert!(compacted.await.unwrap().unwrap().is_some());
    drop((disk, filling));
    run(&format!("umount {shown}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_keeps_its_index_and_serves_when_there_is_room_again() {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let shown = mount.display();
    run(&format!("mount -t tmpfs -o size=64m tmpfs {shown}"));
    let root = mount.join("disk");
    Disk::format(&root, IDENTITY).unwrap();
    let options = DiskOptions {
        direct_io: false,
        ..OPTIONS
    };
    let disk = Disk::open(&root, CLUSTER, options).unwrap();
    let data = bytes(1, 100_000);
    for chunk in 0..20 {
        write(&disk, chunk, &data).await.unwrap();
    }
    disk.delete(POOL, ChunkId(19), || true).unwrap();
    let fill = || {
        let mut filling = fs::File::create(mount.join("filling")).unwrap();
        while std::io::Write::write_all(&mut filling, &[1; 4096]).is_ok() {}
    };
    fill();
    assert_eq!(code(disk.stop()), Code::DiskFull);
    assert!(!disk.is_failed());
    same(read(&disk, 7).unwrap(), &data);
    fs::remove_file(mount.join("filling")).unwrap();
    drop(disk);
    // A start makes room of the trash, and finds its index as it was.
    fill();
    let disk = match Disk::open(&root, CLUSTER, options) {
        Ok(disk) => disk,
        Err(error) => {
            assert_eq!(error.code, Code::DiskFull, "{error}");
            fs::remove_file(mount.join("filling")).unwrap();
            Disk::open(&root, CLUSTER, options).unwrap()
        }
    };
    assert!(!disk.report().index_rebuilt);
    assert_eq!(fs::read_dir(root.join("trash")).unwrap().count(), 0);
    for chunk in 0..19 {
        same(read(&disk, chunk).unwrap(), &data);
    }
    drop(disk);
    run(&format!("umount {shown}"));
}
