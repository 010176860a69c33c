//! Listing directories.

use crate::access::Want;
use crate::attributes::file_type;
use crate::core::Core;
use crate::errno::Answer;
use crate::listing::{Entries, Listing};
use fuser::{Errno, FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{Attr, FileKind};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// The positions of `.` and `..` come before those of entries.
const DOTS: u64 = 2;

/// A reply has so many entries with attributes at most: of each it is looked whether it is open here.
const WITH_ATTRS_MAX: usize = 1_024;

/// An open directory.
pub struct OpenDir {
    dir: Attr,
    parent: InodeId,
    listing: Listing,
}

/// What comes after a position in a directory: more than one reply may have room for.
pub struct Listed {
    open: Arc<OpenDir>,
    position: u64,
    entries: Option<Arc<Entries>>,
    /// Attributes of files that are open here, with what was written.
    written: HashMap<InodeId, Attr>,
}

/// A name in a directory, as the kernel wants to have it.
pub struct Entry<'a> {
    number: INodeNo,
    /// Where to go on after it.
    position: u64,
    kind: FileType,
    name: &'a [u8],
    /// The kernel learns of an inode by this, unless the name is `.` or `..`.
    attr: Option<&'a Attr>,
}

/// A reply that entries are written into until it is full.
pub trait Room {
    /// Whether attributes go along.
    const WITH_ATTRS: bool;

    /// Writes one; true if it did not fit.
    fn add_entry(&mut self, core: &Core, entry: &Entry<'_>) -> bool;

    /// Sends it with these, or an error.
    fn send(self, done: Result<(), Errno>);
}

impl Room for ReplyDirectory {
    const WITH_ATTRS: bool = false;

    fn add_entry(&mut self, _core: &Core, entry: &Entry<'_>) -> bool {
        let name = OsStr::from_bytes(entry.name);
        self.add(entry.number, entry.position, entry.kind, name)
    }

    fn send(self, done: Result<(), Errno>) {
        match done {
            Ok(()) => self.ok(),
            Err(errno) => self.error(errno),
        }
    }
}

impl Room for ReplyDirectoryPlus {
    const WITH_ATTRS: bool = true;

    fn add_entry(&mut self, core: &Core, entry: &Entry<'_>) -> bool {
        let Some(attr) = entry.attr else {
            // It was removed while the page was made.
            return false;
        };
        let (name, shown) = (OsStr::from_bytes(entry.name), core.file_attr(attr));
        // The reply has one time for both.
        let (ttl, unused) = (core.ttl.names, Generation(0));
        let full = self.add(entry.number, entry.position, name, &ttl, &shown, unused);
        if !full && !matches!(entry.name, b"." | b"..") {
            core.inodes.add_lookup(attr);
        }
        full
    }

    fn send(self, done: Result<(), Errno>) {
        match done {
            Ok(()) => self.ok(),
            Err(errno) => self.error(errno),
        }
    }
}

/// Answers with the entries that were read.
pub fn listed<R: Room>(core: &Core, mut reply: R, done: Result<Listed, Errno>) {
    let filled = done.map(|listed| core.fill(&listed, &mut reply));
    reply.send(filled);
}

impl Core {
    pub async fn opendir(&self, number: INodeNo) -> Answer<OpenDir> {
        let inode = self.inodes.inode(number);
        let dir = self.client.stat_inode(inode).await?;
        if dir.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        self.rights.check(&dir, Want::READ)?;
        let parent = match inode == self.inodes.root() {
            true => inode,
            false => dir.parent,
        };
        // Attributes of others than the kernel's own choice need the right to search, which a lister may lack.
        let with_attrs = self.ttl.keeps_names() && self.rights.are_the_kernels();
        Ok(OpenDir {
            dir,
            parent,
            listing: Listing::new(inode, with_attrs),
        })
    }

    pub async fn readdir(
        &self,
        open: Arc<OpenDir>,
        position: u64,
        with_attrs: bool,
    ) -> Answer<Listed> {
        if position == 0 {
            open.listing.rewind().await;
        }
        let number = position.saturating_sub(DOTS);
        let entries = open.listing.entries(&self.client, number).await?;
        let mut written = HashMap::new();
        if let (Some(entries), true) = (&entries, with_attrs) {
            for (_, entry) in entries.from(number).take(WITH_ATTRS_MAX) {
                if let Some(file) = self.client.shared_if_open(entry.inode) {
                    written.insert(entry.inode, file.attr().await?);
                }
            }
        }
        Ok(Listed {
            open,
            position,
            entries,
            written,
        })
    }

    /// Writes what was listed into a reply, as far as there is room.
    fn fill<R: Room>(&self, listed: &Listed, reply: &mut R) {
        let open = &listed.open;
        let dots: [(&[u8], InodeId); 2] = [(b".", open.dir.inode), (b"..", open.parent)];
        for (position, (name, inode)) in (1..).zip(dots) {
            let attr = Attr {
                inode,
                ..open.dir.clone()
            };
            let entry = Entry {
                number: self.inodes.number(inode),
                position,
                kind: FileType::Directory,
                name,
                attr: Some(&attr),
            };
            if position > listed.position && reply.add_entry(self, &entry) {
                return;
            }
        }
        let Some(entries) = &listed.entries else {
            return;
        };
        let most = match R::WITH_ATTRS {
            true => WITH_ATTRS_MAX,
            false => usize::MAX,
        };
        let number = listed.position.saturating_sub(DOTS);
        for (number, found) in entries.from(number).take(most) {
            let written = listed.written.get(&found.inode);
            let entry = Entry {
                number: self.inodes.number(found.inode),
                position: number + DOTS + 1,
                kind: file_type(found.kind),
                name: &found.name,
                attr: written.or(found.attr.as_ref()),
            };
            if reply.add_entry(self, &entry) {
                return;
            }
        }
    }
}
