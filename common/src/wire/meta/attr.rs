//! What `stat` shows of an inode, and what may be set.

use crate::ids::{Gid, InodeId, Uid, Version};
use crate::time::Nanos;
use serde::{Deserialize, Serialize};

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// What `stat` shows of an inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// The inode.
    pub inode: InodeId,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u16,
    /// The owner.
    pub uid: Uid,
    /// The group.
    pub gid: Gid,
    /// Bytes of a file or of a link's target; of a directory, its entries.
    pub size: u64,
    /// Bytes of a file that are not holes.
    pub stored: u64,
    /// Names of a file; of a directory, two and its subdirectories.
    pub links: u32,
    /// The numbers of a device, as Linux packs them.
    pub device: u64,
    /// Last change of the contents.
    pub mtime: Nanos,
    /// Last change of anything.
    pub ctime: Nanos,
    /// Last access, as far as it is kept.
    pub atime: Nanos,
    /// Birth.
    pub btime: Nanos,
    /// The directory of its primary name; of an unnamed inode, the inode itself.
    pub parent: InodeId,
    /// Changes whenever the contents that readers see change: an ETag, a change cookie.
    pub data_version: Version,
    /// The version of the record.
    pub modified_at: Version,
    /// Whether it has extended attributes: an inode without needs no request for them.
    pub has_xattrs: bool,
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// The time of the operation.
    Now,
    /// This one; needs ownership.
    To(Nanos),
}

/// What may be set; `None` leaves as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttr {
    /// Permission bits, 0 to 0o7777.
    pub mode: Option<u16>,
    /// The owner.
    pub uid: Option<Uid>,
    /// The group.
    pub gid: Option<Gid>,
    /// The length: cut, or extended with zeros.
    pub size: Option<u64>,
    /// Last change of the contents.
    pub mtime: Option<SetTime>,
    /// Last access.
    pub atime: Option<SetTime>,
}
