//! A client on the host of the dataservers reads chunk files past the network: the same bytes, checked
//! in the same way, and by the network when that fails.

use anyhow::{Context, Result, ensure};
use quarry_client::{Client, ClientFile, Options};
use quarry_tests::cluster::Dev;
use quarry_tests::power::LoopDisk;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LEN: usize = 70 << 20;

async fn connect(dev: &Dev, same_host_reads: bool) -> Result<Client> {
    let (_, file) = ClientFile::find(Some(&dev.client_file()))?;
    let options = Options {
        same_host_reads,
        ..Options::default()
    };
    Ok(Client::connect_with(file, options).await?)
}

async fn read(client: &Client, path: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    client.read_to(path, &mut bytes, None, None).await?;
    Ok(bytes)
}

/// The chunk files below a directory.
fn chunk_files(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            chunk_files(&path, found)?;
        } else if path.components().any(|part| part.as_os_str() == "chunks") {
            found.push(path);
        }
    }
    Ok(())
}

/// Those of a disk on which two chunks are; while one is replaced there are others.
fn two_chunk_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let mut files = Vec::new();
        let found = chunk_files(dir, &mut files);
        files.sort();
        if found.is_ok() && files.len() == 2 {
            return Ok(files);
        }
        ensure!(Instant::now() < until, "{found:?}: {files:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn files_are_read_past_the_network_and_checked_all_the_same() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let scratch = tempfile::tempdir()?;
    let disk = LoopDisk::new(scratch.path(), "disk", 4 << 30)?;
    let mut dev = Dev::start(&disk.path().join("cluster"), 3)?;
    let mut bytes = vec![0; LEN];
    SmallRng::seed_from_u64(1).fill_bytes(&mut bytes);
    let local = scratch.path().join("local");
    fs::write(&local, &bytes)?;
    let local = local.to_str().context("utf-8")?;
    dev.ok(["put", local, "/file"])?;

    let over_network = runtime.block_on(connect(&dev, false))?;
    ensure!(runtime.block_on(read(&over_network, b"/file"))? == bytes);
    ensure!(over_network.same_host_len() == 0);
    let client = runtime.block_on(connect(&dev, true))?;
    ensure!(runtime.block_on(read(&client, b"/file"))? == bytes);
    ensure!(
        client.same_host_len() == LEN as u64,
        "{} bytes were read past the network",
        client.same_host_len()
    );

    // One bit of each chunk on one disk after the other: clients that have the files open, and new ones.
    for disk in 1..=3 {
        let folder = dev.dir().join(format!("dataserver-{disk}"));
        let files = two_chunk_files(&folder)?;
        let mut before = Vec::new();
        for path in &files {
            let file = File::options().read(true).write(true).open(path)?;
            let mut byte = [0];
            file.read_exact_at(&mut byte, 3 << 20)?;
            file.write_all_at(&[byte[0] ^ 4], 3 << 20)?;
            before.push(byte);
        }
        ensure!(runtime.block_on(read(&client, b"/file"))? == bytes);
        let fresh = runtime.block_on(connect(&dev, true))?;
        ensure!(runtime.block_on(read(&fresh, b"/file"))? == bytes);
        ensure!(fresh.same_host_len() > 0);
        // Who read a bad copy has it replaced, sooner or later: then this changes nothing.
        for (path, byte) in two_chunk_files(&folder)?.iter().zip(&before) {
            let file = File::options().write(true).open(path)?;
            file.write_all_at(byte, 3 << 20)?;
        }
    }

    // The sockets go with the servers and have other names afterwards.
    dev.kill()?;
    dev.start_again()?;
    ensure!(runtime.block_on(read(&client, b"/file"))? == bytes);
    dev.ok(["put", local, "/again"])?;
    ensure!(runtime.block_on(read(&client, b"/again"))? == bytes);
    let fresh = runtime.block_on(connect(&dev, true))?;
    ensure!(runtime.block_on(read(&fresh, b"/again"))? == bytes);
    ensure!(fresh.same_host_len() == LEN as u64);
    Ok(())
}
