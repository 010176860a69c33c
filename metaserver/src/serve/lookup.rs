//! What the server itself reads of the state.

use crate::kv::{Family, KvRead, after_prefix};
use crate::state::keys::{self, SystemKey};
use crate::state::records::NumberRecord;
use crate::state::txn::{HIDDEN_DIRECTORY, load};
use quarry_common::Result;
use quarry_common::ids::{InodeId, Version};
use std::ops::ControlFlow;

/// Calls `visit` for each entry from `from` to `to` until it fails or breaks.
fn scan(
    state: &dyn KvRead,
    family: Family,
    from: &[u8],
    to: Option<&[u8]>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut outcome = Ok(());
    state.scan(
        family,
        from,
        to,
        &mut |key, value| match visit(key, value) {
            Ok(flow) => flow,
            Err(error) => {
                outcome = Err(error);
                ControlFlow::Break(())
            }
        },
    )?;
    outcome
}

/// The oldest orphans, with when they lost their last name.
pub fn orphans(state: &dyn KvRead, max: usize) -> Result<Vec<(Version, InodeId)>> {
    let prefix = keys::orphans();
    let mut orphans = Vec::new();
    scan(
        state,
        Family::System,
        &prefix,
        after_prefix(&prefix).as_deref(),
        |key, _| {
            orphans.push(keys::parse_orphan(key)?);
            let full = orphans.len() == max;
            Ok(if full {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        },
    )?;
    Ok(orphans)
}

/// A counter of the state.
pub fn number(state: &dyn KvRead, key: SystemKey) -> Result<u64> {
    let record = load::<NumberRecord>(state, Family::System, &keys::system(key))?;
    Ok(record.map_or(0, |record| record.0))
}

/// Whether removed trees or truncated files wait to be emptied.
pub fn leftovers_wait(state: &dyn KvRead) -> Result<bool> {
    let prefixes = [
        (Family::System, keys::trimmed()),
        (Family::Dentries, keys::inode(HIDDEN_DIRECTORY)),
    ];
    let mut found = false;
    for (family, prefix) in prefixes {
        state.scan(
            family,
            &prefix,
            after_prefix(&prefix).as_deref(),
            &mut |_, _| {
                found = true;
                ControlFlow::Break(())
            },
        )?;
    }
    Ok(found)
}
