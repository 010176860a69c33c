//! Which chunks are being written now, and which ids were given up: an id is used once.

use super::entry::Entry;
use super::name::ChunkName;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Given-up ids remembered; an id older than that may be used again, which harms nothing since it left
/// no bytes, and the client that owns it does not do it.
const SPENT_MAX: usize = 65_536;

/// The open chunks of a disk.
#[derive(Default)]
pub struct Claims(Mutex<State>);

#[derive(Default)]
struct State {
    /// What of each is durable: an entry as if it had been sealed at its last flush.
    open: HashMap<ChunkName, Option<Arc<Entry>>>,
    /// Taken, and perhaps on the disk already: nobody has looked.
    reserved: HashSet<ChunkName>,
    spent: HashSet<ChunkName>,
    spent_order: VecDeque<ChunkName>,
}

impl Claims {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a chunk for a writer, or `None` if it is or was another's. It is open once it is known that the disk does not
    /// have it: [`Claim::open`].
    pub fn reserve(self: &Arc<Self>, name: ChunkName) -> Option<Claim> {
        let mut state = self.state();
        if state.is_taken(name) || state.spent.contains(&name) {
            return None;
        }
        state.reserved.insert(name);
        Some(Claim {
            claims: Arc::clone(self),
            name,
        })
    }

    /// Takes a chunk that the disk has, or had, for whoever deletes or replaces it: a given-up id as well. `None`
    /// while it is another's. Until the claim ends the chunk counts as `durable`.
    pub fn claim_again(self: &Arc<Self>, name: ChunkName, durable: Option<Entry>) -> Option<Claim> {
        let mut state = self.state();
        if state.is_taken(name) {
            return None;
        }
        state.open.insert(name, durable.map(Arc::new));
        Some(Claim {
            claims: Arc::clone(self),
            name,
        })
    }

    /// The durable state of an open chunk: `None` if it is not open, `Some(None)` before its first flush.
    pub fn get(&self, name: ChunkName) -> Option<Option<Arc<Entry>>> {
        self.state().open.get(&name).cloned()
    }

    /// Every open chunk with its durable state.
    pub fn all(&self) -> Vec<(ChunkName, Option<Arc<Entry>>)> {
        self.state()
            .open
            .iter()
            .map(|(name, entry)| (*name, entry.clone()))
            .collect()
    }

    /// How many chunks are open.
    pub fn count(&self) -> usize {
        self.state().open.len()
    }
}

impl State {
    fn is_taken(&self, name: ChunkName) -> bool {
        self.open.contains_key(&name) || self.reserved.contains(&name)
    }
}

/// The right to write one chunk; ends when it is dropped.
pub struct Claim {
    claims: Arc<Claims>,
    name: ChunkName,
}

impl Claim {
    /// Which chunk.
    pub fn name(&self) -> ChunkName {
        self.name
    }

    /// The disk does not have the chunk: from now on it is an open one, of which nothing is durable.
    pub fn open(&self) {
        let mut state = self.claims.state();
        if state.reserved.remove(&self.name) {
            state.open.insert(self.name, None);
        }
    }

    /// What of the chunk is durable now.
    pub fn set_durable(&self, entry: Entry) {
        self.claims
            .state()
            .open
            .insert(self.name, Some(Arc::new(entry)));
    }

    /// The chunk was given up: its id stays refused.
    pub fn spend(self) {
        let mut state = self.claims.state();
        if state.spent.insert(self.name) {
            state.spent_order.push_back(self.name);
        }
        if state.spent_order.len() > SPENT_MAX
            && let Some(oldest) = state.spent_order.pop_front()
        {
            state.spent.remove(&oldest);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.claims.state();
        state.open.remove(&self.name);
        state.reserved.remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::{ChunkId, PoolId};

    #[test]
    fn a_chunk_has_one_writer_and_a_spent_one_none() {
        let claims = Arc::new(Claims::default());
        let name = ChunkName {
            pool: PoolId(1),
            chunk: ChunkId(1),
        };
        let claim = claims.reserve(name).unwrap();
        assert!(claims.reserve(name).is_none());
        assert!(claims.claim_again(name, None).is_none());
        assert_eq!((claims.get(name), claims.count()), (None, 0));
        claim.open();
        assert!(claims.reserve(name).is_none());
        assert_eq!((claims.get(name), claims.count()), (Some(None), 1));
        drop(claim);
        claims.reserve(name).unwrap().spend();
        assert!(claims.reserve(name).is_none());
        assert_eq!(claims.count(), 0);
    }
}
