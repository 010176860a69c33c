//! The client's copy of the cluster map.

use crate::meta::MetaLink;
use quarry_common::error::{Error, Result};
use quarry_common::ids::Epoch;
use quarry_common::map::ClusterMap;
use quarry_common::wire::meta::{MetaBody, MetaReply};
use std::sync::{Arc, RwLock};
use std::time::Instant;
use tokio::sync::Semaphore;

/// The newest map that this client has.
pub struct MapCache {
    current: RwLock<Arc<ClusterMap>>,
    /// One fetch at a time; who waited finds the map that the other one fetched.
    fetching: Semaphore,
}

impl Default for MapCache {
    fn default() -> MapCache {
        MapCache {
            current: RwLock::default(),
            fetching: Semaphore::new(1),
        }
    }
}

impl MapCache {
    /// The map.
    pub fn get(&self) -> Arc<ClusterMap> {
        self.current
            .read()
            .expect("nobody panics with this lock")
            .clone()
    }

    /// Fetches what changed, unless another task has just brought `wanted` or something newer.
    ///
    /// # Errors
    /// As any call to the metaservers.
    pub async fn fetch(
        &self,
        meta: &MetaLink,
        wanted: Option<Epoch>,
        deadline: Instant,
    ) -> Result<Arc<ClusterMap>> {
        let asked_at = self.get().epoch;
        let _one = self.fetching.acquire().await.expect("it is never closed");
        let have = self.get();
        let brought = match wanted {
            Some(wanted) => have.epoch >= wanted,
            None => have.epoch > asked_at,
        };
        if brought {
            return Ok(have);
        }
        let mut map = ClusterMap::clone(&have);
        let since = map.epoch;
        let (mut from, mut epoch) = (None, None);
        loop {
            let body = MetaBody::Map { since, from };
            let MetaReply::Map(update) = meta.call(None, body, deadline).await? else {
                return Err(crate::meta::unexpected("the map"));
            };
            if update.next.is_some() && update.next <= from {
                return Err(Error::malformed("pages of the map go backwards"));
            }
            from = update.next;
            // A later page may be of a newer map than the first: what changed in between in earlier rows is asked
            // for the next time.
            epoch = epoch.or(Some(update.epoch));
            map.apply(update)?;
            if from.is_none() {
                break;
            }
        }
        map.epoch = epoch.unwrap_or(since);
        let map = Arc::new(map);
        *self.current.write().expect("nobody panics with this lock") = map.clone();
        Ok(map)
    }
}
