//! What operations work on: the state with the changes of the entry so far, typed.

use super::extents::span::Span;
use super::extents::{Looks, unchanged_since, visible};
use super::keys::{self, SystemKey};
use super::records::{
    AtimeRecord, DentryRecord, ExtentRecord, Flags, InodeRecord, NumberRecord, OrphanRecord, Record,
};
use super::session::{self, Kept};
use super::stop::{OpResult, Stop};
use super::text::quoted;
use super::usage::UsageChanges;
use crate::kv::{Batch, Family, KvRead, Mark, Overlay};
use bytes::Bytes;
use quarry_common::ids::{ChunkId, InodeId, SessionId, Slot, Version};
use quarry_common::map::Topology;
use quarry_common::time::Nanos;
use quarry_common::token::Receipt;
use quarry_common::wire::meta::{Attr, Caller};
use quarry_common::{Code, Error, Result};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// The first sequence of inodes that is given out; those below are the root and its like.
pub const FIRST_INODE_SEQUENCE: u64 = 16;

/// The directory to which removed trees are moved until they are emptied. It has no name.
pub const HIDDEN_DIRECTORY: InodeId = InodeId(2);

/// On whose behalf an operation runs.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// As whom permissions are checked.
    pub caller: &'a Caller,
    /// The session of the request.
    pub session: SessionId,
    /// What the present members confirmed of chunks whose receipts are of former ones.
    pub confirmed: &'a [Receipt],
}

/// The state under the operations of one entry. Every operation has its version and time.
pub struct Txn<'a> {
    state: Overlay<'a>,
    version: Version,
    time: Nanos,
    usage: UsageChanges,
    /// What the present command may still look at.
    looks: Looks,
    /// Depths of directories that were needed, as they are after the changes so far: see [`super::depth`].
    pub(super) depths: BTreeMap<InodeId, usize>,
    /// The answers of the sessions whose requests this entry has: see [`super::session`].
    pub(super) answers: BTreeMap<SessionId, Kept>,
    /// The topology as it is after the changes so far, once it was needed: see [`super::map_state`].
    pub(super) topology: Option<Arc<Topology>>,
}

/// A point to roll a [`Txn`] back to.
#[derive(Clone, Copy, Debug)]
pub struct TxnMark {
    state: Mark,
    usage: usize,
}

/// A record of `family` at `key`, for readers and writers alike.
pub fn load<R: Record>(state: &dyn KvRead, family: Family, key: &[u8]) -> Result<Option<R>> {
    state
        .get(family, key)?
        .map(|bytes| R::from_bytes(&bytes))
        .transpose()
}

/// What `stat` shows of an inode whose record is at hand.
pub fn attr(state: &dyn KvRead, inode: InodeId, record: &InodeRecord) -> Result<Attr> {
    let mut atime = None;
    if record.flags.has(Flags::HAS_ATIME) {
        let kept = load::<AtimeRecord>(state, Family::Atimes, &keys::inode(inode))?;
        atime = kept.map(|record| record.atime);
    }
    Ok(record.attr(inode, atime))
}

/// That an inode is gone, as an answer.
pub fn stale(inode: InodeId) -> Error {
    Error::new(
        Code::Stale,
        format!("inode {inode} does not exist any more"),
    )
}

impl<'a> Txn<'a> {
    /// A transaction over `base`; [`Txn::begin`] comes before the first operation.
    pub fn new(base: &'a dyn KvRead) -> Txn<'a> {
        Txn {
            state: Overlay::new(base),
            version: Version(0),
            time: Nanos(0),
            usage: UsageChanges::default(),
            looks: Looks::OF_A_COMMAND,
            depths: BTreeMap::new(),
            answers: BTreeMap::new(),
            topology: None,
        }
    }

    /// The next command: its version, which is also its time in microseconds.
    pub fn begin(&mut self, version: Version) {
        self.looks = Looks::OF_A_COMMAND;
        self.go_on(version);
    }

    /// The rest of a command has a version of its own.
    pub fn go_on(&mut self, version: Version) {
        self.version = version;
        let micros = i64::try_from(version.0).unwrap_or(i64::MAX);
        self.time = Nanos(micros.saturating_mul(1_000));
    }

    /// The version of the operation.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The time of the operation: never less than that of an earlier one.
    pub fn time(&self) -> Nanos {
        self.time
    }

    /// Remembers the present point.
    pub fn mark(&self) -> TxnMark {
        TxnMark {
            state: self.state.mark(),
            usage: self.usage.mark(),
        }
    }

    /// Records written and removed since `mark`.
    pub fn changes_since(&self, mark: TxnMark) -> usize {
        self.state.writes_since(mark.state)
    }

    /// Takes back every change since `mark`.
    pub fn roll_back(&mut self, mark: TxnMark) {
        self.state.roll_back(mark.state);
        self.usage.roll_back(mark.usage);
        self.depths.clear();
        self.topology = None;
    }

    /// Everything that was written, with the sums of usage and the answers settled.
    pub fn into_batch(mut self) -> OpResult<Batch> {
        session::settle(&mut self);
        let usage = std::mem::take(&mut self.usage);
        usage.settle(&mut self)?;
        Ok(self.state.into_batch())
    }

    /// The state with the changes so far, for functions that readers use as well. An error of
    /// theirs is to be made [`Stop::Broken`].
    pub fn state(&self) -> &dyn KvRead {
        &self.state
    }

    /// As [`visible`], of what the command may still look at. `TooBig` if that is not enough.
    pub fn visible(
        &mut self,
        inode: InodeId,
        file: &InodeRecord,
        span: Span,
        limit: usize,
    ) -> OpResult<(Vec<(u64, ExtentRecord)>, bool)> {
        let looked = visible(&self.state, inode, file, span, limit, &mut self.looks);
        Ok(looked.map_err(Stop::Broken)?.map_err(Error::from)?)
    }

    /// As [`unchanged_since`], of what the command may still look at. `TooBig` if that is not enough.
    pub fn unchanged_since(
        &mut self,
        inode: InodeId,
        file: &InodeRecord,
        span: Span,
        version: Version,
    ) -> OpResult<bool> {
        let looked = unchanged_since(&self.state, inode, file, span, version, &mut self.looks);
        Ok(looked.map_err(Stop::Broken)?.map_err(Error::from)?)
    }

    /// Changes of usage that are not settled yet.
    pub fn usage(&mut self) -> &mut UsageChanges {
        &mut self.usage
    }

    /// The bytes at a key.
    pub fn get_bytes(&self, family: Family, key: &[u8]) -> OpResult<Option<Bytes>> {
        self.state.get(family, key).map_err(Stop::Broken)
    }

    /// The record at a key.
    pub fn get<R: Record>(&self, family: Family, key: &[u8]) -> OpResult<Option<R>> {
        load(&self.state, family, key).map_err(Stop::Broken)
    }

    /// Writes a record.
    pub fn put<R: Record>(&mut self, family: Family, key: Vec<u8>, record: &R) {
        self.state.put(family, key, record.to_bytes());
    }

    /// Writes bytes that are a record already.
    pub fn put_bytes(&mut self, family: Family, key: Vec<u8>, value: Bytes) {
        self.state.put(family, key, value);
    }

    /// Removes a key, which need not exist.
    pub fn delete(&mut self, family: Family, key: Vec<u8>) {
        self.state.delete(family, key);
    }

    /// Visits records from `from` to before `to` (`None`: the end of the family) in order. An
    /// error of `visit` ends the scan and is returned.
    pub fn scan<R: Record>(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], R) -> Result<ControlFlow<()>>,
    ) -> OpResult<()> {
        let mut failed = None;
        let scanned = self.state.scan(
            family,
            from,
            to,
            &mut |key, value| match R::from_bytes(value).and_then(|record| visit(key, record)) {
                Ok(flow) => flow,
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        );
        match scanned.err().or(failed) {
            Some(error) => Err(Stop::Broken(error)),
            None => Ok(()),
        }
    }

    /// The record with the greatest key that is at least `low` and within `high`.
    pub fn last_before<R: Record>(
        &self,
        family: Family,
        low: &[u8],
        high: Bound<&[u8]>,
    ) -> OpResult<Option<(Bytes, R)>> {
        let found = self
            .state
            .last_before(family, low, high)
            .map_err(Stop::Broken)?;
        let Some((key, value)) = found else {
            return Ok(None);
        };
        Ok(Some((key, R::from_bytes(&value).map_err(Stop::Broken)?)))
    }

    /// An inode. `Stale` if it is gone.
    pub fn inode(&self, inode: InodeId) -> OpResult<InodeRecord> {
        let found = self.find_inode(inode)?;
        let found = found.filter(|record| !record.flags.has(Flags::PURGED));
        Ok(found.ok_or_else(|| stale(inode))?)
    }

    /// An inode, if it exists.
    pub fn find_inode(&self, inode: InodeId) -> OpResult<Option<InodeRecord>> {
        self.get(Family::Inodes, &keys::inode(inode))
    }

    /// An inode that another record refers to: that it is missing is damage.
    pub fn referred_inode(&self, inode: InodeId) -> OpResult<InodeRecord> {
        let missing = || {
            let text = format!("the state refers to inode {inode}, which does not exist");
            Stop::Broken(Error::bug(text))
        };
        self.find_inode(inode)?.ok_or_else(missing)
    }

    /// An inode that must be a directory. `Stale` if it is gone, `NotDirectory`.
    pub fn directory(&self, inode: InodeId) -> OpResult<InodeRecord> {
        let record = self.inode(inode)?;
        if !record.is_directory() {
            let text = format!("'{}' ({inode}) is not a directory", quoted(&record.name));
            return Err(Error::new(Code::NotDirectory, text).into());
        }
        Ok(record)
    }

    /// Writes an inode; its record becomes this operation's.
    pub fn put_inode(&mut self, inode: InodeId, record: &mut InodeRecord) {
        record.modified_at = self.version;
        self.put(Family::Inodes, keys::inode(inode), record);
    }

    /// What a name leads to.
    pub fn dentry(&self, parent: InodeId, name: &[u8]) -> OpResult<Option<DentryRecord>> {
        self.get(Family::Dentries, &keys::dentry(parent, name))
    }

    /// What `stat` shows of an inode whose record is at hand.
    pub fn attr(&self, inode: InodeId, record: &InodeRecord) -> OpResult<Attr> {
        attr(&self.state, inode, record).map_err(Stop::Broken)
    }

    /// A number of the system; 0 if it was never set.
    pub fn number(&self, key: SystemKey) -> OpResult<u64> {
        let record = self.get::<NumberRecord>(Family::System, &keys::system(key))?;
        Ok(record.unwrap_or_default().0)
    }

    /// Sets a number of the system.
    pub fn set_number(&mut self, key: SystemKey, value: u64) {
        self.put(Family::System, keys::system(key), &NumberRecord(value));
    }

    /// A new inode id of a slot.
    pub fn new_inode_id(&mut self, slot: Slot) -> OpResult<InodeId> {
        let key = SystemKey::NextInode(slot);
        let sequence = self.number(key)?.max(FIRST_INODE_SEQUENCE);
        self.check_sequence(sequence, 1, "inode numbers")?;
        self.set_number(key, sequence + 1);
        Ok(InodeId::new(slot, sequence))
    }

    /// New chunk ids of a slot: the first of `count`.
    pub fn new_chunk_ids(&mut self, slot: Slot, count: u32) -> OpResult<ChunkId> {
        let key = SystemKey::NextChunk(slot);
        let sequence = self.number(key)?.max(1);
        self.check_sequence(sequence, u64::from(count), "chunk numbers")?;
        self.set_number(key, sequence + u64::from(count));
        Ok(ChunkId::new(slot, sequence))
    }

    fn check_sequence(&self, sequence: u64, count: u64, what: &str) -> OpResult<()> {
        if sequence.saturating_add(count) >= 1 << 48 {
            let text = format!("all {what} of this part of the namespace are used up");
            return Err(Error::new(Code::ClusterFull, text).into());
        }
        Ok(())
    }

    /// An inode has lost its last name, or its session: it goes once nobody has it open. The
    /// caller writes the record.
    pub fn make_orphan(&mut self, inode: InodeId, record: &mut InodeRecord) {
        record.orphaned_at = Some(self.version);
        let key = keys::system(SystemKey::Orphan(self.version, inode));
        self.put(Family::System, key, &OrphanRecord);
    }
}
