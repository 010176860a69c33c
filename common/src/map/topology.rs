//! Servers, disks and pools: the part of the map that is sent whole.

use crate::ids::{ClusterId, DiskId, Epoch, OpenNumber, PoolId, ServerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Servers, disks and pools.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// The epoch of the last change of anything in here.
    pub changed_at: Epoch,
    /// The cluster.
    pub cluster: ClusterId,
    /// Metaservers and the addresses (`host:port`) at which they are reached.
    pub metaservers: BTreeMap<ServerId, String>,
    /// Dataservers.
    pub servers: BTreeMap<ServerId, Server>,
    /// Disks, also those that are out.
    pub disks: BTreeMap<DiskId, Disk>,
    /// Pools.
    pub pools: BTreeMap<PoolId, Pool>,
}

/// A dataserver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// `host:port` at which it is reached.
    pub address: String,
    /// Failure domains, from its configuration.
    pub host: String,
    /// The rack of the host.
    pub rack: String,
    /// The zone of the rack.
    pub zone: String,
}

/// One data directory of a dataserver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The server that has it.
    pub server: ServerId,
    /// The directory on that server.
    pub path: String,
    /// Its weight in placement: its share of the file system's capacity, in MiB, at least 1.
    pub weight: u32,
    /// Whether it takes part.
    pub state: DiskState,
    /// The open number of its last registered start.
    pub open_number: OpenNumber,
}

/// Whether a disk takes part in placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskState {
    /// It does.
    In,
    /// It stays readable while its groups move.
    Draining,
    /// It does not.
    Out,
}

/// What must not hold two members of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureDomain {
    /// One host.
    Host,
}

/// How a pool protects its chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Redundancy {
    /// Whole copies.
    Replicated {
        /// Members of a group.
        replicas: u8,
        /// A group takes writes with at least so many.
        min_members: u8,
    },
}

impl Redundancy {
    /// Positions of a row.
    pub fn members(self) -> usize {
        match self {
            Redundancy::Replicated { replicas, .. } => usize::from(replicas),
        }
    }

    /// A group takes writes with at least so many members.
    pub fn min_members(self) -> usize {
        match self {
            Redundancy::Replicated { min_members, .. } => usize::from(min_members),
        }
    }
}

/// A redundancy scheme and its placement groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// For people.
    pub name: String,
    /// How it protects its chunks.
    pub redundancy: Redundancy,
    /// What must not hold two members of one group.
    pub failure_domain: FailureDomain,
    /// Groups, a power of two.
    pub pg_count: u32,
    /// Chunks are at most this long, in bytes.
    pub chunk_len_max: u32,
    /// Set when the first chunk ids were given out: from then on a member that joins is *filling*.
    pub in_use: bool,
    /// Groups whose target is not what hashing says, kept by the balancer.
    pub exceptions: BTreeMap<u32, Vec<DiskId>>,
}
