//! The first command of a cluster.

use super::{homes, keys, put_topology, users};
use crate::state::command::{Bootstrap, Reply};
use crate::state::keys::SystemKey;
use crate::state::stop::OpResult;
use crate::state::txn::Txn;
use quarry_common::ids::{Epoch, PoolId};
use quarry_common::limits::{CHUNK_LEN_MAX, PG_COUNT_MAX, REPLICAS_MAX};
use quarry_common::map::{Pool, Topology};
use quarry_common::{Code, Error, Result};

/// `/`, `/home`, the hidden directory, the first pool, keys, metaservers, users; epoch 1. Does
/// nothing when the cluster has begun.
///
/// # Errors
/// `Invalid` for a pool or a user that can not be.
pub fn bootstrap(txn: &mut Txn<'_>, begin: Bootstrap) -> OpResult<Reply> {
    if super::current_epoch(txn)? != Epoch::ZERO {
        return Ok(Reply::Nothing);
    }
    let (id, pool) = begin.pool;
    check_pool(id, &pool)?;
    let topology = Topology {
        cluster: begin.cluster,
        metaservers: begin.metaservers.into_iter().collect(),
        pools: [(id, pool)].into(),
        ..Topology::default()
    };
    let first = Epoch::ZERO.next();
    txn.set_number(SystemKey::Epoch, first.0);
    txn.set_number(SystemKey::FeatureLevel, super::FEATURE_LEVEL);
    put_topology(txn, topology, first);
    keys::put_capability_key(txn, begin.capability_key);
    homes::make_first(txn)?;
    for user in begin.users {
        users::add_user(txn, user)?;
    }
    Ok(Reply::Nothing)
}

fn check_pool(id: PoolId, pool: &Pool) -> Result<()> {
    let (members, min) = (pool.redundancy.members(), pool.redundancy.min_members());
    let wrong = if !pool.pg_count.is_power_of_two() || pool.pg_count > PG_COUNT_MAX {
        format!(
            "has {} groups: a power of two up to {PG_COUNT_MAX} is possible",
            pool.pg_count
        )
    } else if members == 0 || members > REPLICAS_MAX {
        format!("has {members} replicas: 1 to {REPLICAS_MAX} are possible")
    } else if min == 0 || min > members {
        format!("takes writes with {min} of {members} members: 1 to {members} are possible")
    } else if pool.chunk_len_max == 0 || pool.chunk_len_max > CHUNK_LEN_MAX {
        format!(
            "has chunks of {} bytes: 1 to {CHUNK_LEN_MAX} are possible",
            pool.chunk_len_max
        )
    } else if pool.in_use {
        "is in use before it was made".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(
        Code::Invalid,
        format!("pool {id} '{}' {wrong}", pool.name),
    ))
}
