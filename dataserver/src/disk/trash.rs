//! Files that are nobody's: deleted chunks, chunk files that were never flushed, compacted segments, a damaged index.
//!
//! They are kept for a day, for a person who wants one back (DESIGN §5.4), and go sooner only when room is short,
//! the oldest first; so they count as free space. A file's time of modification is when it came here.

use super::health::io_error;
use quarry_common::Result;
use quarry_common::ids::OpenNumber;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// How long the trash keeps what is in it while there is room.
pub const TRASH_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The trash of a disk.
pub struct Trash {
    folder: PathBuf,
    open_number: OpenNumber,
    state: Mutex<Contents>,
}

#[derive(Default)]
struct Contents {
    /// Oldest first.
    items: VecDeque<Item>,
    /// Bytes on the disk of all of them.
    len: u64,
    /// How many this start has put here. One that was not registered may have begun under its number.
    count: u64,
}

struct Item {
    since: SystemTime,
    path: PathBuf,
    /// Bytes that it takes on the disk.
    len: u64,
}

impl Trash {
    /// That in `folder`; names of this start are made with `open_number`.
    pub fn open(folder: &Path, open_number: OpenNumber) -> Result<Trash> {
        let mut items = Vec::new();
        let mut count = 0;
        for item in fs::read_dir(folder).map_err(|error| io_error("list", folder, error))? {
            let path = item
                .map_err(|error| io_error("list", folder, error))?
                .path();
            let since = fs::symlink_metadata(&path)
                .and_then(|metadata| metadata.modified())
                .map_err(|error| io_error("stat", &path, error))?;
            let len = disk_len(&path)?;
            count = count.max(count_of(&path, open_number).unwrap_or(0));
            items.push(Item { since, path, len });
        }
        items.sort_by(|a, b| (a.since, &a.path).cmp(&(b.since, &b.path)));
        let contents = Contents {
            len: items.iter().map(|item| item.len).sum(),
            items: items.into(),
            count,
        };
        Ok(Trash {
            folder: folder.to_path_buf(),
            open_number,
            state: Mutex::new(contents),
        })
    }

    fn state(&self) -> MutexGuard<'_, Contents> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a file or directory of the same file system here. The move need not be durable: after a
    /// crash the next start finds the file at its old place and moves it again.
    pub fn put(&self, path: &Path) -> Result<()> {
        self.put_at(path, SystemTime::now())
    }

    fn put_at(&self, path: &Path, since: SystemTime) -> Result<()> {
        // Before the move: a crash between the two leaves a file with a wrong time where times mean nothing.
        File::open(path)
            .and_then(|file| file.set_modified(since))
            .map_err(|error| io_error("set the time of", path, error))?;
        let mut state = self.state();
        state.count += 1;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let suffix = suffix(self.open_number);
        let to = self.folder.join(format!("{name}{suffix}{}", state.count));
        fs::rename(path, &to).map_err(|error| io_error("move to the trash", path, error))?;
        let len = disk_len(&to)?;
        state.len += len;
        state.items.push_back(Item {
            since,
            path: to,
            len,
        });
        Ok(())
    }

    /// Bytes on the disk that emptying would free.
    pub fn len(&self) -> u64 {
        self.state().len
    }

    /// Removes what came here before `time`.
    pub fn remove_older(&self, time: SystemTime) -> Result<()> {
        while let Some(item) = self.take_if(|item| item.since < time) {
            remove(&item.path)?;
        }
        Ok(())
    }

    /// Removes the oldest until so many bytes are freed, or nothing is left.
    pub fn free(&self, len: u64) -> Result<()> {
        let mut freed = 0;
        while freed < len
            && let Some(item) = self.take_if(|_| true)
        {
            freed += item.len;
            remove(&item.path)?;
        }
        Ok(())
    }

    /// Takes the oldest out of the list, if it is so; its file is the caller's, without a lock held.
    fn take_if(&self, wanted: impl FnOnce(&Item) -> bool) -> Option<Item> {
        let mut state = self.state();
        let is_wanted = state.items.front().is_some_and(wanted);
        let item = is_wanted.then(|| state.items.pop_front()).flatten()?;
        state.len -= item.len;
        Some(item)
    }
}

/// What stands between the name of a file and its number in a start.
fn suffix(open_number: OpenNumber) -> String {
    format!(".{:016x}.", open_number.0)
}

/// The number that a start of that number gave to what is at `path`.
fn count_of(path: &Path, open_number: OpenNumber) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let (_, count) = name.rsplit_once(&suffix(open_number))?;
    count.parse().ok()
}

fn disk_len(path: &Path) -> Result<u64> {
    let metadata = fs::symlink_metadata(path).map_err(|error| io_error("stat", path, error))?;
    let mut len = metadata.blocks() * 512;
    if metadata.is_dir() {
        for item in fs::read_dir(path).map_err(|error| io_error("list", path, error))? {
            len += disk_len(&item.map_err(|error| io_error("list", path, error))?.path())?;
        }
    }
    Ok(len)
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        // A person emptied it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|error| io_error("remove", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1 << 20;

    /// A trash with three files, which came an hour apart.
    fn filled() -> (tempfile::TempDir, Trash, SystemTime) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("trash");
        fs::create_dir(&folder).unwrap();
        let trash = Trash::open(&folder, OpenNumber(1)).unwrap();
        let began = SystemTime::now() - TRASH_AGE_MAX;
        // Later ones come first in a listing by name.
        for (hour, name) in [(0, "c"), (1, "b"), (2, "a")] {
            let file = dir.path().join(name);
            fs::write(&file, vec![1; LEN as usize]).unwrap();
            File::open(&file).unwrap().sync_all().unwrap();
            let since = began + Duration::from_secs(3600) * hour;
            trash.put_at(&file, since).unwrap();
        }
        (dir, trash, began)
    }

    fn left(trash: &Trash) -> String {
        let names = fs::read_dir(&trash.folder).unwrap();
        let mut names: Vec<String> = names
            .map(|item| item.unwrap().file_name().to_string_lossy()[..1].to_owned())
            .collect();
        names.sort();
        names.concat()
    }

    #[test]
    fn what_is_old_goes_also_after_a_restart() {
        let (_dir, trash, began) = filled();
        assert!(trash.len() >= 3 * LEN);
        trash.remove_older(began).unwrap();
        assert_eq!(left(&trash), "abc");
        let trash = Trash::open(&trash.folder, OpenNumber(2)).unwrap();
        assert!(trash.len() >= 3 * LEN);
        trash
            .remove_older(began + Duration::from_secs(3601))
            .unwrap();
        assert_eq!(left(&trash), "a");
        trash.remove_older(SystemTime::now()).unwrap();
        assert_eq!((left(&trash).as_str(), trash.len()), ("", 0));
    }

    #[test]
    fn the_oldest_goes_first_when_room_is_short_and_no_more_than_needed() {
        let (_dir, trash, _) = filled();
        trash.free(0).unwrap();
        assert_eq!(left(&trash), "abc");
        trash.free(LEN / 2).unwrap();
        assert_eq!(left(&trash), "ab");
        fs::remove_file(trash.folder.join("b.0000000000000001.2")).unwrap();
        trash.free(u64::MAX).unwrap();
        assert_eq!((left(&trash).as_str(), trash.len()), ("", 0));
    }

    #[test]
    fn a_start_under_the_same_number_takes_no_name_that_is_there() {
        let (dir, trash, _) = filled();
        let put = |trash: &Trash| {
            let path = dir.path().join("index");
            fs::create_dir(&path).unwrap();
            fs::write(path.join("f"), "x").unwrap();
            trash.put(&path).unwrap();
        };
        put(&trash);
        for _ in 0..3 {
            let again = Trash::open(&trash.folder, OpenNumber(1)).unwrap();
            put(&again);
        }
        assert_eq!(left(&trash), "abciiii");
    }

    #[test]
    fn a_directory_counts_and_goes_with_all_that_is_in_it() {
        let (dir, trash, _) = filled();
        trash.free(u64::MAX).unwrap();
        fs::create_dir_all(dir.path().join("index/a")).unwrap();
        fs::write(dir.path().join("index/a/b"), vec![1; LEN as usize]).unwrap();
        File::open(dir.path().join("index/a/b"))
            .unwrap()
            .sync_all()
            .unwrap();
        trash.put(&dir.path().join("index")).unwrap();
        assert!(trash.len() >= LEN);
        trash
            .remove_older(SystemTime::now() + TRASH_AGE_MAX)
            .unwrap();
        assert_eq!(left(&trash), "");
    }
}
