//! Changes of the namespace. Each is one command, applied exactly once and as a whole.
#![expect(
    missing_docs,
    reason = "the doc of a variant or type explains its fields"
)]

use super::attr::{Attr, SetAttr};
use super::read::View;
use crate::ids::{ChunkId, FileOffset, Gid, InodeId, PoolId, Uid, Version};
use crate::limits::{EXTENTS_PER_COMMAND_MAX, LIST_OPS_MAX, XATTRS_MAX};
use crate::time::Nanos;
use crate::token::{Capability, Receipt};
use crate::wire::bounds;
use serde::{Deserialize, Serialize};

/// As whom permissions are checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// The owner of what is created.
    pub uid: Uid,
    /// The first is the group of what is created.
    pub gids: Vec<Gid>,
    /// Passes every permission check, as root does on a local disk.
    pub superuser: bool,
}

/// A change of the namespace. Names are 1 to 255 bytes without `/` and NUL, not `.` or `..`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Makes an empty regular file; without `exclusive`, an existing one is returned as it is. → `Attr`
    Create {
        parent: InodeId,
        name: Vec<u8>,
        mode: u16,
        exclusive: bool,
    },
    /// Makes a directory. → `Attr`
    Mkdir {
        parent: InodeId,
        name: Vec<u8>,
        mode: u16,
    },
    /// Makes a pipe, a socket or a device. → `Attr`
    MakeNode {
        parent: InodeId,
        name: Vec<u8>,
        mode: u16,
        kind: NodeKind,
    },
    /// Makes a symbolic link. → `Attr`
    Symlink {
        parent: InodeId,
        name: Vec<u8>,
        target: Vec<u8>,
        mtime: Option<Nanos>,
    },
    /// Gives a file another name. → `Attr`
    Link {
        inode: InodeId,
        parent: InodeId,
        name: Vec<u8>,
    },
    /// Removes a name of anything but a directory. → `Nothing`
    Unlink { parent: InodeId, name: Vec<u8> },
    /// Removes an empty directory. → `Nothing`
    Rmdir { parent: InodeId, name: Vec<u8> },
    /// Removes a directory with all that is in it, for a superuser: it leaves the tree at once
    /// and is emptied later. → `Nothing`
    RemoveTree { parent: InodeId, name: Vec<u8> },
    /// Moves a name. → `Nothing`
    Rename {
        from: InodeId,
        from_name: Vec<u8>,
        to: InodeId,
        to_name: Vec<u8>,
        mode: RenameMode,
    },
    /// Sets attributes. → `Attr`
    SetAttr { inode: InodeId, set: SetAttr },
    /// Sets an extended attribute. → `Nothing`
    SetXattr {
        inode: InodeId,
        name: Vec<u8>,
        value: Vec<u8>,
        mode: XattrMode,
    },
    /// Removes an extended attribute. → `Nothing`
    RemoveXattr { inode: InodeId, name: Vec<u8> },
    /// Creates or replaces a file with its contents in one step. → `Attr`
    Publish(Publish),
    /// Makes a regular file without a name, held by the session, in the slot of `parent`. → `Attr`
    CreateUnnamed { parent: InodeId, mode: u16 },
    /// Writes ranges of a file. `size` makes it at least that long. → `Attr`
    CommitExtents {
        inode: InodeId,
        #[serde(deserialize_with = "bounds::at_most::<_, _, EXTENTS_PER_COMMAND_MAX>")]
        extents: Vec<NewExtent>,
        #[serde(deserialize_with = "bounds::at_most::<_, _, EXTENTS_PER_COMMAND_MAX>")]
        receipts: Vec<Receipt>,
        size: Option<u64>,
        mtime: Option<Nanos>,
    },
    /// Writes at the end of a file, wherever that is by then; the offsets of the extents count
    /// from there. → `Appended`
    Append {
        inode: InodeId,
        #[serde(deserialize_with = "bounds::at_most::<_, _, EXTENTS_PER_COMMAND_MAX>")]
        extents: Vec<NewExtent>,
        #[serde(deserialize_with = "bounds::at_most::<_, _, EXTENTS_PER_COMMAND_MAX>")]
        receipts: Vec<Receipt>,
        len: u64,
    },
    /// Makes a range of a file share the chunks of another (reflink). → `Attr`
    Clone(CloneRange),
    /// Gives the session chunk ids to write. → `Range`
    GrantRange { pool: PoolId, count: u32 },
    /// At most 1,000 operations, all or none, if all expectations hold; none is a list itself. → `List`
    List {
        #[serde(deserialize_with = "bounds::at_most::<_, _, LIST_OPS_MAX>")]
        expectations: Vec<Expectation>,
        #[serde(deserialize_with = "bounds::flat::<_, _, LIST_OPS_MAX>")]
        ops: Vec<Op>,
    },
}

/// What `MakeNode` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device with its numbers as Linux packs them.
    CharDevice(u64),
    /// A block device with its numbers as Linux packs them.
    BlockDevice(u64),
}

/// What a rename does with an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replaces it, as POSIX says.
    Replace,
    /// Fails with `Exists`.
    NoReplace,
    /// Both names must exist, and change places.
    Exchange,
}

/// What `SetXattr` does with an existing value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Sets it in any case.
    Set,
    /// Fails with `Exists` if it is there.
    Create,
    /// Fails with `NoAttribute` if it is not.
    Replace,
}

/// Creates or replaces a file with its contents in one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Publish {
    /// The directory.
    pub parent: InodeId,
    /// The name in it.
    pub name: Vec<u8>,
    /// Permission bits; an unnamed inode's own are replaced too.
    pub mode: u16,
    /// Last change of the contents; the time of the operation if left out.
    pub mtime: Option<Nanos>,
    /// Whether an existing file may be replaced. A directory never is.
    pub replace: bool,
    /// Extended attributes, set in the same step.
    #[serde(deserialize_with = "bounds::at_most::<_, _, XATTRS_MAX>")]
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What is in it.
    pub contents: Contents,
}

/// What a published file contains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Contents {
    /// These extents.
    Extents {
        size: u64,
        #[serde(deserialize_with = "bounds::at_most::<_, _, EXTENTS_PER_COMMAND_MAX>")]
        extents: Vec<NewExtent>,
        #[serde(deserialize_with = "bounds::at_most::<_, _, EXTENTS_PER_COMMAND_MAX>")]
        receipts: Vec<Receipt>,
    },
    /// What the session assembled in an unnamed inode.
    Unnamed(InodeId),
}

/// A range of a file to be written. It crosses no multiple of 64 MiB, and ranges do not overlap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewExtent {
    /// The first byte's place in the file (in `Append`: after the end).
    pub offset: FileOffset,
    /// Bytes, at least 1.
    pub len: u64,
    /// Where the bytes are.
    pub source: Source,
}

/// Where the bytes of a new extent are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Source {
    /// In a chunk that `receipts[receipt]` of the same operation is for.
    Chunk { receipt: u32, chunk_offset: u32 },
    /// Here: at most 256 bytes.
    Inline(Vec<u8>),
    /// Zeros that take no space.
    Hole,
}

/// Makes a range of one file share the chunks of a range of another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CloneRange {
    /// What is read from.
    pub view: View,
    /// The file read.
    pub from: InodeId,
    /// Where in it.
    pub from_offset: FileOffset,
    /// Bytes; cut at the end of the file read.
    pub len: u64,
    /// The file written: a named one, or an unnamed one of the session.
    pub to: InodeId,
    /// Where in it.
    pub to_offset: FileOffset,
}

/// What must be unchanged for a list to be applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Expectation {
    /// The inode's record.
    Inode {
        inode: InodeId,
        modified_at: Version,
    },
    /// The inode's contents.
    Data {
        inode: InodeId,
        data_version: Version,
    },
    /// The name leads to that inode; `None`: to nothing.
    Dentry {
        parent: InodeId,
        name: Vec<u8>,
        inode: Option<InodeId>,
    },
    /// No extent in the range is newer.
    Range {
        inode: InodeId,
        offset: FileOffset,
        len: u64,
        unchanged_since: Version,
    },
}

/// A run of chunk ids that one session may write and commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The pool.
    pub pool: PoolId,
    /// The first id.
    pub first: ChunkId,
    /// Ids from there on, all of one slot.
    pub count: u32,
}

/// A range and the right to write its chunks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RangeGrant {
    /// The ids.
    pub range: Range,
    /// The right to write them.
    pub capability: Capability,
}

/// What an operation replies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum OpReply {
    /// Done.
    Nothing,
    /// The inode afterwards.
    Attr(Attr),
    /// Where an append went.
    Appended { offset: FileOffset, attr: Attr },
    /// Chunk ids. The capability is added to the answer by the leader and not stored.
    Range(RangeGrant),
    /// One reply an operation of a list.
    List(#[serde(deserialize_with = "bounds::flat::<_, _, LIST_OPS_MAX>")] Vec<OpReply>),
}
