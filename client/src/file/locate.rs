//! Where the bytes of a file are, and what each replica says of them.

use super::extents::Window;
use crate::client::Client;
use crate::data::peer_of;
use crate::namespace::shown;
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{ChunkId, DiskId, Epoch, PgId, PoolId, ServerId};
use quarry_common::map::{ClusterMap, MemberState};
use quarry_common::token::Capability;
use quarry_common::wire::data::{DataReply, DataRequest, ReplicaInfo};
use quarry_common::wire::meta::{Extent, ExtentSource, FileKind};
use std::time::Duration;
use tokio::task::JoinSet;

/// A server that does not answer for so long is reported as such.
const PATIENCE: Duration = Duration::from_secs(3);

/// A range of a file and where it is.
#[derive(Clone, Debug)]
pub struct Located {
    /// The first byte's place in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Where they are.
    pub at: Place,
}

/// Where a range is.
#[derive(Clone, Debug)]
pub enum Place {
    /// In the metadata.
    Inline,
    /// Nowhere: zeros.
    Hole,
    /// In a chunk.
    Chunk {
        /// The pool.
        pool: PoolId,
        /// The chunk.
        chunk: ChunkId,
        /// The first byte's place in it.
        chunk_offset: u32,
        /// The committed length of the chunk.
        chunk_len: u32,
        /// Its placement group.
        pg: PgId,
        /// The epoch of the group's members.
        pg_epoch: Epoch,
        /// The disks that have or should have it.
        replicas: Vec<ReplicaAt>,
    },
}

/// A replica and what its disk says.
#[derive(Clone, Debug)]
pub struct ReplicaAt {
    /// The disk.
    pub disk: DiskId,
    /// The server that has the disk.
    pub server: ServerId,
    /// Where that is.
    pub address: String,
    /// Its failure domain.
    pub host: String,
    /// `complete`, `filling` or `holder`.
    pub role: &'static str,
    /// What the disk knows of the chunk; `None`: nothing.
    pub info: Result<Option<ReplicaInfo>>,
}

impl Client {
    /// Where a file is: its ranges in order, holes included, with the replicas of each chunk as
    /// their disks see them now.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `AccessDenied`. A disk that does not answer is no error here.
    pub async fn locate(&self, path: &[u8]) -> Result<Vec<Located>> {
        let attr = self.stat(path).await?;
        if attr.kind != FileKind::File {
            let text = format!("{}: not a regular file", shown(path));
            return Err(Error::new(Code::Invalid, text));
        }
        let map = self.refresh_map().await?;
        let mut found = Vec::new();
        let mut at = 0;
        while at < attr.size {
            let window = Window::fetch_to(self, attr.inode, at, attr.size).await?;
            for extent in window.extents() {
                let from = extent.offset.0.max(at);
                let to = extent.offset.0.saturating_add(extent.len).min(window.size);
                if to <= from {
                    continue;
                }
                push_hole(&mut found, at, from);
                let place = self.place(&map, extent, from).await?;
                found.push(Located {
                    offset: from,
                    len: to - from,
                    at: place,
                });
                at = to;
            }
            let end = window.end();
            push_hole(&mut found, at, end);
            if end <= at && end >= window.size.min(attr.size) {
                break;
            }
            at = end.max(at);
        }
        Ok(found)
    }

    async fn place(&self, map: &ClusterMap, extent: &Extent, from: u64) -> Result<Place> {
        let ExtentSource::Chunk {
            pool,
            chunk,
            offset,
            chunk_len,
            capability,
            ..
        } = &extent.source
        else {
            return Ok(Place::Inline);
        };
        let (pg, row) = map.locate(*pool, *chunk)?;
        let mut asking = JoinSet::new();
        for (order, disk) in row.sources().into_iter().enumerate() {
            let member = row.members.iter().flatten().find(|m| m.disk == disk);
            let role = match member.map(|member| member.state) {
                Some(MemberState::Complete) => "complete",
                Some(MemberState::Filling) => "filling",
                None => "holder",
            };
            let Ok((_, server)) = map.disk(disk) else {
                continue;
            };
            let peer = peer_of(map, disk)?;
            let mut replica = ReplicaAt {
                disk,
                server: peer.server,
                address: peer.address.clone(),
                host: server.host.clone(),
                role,
                info: Ok(None),
            };
            let client = self.clone();
            let request = stat_of(disk, *pool, *chunk, capability);
            asking.spawn(async move {
                let transport = &client.shared.data.transport;
                let reply = transport.data(&peer, &request, PATIENCE).await;
                replica.info = reply.and_then(|reply| match reply {
                    DataReply::Chunk(info) => Ok(info),
                    _ => Err(Error::malformed("a dataserver answered something else")),
                });
                (order, replica)
            });
        }
        let mut replicas = asking.join_all().await;
        replicas.sort_by_key(|(order, _)| *order);
        let inside = from - extent.offset.0;
        Ok(Place::Chunk {
            pool: *pool,
            chunk: *chunk,
            chunk_offset: u64::from(offset.0)
                .saturating_add(inside)
                .min(u64::from(u32::MAX)) as u32,
            chunk_len: *chunk_len,
            pg,
            pg_epoch: row.epoch,
            replicas: replicas.into_iter().map(|(_, replica)| replica).collect(),
        })
    }
}

fn stat_of(disk: DiskId, pool: PoolId, chunk: ChunkId, capability: &Capability) -> DataRequest {
    DataRequest::Stat {
        disk,
        pool,
        chunk,
        capability: capability.clone(),
    }
}

fn push_hole(found: &mut Vec<Located>, from: u64, to: u64) {
    if from >= to {
        return;
    }
    // A hole that goes on in the next window is one hole.
    if let Some(Located {
        offset,
        len,
        at: Place::Hole,
    }) = found.last_mut()
        && *offset + *len == from
    {
        *len += to - from;
        return;
    }
    found.push(Located {
        offset: from,
        len: to - from,
        at: Place::Hole,
    });
}
