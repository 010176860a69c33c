//! The disk under a metaserver's directory: how much room it has, and what its errors say.

use quarry_common::{Code, Error};
use std::fmt;
use std::io;
use std::path::Path;

/// Less than this is little on any disk: the Raft log has up to half of it before it is purged.
const LITTLE: u64 = 1 << 30;

/// More than this is never little: the metadata of ten million files.
const ENOUGH: u64 = 10 << 30;

/// The room of a file system in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    total: u64,
    pub free: u64,
}

impl Room {
    /// That of the file system of `path`.
    pub fn of(path: &Path) -> io::Result<Room> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Room {
            total: found.f_blocks.saturating_mul(found.f_frsize),
            free: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }

    /// Whether people must be told: less than a twentieth is free.
    fn is_little(&self) -> bool {
        self.free < (self.total / 20).clamp(LITTLE, ENOUGH)
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [free, total] = [self.free, self.total].map(|len| len >> 20);
        write!(f, "{free} of {total} MiB are free")
    }
}

/// What to say of a directory whose disk is nearly full. One that can not be asked says so elsewhere.
pub(crate) fn warning(dir: &Path) -> Option<String> {
    let room = Room::of(dir).ok().filter(Room::is_little)?;
    Some(format!(
        "the disk of the metaserver's directory '{}' is nearly full, {room}: make room on it; without any this metaserver ends",
        dir.display()
    ))
}

/// An error of a file or directory, with what went wrong.
pub(crate) fn io_error(path: &Path, what: &str, error: io::Error) -> Error {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull => full(format_args!("{path} {what}")),
        _ => {
            let remedy = remedy(&error.to_string());
            Error::new(Code::Io, format!("{path} {what}{remedy}")).with_source(error)
        }
    }
}

/// What to do about an error of the system, which RocksDB passes on as text only.
fn remedy(error: &str) -> &'static str {
    let remedies = [
        (
            "Permission denied",
            "; give the directory to the user that runs the metaserver (chown), or run it as another",
        ),
        (
            "Read-only file system",
            "; the file system is read-only: check it (dmesg) and remount it",
        ),
        (
            "Too many open files",
            "; raise the limit of open files (ulimit -n)",
        ),
    ];
    let found = remedies.iter().find(|(what, _)| error.contains(what));
    found.map_or("", |(_, remedy)| remedy)
}

/// An error of RocksDB, with the thing and what was done: damage and a full disk have codes of their own.
pub(crate) fn rocks_error(name: &str, doing: &str, error: rocksdb::Error) -> Error {
    let text = format!("{name} {doing}: {error}");
    match error.kind() {
        rocksdb::ErrorKind::Corruption => Error::new(Code::ChecksumMismatch, text),
        // It has no kind for that.
        _ if text.contains("No space left on device") => full(format_args!("{name} {doing}")),
        _ => {
            let remedy = remedy(&text);
            Error::new(Code::Io, format!("{text}{remedy}"))
        }
    }
}

fn full(what: fmt::Arguments<'_>) -> Error {
    let text = format!("{what}: its disk is full; make room on it");
    Error::new(Code::DiskFull, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_a_twentieth_and_at_least_a_gibibyte() {
        let is_little = |total: u64, free: u64| {
            let [total, free] = [total, free].map(|len| len << 30);
            Room { total, free }.is_little()
        };
        assert!(is_little(4, 0) && !is_little(4, 1));
        assert!(is_little(100, 4) && !is_little(100, 5));
        assert!(is_little(1000, 9) && !is_little(1000, 10));
    }

    #[test]
    fn a_full_disk_is_named_once_with_what_to_do() {
        let error = io::Error::from(io::ErrorKind::StorageFull);
        let error = io_error(Path::new("/d"), "can not be written", error);
        assert_eq!(error.code, Code::DiskFull);
        let text = error.clone().text;
        assert_eq!(
            text,
            "/d can not be written: its disk is full; make room on it"
        );
    }
}
