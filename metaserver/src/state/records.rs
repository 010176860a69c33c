//! Every value of the namespace (DESIGN §5.1): a format version byte, then the fields in order.
//!
//! The order of fields is the format: new ones go to the end and are read with a default.
//! Bytes after the fields that this program knows are kept when an inode is written again.

use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, ChunkOffset, FileOffset, Gid, InodeId, PoolId, Uid, Version};
use quarry_common::time::Nanos;
use quarry_common::wire::meta::{Attr, FileKind};
use quarry_common::{Code, Error, Result, codec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[cfg(test)]
mod golden;

/// A value of the state.
pub trait Record: Serialize + DeserializeOwned {
    /// What it is, for error texts.
    const WHAT: &'static str;
    /// The format version: its first byte.
    const VERSION: u8 = 1;

    /// Bytes that followed the known fields when it was read.
    fn unknown(&self) -> &[u8] {
        &[]
    }

    /// Keeps such bytes. A record that has no place for them refuses them, rather than lose them.
    fn keep_unknown(&mut self, bytes: &[u8]) -> Result<()> {
        Err(Error::new(
            Code::TooNew,
            format!(
                "{} has {} bytes more than this program knows: use a newer quarry",
                Self::WHAT,
                bytes.len()
            ),
        ))
    }

    /// The stored bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = codec::encode_record(Self::VERSION, self);
        bytes.extend_from_slice(self.unknown());
        bytes
    }

    /// Reads the stored bytes. Fails with `TooNew` or `Malformed`.
    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (mut record, len) = codec::decode_record::<Self>(Self::WHAT, Self::VERSION, bytes)?;
        if len < bytes.len() {
            record.keep_unknown(&bytes[len..])?;
        }
        Ok(record)
    }
}

/// Facts about an inode, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Flags(pub u32);

impl Flags {
    /// It can not be changed.
    pub const IMMUTABLE: Flags = Flags(1);
    /// It can only grow.
    pub const APPEND_ONLY: Flags = Flags(2);
    /// It has an access ACL.
    pub const HAS_ACL: Flags = Flags(4);
    /// It has a default ACL.
    pub const HAS_DEFAULT_ACL: Flags = Flags(8);
    /// There is a record of its last access; without, it was its birth.
    pub const HAS_ATIME: Flags = Flags(16);
    /// Nobody can reach it any more, and a part of its contents is gone already: it is as good as gone.
    pub const PURGED: Flags = Flags(32);

    /// Whether all bits of `flag` are set.
    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 == flag.0
    }

    /// Sets or clears the bits of `flag`.
    pub fn set(&mut self, flag: Flags, on: bool) {
        self.0 = if on {
            self.0 | flag.0
        } else {
            self.0 & !flag.0
        };
    }
}

/// `inodes`: a file, directory or other object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InodeRecord {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u16,
    /// The owner.
    pub uid: Uid,
    /// The group.
    pub gid: Gid,
    /// Bytes of a file.
    pub size: u64,
    /// Bytes of a file that are not holes.
    pub stored: u64,
    /// Names of a file; of a directory 1, or 0 when it was removed. See [`InodeRecord::links_shown`].
    pub links: u32,
    /// Last change of the contents.
    pub mtime: Nanos,
    /// Last change of anything.
    pub ctime: Nanos,
    /// Birth.
    pub btime: Nanos,
    /// The numbers of a device, as Linux packs them.
    pub device: u64,
    /// What a symbolic link leads to.
    pub target: Vec<u8>,
    /// Facts.
    pub flags: Flags,
    /// The directory of its primary name; the inode itself if it has none.
    pub parent: InodeId,
    /// Its primary name; empty if it has none.
    pub name: Vec<u8>,
    /// The version at which it was made.
    pub created: Version,
    /// The version at which this record was last written.
    pub modified_at: Version,
    /// The version at which what readers of its contents see last changed.
    pub data_version: Version,
    /// Records in `extents`.
    pub extents: u64,
    /// Names in a directory.
    pub entries: u64,
    /// Directories among them.
    pub subdirectories: u64,
    /// Snapshots that hold it through names it no longer has (DESIGN §6), ascending.
    pub past: Vec<u64>,
    /// The storage policy; 0 is inherited.
    pub policy: u32,
    /// The project it is counted for; 0 is none.
    pub project: u32,
    /// It can not be deleted before; 1970 is no such time.
    pub retain_until: Nanos,
    /// Truncations whose extents are not removed yet, ascending in offset and in version.
    pub trims: Vec<Trim>,
    /// The version at which a range last became a hole: what expectations of ranges heed, since
    /// a hole leaves no extent behind.
    pub holes_at: Version,
    /// The version at which it lost its last name; `None` while it has one or a session holds it.
    pub orphaned_at: Option<Version>,
    /// Bytes of the names of its extended attributes, each with a NUL: what a list of them takes.
    pub xattr_names_len: u32,
    /// Fields of a newer program.
    #[serde(skip)]
    pub unknown: Vec<u8>,
}

/// A truncation: extents that begin at `from` or later and were written at `at` or before read as
/// zeros, until they are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trim {
    /// The new end of the file.
    pub from: FileOffset,
    /// The version of the truncation.
    pub at: Version,
}

impl Record for InodeRecord {
    const WHAT: &'static str = "an inode's record";

    fn unknown(&self) -> &[u8] {
        &self.unknown
    }

    fn keep_unknown(&mut self, bytes: &[u8]) -> Result<()> {
        self.unknown = bytes.to_vec();
        Ok(())
    }
}

impl InodeRecord {
    /// A new inode without a name, not yet written.
    pub fn new(
        kind: FileKind,
        mode: u16,
        uid: Uid,
        gid: Gid,
        version: Version,
        time: Nanos,
    ) -> InodeRecord {
        InodeRecord {
            kind,
            mode: mode & 0o7777,
            uid,
            gid,
            size: 0,
            stored: 0,
            links: 0,
            mtime: time,
            ctime: time,
            btime: time,
            device: 0,
            target: Vec::new(),
            flags: Flags::default(),
            parent: InodeId(0),
            name: Vec::new(),
            created: version,
            modified_at: version,
            data_version: version,
            extents: 0,
            entries: 0,
            subdirectories: 0,
            past: Vec::new(),
            policy: 0,
            project: 0,
            retain_until: Nanos(0),
            trims: Vec::new(),
            holes_at: Version(0),
            orphaned_at: None,
            xattr_names_len: 0,
            unknown: Vec::new(),
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// The link count as `stat` shows it: of a directory, its name, its `.` and its subdirectories.
    pub fn links_shown(&self) -> u32 {
        match self.kind {
            FileKind::Directory if self.links > 0 => {
                u32::try_from(self.subdirectories).map_or(u32::MAX, |count| count.saturating_add(2))
            }
            _ => self.links,
        }
    }

    /// What `stat` shows. `atime` is the record of its last access, if there is one.
    pub fn attr(&self, inode: InodeId, atime: Option<Nanos>) -> Attr {
        let size = match self.kind {
            FileKind::Directory => self.entries,
            FileKind::Symlink => self.target.len() as u64,
            _ => self.size,
        };
        Attr {
            inode,
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size,
            stored: self.stored,
            links: self.links_shown(),
            device: self.device,
            mtime: self.mtime,
            ctime: self.ctime,
            atime: atime.unwrap_or(self.btime),
            btime: self.btime,
            parent: if self.name.is_empty() && inode != InodeId::ROOT {
                inode
            } else {
                self.parent
            },
            data_version: self.data_version,
            modified_at: self.modified_at,
            has_xattrs: self.xattr_names_len > 0,
        }
    }
}

/// `dentries`: what a name leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DentryRecord {
    /// The inode.
    pub inode: InodeId,
    /// What that is.
    pub kind: FileKind,
    /// The version at which the name was made.
    pub modified_at: Version,
}

impl Record for DentryRecord {
    const WHAT: &'static str = "a directory entry";
}

/// `names`: that an inode has this name. The key says it all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord;

impl Record for NameRecord {
    const WHAT: &'static str = "a name of an inode";
}

/// `extents`: where a range of a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentRecord {
    /// Bytes.
    pub len: u64,
    /// Where they are.
    pub source: ExtentSource,
    /// The version at which these bytes were written; cutting does not change it.
    pub modified_at: Version,
}

/// Where the bytes of a stored extent are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExtentSource {
    /// In a chunk.
    Chunk {
        /// The pool.
        pool: PoolId,
        /// The chunk.
        chunk: ChunkId,
        /// The first byte's place in it.
        offset: ChunkOffset,
    },
    /// Here: at most 256 bytes.
    Inline(Vec<u8>),
}

impl Record for ExtentRecord {
    const WHAT: &'static str = "an extent";
}

/// `xattrs`: the value of an extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XattrRecord {
    /// The value, at most 64 KiB.
    pub value: Vec<u8>,
    /// The version at which it was set.
    pub modified_at: Version,
}

impl Record for XattrRecord {
    const WHAT: &'static str = "an extended attribute";
}

/// `atimes`: the last access that was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtimeRecord {
    /// When.
    pub atime: Nanos,
}

impl Record for AtimeRecord {
    const WHAT: &'static str = "an access time";
}

/// `chunks`: a chunk that extents refer to, or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRecord {
    /// Extents that refer to it.
    pub references: u64,
    /// Committed bytes.
    pub len: u32,
    /// Their CRC.
    pub crc: Crc,
    /// Bytes that extents refer to, each as often as they do.
    pub referenced: u64,
}

impl Record for ChunkRecord {
    const WHAT: &'static str = "a chunk's record";
}

/// `usage`: what is below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// Bytes of files: a few sparse ones are more than 64 bits can say.
    pub bytes: u128,
    /// Everything but directories.
    pub files: u64,
    /// Directories.
    pub directories: u64,
}

impl Record for UsageRecord {
    const WHAT: &'static str = "the usage of a directory";
}

/// `system`: a number: the last version, the next sequence, the epoch, ...
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NumberRecord(pub u64);

impl Record for NumberRecord {
    const WHAT: &'static str = "a number of the system";
}

/// `system`: that an inode is an orphan. The key says which and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanRecord;

impl Record for OrphanRecord {
    const WHAT: &'static str = "an orphan";
}
