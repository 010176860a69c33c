//! What stands in the log: typed commands that carry everything that applying them needs.
//!
//! Applying reads no clock, no randomness and no floating point: the leader puts them in here.

use quarry_common::Error;
use quarry_common::ids::{
    ChunkId, ClusterId, DiskId, Epoch, InodeId, PgId, PoolId, RequestNumber, ServerId, SessionId,
    Version,
};
use quarry_common::map::{DiskState, Pool};
use quarry_common::token::{Key, Receipt};
use quarry_common::wire::meta::{Caller, Complete, Op, OpReply, Registration, User};
use serde::{Deserialize, Serialize};

/// One command of a log entry. The entry has the time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The greatest version that the asker has seen; the command's own version is beyond it.
    pub seen: Version,
    /// What to do.
    pub action: Action,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// A client's change, applied exactly once. → `Op`
    Mutate {
        /// The session.
        session: SessionId,
        /// Its number within the session.
        number: RequestNumber,
        /// Answers below this number may be forgotten.
        answered_below: RequestNumber,
        /// As whom permissions are checked.
        caller: Caller,
        /// The change.
        op: Op,
    },
    /// Opens a session for a user. → `Session`
    OpenSession {
        /// The name in the certificate.
        user: String,
        /// The hash of the certificate, to which its capabilities are bound.
        certificate: [u8; 32],
    },
    /// Ends a session; its unnamed inodes become orphans. → `Nothing`
    EndSession {
        /// The session.
        session: SessionId,
        /// Its lease ran out (it is remembered as lost, so that its requests are *unknown*).
        lost: bool,
    },
    /// A session will commit nothing below these marks but the chunks named. → `Nothing`
    Mark {
        /// The session.
        session: SessionId,
        /// One a range.
        marks: Vec<(PoolId, ChunkId)>,
        /// Chunks below a mark that are still to be committed.
        open_chunks: Vec<(PoolId, ChunkId)>,
    },
    /// The first command of a cluster: `/`, the first pool, keys, metaservers, users. Does nothing
    /// when repeated. → `Nothing`
    Bootstrap(Bootstrap),
    /// The addresses of the metaservers changed. → `Nothing`
    SetMetaservers(Vec<(ServerId, String)>),
    /// A dataserver started; new disks get their ids. → `Registered`
    Register {
        /// The server, from its certificate.
        server: ServerId,
        /// What it said.
        registration: Registration,
        /// A random secret for its receipts, used if it has none yet.
        secret: [u8; 32],
    },
    /// The controller's decision about members: positions of some groups, valid only if the map
    /// is still at `epoch`. Members of a pool in use join as *filling*; holders of a group that is clean are forgotten.
    /// → `Nothing`
    Place {
        /// The map that it was computed from.
        epoch: Epoch,
        /// The pool.
        pool: PoolId,
        /// New members, one position a replica.
        rows: Vec<(PgId, Vec<Option<DiskId>>)>,
    },
    /// Adds a user and makes `/home/NAME`. → `Nothing`
    AddUser(User),
    /// A new capability key; older ones stay until `forget_below`. → `Nothing`
    AddCapabilityKey {
        /// The key: its number must be the next.
        key: Key,
        /// Keys below this number are forgotten.
        forget_below: quarry_common::ids::KeyNumber,
    },
    /// Empties orphans and removed trees, at most so many records. → `Collected`
    Purge {
        /// Orphans that may go: no session holds them, their lease has passed.
        orphans: Vec<InodeId>,
        /// Records (extents, entries) to be removed at most.
        records_max: u32,
    },
    /// Rules of a newer program from here on. → `Nothing`
    RaiseFeatureLevel(u32),
    /// A number for a new metaserver, never given out before. → `Metaserver`
    NumberMetaserver,
    /// Candidates for deletion: those that nothing refers to and nobody may commit are doomed. → `Doomed`
    Doom(Vec<(PoolId, ChunkId)>),
    /// A disk does not have these doomed chunks (any more): what no present member has is forgotten. Without a
    /// disk they are looked at again, since members changed. → `Forgotten`
    Gone {
        /// The disk.
        disk: Option<DiskId>,
        /// The chunks.
        chunks: Vec<(PoolId, ChunkId)>,
    },
    /// Members report that they have everything: each counts only if the member has not joined anew since (DESIGN
    /// §4.5). → `Nothing`
    Complete(Vec<Complete>),
    /// The controller's decision about disks, in one epoch. → `Nothing`
    SetDisks(Vec<(DiskId, DiskState)>),
    /// A client's change with receipts of former members, applied exactly once (DESIGN §4.2.7). → `Op`
    MutateConfirmed {
        /// The session.
        session: SessionId,
        /// Its number within the session.
        number: RequestNumber,
        /// Answers below this number may be forgotten.
        answered_below: RequestNumber,
        /// As whom permissions are checked.
        caller: Caller,
        /// The change, as the client sent it: what the number is bound to.
        op: Op,
        /// What the present members said of those chunks, in words of their own; or why they can not, which is then the
        /// answer.
        confirmed: Result<Vec<Receipt>, Error>,
    },
    /// So many milliseconds disks have been down by now, while somebody led; or that they are not any more. → `Nothing`
    NoteDown(Vec<(DiskId, Option<u64>)>),
}

/// What a cluster begins with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The cluster.
    pub cluster: ClusterId,
    /// Metaservers and their addresses.
    pub metaservers: Vec<(ServerId, String)>,
    /// The first pool.
    pub pool: (PoolId, Pool),
    /// The first capability key.
    pub capability_key: Key,
    /// The first users.
    pub users: Vec<User>,
}

/// What a command answers: `Result<Reply, Error>`, encoded.
pub type Answer = Result<Reply, Error>;

/// What a command replies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Nothing,
    /// To `Mutate`. A `Range` has a capability without a MAC, which the leader adds.
    Op(OpReply),
    /// To `OpenSession`.
    Session(SessionId),
    /// To `Register`: the id of each disk, in the order of the registration.
    Registered(Vec<DiskId>),
    /// To `Purge`: orphans that are quite gone.
    Collected {
        /// Orphans of the command that are gone.
        purged: Vec<InodeId>,
        /// Whether there may be more to do: all the records that were allowed were removed, or removed trees wait.
        more: bool,
    },
    /// To `NumberMetaserver`.
    Metaserver(ServerId),
    /// To `Doom`: how many of them are doomed now that were not.
    Doomed(u32),
    /// To `Gone`: how many of them are forgotten.
    Forgotten(u32),
}
