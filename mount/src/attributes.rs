//! Attributes as the kernel wants to have them.

use fuser::{FileAttr, FileType, INodeNo};
use quarry_common::time::Nanos;
use quarry_common::wire::meta::{Attr, FileKind, NodeKind};
use std::time::{Duration, SystemTime};

/// `stat` counts what is stored in units of this many bytes.
const STAT_BLOCK_LEN: u64 = 512;

/// What programs read and write at a time if they ask: a page.
const PREFERRED_LEN: u32 = 4_096;

/// The kernel's word for a kind.
pub fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// A point in time.
pub fn system_time(time: Nanos) -> SystemTime {
    let distance = Duration::from_nanos(time.0.unsigned_abs());
    match time.0 >= 0 {
        true => SystemTime::UNIX_EPOCH + distance,
        false => SystemTime::UNIX_EPOCH - distance,
    }
}

/// Numbers of a device as FUSE packs them: 12 bits of the major one within 20 of the minor one.
fn packed_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The numbers of a device, as Linux packs them for programs.
pub fn device(packed: u32) -> u64 {
    let major = (packed & 0xf_ff00) >> 8;
    let minor = (packed & 0xff) | ((packed >> 12) & 0xf_ff00);
    rustix::fs::makedev(major, minor)
}

/// What mknod(2) is to make; `None` for a regular file.
pub fn node_kind(mode: u32, packed: u32) -> Option<NodeKind> {
    match mode & libc::S_IFMT {
        libc::S_IFIFO => Some(NodeKind::Fifo),
        libc::S_IFSOCK => Some(NodeKind::Socket),
        libc::S_IFCHR => Some(NodeKind::CharDevice(device(packed))),
        libc::S_IFBLK => Some(NodeKind::BlockDevice(device(packed))),
        _ => None,
    }
}

/// Attributes under the kernel's number of the inode, with the owners as they are shown on this machine.
pub fn file_attr(attr: &Attr, number: INodeNo, (uid, gid): (u32, u32)) -> FileAttr {
    FileAttr {
        ino: number,
        size: attr.size,
        blocks: attr.stored.div_ceil(STAT_BLOCK_LEN),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.links,
        uid,
        gid,
        rdev: packed_device(attr.device),
        blksize: PREFERRED_LEN,
        flags: 0,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use quarry_common::ids::{Gid, InodeId, Uid, Version};

    /// A regular file of a test.
    pub fn attr(inode: u64) -> Attr {
        Attr {
            inode: InodeId(inode),
            kind: FileKind::File,
            mode: 0o644,
            uid: Uid(1000),
            gid: Gid(1000),
            size: 1,
            stored: 1,
            links: 1,
            device: 0,
            mtime: Nanos(0),
            ctime: Nanos(0),
            atime: Nanos(0),
            btime: Nanos(0),
            parent: InodeId::ROOT,
            data_version: Version(1),
            modified_at: Version(1),
            has_xattrs: false,
        }
    }

    #[test]
    fn devices_keep_their_numbers() {
        for (major, minor) in [(1, 3), (8, 17), (259, 65_537), (4_095, 0xf_ffff), (0, 0)] {
            let made = rustix::fs::makedev(major, minor);
            assert_eq!(device(packed_device(made)), made, "{major}:{minor}");
        }
    }

    #[test]
    fn times_keep_their_nanoseconds_also_before_1970() {
        for nanos in [0, 1, -1, -1_500_000_000, i64::MAX, i64::MIN] {
            let time = system_time(Nanos(nanos));
            assert_eq!(Nanos::from(time).0, nanos.max(-i64::MAX), "{nanos}");
        }
    }
}
