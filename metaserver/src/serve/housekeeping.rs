//! What the leader does by itself: ends sessions, purges orphans, places groups.

use super::{Serving, lookup};
use crate::controller::{Life, Placement, Planner};
use crate::raft::blocking;
use crate::state::command::{Action, Reply};
use crate::state::keys;
use quarry_common::identity::PeerName;
use quarry_common::ids::{DiskId, Epoch, InodeId, ServerId, Version};
use quarry_common::limits::SESSION_LEASE;
use quarry_common::map::DiskState;
use quarry_common::time::Nanos;
use quarry_common::wire::data::DataRequest;
use quarry_common::{Code, Result, codec};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How often leases are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// How often disks are looked at when nothing was heard: a fraction of the second after which silence matters.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A dataserver that is well answers the leader within a millisecond or two; with a silence of a second before, this is long.
const PING_WITHIN: Duration = Duration::from_millis(500);

/// Sessions that are ended at a time: with what they held, some hundred milliseconds of applying at most.
const ENDED_AT_ONCE: usize = 64;

/// What is to be purged waits no longer than this for sessions to be ended.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Orphans and records that one command removes: a few milliseconds of applying.
const ORPHANS_PER_COMMAND: usize = 256;
const RECORDS_PER_COMMAND: u32 = 1_000;

/// Leases are looked at again after this long, however much there is to purge.
const PURGE_WITHIN: Duration = Duration::from_secs(5);

/// Ends sessions whose lease is over and purges what nobody can reach, for ever. An error
/// ends a pass, and the next one begins anew.
pub async fn keep_house(serving: Arc<Serving>) {
    let mut first_orphan = keys::orphans();
    loop {
        let begun = Instant::now();
        tokio::time::sleep(EVERY).await;
        // Who was stopped finds the renewals of that time in its socket.
        let stood_still = begun.elapsed().saturating_sub(EVERY);
        if stood_still > EVERY {
            serving.leases().handle_standstill(stood_still);
        }
        if let Err(error) = pass(&serving, &mut first_orphan).await {
            tracing::warn!(%error, "a pass of housekeeping was given up");
        }
    }
}

async fn pass(serving: &Arc<Serving>, first_orphan: &mut Vec<u8>) -> Result<()> {
    let begun = Instant::now();
    // Some at a time: others are renewed while these are ended.
    while begun.elapsed() < END_WITHIN && end_expired(serving).await? {}
    // Removed trees and truncated files are emptied too, so there may be work without orphans.
    let begun = Instant::now();
    while begun.elapsed() < PURGE_WITHIN {
        let orphans = purgeable(serving, first_orphan)?;
        let count = orphans.len();
        let action = Action::Purge {
            orphans,
            records_max: RECORDS_PER_COMMAND,
        };
        if count == 0 && !lookup::leftovers_wait(&*serving.kv)? {
            return Ok(());
        }
        match serving.propose(Default::default(), action).await? {
            Reply::Collected { purged, more } if purged.is_empty() && !more => {
                return Ok(());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ends sessions whose leases are over, so many at a time that their ends share entries of the log; whether there were
/// any.
async fn end_expired(serving: &Arc<Serving>) -> Result<bool> {
    let expired = serving.leases().expired(Instant::now(), ENDED_AT_ONCE);
    let mut ending = JoinSet::new();
    for session in expired {
        tracing::info!(%session, "a session was not renewed and is ended");
        let serving = Arc::clone(serving);
        ending.spawn(async move {
            let action = Action::EndSession {
                session,
                lost: true,
            };
            let ended = serving.propose(Default::default(), action).await;
            ended.map(|_| serving.leases().handle_ended(session))
        });
    }
    let some = !ending.is_empty();
    while let Some(ended) = ending.join_next().await {
        // A panic ends the process.
        if let Ok(ended) = ended {
            ended?;
        }
    }
    Ok(some)
}

/// Orphans that nobody holds, a lease after they lost their last name.
fn purgeable(serving: &Serving, first: &mut Vec<u8>) -> Result<Vec<InodeId>> {
    let Some(held) = serving.leases().held(Instant::now()) else {
        return Ok(Vec::new());
    };
    let until = Nanos::now()
        .micros()
        .saturating_sub(SESSION_LEASE.as_micros() as u64);
    let until = Version(until);
    lookup::orphans(&*serving.kv, first, until, &held, ORPHANS_PER_COMMAND)
}

/// Moves disks out and back in and places groups, whenever the map or the life of a disk has changed, for ever.
pub async fn place(serving: Arc<Serving>) {
    let mut planner = Planner::default();
    let mut planned = None;
    loop {
        // Time passes for disks too: who is silent, who has waited.
        let _ = tokio::time::timeout(LOOK_EVERY, serving.map_changed.notified()).await;
        ping_suspects(&serving).await;
        if let Err(error) = control(&serving, &mut planner, &mut planned).await {
            tracing::warn!(%error, "groups were not placed");
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// Asks the dataservers that were reported whether they live.
async fn ping_suspects(serving: &Arc<Serving>) {
    let due = serving.health().due_pings(Instant::now());
    let mut asked = JoinSet::new();
    for server in due {
        let serving = Arc::clone(serving);
        asked.spawn(async move { (server, ping(&serving, server).await) });
    }
    while let Some(answer) = asked.join_next().await {
        // A panic ends the process.
        if let Ok((server, answered)) = answer {
            let (map, now) = (serving.map(), Instant::now());
            serving.health().handle_ping(&map, server, answered, now);
        }
    }
}

/// Whether a dataserver answers, be it with an error.
async fn ping(serving: &Serving, server: ServerId) -> bool {
    let map = serving.map();
    let Some(known) = map.topology.servers.get(&server) else {
        return false;
    };
    let name = PeerName::dataserver(map.topology.cluster, server);
    let ask = async {
        let peer = serving.dial.get(&name, &known.address).await?;
        let payload = codec::encode(&DataRequest::Ping);
        peer.requests.call(payload.into(), PING_WITHIN).await
    };
    matches!(tokio::time::timeout(PING_WITHIN, ask).await, Ok(Ok(_)))
}

/// Carries out what follows from the map and the lives of its disks. `planned` is the map for which nothing was left to do.
async fn control(
    serving: &Serving,
    planner: &mut Planner,
    planned: &mut Option<Epoch>,
) -> Result<()> {
    let now = Instant::now();
    let map = serving.map();
    let (changed, states, notes) = {
        let mut health = serving.health();
        let changed = health.advance(&map, now);
        (changed, health.states(&map, now), health.notes(&map, now))
    };
    if changed {
        *planned = None;
    }
    if !states.is_empty() {
        for (disk, state) in &states {
            match state {
                DiskState::In => tracing::info!("disk {disk} takes part in placement again"),
                DiskState::Draining => tracing::info!("disk {disk} is drained"),
                DiskState::Out => tracing::warn!(
                    "disk {disk} has been down for too long and is out: its data is rebuilt on other disks"
                ),
            }
        }
        serving.change_map(Action::SetDisks(states)).await?;
    }
    if !notes.is_empty() {
        let millis = |down_for: Duration| u64::try_from(down_for.as_millis()).unwrap_or(u64::MAX);
        let disks = notes.iter();
        let disks = disks.map(|(disk, down_for)| (*disk, down_for.map(millis)));
        let action = Action::NoteDown(disks.collect());
        serving.propose(Default::default(), action).await?;
        serving.health().handle_noted(&notes);
    }
    loop {
        let map = serving.map();
        if *planned == Some(map.epoch) {
            return Ok(());
        }
        let lives: HashMap<DiskId, Life> = {
            let health = serving.health();
            let disks = map.topology.disks.keys();
            disks.map(|disk| (*disk, health.life(*disk))).collect()
        };
        let life = |disk: DiskId| lives.get(&disk).copied().unwrap_or(Life::Unheard);
        let Some(placement) = blocking(|| planner.plan(&map, &life)) else {
            *planned = Some(map.epoch);
            return Ok(());
        };
        let Placement { epoch, pool, rows } = placement;
        let groups = rows.len();
        match serving
            .change_map(Action::Place { epoch, pool, rows })
            .await
        {
            Ok(_) => tracing::info!(%pool, groups, "placed groups"),
            // The map moved on meanwhile: plan again.
            Err(error) if error.code == Code::OldMap => {}
            Err(error) => return Err(error),
        }
    }
}
