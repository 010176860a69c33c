//! Chunks that were set aside: bad copies, kept for a person to look at, never served again.
//!
//! A mark is a file in `aside/` named after the chunk, with the reason as text. The bytes of the chunk stay
//! where they are until a good copy takes their place or the chunk is deleted. Marks are few: each is a damage
//! that was found and is repaired from another holder.

use super::data_file::sync_directory;
use super::health::{Health, io_error};
use super::name::ChunkName;
use quarry_common::Result;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The marks of a disk.
pub struct Aside {
    folder: PathBuf,
    /// Held for a moment only: every read asks here.
    marks: Mutex<BTreeMap<ChunkName, String>>,
    /// Held by whoever changes marks, over syncs.
    changing: Mutex<()>,
}

impl Aside {
    /// Reads the marks in `folder`.
    pub fn open(folder: &Path) -> Result<Aside> {
        let mut marks = BTreeMap::new();
        for item in fs::read_dir(folder).map_err(|error| io_error("list", folder, error))? {
            let path = item
                .map_err(|error| io_error("list", folder, error))?
                .path();
            let Some(name) = path
                .file_name()
                .and_then(|name| ChunkName::parse(name.to_str()?))
            else {
                tracing::warn!("{} is no mark of a chunk and is ignored", path.display());
                continue;
            };
            // The name is what counts: a reason that a crash cut short changes nothing.
            let reason = fs::read(&path).map_err(|error| io_error("read", &path, error))?;
            marks.insert(name, String::from_utf8_lossy(&reason).into_owned());
        }
        Ok(Aside {
            folder: folder.to_path_buf(),
            marks: Mutex::new(marks),
            changing: Mutex::default(),
        })
    }

    /// Sets a chunk aside; durable when it returns.
    pub fn put(&self, name: ChunkName, reason: &str, health: &Health) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.marks().contains_key(&name) {
            return Ok(());
        }
        let path = self.folder.join(name.file_name());
        let mut file =
            File::create(&path).map_err(|error| health.write_error("create", &path, error))?;
        file.write_all(reason.as_bytes())
            .map_err(|error| health.write_error("write", &path, error))?;
        file.sync_all()
            .map_err(|error| health.sync_error(&path, error))?;
        sync_directory(&self.folder, health)?;
        tracing::warn!("{name} was set aside: {reason}");
        self.marks().insert(name, reason.to_owned());
        Ok(())
    }

    /// Forgets the mark of a chunk whose bad copy is gone, durably; durable when it returns. What took its
    /// place is durable before: without the mark, the bad copy would be served again.
    pub fn remove(&self, name: ChunkName, health: &Health) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.marks().contains_key(&name) {
            return Ok(());
        }
        let path = self.folder.join(name.file_name());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(health.write_error("remove", &path, error));
            }
            _ => sync_directory(&self.folder, health)?,
        }
        self.marks().remove(&name);
        Ok(())
    }

    /// Why a chunk was set aside, if it was.
    pub fn reason(&self, name: ChunkName) -> Option<String> {
        self.marks().get(&name).cloned()
    }

    /// Every chunk that was set aside.
    pub fn names(&self) -> Vec<ChunkName> {
        self.marks().keys().copied().collect()
    }

    fn marks(&self) -> MutexGuard<'_, BTreeMap<ChunkName, String>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
