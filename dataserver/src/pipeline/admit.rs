//! Whether a write is taken, and where it goes on.

use super::core::Place;
use crate::caller::Caller;
use crate::disk::Disk;
use crate::node::Node;
use quarry_common::ids::{DiskId, Epoch, PoolId, ServerId};
use quarry_common::map::{ClusterMap, Row};
use quarry_common::token::{Access, CertificateHash};
use quarry_common::wire::data::WriteTarget;
use quarry_common::{Code, Error, Result};

/// A write that may go on.
pub struct Admitted {
    /// Its place in the pipeline.
    pub place: Place,
    /// Our disk.
    pub disk: Disk,
    /// Whose right it is.
    pub client: CertificateHash,
    /// The member after us.
    pub next: Option<Next>,
}

/// The member after us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// The disk.
    pub disk: DiskId,
    /// Its server.
    pub server: ServerId,
    /// The server's address.
    pub address: String,
}

impl Admitted {
    /// The target as the next member is to see it.
    pub fn target_of(&self, next: &Next, target: &WriteTarget) -> WriteTarget {
        WriteTarget {
            disk: next.disk,
            on_behalf_of: Some(self.client),
            ..target.clone()
        }
    }
}

/// Checks a write on its arrival: the capability, the disk, the lease, the epoch, our place among the
/// members. Waits shortly if the writer's map is newer than ours.
///
/// # Errors
/// `BadCapability`; `NoLease`; `OldMap` for an epoch that has passed; `NotMember`; `TooFewDisks`;
/// `DiskFailed`; `Overloaded` if no newer map came in time; `Malformed` for an impossible length.
pub async fn admit(
    node: &Node,
    caller: Caller,
    target: &WriteTarget,
    capacity: u32,
) -> Result<Admitted> {
    let (pool, chunk) = (target.pool, target.chunk);
    let client = caller.client(target.on_behalf_of);
    let key = |number| node.membership.capability_key(number);
    let now = crate::node::unix_seconds();
    let capability = &target.capability;
    capability.check(key, &client, Access::Write, pool, chunk, now)?;
    let disk = node.disks.get(target.disk)?.clone();
    node.membership.check_lease()?;
    let map = node.membership.map_of(pool, chunk, target.pg_epoch).await?;
    let chunk_len_max = map.pool(pool)?.chunk_len_max;
    if capacity > chunk_len_max {
        return Err(Error::malformed(format!(
            "a chunk of {capacity} bytes was announced, those of pool {pool} have at most {chunk_len_max}"
        )));
    }
    let (_, row) = map.locate(pool, chunk)?;
    crate::membership::check_epoch(row, target.pg_epoch, chunk)?;
    check_members(&map, pool, row)?;
    let after = after(&map, row, target.disk, caller)?;
    let next = after.first().map(|next| find(&map, *next)).transpose()?;
    let epoch: Epoch = row.epoch;
    let place = Place {
        pool,
        chunk,
        epoch,
        disk: target.disk,
        after,
        capacity,
    };
    Ok(Admitted {
        place,
        disk,
        client,
        next,
    })
}

fn check_members(map: &ClusterMap, pool: PoolId, row: &Row) -> Result<()> {
    let pool_of = map.pool(pool)?;
    let needed = pool_of.redundancy.min_members();
    if row.present() >= needed {
        return Ok(());
    }
    Err(Error::new(
        Code::TooFewDisks,
        format!(
            "pool {} needs {needed} disks in different hosts for a write, {} are up: start the other dataservers",
            pool_of.name,
            row.present()
        ),
    ))
}

/// The members after `disk`, which must be called by the one before it: a client writes to the head, and
/// a member only to the next one, so that no write reaches but a part of the members.
fn after(map: &ClusterMap, row: &Row, disk: DiskId, caller: Caller) -> Result<Vec<DiskId>> {
    let chain: Vec<DiskId> = row.chain().collect();
    let named: Vec<String> = chain.iter().map(DiskId::to_string).collect();
    let refuse = |what: &str| {
        Err(Error::new(
            Code::NotMember,
            format!(
                "disk {disk} {what} in the map of epoch {}; its members are disks {}",
                map.epoch,
                named.join(", ")
            ),
        ))
    };
    let Some(at) = chain.iter().position(|member| *member == disk) else {
        return refuse("is no member of the chunk's group");
    };
    let before = at.checked_sub(1).map(|before| chain[before]);
    let right = match (caller, before) {
        (Caller::Client(_) | Caller::Metaserver(_), None) => true,
        (Caller::Dataserver(_, server), Some(before)) => map.disk(before)?.0.server == server,
        (Caller::Client(_) | Caller::Metaserver(_), Some(_)) | (Caller::Dataserver(..), None) => {
            false
        }
    };
    if !right {
        return refuse("is not the next in the chunk's pipeline");
    }
    Ok(chain[at + 1..].to_vec())
}

fn find(map: &ClusterMap, disk: DiskId) -> Result<Next> {
    let (found, server) = map.disk(disk)?;
    Ok(Next {
        disk,
        server: found.server,
        address: server.address.clone(),
    })
}
