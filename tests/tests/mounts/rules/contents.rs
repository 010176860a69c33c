//! Contents and times: lengths, holes, copies, and what changes which time.

use super::Found;
use anyhow::Result;
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, SeekFrom, Timespec, Timestamps};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

pub fn lengths(dir: &Path, found: &mut Found) -> Result<()> {
    let at = |name: &str| dir.join(name);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(at("file"))?;
    file.write_all_at(b"0123456789", 0)?;
    file.set_len(4)?;
    file.set_len(8)?;
    found.of("cut and extended", fs::read(at("file")));
    file.write_all_at(b"end", 20)?;
    found.of("written behind the end", fs::read(at("file")));
    found.is("length", file.metadata()?.len());
    found.of(
        "a directory's",
        rustix::fs::open(dir, OFlags::WRONLY, Mode::empty()).map(drop),
    );
    let reader = File::open(at("file"))?;
    found.of("cut through a reader", reader.set_len(1));
    found.of("write through a reader", (&reader).write(b"x"));
    found.of(
        "read through a writer",
        OpenOptions::new()
            .write(true)
            .open(at("file"))?
            .read(&mut [0]),
    );
    found.of("read at the end", file.read_at(&mut [0; 8], 23));
    found.of("read beyond the end", file.read_at(&mut [0; 8], 1 << 40));
    let mut appending = OpenOptions::new().append(true).open(at("file"))?;
    appending.write_all(b"+1")?;
    file.set_len(3)?;
    appending.write_all(b"+2")?;
    found.of("appended", fs::read(at("file")));
    let emptied = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(at("file"))?;
    found.is(
        "emptied",
        (emptied.metadata()?.len(), file.metadata()?.len()),
    );
    emptied.write_all_at(b"ab", 0)?;
    file.write_all_at(b"cd", 1)?;
    found.of("two handles", fs::read(at("file")));
    let large = vec![7u8; 3 << 20];
    file.write_all_at(&large, 1)?;
    file.write_all_at(&large[..5_000], 1 << 20)?;
    let all = fs::read(at("file"))?;
    found.is(
        "long",
        (all.len(), all.iter().filter(|byte| **byte == 7).count()),
    );
    found.of("write far behind", file.write_at(b"x", (1 << 40) - 1));
    found.is(
        "length",
        (file.metadata()?.len(), file.metadata()?.blocks() < 1 << 14),
    );
    Ok(())
}

pub fn holes(dir: &Path, found: &mut Found) -> Result<()> {
    const UNIT: u64 = 64 << 10;
    let at = |name: &str| dir.join(name);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(at("file"))?;
    let bytes = vec![1u8; UNIT as usize];
    file.write_all_at(&bytes, 0)?;
    file.write_all_at(&bytes, 4 * UNIT)?;
    file.set_len(8 * UNIT)?;
    file.sync_all()?;
    let seek = |to| rustix::fs::seek(&file, to).map(|at| (at / UNIT, at % UNIT));
    for unit in [0, 1, 3, 4, 5, 7, 8, 9] {
        found.of(
            &format!("data from {unit}"),
            seek(SeekFrom::Data(unit * UNIT)),
        );
        found.of(
            &format!("hole from {unit}"),
            seek(SeekFrom::Hole(unit * UNIT)),
        );
    }
    let allocate =
        |flags, from: u64, len: u64| rustix::fs::fallocate(&file, flags, from * UNIT, len * UNIT);
    let len = || Ok::<_, std::io::Error>(file.metadata()?.len() / UNIT);
    let punch = FallocateFlags::PUNCH_HOLE;
    let keep = FallocateFlags::KEEP_SIZE;
    let zero = FallocateFlags::ZERO_RANGE;
    found.of("punch", allocate(punch | keep, 4, 1));
    found.of(
        "is zeros",
        fs::read(at("file")).map(|all| all.iter().map(|byte| u64::from(*byte)).sum::<u64>()),
    );
    found.of("punch beyond the end", allocate(punch | keep, 7, 5));
    found.of("length", len());
    found.of("punch without keeping the size", allocate(punch, 0, 1));
    found.of("allocate and keep the size", allocate(keep, 7, 9));
    found.of("length", len());
    found.of("allocate", allocate(FallocateFlags::empty(), 6, 6));
    found.of("length", len());
    found.of(
        "allocate what is there",
        allocate(FallocateFlags::empty(), 0, 2),
    );
    found.of("length", len());
    found.of("zero and keep the size", allocate(zero | keep, 11, 9));
    found.of("length", len());
    found.of("zero", allocate(zero, 0, 20));
    found.of("length", len());
    found.of(
        "is zeros",
        fs::read(at("file")).map(|all| all.iter().all(|byte| *byte == 0)),
    );
    found.of("no length", allocate(FallocateFlags::empty(), 0, 0));
    Ok(())
}

pub fn times(dir: &Path, found: &mut Found) -> Result<()> {
    let at = |name: &str| dir.join(name);
    fs::write(at("file"), "x")?;
    let time = |seconds, nanos| Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    const OMIT: i64 = rustix::fs::UTIME_OMIT;
    let set = |atime, mtime| {
        let times = Timestamps {
            last_access: atime,
            last_modification: mtime,
        };
        rustix::fs::utimensat(CWD, at("file"), &times, AtFlags::empty())
    };
    let get = || -> Result<_> {
        let meta = fs::metadata(at("file"))?;
        Ok((
            meta.atime(),
            meta.atime_nsec(),
            meta.mtime(),
            meta.mtime_nsec(),
        ))
    };
    found.of(
        "set",
        set(time(1_000_000_000, 123_456_789), time(1_234_567_890, 1)),
    );
    found.is("as set", get()?);
    found.of("atime alone", set(time(5, 5), time(0, OMIT)));
    found.is("as set", get()?);
    found.of(
        "before 1970",
        set(time(-2, 500_000_000), time(-1, 999_999_999)),
    );
    found.is("as set", get()?);
    found.of("far ahead", set(time(4_000_000_000, 0), time(0, OMIT)));
    found.is("as set", get()?);
    // A time that is set stays, though bytes were written before the close.
    let mut file = OpenOptions::new()
        .append(false)
        .write(true)
        .open(at("file"))?;
    file.write_all(b"some more")?;
    rustix::fs::futimens(
        &file,
        &Timestamps {
            last_access: time(7, 7),
            last_modification: time(8, 8),
        },
    )?;
    drop(file);
    found.is("as set", get()?);
    // What changes which time.
    let change = |what: &str, found: &mut Found, act: &dyn Fn() -> Result<()>| -> Result<()> {
        let state = |path: &Path| -> Result<_> {
            let meta = fs::symlink_metadata(path)?;
            Ok((
                (meta.mtime(), meta.mtime_nsec()),
                (meta.ctime(), meta.ctime_nsec()),
            ))
        };
        let before = (state(&at("file"))?, state(dir)?);
        std::thread::sleep(std::time::Duration::from_millis(20));
        act()?;
        let after = (state(&at("file"))?, state(dir)?);
        let changes = |before: ((i64, i64), (i64, i64)), after: ((i64, i64), (i64, i64))| {
            (after.0 > before.0, after.1 > before.1)
        };
        found.is(
            what,
            (changes(before.0, after.0), changes(before.1, after.1)),
        );
        Ok(())
    };
    change("chmod", found, &|| {
        Ok(fs::set_permissions(
            at("file"),
            fs::Permissions::from_mode(0o600),
        )?)
    })?;
    change("write", found, &|| Ok(fs::write(at("file"), "other")?))?;
    change("truncate to the same length", found, &|| {
        Ok(OpenOptions::new()
            .write(true)
            .open(at("file"))?
            .set_len(5)?)
    })?;
    change("read", found, &|| Ok(fs::read(at("file")).map(drop)?))?;
    change("link", found, &|| {
        Ok(fs::hard_link(at("file"), at("link"))?)
    })?;
    change("rename", found, &|| {
        Ok(fs::rename(at("link"), at("link2"))?)
    })?;
    change("unlink", found, &|| Ok(fs::remove_file(at("link2"))?))?;
    change("mkdir", found, &|| Ok(fs::create_dir(at("dir"))?))?;
    change("in a directory below", found, &|| {
        Ok(fs::write(at("dir/x"), "")?)
    })?;
    Ok(())
}

pub fn copies(dir: &Path, found: &mut Found) -> Result<()> {
    let at = |name: &str| dir.join(name);
    let bytes: Vec<u8> = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
    fs::write(at("from"), &bytes)?;
    let from = File::open(at("from"))?;
    let to = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(at("to"))?;
    let copy = |from_at: u64, to_at: u64, len: usize| {
        let (mut from_at, mut to_at) = (from_at, to_at);
        rustix::fs::copy_file_range(&from, Some(&mut from_at), &to, Some(&mut to_at), len)
    };
    found.of("all", copy(0, 0, bytes.len()));
    found.is("is the same", fs::read(at("to"))? == bytes);
    found.of("a part", copy(1_000, 2_000_001, 500_000));
    let copied = fs::read(at("to"))?;
    found.is(
        "is the same",
        copied[2_000_001..2_500_001] == bytes[1_000..501_000],
    );
    found.of("behind the end", copy(10_000_000, 0, 10));
    found.of("over the end", copy(bytes.len() as u64 - 5, 0, 10));
    let mut same_from = 0;
    let mut same_to = 10;
    let file = File::options().read(true).write(true).open(at("from"))?;
    found.of(
        "onto a part of itself",
        rustix::fs::copy_file_range(&file, Some(&mut same_from), &file, Some(&mut same_to), 100),
    );
    found.of(
        "to a reader",
        rustix::fs::copy_file_range(&file, None, &from, None, 100),
    );
    Ok(())
}
