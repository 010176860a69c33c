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
        let mut page = Page {
            entries: Vec::new(),
            more: false,
        };
        let mut failed = None;
        let to = after_prefix(&keys::inode(dir));
        self.state
            .scan(Family::Dentries, &from, to.as_deref(), &mut |key, value| {
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
    Ok(DirEntry {
        name: name.to_vec(),
        inode: dentry.inode,
        kind: dentry.kind,
        attr: None,
    })
}

#[cfg(test)]
mod tests {
    use crate::state::testing::{World, on_both, refusal, root, user};
    use quarry_common::Code;
    use quarry_common::ids::InodeId;
    use quarry_common::wire::meta::{Caller, Page, Read, ReadReply, View};

    fn list(
        world: &World,
        caller: &Caller,
        dir: InodeId,
        after: Option<&[u8]>,
        limit: u32,
    ) -> quarry_common::Result<Page> {
        let after = after.map(<[u8]>::to_vec);
        match world.read(
            caller,
            Read::List {
                view: View::Live,
                dir,
                after,
                limit,
                with_attrs: true,
            },
        )? {
            ReadReply::Page(page) => Ok(page),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pages_follow_each_other_without_gaps_or_repeats() {
        on_both(|world| {
            let dir = world
                .mkdir(&root(), InodeId::ROOT, "d", 0o755)
                .unwrap()
                .inode;
            for name in 0..25 {
                world
                    .create(&root(), dir, &name.to_string(), 0o644)
                    .unwrap();
            }
            let mut found = Vec::new();
            let mut after: Option<Vec<u8>> = None;
            loop {
                let page = list(world, &root(), dir, after.as_deref(), 7).unwrap();
                assert!(page.entries.len() <= 7);
                for entry in &page.entries {
                    assert_eq!(entry.attr.as_ref().unwrap().inode, entry.inode);
                }
                found.extend(page.entries.iter().map(|entry| entry.name.clone()));
                if !page.more {
                    break;
                }
                after = found.last().cloned();
            }
            let mut expected: Vec<Vec<u8>> = (0..25)
                .map(|name: u32| name.to_string().into_bytes())
                .collect();
            expected.sort();
            assert_eq!(found, expected);
            assert!(!list(world, &root(), dir, None, 25).unwrap().more);
        });
    }

    #[test]
    fn a_directory_is_listed_by_who_may_read_it() {
        on_both(|world| {
            let ann = user(1000, &[1000]);
            let dir = world
                .mkdir(&root(), InodeId::ROOT, "d", 0o754)
                .unwrap()
                .inode;
            let file = world.create(&root(), dir, "a", 0o644).unwrap().inode;
            // Readable but not searchable: names without attributes.
            let page = list(world, &ann, dir, None, 10).unwrap();
            assert_eq!((page.entries.len(), &page.entries[0].attr), (1, &None));
            assert_eq!(
                refusal(list(world, &ann, file, None, 10)),
                Code::NotDirectory
            );
            let closed = world
                .mkdir(&root(), InodeId::ROOT, "closed", 0o711)
                .unwrap()
                .inode;
            assert_eq!(
                refusal(list(world, &ann, closed, None, 10)),
                Code::AccessDenied
            );
        });
    }
}
