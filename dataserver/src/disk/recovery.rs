//! What a start does: brings the index up to what the disk holds.
//!
//! 1. Segments are read from where the index has read them.
//! 2. Chunk files are compared with the index, folder by folder. A file without an entry is recovered: by
//!    its footer if it was sealed, else by its longest flush record whose bytes verify. An entry without a
//!    file stays, and the chunk counts as a bad copy: it was deleted, or is lost here, and the metaservers know
//!    which. What a footer says of the bytes is believed: nothing that it covers was acknowledged before all of
//!    it was synced, and every reader checks every block against it.
//!
//! An index that can not be used, or that knows more than the disk holds, is moved away and built anew.

use super::aside::Aside;
use super::chunk_file::{ChunkFile, Prefix};
use super::chunk_format::{FOOTER_LEN_MAX, FlushRecord, Footer, Header, Owner};
use super::data_file::Buffers;
use super::entry::Entry;
use super::health::{Health, io_error, is_bad_sector};
use super::identity::{DiskIdentity, Rooms};
use super::index::{Index, SegmentState};
use super::layout::{self, SECTOR_LEN};
use super::name::ChunkName;
use super::segment_format::{BATCHES_AT, RecordHead, SegmentHeader, SegmentId};
use super::shared::{COPY_SUFFIX, chunk_path, owner, parse_segment, segment_path};
use super::trash::Trash;
use quarry_common::checksum::{self, Crc};
use quarry_common::limits::{BLOCK_LEN, FLUSHES_MAX};
use quarry_common::{Code, Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a start found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The index was moved away and built anew.
    pub index_rebuilt: bool,
    /// Small chunks read from segments that the index did not have.
    pub small_found: u64,
    /// Sealed chunk files that the index did not have.
    pub files_found: u64,
    /// Open chunk files that were ended at their last flush.
    pub files_finished: u64,
    /// Chunk files without anything durable, moved to the trash.
    pub files_trashed: u64,
    /// Chunks whose bytes do not verify, set aside.
    pub set_aside: u64,
    /// Entries whose file is not there.
    pub files_missing: u64,
}

/// What a start brings.
pub struct Recovered {
    /// The index, up to date.
    pub index: Index,
    /// The next free segment.
    pub next_segment: SegmentId,
    /// What was found and done.
    pub report: Report,
    /// Chunks of which there is an entry and nothing else: deleted, or lost.
    pub missing: Vec<ChunkName>,
}

/// What a start needs.
pub struct Recovery<'a> {
    pub rooms: &'a Rooms,
    pub identity: DiskIdentity,
    pub direct_io: bool,
    pub buffers: &'a Buffers,
    pub health: &'a Health,
    pub aside: &'a Aside,
    pub trash: &'a Trash,
}

impl Recovery<'_> {
    /// Brings the index up to date.
    pub fn run(&self) -> Result<Recovered> {
        let (mut report, mut missing) = (Report::default(), Vec::new());
        let attempt = Index::open(&self.rooms.index, self.identity).and_then(|index| {
            let next = self.catch_up(&index, &mut report, &mut missing)?;
            Ok((index, next))
        });
        let (index, next_segment) = match attempt {
            Ok(done) => done,
            // Of the index alone: errors of the disk itself have other codes.
            Err(error) if error.code == Code::ChecksumMismatch => {
                tracing::warn!(
                    "{error}; the index of {} is built anew",
                    self.rooms.root.display()
                );
                report = Report {
                    index_rebuilt: true,
                    ..Report::default()
                };
                // First: the new one will know nothing of them.
                for name in missing.drain(..) {
                    self.aside.put(name, "its file is gone", self.health)?;
                }
                if self.rooms.index.exists() {
                    self.trash.put(&self.rooms.index)?;
                }
                Index::clear_mark(&self.rooms.index)?;
                fs::create_dir_all(&self.rooms.index)
                    .map_err(|error| io_error("create", &self.rooms.index, error))?;
                let index = Index::open(&self.rooms.index, self.identity)?;
                let next = self.catch_up(&index, &mut report, &mut missing)?;
                (index, next)
            }
            Err(error) => return Err(error),
        };
        if report != Report::default() {
            // What was found may be in the page cache alone, left by a process that died before its sync.
            let root = File::open(&self.rooms.root)
                .map_err(|error| io_error("open", &self.rooms.root, error))?;
            rustix::fs::syncfs(&root)
                .map_err(|error| self.health.sync_error(&self.rooms.root, error.into()))?;
            index.flush()?;
            tracing::info!("{}: {report:?}", self.rooms.root.display());
        }
        Ok(Recovered {
            index,
            next_segment,
            report,
            missing,
        })
    }

    fn catch_up(
        &self,
        index: &Index,
        report: &mut Report,
        missing: &mut Vec<ChunkName>,
    ) -> Result<SegmentId> {
        let next = self.read_segments(index, report)?;
        (0..=255).try_for_each(|folder| self.compare_folder(index, folder, report, missing))?;
        Ok(next)
    }

    fn read_segments(&self, index: &Index, report: &mut Report) -> Result<SegmentId> {
        let folder = &self.rooms.segments;
        let mut found = BTreeMap::new();
        for item in fs::read_dir(folder).map_err(|error| io_error("list", folder, error))? {
            let item = item.map_err(|error| io_error("list", folder, error))?;
            let len = item
                .metadata()
                .map_err(|error| io_error("stat", &item.path(), error))?
                .len();
            match item.file_name().to_str().and_then(parse_segment) {
                Some(segment) => drop(found.insert(segment, len)),
                None => tracing::warn!("{} is no segment and is ignored", item.path().display()),
            }
        }
        let known = index.segments();
        for (segment, SegmentState { read_until, .. }) in &known {
            if found.get(segment).is_none_or(|len| len < read_until) {
                return Err(Error::new(
                    Code::ChecksumMismatch,
                    format!(
                        "the index has read segment {:08x} up to {read_until}, and the disk has less of it",
                        segment.0
                    ),
                ));
            }
        }
        let last = found.keys().chain(known.keys()).max().copied();
        for (segment, len) in found {
            let from = known.get(&segment).map_or(0, |state| state.read_until);
            if from < len {
                self.read_segment(index, segment, from, report)?;
            }
        }
        Ok(SegmentId(last.map_or(0, |last| last.0 + 1)))
    }

    fn read_segment(
        &self,
        index: &Index,
        segment: SegmentId,
        from: u64,
        report: &mut Report,
    ) -> Result<()> {
        let path = segment_path(self.rooms, segment);
        let failed = |error| io_error("read", &path, error);
        let file = File::open(&path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let read = |bytes: &mut [u8], at| {
            let lacking = read_with_gaps(bytes, at, |part, at| file.read_exact_at(part, at));
            if let Ok(1..) = lacking {
                tracing::error!(
                    "{} has sectors that can not be read: their small chunks are missing here; give the cluster another disk in place of this one soon",
                    path.display()
                );
            }
            lacking.map_err(failed)
        };
        let mut front = vec![0; len.min(BATCHES_AT) as usize];
        read(&mut front, 0)?;
        let header = match SegmentHeader::decode(&front) {
            Ok(header) if header.is(self.identity.cluster, self.identity.disk, segment) => header,
            Err(error) if error.code == Code::TooNew => return Err(error.context(path.display())),
            other => {
                let why = other.err().map_or_else(
                    || "it is another disk's or another segment's".to_owned(),
                    |error| error.text,
                );
                let path = path.display();
                match len > BATCHES_AT {
                    // Batches follow only a header that is durable.
                    true => tracing::error!(
                        "{path} can not be read: {why}; small chunks in it that the index does not know are missing on this disk until somebody reads them; if the disk has errors (dmesg), give the cluster an empty one in its place, which gets all of them"
                    ),
                    // As a crash leaves it.
                    false => tracing::warn!("{path} holds nothing yet: {why}"),
                }
                return index.put_segment(&[], &[], segment, len);
            }
        };
        let from = from.max(BATCHES_AT);
        let mut bytes = vec![0; len.saturating_sub(from) as usize];
        read(&mut bytes, from)?;
        // A copy that took the place of another, and one that a compaction has moved, stands further on: the last
        // whole one counts.
        let mut found: BTreeMap<ChunkName, Found> = BTreeMap::new();
        for record in scan(&bytes, header.nonce, from) {
            let known = found.entry(record.name()).or_insert(record);
            if record.verifies {
                *known = record;
            }
        }
        let (mut entries, mut healed) = (Vec::with_capacity(found.len()), Vec::new());
        let mut elsewhere = 0;
        for (name, Found { head, verifies }) in found {
            let is_marked = self.aside.reason(name).is_some();
            if let Some(known) = index.get(name)? {
                elsewhere += 1;
                if !verifies || !self.is_older(name, &known, segment, &head) {
                    continue;
                }
                index.remove(name)?;
                if is_marked {
                    healed.push(name);
                }
            }
            entries.push((
                name,
                Entry::Small {
                    len: head.len,
                    crc: head.crc,
                    segment,
                    at: head.at,
                },
            ));
            report.small_found += 1;
            if !verifies && !is_marked {
                self.aside
                    .put(name, "its record in a segment does not verify", self.health)?;
                report.set_aside += 1;
            }
        }
        if elsewhere > 0 {
            tracing::warn!(
                "{elsewhere} chunks of segment {:08x} are elsewhere as well: the last of each counts",
                segment.0
            );
        }
        // The whole file: nothing is ever added to a segment of an earlier start.
        index.put_segment(&[], &entries, segment, len)?;
        if !healed.is_empty() {
            index.flush()?;
        }
        healed
            .into_iter()
            .try_for_each(|name| self.aside.remove(name, self.health))
    }

    /// Whether what the index has of a chunk is older than a record.
    fn is_older(
        &self,
        name: ChunkName,
        known: &Entry,
        place: SegmentId,
        head: &RecordHead,
    ) -> bool {
        match known {
            Entry::Small { segment, at, .. } => (*segment, *at) < (place, head.at),
            Entry::File { len, .. } => {
                is_deleted(*len, head.len) || !chunk_path(self.rooms, name).exists()
            }
        }
    }

    fn compare_folder(
        &self,
        index: &Index,
        folder: u8,
        report: &mut Report,
        missing: &mut Vec<ChunkName>,
    ) -> Result<()> {
        let path = self.rooms.folder(folder);
        let mut files = BTreeSet::new();
        for item in fs::read_dir(&path).map_err(|error| io_error("list", &path, error))? {
            let item = item.map_err(|error| io_error("list", &path, error))?;
            match item.file_name().to_str().and_then(ChunkName::parse) {
                Some(name) if name.folder() == folder => drop(files.insert(name)),
                // Nobody wants it back, and it takes all the room that was reserved for it.
                None if is_copy(&item.file_name()) => fs::remove_file(item.path())
                    .map_err(|error| io_error("remove", &item.path(), error))?,
                _ => tracing::warn!("{} is no chunk file and is ignored", item.path().display()),
            }
        }
        let indexed = index.files_in(folder)?;
        for name in &indexed {
            if !files.remove(name) {
                tracing::warn!("the file of {name} is gone");
                report.files_missing += 1;
                missing.push(*name);
            }
        }
        for name in files {
            let Some(entry) = self.recover(name, report)? else {
                continue;
            };
            let record = index.get(name)?;
            let has_better = record.is_some_and(|record| is_deleted(entry.len(), record.len()));
            if has_better && self.aside.reason(name).is_none() {
                self.trash
                    .put(&self.rooms.folder(folder).join(name.file_name()))?;
                continue;
            }
            index.replace(name, entry)?;
        }
        Ok(())
    }

    /// Finds out what a chunk file without an entry is; a bad one is set aside, a useless one thrown away.
    fn recover(&self, name: ChunkName, report: &mut Report) -> Result<Option<Entry>> {
        let path = chunk_path(self.rooms, name);
        let owner = owner(self.identity, name);
        // Twice: an error of the disk may pass, and a mark does not.
        let again = |error: Error| match error.code {
            Code::Io => examine(&path, owner),
            _ => Err(error),
        };
        let finding = match examine(&path, owner).or_else(again) {
            // One bad sector does not take the disk away.
            Err(error) if error.code == Code::Io => Finding::Damaged(error.text),
            finding => finding?,
        };
        match finding {
            // Marked before: its entry is wanted for lists, its bytes are left alone.
            Finding::Sealed(entry) if self.aside.reason(name).is_some() => Ok(Some(entry)),
            _ if self.aside.reason(name).is_some() => Ok(None),
            Finding::Sealed(entry) | Finding::Part(entry) => {
                report.files_found += 1;
                Ok(Some(entry))
            }
            Finding::Open(prefix) => {
                let mut file = ChunkFile::resume(
                    &path,
                    owner,
                    prefix,
                    self.direct_io,
                    self.buffers,
                    self.health,
                )?;
                let entry = file.finish_at_flush(self.health)?;
                file.close(self.buffers);
                // Its name may never have been made durable by the start that a crash ended.
                super::data_file::sync_directory(&self.rooms.folder(name.folder()), self.health)?;
                report.files_finished += 1;
                Ok(entry)
            }
            Finding::Nothing => {
                self.trash.put(&path)?;
                report.files_trashed += 1;
                Ok(None)
            }
            Finding::Damaged(why) => {
                self.aside.put(name, &why, self.health)?;
                report.set_aside += 1;
                Ok(None)
            }
        }
    }
}

/// Whether a chunk file must have been deleted before a record of the chunk was written: of a chunk that has a file no
/// record is, and a file takes the place of a record only if it is longer. A crash may have undone the deletion.
fn is_deleted(file_len: u32, record_len: u32) -> bool {
    file_len <= record_len
}

/// Whether it is a copy that a crash left unfinished.
fn is_copy(file_name: &std::ffi::OsStr) -> bool {
    let stem = file_name
        .to_str()
        .and_then(|name| name.strip_suffix(COPY_SUFFIX));
    stem.and_then(ChunkName::parse).is_some()
}

/// What a chunk file turned out to be.
enum Finding {
    /// Sealed.
    Sealed(Entry),
    /// More may have been acknowledged than the bytes up to a flush, which verify. The file is left as it is.
    Part(Entry),
    /// Not sealed, and this much verifies.
    Open(Prefix),
    /// Nothing of it was ever durable.
    Nothing,
    /// Something of it may have been acknowledged, and can not be read.
    Damaged(String),
}

/// The entry of a chunk file whose bytes are not what its entry says: up to the longest flush that verifies.
///
/// After a power cut in the middle of a seal that entry may come from a footer before which the data never reached the
/// disk; what was acknowledged before is whole.
pub fn part_of(path: &Path, owner: Owner) -> Result<Option<Entry>> {
    let failed = |error| io_error("read", path, error);
    let file = File::open(path).map_err(failed)?;
    let file_len = file.metadata().map_err(failed)?.len();
    let mut front = vec![0; file_len.min(layout::DATA_AT) as usize];
    file.read_exact_at(&mut front, 0).map_err(failed)?;
    let Ok(records) = flush_records(path, &front, owner)? else {
        return Ok(None);
    };
    let prefix = longest(&file, &records).map_err(failed)?;
    Ok(prefix.map(|prefix| prefix.entry()))
}

/// The flush records in the `front` of a chunk file, the longest first; whose file it is if it is another's.
fn flush_records(
    path: &Path,
    front: &[u8],
    owner: Owner,
) -> Result<Result<Vec<FlushRecord>, Owner>> {
    let mut records: Vec<FlushRecord> = Vec::new();
    for sequence in 0..FLUSHES_MAX {
        let at = layout::flush_record_at(sequence) as usize;
        let Some(sector) = front.get(at..at + SECTOR_LEN) else {
            break;
        };
        match FlushRecord::decode(sector) {
            Ok(record) if record.owner != owner => return Ok(Err(record.owner)),
            Ok(record) if record.sequence == sequence => records.push(record),
            Err(error) if error.code == Code::TooNew => return Err(error.context(path.display())),
            Ok(_) | Err(_) => {}
        }
    }
    records.sort_by_key(|record| std::cmp::Reverse(record.len));
    Ok(Ok(records))
}

fn examine(path: &Path, owner: Owner) -> Result<Finding> {
    let failed = |error| io_error("read", path, error);
    let of_another = |owner: Owner| {
        let Owner {
            cluster,
            disk,
            pool,
            chunk,
        } = owner;
        let text = format!(
            "the file is that of chunk {chunk} of pool {pool} on disk {disk} of cluster {cluster}"
        );
        Ok(Finding::Damaged(text))
    };
    let file = File::open(path).map_err(failed)?;
    let file_len = file.metadata().map_err(failed)?.len();
    let mut end = vec![0; file_len.min(FOOTER_LEN_MAX as u64) as usize];
    let end_at = file_len - end.len() as u64;
    file.read_exact_at(&mut end, end_at).map_err(failed)?;
    let mut front = vec![0; file_len.min(layout::DATA_AT) as usize];
    file.read_exact_at(&mut front, 0).map_err(failed)?;
    let records = match flush_records(path, &front, owner)? {
        Ok(records) => records,
        Err(other) => return of_another(other),
    };

    match Footer::decode_end(&end) {
        Ok((footer, footer_len)) => {
            if footer.owner != owner {
                return of_another(footer.owner);
            }
            let Footer {
                len,
                crc,
                cuts,
                blocks,
                ..
            } = footer;
            if layout::data_end(&cuts, len) + footer_len as u64 != file_len
                || checksum::whole(&blocks, u64::from(len)) != crc
            {
                return Ok(Finding::Damaged(
                    "its length is not what its footer says".into(),
                ));
            }
            // A power cut while it was sealed may have left the footer and not the data before it. Whole blocks
            // are checked when they are read; one that is in part from before a flush and in part from after
            // it has one checksum, and must not take with it what was acknowledged.
            let mut block = vec![0; BLOCK_LEN];
            for record in &records {
                let (inside, first) =
                    (record.len % BLOCK_LEN as u32, record.len / BLOCK_LEN as u32);
                if inside == 0 || record.len >= len {
                    continue;
                }
                let from = record.len - inside;
                let block_len = (len - from).min(BLOCK_LEN as u32) as usize;
                let block = &mut block[..block_len];
                let is_read = read_data(&file, &cuts, from, block).map_err(failed)?;
                if is_read && blocks.get(first as usize) == Some(&Crc::of(block)) {
                    continue;
                }
                if let Some(prefix) = longest(&file, &records).map_err(failed)? {
                    return Ok(Finding::Part(prefix.entry()));
                }
            }
            return Ok(Finding::Sealed(Entry::File {
                len,
                crc,
                cuts,
                blocks,
            }));
        }
        Err(error) if error.code == Code::TooNew => return Err(error.context(path.display())),
        Err(_) => {}
    }

    if let Some(prefix) = longest(&file, &records).map_err(failed)? {
        // A damaged footer, or another flush that is damaged or whose bytes are: who has the file may still get them back.
        let was_longer = records.first().is_some_and(|first| first.len > prefix.len);
        return Ok(
            match was_longer || has_damaged_record(&front) || Footer::is_hinted(&end) {
                true => Finding::Part(prefix.entry()),
                false => Finding::Open(prefix),
            },
        );
    }
    if !records.is_empty() {
        return Ok(Finding::Damaged(
            "the bytes of none of its flushes verify".into(),
        ));
    }
    match Header::decode(&front) {
        Ok(header) if header.owner != owner => of_another(header.owner),
        Err(error) if error.code == Code::TooNew => Err(error.context(path.display())),
        _ if Footer::is_hinted(&end) => Ok(Finding::Damaged("its footer is damaged".into())),
        // It may also be torn, and was then never acknowledged: nothing refers to the chunk, and collection removes it.
        _ if has_damaged_record(&front) => Ok(Finding::Damaged(
            "none of its flush records is whole".into(),
        )),
        _ => Ok(Finding::Nothing),
    }
}

/// Whether there is something where a flush record stands that is none.
fn has_damaged_record(front: &[u8]) -> bool {
    let sector_of = |sequence| {
        let at = layout::flush_record_at(sequence) as usize;
        front.get(at..at + SECTOR_LEN)
    };
    (0..FLUSHES_MAX).filter_map(sector_of).any(|sector| {
        let is_unused = sector.iter().all(|byte| *byte == 0);
        !is_unused && FlushRecord::decode(sector).is_err()
    })
}

/// The prefix of the longest flush whose bytes verify; the longest comes first in `records`.
fn longest(file: &File, records: &[FlushRecord]) -> std::io::Result<Option<Prefix>> {
    for record in records {
        if let Some(prefix) = verify(file, record)? {
            return Ok(Some(prefix));
        }
    }
    Ok(None)
}

/// The prefix that a flush record names, if the bytes are still those.
fn verify(file: &File, record: &FlushRecord) -> std::io::Result<Option<Prefix>> {
    let mut blocks = Vec::new();
    let mut block = vec![0; BLOCK_LEN];
    let mut from = 0;
    while from < record.len {
        let len = (record.len - from).min(BLOCK_LEN as u32);
        let block = &mut block[..len as usize];
        if !read_data(file, &record.cuts, from, block)? {
            return Ok(None);
        }
        blocks.push(Crc::of(block));
        from += len;
    }
    let right = checksum::whole(&blocks, u64::from(record.len)) == record.crc;
    Ok(right.then(|| Prefix {
        len: record.len,
        crc: record.crc,
        blocks,
        cuts: record.cuts.clone(),
    }))
}

/// Fills `rest` with the bytes of the chunk from `from` on; false if the file is too short, or they can not be read.
fn read_data(file: &File, cuts: &[u32], from: u32, mut rest: &mut [u8]) -> std::io::Result<bool> {
    for run in layout::runs(cuts, from, rest.len() as u32) {
        let (part, after) = rest.split_at_mut(run.len as usize);
        match file.read_exact_at(part, run.file_at) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            // One bad sector does not take what is before it.
            Err(error) if is_bad_sector(&error) => return Ok(false),
            result => result?,
        }
        rest = after;
    }
    Ok(true)
}

/// Reads by `read` what stands at `at`, in small pieces where a disk has bad sectors, which stay zeros; how many pieces.
fn read_with_gaps(
    bytes: &mut [u8],
    at: u64,
    read: impl Fn(&mut [u8], u64) -> std::io::Result<()>,
) -> std::io::Result<usize> {
    let mut lacking = 0;
    for (part, part_at) in bytes.chunks_mut(PART_LEN).zip((at..).step_by(PART_LEN)) {
        match read(part, part_at) {
            Err(error) if is_bad_sector(&error) => {}
            whole => {
                whole?;
                continue;
            }
        }
        for (sector, at) in part
            .chunks_mut(SECTOR_LEN)
            .zip((part_at..).step_by(SECTOR_LEN))
        {
            match read(sector, at) {
                Err(error) if is_bad_sector(&error) => {
                    sector.fill(0);
                    lacking += 1;
                }
                whole => whole?,
            }
        }
    }
    Ok(lacking)
}

/// A segment is read in parts of this length.
const PART_LEN: usize = 1 << 20;

const _: () = assert!(PART_LEN.is_multiple_of(SECTOR_LEN));

/// A record that was found in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    head: RecordHead,
    /// Whether the data has the head's CRC.
    verifies: bool,
}

impl Found {
    fn name(&self) -> ChunkName {
        ChunkName {
            pool: self.head.pool,
            chunk: self.head.chunk,
        }
    }
}

/// The records in `bytes`, those of a segment from the batch at `from` on.
///
/// A record whose data does not verify is torn if no whole one follows, and then left out: it was never
/// acknowledged. Otherwise it was, and is damaged.
fn scan(bytes: &[u8], nonce: u64, from: u64) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut at = 0;
    while at + RecordHead::LEN <= bytes.len() {
        match RecordHead::decode(&bytes[at..], nonce, from + at as u64) {
            Some(head) => {
                let data_at = at + RecordHead::LEN;
                let data = bytes.get(data_at..data_at + head.len as usize);
                found.push(Found {
                    head,
                    verifies: data.is_some_and(|data| Crc::of(data) == head.crc),
                });
                at += head.record_len();
            }
            // Zeros at the end of a batch, or a damaged head: the next one is somewhere further on.
            None => at += RecordHead::ALIGN,
        }
    }
    found.truncate(
        found
            .iter()
            .rposition(|record| record.verifies)
            .map_or(0, |last| last + 1),
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::{ChunkId, PoolId};

    const NONCE: u64 = 0x1234_5678_9abc_def0;

    /// Batches of records, as the segment writer makes them; with where each record ends.
    fn segment(batches: &[&[usize]]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for batch in batches {
            for len in *batch {
                let data = vec![bytes.len() as u8 | 1; *len];
                let head = RecordHead {
                    pool: PoolId(1),
                    nonce: NONCE,
                    chunk: ChunkId(ends.len() as u64),
                    at: (BATCHES_AT as usize + bytes.len()) as u32,
                    len: *len as u32,
                    crc: Crc::of(&data),
                };
                bytes.extend_from_slice(&head.encode());
                bytes.extend_from_slice(&data);
                ends.push(bytes.len());
                bytes.resize(bytes.len().next_multiple_of(RecordHead::ALIGN), 0);
            }
            bytes.resize(bytes.len().next_multiple_of(SECTOR_LEN), 0);
        }
        (bytes, ends)
    }

    fn found(bytes: &[u8]) -> Vec<(u64, bool)> {
        scan(bytes, NONCE, BATCHES_AT)
            .iter()
            .map(|found| (found.head.chunk.0, found.verifies))
            .collect()
    }

    #[test]
    fn a_segment_cut_at_every_byte_keeps_the_records_before() {
        let (bytes, ends) = segment(&[&[100, 5], &[4096], &[1, 70, 3]]);
        for cut in 0..bytes.len() {
            let whole: Vec<_> = (0..ends.len() as u64)
                .zip(&ends)
                .filter(|(_, end)| **end <= cut)
                .map(|(chunk, _)| (chunk, true))
                .collect();
            assert_eq!(found(&bytes[..cut]), whole, "cut at {cut}");
            let mut zeroed = bytes.clone();
            zeroed[cut..].fill(0);
            assert_eq!(found(&zeroed), whole, "zeros from {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_takes_no_other_record_with_it() {
        let (bytes, ends) = segment(&[&[100, 5], &[200], &[1, 70, 3]]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let wrong: Vec<_> = (0..ends.len() as u64)
                .filter(|chunk| !found(&flipped).contains(&(*chunk, true)))
                .collect();
            assert!(wrong.len() <= 1, "bit {bit} damaged {wrong:?}");
            assert!(scan(&flipped, NONCE, BATCHES_AT).iter().all(|found| {
                let data_at = found.head.at as usize - BATCHES_AT as usize + RecordHead::LEN;
                !found.verifies
                    || flipped[data_at..data_at + found.head.len as usize]
                        == bytes[data_at..data_at + found.head.len as usize]
            }));
        }
    }

    #[test]
    fn a_bad_sector_takes_only_what_stands_in_it() {
        let (bytes, ends) = segment(&[&[100, 5], &[60_000], &[4000; 700], &[1, 70, 3]]);
        let at_sector = 3 * PART_LEN / 2 / SECTOR_LEN;
        let bad = at_sector * SECTOR_LEN..(at_sector + 1) * SECTOR_LEN;
        let read = |part: &mut [u8], at: u64| {
            let at = (at - BATCHES_AT) as usize;
            let end = at + part.len();
            // What a failed read leaves in its buffer means nothing.
            part.copy_from_slice(&bytes[at..end]);
            match at < bad.end && bad.start < end {
                true => Err(rustix::io::Errno::IO.into()),
                false => Ok(()),
            }
        };
        let mut left = vec![7; bytes.len()];
        assert_eq!(read_with_gaps(&mut left, BATCHES_AT, read).unwrap(), 1);
        let mut expected = bytes.clone();
        expected[bad.clone()].fill(0);
        assert!(left == expected);
        let whole = found(&left)
            .iter()
            .filter(|(_, verifies)| *verifies)
            .count();
        assert!((ends.len() - 3..ends.len()).contains(&whole));
        let other = |_: &mut [u8], _| Err(std::io::ErrorKind::NotFound.into());
        assert!(read_with_gaps(&mut left, BATCHES_AT, other).is_err());
    }

    #[test]
    fn records_of_an_older_use_are_none() {
        let (mut bytes, _) = segment(&[&[100], &[100]]);
        assert_eq!(scan(&bytes, NONCE ^ 1, BATCHES_AT), []);
        // The second batch copied over the first: right nonce, wrong place.
        bytes.copy_within(SECTOR_LEN.., 0);
        assert_eq!(found(&bytes), [(1, true)]);
    }
}
