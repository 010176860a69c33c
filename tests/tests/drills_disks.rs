//! What can happen to a disk: no byte is lost, and in the end every group is clean.

use anyhow::{Context, Result, bail, ensure};
use quarry_tests::drill::{Drill, Fault, GAP_MAX, Setup, run};
use quarry_tests::load::Plan;
use quarry_tests::run::tool;
use rand::seq::SliceRandom;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn disk_of(drill: &Drill, server: &str) -> PathBuf {
    drill.cluster.folder(server).join("disk-1")
}

/// Starts a server that must refuse its disk, and say so with these words.
fn start_is_refused(drill: &mut Drill, server: &str, words: &str) -> Result<()> {
    ensure!(drill.cluster.start(server).is_err(), "{server} started");
    let log = fs::read_to_string(drill.cluster.folder(server).join("log"))?;
    let last: Vec<&str> = log.lines().rev().take(5).collect();
    let said = last.iter().find(|line| line.contains(words));
    let said = said.with_context(|| format!("{server} did not say {words:?}, but {last:?}"))?;
    drill.say(&format!("{server} refuses: {said}"));
    Ok(())
}

/// An operator says that the disk is gone for good.
fn start_with_a_new_disk(drill: &mut Drill, server: &str) -> Result<()> {
    let disk = disk_of(drill, server);
    let disk = disk.to_str().context("utf-8")?;
    drill
        .cluster
        .start_with(server, &["--replace-disk", disk])?;
    drill.say(&format!("{server} started with a new disk"));
    Ok(())
}

/// A copy of a disk as it is now.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let args = ["-a", "--sparse=always"]
        .map(Path::new)
        .into_iter()
        .chain([from, to]);
    tool("cp", args).map(drop)
}

/// Away for so long that its groups move, and back with all that it had.
fn returns_after_its_groups_moved(drill: &mut Drill, one: &str) -> Result<()> {
    drill.strike_and(&Fault::Killed(vec![one.to_owned()]), |drill| {
        drill.wait_until_clean_without(one)?;
        Ok(GAP_MAX)
    })?;
    drill.wait_until_clean()
}

fn is_emptied(drill: &mut Drill, one: &str) -> Result<()> {
    drill.cluster.kill(one)?;
    let disk = disk_of(drill, one);
    fs::remove_dir_all(&disk)?;
    fs::create_dir(&disk)?;
    drill.say(&format!("the disk of {one} is emptied"));
    start_is_refused(drill, one, "is empty, but disk")?;
    start_with_a_new_disk(drill, one)?;
    drill.wait_until_clean()
}

/// One is away already: two that go at once may take the second copy of something with them.
fn are_swapped(drill: &mut Drill, one: &str, other: &str) -> Result<()> {
    drill.cluster.kill(one)?;
    drill.wait_until_clean_without(one)?;
    drill.cluster.kill(other)?;
    let aside = drill.cluster.folder(one).join("aside");
    let (disk, other_disk) = (disk_of(drill, one), disk_of(drill, other));
    let swap = || -> Result<()> {
        fs::rename(&disk, &aside)?;
        fs::rename(&other_disk, &disk)?;
        Ok(fs::rename(&aside, &other_disk)?)
    };
    swap()?;
    drill.say(&format!("the disks of {one} and {other} are swapped"));
    start_is_refused(drill, one, "copied to a second server or moved")?;
    start_is_refused(drill, other, "copied to a second server or moved")?;
    swap()?;
    drill.cluster.start_several(&[one, other])?;
    drill.wait_until_clean()
}

fn is_rolled_back_to_an_older_copy(drill: &mut Drill, one: &str) -> Result<()> {
    let (disk, older) = (disk_of(drill, one), drill.cluster.folder(one).join("older"));
    drill.cluster.kill(one)?;
    copy(&disk, &older)?;
    drill.say(&format!("the disk of {one} is copied"));
    drill.cluster.start(one)?;
    drill.load.wait_for_progress(10, Duration::from_secs(60))?;
    drill.cluster.kill(one)?;
    fs::remove_dir_all(&disk)?;
    fs::rename(&older, &disk)?;
    drill.say(&format!("the disk of {one} is the older copy"));
    start_is_refused(drill, one, "rolled back to an older copy")?;
    fs::remove_dir_all(&disk)?;
    start_with_a_new_disk(drill, one)?;
    drill.wait_until_clean()
}

fn is_lost_for_good(drill: &mut Drill, one: &str) -> Result<()> {
    drill.cluster.kill(one)?;
    fs::remove_dir_all(disk_of(drill, one))?;
    drill.say(&format!("{one} and its disk are gone"));
    drill.wait_until_clean_without(one)
}

/// One thing after the other, each with another dataserver; between two all groups are clean.
#[test]
fn no_byte_is_lost_whatever_happens_to_a_disk() -> Result<()> {
    let setup = Setup {
        name: "no_byte_is_lost_whatever_happens_to_a_disk",
        metaservers: 3,
        dataservers: 5,
        plan: Plan::MIXED,
        settings: &[("QUARRY_OUT_AFTER_SECONDS", "2")],
    };
    run(setup, |drill| {
        let mut servers = drill.dataservers();
        servers.shuffle(&mut drill.random);
        let [a, b, c, d, e] = &servers[..] else {
            bail!("five dataservers");
        };
        returns_after_its_groups_moved(drill, a)?;
        is_emptied(drill, b)?;
        is_rolled_back_to_an_older_copy(drill, c)?;
        are_swapped(drill, d, e)?;
        if drill.is_long {
            // The same with what repair has built.
            is_emptied(drill, a)?;
            is_rolled_back_to_an_older_copy(drill, b)?;
            are_swapped(drill, a, c)?;
        }
        drill.load.begin_period();
        is_lost_for_good(drill, e)?;
        drill.end_period(GAP_MAX)
    })
}
