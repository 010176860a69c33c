//! A transfer goes on over a network that loses nearly every third packet and then all of them.

use anyhow::{Context, Result, ensure};
use quarry_tests::network::{Cable, SERVERS};
use quarry_tests::power::LoopDisk;
use quarry_tests::processes::Processes;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// Of a hundred packets, each way.
const LOSS: u32 = 30;
/// How long the cable is cut.
const CUT: Duration = Duration::from_secs(5);
/// Bytes of the file: enough that a transfer is in its middle when the cable is cut. At this loss QUIC sends a few dozen
/// packets a second, so that a megabyte takes half a minute.
const LEN: usize = 1_000_000;

/// Runs a transfer, cuts the cable in the middle, and waits until the transfer has ended well.
fn with_a_cut(cable: &Cable, what: &str, transfer: &mut Command) -> Result<()> {
    cable.lose(LOSS)?;
    let begun = Instant::now();
    let before = cable.carried()?;
    let mut process = transfer.spawn()?;
    while cable.carried()? < before + LEN as u64 / 4 {
        ensure!(
            process.try_wait()?.is_none(),
            "{what} was over before the cable was cut: nothing was tested"
        );
    }
    let lost = cable.lost()?;
    cable.lose(100)?;
    std::thread::sleep(CUT);
    let cut = cable.lost()?;
    let ended = process.try_wait()?;
    cable.lose(LOSS)?;
    ensure!(
        ended.is_none(),
        "{what} ended while the cable was cut: {ended:?}"
    );
    let status = process.wait()?;
    let after = cable.lost()?;
    println!(
        "{what}: {:.1} s; packets lost: {lost} before the cut, {cut} in it, {after} after it",
        begun.elapsed().as_secs_f64()
    );
    ensure!(status.success(), "{what}: {status}");
    ensure!(
        lost > 0 && cut > 0 && after > 0,
        "the network lost nothing: nothing was tested"
    );
    cable.heal()
}

#[test]
fn a_transfer_survives_lost_packets_and_a_cut_cable() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let cable = Cable::new()?;
    let addresses: Vec<String> = [7410, 7421, 7422, 7423]
        .iter()
        .map(|port| format!("{SERVERS}:{port}"))
        .collect();
    let disk = LoopDisk::new(scratch.path(), "disk", 4 << 30)?;
    let mut cluster = Processes::init(&disk.path().join("cluster"), &addresses, Some(&cable))?;
    cluster.start_all(3)?;

    let mut bytes = vec![0; LEN];
    SmallRng::seed_from_u64(30).fill_bytes(&mut bytes);
    let local = scratch.path().join("local");
    let back = scratch.path().join("back");
    fs::write(&local, &bytes)?;
    let (local, back) = (
        local.to_str().context("utf-8")?,
        back.to_str().context("utf-8")?,
    );
    with_a_cut(&cable, "put", &mut cluster.quarry(["put", local, "/file"]))?;
    ensure!(
        cluster.ok(["cat", "/file"])?.stdout == bytes,
        "other bytes were stored"
    );
    with_a_cut(&cable, "get", &mut cluster.quarry(["get", "/file", back]))?;
    ensure!(fs::read(back)? == bytes, "other bytes came back");
    Ok(())
}
