//! The state machine as Raft sees it: applies entries through [`Apply`], keeps the applied index
//! and the membership in the same batch, makes and installs snapshots.

use super::Apply;
use super::log::{Flushed, Growth};
use super::snapshot::{SnapshotCopy, Snapshots, as_raft, copy_state};
use super::types::{
    Fatal, LogEntry, LogId, Membership, NodeId, Open, SnapshotMeta, StorageError, Types, any,
    blocking, named, state_failed,
};
use crate::kv::{Batch, Family, Kv, KvRead, Recent};
use bytes::Bytes;
use openraft::storage::RaftStateMachine;
use openraft::{BasicNode, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use quarry_common::{Code, Error, Result, codec};
use serde::{Serialize, de::DeserializeOwned};
use std::sync::{Arc, Mutex, PoisonError};

const VERSION: u8 = 1;
/// Key in [`Family::System`]: the id of the last applied entry.
const APPLIED: &[u8] = b"raft/applied";
/// Key in [`Family::System`]: the members as of the applied index.
const MEMBERSHIP: &[u8] = b"raft/membership";

/// The state machine; clones are the same one.
#[derive(Clone)]
pub(crate) struct Machine {
    shared: Arc<Shared>,
}

struct Shared {
    kv: Arc<dyn Kv>,
    apply: Arc<dyn Apply>,
    snapshots: Snapshots,
    /// Held while an entry is applied and while a copy is made of a state that stands still.
    applying: Mutex<Recent>,
    flushed: Arc<Flushed>,
    growth: Arc<Growth>,
    fatal: Fatal,
    /// Dropped last, when the state is not used any more.
    _open: Open,
}

impl Machine {
    /// A state machine over `kv`. If a snapshot is newer than the state, its installation was
    /// interrupted and is completed. Everything that `kv` holds must be flushed, as after opening it.
    pub(crate) fn open(
        kv: Arc<dyn Kv>,
        apply: Arc<dyn Apply>,
        snapshots: Snapshots,
        flushed: Arc<Flushed>,
        growth: Arc<Growth>,
        fatal: Fatal,
        open: Open,
    ) -> Result<Machine> {
        let applied = read_applied(kv.as_ref())?;
        if let Some((meta, copy)) = snapshots.current()
            && meta.last_log_id > applied
        {
            kv.import(&copy.copy_dir())?;
            apply.reset();
        }
        flushed.advance(read_applied(kv.as_ref())?);
        let recent = Recent::new(Arc::clone(&kv));
        let shared = Shared {
            kv,
            apply,
            snapshots,
            applying: Mutex::new(recent),
            flushed,
            growth,
            fatal,
            _open: open,
        };
        Ok(Machine {
            shared: Arc::new(shared),
        })
    }

    /// The last entry whose effects are in the state.
    pub(crate) fn applied(&self) -> Result<Option<LogId>> {
        read_applied(self.shared.kv.as_ref())
    }

    /// The members as of the applied index.
    pub(crate) fn membership(&self) -> Result<Membership> {
        read_membership(self.shared.kv.as_ref())
    }

    /// The last entry in the newest snapshot.
    pub(crate) fn snapshot_end(&self) -> Option<LogId> {
        self.shared
            .snapshots
            .current()
            .and_then(|(meta, _)| meta.last_log_id)
    }

    /// An empty directory for a snapshot that arrives.
    pub(super) fn receive(&self) -> Result<SnapshotCopy> {
        self.shared.snapshots.receive()
    }

    /// Whether a copy that was received is what is said of it: whole, and of that entry and those members.
    ///
    /// # Errors
    /// `ChecksumMismatch`: it is not; those of the store.
    pub(super) fn check_received(
        &self,
        meta: &SnapshotMeta,
        received: &SnapshotCopy,
    ) -> Result<()> {
        let copy = self.shared.kv.open_copy(&received.copy_dir())?;
        let (applied, members) = (
            read_applied(copy.as_ref())?,
            read_membership(copy.as_ref())?,
        );
        if meta.last_log_id.is_some()
            && (applied, &members) == (meta.last_log_id, &meta.last_membership)
        {
            return Ok(());
        }
        let text = format!(
            "a snapshot of the state up to {} was sent as one up to {}",
            named(applied),
            named(meta.last_log_id)
        );
        Err(Error::new(Code::ChecksumMismatch, text))
    }

    /// Makes the state durable, so that the next start replays little.
    pub(crate) fn flush(&self) -> Result<()> {
        let applied = self.applied()?;
        self.shared.kv.flush()?;
        self.shared.flushed.advance(applied);
        Ok(())
    }
}

impl Shared {
    fn apply(&self, entry: LogEntry) -> Result<Bytes> {
        let mut state = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut batch, answer) = match &entry.payload {
            EntryPayload::Blank => (Batch::new(), Bytes::new()),
            EntryPayload::Normal(bytes) => self.apply.apply(&*state, bytes)?,
            EntryPayload::Membership(members) => {
                let members = Membership::new(Some(entry.log_id), members.clone());
                let mut batch = Batch::new();
                batch.put(
                    Family::System,
                    MEMBERSHIP,
                    codec::encode_record(VERSION, &members),
                );
                (batch, Bytes::new())
            }
        };
        batch.put(
            Family::System,
            APPLIED,
            codec::encode_record(VERSION, &entry.log_id),
        );
        state.write(batch)?;
        Ok(answer)
    }

    fn build(&self) -> Result<openraft::Snapshot<Types>> {
        self.growth.restart();
        // Most of the writing happens here, while entries are applied.
        self.kv.flush()?;
        let made = self.snapshots.make(|to| {
            let _still = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
            copy_state(self.kv.as_ref(), to)?;
            let last_log_id = read_applied(self.kv.as_ref())?;
            let last_membership = read_membership(self.kv.as_ref())?;
            Ok(SnapshotMeta {
                last_log_id,
                last_membership,
                snapshot_id: String::new(),
            })
        })?;
        self.flushed.advance(made.0.last_log_id);
        Ok(as_raft(made))
    }

    fn install(&self, meta: &SnapshotMeta, received: &SnapshotCopy) -> Result<()> {
        // First the snapshot, then the state: if this is interrupted, the next start sees a
        // snapshot newer than the state and completes it.
        self.snapshots.adopt(meta, received, |copy| {
            // As when one is built: after what the snapshots hold, or each would wait for the other.
            let mut state = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
            state.forget();
            if let Err(error) = self.kv.import(&copy.copy_dir()) {
                self.snapshots.discard_current();
                return Err(error);
            }
            self.apply.reset();
            let applied = read_applied(self.kv.as_ref())?;
            if applied != meta.last_log_id {
                return Err(Error::new(
                    Code::ChecksumMismatch,
                    format!(
                        "a snapshot up to {} was received as one up to {}",
                        named(applied),
                        named(meta.last_log_id)
                    ),
                ));
            }
            self.flushed.advance(applied);
            Ok(())
        })
    }
}

fn read<T: DeserializeOwned + Serialize>(kv: &dyn KvRead, key: &[u8]) -> Result<Option<T>> {
    match kv.get(Family::System, key)? {
        Some(record) => {
            let what = String::from_utf8_lossy(key);
            let (value, _) = codec::decode_record(&what, VERSION, &record)?;
            Ok(Some(value))
        }
        None => Ok(None),
    }
}

fn read_applied(kv: &dyn KvRead) -> Result<Option<LogId>> {
    read(kv, APPLIED)
}

fn read_membership(kv: &dyn KvRead) -> Result<Membership> {
    Ok(read(kv, MEMBERSHIP)?.unwrap_or_default())
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, openraft::StoredMembership<NodeId, BasicNode>), StorageError> {
        let read = || Ok((self.applied()?, self.membership()?));
        read().map_err(|error| StorageIOError::read_state_machine(any(error)).into())
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Bytes>, StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            let log_id = entry.log_id;
            let applied = blocking(|| self.shared.apply(entry));
            let answer = applied.map_err(|error| {
                let error = error.context(format!("entry {} can not be applied", log_id.index));
                (self.shared.fatal)(&error);
                StorageIOError::apply(log_id, any(error))
            })?;
            answers.push(answer);
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotCopy>, StorageError> {
        let receiving = self.shared.snapshots.receive().map_err(state_failed)?;
        Ok(Box::new(receiving))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotCopy>,
    ) -> Result<(), StorageError> {
        blocking(|| self.shared.install(meta, &snapshot)).map_err(|error| {
            // It was checked when it was received: now the disk has failed.
            (self.shared.fatal)(&error);
            StorageIOError::write_snapshot(Some(meta.signature()), any(error)).into()
        })
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::Snapshot<Types>>, StorageError> {
        Ok(self.shared.snapshots.current().map(as_raft))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<openraft::Snapshot<Types>, StorageError> {
        // openraft would end the same way, with words of its own.
        blocking(|| {
            self.shared
                .build()
                .inspect_err(|error| (self.shared.fatal)(error))
        })
        .map_err(|error| StorageIOError::write_snapshot(None, any(error)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Memory;
    use openraft::CommittedLeaderId;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    const KEY: &[u8] = b"key";

    /// Keeps each entry, and answers with the one before it.
    struct Keeping;

    impl Apply for Keeping {
        fn apply(&self, state: &dyn KvRead, entry: &[u8]) -> Result<(Batch, Bytes)> {
            let before = state.get(Family::Inodes, KEY)?;
            let mut batch = Batch::new();
            batch.put(Family::Inodes, KEY, Bytes::copy_from_slice(entry));
            Ok((batch, before.unwrap_or_default()))
        }

        fn reset(&self) {}
    }

    fn machine(dir: &std::path::Path) -> Machine {
        Machine::open(
            Arc::new(Memory::new()),
            Arc::new(Keeping),
            Snapshots::open(dir).unwrap(),
            Arc::default(),
            Arc::new(Growth::new(1 << 20)),
            Arc::new(|error| panic!("{error}")),
            tokio::sync::mpsc::channel(1).0,
        )
        .unwrap()
    }

    fn blank(index: u64) -> LogEntry {
        LogEntry {
            log_id: LogId::new(CommittedLeaderId::new(1, 1), index),
            payload: EntryPayload::Blank,
        }
    }

    fn entry(index: u64, payload: &'static str) -> LogEntry {
        LogEntry {
            payload: EntryPayload::Normal(payload.into()),
            ..blank(index)
        }
    }

    #[test]
    fn entries_after_a_snapshot_read_what_it_brought() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [ahead, behind] = [&dirs[0], &dirs[1]].map(|dir| machine(dir.path()));
        ahead.shared.apply(entry(4, "of the snapshot")).unwrap();
        let sent = ahead.shared.build().unwrap();
        behind.shared.apply(entry(0, "old")).unwrap();
        let installed = behind.shared.install(&sent.meta, &sent.snapshot);
        installed.unwrap();
        let before = behind.shared.apply(entry(5, "next")).unwrap();
        assert_eq!(before, "of the snapshot");
        assert_eq!(behind.shared.apply(blank(6)).unwrap(), "");
        assert_eq!(behind.shared.apply(entry(7, "last")).unwrap(), "next");
    }

    #[test]
    fn a_snapshot_that_was_received_is_the_state_before_another_one_is_built() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [ahead, behind] = [&dirs[0], &dirs[1]].map(|dir| machine(dir.path()));
        ahead.shared.apply(entry(4, "x")).unwrap();
        let sent = ahead.shared.build().unwrap();
        let snapshots = &behind.shared.snapshots;
        std::thread::scope(|scope| {
            let install = |_: &SnapshotCopy| {
                let (built, is_built) = channel();
                scope.spawn(move || {
                    snapshots.make(|_| Ok(SnapshotMeta::default())).unwrap();
                    // Nobody waits for it any more if all is well.
                    built.send(()).ok();
                });
                let early = is_built.recv_timeout(Duration::from_millis(300));
                assert!(early.is_err(), "one was built of the state before");
                Ok(())
            };
            let adopted = snapshots.adopt(&sent.meta, &sent.snapshot, install);
            adopted.unwrap();
        });
    }

    #[test]
    fn a_snapshot_is_installed_while_another_one_is_built() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [ahead, behind] = [&dirs[0], &dirs[1]].map(|dir| machine(dir.path()));
        for index in 0..5 {
            ahead.shared.apply(blank(index)).unwrap();
        }
        let sent = ahead.shared.build().unwrap();
        behind.shared.apply(blank(0)).unwrap();

        let (begun, begins) = channel();
        let (ended, ends) = channel();
        let building = behind.clone();
        let built = ended.clone();
        std::thread::spawn(move || {
            let made = building.shared.snapshots.make(|to| {
                begun.send(()).unwrap();
                // Whoever installs one is on its way by then.
                std::thread::sleep(Duration::from_millis(200));
                let shared = &building.shared;
                let _still = shared.applying.lock().unwrap();
                copy_state(shared.kv.as_ref(), to)?;
                Ok(SnapshotMeta::default())
            });
            built.send(made.map(drop)).unwrap();
        });
        begins.recv().unwrap();
        let installing = behind.clone();
        std::thread::spawn(move || {
            let installed = installing.shared.install(&sent.meta, &sent.snapshot);
            ended.send(installed).unwrap();
        });
        for _ in 0..2 {
            let done = ends.recv_timeout(Duration::from_secs(20));
            done.expect("each waits for the other").unwrap();
        }
        assert_eq!(behind.applied().unwrap(), ahead.applied().unwrap());
        assert_eq!(behind.snapshot_end(), ahead.applied().unwrap());
    }
}
