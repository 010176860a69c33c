//! Fills the groups that one disk has joined: carries out what [`super::core`] says.

use super::core::{Action, Core, Group};
use super::fetch::{self, Haste, Outcome, Wanted, is_held};
use super::list::{self, Page};
use crate::disk::Disk;
use crate::metaservers::Metaservers;
use crate::node::Node;
use crate::read::replica_info;
use quarry_common::ids::{ChunkId, Epoch, PgId};
use quarry_common::wire::data::{DataReply, DataRequest, ListChunks, ListedChunk, ReplicaInfo};
use quarry_common::wire::meta::{CommittedChunk, Complete, MetaBody, MetaReply};
use quarry_common::{Error, Result};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What waits is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long the metaservers may take for an answer.
const META_WAIT: Duration = Duration::from_secs(5);

/// What ended.
enum Event {
    Page(u64, Result<Own>),
    Copied(Group, Epoch, Wanted, Outcome),
    Committed(Group, Epoch, Result<Committed>),
    Reported(Result<()>),
}

/// A page with what our disk has of each chunk.
struct Own {
    chunks: Vec<(PgId, ListedChunk, Option<ReplicaInfo>)>,
    next: Option<(PgId, ChunkId)>,
}

/// A page of the metaservers' list with whether our disk has each chunk.
struct Committed {
    chunks: Vec<(CommittedChunk, bool)>,
    next: Option<ChunkId>,
}

/// Fills the groups of a disk until it is dropped. Cancel-safe: a copy that is not whole leaves nothing.
pub async fn run(node: Arc<Node>, disk: Disk, metaservers: Metaservers) {
    let began = Instant::now();
    let mut core = Core::new(disk.identity().disk);
    let mut changes = node.membership.changes();
    let mut tasks: JoinSet<Event> = JoinSet::new();
    let mut progress = Progress::default();
    let mut has_changed = true;
    let mut lost = BTreeSet::new();
    loop {
        if has_changed {
            let map = Arc::clone(&changes.borrow_and_update());
            core.handle_map(&map);
            has_changed = false;
        }
        // New work may follow from each event.
        for action in core.next(began.elapsed()) {
            carry_out(&node, &disk, &metaservers, action, &mut tasks);
        }
        progress.note(&core, disk.identity().disk);
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                has_changed = true;
            }
            Some(event) = tasks.join_next() => match event {
                Ok(event) => handle(&mut core, event, began.elapsed()),
                Err(error) => tracing::error!("a step of repair was lost: {error}"),
            },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        // Those who mend look for it on and on, and whether it is referenced still.
        lost.extend(core.take_lost());
        let id = disk.identity().disk;
        lost.retain(|(pool, chunk)| !node.suspects.put(id, *pool, *chunk));
    }
}

fn carry_out(
    node: &Arc<Node>,
    disk: &Disk,
    metaservers: &Metaservers,
    action: Action,
    tasks: &mut JoinSet<Event>,
) {
    let (node, disk, metaservers) = (Arc::clone(node), disk.clone(), metaservers.clone());
    match action {
        Action::List(id, wanted) => {
            tasks.spawn(async move {
                let page = page(&node, wanted.clone()).await;
                let page = match page {
                    Ok(page) => with_own(&node, &disk, &wanted, page).await,
                    Err(error) => {
                        tracing::debug!("disk {} was not listed: {error}", wanted.disk);
                        Err(error)
                    }
                };
                Event::Page(id, page)
            });
        }
        Action::Copy {
            group,
            epoch,
            wanted,
            sources,
        } => {
            tasks.spawn(async move {
                let outcome = fetch::fetch(&node, &disk, wanted, &sources, Haste::Paced).await;
                if let Outcome::Later(error) = &outcome {
                    tracing::debug!("chunk {} can not be copied now: {error}", wanted.chunk);
                }
                Event::Copied(group, epoch, wanted, outcome)
            });
        }
        Action::Ask { group, epoch, from } => {
            tasks.spawn(async move {
                let committed = ask(&node, &disk, metaservers, group, from).await;
                Event::Committed(group, epoch, committed)
            });
        }
        Action::Report(complete) => {
            tasks.spawn(async move { Event::Reported(report(&node, metaservers, complete).await) });
        }
    }
}

fn handle(core: &mut Core, event: Event, now: Duration) {
    match event {
        Event::Page(id, Ok(page)) => core.handle_page(id, &page.chunks, page.next),
        Event::Page(id, Err(error)) => core.handle_list_failure(id, &error, now),
        Event::Copied(group, epoch, wanted, outcome) => {
            core.handle_copy(group, epoch, wanted, &outcome, now);
        }
        Event::Committed(group, epoch, Ok(page)) => {
            core.handle_committed(group, epoch, &page.chunks, page.next);
        }
        Event::Committed(group, epoch, Err(error)) => {
            let (pool, pg) = group;
            tracing::warn!("what is referenced in group {pool}.{pg} is not known yet: {error}");
            core.handle_ask_failure(group, epoch, now);
        }
        Event::Reported(Ok(())) => {}
        Event::Reported(Err(error)) => tracing::debug!("a report did not arrive: {error}"),
    }
}

/// A page of a disk, which may be ours.
///
/// # Errors
/// Those of the source, or that it can not be reached.
pub async fn page(node: &Node, wanted: ListChunks) -> Result<Page> {
    if node.disks.get(wanted.disk).is_ok() {
        return list::page(node, wanted).await;
    }
    let map = node.membership.map();
    let (found, server) = map.disk(wanted.disk)?;
    let request = DataRequest::List(wanted.clone());
    let reply = node.call(found.server, &server.address, &request).await?;
    let DataReply::Listed { chunks, next } = reply else {
        return Err(Error::malformed("an answer to another question"));
    };
    // Pages go on, through what was asked for: else a listing might not end, or speak for other groups.
    let asked = |pg: &PgId| wanted.groups.iter().any(|(group, _)| group == pg);
    let goes_on = next.is_none_or(|next| Some(next) != wanted.from && asked(&next.0));
    if !goes_on || !chunks.iter().all(|(pg, _)| asked(pg)) {
        return Err(Error::malformed("a listing of other groups"));
    }
    Ok(Page { chunks, next })
}

/// Adds what our disk has of each chunk.
async fn with_own(node: &Node, disk: &Disk, wanted: &ListChunks, page: Page) -> Result<Own> {
    let (pool, Page { chunks, next }) = (wanted.pool, page);
    let look = move |disk: &Disk| {
        let with_own = chunks.into_iter().map(|(pg, listed)| {
            let own = disk.stat(pool, listed.chunk)?;
            Ok((pg, listed, own.map(replica_info)))
        });
        let chunks = with_own.collect::<Result<Vec<_>>>()?;
        Ok(Own { chunks, next })
    };
    node.turns.take(disk, look).await
}

/// A page of what is referenced in a group.
async fn ask(
    node: &Node,
    disk: &Disk,
    metaservers: Metaservers,
    (pool, pg): Group,
    from: Option<ChunkId>,
) -> Result<Committed> {
    let (page, next) = referenced(node, metaservers, (pool, pg), from).await?;
    let mut chunks = Vec::with_capacity(page.len());
    for committed in page {
        let CommittedChunk { chunk, len, crc } = committed;
        let wanted = Wanted {
            pool,
            chunk,
            len,
            crc,
        };
        chunks.push((committed, is_held(node, disk, wanted).await?));
    }
    Ok(Committed { chunks, next })
}

/// A page of what is referenced in a group, from one chunk on.
///
/// # Errors
/// Those of the metaservers.
pub async fn referenced(
    node: &Node,
    metaservers: Metaservers,
    (pool, pg): Group,
    from: Option<ChunkId>,
) -> Result<(Vec<CommittedChunk>, Option<ChunkId>)> {
    metaservers.learn(&node.membership.map().topology.metaservers);
    let body = MetaBody::GroupChunks { pool, pg, from };
    match metaservers.call(body, META_WAIT).await? {
        MetaReply::GroupChunks { chunks, next } if next.is_none() || next != from => {
            Ok((chunks, next))
        }
        _ => Err(Error::malformed("an answer to another question")),
    }
}

async fn report(node: &Node, metaservers: Metaservers, complete: Vec<Complete>) -> Result<()> {
    metaservers.learn(&node.membership.map().topology.metaservers);
    let body = MetaBody::ReportComplete(complete);
    match metaservers.call(body, META_WAIT).await? {
        MetaReply::Noted => Ok(()),
        _ => Err(Error::malformed("an answer to another question")),
    }
}

/// What is told of the work in the log.
#[derive(Default)]
struct Progress {
    filling: usize,
    said_at: Option<Instant>,
}

impl Progress {
    fn note(&mut self, core: &Core, disk: quarry_common::ids::DiskId) {
        let filling = core.filling();
        let due = self.said_at.is_none_or(|at| at.elapsed() >= SAY_EVERY);
        if filling != self.filling && (due || filling == 0 || self.filling == 0) {
            tracing::info!("disk {disk} fills {filling} groups");
            self.filling = filling;
            self.said_at = Some(Instant::now());
        }
    }
}

/// How often progress is told.
const SAY_EVERY: Duration = Duration::from_secs(10);
