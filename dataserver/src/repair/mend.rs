//! Replaces bad and missing copies of a disk that is a complete member (DESIGN §4.3).
//!
//! A read that finds damage, a reader that reports it, what a start finds missing, and the marks of bad copies wake it. A copy is verified before
//! it is set aside, and stays until a good one was read back.

use super::core::Group;
use super::fetch::{self, Haste, Outcome, Wanted, is_held};
use super::worker::referenced;
use crate::disk::{ChunkName, Disk};
use crate::metaservers::Metaservers;
use crate::node::Node;
use crate::read::replica_info;
use quarry_common::ids::{ChunkId, DiskId};
use quarry_common::map::{ClusterMap, MemberState, Row};
use quarry_common::wire::data::{ReplicaInfo, ReplicaState};
use quarry_common::{Code, Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bad copies that nothing woke are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Chunks that a start found missing are asked about in groups of so many.
const MISSING_AT_ONCE: usize = 256;

/// What could not be replaced now is tried again after so long, and twice as long each time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// And at most after so long.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(600);

/// What to do about a copy that is bad or missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Others have it.
    Copy(ReplicaInfo),
    /// The metaservers know what it must be; if nothing refers to it yet, it is what others have.
    AskOr(ReplicaInfo),
    /// The metaservers know what it must be, if anything.
    Ask,
}

/// Decides by what our disk has, and what the others have who could be asked. What is missing may have been deleted
/// here before it is deleted there: only the metaservers know whether it is to be here.
fn decide(own: Option<ReplicaInfo>, others: &[ReplicaInfo]) -> Decision {
    let Some(own) = own else {
        return Decision::Ask;
    };
    let good = others
        .iter()
        .filter(|info| info.state != ReplicaState::SetAside);
    let longest = good.max_by_key(|info| info.len);
    match longest {
        // How long ours was is not known: the longest of those who answer may be a short one.
        Some(info) if info.len > 0 && own.len == 0 => Decision::AskOr(*info),
        // What was committed is not longer than the bad copy was.
        Some(info) if info.len > 0 && own.len <= info.len => Decision::Copy(*info),
        Some(_) | None => Decision::Ask,
    }
}

/// A chunk that waits for its next attempt.
#[derive(Clone, Copy)]
struct Waiting {
    at: Instant,
    after: Duration,
    lost: bool,
}

/// Looks at suspects and replaces bad copies until it is dropped. Cancel-safe.
pub async fn run(node: Arc<Node>, disk: Disk, metaservers: Metaservers) {
    let id = disk.identity().disk;
    let mut waiting: BTreeMap<ChunkName, Waiting> = BTreeMap::new();
    let mut came = node.suspects.subscribe();
    loop {
        let now = Instant::now();
        // So many at a time: those that somebody wants to read come before the rest.
        let missing = disk.take_missing(MISSING_AT_ONCE);
        let has_more = missing.len() == MISSING_AT_ONCE;
        for name in suspects(&node, &disk)
            .await
            .into_iter()
            .chain(disk.bad_copies())
            .chain(missing)
        {
            waiting.entry(name).or_insert(Waiting {
                at: now,
                after: AGAIN_AFTER,
                lost: false,
            });
        }
        let due: Vec<ChunkName> = waiting
            .iter()
            .filter(|(_, waiting)| waiting.at <= now)
            .map(|(name, _)| *name)
            .collect();
        for name in due {
            let mended = mend(&node, &disk, &metaservers, name).await;
            let entry = waiting.get_mut(&name);
            match (mended, entry) {
                (Ok(Mended::Done), _) => drop(waiting.remove(&name)),
                (_, None) => {}
                (Ok(Mended::Nobodys), Some(entry)) => {
                    entry.after = AGAIN_AFTER_MAX;
                    entry.put_off();
                }
                (Ok(Mended::Lost), Some(entry)) => {
                    if !entry.lost {
                        let ChunkName { pool, chunk } = name;
                        tracing::error!(
                            "chunk {chunk} of pool {pool} is referenced and lost: no disk has it"
                        );
                    }
                    entry.lost = true;
                    entry.put_off();
                }
                (Err(error), Some(entry)) => {
                    tracing::debug!("{name} of disk {id} has no good copy yet: {error}");
                    entry.put_off();
                }
            }
        }
        let lost = waiting.iter().filter(|(_, waiting)| waiting.lost);
        node.tally
            .set_lost(id, lost.map(|(name, _)| (name.pool, name.chunk)));
        let next = waiting.values().map(|waiting| waiting.at).min();
        if has_more {
            continue;
        }
        let until_next = next.map_or(LOOK_EVERY, |at| {
            at.saturating_duration_since(Instant::now())
        });
        tokio::select! {
            changed = came.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(until_next.clamp(AGAIN_AFTER / 4, LOOK_EVERY)) => {}
        }
    }
}

impl Waiting {
    fn put_off(&mut self) {
        self.at = Instant::now() + self.after;
        self.after = (self.after * 2).min(AGAIN_AFTER_MAX);
    }
}

/// Looks at what somebody could not read; those that are bad or missing, or shorter than what was read.
async fn suspects(node: &Node, disk: &Disk) -> Vec<ChunkName> {
    let (looking, names) = (disk.clone(), node.suspects.take(disk.identity().disk));
    let look = move || {
        let is_bad = |(name, end): &(ChunkName, u32)| match is_good(&looking, *name, *end) {
            Ok(good) => !good,
            Err(error) => {
                tracing::warn!("{name} can not be looked at: {error}");
                false
            }
        };
        let bad = names.into_iter().filter(is_bad);
        bad.map(|(name, _)| name).collect()
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

/// Whether a copy is good, and has the bytes up to `end`.
fn is_good(disk: &Disk, name: ChunkName, end: u32) -> Result<bool> {
    if !disk.verify(name.pool, name.chunk)? {
        return Ok(false);
    }
    let found = disk.stat(name.pool, name.chunk)?;
    Ok(found.is_some_and(|found| found.len >= end))
}

/// What came of an attempt.
enum Mended {
    /// The copy is good, or needs not be here.
    Done,
    /// It is bad, and nothing refers to it: whoever collects it deletes it.
    Nobodys,
    /// It is referenced, and nobody has it.
    Lost,
}

/// Replaces one copy if it is bad or missing and should be here.
async fn mend(
    node: &Node,
    disk: &Disk,
    metaservers: &Metaservers,
    name: ChunkName,
) -> Result<Mended> {
    let ChunkName { pool, chunk } = name;
    let map = node.membership.map();
    let (pg, row) = map.locate(pool, chunk)?;
    let id = disk.identity().disk;
    match state_of(row, id) {
        Some(MemberState::Complete) => {}
        // It lists what it lacks, and is asked again when it has everything.
        Some(MemberState::Filling) => return Err(Error::new(Code::Busy, "its group is filled")),
        // It deletes it.
        None => return Ok(Mended::Done),
    }
    let look = move |disk: &Disk| disk.stat(pool, chunk);
    let own = node.turns.take(disk, look).await?.map(replica_info);
    let state = own.map(|own| own.state);
    // It may still be published, and is then asked for again by whoever reads it.
    let nobodys = || match state {
        Some(ReplicaState::SetAside) => Mended::Nobodys,
        Some(ReplicaState::Sealed | ReplicaState::Open) | None => Mended::Done,
    };
    let sources = row.sources();
    let group = (pool, pg);
    let of = |info: ReplicaInfo| Wanted {
        pool,
        chunk,
        len: info.len,
        crc: info.crc,
    };
    let wanted = match state {
        // What there is of it is good: a start may have found less than was acknowledged.
        Some(ReplicaState::Sealed) => match committed(node, metaservers, group, chunk).await? {
            Some(wanted) => wanted,
            None => return Ok(nobodys()),
        },
        Some(ReplicaState::Open) => {
            return Err(Error::new(Code::Busy, "it is being written"));
        }
        Some(ReplicaState::SetAside) | None => {
            let (others, silent) = ask_others(node, &map, row, id, name).await;
            match decide(own.filter(|_| !disk.is_missing(pool, chunk)), &others) {
                Decision::Copy(info) => of(info),
                Decision::AskOr(info) => {
                    let committed = committed(node, metaservers, group, chunk).await?;
                    committed.unwrap_or_else(|| of(info))
                }
                Decision::Ask => match committed(node, metaservers, group, chunk).await? {
                    Some(wanted) => wanted,
                    None => return silent.map_or_else(|| Ok(nobodys()), Err),
                },
            }
        }
    };
    match fetch::fetch(node, disk, wanted, &sources, Haste::Paced).await {
        Outcome::Stored => Ok(Mended::Done),
        Outcome::Later(error) => Err(error),
        Outcome::Nobody if is_held(node, disk, wanted).await? => Ok(Mended::Done),
        // It may have been deleted everywhere since, because nothing refers to it.
        Outcome::Nobody => match committed(node, metaservers, group, chunk).await? {
            Some(wanted) if is_good_again(node, disk, wanted).await? => Ok(Mended::Done),
            Some(_) => Ok(Mended::Lost),
            None => Ok(nobodys()),
        },
    }
}

/// Whether our bad copy of a chunk that nobody else has is good after all, and what is wanted.
async fn is_good_again(node: &Node, disk: &Disk, wanted: Wanted) -> Result<bool> {
    let Wanted { pool, chunk, .. } = wanted;
    let look = move |disk: &Disk| disk.reconsider(pool, chunk);
    Ok(node.turns.take(disk, look).await? && is_held(node, disk, wanted).await?)
}

/// What the metaservers say that a chunk must be; `None` if nothing refers to it.
///
/// # Errors
/// Those of the metaservers.
pub async fn committed(
    node: &Node,
    metaservers: &Metaservers,
    group: Group,
    chunk: ChunkId,
) -> Result<Option<Wanted>> {
    let (page, _) = referenced(node, metaservers.clone(), group, Some(chunk)).await?;
    let found = page.into_iter().find(|found| found.chunk == chunk);
    Ok(found.map(|found| Wanted {
        pool: group.0,
        chunk,
        len: found.len,
        crc: found.crc,
    }))
}

fn state_of(row: &Row, disk: DiskId) -> Option<MemberState> {
    let mut members = row.members.iter().flatten();
    let member = members.find(|member| member.disk == disk);
    member.map(|member| member.state)
}

/// What other disks of the row have of a chunk; why one did not answer.
async fn ask_others(
    node: &Node,
    map: &ClusterMap,
    row: &Row,
    own: DiskId,
    name: ChunkName,
) -> (Vec<ReplicaInfo>, Option<Error>) {
    let (mut found, mut silent) = (Vec::new(), None);
    for disk in row.sources().into_iter().filter(|disk| *disk != own) {
        match fetch::stat(node, map, disk, (name.pool, name.chunk)).await {
            Ok(info) => found.extend(info),
            Err(error) => silent = Some(error),
        }
    }
    (found, silent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::checksum::Crc;

    #[test]
    fn the_longest_good_copy_replaces_a_bad_one_unless_that_was_longer() {
        let info = |len, state| ReplicaInfo {
            len,
            crc: Crc(len),
            state,
        };
        use ReplicaState::{Open, Sealed, SetAside};
        let bad = Some(info(10, SetAside));
        let copy = |len, state| Decision::Copy(info(len, state));
        let cases = [
            (bad, vec![info(10, Sealed)], copy(10, Sealed)),
            (
                bad,
                vec![info(10, Open), info(20, Sealed)],
                copy(20, Sealed),
            ),
            (bad, vec![info(9, Sealed)], Decision::Ask),
            (bad, vec![info(20, SetAside)], Decision::Ask),
            (bad, vec![], Decision::Ask),
            (bad, vec![info(0, Open)], Decision::Ask),
            (
                Some(info(0, SetAside)),
                vec![info(5, Sealed), info(9, Sealed)],
                Decision::AskOr(info(9, Sealed)),
            ),
            (Some(info(0, SetAside)), vec![], Decision::Ask),
            (None, vec![info(7, Sealed), info(3, Open)], Decision::Ask),
        ];
        for (own, others, expected) in cases {
            assert_eq!(decide(own, &others), expected, "{own:?} {others:?}");
        }
    }
}
