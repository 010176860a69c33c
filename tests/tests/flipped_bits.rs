//! A flipped bit in a stored chunk is never read: another replica is, or the reader gets an error.

use anyhow::{Context, Result, ensure};
use quarry_tests::cluster::Dev;
use quarry_tests::power::LoopDisk;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Every place below `dir` where `needle` is stored.
fn places(dir: &Path, needle: &[u8], found: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            places(&entry.path(), needle, found)?;
        } else {
            let bytes = fs::read(entry.path())?;
            let at = bytes
                .windows(needle.len())
                .position(|window| window == needle);
            found.extend(at.map(|at| (entry.path(), at as u64)));
        }
    }
    Ok(())
}

fn flip(path: &Path, at: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 0x10], at)?;
    Ok(())
}

#[test]
fn a_flipped_bit_in_any_replica_is_never_read() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let disk = LoopDisk::new(scratch.path(), "disk", 4 << 30)?;
    let dev = Dev::start(&disk.path().join("cluster"), 3)?;
    // A small chunk lives in a segment, a large one in a file of its own.
    for (name, len, damaged) in [
        ("small", 5_000, 4_000usize),
        ("large", 3_000_000, 2_000_000),
    ] {
        let mut bytes = vec![0; len];
        SmallRng::seed_from_u64(len as u64).fill_bytes(&mut bytes);
        let local = scratch.path().join(name);
        fs::write(&local, &bytes)?;
        let remote = format!("/{name}");
        dev.ok(["put", local.to_str().context("utf-8")?, &remote])?;

        let mut replicas = Vec::new();
        places(dev.dir(), &bytes[damaged..damaged + 64], &mut replicas)?;
        ensure!(
            replicas.len() == 3,
            "{name} is stored in {replicas:?}, not in three places"
        );
        for (path, at) in &replicas {
            flip(path, *at)?;
            let back = dev.ok(["cat", &remote])?.stdout;
            ensure!(back == bytes, "{name}: wrong bytes with {path:?} damaged");
            flip(path, *at)?;
        }
        for (path, at) in &replicas {
            flip(path, *at)?;
        }
        let output = dev.quarry(["cat", &remote]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(1),
            "{name}: {} with all replicas damaged",
            output.status
        );
        ensure!(
            said.contains(&remote),
            "the error does not name the file: {said}"
        );
        ensure!(
            bytes.starts_with(&output.stdout),
            "{name}: wrong bytes were given out before the error"
        );
        println!("{name}: {said}");
    }
    Ok(())
}
