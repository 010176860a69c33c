//! Whether this metaserver's log is one that it may vote with (Protocol-Aware Recovery, FAST '18).
//!
//! An empty directory looks like that of a new member and may be that of one that lost its disk, whose
//! acknowledgements others rely on. So whoever begins with an empty log, for whatever reason, votes in the very first
//! election of a group and then not until its log has everything that a leader has agreed on.
//! The file `DIR/new` says so over restarts.

use super::types::{LogId, NodeId, Types};
use openraft::Vote;
use openraft::raft::AppendEntriesRequest;
use quarry_common::durable::{replace, sync_directory};
use quarry_common::{Code, Error, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The file that marks a new log.
const NEW: &str = "new";

/// What this metaserver may do with its log.
pub(super) struct Fitness {
    dir: PathBuf,
    is_new: AtomicBool,
}

impl Fitness {
    /// Of the log in `dir`, which was just opened and is empty or not.
    pub(super) fn open(dir: &Path, is_empty: bool) -> Result<Fitness> {
        let path = dir.join(NEW);
        let mut is_new = path.exists();
        if is_empty && !is_new {
            replace(&path, b"").map_err(|error| failed(&path, "can not be made", error))?;
            is_new = true;
        }
        Ok(Fitness {
            dir: dir.to_owned(),
            is_new: AtomicBool::new(is_new),
        })
    }

    /// Whether the log is new: it may lack what this metaserver has acknowledged.
    pub(super) fn is_new(&self) -> bool {
        self.is_new.load(Ordering::Acquire)
    }

    /// Whether a vote may be given to a candidate whose log ends there.
    ///
    /// # Errors
    /// `Overloaded` (later): not until the log has caught up.
    pub(super) fn check_vote(&self, candidate: Option<LogId>) -> Result<()> {
        // In the first election a candidate has the entry that names the members, and nothing else.
        let is_first = candidate.is_some_and(|last| last.index == 0);
        if !self.is_new() || is_first {
            return Ok(());
        }
        Err(Error::new(
            Code::Overloaded,
            "this metaserver began with an empty log: it votes when it has caught up with a leader",
        ))
    }

    /// The leader's entries are in the log, synced. True if the log is as good as any from here on.
    ///
    /// # Errors
    /// The mark can not be removed.
    pub(super) fn handle_appended(&self, request: &Appended) -> Result<bool> {
        if !self.is_new() || !request.is_all_agreed() {
            return Ok(false);
        }
        self.handle_fit()
    }

    /// This metaserver leads, so its log has all that was agreed on. True if it was new until now.
    ///
    /// # Errors
    /// The mark can not be removed.
    pub(super) fn handle_fit(&self) -> Result<bool> {
        if !self.is_new() {
            return Ok(false);
        }
        let path = self.dir.join(NEW);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(&path, "can not be removed", error));
            }
            _ => {}
        }
        sync_directory(&self.dir).map_err(|error| failed(&self.dir, "can not be synced", error))?;
        self.is_new.store(false, Ordering::Release);
        Ok(true)
    }
}

/// What is known of the log after entries were appended.
pub(super) struct Appended {
    leader: Vote<NodeId>,
    last: Option<LogId>,
    leader_commit: Option<LogId>,
}

impl Appended {
    /// After that request.
    pub(super) fn of(request: &AppendEntriesRequest<Types>) -> Appended {
        let last = request.entries.last().map(|entry| entry.log_id);
        Appended {
            leader: request.vote,
            last: last.or(request.prev_log_id),
            leader_commit: request.leader_commit,
        }
    }

    /// An entry of the leader's own term is agreed on, and so is everything before it; the log has it.
    fn is_all_agreed(&self) -> bool {
        self.leader_commit.is_some_and(|commit| {
            commit.leader_id == self.leader.leader_id
                && self.last.is_some_and(|last| last.index >= commit.index)
        })
    }
}

fn failed(path: &Path, what: &str, error: std::io::Error) -> Error {
    Error::new(Code::Io, format!("{} {what}", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::CommittedLeaderId;

    fn at(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId::new(term, 2), index))
    }

    #[test]
    fn an_empty_log_votes_in_the_first_election_and_then_only_after_it_has_caught_up() {
        let dir = tempfile::tempdir().unwrap();
        let fitness = Fitness::open(dir.path(), true).unwrap();
        assert_eq!(fitness.check_vote(at(0, 0)), Ok(()));
        assert!(fitness.check_vote(at(3, 90)).is_err());
        let appended = |last, leader_commit| Appended {
            leader: Vote::new_committed(4, 2),
            last,
            leader_commit,
        };
        for behind in [
            appended(at(3, 50), at(4, 95)),
            // A new leader that has agreed on nothing yet does not know how far others were.
            appended(at(4, 95), at(3, 80)),
            appended(at(4, 95), None),
            appended(None, at(4, 95)),
        ] {
            assert!(!fitness.handle_appended(&behind).unwrap());
        }
        // Still so after a restart, though the log is not empty any more.
        let fitness = Fitness::open(dir.path(), false).unwrap();
        assert!(fitness.check_vote(at(3, 90)).is_err());
        assert!(
            fitness
                .handle_appended(&appended(at(4, 95), at(4, 95)))
                .unwrap()
        );
        assert_eq!(fitness.check_vote(at(3, 90)), Ok(()));
        let fitness = Fitness::open(dir.path(), false).unwrap();
        assert!(!fitness.is_new());
    }
}
