//! Where a mount goes: what stands in the way is told before anything is asked of the cluster.

use crate::options::MountOptions;
use quarry_common::error::{Code, Error, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The device of FUSE.
const DEVICE: &str = "/dev/fuse";

/// The program that mounts for whoever is not root.
pub const HELPER: &str = "fusermount3";

fn unfit(text: String) -> Error {
    Error::new(Code::Configuration, text)
}

/// Something that is mounted, from /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Its number as a device: `0:98`.
    pub device: String,
    /// Where.
    pub place: PathBuf,
    /// Its flags: `rw,nosuid,relatime`.
    pub flags: String,
    /// The type: `fuse.quarry` of ours.
    pub kind: String,
    /// What was named as mounted.
    pub source: String,
}

impl MountEntry {
    /// Whether it has a flag.
    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.split(',').any(|there| there == flag)
    }

    /// Whether it is a cluster.
    pub fn is_ours(&self) -> bool {
        self.kind.strip_prefix("fuse.") == Some(crate::SUBTYPE)
    }
}

/// What is mounted at a place, on top.
pub fn mounted_at(place: &Path) -> std::io::Result<Option<MountEntry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    let mut entries = table.split(|byte| *byte == b'\n').filter_map(parse_entry);
    Ok(entries.rfind(|entry| entry.place == place))
}

/// `36 35 98:0 / /mnt rw,noatime shared:1 - fuse.quarry SOURCE rw`
fn parse_entry(line: &[u8]) -> Option<MountEntry> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = words.iter().position(|word| *word == b"-")?;
    Some(MountEntry {
        device: String::from_utf8_lossy(words.get(2)?).into_owned(),
        place: PathBuf::from(OsString::from_vec(unescaped(words.get(4)?))),
        flags: String::from_utf8_lossy(words.get(5)?).into_owned(),
        kind: String::from_utf8_lossy(words.get(dash + 1)?).into_owned(),
        source: String::from_utf8_lossy(&unescaped(words.get(dash + 2)?)).into_owned(),
    })
}

/// The kernel writes a space as `\040`.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, after @ ..] = rest {
        let digits = after
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                plain.push(code);
                rest = &after[3..];
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

/// The path without links, without looking at what is mounted there: whoever serves that may be dead.
///
/// # Errors
/// The directory that it is in is not there.
pub fn resolved(place: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(place)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            let inside = parent.canonicalize()?.join(name);
            match mounted_at(&inside)?.is_none() && inside.is_symlink() {
                true => inside.canonicalize(),
                false => Ok(inside),
            }
        }
        _ => Ok(absolute),
    }
}

/// Whether a program is found as the shell finds it.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/bin", "/sbin", "/usr/bin", "/usr/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .any(|folder| folder.join(program).is_file())
}

/// Checks that a mount can go to a place; returns the place without links, and what a person should know.
///
/// # Errors
/// `Configuration`, with what to do.
pub fn check_mountpoint(place: &Path, options: &MountOptions) -> Result<(PathBuf, Option<String>)> {
    let shown = place.display();
    if !Path::new(DEVICE).exists() {
        return Err(unfit(format!(
            "there is no {DEVICE}: load FUSE with 'modprobe fuse', or give a container the device and the right to mount \
             ('--device {DEVICE} --cap-add SYS_ADMIN')"
        )));
    }
    let is_root = rustix::process::geteuid().is_root();
    if !is_root && !is_installed(HELPER) {
        return Err(unfit(format!(
            "only root mounts without '{HELPER}', which is not installed: install the package fuse3"
        )));
    }
    if options.allow_other && !is_root {
        return Err(unfit(
            "--allow-other is for mounts by root: others would act as the user of the client file"
                .to_owned(),
        ));
    }
    let place = resolved(place).map_err(|error| missing(place, &error))?;
    let mounted = mounted_at(&place);
    let mounted = mounted.map_err(|error| unfit(format!("/proc/self/mountinfo: {error}")))?;
    if let Some(there) = mounted {
        // As a directory of its own a file system may be used as a place, but not twice by us.
        if there.is_ours() {
            return Err(unfit(format!(
                "{shown}: {} is mounted there already: 'quarry umount {shown}' first",
                there.source
            )));
        }
    }
    let about = std::fs::metadata(&place).map_err(|error| missing(&place, &error))?;
    if !about.is_dir() {
        return Err(unfit(format!(
            "{shown}: is no directory: a mount goes to one"
        )));
    }
    let mut entries = std::fs::read_dir(&place)
        .map_err(|error| unfit(format!("{shown}: can not be read: {error}")))?;
    let hides = entries.next().is_some();
    let note = hides
        .then(|| format!("{shown}: is not empty: what is in it is hidden until it is umounted"));
    Ok((place, note))
}

fn missing(place: &Path, error: &std::io::Error) -> Error {
    let shown = place.display();
    unfit(match error.raw_os_error() {
        Some(libc::ENOENT) => format!("{shown}: is not there: make it with 'mkdir -p {shown}'"),
        Some(libc::ENOTCONN) => {
            format!("{shown}: what was mounted there has died: 'quarry umount {shown}' first")
        }
        _ => format!("{shown}: can not be used: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let line = br"36 35 0:98 / /mnt/my\040place rw,nosuid shared:1 master:2 - fuse.quarry /etc/a\040b:/home rw,user_id=0";
        let expected = MountEntry {
            device: "0:98".to_owned(),
            place: PathBuf::from("/mnt/my place"),
            flags: "rw,nosuid".to_owned(),
            kind: "fuse.quarry".to_owned(),
            source: "/etc/a b:/home".to_owned(),
        };
        assert_eq!(parse_entry(line), Some(expected));
        assert_eq!(parse_entry(b""), None);
        assert_eq!(parse_entry(b"36 35 0:98 / /mnt rw"), None);
        assert_eq!(unescaped(br"a\\b\1"), br"a\\b\1".to_vec());
    }

    #[test]
    fn what_stands_in_the_way_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let options = MountOptions::default();
        if !Path::new(DEVICE).exists() || !rustix::process::geteuid().is_root() {
            return;
        }
        let said = |place: &Path| check_mountpoint(place, &options).unwrap_err().text;
        assert!(said(&folder.path().join("none")).contains("mkdir -p"));
        assert!(said(&file).contains("is no directory"));
        let (place, note) = check_mountpoint(folder.path(), &options).unwrap();
        assert_eq!(place, folder.path().canonicalize().unwrap());
        assert!(note.unwrap().contains("is not empty"));
        assert!(mounted_at(Path::new("/proc")).unwrap().is_some());
    }
}
