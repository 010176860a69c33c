//! What metaservers say to each other, on a `Raft` request stream and on a `RaftSnapshot` bulk stream.
//!
//! A request is an encoded [`RaftRequest`], its answer an encoded `Result<RaftReply, Error>`. A snapshot is
//! a [`SnapshotHead`], then for each file a [`FileHead`] and as many bytes as it says and a [`FileEnd`];
//! after the last file the receiver answers with a [`SnapshotAnswer`]. All heads are messages of a bulk stream.

use super::types::{LogId, NodeId, SnapshotMeta, Types};
use openraft::Vote;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use quarry_common::Result;
use quarry_common::checksum::Crc;
use quarry_common::ids::{ServerId, ShardId};
use quarry_common::wire::meta::Standing;
use serde::{Deserialize, Serialize};

/// A request to another member of a group.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RaftRequest {
    /// The group.
    pub(crate) shard: ShardId,
    /// What is asked.
    pub(crate) call: RaftCall,
}

/// What a member asks another one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum RaftCall {
    /// The leader's entries, or its sign of life. Reply: `Append`.
    Append(AppendEntriesRequest<Types>),
    /// A candidate asks for a vote. Reply: `Vote`.
    Vote(VoteRequest<NodeId>),
    /// Who is in the group, as far as the one who is asked knows. Reply: `Members`.
    Members,
    /// How far it is. Reply: `Standing`.
    Standing,
    /// To the leader: the asker is reached at this address now. Reply: `Done`.
    Moved(String),
    /// Whether it would vote for the asker: without that nobody asks for votes. Reply: `WouldVote`.
    WouldVote {
        /// Where the asker's log ends.
        end: Option<LogId>,
        /// A leader whose machine has told the asker that it does not run.
        gone: Option<NodeId>,
    },
}

/// What it replies.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum RaftReply {
    /// To `Append`.
    Append(AppendEntriesResponse<NodeId>),
    /// To `Vote`.
    Vote(VoteResponse<NodeId>),
    /// To `Members`.
    Members {
        /// The index of the entry with these members.
        at: Option<u64>,
        /// All of them.
        members: Vec<ServerId>,
    },
    /// To `Standing`.
    Standing(Standing),
    /// To `Moved`.
    Done,
    /// To `WouldVote`.
    WouldVote(bool),
}

/// What comes before the files of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotHead {
    /// The group.
    pub(crate) shard: ShardId,
    /// The leader's vote.
    pub(crate) vote: Vote<NodeId>,
    /// What the snapshot holds.
    pub(crate) meta: SnapshotMeta,
    /// How many files follow.
    pub(crate) files: u32,
    /// Bytes in all of them.
    pub(crate) len: u64,
}

/// What comes before the bytes of a file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FileHead {
    /// Its name.
    pub(crate) name: String,
    /// Its bytes.
    pub(crate) len: u64,
}

/// What comes after them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FileEnd {
    /// The CRC of the file.
    pub(crate) crc: Crc,
}

/// The receiver's vote after it has installed the snapshot, or because it has seen a greater one.
pub(crate) type SnapshotAnswer = Result<Vote<NodeId>>;
