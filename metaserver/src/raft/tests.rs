//! Promises of a Raft group of one: over both backings where the state matters. Those of several stand in [`group`].

mod group;
mod wires;

use super::entry::{Entry, encode_answers};
use super::log::{Flushed, Growth, LogStore};
use super::machine::Machine;
use super::snapshot::Snapshots;
use super::types::{Fatal, StorageError, Types};
use super::{Apply, Consensus, Raft, RaftOptions};
use crate::kv::{Batch, Family, Kv, KvRead, Memory, Overlay, Rocks, RocksOptions};
use bytes::Bytes;
use openraft::testing::{StoreBuilder, Suite};
use quarry_common::ids::{ServerId, ShardId};
use quarry_common::{Code, Error, Result};
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SERVER: ServerId = ServerId(7);

/// Sets each command as a key, with the number of times it was set as the value, which is the
/// answer too. `fail` is a command it can not apply.
#[derive(Default)]
struct Counting {
    resets: AtomicUsize,
    slowness: Duration,
}

impl Apply for Counting {
    fn apply(&self, base: &dyn KvRead, entry: &[u8]) -> Result<(Batch, Bytes)> {
        std::thread::sleep(self.slowness);
        let entry = Entry::decode(entry)?;
        let mut overlay = Overlay::new(base);
        let mut answers = Vec::new();
        for command in entry.commands {
            if command == "fail" {
                return Err(Error::bug("told to fail"));
            }
            let before = overlay.get(Family::Inodes, &command)?;
            let count = before.map_or(0, |count| u32::from_be_bytes(count[..].try_into().unwrap()));
            let answer = Bytes::copy_from_slice(&(count + 1).to_be_bytes());
            overlay.put(Family::Inodes, command, answer.clone());
            answers.push(answer);
        }
        Ok((overlay.into_batch(), encode_answers(&answers)))
    }

    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
}

fn count(kv: &dyn KvRead, command: &str) -> u32 {
    let value = kv.get(Family::Inodes, command.as_bytes()).unwrap();
    value.map_or(0, |count| u32::from_be_bytes(count[..].try_into().unwrap()))
}

/// Collects what would have ended the process.
fn observed() -> (Fatal, Arc<Mutex<Vec<Error>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let fatal: Fatal = {
        let seen = Arc::clone(&seen);
        Arc::new(move |error| seen.lock().unwrap().push(error.clone()))
    };
    (fatal, seen)
}

fn options(dir: &Path) -> RaftOptions {
    let fatal: Fatal = Arc::new(|error| panic!("{error:?}"));
    RaftOptions {
        fatal,
        ..RaftOptions::new(dir, SERVER, ShardId::FIRST)
    }
}

async fn start(options: RaftOptions, kv: Arc<dyn Kv>) -> Raft {
    let raft = Raft::start(options, kv, Arc::new(Counting::default()))
        .await
        .unwrap();
    if !raft.is_initialised().await.unwrap() {
        raft.init(&[(SERVER, "127.0.0.1:1".to_owned())])
            .await
            .unwrap();
    }
    raft.wait_until_leading(Duration::from_secs(10))
        .await
        .unwrap();
    raft
}

async fn propose(raft: &Raft, command: &str) -> u32 {
    let answer = raft
        .propose(Bytes::copy_from_slice(command.as_bytes()))
        .await
        .unwrap();
    u32::from_be_bytes(answer[..].try_into().unwrap())
}

fn rocks(dir: &Path) -> Arc<dyn Kv> {
    let options = RocksOptions {
        cache_len: 8 << 20,
        write_buffer_len: 16 << 20,
    };
    Arc::new(Rocks::open(dir, options).unwrap())
}

/// Copies a directory while its owner runs: what a kill would leave.
fn copy_as_killed(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_as_killed(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

// --- openraft's own suite ---

struct Stores {
    on_disk: bool,
}

impl StoreBuilder<Types, LogStore, Machine, tempfile::TempDir> for Stores {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let kv: Arc<dyn Kv> = match self.on_disk {
            true => rocks(&dir.path().join("state")),
            false => Arc::new(Memory::new()),
        };
        let (open, _) = tokio::sync::mpsc::channel(1);
        // The suite purges without a state.
        let flushed = Arc::new(Flushed::default());
        let all = openraft::LogId::new(openraft::CommittedLeaderId::new(0, 0), u64::MAX - 1);
        flushed.advance(Some(all));
        let growth = Arc::new(Growth::new(u64::MAX));
        let fatal: Fatal = Arc::new(|error| panic!("{error:?}"));
        let log = LogStore::open(
            &dir.path().join("log"),
            (SERVER, ShardId::FIRST),
            Arc::clone(&flushed),
            Arc::clone(&growth),
            Arc::clone(&fatal),
            open.clone(),
        )
        .unwrap();
        let snapshots = Snapshots::open(&dir.path().join("snapshots")).unwrap();
        let apply = Arc::new(Counting::default());
        let machine = Machine::open(kv, apply, snapshots, flushed, growth, fatal, open).unwrap();
        Ok((dir, log, machine))
    }
}

#[test]
fn log_and_machine_over_memory_keep_the_promises_of_openraft() {
    Suite::test_all(Stores { on_disk: false }).unwrap();
}

#[test]
fn log_and_machine_over_rocks_keep_the_promises_of_openraft() {
    Suite::test_all(Stores { on_disk: true }).unwrap();
}

// --- what was answered survives ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_a_kill_though_the_state_was_never_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let (live, killed) = (dir.path().join("live"), dir.path().join("killed"));
    let kv = rocks(&live.join("state"));
    let raft = start(options(&live), Arc::clone(&kv)).await;
    for i in 0..50 {
        assert_eq!(propose(&raft, &format!("f{}", i % 20)).await, i / 20 + 1);
    }
    copy_as_killed(&live, &killed);
    raft.stop().await.unwrap();
    drop(kv);

    let kv = rocks(&killed.join("state"));
    assert_eq!(
        count(kv.as_ref(), "f3"),
        0,
        "the kill lost the state, else this shows nothing"
    );
    let raft = start(options(&killed), Arc::clone(&kv)).await;
    raft.read_barrier().await.unwrap();
    assert_eq!(
        (count(kv.as_ref(), "f3"), count(kv.as_ref(), "f12")),
        (3, 2)
    );
    assert_eq!(propose(&raft, "f3").await, 4, "each was applied once");
    raft.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_leader_serves_nothing_before_it_has_replayed_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let (live, killed) = (dir.path().join("live"), dir.path().join("killed"));
    let kv = Arc::new(Memory::new());
    let raft = start(options(&live), kv.clone()).await;
    propose(&raft, "x").await;
    // The state holds entries of the term that a restart may resume, and not the rest of them.
    kv.flush().unwrap();
    for _ in 0..40 {
        propose(&raft, "x").await;
    }
    copy_as_killed(&live, &killed);
    let kv = Arc::new(kv.after_power_cut());
    raft.stop().await.unwrap();

    assert_eq!(count(kv.as_ref(), "x"), 1);
    let slow = Counting {
        slowness: Duration::from_millis(2),
        ..Counting::default()
    };
    let raft = Raft::start(options(&killed), kv.clone(), Arc::new(slow))
        .await
        .unwrap();
    while !raft.is_leader() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    raft.read_barrier().await.unwrap();
    assert_eq!(count(kv.as_ref(), "x"), 41);
    raft.stop().await.unwrap();
}

/// Snapshots and purges go on while it is cut off again and again: the flushed part of the state
/// and the rest of the log must always be the whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_never_purged_beyond_the_flushed_state() {
    let dir = tempfile::tempdir().unwrap();
    let often = |dir: &Path| RaftOptions {
        snapshot_entries: 10,
        kept_entries: 0,
        ..options(dir)
    };
    let mut kv = Arc::new(Memory::new());
    let mut answered = 0;
    let mut purged = None;
    for round in 0..4 {
        let here = dir.path().join(round.to_string());
        let raft = start(often(&here), Arc::clone(&kv) as Arc<dyn Kv>).await;
        raft.read_barrier().await.unwrap();
        assert_eq!(count(kv.as_ref(), "x"), answered, "round {round}");
        for _ in 0..53 {
            answered = propose(&raft, "x").await;
        }
        // No snapshot runs while files are copied one by one, which a real cut does not do.
        loop {
            let metrics = raft.metrics();
            if metrics.applied < metrics.snapshot.map(|snapshot| snapshot + 10) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Through Raft's own queue: the purge after the snapshot is done as well.
        raft.is_initialised().await.unwrap();
        // The log is copied first: what is flushed meanwhile only makes the state longer.
        copy_as_killed(&here, &dir.path().join((round + 1).to_string()));
        let cut = kv.after_power_cut();
        purged = raft.metrics().purged;
        raft.stop().await.unwrap();
        kv = Arc::new(cut);
    }
    assert!(
        purged > Some(100),
        "nothing was purged: this shows nothing ({purged:?})"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_lets_a_restart_replay_only_what_came_after() {
    let dir = tempfile::tempdir().unwrap();
    let kv = rocks(&dir.path().join("state"));
    let raft = start(
        RaftOptions {
            kept_entries: 0,
            ..options(dir.path())
        },
        Arc::clone(&kv),
    )
    .await;
    for _ in 0..100 {
        propose(&raft, "x").await;
    }
    raft.snapshot().await.unwrap();
    raft.is_initialised().await.unwrap();
    assert!(raft.metrics().snapshot >= Some(100));
    assert_eq!(propose(&raft, "x").await, 101);
    raft.stop().await.unwrap();
    drop((raft, kv));

    let kv = rocks(&dir.path().join("state"));
    let raft = start(options(dir.path()), Arc::clone(&kv)).await;
    assert!(raft.metrics().purged >= Some(64), "{:?}", raft.metrics());
    assert_eq!(propose(&raft, "x").await, 102);
    raft.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_has_grown_asks_for_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let kv: Arc<dyn Kv> = Arc::new(Memory::new());
    let raft = start(
        RaftOptions {
            snapshot_len: 100_000,
            ..options(dir.path())
        },
        kv,
    )
    .await;
    for i in 0..30 {
        raft.propose(Bytes::from(vec![i; 10_000])).await.unwrap();
    }
    for _ in 0..1_000 {
        if raft.metrics().snapshot.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(raft.metrics().snapshot.is_some(), "{:?}", raft.metrics());
    raft.stop().await.unwrap();
}

// --- a group says who it is ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_initialised_once_and_leads_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let kv = Arc::new(Memory::new());
    let fresh = Raft::start(
        options(dir.path()),
        kv.clone(),
        Arc::new(Counting::default()),
    )
    .await
    .unwrap();
    assert!(!fresh.is_leader() && fresh.leader().is_none());
    assert_eq!(
        fresh.propose(Bytes::from("x")).await.unwrap_err().code,
        Code::NotLeader
    );
    assert_eq!(
        fresh.read_barrier().await.unwrap_err().code,
        Code::NotLeader
    );
    fresh
        .init(&[(SERVER, "127.0.0.1:4000".to_owned())])
        .await
        .unwrap();
    fresh
        .wait_until_leading(Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(
        fresh
            .init(&[(SERVER, "127.0.0.1:4000".to_owned())])
            .await
            .unwrap_err()
            .code,
        Code::Exists
    );
    assert_eq!(propose(&fresh, "x").await, 1);
    fresh.stop().await.unwrap();
    assert_eq!(
        fresh.propose(Bytes::from("x")).await.unwrap_err().code,
        Code::Stopping
    );
    assert_eq!(fresh.read_barrier().await.unwrap_err().code, Code::Stopping);

    let raft = start(options(dir.path()), kv).await;
    let leader = raft.leader().unwrap();
    assert_eq!(
        (leader.id, leader.address.as_str()),
        (SERVER, "127.0.0.1:4000")
    );
    assert!(raft.metrics().is_leader);
    raft.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_metaserver_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let kv = Arc::new(Memory::new());
    start(options(dir.path()), kv.clone())
        .await
        .stop()
        .await
        .unwrap();
    let other = RaftOptions {
        server: ServerId(8),
        ..options(dir.path())
    };
    let error = Raft::start(other, kv, Arc::new(Counting::default()))
        .await
        .err()
        .unwrap();
    assert_eq!(error.code, Code::Configuration, "{error}");
}

// --- damage ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_before_the_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let kv = Arc::new(Memory::new());
    let raft = start(options(&dir.path().join("a")), kv.clone()).await;
    copy_as_killed(&dir.path().join("a"), &dir.path().join("b"));
    propose(&raft, "x").await;
    raft.stop().await.unwrap();
    // The state went on, and the log is an older copy of itself.
    let older = options(&dir.path().join("b"));
    let error = Raft::start(older, kv, Arc::new(Counting::default()))
        .await
        .err()
        .unwrap();
    assert_eq!(error.code, Code::ChecksumMismatch, "{error}");
    assert!(error.text.contains("must not vote"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_ends_before_the_log_begins_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let kv = Arc::new(Memory::new());
    let raft = start(
        RaftOptions {
            kept_entries: 0,
            ..options(dir.path())
        },
        kv,
    )
    .await;
    for _ in 0..70 {
        propose(&raft, "x").await;
    }
    raft.snapshot().await.unwrap();
    // Through Raft's own queue: the purge after the snapshot is done as well.
    raft.is_initialised().await.unwrap();
    raft.stop().await.unwrap();
    // Without the snapshot, from which it would be completed.
    std::fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    let started = Raft::start(
        options(dir.path()),
        Arc::new(Memory::new()),
        Arc::new(Counting::default()),
    );
    let error = started.await.err().unwrap();
    assert_eq!(error.code, Code::ChecksumMismatch, "{error}");
    assert!(
        error.text.contains("a part of the state was lost"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_can_not_be_applied_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let (fatal, seen) = observed();
    let kv = Arc::new(Memory::new());
    let raft = start(
        RaftOptions {
            fatal,
            ..options(dir.path())
        },
        kv,
    )
    .await;
    let error = raft.propose(Bytes::from("fail")).await.unwrap_err();
    assert_eq!(error.code, Code::Stopping, "{error}");
    assert!(seen.lock().unwrap()[0].text.contains("told to fail"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_was_installed_replaces_the_state_and_its_caches() {
    use openraft::RaftSnapshotBuilder;
    use openraft::storage::RaftStateMachine;
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let kv = rocks(&dir.path().join(name).join("state"));
        let apply = Arc::new(Counting::default());
        let machine = Machine::open(
            Arc::clone(&kv),
            Arc::clone(&apply) as Arc<dyn Apply>,
            Snapshots::open(&dir.path().join(name).join("snapshots")).unwrap(),
            Arc::default(),
            Arc::new(Growth::new(u64::MAX)),
            Arc::new(|error| panic!("{error:?}")),
            tokio::sync::mpsc::channel(1).0,
        );
        (kv, apply, machine.unwrap())
    };
    let entry = |index, command: &'static str| openraft::Entry::<Types> {
        log_id: openraft::LogId::new(openraft::CommittedLeaderId::new(1, 7), index),
        payload: openraft::EntryPayload::Normal(
            Entry {
                time_us: 1,
                commands: vec![Bytes::from(command)],
            }
            .encode(),
        ),
    };
    let (_, _, mut sender) = open("sender");
    sender.apply([entry(0, "x"), entry(1, "x")]).await.unwrap();
    let snapshot = sender.build_snapshot().await.unwrap();

    let (kv, apply, mut receiver) = open("receiver");
    receiver.apply([entry(0, "y")]).await.unwrap();
    // As a network would: files into a directory that it was given.
    let received = receiver.begin_receiving_snapshot().await.unwrap();
    for file in std::fs::read_dir(snapshot.snapshot.copy_dir()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), received.copy_dir().join(file.file_name())).unwrap();
    }
    receiver
        .install_snapshot(&snapshot.meta, received)
        .await
        .unwrap();
    assert_eq!((count(kv.as_ref(), "x"), count(kv.as_ref(), "y")), (2, 0));
    assert_eq!(apply.resets.load(Ordering::SeqCst), 1);
    receiver.apply([entry(2, "x")]).await.unwrap();
    drop((kv, receiver));

    // After a kill: the state as of its last flush, and the snapshot.
    let (kv, _, mut receiver) = open("receiver");
    let current = receiver.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, snapshot.meta);
    assert!(count(kv.as_ref(), "x") >= 2);
    let names = std::fs::read_dir(dir.path().join("receiver").join("snapshots"))
        .unwrap()
        .count();
    assert_eq!(names, 1, "what was received is removed");
}

#[test]
fn an_interrupted_installation_is_completed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let kv = Memory::new();
    let mut batch = Batch::new();
    let applied = openraft::LogId::new(openraft::CommittedLeaderId::<u64>::new(1, 7), 9);
    batch.put(
        Family::System,
        "raft/applied",
        quarry_common::codec::encode_record(1, &applied),
    );
    batch.put(Family::Inodes, "x", 5u32.to_be_bytes().to_vec());
    kv.write(&batch).unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    snapshots
        .make(|to| {
            kv.export(to)?;
            Ok(openraft::SnapshotMeta {
                last_log_id: Some(applied),
                ..Default::default()
            })
        })
        .unwrap();
    drop(snapshots);

    let empty = Arc::new(Memory::new());
    let flushed = Arc::new(Flushed::default());
    let machine = Machine::open(
        empty.clone(),
        Arc::new(Counting::default()),
        Snapshots::open(dir.path()).unwrap(),
        flushed,
        Arc::new(Growth::new(u64::MAX)),
        Arc::new(|error| panic!("{error:?}")),
        tokio::sync::mpsc::channel(1).0,
    );
    assert_eq!(machine.unwrap().applied().unwrap(), Some(applied));
    assert_eq!(count(empty.as_ref(), "x"), 5);
    assert!(
        empty
            .last_before(Family::Inodes, b"", Bound::Unbounded)
            .unwrap()
            .is_some()
    );
}
