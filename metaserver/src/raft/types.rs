//! The types with which openraft is used here, and how its failures become ours.

use super::snapshot::SnapshotCopy;
use crate::kv::Room;
use bytes::Bytes;
use openraft::StorageIOError;
use quarry_common::ids::ServerId;
use quarry_common::{Code, Error};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

openraft::declare_raft_types!(
    /// An entry is an encoded [`super::entry::Entry`], its answer the encoded answers of its commands; a
    /// node is the number of a metaserver.
    pub(crate) Types: D = Bytes, R = Bytes, SnapshotData = SnapshotCopy
);

pub(crate) type NodeId = u64;
pub(crate) type LogId = openraft::LogId<NodeId>;
pub(crate) type LogEntry = openraft::Entry<Types>;
pub(crate) type Membership = openraft::StoredMembership<NodeId, openraft::BasicNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<NodeId, openraft::BasicNode>;
pub(crate) type StorageError = openraft::StorageError<NodeId>;

/// A boxed future of something that may fail: what an async method of an object-safe trait returns.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = quarry_common::Result<T>> + Send + 'a>>;

/// Called with the reason when this metaserver must not go on: its log can not be written or
/// its state can not be applied. Does not return outside tests.
pub type Fatal = Arc<dyn Fn(&Error) + Send + Sync>;

/// Ends the process at once, without any clean-up: what is in memory may be wrong, and what is
/// on disk, in `dir`, is as after a crash.
pub fn end_process(dir: &Path) -> Fatal {
    let dir = dir.to_owned();
    Arc::new(move |error| {
        let words = last_words(&dir, error);
        // Who has the log without errors is told all the same.
        match tracing::enabled!(tracing::Level::ERROR) {
            true => tracing::error!("{words}"),
            false => eprintln!("{words}"),
        }
        std::process::abort();
    })
}

/// Why a metaserver ends, and what to do.
fn last_words(dir: &Path, error: &Error) -> String {
    // The clone's text names the source.
    let why = format!("this metaserver can not go on: {}", error.clone());
    match (error.code, Room::of(dir)) {
        (Code::DiskFull, Ok(room)) => format!("{why} ({room}), and start this metaserver again"),
        (Code::DiskFull, Err(_)) => format!("{why}, and start this metaserver again"),
        _ => why,
    }
}

/// Held by whoever uses a log or a state; its receiver ends when nobody does any more.
pub(crate) type Open = tokio::sync::mpsc::Sender<()>;

/// The number by which openraft knows a metaserver.
pub(crate) fn node_id(server: ServerId) -> NodeId {
    NodeId::from(server.0)
}

/// The metaserver that openraft knows by a number. Numbers are only made by [`node_id`]; another
/// one is shown as the greatest.
pub(crate) fn server_id(node: NodeId) -> ServerId {
    ServerId(u32::try_from(node).unwrap_or(u32::MAX))
}

/// An entry, for people.
pub(crate) fn named(entry: Option<LogId>) -> String {
    let words = |entry: LogId| format!("entry {} of term {}", entry.index, entry.leader_id.term);
    entry.map_or_else(|| "no entry".to_owned(), words)
}

/// An error of ours as openraft wants it.
pub(crate) fn any(error: Error) -> openraft::AnyError {
    // The clone's text names the source.
    openraft::AnyError::error(error.clone())
}

pub(crate) fn state_failed(error: Error) -> StorageError {
    StorageIOError::write_state_machine(any(error)).into()
}

/// Runs work that waits for a disk, without stopping the other tasks of this thread where the
/// runtime has others.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_ends_a_metaserver_with_what_is_free_and_what_to_do() {
        let error = Error::new(Code::DiskFull, "the Raft log /m/log can not be written");
        let words = last_words(Path::new("/"), &error);
        for part in ["/m/log", "MiB are free", "start this metaserver again"] {
            assert!(words.contains(part), "{part} in {words}");
        }
        let broken = Error::new(Code::Io, "a disk").with_source(std::io::Error::other("is broken"));
        let words = last_words(Path::new("/"), &broken);
        assert_eq!(words, "this metaserver can not go on: a disk: is broken");
    }
}
