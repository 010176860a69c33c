//! Chunks that the metaservers have doomed, as far as this dataserver has heard since its start.
//!
//! A disk that has deleted its copy hears of the chunk again from disks that have not yet: it is not to be fetched.

use quarry_common::ids::{ChunkId, PoolId};
use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Chunks that are remembered. One that was forgotten may be fetched once more, and is deleted once more.
const REMEMBERED_MAX: usize = 65_536;

/// Doomed chunks; the word never grows old.
#[derive(Default)]
pub struct Doomed(Mutex<State>);

#[derive(Default)]
struct State {
    chunks: HashSet<(PoolId, ChunkId)>,
    order: VecDeque<(PoolId, ChunkId)>,
}

impl Doomed {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are doomed.
    pub fn note(&self, chunks: &[(PoolId, ChunkId)]) {
        let mut state = self.lock();
        for chunk in chunks {
            if state.chunks.insert(*chunk) {
                state.order.push_back(*chunk);
            }
            if state.order.len() > REMEMBERED_MAX
                && let Some(oldest) = state.order.pop_front()
            {
                state.chunks.remove(&oldest);
            }
        }
    }

    /// Whether a chunk is known to be doomed.
    pub fn contains(&self, pool: PoolId, chunk: ChunkId) -> bool {
        self.lock().chunks.contains(&(pool, chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered() {
        let doomed = Doomed::default();
        let pool = PoolId(1);
        for chunk in 0..=REMEMBERED_MAX as u64 {
            doomed.note(&[(pool, ChunkId(chunk)); 2]);
        }
        assert!(!doomed.contains(pool, ChunkId(0)));
        assert!(doomed.contains(pool, ChunkId(1)) && !doomed.contains(PoolId(2), ChunkId(1)));
        assert!(doomed.contains(pool, ChunkId(REMEMBERED_MAX as u64)));
    }
}
