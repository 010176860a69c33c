//! Between admins or dataservers and the metaserver.

use crate::ids::{ClusterId, DiskId, Epoch, Gid, OpenNumber, PgId, PoolId, ServerId, Uid};
use crate::limits::REPLICAS_MAX;
use crate::map::{DiskState, Holder, MapUpdate, MemberState, Pool};
use crate::token::Key;
use serde::{Deserialize, Serialize};

/// An admin's request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AdminOp {
    /// Health in one screen. Anybody may ask. → `Status`
    Status,
    /// A page of placement groups. Anybody may ask. → `Pgs`
    Pgs {
        /// The pool.
        pool: PoolId,
        /// The first group.
        from: PgId,
    },
    /// Adds a user, makes its `/home/NAME` and issues a certificate. → `Identity`
    AddUser(User),
    /// All users. → `Users`
    Users,
    /// Gives a new metaserver its number and its identity, and invites it: it gets the state when it runs at this
    /// `host:port`, and votes once it has caught up. → `NewMetaserver`
    AddMetaserver(String),
    /// Removes a metaserver from the cluster. → `Done`
    RemoveMetaserver(ServerId),
    /// All metaservers, and how far each is. Anybody may ask. → `Metaservers`
    Metaservers,
    /// Issues a further certificate to the user of that name. → `Identity`
    RenewUser(String),
    /// What else people must know, each with what to do: dataservers that are not let in, a disk of the leader that is
    /// nearly full. Anybody may ask. → `Warnings`
    Warnings,
    /// What the leader decides by. Anybody may ask. → `Settings`
    Settings,
    /// Who the metaservers are as far as the one that is asked knows, whether it leads or not. Anybody may ask. → `Members`
    Members,
}

/// The reply to an admin's request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AdminReply {
    /// Health.
    Status(Box<Status>),
    /// Placement groups, at most 4,096 from the one asked for.
    Pgs(Vec<PgStatus>),
    /// A user's new certificate, key and CA, in PEM.
    Identity {
        /// The text of an identity file.
        pem: String,
        /// Where the metaservers are.
        metaservers: Vec<(ServerId, String)>,
    },
    /// All users.
    Users(Vec<User>),
    /// What a new metaserver is made of.
    NewMetaserver(Box<NewMetaserver>),
    /// All metaservers.
    Metaservers(Vec<MetaserverStatus>),
    /// It is done.
    Done,
    /// What else people must know.
    Warnings(Vec<String>),
    /// What the leader decides by.
    Settings(Settings),
    /// Who the metaservers are.
    Members(Members),
}

/// What the leader decides by: whoever leads does so by its own configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Data that nothing refers to any more is deleted after so many seconds.
    pub doom_grace_seconds: u64,
    /// A disk that was down for so many seconds is out.
    pub out_after_seconds: u64,
}

/// Who the metaservers are, as far as one of them knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Index of the entry of the log that says so: the newest is right.
    pub at: Option<u64>,
    /// Those who vote; in the middle of a change, those from before it too.
    pub voters: Vec<(ServerId, String)>,
}

/// What a new metaserver is made of.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMetaserver {
    /// Its number.
    pub id: ServerId,
    /// The text of its identity file.
    pub identity: String,
    /// The text of the file of the cluster's authority, with its private key.
    pub authority: String,
    /// The metaservers that there are: whom it hears at first.
    pub metaservers: Vec<(ServerId, String)>,
}

impl std::fmt::Debug for NewMetaserver {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewMetaserver")
            .field("id", &self.id)
            .field("metaservers", &self.metaservers)
            .finish_non_exhaustive()
    }
}

/// A metaserver as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaserverStatus {
    /// The metaserver.
    pub id: ServerId,
    /// Where the others reach it.
    pub address: String,
    /// Whether it votes, or is still catching up.
    pub votes: bool,
    /// Whether it leads.
    pub leads: bool,
    /// What it says; `None` if it does not answer.
    pub standing: Option<Standing>,
}

/// How far a metaserver is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its term.
    pub term: u64,
    /// Index of the last entry of its log.
    pub last_log: Option<u64>,
    /// Index of the last entry in its state.
    pub applied: Option<u64>,
    /// Index of the last entry in its newest snapshot.
    pub snapshot: Option<u64>,
    /// It began with an empty log and does not vote until it has caught up.
    pub is_new: bool,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its name, as in its certificate.
    pub name: String,
    /// Its uid.
    pub uid: Uid,
    /// Its groups, the first is that of new files.
    pub gids: Vec<Gid>,
    /// Whether it is a member of `quarry-admin`.
    pub admin: bool,
}

/// A dataserver that starts tells who it is and what it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// `host:port` at which it is reached.
    pub address: String,
    /// Failure domains.
    pub host: String,
    /// The rack of the host.
    pub rack: String,
    /// The zone of the rack.
    pub zone: String,
    /// Its data directories.
    pub disks: Vec<DiskReport>,
}

/// What a dataserver reports of a disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskReport {
    /// Its id; `None` for an empty directory, which becomes a new disk.
    pub disk: Option<DiskId>,
    /// The directory.
    pub path: String,
    /// The operator said that the disk that was at this path is gone for good.
    pub replaces_lost: bool,
    /// The open number of the start before this one.
    pub previous_open: OpenNumber,
    /// The open number of this start.
    pub open_number: OpenNumber,
    /// Bytes of its share of the file system.
    pub total: u64,
    /// Bytes free, trash included.
    pub free: u64,
    /// Chunks on it.
    pub chunks: u64,
    /// Why it does not serve, if it does not.
    pub failed: Option<String>,
    /// Bytes of `free` that are in its trash.
    pub trash: u64,
    /// Chunks that are referenced, should be on it, and are on no disk.
    pub lost: u64,
    /// Bytes of chunks that repair has copied to it since its server started.
    pub copied: u64,
}

/// The reply to a registration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    /// The cluster.
    pub cluster: ClusterId,
    /// The id of each disk, in the order of the registration.
    pub disks: Vec<DiskId>,
    /// The keys it needs.
    pub keys: Keys,
}

/// The secrets of a dataserver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Keys {
    /// Under which capabilities are made: all that may be in use.
    pub capability: Vec<Key>,
    /// Under which this dataserver signs receipts: the newest.
    pub receipt: Option<Key>,
}

/// A dataserver's sign of life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The epoch of its map.
    pub epoch: Epoch,
    /// Its disks.
    pub disks: Vec<DiskReport>,
}

/// The reply to a heartbeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// What changed in the map.
    pub map: MapUpdate,
    /// The keys it needs.
    pub keys: Keys,
}

/// Health in one screen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster.
    pub cluster: ClusterId,
    /// The epoch of the map.
    pub epoch: Epoch,
    /// The metaserver that leads.
    pub leader: ServerId,
    /// Milliseconds since it began to: whom it has not heard yet it knows nothing of.
    pub leads_for_ms: u64,
    /// Too much is down at once for anything to go out by itself.
    pub none_goes_out: bool,
    /// All metaservers.
    pub metaservers: Vec<(ServerId, String)>,
    /// Dataservers.
    pub servers: Vec<ServerStatus>,
    /// Pools, with how many groups are clean, crowded, and have empty positions.
    pub pools: Vec<(PoolId, Pool, PgCounts)>,
    /// Bytes, files and directories of the namespace.
    pub bytes: u64,
    /// Everything but directories.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Sessions that are open.
    pub sessions: u64,
    /// Files without a name that wait to be emptied.
    pub orphans: u64,
    /// Chunks that lost their last reference and are not doomed yet.
    pub unreferenced_chunks: u64,
    /// Chunks that are doomed: dataservers are to delete them.
    pub doomed_chunks: u64,
}

/// Placement groups of a pool by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgCounts {
    /// Members are the target and all complete.
    pub clean: u32,
    /// Members in different disks of one host.
    pub crowded: u32,
    /// Positions without a disk.
    pub degraded: u32,
    /// Fewer members up than `min_members`: no writes now.
    pub unwritable: u32,
    /// A member is filling: it takes new writes, and may lack older chunks.
    pub filling: u32,
    /// A member is filling and fetches what it lacks.
    pub rebuilding: u32,
    /// By on how many disks that are up each of their chunks is at least: none, one, …
    pub copies: [u32; REPLICAS_MAX + 1],
}

/// Whether a server or a disk serves, as far as the leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Serves {
    /// This leader has not heard of it yet, and has not led for long enough to conclude anything: whoever is a member
    /// stays.
    Unknown,
    /// It does.
    Up,
    /// It does not.
    Down,
}

/// A dataserver as the leader sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// The server.
    pub server: ServerId,
    /// Its address.
    pub address: String,
    /// Its failure domains.
    pub host: String,
    /// Whether it answers: it may while its disks do not serve.
    pub serves: Serves,
    /// Milliseconds since its last heartbeat, if the leader has seen one.
    pub heard_ms_ago: Option<u64>,
    /// Its disks.
    pub disks: Vec<DiskStatus>,
}

/// A disk as the leader sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The disk.
    pub disk: DiskId,
    /// Whether it serves: it was reported healthy by a server that is up.
    pub serves: Serves,
    /// The placement groups it is a member of.
    pub groups: u32,
    /// The last report.
    pub report: DiskReport,
    /// Whether it takes part in placement.
    pub state: DiskState,
    /// It serves again, and takes part in so many milliseconds: it went down more than once lately.
    pub returns_in_ms: Option<u64>,
    /// It is down, and goes out in so many milliseconds unless it comes back, or [`Status::none_goes_out`].
    pub out_in_ms: Option<u64>,
    /// Bytes a second that repair copies to it, over the last heartbeats.
    pub copies_per_second: u64,
}

/// A placement group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PgStatus {
    /// The group.
    pub pg: PgId,
    /// The epoch of its row.
    pub epoch: Epoch,
    /// Its positions.
    pub members: Vec<Option<(DiskId, MemberState)>>,
    /// Whether members are the target and all complete.
    pub clean: bool,
    /// Disks beside the members that cover epochs of it.
    pub holders: Vec<Holder>,
}
