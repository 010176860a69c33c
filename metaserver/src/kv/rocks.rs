//! The state in RocksDB: one column family each, no write-ahead log, flushes atomic over all.
//!
//! Layout: `<dir>/<generation>/` holds one RocksDB, the generation being eight decimal digits.
//! Importing builds the next generation aside, renames it into place, and removes the old one
//! when its last view is dropped; at the start the greatest generation counts and whatever else
//! is there is left over from a crash.

use super::{Batch, Family, Kv, KvRead, Visit, io_error, rocks_error};
use bytes::Bytes;
use quarry_common::durable::sync_directory;
use quarry_common::{Code, Error, Result};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRawIterator, DBRecoveryMode, FlushOptions, Options, ReadOptions, Snapshot, WriteBatch,
    WriteOptions,
};
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// What an operator may choose.
#[derive(Clone, Debug)]
pub struct RocksOptions {
    /// Bytes of memory for blocks, indexes and filters of all families.
    pub cache_len: usize,
    /// Bytes of memory for writes of all families that are not flushed yet.
    pub write_buffer_len: usize,
}

impl Default for RocksOptions {
    /// 256 MiB of cache, 128 MiB of writes: about a million files are served from memory.
    fn default() -> RocksOptions {
        RocksOptions {
            cache_len: 256 << 20,
            write_buffer_len: 128 << 20,
        }
    }
}

/// The state in RocksDB.
pub struct Rocks {
    dir: PathBuf,
    options: RocksOptions,
    current: RwLock<Arc<Generation>>,
}

/// One RocksDB. The fields are dropped in this order: closed first, then removed.
struct Generation {
    db: DB,
    dir: GenerationDir,
}

/// Where it is, and whether that is to be removed once it is closed.
struct GenerationDir {
    path: PathBuf,
    number: u64,
    replaced: AtomicBool,
}

/// What an import is built in before it is renamed into place.
const IMPORTING: &str = "importing";

impl Drop for GenerationDir {
    fn drop(&mut self) {
        if self.replaced.load(Ordering::Acquire)
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a replaced state was not removed; the next start tries again");
        }
    }
}

impl Rocks {
    /// Opens the state in `dir`, or makes an empty one.
    ///
    /// Fails, rather than start with less than was flushed, when a file is missing or damaged
    /// (`ChecksumMismatch`), and when another process has it open (`Io`).
    pub fn open(dir: &Path, options: RocksOptions) -> Result<Rocks> {
        fs::create_dir_all(dir).map_err(|error| io_error(dir, "can not be made", error))?;
        let mut generations = Vec::new();
        for entry in fs::read_dir(dir).map_err(|error| io_error(dir, "can not be listed", error))? {
            let entry = entry.map_err(|error| io_error(dir, "can not be listed", error))?;
            let number = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u64>().ok());
            generations.push((number, entry.path()));
        }
        generations.sort();
        let newest = match generations.pop() {
            Some((Some(number), _)) => number,
            // Only leftovers, or nothing: without a generation nothing was ever agreed here.
            Some(leftover) => {
                generations.push(leftover);
                1
            }
            None => 1,
        };
        // The lock of RocksDB shows that nobody else is using what is removed next.
        let current = Generation::open(dir, newest, &options)?;
        for (number, path) in generations {
            if number.is_some() || path.file_name().is_some_and(|name| name == IMPORTING) {
                fs::remove_dir_all(&path).map_err(|error| {
                    io_error(&path, "is left over and can not be removed", error)
                })?;
            }
        }
        Ok(Rocks {
            dir: dir.to_owned(),
            options,
            current: RwLock::new(Arc::new(current)),
        })
    }

    fn current(&self) -> RwLockReadGuard<'_, Arc<Generation>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generation {
    fn open(dir: &Path, number: u64, options: &RocksOptions) -> Result<Generation> {
        let path = dir.join(format!("{number:08}"));
        let db = open_db(&path, options)?;
        Ok(Generation {
            db,
            dir: GenerationDir {
                path,
                number,
                replaced: AtomicBool::new(false),
            },
        })
    }

    /// A database that is no generation of a state.
    fn elsewhere(db: DB, path: &Path) -> Generation {
        Generation {
            db,
            dir: GenerationDir {
                path: path.to_owned(),
                number: 0,
                replaced: AtomicBool::new(false),
            },
        }
    }

    fn family(&self, family: Family) -> Result<&ColumnFamily> {
        self.db
            .cf_handle(family.name())
            .ok_or_else(|| Error::bug(format!("the family {} was not opened", family.name())))
    }

    fn error(&self, doing: &str, error: rocksdb::Error) -> Error {
        rocks_error(
            &format!("the state {}", self.dir.path.display()),
            doing,
            error,
        )
    }
}

fn open_db(path: &Path, options: &RocksOptions) -> Result<DB> {
    open_db_for(path, options, Use::ReadWrite)
}

/// What a database is opened for.
enum Use {
    ReadWrite,
    /// Its files stay as they are.
    Read,
}

fn open_db_for(path: &Path, options: &RocksOptions, purpose: Use) -> Result<DB> {
    let cache = Cache::new_lru_cache(options.cache_len);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&cache);
    // Ten bits: one in a hundred lookups of a name that does not exist reads a block in vain.
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);
    table.set_block_size(16 << 10);

    let mut family = Options::default();
    family.set_block_based_table_factory(&table);
    family.set_compression_type(DBCompressionType::Lz4);
    // One family may fill half of the common buffer before it is flushed (with all others).
    family.set_write_buffer_size(options.write_buffer_len / 2);
    family.set_max_write_buffer_number(4);

    let mut db = family.clone();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_atomic_flush(true);
    db.set_db_write_buffer_size(options.write_buffer_len);
    db.set_paranoid_checks(true);
    // There is no log of RocksDB to recover; should one be found damaged, do not start.
    db.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
    db.set_max_background_jobs(2);
    db.set_bytes_per_sync(1 << 20);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(16 << 20);

    let families = Family::ALL
        .iter()
        .map(|name| {
            let mut options = family.clone();
            if is_queue(*name) {
                let half = DELETIONS_WINDOW / 2;
                options.add_compact_on_deletion_collector_factory(DELETIONS_WINDOW, half, 0.5);
            }
            if matches!(name, Family::Dentries | Family::Chunks) {
                // Most lookups of new names and chunks find nothing: they need not search what is in memory. A filter is
                // made with every memtable, 1.3 MiB of it, so not for all families.
                options.set_memtable_prefix_bloom_ratio(0.02);
                options.set_memtable_whole_key_filtering(true);
            }
            ColumnFamilyDescriptor::new(name.name(), options)
        })
        .chain([ColumnFamilyDescriptor::new("default", family.clone())]);
    let opened = match purpose {
        Use::ReadWrite => DB::open_cf_descriptors(&db, path, families).and_then(limit_scans),
        Use::Read => DB::open_cf_descriptors_read_only(&db, path, families, false),
    };
    opened.map_err(|error| {
        // Its own words for it, of another process and of this one.
        let said = error.to_string();
        if said.contains("While lock file") || said.contains("lock hold by current process") {
            let text = format!(
                "the state {} is in use by another metaserver: stop that one, or name this one's own directory",
                path.display()
            );
            return Error::new(Code::Configuration, text).with_source(error);
        }
        rocks_error(
            &format!("the state {}", path.display()),
            "can not be opened",
            error,
        )
    })
}

/// Whether entries come and go in order, so that those who look for the first ones pass what was deleted: orphans and what
/// is trimmed, what sessions hold, removed trees, chunks that are doomed.
fn is_queue(family: Family) -> bool {
    matches!(
        family,
        Family::System | Family::Sessions | Family::Dentries | Family::Doomed
    )
}

/// A scan that passes so many deleted entries in memory has them written out, and of those on disk half of so many in a
/// row are compacted. (Measured: after 60,000 files had come and gone, four fifths of the metaserver's time went into
/// passing them.)
const DELETED_MAX: u32 = 8_192;
const DELETIONS_WINDOW: usize = 1_024;

/// The C interface of RocksDB that its crate binds has no such option before it is opened.
fn limit_scans(db: DB) -> Result<DB, rocksdb::Error> {
    let most = DELETED_MAX.to_string();
    for family in Family::ALL.iter().filter(|family| is_queue(**family)) {
        if let Some(handle) = db.cf_handle(family.name()) {
            db.set_options_cf(handle, &[("memtable_op_scan_flush_trigger", &most)])?;
        }
    }
    Ok(db)
}

/// Where reads come from: the present state or a snapshot of it.
trait Source {
    fn value(&self, family: &ColumnFamily, key: &[u8]) -> Result<Option<Bytes>, rocksdb::Error>;
    fn iterator(&self, family: &ColumnFamily, options: ReadOptions) -> DBRawIterator<'_>;
}

impl Source for DB {
    fn value(&self, family: &ColumnFamily, key: &[u8]) -> Result<Option<Bytes>, rocksdb::Error> {
        Ok(self
            .get_pinned_cf(family, key)?
            .map(|value| Bytes::copy_from_slice(&value)))
    }

    fn iterator(&self, family: &ColumnFamily, options: ReadOptions) -> DBRawIterator<'_> {
        self.raw_iterator_cf_opt(family, options)
    }
}

impl Source for Snapshot<'_> {
    fn value(&self, family: &ColumnFamily, key: &[u8]) -> Result<Option<Bytes>, rocksdb::Error> {
        Ok(self
            .get_pinned_cf(family, key)?
            .map(|value| Bytes::copy_from_slice(&value)))
    }

    fn iterator(&self, family: &ColumnFamily, options: ReadOptions) -> DBRawIterator<'_> {
        self.raw_iterator_cf_opt(family, options)
    }
}

impl Generation {
    fn get(&self, source: &impl Source, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        source
            .value(self.family(family)?, key)
            .map_err(|error| self.error("can not be read", error))
    }

    fn scan(
        &self,
        source: &impl Source,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<()> {
        if to.is_some_and(|to| from >= to) {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        let mut iterator = source.iterator(self.family(family)?, options);
        iterator.seek(from);
        while let Some((key, value)) = iterator.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            iterator.next();
        }
        // An iterator that met damage looks like one that met the end.
        iterator
            .status()
            .map_err(|error| self.error("can not be scanned", error))
    }

    fn last_before(
        &self,
        source: &impl Source,
        family: Family,
        low: &[u8],
        high: Bound<&[u8]>,
    ) -> Result<Option<(Bytes, Bytes)>> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(low);
        let mut iterator = source.iterator(self.family(family)?, options);
        match high {
            Bound::Included(high) => iterator.seek_for_prev(high),
            Bound::Excluded(high) => {
                iterator.seek_for_prev(high);
                if iterator.key() == Some(high) {
                    iterator.prev();
                }
            }
            Bound::Unbounded => iterator.seek_to_last(),
        }
        let found = iterator
            .item()
            .filter(|(key, _)| *key >= low)
            .map(|(key, value)| (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        match found {
            Some(found) => Ok(Some(found)),
            None => match iterator.status() {
                Ok(()) => Ok(None),
                Err(error) => Err(self.error("can not be scanned", error)),
            },
        }
    }

    fn flush(&self) -> Result<()> {
        let families = Family::ALL
            .iter()
            .map(|family| self.family(*family))
            .collect::<Result<Vec<_>>>()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db
            .flush_cfs_opt(&families, &options)
            .map_err(|error| self.error("can not be flushed", error))
    }

    /// Reads everything once, so that damage shows.
    fn verify(&self) -> Result<()> {
        for family in Family::ALL {
            self.scan(&self.db, *family, &[], None, &mut |_, _| {
                std::ops::ControlFlow::Continue(())
            })?;
        }
        Ok(())
    }
}

impl KvRead for Rocks {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        let current = self.current();
        current.get(&current.db, family, key)
    }

    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<()> {
        // Not under the lock: `visit` may write, or take long.
        let current = self.current().clone();
        current.scan(&current.db, family, from, to, visit)
    }

    fn last_before(
        &self,
        family: Family,
        low: &[u8],
        high: Bound<&[u8]>,
    ) -> Result<Option<(Bytes, Bytes)>> {
        let current = self.current();
        current.last_before(&current.db, family, low, high)
    }
}

impl Kv for Rocks {
    fn view(&self) -> Box<dyn KvRead> {
        Box::new(View::new(self.current().clone()))
    }

    fn write(&self, batch: &Batch) -> Result<()> {
        let current = self.current();
        let mut changes = WriteBatch::default();
        for change in &batch.changes {
            let family = current.family(change.family)?;
            match &change.value {
                Some(value) => changes.put_cf(family, &change.key, value),
                None => changes.delete_cf(family, &change.key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        current
            .db
            .write_opt(changes, &options)
            .map_err(|error| current.error("can not be written", error))
    }

    fn flush(&self) -> Result<()> {
        let current = self.current().clone();
        current.flush()
    }

    fn export(&self, to: &Path) -> Result<()> {
        let current = self.current().clone();
        // Flushed here with all families at one point, so that the copy has no memory to flush.
        current.flush()?;
        Checkpoint::new(&current.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(to))
            .map_err(|error| {
                current.error(&format!("can not be copied to {}", to.display()), error)
            })?;
        sync_parent(to)
    }

    fn import(&self, from: &Path) -> Result<()> {
        let building = self.dir.join(IMPORTING);
        match fs::remove_dir_all(&building) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_error(
                    &building,
                    "is left over and can not be removed",
                    error,
                ));
            }
            _ => {}
        }
        copy_dir(from, &building)?;
        // Opened once where it is built, and read in full: a damaged copy never replaces a state.
        let db = open_db(&building, &self.options)?;
        Generation::elsewhere(db, &building).verify()?;

        let number = self.current().dir.number + 1;
        let place = self.dir.join(format!("{number:08}"));
        fs::rename(&building, &place)
            .map_err(|error| io_error(&place, "can not be made", error))?;
        sync_parent(&place)?;
        let imported = Arc::new(Generation::open(&self.dir, number, &self.options)?);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let replaced = std::mem::replace(&mut *current, imported);
        drop(current);
        replaced.dir.replaced.store(true, Ordering::Release);
        Ok(())
    }

    fn open_copy(&self, from: &Path) -> Result<Box<dyn KvRead>> {
        let db = open_db_for(from, &self.options, Use::Read)?;
        let copy = Generation::elsewhere(db, from);
        copy.verify()?;
        Ok(Box::new(View::new(Arc::new(copy))))
    }

    fn len_on_disk(&self) -> u64 {
        let current = self.current();
        let sum = Family::ALL.iter().filter_map(|family| {
            let family = current.db.cf_handle(family.name())?;
            current
                .db
                .property_int_value_cf(family, "rocksdb.total-sst-files-size")
                .ok()?
        });
        sum.sum()
    }
}

/// A consistent view. The snapshot is dropped before the database it refers to.
struct View {
    snapshot: Snapshot<'static>,
    generation: Arc<Generation>,
}

impl View {
    fn new(generation: Arc<Generation>) -> View {
        let db: *const DB = &generation.db;
        // SAFETY: the database lives in the allocation of the Arc, which does not move and which
        // this view keeps alive; the field order drops the snapshot before the Arc.
        let db: &'static DB = unsafe { &*db };
        View {
            snapshot: db.snapshot(),
            generation,
        }
    }
}

impl KvRead for View {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        self.generation.get(&self.snapshot, family, key)
    }

    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<()> {
        self.generation
            .scan(&self.snapshot, family, from, to, visit)
    }

    fn last_before(
        &self,
        family: Family,
        low: &[u8],
        high: Bound<&[u8]>,
    ) -> Result<Option<(Bytes, Bytes)>> {
        self.generation
            .last_before(&self.snapshot, family, low, high)
    }
}

/// Copies the files of `from` into the new directory `to` and makes them durable. Table files
/// never change, so they are linked when both are on one file system.
pub(crate) fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(|error| io_error(to, "can not be made", error))?;
    for entry in fs::read_dir(from).map_err(|error| io_error(from, "can not be listed", error))? {
        let entry = entry.map_err(|error| io_error(from, "can not be listed", error))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let is_table = source
            .extension()
            .is_some_and(|extension| extension == "sst");
        if !is_table || fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target)
                .map_err(|error| io_error(&target, "can not be written", error))?;
            fs::File::open(&target)
                .and_then(|file| file.sync_all())
                .map_err(|error| io_error(&target, "can not be synced", error))?;
        }
    }
    sync_dir(to)
}

fn sync_dir(dir: &Path) -> Result<()> {
    sync_directory(dir).map_err(|error| io_error(dir, "can not be synced", error))
}

fn sync_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), sync_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::ControlFlow;
    use std::time::{Duration, Instant};

    #[test]
    fn a_state_that_is_in_use_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Rocks::open(&dir.path().join("state"), RocksOptions::default());
        let first = open().unwrap();
        let error = open().map(drop).unwrap_err();
        assert_eq!(error.code, Code::Configuration, "{error}");
        assert!(
            error.text.contains("in use by another metaserver"),
            "{error}"
        );
        drop(first);
        open().unwrap();
    }

    #[test]
    fn what_came_and_went_in_a_queue_is_not_passed_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let rocks = Rocks::open(&dir.path().join("state"), RocksOptions::default()).unwrap();
        let key = |number: u32| number.to_be_bytes().to_vec();
        let write = |change: &dyn Fn(&mut Batch)| {
            let mut batch = Batch::new();
            change(&mut batch);
            rocks.write(&batch).unwrap();
        };
        let first = || {
            let mut first = None;
            let mut visit = |key: &[u8], _: &[u8]| {
                first = Some(key.to_vec());
                ControlFlow::Break(())
            };
            rocks.scan(Family::System, &[], None, &mut visit).unwrap();
            first
        };
        let count = 3 * DELETED_MAX;
        // So that what is deleted is not only in memory.
        write(&|batch| (0..count).for_each(|number| batch.put(Family::System, key(number), "x")));
        rocks.flush().unwrap();
        write(&|batch| (0..count).for_each(|number| batch.delete(Family::System, key(number))));
        let of = |property: &str| {
            let current = rocks.current();
            let family = current.db.cf_handle(Family::System.name()).unwrap();
            let found = current.db.property_int_value_cf(family, property);
            found.unwrap().unwrap()
        };
        let begun = Instant::now();
        // What is in memory is written out once it was passed, and what is on disk goes.
        while of("rocksdb.num-deletes-active-mem-table") > u64::from(DELETED_MAX)
            || of("rocksdb.total-sst-files-size") > 10_000
        {
            assert!(begun.elapsed() < Duration::from_secs(30), "it stays");
            assert_eq!(first(), None);
            write(&|batch| {
                batch.put(Family::System, key(count), "x");
                batch.delete(Family::System, key(count));
            });
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
