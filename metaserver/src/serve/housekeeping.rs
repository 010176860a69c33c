//! What the leader does by itself: ends sessions, purges orphans, places groups.

use super::{Serving, lookup};
use crate::controller::{Placement, plan};
use crate::state::command::{Action, Reply};
use quarry_common::limits::SESSION_LEASE;
use quarry_common::time::Nanos;
use quarry_common::{Code, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often leases are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Orphans looked at in one pass, and records removed by one command: a few milliseconds of applying.
const ORPHANS_PER_PASS: usize = 256;
const RECORDS_PER_COMMAND: u32 = 1_000;

/// Ends sessions whose lease is over and purges what nobody can reach, for ever. An error
/// ends a pass, and the next one begins anew.
pub async fn keep_house(serving: Arc<Serving>) {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = pass(&serving).await {
            tracing::warn!(%error, "a pass of housekeeping was given up");
        }
    }
}

async fn pass(serving: &Serving) -> Result<()> {
    let expired = serving.leases().expired(Instant::now());
    for session in expired {
        tracing::info!(%session, "a session was not renewed and is ended");
        serving
            .propose(
                Default::default(),
                Action::EndSession {
                    session,
                    lost: true,
                },
            )
            .await?;
        serving.leases().handle_ended(session);
    }
    // Removed trees and truncated files are emptied too, so there may be work without orphans.
    loop {
        let orphans = purgeable(serving)?;
        let count = orphans.len();
        let action = Action::Purge {
            orphans,
            records_max: RECORDS_PER_COMMAND,
        };
        if count == 0 && !lookup::leftovers_wait(&*serving.kv)? {
            return Ok(());
        }
        match serving.propose(Default::default(), action).await? {
            Reply::Collected { purged, trees_left } if purged.is_empty() && !trees_left => {
                return Ok(());
            }
            _ => {}
        }
    }
}

/// Orphans that nobody holds, a lease after they lost their last name.
fn purgeable(serving: &Serving) -> Result<Vec<quarry_common::ids::InodeId>> {
    let orphans = lookup::orphans(&*serving.kv, ORPHANS_PER_PASS)?;
    let until = Nanos::now()
        .micros()
        .saturating_sub(SESSION_LEASE.as_micros() as u64);
    let (leases, now) = (serving.leases(), Instant::now());
    let old = orphans
        .into_iter()
        .filter(|(since, _)| since.0 < until)
        .map(|(_, inode)| inode);
    Ok(old.filter(|inode| leases.may_purge(*inode, now)).collect())
}

/// Places groups whenever the map has changed, for ever.
pub async fn place(serving: Arc<Serving>) {
    loop {
        serving.map_changed.notified().await;
        while let Some(Placement { epoch, pool, rows }) = plan(&serving.map()) {
            let groups = rows.len();
            match serving
                .change_map(Action::Place { epoch, pool, rows })
                .await
            {
                Ok(_) => tracing::info!(%pool, groups, "placed groups"),
                // The map moved on meanwhile: plan again.
                Err(error) if error.code == Code::OldMap => {}
                Err(error) => {
                    tracing::warn!(%error, "groups were not placed");
                    break;
                }
            }
        }
    }
}
