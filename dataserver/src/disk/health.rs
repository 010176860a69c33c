//! Whether a disk still works, and what an IO error means for it.
//!
//! A failed write or sync is final: after a failed fdatasync the next one may succeed while the old
//! bytes are on the disk, so nothing that follows can be believed. The disk then refuses writes and
//! reports itself; reads go on, since every byte of them is checked.

use quarry_common::{Code, Error, Result};
use std::io;
use std::path::Path;
use std::sync::OnceLock;

/// Whether the disk failed, and why.
#[derive(Default)]
pub struct Health {
    failure: OnceLock<String>,
    /// Tests make every sync fail with this.
    #[cfg(test)]
    pub syncs_fail: std::sync::atomic::AtomicBool,
}

impl Health {
    /// `DiskFailed`, with the first failure, once there was one.
    pub fn check(&self) -> Result<()> {
        match self.failure.get() {
            None => Ok(()),
            Some(why) => Err(Error::new(
                Code::DiskFailed,
                format!(
                    "the disk was taken out of service: {why}; replace it, or check it and restart the dataserver"
                ),
            )),
        }
    }

    /// The first failure.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Takes the disk out of service for writes.
    pub fn fail(&self, why: String) -> Error {
        if self.failure.set(why.clone()).is_ok() {
            tracing::error!("disk failed: {why}");
        }
        Error::new(Code::DiskFailed, why)
    }

    /// What a failed change of `path` means: no space and too many open files pass, all else is final.
    pub fn write_error(&self, doing: &str, path: &Path, error: io::Error) -> Error {
        let text = format!("{doing} {}: {error}", path.display());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::new(Code::DiskFull, text)
            }
            io::ErrorKind::OutOfMemory => Error::new(Code::Overloaded, text),
            _ if is_out_of_files(&error) => Error::new(
                Code::Overloaded,
                format!("{text}; raise the limit of open files (ulimit -n)"),
            ),
            _ => self.fail(text),
        }
    }

    /// What a failed sync means: the disk failed, whatever the errno.
    pub fn sync_error(&self, path: &Path, error: io::Error) -> Error {
        self.fail(format!("sync {}: {error}", path.display()))
    }
}

/// Whether this process or this machine has too many files open.
pub fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Whether a place of the disk can not be read, while others may be.
pub fn is_bad_sector(error: &io::Error) -> bool {
    use rustix::io::Errno;
    // The second is what a disk that knows of its damage says where the page cache is not asked.
    [Errno::IO, Errno::NODATA]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// An IO error outside the data path, where nothing was promised yet.
pub fn io_error(doing: &str, path: &Path, error: io::Error) -> Error {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; give the directory to the user that runs the dataserver (chown), or run it as another"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; the file system is read-only: check it (dmesg) and remount it"
        }
        io::ErrorKind::StorageFull => "; free some space on it",
        _ if is_out_of_files(&error) => "; raise the limit of open files (ulimit -n)",
        _ => "",
    };
    let code = match error.kind() {
        io::ErrorKind::PermissionDenied => Code::AccessDenied,
        io::ErrorKind::ReadOnlyFilesystem => Code::ReadOnly,
        io::ErrorKind::StorageFull => Code::DiskFull,
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::OutOfMemory => Code::Overloaded,
        _ if is_out_of_files(&error) => Code::Overloaded,
        _ => Code::Io,
    };
    Error::new(code, format!("{doing} {}: {error}{remedy}", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_open_files_say_nothing_of_a_disk() {
        use rustix::io::Errno;
        for (errno, code) in [
            (Errno::MFILE, Code::Overloaded),
            (Errno::NFILE, Code::Overloaded),
            (Errno::NOMEM, Code::Overloaded),
            (Errno::IO, Code::Io),
        ] {
            let error = io_error("read", Path::new("x"), errno.into());
            assert_eq!(error.code, code, "{error}");
        }
    }
}
