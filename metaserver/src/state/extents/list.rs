//! What readers see of a file's extents.

use super::span::{Span, window_start};
use super::{is_dead, span_of};
use crate::kv::{Family, KvRead, after_prefix};
use crate::state::keys;
use crate::state::records::{ExtentRecord, InodeRecord, Record};
use quarry_common::Result;
use quarry_common::ids::{FileOffset, InodeId, Version};
use std::ops::{Bound, ControlFlow};

/// Visits the stored extents of an inode that touch `span`, in ascending order, also those that
/// wait to be removed.
pub(super) fn stored(
    state: &dyn KvRead,
    inode: InodeId,
    span: Span,
    mut visit: impl FnMut(u64, ExtentRecord) -> ControlFlow<()>,
) -> Result<()> {
    if span.is_empty() {
        return Ok(());
    }
    let low = keys::extent(inode, FileOffset(window_start(span.start)));
    let high = keys::extent(inode, FileOffset(span.start));
    let mut from = high.clone();
    if let Some((key, _)) = state.last_before(Family::Extents, &low, Bound::Included(&high))? {
        from = key.to_vec();
    }
    let end = match span.end {
        u64::MAX => after_prefix(&keys::inode(inode)),
        end => Some(keys::extent(inode, FileOffset(end))),
    };
    let mut failed = None;
    state.scan(Family::Extents, &from, end.as_deref(), &mut |key, value| {
        let read = keys::parse_extent(key)
            .and_then(|(_, offset)| Ok((offset, ExtentRecord::from_bytes(value)?)));
        match read {
            // The first one may end before the span.
            Ok((offset, extent)) if span_of(offset.0, &extent).end <= span.start => {
                ControlFlow::Continue(())
            }
            Ok((offset, extent)) => visit(offset.0, extent),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// At most `limit` extents that readers see of `span`, whole, in ascending order, and whether there
/// are more.
pub fn visible(
    state: &dyn KvRead,
    inode: InodeId,
    file: &InodeRecord,
    span: Span,
    limit: usize,
) -> Result<(Vec<(u64, ExtentRecord)>, bool)> {
    let mut found = Vec::new();
    let mut more = false;
    let Some(span) = span.common(Span {
        start: 0,
        end: file.size,
    }) else {
        return Ok((found, more));
    };
    stored(state, inode, span, |offset, extent| {
        if is_dead(&file.trims, offset, extent.modified_at) {
            return ControlFlow::Continue(());
        }
        if found.len() == limit {
            more = true;
            return ControlFlow::Break(());
        }
        found.push((offset, extent));
        ControlFlow::Continue(())
    })?;
    Ok((found, more))
}

/// Whether what readers see of `span` is certainly what it was at `version`: no extent is newer, and
/// nothing in the file has become a hole since.
pub fn unchanged_since(
    state: &dyn KvRead,
    inode: InodeId,
    file: &InodeRecord,
    span: Span,
    version: Version,
) -> Result<bool> {
    let mut unchanged = file.holes_at <= version;
    if unchanged {
        stored(state, inode, span, |_, extent| {
            unchanged = extent.modified_at <= version;
            if unchanged {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
    }
    Ok(unchanged)
}
