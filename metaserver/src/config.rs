//! How a metaserver is set up: what stands in its TOML file, and what a new cluster begins with.

use quarry_common::ids::{ClusterId, PoolId, ServerId};
use quarry_common::limits::{CHUNK_LEN_MAX, DOOM_GRACE};
use quarry_common::map::{FailureDomain, Pool, Redundancy};
use quarry_common::wire::meta::User;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The settings of a metaserver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaserverConfig {
    /// Where it listens, UDP.
    pub listen: SocketAddr,
    /// `host:port` at which others reach it; the address it listens on if left out, which must then be one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Its directory: state, log, snapshots.
    pub dir: PathBuf,
    /// The cluster's metaservers when this one was made by 'quarry metaserver add': whom it hears until it
    /// has the state from them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metaservers: Vec<(ServerId, String)>,
    /// Memory for the state's block cache, in MiB.
    #[serde(default = "default_cache_mib")]
    pub cache_mib: u64,
    /// Data that nothing refers to any more is deleted after so many seconds: readers that found it before have
    /// as long to finish.
    #[serde(default = "default_doom_grace_seconds")]
    pub doom_grace_seconds: u64,
    /// A disk that was down for so many seconds is out: its data is rebuilt on others (DESIGN §4.1).
    #[serde(default = "default_out_after_seconds")]
    pub out_after_seconds: u64,
}

fn default_doom_grace_seconds() -> u64 {
    DOOM_GRACE.as_secs()
}

fn default_cache_mib() -> u64 {
    256
}

fn default_out_after_seconds() -> u64 {
    600
}

/// What a new cluster begins with; used when the state is empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSeed {
    /// The cluster.
    pub cluster: ClusterId,
    /// Whole copies of every chunk.
    pub replicas: u8,
    /// A placement group takes writes with at least so many members.
    pub min_members: u8,
    /// Placement groups of the first pool, a power of two.
    pub pg_count: u32,
    /// Chunks are given out only after so many dataservers have registered once, so that the
    /// first placement is made over all of them.
    pub dataservers: u32,
    /// The metaservers and their addresses.
    pub metaservers: Vec<(ServerId, String)>,
    /// The first users.
    pub users: Vec<User>,
}

impl ClusterSeed {
    /// The first pool.
    pub fn pool(&self) -> (PoolId, Pool) {
        let pool = Pool {
            name: "main".into(),
            redundancy: Redundancy::Replicated {
                replicas: self.replicas,
                min_members: self.min_members,
            },
            failure_domain: FailureDomain::Host,
            pg_count: self.pg_count,
            chunk_len_max: CHUNK_LEN_MAX,
            in_use: false,
            exceptions: BTreeMap::new(),
        };
        (PoolId(1), pool)
    }
}
