//! What is below a directory, and in the whole state, from counters.

use super::Reader;
use crate::kv::{Family, KvRead, after_prefix};
use crate::state::access::{self, Want};
use crate::state::keys::{self, SystemKey};
use crate::state::records::{NumberRecord, UsageRecord};
use crate::state::session;
use crate::state::txn::load;
use quarry_common::Result;
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::ReadReply;
use std::ops::ControlFlow;

impl Reader<'_> {
    /// Sums below a directory that the caller may list.
    pub(super) fn usage(&self, dir: InodeId) -> Result<ReadReply> {
        let record = self.directory(dir)?;
        access::check(self.caller, &record, Want::READ)?;
        let UsageRecord {
            bytes,
            files,
            directories,
        } = stored(self.state, dir)?;
        Ok(ReadReply::Usage {
            bytes: shown(bytes),
            files,
            directories,
        })
    }
}

fn stored(state: &dyn KvRead, dir: InodeId) -> Result<UsageRecord> {
    Ok(load(state, Family::Usage, &keys::inode(dir))?.unwrap_or_default())
}

/// Sparse files can sum up to more than a reply can say.
fn shown(bytes: u128) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Counts of the whole state, for the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of all files with a name.
    pub bytes: u64,
    /// Everything with a name but directories.
    pub files: u64,
    /// Directories, `/` included.
    pub directories: u64,
    /// Sessions that are open.
    pub sessions: u64,
    /// Inodes without a name that wait to be emptied.
    pub orphans: u64,
    /// Chunks that lost their last reference and are not doomed yet.
    pub unreferenced_chunks: u64,
}

/// Counts sessions and orphans one by one, everything else stands in the state.
pub fn totals(state: &dyn KvRead) -> Result<Totals> {
    let UsageRecord {
        bytes,
        files,
        directories,
    } = stored(state, InodeId::ROOT)?;
    let chunks: Option<NumberRecord> = load(
        state,
        Family::System,
        &keys::system(SystemKey::UnreferencedChunks),
    )?;
    let prefix = keys::orphans();
    let mut orphans = 0;
    state.scan(
        Family::System,
        &prefix,
        after_prefix(&prefix).as_deref(),
        &mut |_, _| {
            orphans += 1;
            ControlFlow::Continue(())
        },
    )?;
    Ok(Totals {
        bytes: shown(bytes),
        files,
        directories: directories + 1,
        sessions: session::all(state)?.len() as u64,
        orphans,
        unreferenced_chunks: chunks.unwrap_or_default().0,
    })
}
