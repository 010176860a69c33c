//! The sign of life: tells the metaservers of the disks, brings the map and the keys, and holds the lease.

use crate::disk::contacts;
use crate::disks::{Looked, look_at};
use crate::membership::boot_time;
use crate::metaservers::Metaservers;
use crate::node::Node;
use quarry_common::ids::{Epoch, ServerId};
use quarry_common::limits::HEARTBEAT_EVERY;
use quarry_common::map::{ClusterMap, MapUpdate};
use quarry_common::wire::meta::{Heartbeat, HeartbeatReply, MetaBody, MetaReply};
use quarry_common::{Code, Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Heartbeats that writers ask for come at least so far apart: a client with an invented epoch must not
/// make us busy.
const ASKED_FOR_EVERY: Duration = Duration::from_millis(50);

/// An answer that takes longer is sought elsewhere: several tries fit into the lease.
const ANSWER_WAIT: Duration = Duration::from_millis(1_500);

/// How long a look at the disks may take before what a disk said last is sent again: one that hangs
/// must not silence the others.
const REPORT_WAIT: Duration = Duration::from_millis(500);

/// A disk that has not answered a look for so long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often silence is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A goodbye that takes longer is left unsaid: then our silence says it.
const GOODBYE_WAIT: Duration = Duration::from_millis(500);

/// Sends heartbeats until all is to stop, and then says goodbye, so that others take our places at once.
pub async fn run(node: Arc<Node>, metaservers: Metaservers, stop: CancellationToken) {
    stop.run_until_cancelled(beats(&node, &metaservers)).await;
    let goodbye = metaservers.call(MetaBody::Goodbye, GOODBYE_WAIT);
    match tokio::time::timeout(GOODBYE_WAIT, goodbye).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!("no goodbye: {error}"),
        Err(_) => tracing::debug!("no metaserver heard our goodbye"),
    }
}

async fn beats(node: &Arc<Node>, metaservers: &Metaservers) {
    let mut looks = Looks::of(node);
    let mut noted = None;
    let mut logged_at: Option<Instant> = None;
    loop {
        let began = Instant::now();
        match beat(node, metaservers, &mut looks).await {
            Ok(()) => {
                if logged_at.take().is_some() {
                    tracing::info!("the metaservers are reached again");
                }
                note_metaservers(node, &mut noted);
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

/// Writes to the disks who the metaservers are, when that has changed and at a start. A disk that hangs holds up nobody.
fn note_metaservers(node: &Node, noted: &mut Option<BTreeMap<ServerId, String>>) {
    let map = node.membership.map();
    let named = &map.topology.metaservers;
    if named.is_empty() || noted.as_ref() == Some(named) {
        return;
    }
    *noted = Some(named.clone());
    for disk in node.disks.all() {
        let (path, named) = (disk.path().to_owned(), named.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = contacts::write(&path, &named) {
                tracing::warn!("who the metaservers are is not noted: {error}");
            }
        });
    }
}

/// Looks at the disks, at most one at a time at each.
struct Looks(Vec<Look>);

struct Look {
    /// What it is told by, on a thread for blocking work.
    work: Arc<dyn Fn() -> Looked + Send + Sync>,
    running: Option<JoinHandle<Looked>>,
    /// What was seen last.
    last: Looked,
    /// When that was, or the first look began.
    at: Instant,
    answered: bool,
}

impl Looks {
    fn of(node: &Node) -> Looks {
        let looks = node.disks.all().map(|disk| {
            let (last, disk) = (Looked::silent(disk), disk.clone());
            Look::new(last, move || look_at(&disk))
        });
        Looks(looks.collect())
    }

    /// What is known of each disk after a wait of at most `wait`. One that never answered is left out, and one that
    /// has not answered for `silence_max` is said to have failed.
    async fn take(&mut self, wait: Duration, silence_max: Duration) -> Vec<Looked> {
        let until = tokio::time::Instant::now() + wait;
        self.0.iter_mut().for_each(Look::begin);
        for look in &mut self.0 {
            look.end(until).await;
        }
        let known = self.0.iter().filter_map(|look| look.known(silence_max));
        known.collect()
    }
}

impl Look {
    fn new(last: Looked, work: impl Fn() -> Looked + Send + Sync + 'static) -> Look {
        Look {
            work: Arc::new(work),
            running: None,
            last,
            at: Instant::now(),
            answered: false,
        }
    }

    fn begin(&mut self) {
        if self.running.is_none() {
            let work = Arc::clone(&self.work);
            self.running = Some(tokio::task::spawn_blocking(move || work()));
        }
    }

    async fn end(&mut self, until: tokio::time::Instant) {
        let Some(running) = &mut self.running else {
            return;
        };
        // A look that is not over goes on.
        let Ok(ended) = tokio::time::timeout_at(until, running).await else {
            tracing::warn!("{} does not say how it is", self.last.report.path);
            return;
        };
        self.running = None;
        match ended {
            Ok(looked) => {
                self.last = looked;
                self.at = Instant::now();
                self.answered = true;
            }
            Err(error) => tracing::error!("a look at {} was lost: {error}", self.last.report.path),
        }
    }

    fn known(&self, silence_max: Duration) -> Option<Looked> {
        let mut known = self.last.clone();
        let silence = self.at.elapsed();
        if silence < silence_max {
            return self.answered.then_some(known);
        }
        let why = || format!("does not answer for {} s", silence.as_secs());
        known.report.failed.get_or_insert_with(why);
        Some(known)
    }
}

/// One heartbeat, and what it brings.
async fn beat(node: &Arc<Node>, metaservers: &Metaservers, looks: &mut Looks) -> Result<()> {
    let looked = looks.take(REPORT_WAIT, SILENCE_MAX).await;
    let reports = node.complete(node.disks.gather(looked));
    let ours = node.membership.map();
    // The lease counts from here: the metaservers count our silence from later at the earliest.
    let sent_at = boot_time();
    let body = MetaBody::Heartbeat(Heartbeat {
        epoch: ours.epoch,
        disks: reports,
    });
    let reply = metaservers.call(body, ANSWER_WAIT).await?;
    let MetaReply::Heartbeat(HeartbeatReply { map, keys }) = reply else {
        return Err(Error::malformed("an answer to another question"));
    };
    let map = follow(&ours, map, metaservers).await?;
    let is_newer = map.is_some();
    node.membership.take_over(map, keys, sent_at);
    if is_newer {
        metaservers.learn(&node.membership.map().topology.metaservers);
    }
    Ok(())
}

/// The map after an update and the pages that follow it; `None` if nothing has changed.
///
/// # Errors
/// `Malformed` for an update that does not fit; those of the metaservers.
async fn follow(
    ours: &ClusterMap,
    first: MapUpdate,
    metaservers: &Metaservers,
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

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::{DiskId, OpenNumber};
    use quarry_common::wire::meta::DiskReport;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, mpsc};

    fn looked(disk: u32, chunks: u64) -> Looked {
        let report = DiskReport {
            disk: Some(DiskId(disk)),
            path: String::new(),
            replaces_lost: false,
            previous_open: OpenNumber(1),
            open_number: OpenNumber(2),
            total: 0,
            free: 0,
            chunks,
            failed: None,
            trash: 0,
            lost: 0,
            copied: 0,
        };
        Looked {
            report,
            device: None,
        }
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_looked_at_once_and_fails_in_the_end() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let good = move || looked(1, counted.fetch_add(1, Ordering::SeqCst) as u64);
        let (go_on, hanging) = mpsc::channel::<u64>();
        let (hanging, begun) = (Mutex::new(hanging), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&begun);
        let bad = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            looked(2, hanging.lock().unwrap().recv().unwrap_or(9))
        };
        let mut looks = Looks(vec![
            Look::new(looked(1, 0), good),
            Look::new(looked(2, 0), bad),
        ]);
        let (soon, long) = (Duration::from_millis(20), Duration::from_secs(60));
        go_on.send(5).unwrap();
        let seen = |looked: Vec<Looked>| -> Vec<(u64, bool)> {
            let reports = looked.iter().map(|looked| &looked.report);
            reports
                .map(|report| (report.chunks, report.failed.is_some()))
                .collect()
        };
        assert_eq!(seen(looks.take(long, long).await), [(0, false), (5, false)]);
        // What it said last is told, and the other goes on.
        for round in 1..4 {
            // However slow this machine is, the good one has answered.
            looks.0[0].begin();
            looks.0[0].end(tokio::time::Instant::now() + long).await;
            let told = seen(looks.take(soon, long).await);
            assert_eq!(told[1], (5, false), "{round}");
        }
        assert!(count.load(Ordering::SeqCst) >= 4);
        assert_eq!(begun.load(Ordering::SeqCst), 2, "one look at a time");
        assert_eq!(seen(looks.take(soon, Duration::ZERO).await)[1], (5, true));
        // It answers again.
        go_on.send(6).unwrap();
        looks.0[1].end(tokio::time::Instant::now() + long).await;
        drop(go_on);
        let told = looks.0[1].known(long).unwrap();
        assert_eq!((told.report.chunks, told.report.failed), (6, None));
    }

    #[tokio::test]
    async fn a_disk_that_has_never_answered_is_left_out_until_it_fails() {
        let (go_on, hanging) = mpsc::channel::<()>();
        let hanging = Mutex::new(hanging);
        let work = move || {
            let _ended = hanging.lock().unwrap().recv();
            looked(1, 1)
        };
        let mut looks = Looks(vec![Look::new(looked(1, 0), work)]);
        let (soon, long) = (Duration::from_millis(20), Duration::from_secs(60));
        assert!(looks.take(soon, long).await.is_empty());
        let told = looks.take(soon, Duration::ZERO).await.remove(0);
        assert!(told.report.failed.unwrap().contains("does not answer"));
        drop(go_on);
    }
}
