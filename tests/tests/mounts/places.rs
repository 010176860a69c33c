//! Where a mount goes, what /proc/mounts shows of it, and what is said when it can not be made.

use crate::mounted;
use anyhow::{Context, Result, ensure};
use quarry_tests::cluster::Dev;
use quarry_tests::run::{ok, quarry, tool};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What is wrong is told sooner than this.
const SOON: Duration = Duration::from_secs(2);

fn line_of(place: &Path) -> Result<Option<String>> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let place = place.to_str().context("utf-8")?;
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(1) == Some(place));
    Ok(line.map(str::to_owned))
}

/// A directory of the cluster, read-only, in the background, by the helper of mount(8).
pub fn where_it_goes(dev: &Dev, scratch: &Path) -> Result<()> {
    let place = scratch.join("place");
    fs::create_dir(&place)?;
    let shown = place.to_str().context("utf-8")?;
    dev.ok(["mkdir", "-p", "/sub/dir"])?;
    dev.ok(["mount", "--subdir", "/sub", "-o", "log=/dev/null", shown])?;
    let line = line_of(&place)?.context("it is mounted")?;
    let source = format!("{}:/sub fuse.quarry", dev.client_file().display())
        .replace(":/sub fuse", ":/sub X fuse");
    let (first, kind) = source.split_once(" X ").context("two words")?;
    ensure!(line.starts_with(first) && line.contains(kind), "{line}");
    ensure!(fs::metadata(&place)?.is_dir() && place.join("dir").is_dir());
    fs::write(place.join("dir/file"), "text")?;
    dev.ok(["umount", shown])?;
    ensure!(line_of(&place)?.is_none());
    let text = dev.ok(["cat", "/sub/dir/file"])?.stdout;
    ensure!(text == b"text", "{text:?}");

    // As `mount -t quarry SOURCE DIR` starts it.
    let helper = scratch.join("mount.quarry");
    symlink(quarry(), &helper)?;
    let source = format!("{}:/sub/dir", dev.client_file().display());
    ok(Command::new(&helper).args([&source, shown, "-n", "-o", "rw,ro,_netdev,log=/dev/null"]))?;
    let line = line_of(&place)?.context("it is mounted")?;
    ensure!(
        line.starts_with(&format!("{source} ")) && line.contains(" ro,"),
        "{line}"
    );
    ensure!(fs::read(place.join("file"))? == b"text");
    // What is not named stays as it is.
    ensure!(
        line.contains("nosuid") && !line.contains("noexec"),
        "{line}"
    );
    dev.ok(["mount", "-o", "remount,noexec", shown])?;
    dev.ok(["mount", "-o", "remount,user_id=0", shown])?;
    let line = line_of(&place)?.context("it is mounted")?;
    for flag in ["ro,", "nosuid", "noexec"] {
        ensure!(line.contains(flag), "{flag}: {line}");
    }
    let refused = fs::write(place.join("other"), "");
    ensure!(
        refused.is_err_and(|error| error.raw_os_error() == Some(30)),
        "EROFS"
    );
    tool("umount", [&place])?;

    // A user's: what is its in the cluster is its here, and what is not is not.
    dev.ok([
        "user",
        "add",
        "ann",
        "--uid",
        "4321",
        "--gid",
        "4321",
        "--out",
        scratch.join("ann.toml").to_str().context("utf-8")?,
    ])?;
    let mut command = Command::new(quarry());
    command
        .arg("mount")
        .arg("--cluster")
        .arg(scratch.join("ann.toml"));
    let ann = quarry_tests::mounts::Mount::new(command, &scratch.join("ann"))?;
    fs::write(ann.at("home/ann/note"), "mine")?;
    use std::os::unix::fs::MetadataExt;
    ensure!(
        fs::metadata(ann.at("home/ann/note"))?.uid() == 0,
        "shown as who mounted it"
    );
    let refused = fs::write(ann.at("note"), "not mine").map_err(|error| error.raw_os_error());
    ensure!(refused == Err(Some(13)), "{refused:?}");
    ann.end()?;
    let stat = String::from_utf8(dev.ok(["stat", "--json", "/home/ann/note"])?.stdout)?;
    ensure!(stat.contains("4321"), "{stat}");
    Ok(())
}

/// Each quickly and with what to do.
pub fn what_stands_in_the_way_is_told(dev: &Dev, scratch: &Path) -> Result<()> {
    let path = |name: &str| {
        scratch
            .join(name)
            .to_str()
            .map(str::to_owned)
            .context("utf-8")
    };
    let (none, file, place) = (path("none")?, path("file")?, path("place")?);
    fs::write(&file, "")?;
    let second = mounted(dev, &scratch.join("second"), &[])?;
    let there = path("second")?;
    for (args, wanted) in [
        (vec!["mount", &none], "mkdir -p"),
        (vec!["mount", &file], "is no directory"),
        (vec!["mount", &there], "quarry umount"),
        (
            vec!["mount", "-o", "frobnicate", &place],
            "there are: ro, allow_other",
        ),
        (
            vec!["mount", "--subdir", "/not/there", &place],
            "there is no 'not' in directory",
        ),
        (vec!["mount", "--subdir", "sub", &place], "begin with '/'"),
        (
            vec!["mount", "--cluster", &none, &place],
            "there is no client file",
        ),
        (vec!["umount", &place], "nothing is mounted there"),
        (vec!["umount", "/proc"], "use umount(8)"),
    ] {
        let begun = Instant::now();
        let said = dev.refused(&args)?;
        ensure!(said.contains(wanted), "{args:?}: {said}");
        ensure!(
            begun.elapsed() < SOON,
            "{args:?}: after {:?}",
            begun.elapsed()
        );
    }
    // It is in use: told, and out of sight if that is wanted.
    let file = fs::File::create(second.at("open"))?;
    let said = dev.refused(["umount", &there])?;
    ensure!(
        said.contains("is in use") && said.contains("--lazy"),
        "{said}"
    );
    drop(file);
    second.end()
}
