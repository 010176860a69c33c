//! Collection on a disk (DESIGN §5.4): deletes what the metaservers have doomed, asks them about what they may
//! not know, empties the trash in time, and compacts segments.
//!
//! That a chunk is doomed is a word that never grows old (see the metaserver's `state/collect`), so nothing here
//! depends on when it is heard, or from which leader.

mod core;
pub mod doomed;

use self::core::{Schedule, Step};
use crate::disk::{ChunkState, Disk};
use crate::metaservers::Metaservers;
use crate::node::Node;
use quarry_common::ids::{ChunkId, DiskId, Epoch, PgId, PoolId};
use quarry_common::limits::COLLECT_CHUNKS_MAX;
use quarry_common::map::pg_of;
use quarry_common::wire::meta::{MetaBody, MetaReply};
use quarry_common::{Code, Error, Result};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often a disk looks for what is to be done.
const EVERY: Duration = Duration::from_secs(5);

/// The first pass over what a disk has comes within this of its start, not at once on all disks of the cluster.
const FIRST_WITHIN: Duration = Duration::from_secs(60);

/// Pages that a disk asks about in a row: 2,000 chunks a second, so that a pass is felt by nobody.
const PAGES_AT_ONCE: usize = 10;

/// How long an answer may take: it may be a command of the metaservers' log.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// How often a failure is logged while it lasts.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Chunks by pool.
type Chunks = Vec<(PoolId, ChunkId)>;

/// Collects on one disk and keeps it tidy until it is cancelled; what it has begun on the disk then is finished when this
/// returns. The metaservers may be silent for long meanwhile: room is made all the same.
pub async fn run(
    node: Arc<Node>,
    disk: Disk,
    metaservers: Metaservers,
    every: Duration,
    cancel: CancellationToken,
) {
    tokio::join!(
        tidy(disk.clone(), EVERY.min(every), cancel.clone()),
        collect(node, disk, metaservers, every, cancel),
    );
}

/// Tells of failures, now and then while they last.
struct Complaints {
    what: String,
    told_at: Option<Instant>,
}

impl Complaints {
    fn of(what: String) -> Complaints {
        let told_at = None;
        Complaints { what, told_at }
    }

    fn handle(&mut self, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.told_at = None,
            Err(error) if error.code == Code::Stopping => {}
            Err(error) if self.told_at.is_none_or(|at| at.elapsed() >= LOG_EVERY) => {
                tracing::warn!("{} was broken off: {error}", self.what);
                self.told_at = Some(Instant::now());
            }
            Err(_) => {}
        }
    }
}

async fn tidy(disk: Disk, every: Duration, cancel: CancellationToken) {
    let mut complaints = Complaints::of(format!("tidying disk {}", disk.identity().disk));
    loop {
        let pause = tokio::time::sleep(every);
        if cancel.run_until_cancelled(pause).await.is_none() {
            return;
        }
        if !disk.is_failed() {
            complaints.handle(blocking(&disk, |disk| disk.tidy()).await);
        }
    }
}

async fn collect(
    node: Arc<Node>,
    disk: Disk,
    metaservers: Metaservers,
    every: Duration,
    cancel: CancellationToken,
) {
    let first_at = Instant::now() + every.min(FIRST_WITHIN).mul_f64(rand::random());
    let mut collector = Collector {
        id: disk.identity().disk,
        node,
        disk,
        metaservers,
        schedule: Schedule::new(every, first_at),
        not_deleted: None,
        cancel: cancel.clone(),
    };
    let mut complaints = Complaints::of(format!("collection on disk {}", collector.id));
    loop {
        let pause = tokio::time::sleep(EVERY.min(every));
        if cancel.run_until_cancelled(pause).await.is_none() {
            return;
        }
        // A disk that failed reads on, and takes no changes.
        if !collector.disk.is_failed() {
            complaints.handle(collector.round().await);
        }
    }
}

/// Work on a disk, on a thread for such work; finished though nobody waits any more.
async fn blocking<T: Send + 'static>(
    disk: &Disk,
    work: impl FnOnce(Disk) -> Result<T> + Send + 'static,
) -> Result<T> {
    let disk = disk.clone();
    tokio::task::spawn_blocking(move || work(disk))
        .await
        .unwrap_or_else(|error| Err(Error::bug(format!("work on a disk was lost: {error}"))))
}

struct Collector {
    id: DiskId,
    node: Arc<Node>,
    disk: Disk,
    metaservers: Metaservers,
    schedule: Schedule,
    /// Why a chunk could not be deleted, the first one of this round: the others went.
    not_deleted: Option<Error>,
    cancel: CancellationToken,
}

impl Collector {
    /// All there is to do now. Each part is done though another failed.
    async fn round(&mut self) -> Result<()> {
        let map = self.node.membership.map();
        self.metaservers.learn(&map.topology.metaservers);
        let deleted = self.delete_due().await;
        let asked = self.ask().await;
        if asked.is_err() {
            self.schedule.handle_failed(Instant::now());
        }
        let not_deleted = self.not_deleted.take().map_or(Ok(()), Err);
        deleted.and(asked).and(not_deleted)
    }

    /// Deletes what is due, and says so. What the disk does not have counts as deleted.
    async fn delete_due(&mut self) -> Result<()> {
        let mut from = None;
        loop {
            let disk = self.id;
            let (chunks, next) = self.call(MetaBody::Due { disk, from }).await?;
            if !chunks.is_empty() {
                let chunks = self.delete(chunks).await?;
                // After the moves to the trash: what is said to be gone may be forgotten.
                self.call(MetaBody::Gone { disk, chunks }).await?;
            }
            from = next;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    /// Goes on with the pass over what the disk has, if it is time.
    async fn ask(&mut self) -> Result<()> {
        for _ in 0..PAGES_AT_ONCE {
            match self.schedule.step(Instant::now()) {
                Step::Wait => return Ok(()),
                Step::Begin => {
                    let groups = self.groups().await?;
                    let is_known = groups.is_some();
                    self.schedule.handle_groups(groups, Instant::now());
                    if !is_known {
                        return Ok(());
                    }
                }
                Step::Ask { pool, pg, from } => {
                    let next = self.ask_page((pool, pg), from).await?;
                    self.schedule.handle_asked(next, Instant::now());
                }
            }
        }
        Ok(())
    }

    /// The groups of which the disk has chunks; `None` before the first map.
    async fn groups(&self) -> Result<Option<Vec<(PoolId, PgId)>>> {
        let map = self.node.membership.map();
        if map.epoch == Epoch::ZERO {
            return Ok(None);
        }
        let pools = map.topology.pools.iter();
        let pools: Vec<_> = pools.map(|(id, pool)| (*id, pool.pg_count)).collect();
        blocking(&self.disk, move |disk| {
            let mut all = Vec::new();
            for (pool, pg_count) in pools {
                // Of a bad copy there may be nothing but its mark.
                let bad = disk.bad_copies().into_iter();
                let bad = bad.filter(|name| name.pool == pool);
                let mut groups = BTreeSet::from_iter(disk.groups(pool, pg_count)?);
                groups.extend(bad.map(|name| pg_of(name.chunk, pg_count)));
                all.extend(groups.into_iter().map(|pg| (pool, pg)));
            }
            Ok(Some(all))
        })
        .await
    }

    /// Tells the metaservers of a page of a group, and deletes what they want deleted; where the next page begins.
    async fn ask_page(
        &mut self,
        (pool, pg): (PoolId, PgId),
        from: Option<ChunkId>,
    ) -> Result<Option<ChunkId>> {
        let pg_count = self.node.membership.map().pool(pool)?.pg_count;
        let page = blocking(&self.disk, move |disk| {
            disk.group(pool, (pg, pg_count), from, COLLECT_CHUNKS_MAX)
        })
        .await?;
        let complete = |state| match state {
            ChunkState::Open => false,
            ChunkState::Sealed | ChunkState::SetAside => true,
        };
        let chunks: Chunks = page
            .chunks
            .iter()
            .filter(|(_, info)| complete(info.state))
            .map(|(chunk, _)| (pool, *chunk))
            .collect();
        if !chunks.is_empty() {
            let disk = self.id;
            let (unwanted, _) = self.call(MetaBody::Has { disk, chunks }).await?;
            self.delete(unwanted).await?;
        }
        Ok(page.next)
    }

    /// Moves chunks to the trash; those that are not here any more. One that is being written or replaced stays
    /// for another time, and so does one that can not be moved.
    async fn delete(&mut self, chunks: Chunks) -> Result<Chunks> {
        let id = self.id;
        // Before it is deleted here: else repair might fetch it once more from who still has it.
        self.node.doomed.note(&chunks);
        let deleting = blocking(&self.disk, move |disk| {
            let (mut gone, mut failed) = (Chunks::new(), None);
            let mut deleted = 0;
            for (pool, chunk) in chunks {
                match disk.delete(pool, chunk, || true) {
                    Ok(was_here) => deleted += u64::from(was_here),
                    Err(error) if error.code == Code::Busy => continue,
                    Err(error) => {
                        failed.get_or_insert(error);
                        continue;
                    }
                }
                gone.push((pool, chunk));
            }
            if deleted > 0 {
                tracing::info!("{deleted} chunks of disk {id} were deleted");
            }
            Ok((gone, failed))
        });
        let (gone, failed) = deleting.await?;
        self.not_deleted = self.not_deleted.take().or(failed);
        Ok(gone)
    }

    /// Asks whichever metaserver leads.
    async fn call(&mut self, body: MetaBody) -> Result<(Chunks, Option<(PoolId, ChunkId)>)> {
        let asking = self.metaservers.call(body, ANSWER_WAIT);
        let stopping = || Err(Error::new(Code::Stopping, "the dataserver is stopping"));
        let answer = self.cancel.run_until_cancelled(asking).await;
        match answer.unwrap_or_else(stopping)? {
            MetaReply::Due { chunks, next } => Ok((chunks, next)),
            MetaReply::Noted => Ok((Chunks::new(), None)),
            _ => Err(Error::malformed("an answer to another question")),
        }
    }
}
