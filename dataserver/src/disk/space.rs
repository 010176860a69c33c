//! How much room a disk has.

use super::health::io_error;
use quarry_common::{Code, Error, Result};
use std::path::Path;

/// Repair goes on until less than this many per mille are free.
pub const REPAIR_FREE_PERMILLE: u16 = 20;

/// Compaction goes on until less than this many per mille are free. Deleting needs no room.
pub const COLLECT_FREE_PERMILLE: u16 = 5;

/// The room of a disk in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Of its file system.
    pub total: u64,
    /// Free for the dataserver's user; trash counts as free.
    pub free: u64,
}

impl Space {
    /// That of the file system of `path`, without trash.
    pub fn of(path: &Path) -> Result<Space> {
        let found = rustix::fs::statvfs(path)
            .map_err(|error| io_error("find the free space of", path, error.into()))?;
        // Root's reserve is not ours: what it holds back counts as used.
        Ok(Space {
            total: found.f_blocks * found.f_frsize,
            free: found.f_bavail * found.f_frsize,
        })
    }

    /// Bytes that are missing until so many per mille are free after `len` more bytes.
    pub fn lacking(&self, permille: u16, len: u64) -> u64 {
        let reserve = self.reserve(permille);
        reserve.saturating_add(len).saturating_sub(self.free)
    }

    fn reserve(&self, permille: u16) -> u64 {
        self.total / 1000 * u64::from(permille)
    }

    /// `DiskFull` if fewer than so many per mille would be free after `len` more bytes.
    pub fn check(&self, permille: u16, len: u64, path: &Path) -> Result<()> {
        if self.lacking(permille, len) == 0 {
            return Ok(());
        }
        Err(Error::new(
            Code::DiskFull,
            format!(
                "{} is full: {} MiB are free for this and {} MiB are wanted ({} of {} MiB are free, {} % are kept for more urgent work)",
                path.display(),
                self.free.saturating_sub(self.reserve(permille)) >> 20,
                len.div_ceil(1 << 20),
                self.free >> 20,
                self.total >> 20,
                f64::from(permille) / 10.0
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_kept() {
        let space = Space {
            total: 1000,
            free: 60,
        };
        assert!(space.check(50, 10, Path::new("d")).is_ok());
        let error = space.check(50, 11, Path::new("/d")).unwrap_err();
        assert!(
            error.code == Code::DiskFull && error.text.contains("/d is full"),
            "{error}"
        );
        assert!(error.text.contains("5 % are kept"), "{error}");
        assert_eq!((space.lacking(50, 10), space.lacking(50, 17)), (0, 7));
        assert!(
            space
                .check(COLLECT_FREE_PERMILLE, 55, Path::new("d"))
                .is_ok()
        );
        assert!(
            space
                .check(COLLECT_FREE_PERMILLE, 56, Path::new("d"))
                .is_err()
        );
        let space = Space {
            total: 400 << 20,
            free: 50 << 20,
        };
        let error = space.check(50, 64 << 20, Path::new("/d")).unwrap_err();
        assert_eq!(
            error.text,
            "/d is full: 30 MiB are free for this and 64 MiB are wanted (50 of 400 MiB are free, 5 % are kept for more urgent work)"
        );
    }
}
