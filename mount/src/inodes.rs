//! The inodes that the kernel knows, and their numbers there.

use fuser::INodeNo;
use quarry_common::ids::{InodeId, Version};
use quarry_common::wire::meta::Attr;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The inodes that the kernel knows.
///
/// Its number of an inode is ours, which is never used again: generations are not needed. But the root of a mount is 1 for the
/// kernel, whatever directory it is, and what is 1 for us takes its number: it is above what is mounted and never seen.
#[derive(Debug)]
pub struct Inodes {
    root: InodeId,
    known: Mutex<HashMap<InodeId, Known>>,
}

/// What is remembered of an inode while the kernel knows it.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// How often the kernel was told of it, less what it has forgotten.
    lookups: u64,
    /// The permission bits that were told last.
    mode: u16,
    /// When they were.
    noted_at: Instant,
    /// The contents of which the kernel may have pages.
    pages: Option<Contents>,
}

/// Contents that a file had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Their version.
    pub version: Version,
    /// How often this client had lost bytes by then, which are in the kernel's pages and nowhere else.
    pub losses: u64,
}

impl Inodes {
    /// None but the root is known.
    pub fn new(root: InodeId) -> Inodes {
        Inodes {
            root,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<InodeId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn swapped(&self, number: u64) -> u64 {
        match number {
            1 => self.root.0,
            number if number == self.root.0 => 1,
            number => number,
        }
    }

    /// The kernel's number of an inode.
    pub fn number(&self, inode: InodeId) -> INodeNo {
        INodeNo(self.swapped(inode.0))
    }

    /// The inode of a number.
    pub fn inode(&self, number: INodeNo) -> InodeId {
        InodeId(self.swapped(number.0))
    }

    /// The directory that is mounted.
    pub fn root(&self) -> InodeId {
        self.root
    }

    /// The kernel is told of an inode by a name, and will forget it as often.
    pub fn add_lookup(&self, attr: &Attr) {
        let mode = attr.mode;
        let mut known = self.known();
        let entry = known.entry(attr.inode);
        let entry = entry.or_insert(Known {
            lookups: 0,
            mode,
            noted_at: Instant::now(),
            pages: None,
        });
        entry.lookups += 1;
        (entry.mode, entry.noted_at) = (mode, Instant::now());
    }

    /// The kernel is told attributes of what it knows.
    pub fn note(&self, attr: &Attr) {
        if let Some(known) = self.known().get_mut(&attr.inode) {
            (known.mode, known.noted_at) = (attr.mode, Instant::now());
        }
    }

    /// The permission bits that the kernel was told last, if that was not longer ago.
    pub fn mode(&self, inode: InodeId, at_most: Duration) -> Option<u16> {
        let known = self.known();
        let known = known.get(&inode);
        let known = known.filter(|known| known.noted_at.elapsed() <= at_most);
        known.map(|known| known.mode)
    }

    /// Whether the kernel's pages of a file are of these contents. What was read before the last open is not newer, so that the
    /// contents then count, whatever was read or written since.
    pub fn has_pages(&self, inode: InodeId, contents: Contents) -> bool {
        let known = self.known();
        known.get(&inode).and_then(|known| known.pages) == Some(contents)
    }

    /// The kernel was told to keep its pages of these contents, or to drop those of others.
    pub fn note_pages(&self, inode: InodeId, contents: Contents) {
        if let Some(known) = self.known().get_mut(&inode) {
            known.pages = Some(contents);
        }
    }

    /// The kernel forgets so many lookups of an inode.
    pub fn forget(&self, number: INodeNo, lookups: u64) {
        let inode = self.inode(number);
        let mut known = self.known();
        if let Some(entry) = known.get_mut(&inode) {
            entry.lookups = entry.lookups.saturating_sub(lookups);
            if entry.lookups == 0 {
                known.remove(&inode);
            }
        }
        // A million files that were seen once do not hold their room for ever.
        if known.capacity() > 1024 && known.len() < known.capacity() / 4 {
            known.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::tests::attr;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_root_of_a_mount_is_1_whatever_it_is() {
        let whole = Inodes::new(InodeId::ROOT);
        assert_eq!(whole.number(InodeId::ROOT), INodeNo::ROOT);
        assert_eq!(whole.inode(INodeNo(7)), InodeId(7));
        let part = Inodes::new(InodeId(77));
        assert_eq!(part.number(InodeId(77)), INodeNo::ROOT);
        assert_eq!(part.inode(INodeNo::ROOT), InodeId(77));
        assert_eq!(part.inode(part.number(InodeId::ROOT)), InodeId::ROOT);
        assert_eq!(part.number(InodeId(5)), INodeNo(5));
    }

    #[test]
    fn an_inode_is_known_until_it_was_forgotten_as_often_as_it_was_told() {
        let inodes = Inodes::new(InodeId::ROOT);
        let mut file = attr(9);
        file.mode = 0o640;
        inodes.note(&file);
        assert_eq!(inodes.mode(file.inode, LONG), None, "nobody asked for it");
        inodes.add_lookup(&file);
        inodes.add_lookup(&file);
        file.mode = 0o4755;
        inodes.note(&file);
        let contents = |version, losses| Contents {
            version: Version(version),
            losses,
        };
        inodes.note_pages(file.inode, contents(5, 0));
        assert!(inodes.has_pages(file.inode, contents(5, 0)));
        assert!(!inodes.has_pages(file.inode, contents(6, 0)));
        assert!(!inodes.has_pages(file.inode, contents(5, 1)));
        inodes.forget(INodeNo(9), 1);
        assert_eq!(inodes.mode(file.inode, LONG), Some(0o4755));
        inodes.forget(INodeNo(9), 1);
        assert_eq!(inodes.mode(file.inode, LONG), None);
        inodes.forget(INodeNo(9), 1);
    }
}
