//! A mounted cluster is a file system: programs that know nothing of it run on it as on a local disk.

mod outages;
mod places;
mod rules;

use anyhow::{Context, Result, ensure};
use outages::{an_outage_is_waited_for_and_can_be_killed, what_was_synced_survives_a_killed_mount};
use places::{what_stands_in_the_way_is_told, where_it_goes};
use quarry_tests::cluster::Dev;
use quarry_tests::compare::assert_same;
use quarry_tests::generator::{Scale, make};
use quarry_tests::mounts::Mount;
use quarry_tests::power::LoopDisk;
use quarry_tests::run::tool;
use rules::rules;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// One directory has so many names, so that it takes several pages.
const MANY: usize = 10_000;

/// What another mount has written to a file that stays open is seen within a second; a busy machine takes its time besides.
const SEEN_WITHIN: Duration = Duration::from_millis(2_500);

fn mounted(dev: &Dev, place: &Path, options: &[&str]) -> Result<Mount> {
    Mount::new(dev.quarry([&["mount"], options].concat()), place)
}

/// What is put into the cluster is in the mount, and the other way round.
fn trees(dev: &Dev, scratch: &Path, mount: &Mount) -> Result<()> {
    let tree = scratch.join("tree");
    make(&tree, 20_261_128, Scale::Small)?;
    dev.ok(["put", "-r", tree.to_str().context("utf-8")?, "/"])?;
    assert_same(&tree, &mount.at("tree"))?;
    tool(
        "cp",
        [
            "-a".into(),
            tree.clone().into_os_string(),
            mount.at("copy").into(),
        ],
    )?;
    assert_same(&tree, &mount.at("copy"))?;
    let back = scratch.join("back");
    dev.ok(["get", "-r", "/copy", back.to_str().context("utf-8")?])?;
    assert_same(&tree, &back)?;
    tool("rm", ["-r".into(), mount.at("copy").into_os_string()])?;
    ensure!(!mount.at("copy").exists());
    Ok(())
}

/// Every name that stays is listed exactly once while others come and go, and `rm -r` leaves nothing.
fn large_directory(mount: &Mount) -> Result<()> {
    let dir = mount.at("large");
    fs::create_dir(&dir)?;
    let name = |number: usize| dir.join(format!("file {number:06}"));
    thread::scope(|scope| {
        let make = |from: usize| {
            let name = &name;
            scope.spawn(move || {
                (from..MANY)
                    .step_by(8)
                    .try_for_each(|at| File::create(name(at)).map(drop))
            })
        };
        let makers: Vec<_> = (0..8).map(make).collect();
        makers
            .into_iter()
            .try_for_each(|maker| maker.join().expect("it returns errors"))
    })?;
    let mut seen = BTreeSet::new();
    for (at, entry) in fs::read_dir(&dir)?.enumerate() {
        let found = entry?.file_name().into_string().ok().context("utf-8")?;
        ensure!(seen.insert(found.clone()), "{found} is listed twice");
        if at % 100 == 0 {
            let number: usize = found[5..11].parse()?;
            // One that was seen goes, and one that was not there comes.
            fs::remove_file(dir.join(&found))?;
            File::create(dir.join(format!("file {number:06} new")))?;
        }
    }
    let old = seen.iter().filter(|name| name.len() == 11).count();
    ensure!(old == MANY, "{old} of {MANY} names were listed");
    fs::remove_dir_all(&dir)?;
    Ok(())
}

/// What two mounts write to one file, and when the other sees it.
fn two_mounts(one: &Mount, other: &Mount) -> Result<()> {
    // Appending: each record whole, none over another.
    let append = |mount: &Mount, letter: u8| -> Result<()> {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(mount.at("log"))?;
        for number in 0..100 {
            let record = format!("{}{number:03}\n", char::from(letter).to_string().repeat(20));
            file.write_all(record.as_bytes())?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| append(one, b'a'));
        append(other, b'b')?;
        first.join().expect("it returns errors")
    })?;
    for mount in [one, other] {
        let text = fs::read_to_string(mount.at("log"))?;
        let lines: Vec<&str> = text.lines().collect();
        ensure!(lines.len() == 200, "{} records", lines.len());
        for letter in ["a", "b"] {
            let of_one = lines.iter().filter(|line| line.starts_with(letter));
            let wanted = (0..100).map(|number| format!("{}{number:03}", letter.repeat(20)));
            ensure!(
                of_one.copied().eq(wanted),
                "records of {letter} are there once, in order"
            );
        }
    }
    // Without opening it again, in place and beyond the end.
    let writer = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(one.at("open"))?;
    writer.write_all_at(&[0; 100_000], 0)?;
    writer.sync_all()?;
    let reader = File::open(other.at("open"))?;
    let mut byte = [0];
    for round in 1..4 {
        for at in [50_000, 100_000 * u64::from(round)] {
            writer.write_all_at(&[round], at)?;
            writer.sync_all()?;
            let begun = Instant::now();
            while reader.read_at(&mut byte, at)? == 0 || byte != [round] {
                ensure!(begun.elapsed() < SEEN_WITHIN, "{round} at {at}: {byte:?}");
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
    // Close to open.
    for round in 0..20 {
        let text = format!("round {round}");
        fs::write(one.at("seen"), &text)?;
        let found = fs::read_to_string(other.at("seen"))?;
        ensure!(found == text, "{found:?} instead of {text:?}");
        fs::rename(one.at("seen"), one.at("renamed"))?;
        ensure!(!other.at("seen").exists() && other.at("renamed").exists());
        fs::rename(other.at("renamed"), other.at("seen"))?;
    }
    Ok(())
}

/// Whether a write goes to the end is what fcntl(2) says at that time, not what open(2) said.
fn append_that_comes_and_goes(mount: &Mount, other: &Mount) -> Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let mut file = options.open(mount.at("turns"))?;
    file.write_all(b"12345")?;
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::APPEND)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(b"678")?;
    let mut appends = OpenOptions::new().append(true).open(mount.at("turns"))?;
    appends.write_all(b"9")?;
    rustix::fs::fcntl_setfl(&appends, rustix::fs::OFlags::empty())?;
    appends.write_all_at(b"X", 0)?;
    drop((file, appends));
    for mount in [mount, other] {
        let text = fs::read_to_string(mount.at("turns"))?;
        ensure!(text == "X23456789", "{text:?}");
    }
    Ok(())
}

/// A file is there as long as it is open, whatever becomes of its names.
fn unlinked_but_open(mount: &Mount, other: &Mount) -> Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let mut file = options.open(mount.at("gone"))?;
    file.write_all(b"before")?;
    let reader = File::open(other.at("gone"))?;
    fs::remove_file(mount.at("gone"))?;
    file.write_all(b" and after")?;
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    ensure!(text == "before and after", "{text:?}");
    ensure!(file.metadata()?.nlink() == 0 && file.metadata()?.len() == 16);
    // Another one takes its name, and neither is the other.
    fs::write(mount.at("gone"), b"new")?;
    let mut all = [0; 16];
    let begun = Instant::now();
    while reader.read_at(&mut all, 0)? < all.len() {
        ensure!(begun.elapsed() < SEEN_WITHIN, "{all:?}");
        thread::sleep(Duration::from_millis(20));
    }
    ensure!(&all == b"before and after", "{all:?}");
    ensure!(fs::read(mount.at("gone"))? == b"new");
    Ok(())
}

/// All on one cluster: starting one takes longer than most of them.
#[test]
fn a_mounted_cluster_is_a_file_system() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name);
    // On a file system of its own, sparse: on a machine's large disk the servers keep 5 % free.
    let disk = LoopDisk::new(scratch.path(), "disk", 16 << 30)?;
    let mut dev = Dev::start(&disk.path().join("cluster"), 3)?;
    let one = mounted(&dev, &at("one"), &["--allow-other"])?;
    let other = mounted(&dev, &at("other"), &[])?;
    trees(&dev, scratch.path(), &one)?;
    let local = disk.path().join("local");
    fs::create_dir(&local)?;
    rules(&local, one.path())?;
    large_directory(&one)?;
    two_mounts(&one, &other)?;
    append_that_comes_and_goes(&one, &other)?;
    unlinked_but_open(&one, &other)?;
    other.end()?;
    what_was_synced_survives_a_killed_mount(&dev, &at("other"))?;
    where_it_goes(&dev, scratch.path())?;
    what_stands_in_the_way_is_told(&dev, scratch.path())?;
    an_outage_is_waited_for_and_can_be_killed(&mut dev, &one, &at("other"))?;
    one.end()?;
    dev.stop()
}
