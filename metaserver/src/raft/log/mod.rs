//! The Raft log on disk: a RocksDB of its own, every write synced before it is reported.
//!
//! Two column families: `entries` (index → [`record`]) and `meta` (owner, vote, purged). The
//! log is read in full when it is opened, and a log that is damaged or has a hole is refused:
//! a metaserver that forgot what it acknowledged must not vote (Protocol-Aware Recovery, FAST '18).

mod record;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use super::group::REPLACE;
use super::types::{Fatal, LogEntry, LogId, NodeId, Open, StorageError, Types, any, blocking};
use crate::kv::rocks_error;
use openraft::storage::LogFlushed;
use openraft::{LogState, OptionalSend, RaftLogReader, StorageIOError, Vote};
use quarry_common::ids::{ServerId, ShardId};
use quarry_common::limits::RAFT_ENTRY_LEN_MAX;
use quarry_common::{Code, Error, Result, codec};
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Options,
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tail::Tail;
use tokio::sync::Notify;
use writer::{Change, Durability, Writer};

const ENTRIES: &str = "entries";
const META: &str = "meta";
const META_VERSION: u8 = 1;
const OWNER: &[u8] = b"owner";
const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";

/// How much of the log the state on disk no longer needs: the index after the last entry whose
/// effects a completed flush holds. The log is never purged beyond it (DESIGN §5.1).
#[derive(Debug, Default)]
pub(crate) struct Flushed {
    next: AtomicU64,
    /// Notified when it has advanced.
    advanced: Notify,
}

impl Flushed {
    /// A flush is complete that holds everything up to `last`.
    pub(crate) fn advance(&self, last: Option<LogId>) {
        self.next
            .fetch_max(last.map_or(0, |last| last.index + 1), Ordering::AcqRel);
        self.advanced.notify_waiters();
    }

    fn holds(&self, index: u64) -> bool {
        index < self.next.load(Ordering::Acquire)
    }

    /// Returns when a flush holds the entry.
    async fn wait_for(&self, index: u64) {
        loop {
            let advanced = self.advanced.notified();
            tokio::pin!(advanced);
            // Registered before the look, so that a flush in between is not missed.
            advanced.as_mut().enable();
            if self.holds(index) {
                return;
            }
            advanced.await;
        }
    }
}

/// Bytes appended since the last snapshot began; says when there are enough for the next one.
#[derive(Debug)]
pub(crate) struct Growth {
    len: AtomicU64,
    len_max: u64,
    /// Notified when `len` passed `len_max`.
    pub(crate) enough: Notify,
}

impl Growth {
    pub(crate) fn new(len_max: u64) -> Growth {
        Growth {
            len: AtomicU64::new(0),
            len_max,
            enough: Notify::new(),
        }
    }

    fn add(&self, len: u64) {
        let before = self.len.fetch_add(len, Ordering::AcqRel);
        if before < self.len_max && before + len >= self.len_max {
            self.enough.notify_one();
        }
    }

    /// A snapshot begins.
    pub(crate) fn restart(&self) {
        self.len.store(0, Ordering::Release);
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }
}

/// The log. Clones read and write the same one.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    db: Arc<DB>,
    name: String,
    writer: Writer,
    ends: Mutex<Ends>,
    /// The vote that is on disk.
    given: Mutex<Option<Vote<NodeId>>>,
    tail: Mutex<Tail>,
    flushed: Arc<Flushed>,
    growth: Arc<Growth>,
    /// Dropped last, when the log is closed.
    _open: Open,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    purged: Option<LogId>,
    /// The last entry, or the last purged one.
    last: Option<LogId>,
    /// `purged` is not on disk yet: a snapshot is being taken over whose state is to be durable first.
    owed: Option<LogId>,
}

impl LogStore {
    /// Opens the log in `dir`, or makes an empty one for `owner`, and checks every entry.
    ///
    /// Fails with `ChecksumMismatch` when anything is damaged or missing, with `Configuration`
    /// when the log belongs to another metaserver or shard, and with `Io` when it is in use.
    pub(crate) fn open(
        dir: &Path,
        owner: (ServerId, ShardId),
        flushed: Arc<Flushed>,
        growth: Arc<Growth>,
        fatal: Fatal,
        open: Open,
    ) -> Result<LogStore> {
        let name = format!("the Raft log {}", dir.display());
        let db = open_db(dir)
            .map_err(|error| refused(&name, rocks_error("it", "can not be opened", error)))?;
        let db = Arc::new(db);
        let ends = check(&db, &name, owner).map_err(|error| refused(&name, error))?;
        let given = read_meta(&db, VOTE).map_err(|error| refused(&name, error))?;
        let writer = Writer::start(Arc::clone(&db), name.clone(), fatal)?;
        let shared = Shared {
            db,
            name,
            writer,
            ends: Mutex::new(ends),
            given: Mutex::new(given),
            tail: Mutex::default(),
            flushed,
            growth,
            _open: open,
        };
        Ok(LogStore {
            shared: Arc::new(shared),
        })
    }

    /// The last entry that was purged.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.shared.ends().purged
    }

    /// The last entry, or the last purged one.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.shared.ends().last
    }

    /// Its end, for who does not keep it open.
    pub(crate) fn end(&self) -> LogEnd {
        LogEnd(Arc::downgrade(&self.shared))
    }
}

/// Where a log ends.
pub(crate) struct LogEnd(Weak<Shared>);

impl LogEnd {
    /// The last entry that is on disk, or the last purged one; `None` also if the log is closed.
    pub(crate) fn get(&self) -> Option<LogId> {
        self.0.upgrade()?.ends().last
    }
}

/// The remedy stands in the error, since a damaged log is not repaired but replaced.
fn refused(name: &str, error: Error) -> Error {
    let remedy = match error.code {
        Code::ChecksumMismatch => format!(
            "; it is not used, since a metaserver that lost part of its log must not vote: {REPLACE}"
        ),
        _ => String::new(),
    };
    let Error { code, text, source } = error;
    Error {
        code,
        text: format!("{name} can not be used: {text}{remedy}"),
        source,
    }
}

fn open_db(dir: &Path) -> Result<DB, rocksdb::Error> {
    let mut family = Options::default();
    family.set_compression_type(DBCompressionType::Lz4);
    family.set_write_buffer_size(64 << 20);
    family.set_max_write_buffer_number(4);

    let mut db = family.clone();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_paranoid_checks(true);
    // Any checksum that does not match is an error; only a record that a crash cut short at the
    // very end, which was therefore never acknowledged, is dropped. `AbsoluteConsistency` would
    // refuse that too and so not start after a power cut; `PointInTime`, the default,
    // silently drops everything after a damaged record. RocksDB does not recycle log
    // files in this mode, because it could not tell an old record from a damaged one.
    db.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // A log file of RocksDB that is missing or shorter than was synced is an error as well.
    db.set_track_and_verify_wals_in_manifest(true);
    db.set_max_total_wal_size(512 << 20);
    db.set_max_background_jobs(2);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(16 << 20);
    let families =
        [ENTRIES, META, "default"].map(|name| ColumnFamilyDescriptor::new(name, family.clone()));
    DB::open_cf_descriptors(&db, dir, families)
}

/// Reads the whole log once and returns its ends.
fn check(db: &DB, name: &str, owner: (ServerId, ShardId)) -> Result<Ends> {
    match read_meta::<(ServerId, ShardId)>(db, OWNER)? {
        Some(found) if found == owner => {}
        Some((server, shard)) => {
            return Err(Error::new(
                Code::Configuration,
                format!(
                    "it belongs to metaserver {server}, shard {shard}, and this is metaserver {}, \
                     shard {}: every server needs a directory of its own",
                    owner.0, owner.1
                ),
            ));
        }
        None => {
            let record = codec::encode_record(META_VERSION, &owner);
            let mut options = rocksdb::WriteOptions::default();
            options.set_sync(true);
            db.put_cf_opt(column(db, META)?, OWNER, record, &options)
                .map_err(|error| rocks_error(name, "can not be written", error))?;
        }
    }
    let purged = read_meta::<LogId>(db, PURGED)?;
    let mut last = purged;
    let mut entries = db.raw_iterator_cf(column(db, ENTRIES)?);
    entries.seek(record::key(purged.map_or(0, |purged| purged.index + 1)));
    while let Some((key, value)) = entries.item() {
        let entry = record::decode(key, value)?;
        let expected = last.map_or(0, |last| last.index + 1);
        if entry.log_id.index != expected {
            return Err(record::damaged(format!(
                "entry {} follows where entry {expected} must be",
                entry.log_id.index
            )));
        }
        last = Some(entry.log_id);
        entries.next();
    }
    entries
        .status()
        .map_err(|error| rocks_error(name, "can not be read", error))?;
    Ok(Ends {
        purged,
        last,
        owed: None,
    })
}

fn column<'a>(db: &'a DB, name: &str) -> Result<&'a ColumnFamily> {
    db.cf_handle(name).ok_or_else(|| {
        Error::bug(format!(
            "the column family {name} of the Raft log was not opened"
        ))
    })
}

fn read_meta<T: DeserializeOwned>(db: &DB, key: &[u8]) -> Result<Option<T>> {
    let what = String::from_utf8_lossy(key);
    let record = db
        .get_pinned_cf(column(db, META)?, key)
        .map_err(|error| rocks_error(&format!("its {what}"), "can not be read", error))?;
    match record {
        Some(record) => {
            let (value, _) = codec::decode_record(&format!("its {what}"), META_VERSION, &record)?;
            Ok(Some(value))
        }
        None => Ok(None),
    }
}

fn put_meta<T: Serialize>(key: &'static [u8], value: &T) -> Change {
    Change::PutMeta {
        key,
        record: codec::encode_record(META_VERSION, value),
    }
}

impl Shared {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given(&self) -> MutexGuard<'_, Option<Vote<NodeId>>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries from `from` to `to` (exclusive) until their payloads are longer than `len_max`;
    /// at least one if there is one.
    fn read(&self, from: u64, to: u64, len_max: usize) -> Result<Vec<LogEntry>> {
        let mut found = Vec::new();
        let mut len = 0;
        let mut entries = self.db.raw_iterator_cf(column(&self.db, ENTRIES)?);
        entries.seek(record::key(from));
        while let Some((key, value)) = entries.item() {
            let entry = record::decode(key, value)?;
            len += value.len();
            if entry.log_id.index >= to || (len > len_max && !found.is_empty()) {
                return Ok(found);
            }
            found.push(entry);
            entries.next();
        }
        entries
            .status()
            .map_err(|error| rocks_error(&self.name, "can not be read", error))?;
        Ok(found)
    }

    /// Purges on disk what is still owed, once the state on disk holds as much.
    async fn settle(&self) -> Result<(), StorageError> {
        let Some(log_id) = self.ends().owed else {
            return Ok(());
        };
        self.flushed.wait_for(log_id.index).await;
        let refuse = |error| StorageError::from(StorageIOError::write_logs(any(error)));
        let changes = vec![
            Change::DeleteEntries {
                from: 0,
                to: log_id.index.saturating_add(1),
            },
            put_meta(PURGED, &log_id),
        ];
        self.writer
            .write(changes, Durability::Now)
            .await
            .map_err(refuse)?;
        // Files that hold only purged entries are removed at once rather than compacted.
        let dropped = column(&self.db, ENTRIES).and_then(|entries| {
            self.db
                .delete_file_in_range_cf(entries, record::key(0), record::key(log_id.index))
                .map_err(|error| rocks_error(&self.name, "can not be purged", error))
        });
        dropped.map_err(refuse)?;
        self.ends().owed = None;
        Ok(())
    }

    fn entries(&self, from: u64, to: u64, len_max: usize) -> Result<Vec<LogEntry>> {
        if from >= to {
            return Ok(Vec::new());
        }
        if let Some(found) = self.tail().range(from, to) {
            return Ok(found);
        }
        blocking(|| self.read(from, to, len_max))
    }
}

fn read_failed(error: Error) -> StorageError {
    StorageIOError::read_logs(any(error)).into()
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<LogEntry>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        self.shared
            .entries(from, to, usize::MAX)
            .map_err(read_failed)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, StorageError> {
        self.shared
            .entries(start, end, RAFT_ENTRY_LEN_MAX)
            .map_err(read_failed)
    }
}

impl openraft::storage::RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let Ends { purged, last, .. } = *self.shared.ends();
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last,
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<NodeId>) -> Result<(), StorageError> {
        let given = *self.shared.given();
        // That the others gave theirs too is not promised to anybody: it need not be durable before the first entry of
        // that leader, which is synced after it. Each election has two syncs less.
        let is_given = given.is_some_and(|given| given.leader_id == vote.leader_id);
        let durability = match is_given {
            true => Durability::WithTheNext,
            false => Durability::Now,
        };
        let changes = vec![put_meta(VOTE, vote)];
        let written = self.shared.writer.write(changes, durability).await;
        written.map_err(|error| StorageIOError::write_vote(any(error)))?;
        *self.shared.given() = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<NodeId>>, StorageError> {
        read_meta(&self.shared.db, VOTE)
            .map_err(|error| StorageIOError::read_vote(any(error)).into())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // What follows a snapshot must not stand behind entries that do not reach it.
        self.shared.settle().await?;
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let mut len = 0;
        let changes = entries
            .iter()
            .map(|entry| {
                let record = record::encode(entry);
                len += record.len() as u64;
                Change::PutEntry {
                    index: entry.log_id.index,
                    record,
                }
            })
            .collect();
        if let Err(error) = self.shared.writer.write(changes, Durability::Now).await {
            callback.log_io_completed(Err(error.clone().into()));
            return Err(StorageIOError::write_logs(any(error)).into());
        }
        if let Some(last) = entries.last() {
            self.shared.ends().last = Some(last.log_id);
        }
        {
            let mut tail = self.shared.tail();
            entries.into_iter().for_each(|entry| tail.push(entry));
        }
        self.shared.growth.add(len);
        // After the sync, since this is what lets Raft count this copy.
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.shared.settle().await?;
        let changes = vec![Change::DeleteEntries {
            from: log_id.index,
            to: u64::MAX,
        }];
        let written = self.shared.writer.write(changes, Durability::Now).await;
        written.map_err(|error| StorageIOError::write_logs(any(error)))?;
        self.shared.tail().truncate(log_id.index);
        let before = match log_id.index.checked_sub(1) {
            Some(before) => {
                let found = self.shared.entries(before, log_id.index, usize::MAX);
                found.map_err(read_failed)?.pop()
            }
            None => None,
        };
        let mut ends = self.shared.ends();
        ends.last = before.map(|entry| entry.log_id).or(ends.purged);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.shared.tail().purge(log_id.index);
        {
            let mut ends = self.shared.ends();
            ends.purged = Some(log_id);
            ends.last = ends.last.max(Some(log_id));
            ends.owed = Some(log_id);
        }
        // A snapshot that is taken over makes openraft purge at once, beside the taking over. Then the entries stay on
        // disk until the state holds what replaces them: at the latest until the next write.
        if !self.shared.flushed.holds(log_id.index) {
            return Ok(());
        }
        self.shared.settle().await
    }
}
