//! What can happen to a disk: no byte is lost, and in the end every group is clean.

use anyhow::{Context, Result, ensure};
use quarry_tests::drill::{Drill, Fault, Setup, run};
use quarry_tests::load::Plan;
use quarry_tests::run::tool;
use rand::seq::IndexedRandom;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SETUP: Setup = Setup {
    name: "",
    metaservers: 3,
    dataservers: 5,
    plan: Plan::MIXED,
    settings: &[("QUARRY_OUT_AFTER_SECONDS", "5")],
};

fn disk_of(drill: &Drill, server: &str) -> PathBuf {
    drill.cluster.folder(server).join("disk-1")
}

/// Two dataservers of the drill's choice.
fn two(drill: &mut Drill) -> Result<(String, String)> {
    let all = drill.dataservers();
    let two: Vec<String> = all.choose_multiple(&mut drill.random, 2).cloned().collect();
    let [one, other] = &two[..] else {
        anyhow::bail!("there are too few dataservers");
    };
    Ok((one.clone(), other.clone()))
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
#[test]
fn a_disk_returns_after_its_groups_moved() -> Result<()> {
    let setup = Setup {
        name: "a_disk_returns_after_its_groups_moved",
        ..SETUP
    };
    run(setup, |drill| {
        let (one, _) = two(drill)?;
        drill.strike_and(&Fault::Killed(vec![one.clone()]), |drill| {
            drill.wait_until_clean_without(&one)?;
            Ok(quarry_tests::drill::GAP_MAX)
        })?;
        drill.wait_until_clean()
    })
}

#[test]
fn a_disk_is_emptied() -> Result<()> {
    let setup = Setup {
        name: "a_disk_is_emptied",
        ..SETUP
    };
    run(setup, |drill| {
        let (one, _) = two(drill)?;
        drill.cluster.kill(&one)?;
        let disk = disk_of(drill, &one);
        fs::remove_dir_all(&disk)?;
        fs::create_dir(&disk)?;
        drill.say(&format!("the disk of {one} is emptied"));
        start_is_refused(drill, &one, "is empty, but disk")?;
        start_with_a_new_disk(drill, &one)?;
        drill.wait_until_clean()
    })
}

#[test]
fn two_disks_are_swapped() -> Result<()> {
    let setup = Setup {
        name: "two_disks_are_swapped",
        ..SETUP
    };
    run(setup, |drill| {
        let (one, other) = two(drill)?;
        // One after the other: two at once of five are too many for three copies to be sure of anything.
        drill.cluster.kill(&one)?;
        drill.wait_until_clean_without(&one)?;
        drill.cluster.kill(&other)?;
        let aside = drill.cluster.folder(&one).join("aside");
        let (disk, other_disk) = (disk_of(drill, &one), disk_of(drill, &other));
        let swap = || -> Result<()> {
            fs::rename(&disk, &aside)?;
            fs::rename(&other_disk, &disk)?;
            Ok(fs::rename(&aside, &other_disk)?)
        };
        swap()?;
        drill.say(&format!("the disks of {one} and {other} are swapped"));
        start_is_refused(drill, &one, "copied to a second server or moved")?;
        start_is_refused(drill, &other, "copied to a second server or moved")?;
        swap()?;
        drill.cluster.start_several(&[&one, &other])?;
        drill.wait_until_clean()
    })
}

#[test]
fn a_disk_is_rolled_back_to_an_older_copy() -> Result<()> {
    let setup = Setup {
        name: "a_disk_is_rolled_back_to_an_older_copy",
        ..SETUP
    };
    run(setup, |drill| {
        let (one, _) = two(drill)?;
        let (disk, older) = (
            disk_of(drill, &one),
            drill.cluster.folder(&one).join("older"),
        );
        drill.cluster.kill(&one)?;
        copy(&disk, &older)?;
        drill.say(&format!("the disk of {one} is copied"));
        drill.cluster.start(&one)?;
        drill.wait_until_clean()?;
        drill.load.wait_for_progress(50, Duration::from_secs(60))?;
        drill.cluster.kill(&one)?;
        fs::remove_dir_all(&disk)?;
        fs::rename(&older, &disk)?;
        drill.say(&format!("the disk of {one} is the older copy"));
        start_is_refused(drill, &one, "rolled back to an older copy")?;
        fs::remove_dir_all(&disk)?;
        start_with_a_new_disk(drill, &one)?;
        drill.wait_until_clean()
    })
}

#[test]
fn a_disk_is_lost_for_good() -> Result<()> {
    let setup = Setup {
        name: "a_disk_is_lost_for_good",
        ..SETUP
    };
    run(setup, |drill| {
        let (one, other) = two(drill)?;
        drill.cluster.kill(&one)?;
        fs::remove_dir_all(disk_of(drill, &one))?;
        drill.say(&format!("{one} and its disk are gone"));
        drill.wait_until_clean_without(&one)?;
        // And then another one's, whose server stays.
        drill.cluster.kill(&other)?;
        fs::remove_dir_all(disk_of(drill, &other))?;
        drill.say(&format!("the disk of {other} is gone"));
        start_with_a_new_disk(drill, &other)?;
        drill.wait_until_clean_without(&one)
    })
}
