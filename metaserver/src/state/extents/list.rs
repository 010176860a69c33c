//! What readers see of a file's extents.

use super::span::{Span, window_start};
use super::{is_dead, span_of};
use crate::kv::{Family, KvRead, after_prefix};
use crate::state::keys;
use crate::state::records::{ExtentRecord, InodeRecord, Record};
use quarry_common::ids::{FileOffset, InodeId, Version};
use quarry_common::{Code, Error, Result};
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

/// Stored extents that may be looked at, also those that readers do not see: what takes long is to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looks(usize);

impl Looks {
    /// For a command: so many that applying it takes some tens of milliseconds at most.
    pub const OF_A_COMMAND: Looks = Looks(65_536);

    /// For a reader, who holds up nobody.
    pub const ANY: Looks = Looks(usize::MAX);

    /// One more; false if there is none left.
    fn look(&mut self) -> bool {
        let left = self.0.checked_sub(1);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

/// What there was to be found took more looks than were left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl From<TooMany> for Error {
    fn from(_: TooMany) -> Error {
        let text = format!(
            "this looks at more than {} small ranges of files at once: ask for less, or try again when what was cut off the \
             files has been removed",
            Looks::OF_A_COMMAND.0
        );
        Error::new(Code::TooBig, text)
    }
}

/// Extents with their offsets, and whether there are more.
pub type Found = (Vec<(u64, ExtentRecord)>, bool);

/// At most `limit` extents that readers see of `span`, whole, in ascending order, and whether there
/// are more.
pub fn visible(
    state: &dyn KvRead,
    inode: InodeId,
    file: &InodeRecord,
    span: Span,
    limit: usize,
    looks: &mut Looks,
) -> Result<Result<Found, TooMany>> {
    let mut found = Vec::new();
    let mut more = false;
    let Some(span) = span.common(Span {
        start: 0,
        end: file.size,
    }) else {
        return Ok(Ok((found, more)));
    };
    let mut enough = true;
    stored(state, inode, span, |offset, extent| {
        enough = looks.look();
        if !enough {
            return ControlFlow::Break(());
        }
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
    Ok(enough.then_some((found, more)).ok_or(TooMany))
}

/// Whether what readers see of `span` is certainly what it was at `version`: no extent is newer, and
/// nothing in the file has become a hole since.
pub fn unchanged_since(
    state: &dyn KvRead,
    inode: InodeId,
    file: &InodeRecord,
    span: Span,
    version: Version,
    looks: &mut Looks,
) -> Result<Result<bool, TooMany>> {
    let mut unchanged = file.holes_at <= version;
    let mut enough = true;
    if unchanged {
        stored(state, inode, span, |_, extent| {
            enough = looks.look();
            unchanged = extent.modified_at <= version;
            if enough && unchanged {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
    }
    Ok(enough.then_some(unchanged).ok_or(TooMany))
}
