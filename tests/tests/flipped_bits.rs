//! A flipped bit in a stored chunk is never read: another replica is, or the reader gets an error.

use anyhow::{Context, Result, ensure};
use quarry_tests::cluster::Dev;
use quarry_tests::power::LoopDisk;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The bit that is flipped.
const FLIPPED: u8 = 0x10;

/// Every place below `dir` where `needle` is stored, in the order of the disks; the trash does not count.
///
/// Its servers run: what they remove or move meanwhile is not there.
fn replicas(dir: &Path, needle: &[u8]) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    places(dir, needle, &mut found)?;
    found.sort();
    Ok(found)
}

fn places(dir: &Path, needle: &[u8], found: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    let Some(entries) = unless_gone(fs::read_dir(dir))? else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == "trash" {
            continue;
        }
        let Some(kind) = unless_gone(entry.file_type())? else {
            continue;
        };
        if kind.is_dir() {
            places(&entry.path(), needle, found)?;
        } else if let Some(bytes) = unless_gone(fs::read(entry.path()))? {
            let at = bytes
                .windows(needle.len())
                .position(|window| window == needle);
            found.extend(at.map(|at| (entry.path(), at as u64)));
        }
    }
    Ok(())
}

fn unless_gone<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// Mends the copy if it is still there: a repair may be writing another one, or have done so.
fn flip_back(path: &Path, at: u64, whole: u8) -> Result<()> {
    let Some(file) = unless_gone(File::options().read(true).write(true).open(path))? else {
        return Ok(());
    };
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    if byte[0] == whole ^ FLIPPED {
        file.write_all_at(&[whole], at)?;
    }
    Ok(())
}

fn flip(path: &Path, at: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ FLIPPED], at)?;
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

        let needle = &bytes[damaged..damaged + 64];
        for disk in 0..3 {
            let all = replicas(dev.dir(), needle)?;
            ensure!(
                all.len() == 3,
                "{name} is stored in {all:?}, not in three places"
            );
            let (path, at) = &all[disk];
            flip(path, *at)?;
            let back = dev.ok(["cat", &remote])?.stdout;
            ensure!(back == bytes, "{name}: wrong bytes with {path:?} damaged");
            // Who read that copy has it replaced; nobody knows of one that was not read.
            let until = Instant::now() + Duration::from_secs(3);
            while replicas(dev.dir(), needle)?.len() < 3 {
                if Instant::now() > until {
                    flip_back(path, *at, needle[0])?;
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        let all = replicas(dev.dir(), needle)?;
        for (path, at) in &all {
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
