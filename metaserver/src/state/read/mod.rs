//! Answers reads from one view of the state, with the checks of POSIX.

mod directory;
pub mod extents;
mod path;
pub mod usage;
mod xattr;

use super::access::{self, Want, shown};
use super::keys;
use super::records::{DentryRecord, Flags, InodeRecord};
use super::text::quoted;
use super::txn::{attr, load, stale};
use crate::kv::{Family, KvRead};
use quarry_common::ids::{ChunkId, InodeId, PoolId};
use quarry_common::limits::{NAME_LEN_MAX, PAGE_ENTRIES_MAX};
use quarry_common::token::Capability;
use quarry_common::wire::meta::{Attr, Caller, FileKind, Read, ReadReply, View};
use quarry_common::{Code, Error, Result};

/// Answers one read. `capability` makes the right to read a chunk, for extents.
///
/// Errors are those of POSIX, or of the backing of the state.
pub fn read(
    state: &dyn KvRead,
    caller: &Caller,
    read: &Read,
    capability: &dyn Fn(PoolId, ChunkId) -> Capability,
) -> Result<ReadReply> {
    let reader = Reader { state, caller };
    match read {
        Read::Resolve {
            view: View::Live,
            base,
            path,
            follow,
        } => reader
            .resolve(*base, path, *follow)
            .map(ReadReply::Resolved),
        Read::ResolveParent {
            view: View::Live,
            base,
            path,
        } => reader.resolve_parent(*base, path).map(ReadReply::Resolved),
        Read::Lookup {
            view: View::Live,
            parent,
            name,
        } => reader.lookup(*parent, name).map(ReadReply::Attr),
        Read::Stat {
            view: View::Live,
            inodes,
        } => reader.stat(inodes).map(ReadReply::Attrs),
        Read::List {
            view: View::Live,
            dir,
            after,
            limit,
            with_attrs,
        } => reader
            .list(*dir, after.as_deref(), *limit, *with_attrs)
            .map(ReadReply::Page),
        Read::ReadLink {
            view: View::Live,
            inode,
        } => reader.read_link(*inode).map(ReadReply::Bytes),
        Read::GetXattr {
            view: View::Live,
            inode,
            name,
        } => reader.get_xattr(*inode, name).map(ReadReply::Bytes),
        Read::ListXattr {
            view: View::Live,
            inode,
        } => reader.list_xattrs(*inode).map(ReadReply::Names),
        Read::Extents {
            view: View::Live,
            inode,
            offset,
            len,
        } => reader
            .extents(*inode, *offset, *len, capability)
            .map(ReadReply::Extents),
        Read::Usage {
            view: View::Live,
            dir,
        } => reader.usage(*dir),
    }
}

/// One caller's look at one view.
struct Reader<'a> {
    state: &'a dyn KvRead,
    caller: &'a Caller,
}

impl Reader<'_> {
    /// An inode. `Stale` if it is gone.
    fn inode(&self, inode: InodeId) -> Result<InodeRecord> {
        let found = load::<InodeRecord>(self.state, Family::Inodes, &inode.0.to_be_bytes())?;
        let found = found.filter(|record| !record.flags.has(Flags::PURGED));
        found.ok_or_else(|| stale(inode))
    }

    /// A directory. `Stale`, `NotDirectory`.
    fn directory(&self, inode: InodeId) -> Result<InodeRecord> {
        let record = self.inode(inode)?;
        if !record.is_directory() {
            let text = format!("{} ({inode}) is not a directory", shown(&record));
            return Err(Error::new(Code::NotDirectory, text));
        }
        Ok(record)
    }

    fn attr(&self, inode: InodeId, record: &InodeRecord) -> Result<Attr> {
        attr(self.state, inode, record)
    }

    /// What a name leads to in a directory that the caller may search.
    fn dentry(
        &self,
        parent: InodeId,
        record: &InodeRecord,
        name: &[u8],
    ) -> Result<Option<DentryRecord>> {
        access::check(self.caller, record, Want::SEARCH)?;
        if name.len() > NAME_LEN_MAX {
            let text = format!(
                "a name of {} bytes is too long, {NAME_LEN_MAX} are the most",
                name.len()
            );
            return Err(Error::new(Code::NameTooLong, text));
        }
        load(self.state, Family::Dentries, &keys::dentry(parent, name))
    }

    fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Attr> {
        let record = self.directory(parent)?;
        let dentry = self.dentry(parent, &record, name)?;
        let not_found = || {
            let text = format!(
                "there is no '{}' in directory {}",
                quoted(name),
                shown(&record)
            );
            Error::new(Code::NotFound, text)
        };
        let inode = dentry.ok_or_else(not_found)?.inode;
        self.attr(inode, &self.inode(inode)?)
    }

    fn stat(&self, inodes: &[InodeId]) -> Result<Vec<Result<Attr>>> {
        if inodes.len() > PAGE_ENTRIES_MAX {
            let text = format!(
                "{} inodes are too many for one stat, {PAGE_ENTRIES_MAX} are the most",
                inodes.len()
            );
            return Err(Error::new(Code::TooBig, text));
        }
        let mut attrs = Vec::with_capacity(inodes.len());
        for inode in inodes {
            attrs.push(match self.inode(*inode) {
                Ok(record) => Ok(self.attr(*inode, &record)?),
                Err(error) if error.code == Code::Stale => Err(error),
                Err(error) => return Err(error),
            });
        }
        Ok(attrs)
    }

    fn read_link(&self, inode: InodeId) -> Result<Vec<u8>> {
        let record = self.inode(inode)?;
        if record.kind != FileKind::Symlink {
            let text = format!("{} ({inode}) is not a symbolic link", shown(&record));
            return Err(Error::new(Code::Invalid, text));
        }
        Ok(record.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{World, refusal, root, user};

    #[test]
    fn a_stat_answers_for_each_inode_by_itself() {
        let mut world = World::in_memory();
        let file = world.create(&root(), InodeId::ROOT, "a", 0o644).unwrap();
        let stat = |inodes: Vec<InodeId>| {
            world.read(
                &user(5, &[]),
                Read::Stat {
                    view: View::Live,
                    inodes,
                },
            )
        };
        let ReadReply::Attrs(attrs) = stat(vec![InodeId(999), file.inode]).unwrap() else {
            panic!("no attributes")
        };
        assert_eq!(attrs[0].as_ref().unwrap_err().code, Code::Stale);
        assert_eq!(attrs[1].as_ref().unwrap(), &file);
        assert_eq!(refusal(stat(vec![file.inode; 4097])), Code::TooBig);
    }

    #[test]
    fn a_lookup_needs_a_directory_that_may_be_searched() {
        let mut world = World::in_memory();
        let dir = world
            .mkdir(&root(), InodeId::ROOT, "d", 0o700)
            .unwrap()
            .inode;
        let file = world.create(&root(), dir, "a", 0o644).unwrap();
        let lookup = |caller: &Caller, parent, name: &[u8]| {
            world.read(
                caller,
                Read::Lookup {
                    view: View::Live,
                    parent,
                    name: name.to_vec(),
                },
            )
        };
        assert_eq!(
            lookup(&root(), dir, b"a").unwrap(),
            ReadReply::Attr(file.clone())
        );
        assert_eq!(refusal(lookup(&root(), dir, b"b")), Code::NotFound);
        assert_eq!(
            refusal(lookup(&user(5, &[]), dir, b"a")),
            Code::AccessDenied
        );
        assert_eq!(
            refusal(lookup(&root(), file.inode, b"a")),
            Code::NotDirectory
        );
        assert_eq!(
            refusal(lookup(&root(), dir, &[b'x'; 256])),
            Code::NameTooLong
        );
    }
}
