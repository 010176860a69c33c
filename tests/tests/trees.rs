//! Trees of real and odd files come back as they went up, also after every server was killed.

use anyhow::{Context, Result, ensure};
use quarry_tests::cluster::Dev;
use quarry_tests::compare::assert_same;
use quarry_tests::generator::{Scale, make};
use quarry_tests::power::LoopDisk;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Copies `count` real files of this machine, with modes, times and links as they are.
fn real_files(to: &Path, count: usize) -> Result<()> {
    fs::create_dir(to)?;
    let mut names = Vec::new();
    let mut folders = vec![
        PathBuf::from("/usr/share"),
        PathBuf::from("/etc"),
        PathBuf::from("/usr/lib"),
    ];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        let mut entries: Vec<_> = entries
            .map_while(|entry| entry.ok())
            .map(|entry| entry.path())
            .collect();
        entries.sort();
        for entry in entries {
            let kind = fs::symlink_metadata(&entry)?.file_type();
            if kind.is_dir() {
                folders.push(entry);
            } else if (kind.is_file() || kind.is_symlink())
                && fs::symlink_metadata(&entry)?.len() < 16 << 20
            {
                names.push(entry);
            }
            if names.len() == count {
                break;
            }
        }
        if names.len() == count {
            break;
        }
    }
    let list = to.with_extension("list");
    let lines: Vec<u8> = names
        .iter()
        .flat_map(|name| {
            [
                std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str()),
                b"\0",
            ]
            .concat()
        })
        .collect();
    fs::write(&list, lines)?;
    let script = format!(
        "cd / && xargs -0 -a '{}' cp -a --parents -t '{}'",
        list.display(),
        to.display()
    );
    quarry_tests::run::tool("sh", ["-c", &script]).map(drop)
}

#[test]
fn trees_come_back_identical_also_after_everything_was_killed() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name);
    make(&at("odd"), 20_261_124, Scale::Large)?;
    real_files(&at("real"), 5_000)?;

    // On a file system of its own, sparse: the test needs little room on a machine's large disk,
    // of which the servers would keep 5 % free.
    let disk = LoopDisk::new(scratch.path(), "disk", 16 << 30)?;
    let mut dev = Dev::start(&disk.path().join("cluster"), 3)?;
    for name in ["odd", "real"] {
        dev.ok(["put", "-r", at(name).to_str().context("utf-8")?, "/"])?;
        fs::create_dir(at("back"))?;
        dev.ok([
            "get",
            "-r",
            &format!("/{name}"),
            at("back").to_str().context("utf-8")?,
        ])?;
        assert_same(&at(name), &at("back").join(name))?;
        fs::remove_dir_all(at("back"))?;
    }

    // Everything dies in the middle of a further upload, once something of it can be seen.
    make(&at("further"), 7, Scale::Medium)?;
    let mut upload = dev.quarry(["put", "-r", at("further").to_str().context("utf-8")?, "/"]);
    let mut upload = upload.stderr(Stdio::null()).spawn()?;
    while dev
        .quarry(["ls", "/further/names"])
        .output()?
        .stdout
        .is_empty()
    {
        ensure!(
            upload.try_wait()?.is_none(),
            "the upload was over before the servers were killed: nothing was tested"
        );
    }
    dev.kill()?;
    upload.kill()?;
    let ended = upload.wait()?;
    ensure!(
        !ended.success(),
        "the upload was over before the servers were killed: nothing was tested"
    );
    dev.start_again()?;

    for name in ["odd", "real"] {
        fs::create_dir(at("back"))?;
        dev.ok([
            "get",
            "-r",
            &format!("/{name}"),
            at("back").to_str().context("utf-8")?,
        ])?;
        assert_same(&at(name), &at("back").join(name))?;
        fs::remove_dir_all(at("back"))?;
    }
    // Of the further tree, what is there is whole.
    dev.ok([
        "get",
        "-r",
        "/further",
        at("part").to_str().context("utf-8")?,
    ])?;
    let checked = whole_files(&at("further"), &at("part"))?;
    println!("{checked} files of the interrupted upload were there, all whole");
    // And it can simply be run again.
    dev.ok(["put", "-r", at("further").to_str().context("utf-8")?, "/"])?;
    fs::create_dir(at("back"))?;
    dev.ok([
        "get",
        "-r",
        "/further",
        at("back").to_str().context("utf-8")?,
    ])?;
    assert_same(&at("further"), &at("back").join("further"))
}

/// Each file below `part` has exactly the bytes of its namesake below `whole`.
fn whole_files(whole: &Path, part: &Path) -> Result<usize> {
    let mut checked = 0;
    for entry in fs::read_dir(part)? {
        let entry = entry?;
        let other = whole.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            checked += whole_files(&other, &entry.path())?;
        } else if entry.file_type()?.is_file() {
            ensure!(
                fs::read(entry.path())? == fs::read(&other)?,
                "{other:?} is there in part"
            );
            checked += 1;
        }
    }
    Ok(checked)
}
