//! Files that are nobody's: chunk files that were never flushed or were deleted, a damaged index.
//!
//! They are kept for a person to look at while there is room, the newest [`TRASH_LEN_MAX`] bytes, and
//! count as free space.

use super::health::io_error;
use quarry_common::Result;
use quarry_common::ids::OpenNumber;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// The trash keeps at most this much; the oldest goes first.
pub const TRASH_LEN_MAX: u64 = 256 << 20;

/// The trash of a disk.
pub struct Trash {
    folder: PathBuf,
    open_number: OpenNumber,
    state: Mutex<Contents>,
}

#[derive(Default)]
struct Contents {
    /// Oldest first, with the bytes that each takes on the disk.
    items: Vec<(PathBuf, u64)>,
    count: u64,
}

impl Contents {
    fn len(&self) -> u64 {
        self.items.iter().map(|(_, len)| len).sum()
    }

    fn keep_at_most(&mut self, len_max: u64) -> Result<()> {
        while self.len() > len_max {
            let (path, _) = self.items.remove(0);
            remove(&path)?;
        }
        Ok(())
    }
}

impl Trash {
    /// That in `folder`; names of this start are made with `open_number`.
    pub fn open(folder: &Path, open_number: OpenNumber) -> Result<Trash> {
        let mut found: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
        for item in fs::read_dir(folder).map_err(|error| io_error("list", folder, error))? {
            let path = item
                .map_err(|error| io_error("list", folder, error))?
                .path();
            let changed = fs::metadata(&path)
                .and_then(|metadata| metadata.modified())
                .map_err(|error| io_error("stat", &path, error))?;
            found.push((changed, path.clone(), disk_len(&path)?));
        }
        found.sort();
        let items = found
            .into_iter()
            .map(|(_, path, len)| (path, len))
            .collect();
        Ok(Trash {
            folder: folder.to_path_buf(),
            open_number,
            state: Mutex::new(Contents { items, count: 0 }),
        })
    }

    /// Moves a file or directory of the same file system here. The move need not be durable: after a
    /// crash the next start finds the file at its old place and moves it again.
    pub fn put(&self, path: &Path) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += 1;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let to = self.folder.join(format!(
            "{name}.{:016x}.{}",
            self.open_number.0, state.count
        ));
        fs::rename(path, &to).map_err(|error| io_error("move to the trash", path, error))?;
        let len = disk_len(&to)?;
        state.items.push((to, len));
        state.keep_at_most(TRASH_LEN_MAX)
    }

    /// Bytes on the disk that emptying would free.
    pub fn len(&self) -> u64 {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Removes everything.
    pub fn empty(&self) -> Result<()> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keep_at_most(0)
    }
}

fn disk_len(path: &Path) -> Result<u64> {
    let metadata = fs::symlink_metadata(path).map_err(|error| io_error("stat", path, error))?;
    let mut len = metadata.blocks() * 512;
    if metadata.is_dir() {
        for item in fs::read_dir(path).map_err(|error| io_error("list", path, error))? {
            len += disk_len(&item.map_err(|error| io_error("list", path, error))?.path())?;
        }
    }
    // Even an empty file counts, so that many of them are removed one day.
    Ok(len.max(4096))
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(|error| io_error("remove", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_when_there_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("trash");
        fs::create_dir(&folder).unwrap();
        let trash = Trash::open(&folder, OpenNumber(1)).unwrap();
        for i in 0..3 {
            let file = dir.path().join(format!("f{i}"));
            let data = fs::File::create(&file).unwrap();
            rustix::fs::fallocate(
                &data,
                rustix::fs::FallocateFlags::empty(),
                0,
                TRASH_LEN_MAX / 2 - 8192,
            )
            .unwrap();
            trash.put(&file).unwrap();
        }
        let names: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|item| item.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(
            names.len() == 2 && !names.iter().any(|name| name.starts_with("f0")),
            "{names:?}"
        );
        assert_eq!(
            Trash::open(&folder, OpenNumber(2)).unwrap().len(),
            trash.len()
        );
        trash.empty().unwrap();
        assert_eq!(
            (fs::read_dir(&folder).unwrap().count(), trash.len()),
            (0, 0)
        );
    }
}
