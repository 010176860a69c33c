//! The way to the dataservers: map, chunk ids, health, and where a chunk goes.

use crate::file::same_host::SameHost;
use crate::health::{Doing, Health};
use crate::map_cache::MapCache;
use crate::meta::MetaLink;
use crate::session::Sessions;
use crate::session::ranges::OpenChunk;
use crate::telling::Telling;
use crate::transport::{Peer, Transport};
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{ChunkId, DiskId, Epoch, PoolId};
use quarry_common::map::ClusterMap;
use quarry_common::wire::data::WriteTarget;
use quarry_common::wire::meta::MetaBody;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A report that takes longer is of no more use.
const REPORT_WITHIN: Duration = Duration::from_secs(2);

/// So many full disks are named.
const FULL_NAMED: usize = 8;

/// Settings of the data plane.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// How long a transfer may make no progress at all.
    pub deadline: Duration,
    /// The pool of new chunks; the first of the map if left out.
    pub pool: Option<PoolId>,
    /// The failure domain of this machine.
    pub host: Option<String>,
    /// Whether chunks on this host are read past the network.
    pub same_host_reads: bool,
}

/// Everything that readers and writers of chunks need.
pub struct DataLink {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) meta: Arc<MetaLink>,
    pub(crate) map: Arc<MapCache>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) health: Health,
    pub(crate) telling: Telling,
    pub(crate) same_host: Arc<SameHost>,
    pub(crate) deadline: Duration,
    pool: Option<PoolId>,
    /// The failure domain of this machine.
    pub(crate) host: String,
}

/// A chunk id and the head of the pipeline to write it to.
pub struct Target {
    /// The chunk.
    pub chunk: OpenChunk,
    /// The server of the head.
    pub head: Peer,
    /// Its disk.
    pub disk: DiskId,
    /// All disks of the pipeline.
    pub members: Vec<DiskId>,
    /// The epoch of the group's row.
    pub pg_epoch: Epoch,
}

impl Target {
    /// The chunk as the head wants it named.
    pub fn wire(&self) -> WriteTarget {
        WriteTarget {
            disk: self.disk,
            pool: self.chunk.pool,
            chunk: self.chunk.chunk,
            pg_epoch: self.pg_epoch,
            capability: self.chunk.capability.clone(),
            on_behalf_of: None,
        }
    }
}

impl DataLink {
    /// A way to the dataservers of the map.
    pub fn new(
        transport: Arc<dyn Transport>,
        meta: Arc<MetaLink>,
        map: Arc<MapCache>,
        sessions: Arc<Sessions>,
        options: DataOptions,
    ) -> DataLink {
        let nodename = || {
            let name = rustix::system::uname();
            name.nodename().to_string_lossy().into_owned()
        };
        DataLink {
            transport,
            meta,
            map,
            sessions,
            health: Health::default(),
            telling: Telling::default(),
            same_host: SameHost::new(options.same_host_reads),
            deadline: options.deadline,
            pool: options.pool,
            host: options.host.unwrap_or_else(nodename),
        }
    }

    /// All members of a pipeline did their part.
    pub(crate) fn handle_written(&self, target: &Target) {
        for disk in &target.members {
            self.health.handle_success(*disk, Doing::Write);
        }
    }

    /// A disk did not do its part: it is avoided, and if its server did not answer, the metaserver is told so, which asks it
    /// and finds others for its groups sooner than its silence would make it.
    pub(crate) fn handle_failure(&self, disk: DiskId, doing: Doing, error: &Error) {
        let now = Instant::now();
        self.health.handle_failure(disk, doing, now);
        let Ok(peer) = peer_of(&self.map.get(), disk) else {
            return;
        };
        let silent = matches!(
            error.code,
            Code::Unreachable | Code::OtherServer | Code::Disconnected
        );
        if silent && self.health.handle_silence(peer.server, now) {
            let meta = Arc::clone(&self.meta);
            tokio::spawn(async move {
                let body = MetaBody::Suspect(peer.server);
                if let Err(error) = meta.call(None, body, now + REPORT_WITHIN).await {
                    tracing::debug!(%error, "a dataserver that does not answer was not reported");
                }
            });
        }
    }

    /// Fetches the map after a server said that ours is old, or a member failed. A failure is not
    /// one of the transfer: it goes on with the map there is.
    pub async fn refresh(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        if let Err(error) = self.map.fetch(&self.meta, None, deadline).await {
            tracing::debug!(%error, "the cluster map could not be fetched");
        }
    }

    /// How little an id suits: 0 is good. Full members weigh more than failing ones: a write to
    /// a full one can not succeed.
    fn score(&self, map: &ClusterMap, pool: PoolId, chunk: ChunkId, small: bool) -> u32 {
        let now = Instant::now();
        let Ok((_, row)) = map.locate(pool, chunk) else {
            return 0;
        };
        let min_members = map
            .pool(pool)
            .map_or(1, |pool| pool.redundancy.min_members());
        let mut score = if row.present() < min_members {
            1_000
        } else {
            0
        };
        for disk in row.chain() {
            score += if self.health.is_full(disk, now) {
                100
            } else {
                0
            };
            score += if self.health.is_avoided(disk, now) {
                10
            } else {
                0
            };
        }
        if small && score == 0 {
            let head = row.chain().next().and_then(|disk| peer_of(map, disk).ok());
            score = u32::from(!head.is_some_and(|head| self.transport.connected(&head)));
        }
        score
    }

    /// Takes a chunk id whose members seem fit, and says where to write it.
    ///
    /// # Errors
    /// `TooFewDisks` when the group of every id in sight has too few members.
    pub async fn target(&self, small: bool, deadline: Instant) -> Result<Target> {
        let map = self.map.get();
        let first = || map.topology.pools.keys().next().copied();
        let pool = self.pool.or_else(first).ok_or_else(|| {
            let text = "the cluster has no pool yet: start its dataservers";
            Error::new(Code::TooFewDisks, text)
        })?;
        let score = |chunk| self.score(&map, pool, chunk, small);
        let chunk = self.sessions.take_chunk(pool, score, deadline).await?;
        let (pg, row) = map.locate(pool, chunk.chunk)?;
        let min_members = map.pool(pool)?.redundancy.min_members();
        if row.present() < min_members {
            let text = format!(
                "placement group {pool}.{pg} has {} of at least {min_members} disks: \
                 start the dataservers that are down (quarry status shows them)",
                row.present()
            );
            return Err(Error::new(Code::TooFewDisks, text));
        }
        let head = row.chain().next();
        let disk = head.ok_or_else(|| Error::bug("a group with members has no head"))?;
        Ok(Target {
            head: peer_of(&map, disk)?,
            disk,
            members: row.chain().collect(),
            pg_epoch: row.epoch,
            chunk,
        })
    }

    /// Whether every placement group of a pool has a disk that said lately that it is full.
    pub fn all_full(&self, pool: PoolId) -> bool {
        let now = Instant::now();
        let map = self.map.get();
        let Some(rows) = map.rows.get(&pool) else {
            return false;
        };
        let mut placed = rows.iter().filter(|row| row.present() > 0);
        placed.all(|row| row.chain().any(|disk| self.health.is_full(disk, now)))
    }

    /// The disks that said lately that they are full, for people.
    pub fn full_disks(&self) -> String {
        let (map, now) = (self.map.get(), Instant::now());
        let disks = map.topology.disks.keys();
        let full = disks.filter(|disk| self.health.is_full(**disk, now));
        let mut named: Vec<String> = full.map(|disk| format!("disk {disk}")).collect();
        let more = named.len().saturating_sub(FULL_NAMED);
        named.truncate(FULL_NAMED);
        named.extend((more > 0).then(|| format!("{more} more")));
        named.join(", ")
    }
}

/// The server of a disk.
///
/// # Errors
/// `OldMap` if this map has no such disk.
pub fn peer_of(map: &ClusterMap, disk: DiskId) -> Result<Peer> {
    let (found, server) = map.disk(disk)?;
    Ok(Peer {
        server: found.server,
        address: server.address.clone(),
    })
}
