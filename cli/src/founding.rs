//! What a new cluster begins with: its authority, the identities of its servers, its admin.

use anyhow::{Context as _, Result};
use quarry_client::{ClientFile, MetaAddress};
use quarry_common::durable;
use quarry_common::identity::{Authority, PeerName, SERVER_VALID, USER_VALID};
use quarry_common::ids::{ClusterId, ServerId};
use quarry_common::limits::{PG_COUNT_MAX, REPLICAS_MAX};
use std::path::Path;
use std::time::SystemTime;

/// Placement groups that a disk should be a member of, at most (DESIGN §4.1: 50 to 100).
const GROUPS_PER_DISK: u64 = 100;

/// Placement groups of a new pool: a power of two that gives each disk 50 to 100.
pub fn pg_count(disks: u32, replicas: u8) -> u32 {
    let wanted = u64::from(disks) * GROUPS_PER_DISK / u64::from(replicas.max(1));
    let wanted = wanted.clamp(1, u64::from(PG_COUNT_MAX));
    1 << wanted.ilog2()
}

/// Copies of every chunk in a cluster of so many dataservers, unless said otherwise.
pub fn usual_replicas(dataservers: u32) -> u8 {
    dataservers.clamp(1, 3) as u8
}

/// A group takes writes with at least so many members, unless said otherwise.
pub fn usual_min_members(replicas: u8) -> u8 {
    replicas.min(2)
}

/// The greatest number of copies.
pub const REPLICAS: std::ops::RangeInclusive<i64> = 1..=REPLICAS_MAX as i64;

/// A new cluster with its authority.
///
/// # Errors
/// The authority's key could not be made.
pub fn authority() -> Result<Authority> {
    let cluster = ClusterId(rand::random());
    Ok(Authority::create(cluster, SystemTime::now())?)
}

/// Writes the authority with its private key, mode 0600.
///
/// # Errors
/// The file can not be written.
pub fn save_authority(authority: &Authority, path: &Path) -> Result<()> {
    durable::replace_private(path, authority.to_pem().as_bytes())
        .with_context(|| format!("{}: can not be written", path.display()))
}

/// Issues a server's identity and writes it to a file.
///
/// # Errors
/// The file can not be written.
pub fn issue_server(authority: &Authority, name: &PeerName, path: &Path) -> Result<()> {
    let identity = authority.issue(name, SERVER_VALID, SystemTime::now())?;
    Ok(identity.save(path)?)
}

/// Issues a user's certificate and makes its client file.
///
/// # Errors
/// A name that can not be.
pub fn client_file(
    authority: &Authority,
    user: &str,
    metaservers: &[(ServerId, String)],
) -> Result<ClientFile> {
    let name = PeerName::user(authority.cluster(), user)?;
    let identity = authority.issue(&name, USER_VALID, SystemTime::now())?;
    let addresses = metaservers.iter().map(|(id, address)| MetaAddress {
        id: *id,
        address: address.clone(),
    });
    Ok(ClientFile {
        cluster: authority.cluster(),
        metaservers: addresses.collect(),
        identity: identity.to_pem().to_owned(),
        user: user.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_member_of_50_to_100_groups() {
        for (disks, replicas) in [(1, 1), (2, 2), (3, 3), (12, 3), (100, 3), (1000, 3)] {
            let count = pg_count(disks, replicas);
            let each = f64::from(count) * f64::from(replicas) / f64::from(disks);
            assert!(
                count.is_power_of_two() && (50.0..=100.0).contains(&each),
                "{disks}: {each}"
            );
        }
    }

    #[test]
    fn small_clusters_keep_as_many_copies_as_they_can() {
        let of = |dataservers| {
            let replicas = usual_replicas(dataservers);
            (replicas, usual_min_members(replicas))
        };
        assert_eq!(
            [of(1), of(2), of(3), of(9)],
            [(1, 1), (2, 2), (3, 2), (3, 2)]
        );
    }
}
