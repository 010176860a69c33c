//! What was reported as stored survives the loss of power of everything at once.

use anyhow::{Context, Result, ensure};
use quarry_tests::cluster::Dev;
use quarry_tests::compare::assert_same;
use quarry_tests::generator::{Scale, make};
use quarry_tests::power::LoopDisk;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Uploads files one after the other until a command fails; remembers what was reported as stored.
fn upload_until_cut(
    dev: &Dev,
    scratch: &Path,
    seed: u64,
    stored: &Mutex<BTreeMap<String, Vec<u8>>>,
    unreported: &AtomicU32,
    over: &AtomicBool,
) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    for number in 0.. {
        if over.load(Ordering::Acquire) {
            return Ok(());
        }
        // Inline, small, around a block, several frames.
        let len = [100, 4_096, 65_537, 3 << 20][number % 4];
        let mut bytes = vec![0; len];
        random.fill_bytes(&mut bytes);
        let local = scratch.join(format!("upload-{seed}"));
        fs::write(&local, &bytes)?;
        let name = format!("/cut/{seed}-{number}");
        let mut command = dev.quarry(["put", local.to_str().context("utf-8")?, &name]);
        let mut child = command
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        loop {
            if let Some(status) = child.try_wait()? {
                if status.success() {
                    stored.lock().expect("no thread panics").insert(name, bytes);
                }
                break;
            }
            if over.load(Ordering::Acquire) {
                child.kill()?;
                child.wait()?;
                unreported.fetch_add(1, Ordering::AcqRel);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

#[test]
fn what_was_reported_survives_a_power_cut_of_everything() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let disk = LoopDisk::new(scratch.path(), "disk", 24 << 30)?;
    make(&scratch.path().join("tree"), 99, Scale::Small)?;
    let tree = scratch.path().join("tree");
    let mut dev = Dev::start(&disk.path().join("cluster"), 3)?;
    dev.ok(["put", "-r", tree.to_str().context("utf-8")?, "/"])?;
    dev.ok(["mkdir", "/cut"])?;

    let stored = Arc::new(Mutex::new(BTreeMap::new()));
    for round in 0..3u64 {
        let unreported = AtomicU32::new(0);
        let over = AtomicBool::new(false);
        std::thread::scope(|threads| -> Result<()> {
            let mut uploads = Vec::new();
            for seed in 0..3 {
                let (dev, stored, unreported, over, scratch) =
                    (&dev, &stored, &unreported, &over, scratch.path());
                let seed = round * 10 + seed;
                uploads.push(
                    threads.spawn(move || {
                        upload_until_cut(dev, scratch, seed, stored, unreported, over)
                    }),
                );
            }
            // In the middle of the uploads, however slow the machine is today.
            let enough = stored.lock().expect("no thread panics").len() + 12;
            let until = Instant::now() + Duration::from_secs(60);
            while stored.lock().expect("no thread panics").len() < enough && Instant::now() < until
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Servers and the power at once: nothing gets the time to tidy up.
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(dev.pid().context("running")? as i32)
                    .context("a pid")?,
                rustix::process::Signal::KILL,
            )?;
            over.store(true, Ordering::Release);
            for upload in uploads {
                upload.join().expect("an upload panicked")?;
            }
            Ok(())
        })?;
        dev.kill()?;
        disk.cut_power()?;
        dev.start_again()?;

        let stored = stored.lock().expect("no thread panics");
        println!(
            "round {round}: {} files reported as stored, {} not",
            stored.len(),
            unreported.load(Ordering::Acquire)
        );
        ensure!(
            stored.len() > 10,
            "hardly anything was stored: nothing was tested"
        );
        for (name, bytes) in stored.iter() {
            let back = dev.ok(["cat", name])?.stdout;
            ensure!(&back == bytes, "{name} came back with other bytes");
        }
        let back = scratch.path().join(format!("back-{round}"));
        fs::create_dir(&back)?;
        dev.ok(["get", "-r", "/tree", back.to_str().context("utf-8")?])?;
        assert_same(&tree, &back.join("tree"))?;
        fs::remove_dir_all(&back)?;
    }
    drop(dev);
    std::io::stdout().flush()?;
    Ok(())
}
