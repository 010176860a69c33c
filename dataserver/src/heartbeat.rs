//! The sign of life: tells the metaservers of the disks, brings the map and the keys, and holds the lease.

use crate::membership::boot_time;
use crate::metaservers::Metaservers;
use crate::node::Node;
use quarry_common::ids::Epoch;
use quarry_common::limits::HEARTBEAT_EVERY;
use quarry_common::map::{ClusterMap, MapUpdate};
use quarry_common::wire::meta::{DiskReport, Heartbeat, HeartbeatReply, MetaBody, MetaReply};
use quarry_common::{Code, Error, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Heartbeats that writers ask for come at least so far apart: a client with an invented epoch must not
/// make us busy.
const ASKED_FOR_EVERY: Duration = Duration::from_millis(50);

/// An answer that takes longer is sought elsewhere: several tries fit into the lease.
const ANSWER_WAIT: Duration = Duration::from_millis(1_500);

/// How long a look at the disks may take before the last known reports are sent again: a disk that hangs
/// must not silence the others.
const REPORT_WAIT: Duration = Duration::from_millis(500);

/// How often silence is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A goodbye that takes longer is left unsaid: then our silence says it.
const GOODBYE_WAIT: Duration = Duration::from_millis(500);

/// Sends heartbeats until all is to stop, and then says goodbye, so that others take our places at once.
pub async fn run(node: Arc<Node>, mut metaservers: Metaservers, stop: CancellationToken) {
    stop.run_until_cancelled(beats(&node, &mut metaservers))
        .await;
    let goodbye = metaservers.call(MetaBody::Goodbye, GOODBYE_WAIT);
    match tokio::time::timeout(GOODBYE_WAIT, goodbye).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!("no goodbye: {error}"),
        Err(_) => tracing::debug!("no metaserver heard our goodbye"),
    }
}

async fn beats(node: &Arc<Node>, metaservers: &mut Metaservers) {
    let mut reports = Vec::new();
    let mut logged_at: Option<Instant> = None;
    loop {
        let began = Instant::now();
        match beat(node, metaservers, &mut reports).await {
            Ok(()) => {
                if logged_at.take().is_some() {
                    tracing::info!("the metaservers are reached again");
                }
            }
            Err(error) if logged_at.is_none_or(|at| at.elapsed() >= LOG_EVERY) => {
                tracing::warn!("no heartbeat: {error}; writes stop when the lease ends");
                logged_at = Some(Instant::now());
            }
            Err(_) => {}
        }
        tokio::time::sleep(ASKED_FOR_EVERY).await;
        let rest = HEARTBEAT_EVERY.saturating_sub(began.elapsed());
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = node.membership.map_wanted() => {}
        }
    }
}

/// One heartbeat, and what it brings.
async fn beat(
    node: &Arc<Node>,
    metaservers: &mut Metaservers,
    reports: &mut Vec<DiskReport>,
) -> Result<()> {
    let looking = Arc::clone(node);
    let look = tokio::task::spawn_blocking(move || looking.reports());
    match tokio::time::timeout(REPORT_WAIT, look).await {
        Ok(Ok(fresh)) => *reports = fresh,
        Ok(Err(error)) => return Err(Error::bug(format!("the disks' reports were lost: {error}"))),
        Err(_) => tracing::warn!("the disks do not say how they are: sending what they last said"),
    }
    let ours = node.membership.map();
    // The lease counts from here: the metaservers count our silence from later at the earliest.
    let sent_at = boot_time();
    let body = MetaBody::Heartbeat(Heartbeat {
        epoch: ours.epoch,
        disks: reports.clone(),
    });
    let reply = metaservers.call(body, ANSWER_WAIT).await?;
    let MetaReply::Heartbeat(HeartbeatReply { map, keys }) = reply else {
        return Err(Error::malformed("an answer to another question"));
    };
    let map = follow(&ours, map, metaservers).await?;
    if let Some(map) = &map {
        metaservers.learn(&map.topology.metaservers);
    }
    node.membership.take_over(map, keys, sent_at);
    Ok(())
}

/// The map after an update and the pages that follow it; `None` if nothing has changed.
///
/// # Errors
/// `Malformed` for an update that does not fit; those of the metaservers.
async fn follow(
    ours: &ClusterMap,
    first: MapUpdate,
    metaservers: &mut Metaservers,
) -> Result<Option<ClusterMap>> {
    if first.epoch < ours.epoch {
        return Err(Error::new(
            Code::NotLeader,
            format!(
                "a metaserver's map has epoch {}, ours has {}",
                first.epoch, ours.epoch
            ),
        ));
    }
    if first.epoch == ours.epoch {
        return Ok(None);
    }
    let (since, epoch): (Epoch, Epoch) = (ours.epoch, first.epoch);
    let mut map = ours.clone();
    let mut next = first.next;
    map.apply(first)?;
    while let Some(from) = next {
        let body = MetaBody::Map {
            since,
            from: Some(from),
        };
        let MetaReply::Map(page) = metaservers.call(body, ANSWER_WAIT).await? else {
            return Err(Error::malformed("an answer to another question"));
        };
        if page.next.is_some_and(|next| next <= from) {
            return Err(Error::malformed("pages of the map go backwards"));
        }
        next = page.next;
        map.apply(page)?;
    }
    // A later page may be of a newer map than the first one: what changed in between in earlier rows
    // comes with the next heartbeat.
    map.epoch = epoch;
    Ok(Some(map))
}
