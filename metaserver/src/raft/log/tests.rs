//! Promises of the log on disk.

use super::*;
use bytes::Bytes;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, EntryPayload};
use rocksdb::statistics::Ticker;
use std::fs;
use std::path::PathBuf;

const OWNER: (ServerId, ShardId) = (ServerId(1), ShardId::FIRST);

fn id(index: u64) -> LogId {
    openraft::LogId::new(CommittedLeaderId::new(1, 1), index)
}

fn entry(index: u64) -> LogEntry {
    let payload = EntryPayload::Normal(Bytes::from(format!("the payload of entry {index}")));
    LogEntry {
        log_id: id(index),
        payload,
    }
}

fn open(dir: &Path) -> Result<LogStore> {
    let fatal: Fatal = Arc::new(|error| panic!("{error:?}"));
    let (open, _) = tokio::sync::mpsc::channel(1);
    LogStore::open(
        dir,
        OWNER,
        Arc::default(),
        Arc::new(Growth::new(u64::MAX)),
        fatal,
        open,
    )
}

async fn append(log: &mut LogStore, indices: std::ops::Range<u64>) {
    log.blocking_append(indices.map(entry)).await.unwrap();
}

/// The files as a kill leaves them, while the log is open.
fn killed(dir: &Path, name: &str) -> PathBuf {
    let to = dir.with_file_name(name);
    fs::create_dir(&to).unwrap();
    for file in fs::read_dir(dir).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    to
}

/// RocksDB's own log, where the newest entries are.
fn wal(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.max().unwrap()
}

#[tokio::test]
async fn what_stands_beside_the_entries_stays_as_it_was_shipped() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    append(&mut log, 0..6).await;
    log.save_vote(&Vote::new_committed(300, 7)).await.unwrap();
    log.shared.flushed.advance(Some(id(5)));
    log.purge(id(5)).await.unwrap();
    let meta = |key: &str| {
        let family = log.shared.db.cf_handle("meta").unwrap();
        log.shared.db.get_cf(family, key).unwrap().unwrap()
    };
    assert_eq!(meta("owner"), [1, 1, 0]); // version, server, shard
    assert_eq!(meta("vote"), [1, 251, 44, 1, 7, 1]); // version, term, node, committed
    assert_eq!(meta("purged"), [1, 1, 1, 5]); // version, term, node, index
    let key: &[u8] = &[0, 0, 0, 0, 0, 0, 1, 44];
    assert_eq!(record::key(300), key);
}

#[tokio::test]
async fn what_was_appended_and_voted_is_there_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(&path).unwrap();
    let vote = Vote::new(3, 1);
    log.save_vote(&vote).await.unwrap();
    append(&mut log, 0..10).await;
    append(&mut log, 10..20).await;
    log.truncate(id(15)).await.unwrap();
    append(&mut log, 15..17).await;
    log.shared.flushed.advance(Some(id(4)));
    log.purge(id(4)).await.unwrap();

    let mut found = open(&killed(&path, "killed")).unwrap();
    assert_eq!(found.read_vote().await.unwrap(), Some(vote));
    let state = found.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(id(4)), Some(id(16)))
    );
    let entries = found.try_get_log_entries(..).await.unwrap();
    assert_eq!(entries, (5..17).map(entry).collect::<Vec<_>>());
    assert_eq!(
        log.try_get_log_entries(..).await.unwrap(),
        entries,
        "memory and disk agree"
    );
    assert_eq!(
        log.try_get_log_entries(8..=9).await.unwrap(),
        [entry(8), entry(9)]
    );
}

#[tokio::test]
async fn a_purge_beyond_the_flushed_state_is_done_when_a_flush_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(&path).unwrap();
    append(&mut log, 0..10).await;
    log.shared.flushed.advance(Some(id(3)));
    // A snapshot up to an entry that this log never had is being taken over.
    log.purge(id(20)).await.unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(id(20)), Some(id(20)))
    );
    let mut cut = open(&killed(&path, "cut-before")).unwrap();
    assert_eq!(
        cut.try_get_log_entries(..).await.unwrap().len(),
        10,
        "the state that replaces them is not durable"
    );
    let mut waiting = log.clone();
    let appending = tokio::spawn(async move { append(&mut waiting, 21..23).await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!appending.is_finished(), "there would be a hole");
    log.shared.flushed.advance(Some(id(20)));
    appending.await.unwrap();
    let mut found = open(&killed(&path, "cut-after")).unwrap();
    let entries = found.try_get_log_entries(..).await.unwrap();
    assert_eq!(entries, (21..23).map(entry).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(&path).unwrap();
    for index in 0..20 {
        append(&mut log, index..index + 1).await;
    }
    let sound = killed(&path, "sound");
    assert!(open(&sound).is_ok());
    for index in [0, 10, 19] {
        let damaged = killed(&path, &format!("damaged-{index}"));
        let wal = wal(&damaged);
        let mut bytes = fs::read(&wal).unwrap();
        let text = format!("payload of entry {index}");
        let at = bytes
            .windows(text.len())
            .position(|window| window == text.as_bytes())
            .unwrap();
        bytes[at] ^= 4;
        fs::write(&wal, bytes).unwrap();
        let error = open(&damaged).err().expect("a damaged log was opened");
        assert_eq!(error.code, Code::ChecksumMismatch, "{error}");
        assert!(
            error.text.contains("must not vote") && error.text.contains("damaged-"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_record_that_is_sound_for_rocksdb_and_not_for_us_is_refused() {
    for (name, index, value) in [
        ("swapped", 3, record::encode(&entry(4))),
        ("short", 5, vec![1, 2]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let mut log = open(&path).unwrap();
        append(&mut log, 0..10).await;
        let entries = column(&log.shared.db, ENTRIES).unwrap();
        log.shared
            .db
            .put_cf(entries, record::key(index), value)
            .unwrap();
        drop(log);
        let error = open(&path).err().expect("a damaged log was opened");
        assert_eq!(error.code, Code::ChecksumMismatch, "{error}");
        assert!(error.text.contains(&format!("entry {index}")), "{error}");
    }
}

#[tokio::test]
async fn a_hole_in_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(&path).unwrap();
    append(&mut log, 0..10).await;
    let entries = column(&log.shared.db, ENTRIES).unwrap();
    log.shared.db.delete_cf(entries, record::key(6)).unwrap();
    drop(log);
    let error = open(&path).err().expect("a log with a hole was opened");
    assert!(
        error.text.contains("entry 7 follows where entry 6 must be"),
        "{error}"
    );
}

#[tokio::test]
async fn a_record_cut_short_by_a_crash_is_dropped_since_it_was_never_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(&path).unwrap();
    append(&mut log, 0..5).await;
    append(&mut log, 5..6).await;
    let cut = killed(&path, "cut");
    let wal = fs::OpenOptions::new().write(true).open(wal(&cut)).unwrap();
    wal.set_len(wal.metadata().unwrap().len() - 9).unwrap();
    assert_eq!(open(&cut).unwrap().last(), Some(id(4)));
}

/// What a power cut takes is what was not synced.
#[tokio::test]
async fn a_vote_is_synced_before_it_is_given_and_its_echo_with_the_next_entry() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.enable_statistics();
    let db = DB::open_cf(&options, dir.path(), [ENTRIES, META]).unwrap();
    let db = Arc::new(db);
    let fatal: Fatal = Arc::new(|error| panic!("{error:?}"));
    let mut log = LogStore {
        shared: Arc::new(Shared {
            writer: Writer::start(Arc::clone(&db), "the Raft log".to_owned(), fatal).unwrap(),
            db,
            name: "the Raft log".to_owned(),
            ends: Mutex::default(),
            given: Mutex::default(),
            tail: Mutex::default(),
            flushed: Arc::default(),
            growth: Arc::new(Growth::new(u64::MAX)),
            _open: tokio::sync::mpsc::channel(1).0,
        }),
    };
    let mut before = 0;
    let mut syncs = || {
        let now = options.get_ticker_count(Ticker::WalFileSynced);
        now - std::mem::replace(&mut before, now)
    };
    for (vote, expected) in [
        (Vote::new(3, 1), 1),
        (Vote::new_committed(3, 1), 0),
        // Another one's, in the same term.
        (Vote::new(3, 2), 1),
        (Vote::new(4, 2), 1),
        (Vote::new_committed(5, 1), 1),
    ] {
        log.save_vote(&vote).await.unwrap();
        assert_eq!(syncs(), expected, "{vote}");
        assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    }
    log.save_vote(&Vote::new(6, 1)).await.unwrap();
    syncs();
    append(&mut log, 0..1).await;
    assert_eq!(syncs(), 1);
    // Those who wait share a sync, whoever comes first.
    let job = |durability| {
        let change = put_meta(VOTE, &Vote::new_committed(6, 1));
        log.shared.writer.write(vec![change], durability)
    };
    let (one, other) = tokio::join!(job(Durability::WithTheNext), job(Durability::Now));
    one.and(other).unwrap();
    assert_eq!(syncs(), 1);
}

#[tokio::test]
async fn a_log_that_can_not_be_written_ends_the_process_and_answers_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    drop(open(&path).unwrap());
    let families = [ENTRIES, META, "default"];
    let db = DB::open_cf_for_read_only(&Options::default(), &path, families, false).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let fatal: Fatal = {
        let seen = Arc::clone(&seen);
        Arc::new(move |error| seen.lock().unwrap().push(error.text.clone()))
    };
    let writer = Writer::start(Arc::new(db), "the Raft log".to_owned(), fatal).unwrap();
    let vote = || vec![put_meta(VOTE, &Vote::new(1, 1))];
    assert_eq!(
        writer
            .write(vote(), Durability::Now)
            .await
            .unwrap_err()
            .code,
        Code::Io
    );
    assert_eq!(
        writer
            .write(vote(), Durability::Now)
            .await
            .unwrap_err()
            .code,
        Code::Stopping
    );
    let seen = seen.lock().unwrap();
    assert!(
        seen.len() == 1 && seen[0].contains("the Raft log can not be written"),
        "{seen:?}"
    );
}
