//! Lists directories, a page at a time.

use super::Reader;
use crate::kv::{Family, after_prefix};
use crate::state::access::{self, Want};
use crate::state::keys;
use crate::state::records::{DentryRecord, Record};
use quarry_common::Result;
use quarry_common::ids::InodeId;
use quarry_common::limits::PAGE_ENTRIES_MAX;
use quarry_common::wire::meta::{DirEntry, Page};
use std::ops::ControlFlow;

impl Reader<'_> {
    /// Entries after a name. Who may read a directory but not search it gets no attributes.
    pub(super) fn list(
        &self,
        dir: InodeId,
        after: Option<&[u8]>,
        limit: u32,
        with_attrs: bool,
    ) -> Result<Page> {
        let record = self.directory(dir)?;
        access::check(self.caller, &record, Want::READ)?;
        let with_attrs = with_attrs && access::permits(self.caller, &record, Want::SEARCH);
        let limit = (limit as usize).clamp(1, PAGE_ENTRIES_MAX);
        let mut from = keys::dentry(dir, after.unwrap_or_default());
        if after.is_some() {
            from.push(0);
        }
        let mut page = Page { entries: Vec::new(), more: false };
        let mut failed = None;
        let to = after_prefix(&keys::inode(dir));
        self.state.scan(Family::Dentries, &from, to.as_deref(), &mut |key, value| {
            if page.entries.len() == limit {
                page.more = true;
                return ControlFlow::Break(());
            }
            match entry(key, value) {
                Ok(entry) => page.entries.push(entry),
                Err(error) => failed = Some(error),
            }
            match failed {
                None => ControlFlow::Continue(()),
                Some(_) => ControlFlow::Break(()),
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if with_attrs {
            for entry in &mut page.entries {
                let record = self.inode(entry.inode)?;
                entry.attr = Some(self.attr(entry.inode, &record)?);
            }
        }
        Ok(page)
    }
}

fn entry(key: &[u8], value: &[u8]) -> Result<DirEntry> {
    let (_, name) = keys::parse_dentry(key)?;
    let dentry = DentryRecord::from_bytes(value)?;
    Ok(DirEntry { name: name.to_vec(), inode: dentry.inode, kind: dentry.kind, attr: None })
}
