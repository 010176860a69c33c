//! What a dataserver knows of the cluster: the map, the keys, and how long it may believe itself.

use quarry_common::ids::{ChunkId, Epoch, KeyNumber, PoolId};
use quarry_common::limits::WRITE_LEASE;
use quarry_common::map::{ClusterMap, Row};
use quarry_common::token::Key;
use quarry_common::wire::meta::admin::Keys;
use quarry_common::{Code, Error, Result};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long a write whose epoch is newer than our map waits for the map.
const MAP_WAIT: Duration = Duration::from_secs(2);

/// Time since boot, suspends included: a machine that slept has lost its lease.
pub fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// The right to take writes: ends [`WRITE_LEASE`] after the last heartbeat that was answered was *sent*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    sent_at: Option<Duration>,
}

impl Lease {
    /// A heartbeat that was sent at that time was answered.
    pub fn renew(&mut self, sent_at: Duration) {
        self.sent_at = self.sent_at.max(Some(sent_at));
    }

    /// Whether writes may be taken or acknowledged.
    ///
    /// # Errors
    /// `NoLease`.
    pub fn check(self, now: Duration) -> Result<()> {
        let refuse = |text: String| Err(Error::new(Code::NoLease, text));
        let Some(sent_at) = self.sent_at else {
            return refuse(
                "this dataserver has just started and has not reached the metaservers yet".into(),
            );
        };
        let silence = now.saturating_sub(sent_at);
        if silence < WRITE_LEASE {
            return Ok(());
        }
        refuse(format!(
            "this dataserver has not reached the metaservers for {:.1} s",
            silence.as_secs_f64()
        ))
    }
}

/// What a dataserver knows of the cluster. Locks are held for a copy of a pointer only.
pub struct Membership {
    map: watch::Sender<Arc<ClusterMap>>,
    keys: Mutex<Arc<Keys>>,
    lease: Mutex<Lease>,
    wanted: Notify,
}

impl Membership {
    /// Knows nothing but its keys: takes no writes until a heartbeat was answered.
    pub fn new(keys: Keys) -> Membership {
        Membership {
            map: watch::Sender::default(),
            keys: Mutex::new(Arc::new(keys)),
            lease: Mutex::default(),
            wanted: Notify::new(),
        }
    }

    /// The newest map.
    pub fn map(&self) -> Arc<ClusterMap> {
        Arc::clone(&self.map.borrow())
    }

    /// The newest keys.
    pub fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The key of that number under which capabilities are made.
    pub fn capability_key(&self, number: KeyNumber) -> Option<Key> {
        let keys = self.keys();
        keys.capability
            .iter()
            .find(|key| key.number == number)
            .cloned()
    }

    /// Takes over what a heartbeat brought that was sent at `sent_at` (of [`boot_time`]). The map is complete
    /// before the lease begins: with a lease and an old map, writes of an old epoch would be acknowledged.
    pub fn take_over(&self, map: Option<ClusterMap>, keys: Keys, sent_at: Duration) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        self.map.send_modify(|ours| {
            if let Some(map) = map {
                *ours = Arc::new(map);
            }
            let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
            lease.renew(sent_at);
        });
    }

    /// The right to take writes.
    ///
    /// # Errors
    /// `NoLease`.
    pub fn check_lease(&self) -> Result<()> {
        let lease = *self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        lease.check(boot_time())
    }

    /// Waits until the first heartbeat was answered; false if none was for so long.
    pub async fn wait_for_lease(&self, so_long: Duration) -> bool {
        let mut changes = self.map.subscribe();
        let held = tokio::time::timeout(so_long, async {
            while self.check_lease().is_err() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        held.await.is_ok()
    }

    /// The right to acknowledge a write of `epoch` now: the key to sign with.
    ///
    /// # Errors
    /// `NoLease`; `OldMap` if the chunk's group has a newer epoch.
    pub fn standing(&self, pool: PoolId, chunk: ChunkId, epoch: Epoch) -> Result<Key> {
        self.check_lease()?;
        let map = self.map();
        let (_, row) = map.locate(pool, chunk)?;
        check_epoch(row, epoch, chunk)?;
        self.keys().receipt.clone().ok_or_else(|| {
            Error::new(
                Code::NoLease,
                "this dataserver has no key for receipts yet: its next heartbeat brings one",
            )
        })
    }

    /// A map in which the chunk's group has at least `epoch`: the newest, or the next to come.
    ///
    /// # Errors
    /// `Overloaded` (later) if the metaserver did not give one in time; those of [`ClusterMap::locate`].
    pub async fn map_of(
        &self,
        pool: PoolId,
        chunk: ChunkId,
        epoch: Epoch,
    ) -> Result<Arc<ClusterMap>> {
        let knows = |map: &ClusterMap| {
            let row = map.locate(pool, chunk);
            row.is_ok_and(|(_, row)| row.epoch >= epoch)
        };
        let map = self.map_with(epoch, knows).await;
        if map.is_err() {
            self.map().locate(pool, chunk)?;
        }
        map
    }

    /// A map that knows what somebody else does whose map has `epoch`: the newest, or the next to come.
    ///
    /// # Errors
    /// `Overloaded` (later) if the metaserver did not give one in time.
    pub async fn map_with(
        &self,
        epoch: Epoch,
        knows: impl Fn(&ClusterMap) -> bool,
    ) -> Result<Arc<ClusterMap>> {
        let map = self.map();
        if knows(&map) {
            return Ok(map);
        }
        self.wanted.notify_one();
        let mut changes = self.map.subscribe();
        let found = tokio::time::timeout(MAP_WAIT, changes.wait_for(|map| knows(map))).await;
        if let Ok(Ok(map)) = found {
            return Ok(Arc::clone(&map));
        }
        Err(Error::new(
            Code::Overloaded,
            format!(
                "this dataserver's map (epoch {}) is older than the caller's ({epoch}), and the metaservers gave no newer one in time",
                map.epoch
            ),
        ))
    }

    /// Tells of each map that comes.
    pub fn changes(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.map.subscribe()
    }

    /// Waits until somebody needs a newer map than there is.
    pub async fn map_wanted(&self) {
        self.wanted.notified().await;
    }
}

/// Whether a write of `epoch` is of the newest epoch of its group.
///
/// # Errors
/// `OldMap`.
pub fn check_epoch(row: &Row, epoch: Epoch, chunk: ChunkId) -> Result<()> {
    if row.epoch == epoch {
        return Ok(());
    }
    Err(Error::new(
        Code::OldMap,
        format!(
            "the members of chunk {chunk}'s group changed in epoch {}, the write is of epoch {epoch}",
            row.epoch
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_counts_from_sending_and_ends_by_itself() {
        let second = Duration::from_secs;
        let mut lease = Lease::default();
        assert_eq!(lease.check(second(1)).unwrap_err().code, Code::NoLease);
        lease.renew(second(10));
        lease.renew(second(9));
        assert_eq!(lease.check(second(10)), Ok(()));
        assert_eq!(
            lease.check(second(14) - Duration::from_nanos(1)),
            Ok(()),
            "an answer to an older heartbeat takes nothing away"
        );
        assert_eq!(lease.check(second(14)).unwrap_err().code, Code::NoLease);
    }

    #[test]
    fn without_a_heartbeat_there_is_no_standing() {
        let membership = Membership::new(Keys::default());
        let standing = membership.standing(PoolId(1), ChunkId(1), Epoch(1));
        assert_eq!(standing.unwrap_err().code, Code::NoLease);
    }
}
