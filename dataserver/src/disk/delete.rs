//! Deleting a chunk.

use super::data_file::sync_directory;
use super::entry::Entry;
use super::name::ChunkName;
use super::shared::Shared;
use quarry_common::{Code, Error, Result};

/// Deletes a chunk; see [`super::Disk::delete`].
///
/// The file goes first: an entry without a file is asked about after the next start, a file without an entry would be
/// found again. The mark of a bad copy goes last, when the copy is gone durably.
pub fn delete(shared: &Shared, name: ChunkName, allowed: impl FnOnce() -> bool) -> Result<bool> {
    shared.health.check()?;
    let busy = || {
        let text = format!("{name} is being written on disk {}", shared.identity.disk);
        Error::new(Code::Busy, text)
    };
    // Nothing of it counts from here on: nobody can confirm it any more who has not done so before.
    let claim = shared.claims.claim_again(name, || Ok(None))?;
    let claim = claim.ok_or_else(busy)?;
    let entry = shared.index.get(name)?;
    let path = shared.chunk_path(name);
    let is_bad = shared.aside.reason(name).is_some();
    // A bad copy may have a file and no entry.
    let has_file = matches!(entry, Some(Entry::File { .. })) || (is_bad && path.exists());
    if (entry.is_none() && !is_bad) || !allowed() {
        return Ok(false);
    }
    if has_file && path.exists() {
        shared.trash.put(&path)?;
    }
    shared
        .index
        .remove(name)
        .map_err(|error| shared.index_failed(&error))?;
    shared.missing.forget(name);
    if is_bad {
        sync_directory(&shared.rooms.folder(name.folder()), &shared.health)?;
        let flushed = shared.index.flush();
        flushed.map_err(|error| shared.index_failed(&error))?;
        shared.aside.remove(name, &shared.health)?;
    }
    drop(claim);
    Ok(true)
}
