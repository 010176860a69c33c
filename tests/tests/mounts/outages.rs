//! A mount that is killed, and one whose cluster is away.

use crate::mounted;
use anyhow::{Context, Result, ensure};
use quarry_tests::cluster::Dev;
use quarry_tests::mounts::Mount;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// As long as a busy machine may need for what takes no time.
const LONG: Duration = Duration::from_secs(20);

pub fn what_was_synced_survives_a_killed_mount(dev: &Dev, place: &Path) -> Result<()> {
    let mount = mounted(dev, place, &[])?;
    let mut synced = File::create(mount.at("synced"))?;
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    synced.write_all(&bytes)?;
    synced.sync_all()?;
    synced.write_all(b"not synced")?;
    fs::write(mount.at("closed"), "closed")?;
    mount.kill()?;
    drop(synced);
    let mount = mounted(dev, place, &[])?;
    let found = fs::read(mount.at("synced"))?;
    ensure!(
        found.len() >= bytes.len() && found[..bytes.len()] == bytes,
        "{} bytes",
        found.len()
    );
    ensure!(fs::read(mount.at("closed"))? == b"closed");
    mount.end()
}

/// While all servers are away programs wait: they can be killed, go on afterwards, and fail only where a timeout was asked for.
pub fn an_outage_is_waited_for_and_can_be_killed(
    dev: &mut Dev,
    mount: &Mount,
    place: &Path,
) -> Result<()> {
    let hasty = mounted(dev, place, &["-o", "timeout=3"])?;
    let at = place.with_file_name("patient");
    let patient = mounted(dev, &at, &[])?;
    ensure!(patient.at("").is_dir());
    fs::write(mount.at("file"), "before")?;
    dev.kill()?;

    let mut waiting = Command::new("cat")
        .arg(mount.at("file"))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut killed = Command::new("stat").arg(mount.at("file")).spawn()?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(
        killed.try_wait()?.is_none() && waiting.try_wait()?.is_none(),
        "they wait"
    );
    killed.kill()?;
    let begun = Instant::now();
    killed.wait()?;
    ensure!(begun.elapsed() < LONG, "killed after {:?}", begun.elapsed());

    let begun = Instant::now();
    let failed = fs::metadata(hasty.at("file")).map_err(|error| error.raw_os_error());
    ensure!(
        failed.as_ref().is_err_and(|errno| *errno == Some(5)),
        "EIO: {failed:?}"
    );
    ensure!(begun.elapsed() < LONG, "failed after {:?}", begun.elapsed());
    for place in [place, &at] {
        let begun = Instant::now();
        dev.ok(["umount", place.to_str().context("utf-8")?])?;
        ensure!(
            begun.elapsed() < LONG,
            "umounted after {:?}",
            begun.elapsed()
        );
    }
    drop((hasty, patient));

    dev.start_again()?;
    let output = waiting.wait_with_output()?;
    ensure!(output.stdout == b"before", "{output:?}");
    fs::write(mount.at("file"), "after")?;
    ensure!(fs::read(mount.at("file"))? == b"after");
    Ok(())
}
