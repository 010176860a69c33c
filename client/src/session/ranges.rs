//! Chunk ids that the session may write: taken without a round trip, refilled ahead of need.
//!
//! Ids that do not suit now (a full or failing member) are kept aside for later, a few of them.

use quarry_common::ids::{ChunkId, PoolId};
use quarry_common::limits::OPEN_CHUNKS_MAX;
use quarry_common::token::Capability;
use quarry_common::wire::meta::RangeGrant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

/// Ids that are looked at to find one that suits.
const LOOKED_AT_MAX: usize = 32;

/// Ids kept aside: each holds back the mark below which chunks that nobody committed can go.
const ASIDE_MAX: usize = 64;

/// A range is not written with any more this long before its capability expires.
const EXPIRES_EARLY_SECONDS: u64 = 3_600;

/// All ranges of the session, by pool.
#[derive(Debug, Default)]
pub struct Ranges {
    pools: BTreeMap<PoolId, PoolRanges>,
}

#[derive(Debug, Default)]
struct PoolRanges {
    live: VecDeque<Live>,
    aside: VecDeque<(ChunkId, Capability)>,
    open: BTreeSet<ChunkId>,
    /// The ends of ranges that were used up and not yet reported as such.
    used_up: Vec<ChunkId>,
    /// The highest mark that was ever reported: what is open below it has to be named each time.
    told: ChunkId,
    refilling: bool,
}

#[derive(Debug)]
struct Live {
    next: ChunkId,
    left: u32,
    count: u32,
    capability: Capability,
}

/// A chunk id that was taken and is not yet committed; dropping it says that it never will be.
#[derive(Debug)]
pub struct OpenChunk {
    /// The pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The right to write it.
    pub capability: Capability,
    ranges: Arc<Mutex<Ranges>>,
}

impl OpenChunk {
    /// Whether its session was lost: then it can not be committed any more.
    pub fn is_lost(&self) -> bool {
        let ranges = self.ranges.lock().expect("nobody panics with this lock");
        let pool = ranges.pools.get(&self.pool);
        !pool.is_some_and(|pool| pool.open.contains(&self.chunk))
    }
}

impl Drop for OpenChunk {
    fn drop(&mut self) {
        let mut ranges = self.ranges.lock().expect("nobody panics with this lock");
        if let Some(pool) = ranges.pools.get_mut(&self.pool) {
            pool.open.remove(&self.chunk);
        }
    }
}

/// What the next renewal says of the ranges.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Chunks below are committed or never will be, but for the open ones.
    pub marks: Vec<(PoolId, ChunkId)>,
    /// Taken and not yet committed.
    pub open: Vec<(PoolId, ChunkId)>,
}

impl Ranges {
    /// Adds what the metaserver granted.
    pub fn handle_granted(&mut self, grant: RangeGrant) {
        let pool = self.pools.entry(grant.range.pool).or_default();
        pool.refilling = false;
        pool.live.push_back(Live {
            next: grant.range.first,
            left: grant.range.count,
            count: grant.range.count,
            capability: grant.capability,
        });
    }

    /// The session has ended: its ids are of no use.
    pub fn handle_lost(&mut self) {
        self.pools.clear();
    }

    /// The ids of a pool can not be written with (a key that is too old): new ones are needed.
    pub fn discard(&mut self, pool: PoolId) {
        if let Some(pool) = self.pools.get_mut(&pool) {
            pool.aside.clear();
            let used_up = pool.live.drain(..).map(|live| end(&live));
            pool.used_up.extend(used_up);
        }
    }

    /// Whether a grant should be asked for now; whoever gets `true` asks.
    pub fn begin_refill(&mut self, pool: PoolId) -> bool {
        let pool = self.pools.entry(pool).or_default();
        let left: u64 = pool.live.iter().map(|live| u64::from(live.left)).sum();
        let enough = pool
            .live
            .back()
            .is_some_and(|last| left > u64::from(last.count) / 4);
        !enough && !std::mem::replace(&mut pool.refilling, true)
    }

    /// A grant did not come.
    pub fn handle_refill_failed(&mut self, pool: PoolId) {
        self.pools.entry(pool).or_default().refilling = false;
    }

    /// What a renewal reports. Ranges that are used up are reported until `handle_reported`.
    ///
    /// A renewal names at most [`OPEN_CHUNKS_MAX`] chunks. Where more are open a mark stays below the first
    /// that has no place: nothing needs a name above it. Ids of a pool are taken in ascending order, so that
    /// what is open below an earlier mark comes first and always has its place.
    pub fn marks(&mut self) -> Marks {
        let mut report = Marks::default();
        let below = self.pools.values().map(|pool| {
            let named = pool.open_ids();
            named.range(..pool.told).count()
        });
        let mut room = OPEN_CHUNKS_MAX.saturating_sub(below.sum());
        for (id, pool) in &mut self.pools {
            let open = pool.open_ids();
            let named: Vec<ChunkId> = {
                let new = open.range(pool.told..).take(room);
                open.range(..pool.told).chain(new).copied().collect()
            };
            room -= open.range(pool.told..).count().min(room);
            let unnamed = open.iter().nth(named.len()).copied();
            let until = unnamed.unwrap_or(ChunkId(u64::MAX));
            let used_up = pool.used_up.iter().copied();
            let marks = used_up.chain(pool.live.iter().map(|live| live.next));
            for mark in marks.map(|mark| mark.min(until)) {
                pool.told = pool.told.max(mark);
                report.marks.push((*id, mark));
            }
            report.open.extend(named.iter().map(|chunk| (*id, *chunk)));
        }
        report.marks.sort();
        report.marks.dedup();
        report
    }

    /// A renewal with these marks was answered.
    pub fn handle_reported(&mut self, marks: &Marks) {
        for (id, pool) in &mut self.pools {
            pool.used_up
                .retain(|end| !marks.marks.contains(&(*id, *end)));
        }
    }

    fn take(
        &mut self,
        id: PoolId,
        now_seconds: u64,
        score: impl Fn(ChunkId) -> u32,
    ) -> Option<(ChunkId, Capability)> {
        let pool = self.pools.get_mut(&id)?;
        let fresh = |capability: &Capability| {
            capability.expires_at > now_seconds.saturating_add(EXPIRES_EARLY_SECONDS)
        };
        while let Some(live) = pool.live.front() {
            if live.left > 0 && fresh(&live.capability) {
                break;
            }
            pool.used_up.push(end(live));
            pool.live.pop_front();
        }
        pool.aside.retain(|(_, capability)| fresh(capability));
        let suits = pool.aside.iter().position(|(chunk, _)| score(*chunk) == 0);
        let taken = suits.and_then(|at| pool.aside.remove(at));
        let taken = taken.or_else(|| pool.take_best(score))?;
        pool.open.insert(taken.0);
        Some(taken)
    }
}

fn end(live: &Live) -> ChunkId {
    ChunkId(live.next.0 + u64::from(live.left))
}

impl PoolRanges {
    /// Ids that were taken or passed over and may still be committed.
    fn open_ids(&self) -> BTreeSet<ChunkId> {
        let aside = self.aside.iter().map(|(chunk, _)| *chunk);
        self.open.iter().copied().chain(aside).collect()
    }

    /// The best of the next ids; those before it are kept aside.
    fn take_best(&mut self, score: impl Fn(ChunkId) -> u32) -> Option<(ChunkId, Capability)> {
        let live = self.live.front_mut()?;
        let mut best: Option<(u32, u64)> = None;
        for ahead in 0..u64::from(live.left).min(LOOKED_AT_MAX as u64) {
            let score = score(ChunkId(live.next.0 + ahead));
            if best.is_none_or(|(least, _)| score < least) {
                best = Some((score, ahead));
            }
            if score == 0 {
                break;
            }
        }
        let (_, ahead) = best?;
        for _ in 0..ahead {
            self.aside.push_back((live.next, live.capability.clone()));
            live.next.0 += 1;
            live.left -= 1;
        }
        while self.aside.len() > ASIDE_MAX {
            self.aside.pop_front();
        }
        let taken = (live.next, live.capability.clone());
        live.next.0 += 1;
        live.left -= 1;
        Some(taken)
    }
}

/// Takes the next id of a pool for which `score` is least (0 is good at once); `None` when the
/// pool has none left.
pub fn take(
    ranges: &Arc<Mutex<Ranges>>,
    pool: PoolId,
    now_seconds: u64,
    score: impl Fn(ChunkId) -> u32,
) -> Option<OpenChunk> {
    let (chunk, capability) =
        ranges
            .lock()
            .expect("nobody panics with this lock")
            .take(pool, now_seconds, score)?;
    Some(OpenChunk {
        pool,
        chunk,
        capability,
        ranges: ranges.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::KeyNumber;
    use quarry_common::token::Access;
    use quarry_common::wire::meta::Range;

    const POOL: PoolId = PoolId(1);

    fn grant(first: u64, count: u32) -> RangeGrant {
        RangeGrant {
            range: Range {
                pool: POOL,
                first: ChunkId(first),
                count,
            },
            capability: Capability {
                key: KeyNumber(1),
                access: Access::Write,
                pool: POOL,
                first: ChunkId(first),
                last: ChunkId(first + u64::from(count) - 1),
                expires_at: 100_000,
                mac: [0; 16],
            },
        }
    }

    fn ranges(grants: &[(u64, u32)]) -> Arc<Mutex<Ranges>> {
        let mut ranges = Ranges::default();
        for (first, count) in grants {
            ranges.handle_granted(grant(*first, *count));
        }
        Arc::new(Mutex::new(ranges))
    }

    fn next(ranges: &Arc<Mutex<Ranges>>, score: impl Fn(ChunkId) -> u32) -> Option<OpenChunk> {
        take(ranges, POOL, 0, score)
    }

    #[test]
    fn an_id_that_does_not_suit_is_passed_over_and_used_later() {
        let ranges = ranges(&[(10, 100)]);
        let odd = next(&ranges, |chunk| u32::from(chunk.0 % 2 == 0)).unwrap();
        assert_eq!(odd.chunk, ChunkId(11));
        assert_eq!(next(&ranges, |_| 0).unwrap().chunk, ChunkId(10));
        assert_eq!(next(&ranges, |_| 0).unwrap().chunk, ChunkId(12));
    }

    #[test]
    fn the_least_bad_id_is_taken_when_none_is_good() {
        let ranges = ranges(&[(1, 100)]);
        let best = next(&ranges, |chunk| if chunk.0 == 7 { 1 } else { 5 });
        assert_eq!(best.unwrap().chunk, ChunkId(7));
    }

    #[test]
    fn marks_tell_what_may_still_be_committed() {
        let ranges = ranges(&[(1, 2), (50, 10)]);
        let first = next(&ranges, |_| 0).unwrap();
        drop(next(&ranges, |_| 0).unwrap());
        let third = next(&ranges, |_| 0).unwrap();
        let marks = ranges.lock().unwrap().marks();
        assert_eq!(marks.marks, [(POOL, ChunkId(3)), (POOL, ChunkId(51))]);
        assert_eq!(marks.open, [(POOL, ChunkId(1)), (POOL, ChunkId(50))]);
        ranges.lock().unwrap().handle_reported(&marks);
        drop((first, third));
        let marks = ranges.lock().unwrap().marks();
        assert_eq!(marks.marks, [(POOL, ChunkId(51))]);
        assert_eq!(marks.open, []);
    }

    /// What the metaserver makes of reports: the mark of each range, and what is open below marks.
    #[derive(Default)]
    struct Reported {
        ranges: Vec<(u64, u64, u64)>,
        open: BTreeSet<u64>,
    }

    impl Reported {
        fn may_commit(&self, chunk: u64) -> bool {
            let of = |(first, end, _): &&(u64, u64, u64)| (*first..*end).contains(&chunk);
            let range = self.ranges.iter().find(of);
            range.is_some_and(|(.., mark)| chunk >= *mark || self.open.contains(&chunk))
        }

        fn handle(&mut self, report: &Marks) {
            assert!(report.open.len() <= OPEN_CHUNKS_MAX, "it would be refused");
            let named = report.open.iter().map(|(_, chunk)| chunk.0);
            let open = named.filter(|chunk| self.may_commit(*chunk)).collect();
            self.open = open;
            for (_, mark) in &report.marks {
                let of = |range: &&mut (u64, u64, u64)| (range.0..=range.1).contains(&mark.0);
                if let Some(range) = self.ranges.iter_mut().rev().find(of) {
                    range.2 = range.2.max(mark.0);
                }
            }
        }
    }

    #[test]
    fn however_many_chunks_are_open_no_renewal_names_too_many_and_all_can_be_committed() {
        let ranges = ranges(&[]);
        let mut server = Reported::default();
        let mut taken = Vec::new();
        let mut seed = 1_u64;
        for round in 0..200_u64 {
            if ranges.lock().unwrap().begin_refill(POOL) {
                let first = 1 + round * 1_000;
                ranges.lock().unwrap().handle_granted(grant(first, 300));
                server.ranges.push((first, first + 300, first));
            }
            for _ in 0..50 {
                let odd = round % 3 == 0;
                taken.extend(next(&ranges, |chunk| u32::from(odd && chunk.0 % 5 == 0)));
            }
            // Some are committed or given up, not in the order in which they were taken.
            while taken.len() > 4_000 || (round % 40 > 20 && taken.len() > 100) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                taken.swap_remove((seed >> 33) as usize % taken.len());
            }
            let report = ranges.lock().unwrap().marks();
            server.handle(&report);
            // An answer may be lost.
            if round % 7 > 0 {
                ranges.lock().unwrap().handle_reported(&report);
            }
            let lost = taken.iter().find(|open| !server.may_commit(open.chunk.0));
            assert!(lost.is_none(), "round {round}: {lost:?}");
        }
        // What was held back is made up for.
        taken.clear();
        let report = ranges.lock().unwrap().marks();
        server.handle(&report);
        ranges.lock().unwrap().handle_reported(&report);
        let marked = server.ranges.iter().filter(|(_, end, mark)| mark == end);
        assert!(marked.count() + 3 > server.ranges.len());
    }

    #[test]
    fn a_refill_is_asked_for_once_and_ahead_of_need() {
        let ranges = ranges(&[(1, 8)]);
        let mut taken = Vec::new();
        while !ranges.lock().unwrap().begin_refill(POOL) {
            taken.push(next(&ranges, |_| 0).unwrap());
        }
        assert_eq!(taken.len(), 6, "with a quarter left");
        assert!(!ranges.lock().unwrap().begin_refill(POOL), "one at a time");
        ranges.lock().unwrap().handle_refill_failed(POOL);
        assert!(ranges.lock().unwrap().begin_refill(POOL));
    }

    #[test]
    fn ids_whose_capability_expires_soon_are_not_written() {
        let ranges = ranges(&[(1, 8)]);
        assert!(take(&ranges, POOL, 99_000, |_| 0).is_none());
    }

    /// What the metaserver makes of grants and marks: ranges by their first id, with count and mark.
    #[derive(Default)]
    struct Metaserver {
        ranges: BTreeMap<u64, (u64, u64)>,
        open: BTreeSet<u64>,
        next: u64,
    }

    impl Metaserver {
        fn grant(&mut self, count: u32, expires_at: u64) -> RangeGrant {
            let first = self.next;
            self.next += u64::from(count) + 1;
            self.ranges.insert(first, (u64::from(count), 0));
            let mut grant = grant(first, count);
            grant.capability.expires_at = expires_at;
            grant
        }

        fn range_of(&self, id: u64) -> Option<(u64, (u64, u64))> {
            let (first, range) = self.ranges.range(..=id).next_back()?;
            (id - first <= range.0).then_some((*first, *range))
        }

        fn may_commit(&self, id: u64) -> bool {
            self.range_of(id).is_some_and(|(first, (count, marked))| {
                id - first < count && (id - first >= marked || self.open.contains(&id))
            })
        }

        fn renew(&mut self, marks: &Marks) {
            let named = marks.open.iter().map(|(_, chunk)| chunk.0);
            let open: BTreeSet<u64> = named.filter(|id| self.may_commit(*id)).collect();
            for (_, mark) in &marks.marks {
                if let Some((first, (count, marked))) = self.range_of(mark.0) {
                    self.ranges
                        .insert(first, (count, marked.max(mark.0 - first)));
                }
            }
            self.ranges.retain(|first, (count, marked)| {
                marked < count || open.range(*first..*first + *count).next().is_some()
            });
            self.open = open;
        }
    }

    /// Else nothing that it wrote and gave up, or that was removed, could be deleted before it ends.
    #[test]
    fn a_client_that_lives_for_months_holds_back_only_what_it_has_open() {
        const DAY: u64 = 24 * 3600;
        let mut metaserver = Metaserver {
            next: 1,
            ..Metaserver::default()
        };
        let ranges = Arc::new(Mutex::new(Ranges::default()));
        let mut open: VecDeque<OpenChunk> = VecDeque::new();
        let mut written = BTreeSet::new();
        let mut random = 0x1234_5678_9abc_def1_u64;
        let mut roll = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        // A renewal every hour, of which some get no answer, and some idle days.
        for hour in 0..24 * 100_u64 {
            let now = hour * 3600;
            let idle = (hour / 24) % 7 == 6;
            for _ in 0..if idle { 0 } else { roll(150) } {
                // Some disks are full for weeks.
                let bad = hour / 500;
                let score = |chunk: ChunkId| u32::from((chunk.0 ^ chunk.0 >> 3) % 7 == bad);
                // As a session does: what expired over night is found out by taking.
                let taken = loop {
                    let taken = take(&ranges, POOL, now, score);
                    if ranges.lock().unwrap().begin_refill(POOL) {
                        let grant = metaserver.grant(512, now + DAY);
                        ranges.lock().unwrap().handle_granted(grant);
                    }
                    if let Some(taken) = taken {
                        break taken;
                    }
                };
                assert!(metaserver.may_commit(taken.chunk.0), "{taken:?}");
                written.insert(taken.chunk.0);
                open.push_back(taken);
                // Committed or given up, in any order; few are open at a time.
                while open.len() as u64 > roll(40) {
                    let at = roll(open.len() as u64) as usize;
                    open.swap_remove_back(at);
                }
            }
            let marks = ranges.lock().unwrap().marks();
            metaserver.renew(&marks);
            if roll(4) > 0 {
                ranges.lock().unwrap().handle_reported(&marks);
            }
            let still_open: BTreeSet<u64> = open.iter().map(|open| open.chunk.0).collect();
            let known = metaserver.ranges.iter();
            let held: BTreeSet<u64> = known
                .flat_map(|(first, (count, _))| *first..*first + *count)
                .filter(|id| written.contains(id) && metaserver.may_commit(*id))
                .collect();
            assert_eq!(held, still_open, "hour {hour}");
            assert!(metaserver.ranges.len() <= 2 + ASIDE_MAX + open.len());
        }
        assert!(
            written.len() > 50_000,
            "{} chunks test little",
            written.len()
        );
    }
}
