//! Figures, printed by `cargo test --release -p quarry-dataserver disk_speed -- --ignored --nocapture`.

use super::*;
use std::time::Instant;

/// CPU seconds of this process so far.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn disk_speed() {
    let dir = formatted();
    let disk = open(&dir);
    const CHUNK_LEN: usize = 64 << 20;
    let frame = bytes(1, 1 << 20);
    let crcs = frame_crcs(0, &frame);
    let (mut crc, mut len) = (Crc::default(), 0);
    while len < CHUNK_LEN {
        crc = crc.then(Crc::of(&frame), frame.len() as u64);
        len += frame.len();
    }
    for round in 0..3u64 {
        let (started, cpu) = (Instant::now(), cpu_seconds());
        for chunk in 0..16 {
            let writer = disk
                .create_chunk(POOL, ChunkId(round * 100 + chunk), CHUNK_LEN as u32)
                .unwrap();
            for _ in 0..CHUNK_LEN / frame.len() {
                writer.append(vec![frame.clone()], &crcs).await.unwrap();
            }
            writer.seal(CHUNK_LEN as u32, crc).await.unwrap();
        }
        let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        println!(
            "write 1 GiB in chunks of 64 MiB, one at a time: {:.2} GB/s, {:.2} CPU-s/GB",
            1.074 / seconds,
            cpu / 1.074
        );
    }
    for round in 0..3 {
        let (started, cpu) = (Instant::now(), cpu_seconds());
        for chunk in 0..16 {
            for at in (0..CHUNK_LEN).step_by(1 << 20) {
                let part = disk.read(POOL, ChunkId(chunk), at as u32, 1 << 20).unwrap();
                assert_eq!(part.data.len(), 1 << 20);
            }
        }
        let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        println!(
            "read 1 GiB (round {round}; the first from the disk): {:.2} GB/s, {:.2} CPU-s/GB",
            1.074 / seconds,
            cpu / 1.074
        );
    }
    for writers in [1u64, 8, 32, 128] {
        let (started, cpu) = (Instant::now(), cpu_seconds());
        let small = bytes(2, 4096);
        let count = 200 * writers;
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let (disk, small) = (disk.clone(), small.clone());
                tokio::spawn(async move {
                    for i in 0..200 {
                        write_small(&disk, 1 << 40 | writers << 32 | writer << 16 | i, &small)
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        println!(
            "small writes of 4 KiB, {writers} writers: {:.0}/s, {:.0} us CPU each",
            count as f64 / seconds,
            cpu / count as f64 * 1e6
        );
    }
    let started = Instant::now();
    for i in 0..20_000u64 {
        let id = 1 << 40 | 128 << 32 | (i % 128) << 16 | (i / 128 % 200);
        assert_eq!(
            disk.read(POOL, ChunkId(id), 0, 4096).unwrap().data.len(),
            4096
        );
    }
    println!(
        "small reads of 4 KiB, one thread: {:.0}/s",
        20_000.0 / started.elapsed().as_secs_f64()
    );
    disk.stop().unwrap();
    drop(disk);
    let started = Instant::now();
    let disk = open(&dir);
    println!(
        "start after a clean stop: {:?}, {:?}",
        started.elapsed(),
        disk.counts()
    );
    drop(disk);
    remove_index(&dir);
    let started = Instant::now();
    let disk = open(&dir);
    println!(
        "start without an index: {:?}, {:?}",
        started.elapsed(),
        disk.report()
    );
}
