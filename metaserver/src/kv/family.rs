//! The families of the state: separate ordered maps, one RocksDB column family each.

macro_rules! families {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One ordered map of the state (DESIGN §5.1 has the keys and values).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Family { $($(#[$doc])* $variant,)* }

        impl Family {
            /// Every family, in the order of their numbers.
            pub const ALL: &'static [Family] = &[$(Family::$variant,)*];

            /// The name of its column family: part of the format on disk.
            pub fn name(self) -> &'static str {
                match self { $(Family::$variant => $name,)* }
            }
        }
    };
}

families! {
    /// Inodes by number.
    Inodes = "inodes",
    /// Directory entries by parent and name.
    Dentries = "dentries",
    /// Parents and names of inodes with several links.
    Names = "names",
    /// Extents by inode and file offset.
    Extents = "extents",
    /// Extended attributes by inode and name.
    Xattrs = "xattrs",
    /// Access times, which are never in history.
    Atimes = "atimes",
    /// Chunks with their reference counts, by pool and hash.
    Chunks = "chunks",
    /// Sums of bytes, files and directories below a directory.
    Usage = "usage",
    /// Names that were removed, for undelete.
    Removed = "removed",
    /// Older values of what snapshots see.
    History = "history",
    /// What snapshots cover.
    Covers = "covers",
    /// Chunks that only history refers to.
    Dead = "dead",
    /// What changed since the last snapshot.
    Fresh = "fresh",
    /// Snapshots.
    Snapshots = "snapshots",
    /// Schedules of snapshots.
    Schedules = "schedules",
    /// Sessions with their ranges, marks, answers and orphans.
    Sessions = "sessions",
    /// Advisory locks.
    Locks = "locks",
    /// Users.
    Users = "users",
    /// Servers.
    Servers = "servers",
    /// Secret keys.
    Secrets = "secrets",
    /// Certificates that are no longer accepted.
    Revoked = "revoked",
    /// Topology, disks, pools, placement groups, slots, epoch.
    Map = "map",
    /// Chunks that wait for their deletion on dataservers.
    Doomed = "doomed",
    /// What the state knows of itself: applied index, membership, feature level, last version, counters.
    System = "system",
}

impl Family {
    /// How many there are.
    pub const COUNT: usize = Family::ALL.len();

    /// Its position in [`Family::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_stands_at_its_index_and_no_name_is_used_twice() {
        let names: std::collections::BTreeSet<_> = Family::ALL.iter().map(|f| f.name()).collect();
        assert_eq!(names.len(), Family::COUNT);
        for (index, family) in Family::ALL.iter().enumerate() {
            assert_eq!(family.index(), index);
        }
    }

    /// A state with another set of families is not opened.
    #[test]
    fn names_never_change() {
        let names: Vec<&str> = Family::ALL.iter().map(|family| family.name()).collect();
        assert_eq!(
            names.join(" "),
            "inodes dentries names extents xattrs atimes chunks usage removed history covers dead \
             fresh snapshots schedules sessions locks users servers secrets revoked map doomed system"
        );
    }
}
