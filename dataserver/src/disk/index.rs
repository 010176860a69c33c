//! The index of a disk: a RocksDB that says where each sealed chunk is.
//!
//! It is derived from the chunk files and segments, so it has no log of its own: what a crash takes from
//! it is read again. Its keys, all in one column family:
//!
//! | key | value |
//! | --- | --- |
//! | `i` | the identity of the disk, with the format of the index |
//! | `n` | counts of chunks and bytes |
//! | `f` folder (1) pool (2) chunk (8), big-endian | [`Entry::File`] |
//! | `s` folder (1) pool (2) chunk (8) | [`Entry::Small`] |
//! | `g` pool (2) order (8) chunk (8) | length, CRC and kind of each of them: [`Brief`] |
//! | `p` segment (4) | [`SegmentState`], 8 bytes each, big-endian; written with its entries |
//!
//! Files are ordered by folder so that a start compares them with a listing, folder by folder. The order in
//! `g` is that of the metaserver's `chunks`, the bits of the chunk's hash in reverse: a placement group is one
//! range of it, however many groups there are.

use super::entry::Entry;
use super::health::{Health, io_error};
use super::identity::DiskIdentity;
use super::name::{ChunkName, orders_of};
use super::segment_format::{RecordHead, SegmentId};
use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, PgId, PoolId};
use quarry_common::map::pg_of;
use quarry_common::{Code, Error, Result, codec};
use rocksdb::{
    BlockBasedOptions, Cache, DB, Direction, IteratorMode, LogLevel, Options, WriteBatch,
    WriteOptions,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The format of keys and values together; another one means: rebuild.
const FORMAT: u8 = 2;

const IDENTITY: &[u8] = b"i";
const COUNTS: &[u8] = b"n";
const FILE: u8 = b'f';
const SMALL: u8 = b's';
const GROUP: u8 = b'g';
const POSITION: u8 = b'p';

/// Entries in memory before they are written out: what a crash takes away and a start reads again, so
/// not large; about a thousand chunk files or a hundred thousand small chunks.
const WRITE_BUFFER_LEN: usize = 8 << 20;
/// Memory for blocks that were read, a disk.
const CACHE_LEN: usize = 32 << 20;

/// How many sealed chunks a disk has, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Chunks with a file of their own.
    pub files: u64,
    /// Chunks in segments.
    pub small: u64,
    /// Bytes of all of them.
    pub len: u64,
}

/// What is known of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentState {
    /// Up to where it has been read.
    pub read_until: u64,
    /// Bytes of the records in it that entries lead to.
    pub live: u64,
}

impl SegmentState {
    fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.read_until.to_be_bytes());
        bytes[8..].copy_from_slice(&self.live.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<SegmentState> {
        let (read_until, live) = bytes.split_first_chunk()?;
        Some(SegmentState {
            read_until: u64::from_be_bytes(*read_until),
            live: u64::from_be_bytes(live.try_into().ok()?),
        })
    }
}

/// The bytes that a record takes in its segment.
fn record_len(len: u32) -> u64 {
    RecordHead::record_len_of(len as usize) as u64
}

/// The index.
pub struct Index {
    db: DB,
    write_options: WriteOptions,
    /// Made when the index turns out to be damaged: the next start does not trust it.
    mark: PathBuf,
    /// Of the disk that is in use, which fails with its index.
    health: OnceLock<Arc<Health>>,
    /// Also the lock of every change: counts are stored with what they count.
    counts: Mutex<Counts>,
    /// As they are stored; locked after `counts`.
    segments: Mutex<BTreeMap<SegmentId, SegmentState>>,
    /// Locked last.
    removed: Mutex<Removed>,
    /// Tests look around before the database is flushed.
    #[cfg(test)]
    flushing: Mutex<Option<LookAround>>,
}

#[cfg(test)]
type LookAround = Box<dyn FnOnce(&Index) + Send>;

/// Chunks whose file entries were removed, and would be back after a crash: nothing was made durable since.
#[derive(Default)]
struct Removed {
    /// Each with how many flushes had begun before it was removed the last time.
    names: HashMap<ChunkName, u64>,
    /// And more than are kept, the last one after so many.
    more: Option<u64>,
    /// Flushes that have begun.
    flushes: u64,
}

/// So many of them are kept; with more, each chunk may be one.
const REMOVED_MAX: usize = 65_536;

fn key(kind: u8, name: ChunkName) -> [u8; 12] {
    let mut key = [0; 12];
    key[0] = kind;
    key[1] = name.folder();
    key[2..4].copy_from_slice(&name.pool.0.to_be_bytes());
    key[4..].copy_from_slice(&name.chunk.0.to_be_bytes());
    key
}

fn parse_key(key: &[u8]) -> Option<ChunkName> {
    let [_, _, p0, p1, chunk @ ..] = key.first_chunk::<12>()?;
    Some(ChunkName {
        pool: PoolId(u16::from_be_bytes([*p0, *p1])),
        chunk: ChunkId(u64::from_be_bytes(*chunk)),
    })
}

/// What is listed of a sealed chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brief {
    /// Length in bytes.
    pub len: u32,
    /// CRC of those bytes.
    pub crc: Crc,
    /// Whether it is a record of a segment.
    pub small: bool,
}

impl Brief {
    /// That of an entry.
    pub fn of(entry: &Entry) -> Brief {
        Brief {
            len: entry.len(),
            crc: entry.crc(),
            small: matches!(entry, Entry::Small { .. }),
        }
    }
}

fn group_key(pool: PoolId, order: u64, chunk: ChunkId) -> [u8; 19] {
    let mut key = [0; 19];
    key[0] = GROUP;
    key[1..3].copy_from_slice(&pool.0.to_be_bytes());
    key[3..11].copy_from_slice(&order.to_be_bytes());
    key[11..].copy_from_slice(&chunk.0.to_be_bytes());
    key
}

fn parse_group_key(key: &[u8]) -> Option<ChunkName> {
    let [GROUP, p0, p1, _, _, _, _, _, _, _, _, chunk @ ..] = key.first_chunk::<19>()? else {
        return None;
    };
    Some(ChunkName {
        pool: PoolId(u16::from_be_bytes([*p0, *p1])),
        chunk: ChunkId(u64::from_be_bytes(*chunk)),
    })
}

fn position_key(segment: SegmentId) -> [u8; 5] {
    let mut key = [POSITION; 5];
    key[1..].copy_from_slice(&segment.0.to_be_bytes());
    key
}

fn brief_key(name: ChunkName) -> [u8; 19] {
    group_key(name.pool, name.order(), name.chunk)
}

fn kind_of(entry: &Entry) -> u8 {
    match entry {
        Entry::File { .. } => FILE,
        Entry::Small { .. } => SMALL,
    }
}

/// An error of the index: derived data, so the remedy is always the same.
fn damaged(error: impl std::fmt::Display) -> Error {
    Error::new(
        Code::ChecksumMismatch,
        format!(
            "the index of the disk can not be used: {error}; restart the dataserver, which rebuilds a damaged index"
        ),
    )
}

/// What an error of the database means that says nothing about what is in it: no room, and too many open files.
fn passing(text: &str) -> Option<Error> {
    let (code, remedy) = if text.contains("No space left on device") {
        (Code::DiskFull, "free some space on the disk")
    } else if text.contains("Too many open files") {
        (
            Code::Overloaded,
            "raise the limit of open files (ulimit -n)",
        )
    } else {
        return None;
    };
    let text = format!("the index of the disk can not be used now: {text}; {remedy}");
    Some(Error::new(code, text))
}

/// An error of the database when it is opened.
fn refused(error: rocksdb::Error) -> Error {
    let text = error.into_string();
    passing(&text).unwrap_or_else(|| damaged(text))
}

fn read_segments(db: &DB) -> Result<BTreeMap<SegmentId, SegmentState>> {
    let mut segments = BTreeMap::new();
    for item in db.iterator(IteratorMode::From(&[POSITION], Direction::Forward)) {
        let (key, value) = item.map_err(refused)?;
        if key.first() != Some(&POSITION) {
            break;
        }
        let segment = key.get(1..).and_then(|id| id.try_into().ok());
        let (Some(segment), Some(state)) = (segment, SegmentState::decode(&value)) else {
            return Err(damaged("what it says of a segment is malformed"));
        };
        segments.insert(SegmentId(u32::from_be_bytes(segment)), state);
    }
    Ok(segments)
}

/// Where the mark of a damaged index is: beside it.
fn mark_path(folder: &Path) -> PathBuf {
    folder.with_extension("damaged")
}

impl Index {
    /// Opens or creates the index in `folder` for the disk `identity`.
    ///
    /// `ChecksumMismatch` means that it is to be moved away and rebuilt; `DiskFull` and `Overloaded` pass.
    pub fn open(folder: &Path, identity: DiskIdentity) -> Result<Index> {
        if mark_path(folder).exists() {
            return Err(damaged("it was found damaged while it was in use"));
        }
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(WRITE_BUFFER_LEN);
        options.set_max_write_buffer_number(3);
        options.set_max_open_files(256);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_max_background_jobs(2);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(CACHE_LEN));
        table.set_cache_index_and_filter_blocks(true);
        // Every new chunk is looked up first and is not there, neither in the files nor in memory.
        table.set_bloom_filter(10.0, false);
        options.set_memtable_prefix_bloom_ratio(0.1);
        options.set_memtable_whole_key_filtering(true);
        options.set_block_based_table_factory(&table);
        let db = DB::open(&options, folder).map_err(refused)?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        let expected = codec::encode_record(FORMAT, &identity);
        match db.get(IDENTITY).map_err(refused)? {
            Some(found) if found == expected => {}
            Some(_) => return Err(damaged("it is another disk's, or of another format")),
            None if db.iterator(IteratorMode::Start).next().is_some() => {
                return Err(damaged("it does not say whose it is"));
            }
            None => db
                .put_opt(IDENTITY, expected, &write_options)
                .map_err(refused)?,
        }
        let counts = match db.get(COUNTS).map_err(refused)? {
            Some(bytes) => codec::decode("counts of a disk's index", &bytes).map_err(damaged)?,
            None => Counts::default(),
        };
        let segments = read_segments(&db)?;
        Ok(Index {
            db,
            write_options,
            mark: mark_path(folder),
            health: OnceLock::new(),
            counts: Mutex::new(counts),
            segments: Mutex::new(segments),
            removed: Mutex::default(),
            #[cfg(test)]
            flushing: Mutex::default(),
        })
    }

    /// Forgets that an index in `folder` was damaged, once it was moved away.
    pub fn clear_mark(folder: &Path) -> Result<()> {
        match std::fs::remove_file(mark_path(folder)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io_error("remove", &mark_path(folder), error))
            }
            _ => Ok(()),
        }
    }

    /// From now on the disk is in use: damage of the index fails it. A start, which may build another one, is over.
    pub fn begin_use(&self, health: Arc<Health>) {
        self.health.get_or_init(|| health);
    }

    /// An error of the index: the next start rebuilds it. In use nobody can say any more what is on the disk and what is
    /// not: an error of a chunk it must not seem to be.
    fn damaged(&self, error: impl std::fmt::Display) -> Error {
        let error = damaged(error);
        if let Err(unmarked) = std::fs::write(&self.mark, &error.text) {
            tracing::error!(
                "{}: {unmarked}; remove the index by hand before the next start",
                self.mark.display()
            );
        }
        match self.health.get() {
            Some(health) => health.fail(error.text),
            None => error,
        }
    }

    /// An error of the database in use.
    fn refused(&self, error: rocksdb::Error) -> Error {
        let text = error.into_string();
        passing(&text).unwrap_or_else(|| self.damaged(text))
    }

    /// The entry of a chunk.
    pub fn get(&self, name: ChunkName) -> Result<Option<Entry>> {
        // In this order: a file may take the place of a record between the two looks, and never the other way round.
        for kind in [SMALL, FILE] {
            if let Some(bytes) = self
                .db
                .get_pinned(key(kind, name))
                .map_err(|error| self.refused(error))?
            {
                return Entry::decode(&bytes)
                    .map(Some)
                    .map_err(|error| self.damaged(error));
            }
        }
        Ok(None)
    }

    /// Whether there is an entry.
    pub fn contains(&self, name: ChunkName) -> Result<bool> {
        for kind in [SMALL, FILE] {
            if self
                .db
                .get_pinned(key(kind, name))
                .map_err(|error| self.refused(error))?
                .is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Damages the entry of a chunk that has a file.
    #[cfg(test)]
    pub fn spoil(&self, name: ChunkName) {
        let spoiled = self.db.put_opt(key(FILE, name), b"x", &self.write_options);
        spoiled.unwrap();
    }

    /// Puts something where the chunks of a folder end that is none of them.
    #[cfg(test)]
    pub fn spoil_folder(&self, folder: u8) {
        let at = [FILE, folder, 0xff];
        let spoiled = self.db.put_opt(at, b"x", &self.write_options);
        spoiled.unwrap();
    }

    /// Stores entries of chunks that have none.
    #[cfg(test)]
    pub fn put(&self, entries: &[(ChunkName, Entry)]) -> Result<()> {
        self.write(&[], entries, None)
    }

    /// Stores entries, and that their segment has been read up to a position. The chunks have none, but for those of
    /// `replaced`, whose entries go in the same moment.
    pub fn put_segment(
        &self,
        replaced: &[ChunkName],
        entries: &[(ChunkName, Entry)],
        segment: SegmentId,
        read_until: u64,
    ) -> Result<()> {
        self.write(replaced, entries, Some((segment, read_until)))
    }

    /// Stores the entry of a chunk in place of the one it has, if it has one.
    pub fn replace(&self, name: ChunkName, entry: Entry) -> Result<()> {
        self.write(&[name], &[(name, entry)], None)
    }

    /// Removes the entry of a chunk.
    pub fn remove(&self, name: ChunkName) -> Result<()> {
        self.write(&[name], &[], None)
    }

    /// All of it at once: who looks meanwhile finds a chunk that is replaced with one of its two entries.
    fn write(
        &self,
        removed: &[ChunkName],
        entries: &[(ChunkName, Entry)],
        position: Option<(SegmentId, u64)>,
    ) -> Result<()> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut segments = self.segments_locked();
        let mut touched = BTreeMap::new();
        let state_of = |id: &SegmentId| segments.get(id).copied().unwrap_or_default();
        let mut changed = *counts;
        let mut batch = WriteBatch::default();
        let mut files = Vec::new();
        for name in removed {
            let Some(entry) = self.get(*name)? else {
                continue;
            };
            match &entry {
                Entry::File { .. } => {
                    changed.files = changed.files.saturating_sub(1);
                    files.push(*name);
                }
                Entry::Small { len, segment, .. } => {
                    changed.small = changed.small.saturating_sub(1);
                    let state = touched.entry(*segment).or_insert_with(|| state_of(segment));
                    state.live = state.live.saturating_sub(record_len(*len));
                }
            }
            changed.len = changed.len.saturating_sub(u64::from(entry.len()));
            batch.delete(key(kind_of(&entry), *name));
            batch.delete(brief_key(*name));
        }
        for (name, entry) in entries {
            match entry {
                Entry::File { .. } => changed.files += 1,
                Entry::Small { len, segment, .. } => {
                    changed.small += 1;
                    let state = touched.entry(*segment).or_insert_with(|| state_of(segment));
                    state.live += record_len(*len);
                }
            }
            changed.len += u64::from(entry.len());
            batch.put(key(kind_of(entry), *name), entry.encode());
            batch.put(brief_key(*name), codec::encode(&Brief::of(entry)));
        }
        if let Some((segment, read_until)) = position {
            let state = touched.entry(segment).or_insert_with(|| state_of(&segment));
            state.read_until = read_until;
        }
        if batch.is_empty() && touched.is_empty() {
            return Ok(());
        }
        for (segment, state) in &touched {
            batch.put(position_key(*segment), state.encode());
        }
        batch.put(COUNTS, codec::encode(&changed));
        self.db
            .write_opt(batch, &self.write_options)
            .map_err(|error| self.refused(error))?;
        *counts = changed;
        segments.extend(touched);
        // Not before the change: what is made durable meanwhile may be without it.
        let mut removed = self.removed_locked();
        files.into_iter().for_each(|name| removed.note(name));
        Ok(())
    }

    /// Whether an entry of a chunk's file that was removed may be back after a crash.
    pub fn may_come_back(&self, name: ChunkName) -> bool {
        let removed = self.removed_locked();
        removed.more.is_some() || removed.names.contains_key(&name)
    }

    fn removed_locked(&self) -> MutexGuard<'_, Removed> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments_locked(&self) -> MutexGuard<'_, BTreeMap<SegmentId, SegmentState>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of each segment.
    pub fn segments(&self) -> BTreeMap<SegmentId, SegmentState> {
        self.segments_locked().clone()
    }

    /// Bytes of the records of a segment that entries lead to.
    pub fn live_in(&self, segment: SegmentId) -> u64 {
        let segments = self.segments_locked();
        segments.get(&segment).map_or(0, |state| state.live)
    }

    /// Forgets a segment to which no entry leads; durable when it returns, with all that was changed before.
    pub fn forget_segment(&self, segment: SegmentId) -> Result<()> {
        let _no_change_meanwhile = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut segments = self.segments_locked();
        if segments.get(&segment).is_some_and(|state| state.live > 0) {
            let text = format!("segment {:08x} holds live chunks", segment.0);
            return Err(Error::bug(text));
        }
        self.db
            .delete_opt(position_key(segment), &self.write_options)
            .map_err(|error| self.refused(error))?;
        let state = segments.remove(&segment);
        let flushed = self.flush();
        if let (Err(_), Some(state)) = (&flushed, state) {
            segments.insert(segment, state);
            let state = state.encode();
            let kept = self
                .db
                .put_opt(position_key(segment), state, &self.write_options);
            return flushed.and(kept.map_err(|error| self.refused(error)));
        }
        flushed
    }

    /// The chunks with files in one folder, ordered by name.
    pub fn files_in(&self, folder: u8) -> Result<Vec<ChunkName>> {
        let prefix = [FILE, folder];
        let mut names = Vec::new();
        for item in self
            .db
            .iterator(IteratorMode::From(&prefix, Direction::Forward))
        {
            let (key, _) = item.map_err(|error| self.refused(error))?;
            if !key.starts_with(&prefix) {
                break;
            }
            names.push(parse_key(&key).ok_or_else(|| self.damaged("a key is malformed"))?);
        }
        Ok(names)
    }

    /// Every sealed chunk with its entry, in no order that means anything.
    pub fn entries(&self) -> impl Iterator<Item = Result<(ChunkName, Entry)>> {
        [FILE, SMALL].into_iter().flat_map(move |kind| {
            self.db
                .iterator(IteratorMode::From(&[kind], Direction::Forward))
                .take_while(move |item| {
                    item.as_ref()
                        .map_or(true, |(key, _)| key.first() == Some(&kind))
                })
                .map(move |item| {
                    let (key, value) = item.map_err(|error| self.refused(error))?;
                    let name = parse_key(&key).ok_or_else(|| self.damaged("a key is malformed"))?;
                    Ok((
                        name,
                        Entry::decode(&value).map_err(|error| self.damaged(error))?,
                    ))
                })
        })
    }

    /// The sealed chunks of a placement group in their order, from the one whose order and id are `from` on.
    pub fn group(
        &self,
        pool: PoolId,
        orders: RangeInclusive<u64>,
        from: (u64, ChunkId),
    ) -> impl Iterator<Item = Result<(ChunkName, Brief)>> {
        let first =
            group_key(pool, from.0, from.1).max(group_key(pool, *orders.start(), ChunkId(0)));
        let last = group_key(pool, *orders.end(), ChunkId(u64::MAX));
        self.db
            .iterator(IteratorMode::From(&first, Direction::Forward))
            .map(|item| item.map_err(|error| self.refused(error)))
            .take_while(move |item| item.as_ref().map_or(true, |(key, _)| **key <= last[..]))
            .map(|item| {
                let (key, value) = item?;
                let name =
                    parse_group_key(&key).ok_or_else(|| self.damaged("a key is malformed"))?;
                let brief = codec::decode("what a disk's index lists of a chunk", &value);
                Ok((name, brief.map_err(|error| self.damaged(error))?))
            })
    }

    /// The placement groups of a pool that have sealed chunks. Costs a seek for each of them.
    pub fn groups(&self, pool: PoolId, pg_count: u32) -> Result<Vec<PgId>> {
        let mut groups = Vec::new();
        let mut next = Some(0);
        while let Some(order) = next {
            let from = group_key(pool, order, ChunkId(0));
            let mut rest = self
                .db
                .iterator(IteratorMode::From(&from, Direction::Forward));
            let Some(item) = rest.next() else {
                break;
            };
            let (key, _) = item.map_err(|error| self.refused(error))?;
            if !key.starts_with(&from[..3]) {
                break;
            }
            let name = parse_group_key(&key).ok_or_else(|| self.damaged("a key is malformed"))?;
            let pg = pg_of(name.chunk, pg_count);
            groups.push(pg);
            next = orders_of(pg, pg_count).end().checked_add(1);
        }
        Ok(groups)
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes everything durable, so that the next start need not read it again.
    pub fn flush(&self) -> Result<()> {
        let begun = self.removed_locked().begin_flush();
        #[cfg(test)]
        if let Some(look) = self.flushing.lock().unwrap().take() {
            look(self);
        }
        self.db.flush().map_err(|error| self.refused(error))?;
        // Not before: until now each of them may be back.
        self.removed_locked().end_flush(begun);
        Ok(())
    }
}

impl Removed {
    fn note(&mut self, name: ChunkName) {
        let has_room = self.names.len() < REMOVED_MAX || self.names.contains_key(&name);
        match has_room {
            true => drop(self.names.insert(name, self.flushes)),
            false => self.more = Some(self.flushes),
        }
    }

    /// A flush begins; which one.
    fn begin_flush(&mut self) -> u64 {
        self.flushes += 1;
        self.flushes
    }

    /// It is over: what was removed before it began is durably gone, and what was removed meanwhile may not be.
    fn end_flush(&mut self, begun: u64) {
        self.names.retain(|_, at| *at >= begun);
        self.more = self.more.filter(|at| *at >= begun);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::{ClusterId, DiskId};

    const IDENTITY_1: DiskIdentity = DiskIdentity {
        cluster: ClusterId([1; 16]),
        disk: DiskId(1),
    };

    fn name(chunk: u64) -> ChunkName {
        ChunkName {
            pool: PoolId(1),
            chunk: ChunkId(chunk),
        }
    }

    fn file(len: u32) -> Entry {
        Entry::File {
            len,
            crc: Crc(1),
            cuts: vec![],
            blocks: vec![Crc(1)],
        }
    }

    #[test]
    fn entries_positions_and_counts_read_back_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let small = Entry::Small {
            len: 7,
            crc: Crc(2),
            segment: SegmentId(4),
            at: 8192,
        };
        {
            let index = Index::open(dir.path(), IDENTITY_1).unwrap();
            index
                .put(&[
                    (name(0x102), file(5)),
                    (name(2), file(6)),
                    (name(3), file(1)),
                ])
                .unwrap();
            index
                .put_segment(&[], &[(name(9), small.clone())], SegmentId(4), 12_288)
                .unwrap();
            index.remove(name(3)).unwrap();
            index.remove(name(3)).unwrap();
            index.flush().unwrap();
        }
        let index = Index::open(dir.path(), IDENTITY_1).unwrap();
        assert_eq!(index.get(name(9)).unwrap(), Some(small));
        assert_eq!(index.files_in(2).unwrap(), [name(2), name(0x102)]);
        assert_eq!(index.files_in(3).unwrap(), []);
        let state = SegmentState {
            read_until: 12_288,
            live: 48,
        };
        assert_eq!(index.segments(), BTreeMap::from([(SegmentId(4), state)]));
        assert_eq!(
            index.counts(),
            Counts {
                files: 2,
                small: 1,
                len: 18
            }
        );
        assert_eq!(index.entries().count(), 3);
        assert!(!index.contains(name(3)).unwrap());
    }

    #[test]
    fn golden_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), IDENTITY_1).unwrap();
        let small = Entry::Small {
            len: 7,
            crc: Crc(2),
            segment: SegmentId(4),
            at: 8192,
        };
        index.put(&[(name(0x102), file(300))]).unwrap();
        index
            .put_segment(&[], &[(name(9), small.clone())], SegmentId(4), 12_288)
            .unwrap();
        let stored = index.db.iterator(IteratorMode::Start);
        let stored: Vec<_> = stored
            .map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec())))
            .collect::<Result<_, _>>()
            .unwrap();
        #[rustfmt::skip]
        assert_eq!(stored, [
            // folder, pool, chunk
            (vec![b'f', 2, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2], file(300).encode()),
            // pool, bits of the hash in reverse, chunk; len, CRC, small
            (vec![b'g', 0, 1, 12, 192, 48, 125, 83, 48, 235, 72, 0, 0, 0, 0, 0, 0, 1, 2], vec![251, 44, 1, 1, 0]),
            (vec![b'g', 0, 1, 49, 151, 28, 61, 236, 197, 53, 224, 0, 0, 0, 0, 0, 0, 0, 9], vec![7, 2, 1]),
            // version, cluster, disk
            (vec![b'i'], [vec![2], vec![1; 17]].concat()),
            // files, small, bytes
            (vec![b'n'], vec![1, 1, 251, 0x33, 1]),
            // segment; read until, live
            (vec![b'p', 0, 0, 0, 4], vec![0, 0, 0, 0, 0, 0, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 48]),
            (vec![b's', 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9], small.encode()),
        ]);
    }

    #[test]
    fn what_is_live_in_a_segment_is_counted_and_the_last_one_lets_it_go() {
        let dir = tempfile::tempdir().unwrap();
        let small = |segment| Entry::Small {
            len: 100,
            crc: Crc(2),
            segment: SegmentId(segment),
            at: 8192,
        };
        let index = Index::open(dir.path(), IDENTITY_1).unwrap();
        let entries = [(name(1), small(4)), (name(2), small(4))];
        index
            .put_segment(&[], &entries, SegmentId(4), 12_288)
            .unwrap();
        index.remove(name(1)).unwrap();
        assert_eq!(index.live_in(SegmentId(4)), 144);
        assert!(index.forget_segment(SegmentId(4)).is_err());
        // Moved: out of one and into the other.
        let entries = [(name(2), small(5))];
        index
            .put_segment(&[name(2)], &entries, SegmentId(5), 12_288)
            .unwrap();
        let counts = Counts {
            files: 0,
            small: 1,
            len: 100,
        };
        assert_eq!(index.counts(), counts);
        index.forget_segment(SegmentId(4)).unwrap();
        let expected = BTreeMap::from([(
            SegmentId(5),
            SegmentState {
                read_until: 12_288,
                live: 144,
            },
        )]);
        assert_eq!(index.segments(), expected);
        drop(index);
        let index = Index::open(dir.path(), IDENTITY_1).unwrap();
        assert_eq!(index.segments(), expected, "also after a restart");
    }

    #[test]
    fn a_chunk_that_is_replaced_is_never_missing() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), IDENTITY_1).unwrap();
        let small = |at| Entry::Small {
            len: 100,
            crc: Crc(2),
            segment: SegmentId(4),
            at,
        };
        index.put(&[(name(1), small(0))]).unwrap();
        std::thread::scope(|scope| {
            let replacing = scope.spawn(|| {
                for at in 0..20_000 {
                    let entries = [(name(1), small(at))];
                    index
                        .put_segment(&[name(1)], &entries, SegmentId(4), 12_288)
                        .unwrap();
                }
                index.replace(name(1), file(200)).unwrap();
            });
            while !replacing.is_finished() {
                assert!(index.contains(name(1)).unwrap());
                assert!(index.get(name(1)).unwrap().is_some());
                let listed = index.group(PoolId(1), 0..=u64::MAX, (0, ChunkId(0)));
                assert_eq!(listed.count(), 1);
            }
        });
        assert_eq!(index.get(name(1)).unwrap(), Some(file(200)));
        assert_eq!(index.live_in(SegmentId(4)), 0);
    }

    #[test]
    fn a_removed_entry_may_come_back_until_a_flush_that_began_after_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), IDENTITY_1).unwrap();
        index
            .put(&[(name(1), file(5)), (name(2), file(6))])
            .unwrap();
        index.flush().unwrap();
        index.remove(name(1)).unwrap();
        index.remove(name(2)).unwrap();
        let look = |index: &Index| {
            assert!(index.may_come_back(name(1)) && index.may_come_back(name(2)));
            // Once more, while the flush is on its way.
            index.put(&[(name(2), file(7))]).unwrap();
            index.remove(name(2)).unwrap();
        };
        *index.flushing.lock().unwrap() = Some(Box::new(look));
        index.flush().unwrap();
        assert!(!index.may_come_back(name(1)) && index.may_come_back(name(2)));
        index.flush().unwrap();
        assert!(!index.may_come_back(name(2)));
    }

    #[test]
    fn no_room_and_too_many_open_files_are_no_damage() {
        let code = |text| passing(text).map(|error| error.code);
        for (text, expected) in [
            (
                "IO error: No space left on device: While appending to file: /d/index/000007.sst: No space left on device",
                Some(Code::DiskFull),
            ),
            (
                "IO error: While open a file for random read: /d/index/000004.sst: Too many open files",
                Some(Code::Overloaded),
            ),
            (
                "Corruption: block checksum mismatch: stored = 1, computed = 2",
                None,
            ),
            (
                "IO error: While pread offset 0 len 10: /d/index/000004.sst: Input/output error",
                None,
            ),
        ] {
            assert_eq!(code(text), expected, "{text}");
        }
    }

    #[test]
    fn the_index_of_another_disk_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Index::open(dir.path(), IDENTITY_1).unwrap());
        assert!(
            Index::open(
                dir.path(),
                DiskIdentity {
                    disk: DiskId(2),
                    ..IDENTITY_1
                }
            )
            .is_err()
        );
    }

    #[test]
    fn a_group_is_listed_in_its_order_from_any_place() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), IDENTITY_1).unwrap();
        let all: Vec<(ChunkName, Entry)> = (0..500).map(|i| (name(i), file(i as u32))).collect();
        index.put(&all).unwrap();
        let other_pool = ChunkName {
            pool: PoolId(2),
            ..name(1)
        };
        index.put(&[(other_pool, file(1))]).unwrap();
        index.remove(name(77)).unwrap();
        for pg_count in [1, 8] {
            let mut found = 0;
            let groups = index.groups(PoolId(1), pg_count).unwrap();
            assert_eq!(groups.len(), pg_count as usize);
            for pg in groups {
                let orders = || orders_of(pg, pg_count);
                let listed: Vec<_> = index
                    .group(PoolId(1), orders(), (0, ChunkId(0)))
                    .map(Result::unwrap)
                    .collect();
                for (at, (name, brief)) in listed.iter().enumerate() {
                    assert_eq!(pg_of(name.chunk, pg_count), pg);
                    assert_eq!((brief.len, brief.small), (name.chunk.0 as u32, false));
                    let rest = index.group(PoolId(1), orders(), (name.order(), name.chunk));
                    assert_eq!(rest.count(), listed.len() - at);
                }
                found += listed.len();
            }
            assert_eq!(found, 499, "{pg_count}");
        }
        assert_eq!(
            index.groups(PoolId(2), 1 << 16).unwrap(),
            [pg_of(ChunkId(1), 1 << 16)]
        );
    }

    #[test]
    fn keys_keep_their_parts() {
        let name = ChunkName {
            pool: PoolId(0xfffe),
            chunk: ChunkId(0x1234_5678_9abc_def0),
        };
        assert_eq!(
            key(FILE, name),
            [
                b'f', 0xf0, 0xff, 0xfe, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0
            ]
        );
        assert_eq!(parse_key(&key(FILE, name)), Some(name));
    }
}
