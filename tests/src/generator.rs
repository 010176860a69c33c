//! A tree of odd files, the same for the same seed.

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use rustix::fs::XattrFlags;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How much is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// A few megabytes.
    Small,
    /// Also files around 64 MiB.
    Medium,
    /// Also files around 64 MiB and one of 1.2 GB.
    Large,
}

/// Lengths at which something changes: inline data, blocks, frames, chunks.
const BOUNDARIES: [u64; 3] = [256, 64 << 10, 1 << 20];
const CHUNK: u64 = 64 << 20;

/// Makes the tree in the new directory `root`.
pub fn make(root: &Path, seed: u64, scale: Scale) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    fs::create_dir(root).with_context(|| format!("make {}", root.display()))?;
    lengths(&root.join("lengths"), &mut random, scale)?;
    names(&root.join("names"), &mut random)?;
    holes(&root.join("holes"), &mut random)?;
    links(&root.join("links"), &mut random)?;
    many(&root.join("many"), &mut random)?;
    modes(&root.join("modes"), &mut random)?;
    attributes(&root.join("attributes"), &mut random)?;
    times(root, &mut random)
}

fn file(path: &Path, len: u64, random: &mut SmallRng) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("make {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    let mut left = len;
    while left > 0 {
        let now = left.min(buffer.len() as u64) as usize;
        random.fill_bytes(&mut buffer[..now]);
        file.write_all(&buffer[..now])?;
        left -= now as u64;
    }
    Ok(())
}

fn lengths(dir: &Path, random: &mut SmallRng, scale: Scale) -> Result<()> {
    fs::create_dir(dir)?;
    file(&dir.join("empty"), 0, random)?;
    for boundary in BOUNDARIES {
        for len in [boundary - 1, boundary, boundary + 1] {
            file(&dir.join(format!("{len}")), len, random)?;
        }
    }
    let longest: &[u64] = match scale {
        Scale::Small => &[],
        Scale::Medium => &[CHUNK - 1, CHUNK, CHUNK + 1],
        Scale::Large => &[CHUNK - 1, CHUNK, CHUNK + 1, 1_200_000_000],
    };
    for len in longest {
        file(&dir.join(format!("{len}")), *len, random)?;
    }
    Ok(())
}

fn names(dir: &Path, random: &mut SmallRng) -> Result<()> {
    fs::create_dir(dir)?;
    file(&dir.join("n".repeat(255)), 10, random)?;
    for byte in (1..=255u8).filter(|byte| *byte != b'/') {
        // "x" keeps "." from being the directory itself.
        file(
            &dir.join(OsStr::from_bytes(&[byte, b'x'])),
            u64::from(byte),
            random,
        )?;
    }
    for odd in ["...", " ", "-rf", "*", "a\nb", "ü", "\u{202e}txt"] {
        file(&dir.join(odd), 3, random)?;
    }
    let deep = dir.join(vec!["d"; 60].join("/"));
    fs::create_dir_all(&deep)?;
    file(&deep.join("at the end"), 1000, random)
}

fn holes(dir: &Path, random: &mut SmallRng) -> Result<()> {
    fs::create_dir(dir)?;
    let mut piece = vec![0; 5_000];
    for (name, len, places) in [
        ("only a hole", 3 << 20, vec![]),
        ("data at the end", 5 << 20, vec![(5 << 20) - 5_000]),
        ("data at the start", 5 << 20, vec![0]),
        (
            "islands",
            40 << 20,
            vec![70_000, 1 << 20, (9 << 20) + 17, 30 << 20],
        ),
    ] {
        let file = File::create(dir.join(name))?;
        file.set_len(len)?;
        for place in places {
            random.fill_bytes(&mut piece);
            file.write_all_at(&piece, place)?;
        }
    }
    Ok(())
}

fn links(dir: &Path, random: &mut SmallRng) -> Result<()> {
    fs::create_dir(dir)?;
    file(&dir.join("target"), 100, random)?;
    symlink("target", dir.join("relative"))?;
    symlink("../links/target", dir.join("up and down"))?;
    symlink("nowhere/at/all", dir.join("dangling"))?;
    symlink("loop", dir.join("loop"))?;
    symlink("x".repeat(1_000), dir.join("long"))?;
    fs::hard_link(dir.join("target"), dir.join("second name"))?;
    Ok(())
}

fn many(dir: &Path, random: &mut SmallRng) -> Result<()> {
    fs::create_dir(dir)?;
    for folder in 0..10 {
        let folder = dir.join(format!("folder {folder}"));
        fs::create_dir(&folder)?;
        for at in 0..30 {
            // Mostly small, as in real trees.
            let len = 2f64.powf(random.random_range(0.0..17.0)) as u64;
            file(&folder.join(format!("{at}")), len, random)?;
        }
    }
    fs::create_dir(dir.join("empty folder"))?;
    Ok(())
}

fn modes(dir: &Path, random: &mut SmallRng) -> Result<()> {
    fs::create_dir(dir)?;
    for mode in [0o000, 0o400, 0o644, 0o755, 0o777, 0o4755, 0o2711, 0o1666] {
        let path = dir.join(format!("{mode:04o}"));
        file(&path, 20, random)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    for mode in [0o700, 0o1777, 0o2755, 0o555] {
        let path = dir.join(format!("d{mode:04o}"));
        fs::create_dir(&path)?;
        file(&path.join("inside"), 20, random)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn attributes(dir: &Path, random: &mut SmallRng) -> Result<()> {
    fs::create_dir(dir)?;
    let set = |path: &Path, name: &str, value: &[u8]| {
        let set = rustix::fs::setxattr(path, name, value, XattrFlags::empty());
        set.with_context(|| format!("set {name} of {}", path.display()))
    };
    set(dir, "user.of the directory", b"yes")?;
    let path = dir.join("some");
    file(&path, 100_000, random)?;
    let mut value = [0; 1_000];
    random.fill_bytes(&mut value);
    set(&path, "user.bytes", &value)?;
    set(&path, "user.empty", b"")?;
    let path = dir.join("of an empty file");
    file(&path, 0, random)?;
    set(&path, "user.\u{fc}", b"1")?;
    Ok(())
}

/// Gives everything but symbolic links a time with odd nanoseconds, children before parents.
fn times(path: &Path, random: &mut SmallRng) -> Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_dir() {
        let mut entries = fs::read_dir(path)?.collect::<std::io::Result<Vec<_>>>()?;
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            times(&entry.path(), random)?;
        }
    }
    if kind.is_symlink() {
        return Ok(());
    }
    let at = SystemTime::UNIX_EPOCH
        + Duration::from_nanos(random.random_range(0..1_800_000_000_000_000_000));
    File::open(path)?.set_modified(at)?;
    Ok(())
}
