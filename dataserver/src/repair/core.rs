//! What a disk does to fill the groups that it has joined, without IO (DESIGN §4.5).
//!
//! A filling member has everything once it has everything that its sources list, and the epochs that they cover
//! together with its own are all before it joined. Every listing carries the epoch of the group's row: when the
//! members change, the group begins anew. What is listed and can be had from nobody is asked of the metaservers:
//! they know what is referenced. [`super::worker`] tells of maps, pages and copies by the `handle_*` functions and
//! carries out what [`Core::next`] returns.

use super::fetch::{Outcome, Wanted, is_out};
use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, DiskId, Epoch, PgId, PoolId};
use quarry_common::map::{ClusterMap, EpochRange, MemberState, Row, fill};
use quarry_common::wire::data::{ListChunks, ListedChunk, ReplicaInfo, ReplicaState};
use quarry_common::wire::meta::{CommittedChunk, Complete};
use quarry_common::{Code, Error};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A group of a pool.
pub type Group = (PoolId, PgId);

/// Listings at a time.
const LISTS_MAX: usize = 4;

/// Groups of one listing: what is common to two disks is listed together, and the first is done soon.
const GROUPS_PER_LIST: usize = 64;

/// Copies at a time.
pub const COPIES_MAX: usize = 16;

/// Chunks that wait to be copied; above this no further page is asked for, which may bring twice as many.
const WAITING_MAX: usize = 8_192;

/// A source that did not answer is left alone for so long.
const QUIET_FOR: Duration = Duration::from_secs(2);

/// A copy that could not be made now is tried again after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A report that changed nothing is sent again after so long.
const REPORT_EVERY: Duration = Duration::from_secs(3);

/// What the shell is to do; each ends with a call of the named function.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask a source for a page, then [`Core::handle_page`] or [`Core::handle_list_failure`].
    List(u64, ListChunks),
    /// Copy a chunk from one of these, then [`Core::handle_copy`].
    Copy {
        /// The group.
        group: Group,
        /// The epoch of its row.
        epoch: Epoch,
        /// The chunk.
        wanted: Wanted,
        /// The best first.
        sources: Vec<DiskId>,
    },
    /// Ask the metaservers what is referenced in the group, then [`Core::handle_committed`] or
    /// [`Core::handle_ask_failure`].
    Ask {
        /// The group.
        group: Group,
        /// The epoch of its row.
        epoch: Epoch,
        /// Where the page begins.
        from: Option<ChunkId>,
    },
    /// Tell the metaservers that these are complete.
    Report(Vec<Complete>),
}

/// Another disk that may have chunks of a group.
#[derive(Clone, Debug, PartialEq)]
struct Source {
    disk: DiskId,
    covers: Vec<EpochRange>,
    out: bool,
}

/// What is done about a group.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Nothing is on its way.
    Idle,
    /// It is in a listing.
    Listing(u64),
    /// The metaservers' list is being read.
    Asking {
        from: Option<ChunkId>,
        on_its_way: bool,
    },
    /// Everything is here, and was reported.
    Reported { again_at: Duration },
}

/// A chunk that is to be copied.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Lacking {
    len: u32,
    crc: Crc,
    /// The metaservers refer to it.
    committed: bool,
    again_at: Duration,
    on_its_way: bool,
}

/// A group that is being filled.
#[derive(Debug)]
struct Fill {
    epoch: Epoch,
    since: Epoch,
    /// Members that have everything.
    live: usize,
    own: Vec<EpochRange>,
    /// The best first.
    sources: Vec<Source>,
    /// Sources whose whole list was read.
    listed: BTreeSet<DiskId>,
    step: Step,
    lacking: BTreeMap<ChunkId, Lacking>,
    /// Listed, and nobody can give them.
    doubtful: BTreeSet<ChunkId>,
    /// The metaservers' whole list was read.
    asked: bool,
    ask_at: Duration,
}

/// What to do next about a group that is idle.
enum Choice {
    Report,
    List(DiskId),
    Ask,
    Wait,
}

/// A listing on its way.
#[derive(Debug)]
struct Listing {
    wanted: ListChunks,
    on_its_way: bool,
}

/// The groups that one disk fills.
#[derive(Debug)]
pub struct Core {
    disk: DiskId,
    fills: BTreeMap<Group, Fill>,
    lists: BTreeMap<u64, Listing>,
    lists_ever: u64,
    copies: usize,
    quiet_until: BTreeMap<DiskId, Duration>,
    lost: BTreeSet<(PoolId, ChunkId)>,
}

impl Core {
    /// Of that disk; it fills nothing yet.
    pub fn new(disk: DiskId) -> Core {
        Core {
            disk,
            fills: BTreeMap::new(),
            lists: BTreeMap::new(),
            lists_ever: 0,
            copies: 0,
            quiet_until: BTreeMap::new(),
            lost: BTreeSet::new(),
        }
    }

    /// Groups that are being filled.
    pub fn filling(&self) -> usize {
        self.fills.len()
    }

    /// Chunks that were referenced and that nobody could give, since this was last called.
    pub fn take_lost(&mut self) -> BTreeSet<(PoolId, ChunkId)> {
        std::mem::take(&mut self.lost)
    }

    /// Takes over a map: which groups are to be filled, and from whom.
    pub fn handle_map(&mut self, map: &ClusterMap) {
        let mut before = std::mem::take(&mut self.fills);
        for (pool, rows) in &map.rows {
            for (pg, row) in rows.iter().enumerate() {
                let group = (*pool, PgId(pg as u32));
                let own = row
                    .members
                    .iter()
                    .flatten()
                    .find(|own| own.disk == self.disk);
                let Some(own) = own.filter(|own| own.state == MemberState::Filling) else {
                    continue;
                };
                if !fill::may_fill(map, group.0, group.1, self.disk) {
                    continue;
                }
                let known = before.remove(&group);
                // Other members: what was listed under former ones does not count any more.
                let known = known.filter(|known| known.epoch == row.epoch);
                let mut fill = known.unwrap_or_else(|| Fill::new(row.epoch, own.since));
                fill.live = complete(row);
                fill.own = fill::covers(row, self.disk);
                fill.sources = sources(map, row, self.disk, group.1);
                self.fills.insert(group, fill);
            }
        }
    }

    /// What is to be done now.
    pub fn next(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        self.quiet_until.retain(|_, until| *until > now);
        // Those with the fewest live replicas first.
        let mut order: Vec<(usize, Group)> = self
            .fills
            .iter()
            .map(|(group, fill)| (fill.live, *group))
            .collect();
        order.sort_unstable();
        self.copy(&order, now, &mut actions);
        self.turn_pages(&mut actions);
        let mut reports = Vec::new();
        let mut batches: BTreeMap<(usize, DiskId, PoolId), Vec<(PgId, Epoch)>> = BTreeMap::new();
        let mut waiting = self.waiting();
        for (live, group) in order {
            let Some(fill) = self.fills.get_mut(&group) else {
                continue;
            };
            match fill.step {
                Step::Reported { again_at } if again_at <= now => fill.step = Step::Idle,
                Step::Asking {
                    from,
                    on_its_way: false,
                } if fill.lacking.is_empty() && fill.ask_at <= now => {
                    let (epoch, on_its_way) = (fill.epoch, true);
                    fill.step = Step::Asking { from, on_its_way };
                    actions.push(Action::Ask { group, epoch, from });
                }
                _ => {}
            }
            if fill.step != Step::Idle || !fill.lacking.is_empty() {
                continue;
            }
            match fill.choose(&self.quiet_until) {
                Choice::Report => {
                    let again_at = now + REPORT_EVERY;
                    fill.step = Step::Reported { again_at };
                    reports.push(Complete {
                        disk: self.disk,
                        pool: group.0,
                        pg: group.1,
                        epoch: fill.epoch,
                    });
                }
                Choice::Ask if waiting < WAITING_MAX => {
                    waiting += 1;
                    fill.step = Step::Asking {
                        from: None,
                        on_its_way: true,
                    };
                    let epoch = fill.epoch;
                    let from = None;
                    actions.push(Action::Ask { group, epoch, from });
                }
                Choice::List(source) => {
                    let batch = batches.entry((live, source, group.0)).or_default();
                    batch.push((group.1, fill.epoch));
                }
                Choice::Ask | Choice::Wait => {}
            }
        }
        for ((_, source, pool), mut groups) in batches {
            // One at a time from each, so that a silent one does not keep the others from being asked.
            let is_busy = self.lists.values().any(|list| list.wanted.disk == source);
            if is_busy || self.lists.len() >= LISTS_MAX || waiting >= WAITING_MAX {
                continue;
            }
            groups.truncate(GROUPS_PER_LIST);
            self.begin_list(source, pool, groups, &mut actions);
        }
        if !reports.is_empty() {
            actions.push(Action::Report(reports));
        }
        actions
    }

    fn begin_list(
        &mut self,
        source: DiskId,
        pool: PoolId,
        groups: Vec<(PgId, Epoch)>,
        actions: &mut Vec<Action>,
    ) {
        self.lists_ever += 1;
        let id = self.lists_ever;
        for (pg, _) in &groups {
            if let Some(fill) = self.fills.get_mut(&(pool, *pg)) {
                fill.step = Step::Listing(id);
            }
        }
        let wanted = ListChunks {
            disk: source,
            pool,
            groups,
            from: None,
        };
        actions.push(Action::List(id, wanted.clone()));
        let on_its_way = true;
        self.lists.insert(id, Listing { wanted, on_its_way });
    }

    /// Chunks that wait to be copied.
    fn waiting(&self) -> usize {
        self.fills.values().map(|fill| fill.lacking.len()).sum()
    }

    fn copy(&mut self, order: &[(usize, Group)], now: Duration, actions: &mut Vec<Action>) {
        for (_, group) in order {
            let Some(fill) = self.fills.get_mut(group) else {
                continue;
            };
            let complete = fill
                .sources
                .iter()
                .take_while(|source| source.has_all())
                .count();
            let due = fill
                .lacking
                .iter_mut()
                .filter(|(_, lacking)| !lacking.on_its_way && lacking.again_at <= now);
            for (chunk, lacking) in due {
                if self.copies >= COPIES_MAX {
                    return;
                }
                self.copies += 1;
                lacking.on_its_way = true;
                let mut sources: Vec<DiskId> =
                    fill.sources.iter().map(|source| source.disk).collect();
                // The complete ones take turns.
                if complete > 0 {
                    sources[..complete].rotate_left(chunk.0 as usize % complete);
                }
                actions.push(Action::Copy {
                    group: *group,
                    epoch: fill.epoch,
                    wanted: Wanted {
                        pool: group.0,
                        chunk: *chunk,
                        len: lacking.len,
                        crc: lacking.crc,
                    },
                    sources,
                });
            }
        }
    }

    /// Asks for further pages when there is room for what they bring.
    fn turn_pages(&mut self, actions: &mut Vec<Action>) {
        if self.waiting() >= WAITING_MAX {
            return;
        }
        for (id, listing) in &mut self.lists {
            if !listing.on_its_way {
                listing.on_its_way = true;
                actions.push(Action::List(*id, listing.wanted.clone()));
            }
        }
    }

    /// A page of a listing has come: each chunk with what our own disk has of it. `next` is where it goes on.
    pub fn handle_page(
        &mut self,
        id: u64,
        chunks: &[(PgId, ListedChunk, Option<ReplicaInfo>)],
        next: Option<(PgId, ChunkId)>,
    ) {
        let Some(mut listing) = self.lists.remove(&id) else {
            return;
        };
        let (pool, source) = (listing.wanted.pool, listing.wanted.disk);
        for (pg, listed, own) in chunks {
            if let Some(fill) = self.fills.get_mut(&(pool, *pg))
                && fill.step == Step::Listing(id)
            {
                fill.take_listed(listed, *own);
            }
        }
        for (pg, _) in &listing.wanted.groups {
            let is_done = next.is_none_or(|(next, _)| *pg < next);
            if let Some(fill) = self.fills.get_mut(&(pool, *pg))
                && fill.step == Step::Listing(id)
                && is_done
            {
                fill.listed.insert(source);
                fill.step = Step::Idle;
            }
        }
        let goes_on = |(pg, _): &(PgId, Epoch)| {
            let fill = self.fills.get(&(pool, *pg));
            fill.is_some_and(|fill| fill.step == Step::Listing(id))
        };
        if let Some(next) = next.filter(|_| listing.wanted.groups.iter().any(goes_on)) {
            listing.wanted.groups.retain(|(pg, _)| *pg >= next.0);
            listing.wanted.from = Some(next);
            listing.on_its_way = false;
            self.lists.insert(id, listing);
        }
    }

    /// A page did not come: its groups begin anew, soon if our map was old, and elsewhere if the source is silent.
    pub fn handle_list_failure(&mut self, id: u64, error: &Error, now: Duration) {
        let Some(listing) = self.lists.remove(&id) else {
            return;
        };
        let until = match error.code {
            Code::OldMap => AGAIN_AFTER / 4,
            _ => QUIET_FOR,
        };
        self.quiet_until.insert(listing.wanted.disk, now + until);
        for fill in self.fills.values_mut() {
            if fill.step == Step::Listing(id) {
                fill.step = Step::Idle;
            }
        }
    }

    /// An attempt to copy a chunk is over.
    pub fn handle_copy(
        &mut self,
        group: Group,
        epoch: Epoch,
        wanted: Wanted,
        outcome: &Outcome,
        now: Duration,
    ) {
        let chunk = wanted.chunk;
        self.copies = self.copies.saturating_sub(1);
        let fill = self
            .fills
            .get_mut(&group)
            .filter(|fill| fill.epoch == epoch);
        let Some(fill) = fill else {
            return;
        };
        let lacking = fill.lacking.get_mut(&chunk);
        // More of it may have been listed since.
        let is_it = |lacking: &&mut Lacking| (lacking.len, lacking.crc) == (wanted.len, wanted.crc);
        let Some(lacking) = lacking.filter(is_it) else {
            return;
        };
        lacking.on_its_way = false;
        match outcome {
            Outcome::Stored => drop(fill.lacking.remove(&chunk)),
            Outcome::Nobody if lacking.committed => {
                self.lost.insert((group.0, chunk));
                fill.lacking.remove(&chunk);
            }
            Outcome::Nobody => {
                fill.lacking.remove(&chunk);
                fill.doubtful.insert(chunk);
            }
            Outcome::Later(_) => lacking.again_at = now + AGAIN_AFTER,
        }
    }

    /// A page of the metaservers' list has come: each chunk with whether our disk has it.
    pub fn handle_committed(
        &mut self,
        group: Group,
        epoch: Epoch,
        chunks: &[(CommittedChunk, bool)],
        next: Option<ChunkId>,
    ) {
        let fill = self
            .fills
            .get_mut(&group)
            .filter(|fill| fill.epoch == epoch);
        let Some(fill) = fill.filter(|fill| matches!(fill.step, Step::Asking { .. })) else {
            return;
        };
        for (committed, _) in chunks.iter().filter(|(_, has)| !has) {
            let CommittedChunk { chunk, len, crc } = *committed;
            fill.lacking.insert(chunk, Lacking::new(len, crc, true));
        }
        if next.is_some() {
            fill.step = Step::Asking {
                from: next,
                on_its_way: false,
            };
            return;
        }
        // What is doubtful and referenced is among the lacking; the rest is nobody's.
        fill.doubtful.clear();
        fill.asked = true;
        fill.step = Step::Idle;
    }

    /// The metaservers' list did not come.
    pub fn handle_ask_failure(&mut self, group: Group, epoch: Epoch, now: Duration) {
        let fill = self
            .fills
            .get_mut(&group)
            .filter(|fill| fill.epoch == epoch);
        if let Some(fill) = fill
            && let Step::Asking { from, .. } = fill.step
        {
            fill.ask_at = now + AGAIN_AFTER;
            fill.step = Step::Asking {
                from,
                on_its_way: false,
            };
        }
    }
}

impl Lacking {
    fn new(len: u32, crc: Crc, committed: bool) -> Lacking {
        Lacking {
            len,
            crc,
            committed,
            again_at: Duration::ZERO,
            on_its_way: false,
        }
    }
}

impl Source {
    fn has_all(&self) -> bool {
        self.covers == [ALL]
    }
}

impl Fill {
    fn new(epoch: Epoch, since: Epoch) -> Fill {
        Fill {
            epoch,
            since,
            live: 0,
            own: Vec::new(),
            sources: Vec::new(),
            listed: BTreeSet::new(),
            step: Step::Idle,
            lacking: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            asked: false,
            ask_at: Duration::ZERO,
        }
    }

    /// A source has a chunk; our own disk has `own` of it.
    fn take_listed(&mut self, listed: &ListedChunk, own: Option<ReplicaInfo>) {
        let ReplicaInfo { len, crc, state } = listed.info;
        let own_len = own
            .filter(|own| own.state != ReplicaState::SetAside)
            .map(|own| own.len);
        match state {
            // How long a bad copy was is not always known; what others have of it decides.
            ReplicaState::SetAside => {
                if len == 0 || own_len.is_none_or(|own| own < len) {
                    self.doubtful.insert(listed.chunk);
                }
            }
            // An open chunk has been acknowledged as far as it is durable.
            ReplicaState::Open | ReplicaState::Sealed => {
                let known = self.lacking.get(&listed.chunk).map(|known| known.len);
                if len > own_len.unwrap_or(0).max(known.unwrap_or(0)) {
                    self.lacking
                        .insert(listed.chunk, Lacking::new(len, crc, false));
                }
            }
        }
    }

    fn choose(&self, quiet_until: &BTreeMap<DiskId, Duration>) -> Choice {
        let is_quiet = |source: &&Source| quiet_until.contains_key(&source.disk);
        let is_listed = |source: &&Source| self.listed.contains(&source.disk);
        let of = |sources: &mut dyn Iterator<Item = &Source>| {
            let others = sources.flat_map(|source| source.covers.iter());
            let all = fill::merged(self.own.iter().chain(others).copied().collect());
            fill::all_before(&all, self.since)
        };
        if of(&mut self.sources.iter().filter(is_listed)) || self.asked {
            return match self.doubtful.is_empty() {
                true => Choice::Report,
                false => Choice::Ask,
            };
        }
        let useful = |source: &&Source| {
            let before = |range: &EpochRange| range.first < self.since;
            !is_listed(source) && source.covers.iter().any(before)
        };
        let next = self
            .sources
            .iter()
            .find(|source| useful(source) && !is_quiet(source));
        // Disks that are out and silent hardly come back: what they alone cover, the metaservers know.
        let there = |source: &&Source| !(source.out && is_quiet(source));
        match next {
            Some(next) => Choice::List(next.disk),
            None if of(&mut self.sources.iter().filter(there)) => Choice::Wait,
            None => Choice::Ask,
        }
    }
}

const ALL: EpochRange = EpochRange {
    first: Epoch::ZERO,
    last: fill::NOW,
};

/// Every other disk that may have chunks of a row: complete members first, those that are out last.
fn sources(map: &ClusterMap, row: &Row, own: DiskId, pg: PgId) -> Vec<Source> {
    let mut sources: Vec<Source> = row
        .sources()
        .into_iter()
        .filter(|disk| *disk != own && map.topology.disks.contains_key(disk))
        .map(|disk| Source {
            disk,
            covers: fill::covers(row, disk),
            out: is_out(map, disk),
        })
        .collect();
    // Each group begins with another one, so that no disk is everybody's source.
    let share = |disk: DiskId| (pg.0 ^ disk.0).wrapping_mul(0x9E37_79B9);
    sources.sort_by_key(|source| (source.out, !source.has_all(), share(source.disk)));
    sources
}

fn complete(row: &Row) -> usize {
    let members = row.members.iter().flatten();
    members
        .filter(|member| member.state == MemberState::Complete)
        .count()
}

#[cfg(test)]
mod tests;
