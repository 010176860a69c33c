//! How much room there is.

use quarry_client::Client;
use quarry_common::error::Result;
use quarry_common::wire::meta::{Serves, Status};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// The cluster is asked again after so long: that is its whole status.
const GOOD_FOR: Duration = Duration::from_secs(5);

/// Files that could be made, in the answer to a question that has none: nothing but room bounds them.
const FILES_FREE: u64 = 1 << 40;

/// How much room there is, as a user sees it: each byte of a file takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes, free or not.
    pub total: u64,
    /// Bytes that can still be stored.
    pub free: u64,
    /// Files and directories, made or not.
    pub files: u64,
    /// Files that can still be made.
    pub files_free: u64,
}

impl Space {
    fn of(status: &Status) -> Space {
        // New chunks go to the first pool, each byte as often as it has members.
        let copies = status.pools.first();
        let copies = copies.map_or(1, |(_, pool, _)| pool.redundancy.members().max(1) as u64);
        let disks = status.servers.iter().flat_map(|server| &server.disks);
        let serving = disks.filter(|disk| disk.serves != Serves::Down);
        let (total, free) = serving.fold((0u64, 0u64), |(total, free), disk| {
            let report = &disk.report;
            (
                total.saturating_add(report.total),
                free.saturating_add(report.free),
            )
        });
        Space {
            total: total / copies,
            free: free / copies,
            files: status.files + status.directories + FILES_FREE,
            files_free: FILES_FREE,
        }
    }
}

/// The room as it was seconds ago at most.
#[derive(Debug, Default)]
pub struct Room(Mutex<Option<(Instant, Space)>>);

impl Room {
    /// How much there is.
    ///
    /// # Errors
    /// As any call to the metaservers.
    pub async fn get(&self, client: &Client) -> Result<Space> {
        let mut known = self.0.lock().await;
        if let Some((asked_at, space)) = *known
            && asked_at.elapsed() < GOOD_FOR
        {
            return Ok(space);
        }
        let space = Space::of(&client.status().await?);
        *known = Some((Instant::now(), space));
        Ok(space)
    }
}
