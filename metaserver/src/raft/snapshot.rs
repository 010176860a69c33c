//! Snapshots of the state for Raft: complete copies in directories, with what they hold.
//!
//! Layout: `<dir>/<next index>-<number>/` with `copy/` (what [`Kv::export`] made) and `meta`
//! (version byte 1, CRC-32 little-endian of the rest, encoded `SnapshotMeta`). Names sort by age. A snapshot is built under a name that begins with
//! `building` and renamed when it is durable; the newest one counts, older ones are removed
//! when nobody reads them any more.

use super::types::{SnapshotMeta, Types};
use crate::kv::{Kv, io_error};
use quarry_common::checksum::Crc;
use quarry_common::durable::sync_directory;
use quarry_common::{Code, Error, Result, codec};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const VERSION: u8 = 1;
const BUILDING: &str = "building";
const RECEIVING: &str = "receiving";
const COPY: &str = "copy";
const META: &str = "meta";

/// A handle to the directory of a copy: read by who sends it, filled by who receives it.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotCopy(Arc<CopyDir>);

#[derive(Debug)]
struct CopyDir {
    path: PathBuf,
    /// Removed when the last handle is dropped.
    unneeded: AtomicBool,
}

impl SnapshotCopy {
    fn new(path: PathBuf, unneeded: bool) -> SnapshotCopy {
        SnapshotCopy(Arc::new(CopyDir {
            path,
            unneeded: AtomicBool::new(unneeded),
        }))
    }

    /// Where the files of the copy are.
    pub(crate) fn copy_dir(&self) -> PathBuf {
        self.0.path.join(COPY)
    }
}

impl Drop for CopyDir {
    fn drop(&mut self) {
        if self.unneeded.load(Ordering::Acquire)
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(%error, "an old snapshot was not removed; the next start tries again");
        }
    }
}

/// The snapshots of one Raft group on this metaserver.
pub(crate) struct Snapshots {
    dir: PathBuf,
    current: Mutex<Option<(SnapshotMeta, SnapshotCopy)>>,
    /// Held while one is built or received, so that they have different names.
    making: Mutex<u64>,
}

impl Snapshots {
    /// Finds the newest snapshot in `dir` and removes what a crash left over.
    pub(crate) fn open(dir: &Path) -> Result<Snapshots> {
        fs::create_dir_all(dir).map_err(|error| io_error(dir, "can not be made", error))?;
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(|error| io_error(dir, "can not be listed", error))? {
            let entry = entry.map_err(|error| io_error(dir, "can not be listed", error))?;
            match entry.file_name().into_string() {
                Ok(name) if name.starts_with(BUILDING) || name.starts_with(RECEIVING) => {
                    remove(&entry.path())?;
                }
                Ok(name) => names.push(name),
                Err(name) => {
                    return Err(Error::new(
                        Code::Configuration,
                        format!(
                            "{} holds '{}', which is no snapshot: move it away",
                            dir.display(),
                            name.display()
                        ),
                    ));
                }
            }
        }
        names.sort();
        let newest = names.pop();
        let current = match &newest {
            Some(name) => {
                let path = dir.join(name);
                let meta = read_meta(&path)?;
                Some((meta, SnapshotCopy::new(path, false)))
            }
            None => None,
        };
        for name in names {
            remove(&dir.join(name))?;
        }
        let number = newest.and_then(|name| name.rsplit('-').next()?.parse().ok());
        Ok(Snapshots {
            dir: dir.to_owned(),
            current: Mutex::new(current),
            making: Mutex::new(number.unwrap_or(0)),
        })
    }

    /// The newest snapshot.
    pub(crate) fn current(&self) -> Option<(SnapshotMeta, SnapshotCopy)> {
        lock(&self.current).clone()
    }

    /// Makes a snapshot and lets it replace the current one. `copy` puts a complete copy into
    /// the directory it is given, which does not exist, and returns what that copy holds; an
    /// empty `snapshot_id` is set here.
    pub(crate) fn make(
        &self,
        copy: impl FnOnce(&Path) -> Result<SnapshotMeta>,
    ) -> Result<(SnapshotMeta, SnapshotCopy)> {
        self.make_next(&mut lock(&self.making), copy)
    }

    fn make_next(
        &self,
        number: &mut u64,
        copy: impl FnOnce(&Path) -> Result<SnapshotMeta>,
    ) -> Result<(SnapshotMeta, SnapshotCopy)> {
        *number += 1;
        let building = self.dir.join(format!("{BUILDING}-{number}"));
        fs::create_dir(&building).map_err(|error| io_error(&building, "can not be made", error))?;
        let unfinished = SnapshotCopy::new(building.clone(), true);

        let mut meta = copy(&unfinished.copy_dir())?;
        let next = meta.last_log_id.map_or(0, |last| last.index + 1);
        let name = format!("{next:020}-{number}");
        if meta.snapshot_id.is_empty() {
            meta.snapshot_id.clone_from(&name);
        }
        write_meta(&building, &meta)?;
        let path = self.dir.join(name);
        fs::rename(&building, &path).map_err(|error| io_error(&path, "can not be made", error))?;
        sync_directory(&self.dir)
            .map_err(|error| io_error(&self.dir, "can not be synced", error))?;
        // The name it had is gone: there is nothing to remove.
        unfinished.0.unneeded.store(false, Ordering::Release);

        let made = (meta, SnapshotCopy::new(path, false));
        let replaced = lock(&self.current).replace(made.clone());
        if let Some((_, replaced)) = replaced {
            replaced.0.unneeded.store(true, Ordering::Release);
        }
        Ok(made)
    }

    /// Takes over a received copy, whose files stay where they are, as the current snapshot, and lets `install` make
    /// it the state before another one is made: that would be of the state before.
    pub(crate) fn adopt(
        &self,
        meta: &SnapshotMeta,
        received: &SnapshotCopy,
        install: impl FnOnce(&SnapshotCopy) -> Result<()>,
    ) -> Result<()> {
        let mut number = lock(&self.making);
        let (_, adopted) = self.make_next(&mut number, |copy| {
            crate::kv::copy_dir(&received.copy_dir(), copy)?;
            Ok(meta.clone())
        })?;
        install(&adopted)
    }

    /// Removes the current snapshot, which turned out to be of no use.
    pub(crate) fn discard_current(&self) {
        if let Some((_, discarded)) = lock(&self.current).take() {
            discarded.0.unneeded.store(true, Ordering::Release);
        }
    }

    /// An empty directory to receive a snapshot in; removed when it is not used any more.
    pub(crate) fn receive(&self) -> Result<SnapshotCopy> {
        let mut number = lock(&self.making);
        *number += 1;
        let path = self.dir.join(format!("{RECEIVING}-{number}"));
        let receiving = SnapshotCopy::new(path.clone(), true);
        fs::create_dir_all(receiving.copy_dir())
            .map_err(|error| io_error(&path, "can not be made", error))?;
        Ok(receiving)
    }
}

/// A snapshot as Raft hands it around.
pub(crate) fn as_raft(found: (SnapshotMeta, SnapshotCopy)) -> openraft::Snapshot<Types> {
    openraft::Snapshot {
        meta: found.0,
        snapshot: Box::new(found.1),
    }
}

/// Copies the state with its flush; returns when both are durable.
pub(crate) fn copy_state(kv: &dyn Kv, to: &Path) -> Result<()> {
    // The snapshot is what lets the log be purged, so the state on disk must hold as much.
    kv.flush()?;
    kv.export(to)
}

fn write_meta(dir: &Path, meta: &SnapshotMeta) -> Result<()> {
    let body = codec::encode(meta);
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&Crc::of(&body).0.to_le_bytes());
    bytes.extend_from_slice(&body);
    let path = dir.join(META);
    quarry_common::durable::replace(&path, &bytes)
        .map_err(|error| io_error(&path, "can not be written", error))
}

fn read_meta(dir: &Path) -> Result<SnapshotMeta> {
    let path = dir.join(META);
    let bytes = fs::read(&path).map_err(|error| io_error(&path, "can not be read", error))?;
    let damaged = || {
        Error::new(
            Code::ChecksumMismatch,
            format!(
                "{} is damaged: remove the snapshot {}",
                path.display(),
                dir.display()
            ),
        )
    };
    let Some((&[version, a, b, c, d], body)) = bytes.split_first_chunk::<5>() else {
        return Err(damaged());
    };
    if version > VERSION {
        return Err(Error::new(
            Code::TooNew,
            format!(
                "{} has format {version}, this program knows {VERSION}: use a newer quarry",
                path.display()
            ),
        ));
    }
    if version != VERSION || Crc(u32::from_le_bytes([a, b, c, d])) != Crc::of(body) {
        return Err(damaged());
    }
    codec::decode(&path.display().to_string(), body)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(io_error(path, "can not be removed", error))
        }
        _ => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
