//! Reading: any member or holder serves what it has, with the checksums as they were stored (DESIGN §4.3).

pub mod files;
pub mod stream;
mod tickets;

use crate::caller::Caller;
use crate::disk::{ChunkData, ChunkInfo, ChunkState, Disk};
use crate::node::{Node, unix_seconds};
use quarry_common::ids::{ChunkId, DiskId, PoolId, ServerId};
use quarry_common::map::{ClusterMap, MemberState};
use quarry_common::token::{Access, Capability};
use quarry_common::wire::data::{
    DataReply, ReadChunk, ReplicaInfo, ReplicaState, SMALL_READ_LEN_MAX,
};
use quarry_common::{Code, Error, Result};

/// What a disk is to a chunk's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// A member that has everything.
    Complete,
    /// A member that still fetches, or a holder: it has some of it. Which chunks those are their names do not tell.
    Partial,
    /// Nothing: it may have what was not deleted yet.
    None,
    /// Our map does not know the group.
    Unknown,
}

fn relation(map: &ClusterMap, pool: PoolId, chunk: ChunkId, disk: DiskId) -> Relation {
    let Ok((_, row)) = map.locate(pool, chunk) else {
        return Relation::Unknown;
    };
    let member = row
        .members
        .iter()
        .flatten()
        .find(|member| member.disk == disk);
    match member.map(|member| member.state) {
        Some(MemberState::Complete) => Relation::Complete,
        Some(MemberState::Filling) => Relation::Partial,
        None if row.holders.iter().any(|holder| holder.disk == disk) => Relation::Partial,
        None => Relation::None,
    }
}

/// Whether a dataserver that reads for repair has a member or a holder of the chunk's group.
///
/// # Errors
/// `NotMember`; those of [`ClusterMap::locate`].
fn check_place(map: &ClusterMap, pool: PoolId, chunk: ChunkId, server: ServerId) -> Result<()> {
    let (_, row) = map.locate(pool, chunk)?;
    let has = |disk: DiskId| map.disk(disk).is_ok_and(|(disk, _)| disk.server == server);
    if row.sources().into_iter().any(has) {
        return Ok(());
    }
    Err(Error::new(
        Code::NotMember,
        format!(
            "dataserver {server} has neither member nor holder of chunk {chunk}'s group in the map of epoch {}",
            map.epoch
        ),
    ))
}

/// A chunk that may be read.
struct Readable<'a> {
    node: &'a Node,
    disk: &'a Disk,
    pool: PoolId,
    chunk: ChunkId,
    relation: Relation,
    /// Whether another dataserver copies it.
    is_repair: bool,
}

impl Readable<'_> {
    /// Checks the right to read, and that the chunk is to be sought here. A dataserver needs no capability but
    /// a place in the chunk's group.
    ///
    /// # Errors
    /// `BadCapability`; `NotMember` if the disk is not here, or is neither member nor holder, or the dataserver
    /// that asks has neither.
    fn admit<'a>(
        node: &'a Node,
        caller: Caller,
        disk: DiskId,
        (pool, chunk): (PoolId, ChunkId),
        capability: &Capability,
    ) -> Result<Readable<'a>> {
        let map = node.membership.map();
        match caller {
            Caller::Dataserver(_, server) => check_place(&map, pool, chunk, server)?,
            Caller::Client(client) | Caller::Metaserver(client) => {
                let key = |number| node.membership.capability_key(number);
                capability.check(key, &client, Access::Read, pool, chunk, unix_seconds())?;
            }
        }
        let found = node.disks.get(disk)?;
        let relation = relation(&map, pool, chunk, disk);
        if relation == Relation::None {
            return Err(Error::new(
                Code::NotMember,
                format!(
                    "disk {disk} is neither member nor holder of chunk {chunk}'s group in the map of epoch {}",
                    map.epoch
                ),
            ));
        }
        Ok(Readable {
            node,
            disk: found,
            pool,
            chunk,
            relation,
            is_repair: matches!(caller, Caller::Dataserver(..)),
        })
    }

    /// Whole blocks around a range.
    ///
    /// # Errors
    /// `NotYet` where a filling member or a holder lacks the chunk; `Overloaded` if the disk hangs; else those of
    /// the disk.
    async fn read(&self, offset: u32, len: u32) -> Result<ChunkData> {
        if !self.is_repair {
            self.node.pace.note_client();
        }
        let (pool, chunk) = (self.pool, self.chunk);
        let read = move |disk: &Disk| disk.read(pool, chunk, offset, len);
        let error = match self.node.turns.take(self.disk, read).await {
            Ok(data) => return Ok(data),
            Err(error) => error,
        };
        Err(match error.code {
            Code::ChunkMissing => self.lacking(offset + len, error.text),
            // It is looked at and replaced.
            Code::ChecksumMismatch => {
                self.suspect(offset + len);
                error
            }
            _ => error,
        })
    }

    /// That its bytes up to `end` are not here. Where they should be it is looked at and replaced.
    fn lacking(&self, end: u32, text: String) -> Error {
        match self.relation {
            Relation::Complete | Relation::None => {
                self.suspect(end);
                Error::new(Code::ChunkMissing, text)
            }
            Relation::Partial | Relation::Unknown => {
                Error::new(Code::NotYet, text).context("not yet here")
            }
        }
    }

    /// Its bytes up to `end` should be here, and can not be read.
    fn suspect(&self, end: u32) {
        let disk = self.disk.identity().disk;
        let suspects = &self.node.suspects;
        suspects.put_wanted(disk, self.pool, self.chunk, end);
    }
}

/// Answers a [`quarry_common::wire::data::DataRequest::Read`].
///
/// # Errors
/// `Malformed` for nothing or more than [`SMALL_READ_LEN_MAX`]; `BadCapability`, `NotMember`, `NotYet`,
/// `ChunkMissing`, `ChecksumMismatch`.
pub async fn small(node: &Node, caller: Caller, wanted: ReadChunk) -> Result<DataReply> {
    if wanted.len == 0 || wanted.len > SMALL_READ_LEN_MAX {
        return Err(Error::malformed(format!(
            "{} bytes can not be read at once: 1 to {SMALL_READ_LEN_MAX} can",
            wanted.len
        )));
    }
    let name = (wanted.pool, wanted.chunk);
    let readable = Readable::admit(node, caller, wanted.disk, name, &wanted.capability)?;
    let found = readable.read(wanted.offset, wanted.len).await?;
    Ok(DataReply::Data {
        start: found.offset,
        chunk_len: found.chunk_len,
        crcs: found.crcs,
        data: found.data,
    })
}

/// Answers a [`quarry_common::wire::data::DataRequest::Stat`].
///
/// # Errors
/// `BadCapability`, `NotMember`.
pub async fn stat(
    node: &Node,
    caller: Caller,
    disk: DiskId,
    name: (PoolId, ChunkId),
    capability: &Capability,
) -> Result<DataReply> {
    let readable = Readable::admit(node, caller, disk, name, capability)?;
    let look = move |disk: &Disk| disk.stat(name.0, name.1);
    let found = node.turns.take(readable.disk, look).await?;
    Ok(DataReply::Chunk(found.map(replica_info)))
}

/// Answers a [`quarry_common::wire::data::DataRequest::Verify`]: the disk looks soon.
///
/// # Errors
/// `BadCapability`, `NotMember`.
pub fn verify(
    node: &Node,
    caller: Caller,
    disk: DiskId,
    name: (PoolId, ChunkId),
    capability: &Capability,
) -> Result<DataReply> {
    Readable::admit(node, caller, disk, name, capability)?;
    node.suspects.put(disk, name.0, name.1);
    Ok(DataReply::Pong)
}

/// What a disk knows of a chunk, as it is sent.
pub fn replica_info(info: ChunkInfo) -> ReplicaInfo {
    ReplicaInfo {
        len: info.len,
        crc: info.crc,
        state: match info.state {
            ChunkState::Open => ReplicaState::Open,
            ChunkState::Sealed => ReplicaState::Sealed,
            ChunkState::SetAside => ReplicaState::SetAside,
        },
    }
}
