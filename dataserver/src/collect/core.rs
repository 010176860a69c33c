//! When a disk asks about what it has, and how far it is. Pure: no clock, no network, no disk.

use quarry_common::ids::{ChunkId, PgId, PoolId};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A pass that was broken off begins anew this much later at the latest.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A pass over all groups of a disk every so often: an error anywhere ends it, and it begins anew.
#[derive(Debug)]
pub struct Schedule {
    every: Duration,
    next_at: Instant,
    pass: Option<Pass>,
}

#[derive(Debug)]
struct Pass {
    groups: VecDeque<(PoolId, PgId)>,
    from: Option<ChunkId>,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// List the groups of the disk.
    Begin,
    /// Ask about a page of a group.
    Ask {
        /// Its pool.
        pool: PoolId,
        /// The group.
        pg: PgId,
        /// Where the page begins.
        from: Option<ChunkId>,
    },
}

impl Schedule {
    /// The first pass begins at `first_at`, and each later one so long after the end of the one before.
    pub fn new(every: Duration, first_at: Instant) -> Schedule {
        Schedule {
            every,
            next_at: first_at,
            pass: None,
        }
    }

    /// What is to be done at `now`.
    pub fn step(&self, now: Instant) -> Step {
        match &self.pass {
            None if now < self.next_at => Step::Wait,
            None => Step::Begin,
            Some(pass) => match pass.groups.front() {
                Some((pool, pg)) => Step::Ask {
                    pool: *pool,
                    pg: *pg,
                    from: pass.from,
                },
                None => Step::Wait,
            },
        }
    }

    /// The disk has these groups; `None` if there is no map yet, which says nothing: then it is asked again.
    pub fn handle_groups(&mut self, groups: Option<Vec<(PoolId, PgId)>>, now: Instant) {
        let Some(groups) = groups else {
            return;
        };
        self.pass = Some(Pass {
            groups: groups.into(),
            from: None,
        });
        self.end_if_done(now);
    }

    /// A page was dealt with; the next one of the group begins at `next`.
    pub fn handle_asked(&mut self, next: Option<ChunkId>, now: Instant) {
        if let Some(pass) = &mut self.pass {
            pass.from = next;
            if next.is_none() {
                pass.groups.pop_front();
            }
        }
        self.end_if_done(now);
    }

    /// Something went wrong: the pass is over.
    pub fn handle_failed(&mut self, now: Instant) {
        self.pass = None;
        self.next_at = now + self.every.min(AGAIN_AFTER);
    }

    fn end_if_done(&mut self, now: Instant) {
        if self
            .pass
            .as_ref()
            .is_some_and(|pass| pass.groups.is_empty())
        {
            self.pass = None;
            self.next_at = now + self.every;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const POOL: PoolId = PoolId(1);

    fn ask(pg: u32, from: Option<u64>) -> Step {
        Step::Ask {
            pool: POOL,
            pg: PgId(pg),
            from: from.map(ChunkId),
        }
    }

    fn begun() -> (Schedule, Instant) {
        let now = Instant::now();
        let mut schedule = Schedule::new(HOUR, now);
        assert_eq!(schedule.step(now), Step::Begin);
        let groups = vec![(POOL, PgId(3)), (POOL, PgId(5))];
        schedule.handle_groups(Some(groups), now);
        (schedule, now)
    }

    #[test]
    fn a_pass_goes_page_by_page_and_group_by_group_and_rests_after_the_last() {
        let (mut schedule, now) = begun();
        assert_eq!(schedule.step(now), ask(3, None));
        schedule.handle_asked(Some(ChunkId(9)), now);
        assert_eq!(schedule.step(now), ask(3, Some(9)));
        schedule.handle_asked(None, now);
        assert_eq!(schedule.step(now), ask(5, None), "from its beginning");
        schedule.handle_asked(None, now);
        assert_eq!(schedule.step(now + HOUR / 2), Step::Wait);
        assert_eq!(schedule.step(now + HOUR), Step::Begin);
        schedule.handle_groups(Some(Vec::new()), now + HOUR);
        assert_eq!(schedule.step(now + HOUR), Step::Wait, "an empty disk");
    }

    #[test]
    fn a_pass_before_the_first_map_does_not_count() {
        let now = Instant::now();
        let mut schedule = Schedule::new(HOUR, now);
        schedule.handle_groups(None, now);
        assert_eq!(schedule.step(now), Step::Begin);
        schedule.handle_groups(Some(vec![(POOL, PgId(3))]), now);
        assert_eq!(schedule.step(now), ask(3, None));
    }

    #[test]
    fn an_error_ends_the_pass_and_a_new_one_begins_soon() {
        let (mut schedule, now) = begun();
        schedule.handle_asked(None, now);
        schedule.handle_failed(now);
        assert_eq!(schedule.step(now), Step::Wait);
        assert_eq!(schedule.step(now + AGAIN_AFTER), Step::Begin);
    }
}
