//! Compares two trees: names, kinds, modes, times, extended attributes of users, link targets, which names are one
//! file, and every byte.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What differs, a line each; empty when the trees are the same.
pub fn differences(left: &Path, right: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut links = BTreeMap::new();
    compare(left, right, Path::new("."), &mut links, &mut found)?;
    Ok(found)
}

/// Fails with the first differences unless the trees are the same.
pub fn assert_same(left: &Path, right: &Path) -> Result<()> {
    let found = differences(left, right)?;
    let shown: Vec<_> = found.iter().take(10).cloned().collect();
    anyhow::ensure!(
        found.is_empty(),
        "{} differences between {left:?} and {right:?}: {shown:#?}",
        found.len()
    );
    Ok(())
}

fn names(dir: &Path) -> Result<BTreeSet<OsString>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    Ok(entries
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<_>>()?)
}

fn compare(
    left: &Path,
    right: &Path,
    at: &Path,
    links: &mut BTreeMap<u64, (u64, PathBuf)>,
    found: &mut Vec<String>,
) -> Result<()> {
    let meta = |path: &Path| {
        fs::symlink_metadata(path).with_context(|| format!("stat {}", path.display()))
    };
    let (l, r) = (meta(left)?, meta(right)?);
    let mut differ = |what: &str, a: String, b: String| {
        if a != b {
            found.push(format!("{at:?}: {what}: {a} and {b}"));
        }
    };
    let kind = |meta: &Metadata| format!("{:?}", meta.file_type());
    differ("kind", kind(&l), kind(&r));
    if l.file_type() != r.file_type() {
        return Ok(());
    }
    if l.file_type().is_symlink() {
        differ(
            "target",
            format!("{:?}", fs::read_link(left)?),
            format!("{:?}", fs::read_link(right)?),
        );
        return Ok(());
    }
    differ("mode", format!("{:o}", l.mode()), format!("{:o}", r.mode()));
    let time = |meta: &Metadata| format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
    differ("time", time(&l), time(&r));
    let attributes = |path: &Path| {
        xattrs(path).with_context(|| format!("read the attributes of {}", path.display()))
    };
    differ(
        "attributes",
        format!("{:?}", attributes(left)?),
        format!("{:?}", attributes(right)?),
    );
    if l.is_file() {
        differ("length", l.len().to_string(), r.len().to_string());
        if l.nlink() > 1 {
            let (inode, first) = links
                .entry(l.ino())
                .or_insert_with(|| (r.ino(), at.to_owned()));
            differ(
                "one file with",
                format!("{first:?} {inode}"),
                format!("{first:?} {}", r.ino()),
            );
        }
        if l.len() == r.len() {
            let place = first_difference(left, right)?;
            differ(
                "bytes",
                "the same".into(),
                place.map_or("the same".into(), |place| format!("different at {place}")),
            );
        }
    }
    if l.is_dir() {
        let (ours, theirs) = (names(left)?, names(right)?);
        for name in ours.symmetric_difference(&theirs) {
            found.push(format!("{at:?}: only on one side: {name:?}"));
        }
        for name in ours.intersection(&theirs) {
            compare(
                &left.join(name),
                &right.join(name),
                &at.join(name),
                links,
                found,
            )?;
        }
    }
    Ok(())
}

/// The most that names, or a value, can have.
const XATTR_LEN_MAX: usize = 64 << 10;

/// The extended attributes of users, by name.
fn xattrs(path: &Path) -> rustix::io::Result<BTreeMap<String, String>> {
    let mut buffer = vec![0; XATTR_LEN_MAX];
    let len = rustix::fs::listxattr(path, &mut buffer[..])?;
    buffer.truncate(len);
    let mut found = BTreeMap::new();
    for name in buffer.split(|byte| *byte == 0) {
        if name.starts_with(b"user.") {
            let mut value = vec![0; XATTR_LEN_MAX];
            let len = rustix::fs::getxattr(path, name, &mut value[..])?;
            let value = value[..len].escape_ascii().to_string();
            found.insert(name.escape_ascii().to_string(), value);
        }
    }
    Ok(found)
}

fn first_difference(left: &Path, right: &Path) -> Result<Option<u64>> {
    let open = |path: &Path| File::open(path).with_context(|| format!("open {}", path.display()));
    let (mut left, mut right) = (open(left)?, open(right)?);
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut place = 0;
    loop {
        let len = left.read(&mut a)?;
        right.read_exact(&mut b[..len])?;
        if len == 0 {
            return Ok(None);
        }
        if let Some(at) = a[..len].iter().zip(&b[..len]).position(|(a, b)| a != b) {
            return Ok(Some(place + at as u64));
        }
        place += len as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::{Scale, make};
    use std::os::unix::fs::{FileExt, PermissionsExt};

    /// A comparison that never fails proves nothing: each kind of damage is found.
    #[test]
    fn every_kind_of_damage_is_found() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        make(&a, 1, Scale::Small)?;
        make(&b, 1, Scale::Small)?;
        // The same seed makes the same tree, but links get the time of their making.
        assert_eq!(differences(&a, &b)?, Vec::<String>::new());

        type Damage = (&'static str, fn(&Path) -> std::io::Result<()>);
        let damages: [Damage; 7] = [
            ("attributes", |root| {
                rustix::fs::removexattr(root.join("attributes"), "user.of the directory")
                    .map_err(Into::into)
            }),
            ("bytes", |root| {
                File::options()
                    .write(true)
                    .open(root.join("lengths/65537"))?
                    .write_all_at(b"?", 65_536)
                    .and_then(|()| retime(root, "lengths/65537"))
            }),
            ("length", |root| {
                File::options()
                    .write(true)
                    .open(root.join("lengths/255"))?
                    .set_len(254)
            }),
            ("mode", |root| {
                fs::set_permissions(root.join("modes/0644"), fs::Permissions::from_mode(0o600))
            }),
            ("target", |root| {
                fs::remove_file(root.join("links/dangling"))?;
                std::os::unix::fs::symlink("elsewhere", root.join("links/dangling"))
            }),
            ("only on one side", |root| {
                fs::remove_file(root.join("names/ "))
            }),
            ("one file with", |root| {
                let bytes = fs::read(root.join("links/target"))?;
                fs::remove_file(root.join("links/second name"))?;
                fs::write(root.join("links/second name"), bytes)
            }),
        ];
        for (what, damage) in damages {
            damage(&b)?;
            let found = differences(&a, &b)?;
            assert!(
                found.iter().any(|line| line.contains(what)),
                "{what}: {found:?}"
            );
        }
        Ok(())
    }

    fn retime(root: &Path, name: &str) -> std::io::Result<()> {
        File::open(root.join(name))?.set_modified(std::time::SystemTime::UNIX_EPOCH)
    }
}
