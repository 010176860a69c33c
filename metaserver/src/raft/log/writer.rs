//! The only thread that writes to the Raft log: what waits is written with one sync.

use super::{ENTRIES, META};
use crate::kv::rocks_error;
use crate::raft::types::Fatal;
use quarry_common::{Code, Error, Result};
use rocksdb::{DB, WriteBatch, WriteOptions};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Requests that wait for the writer; Raft itself has one or two at a time.
const QUEUE: usize = 64;

/// One change of the log.
pub(super) enum Change {
    PutEntry {
        index: u64,
        record: Vec<u8>,
    },
    /// From the first index (inclusive) to the second (exclusive).
    DeleteEntries {
        from: u64,
        to: u64,
    },
    PutMeta {
        key: &'static [u8],
        record: Vec<u8>,
    },
}

/// When changes are to survive a power cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Before the writer answers.
    Now,
    /// With the next change that is. They survive the end of the process at once.
    WithTheNext,
}

struct Job {
    changes: Vec<Change>,
    durability: Durability,
    done: oneshot::Sender<Result<()>>,
}

/// A handle to the thread, which ends when the handle is dropped.
pub(super) struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(db: Arc<DB>, name: String, fatal: Fatal) -> Result<Writer> {
        let (jobs, waiting) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || run(&db, &name, &fatal, &waiting))
            .map_err(|error| {
                Error::new(
                    Code::Io,
                    "the thread that writes the Raft log can not be started",
                )
                .with_source(error)
            })?;
        Ok(Writer {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Returns when the changes are as durable as they are to be; changes of earlier calls are so before.
    pub(super) async fn write(&self, changes: Vec<Change>, durability: Durability) -> Result<()> {
        let gone = || Error::new(Code::Stopping, "the Raft log is closed");
        let (done, written) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        let job = Job {
            changes,
            durability,
            done,
        };
        jobs.send(job).map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the Raft log panicked");
        }
    }
}

fn run(db: &DB, name: &str, fatal: &Fatal, waiting: &Receiver<Job>) {
    while let Ok(first) = waiting.recv() {
        let mut group = vec![first];
        group.extend(waiting.try_iter());
        let result = write(db, name, &mut group);
        if let Err(error) = &result {
            // What the disk holds now is not known, and the next sync may succeed without
            // having written it: nothing may be answered from here on.
            fatal(error);
        }
        let failed = result.is_err();
        for job in group {
            // A caller that went away does not need the answer.
            job.done.send(result.clone()).ok();
        }
        if failed {
            return;
        }
    }
}

fn write(db: &DB, name: &str, group: &mut [Job]) -> Result<()> {
    let missing = || Error::bug(format!("{name} was opened without its column families"));
    let entries = db.cf_handle(ENTRIES).ok_or_else(missing)?;
    let meta = db.cf_handle(META).ok_or_else(missing)?;
    let is_synced = group.iter().any(|job| job.durability == Durability::Now);
    let mut batch = WriteBatch::default();
    for change in group.iter_mut().flat_map(|job| job.changes.drain(..)) {
        match change {
            Change::PutEntry { index, record } => {
                batch.put_cf(entries, super::record::key(index), record);
            }
            Change::DeleteEntries { from, to } => {
                batch.delete_range_cf(entries, super::record::key(from), super::record::key(to));
            }
            Change::PutMeta { key, record } => batch.put_cf(meta, key, record),
        }
    }
    let mut options = WriteOptions::default();
    options.set_sync(is_synced);
    db.write_opt(batch, &options)
        .map_err(|error| rocks_error(name, "can not be written", error))
}
