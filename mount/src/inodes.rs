//! The inodes that the kernel knows, and their numbers there.

use fuser::INodeNo;
use quarry_common::ids::{InodeId, Version};
use quarry_common::wire::meta::Attr;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    /// The version of the contents of which the kernel may have pages.
    pages: Option<Version>,
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
            pages: None,
        });
        entry.lookups += 1;
        entry.mode = mode;
    }

    /// The kernel is told attributes of what it knows.
    pub fn note(&self, attr: &Attr) {
        if let Some(known) = self.known().get_mut(&attr.inode) {
            known.mode = attr.mode;
        }
    }

    /// The permission bits that the kernel was told last.
    pub fn mode(&self, inode: InodeId) -> Option<u16> {
        self.known().get(&inode).map(|known| known.mode)
    }

    /// A file is opened whose contents have this version: whether the kernel's pages of it are of that one, and may stay.
    /// What was read before the last open is not newer, so that the version then counts, whatever was read or written since.
    pub fn keeps_pages(&self, attr: &Attr) -> bool {
        let mut known = self.known();
        let Some(entry) = known.get_mut(&attr.inode) else {
            return false;
        };
        entry.pages.replace(attr.data_version) == Some(attr.data_version)
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
        assert_eq!(inodes.mode(file.inode), None, "nobody asked for it");
        inodes.add_lookup(&file);
        inodes.add_lookup(&file);
        file.mode = 0o4755;
        inodes.note(&file);
        assert!(!inodes.keeps_pages(&file) && inodes.keeps_pages(&file));
        file.data_version = Version(file.data_version.0 + 1);
        assert!(!inodes.keeps_pages(&file) && inodes.keeps_pages(&file));
        inodes.forget(INodeNo(9), 1);
        assert_eq!(inodes.mode(file.inode), Some(0o4755));
        inodes.forget(INodeNo(9), 1);
        assert_eq!(inodes.mode(file.inode), None);
        inodes.forget(INodeNo(9), 1);
    }
}
