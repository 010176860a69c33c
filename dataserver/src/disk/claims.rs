//! Which chunks are being written now, and which ids were given up: an id is used once.

use super::entry::Entry;
use super::name::ChunkName;
use quarry_common::Result;
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
    /// Nobody writes them any more, and they could not be ended: only the next start can say more of them than what was
    /// durable.
    kept: HashMap<ChunkName, Arc<Entry>>,
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
    /// while it is another's. Until the claim ends the chunk counts as what `look` finds durable, once nobody else changes it.
    ///
    /// # Errors
    /// Those of `look`.
    pub fn claim_again(
        self: &Arc<Self>,
        name: ChunkName,
        look: impl FnOnce() -> Result<Option<Entry>>,
    ) -> Result<Option<Claim>> {
        let mut state = self.state();
        if state.is_taken(name) {
            return Ok(None);
        }
        state.reserved.insert(name);
        drop(state);
        let claim = Claim {
            claims: Arc::clone(self),
            name,
        };
        claim.open_with(look()?);
        Ok(Some(claim))
    }

    /// The durable state of an open chunk: `None` if it is not open, `Some(None)` before its first flush.
    pub fn get(&self, name: ChunkName) -> Option<Option<Arc<Entry>>> {
        let state = self.state();
        let kept = || state.kept.get(&name).cloned().map(Some);
        state.open.get(&name).cloned().or_else(kept)
    }

    /// Every open chunk with its durable state.
    pub fn all(&self) -> Vec<(ChunkName, Option<Arc<Entry>>)> {
        let state = self.state();
        let open = state
            .open
            .iter()
            .map(|(name, entry)| (*name, entry.clone()));
        let kept = state
            .kept
            .iter()
            .map(|(name, entry)| (*name, Some(Arc::clone(entry))));
        open.chain(kept).collect()
    }

    /// How many chunks somebody writes.
    pub fn count(&self) -> usize {
        self.state().open.len()
    }
}

impl State {
    fn is_taken(&self, name: ChunkName) -> bool {
        self.open.contains_key(&name)
            || self.kept.contains_key(&name)
            || self.reserved.contains(&name)
    }

    fn spend(&mut self, name: ChunkName) {
        if self.spent.insert(name) {
            self.spent_order.push_back(name);
        }
        if self.spent_order.len() > SPENT_MAX
            && let Some(oldest) = self.spent_order.pop_front()
        {
            self.spent.remove(&oldest);
        }
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
        self.open_with(None);
    }

    fn open_with(&self, durable: Option<Entry>) {
        let mut state = self.claims.state();
        if state.reserved.remove(&self.name) {
            state.open.insert(self.name, durable.map(Arc::new));
        }
    }

    /// What of the chunk is durable.
    pub fn durable(&self) -> Option<Arc<Entry>> {
        self.claims.get(self.name).flatten()
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
        self.claims.state().spend(self.name);
    }

    /// The chunk can not be ended here. What of it is durable may have been acknowledged: it stays open, and is read and
    /// listed, until the process ends. If nothing is, it was given up.
    pub fn keep(self) {
        let mut state = self.claims.state();
        match state.open.remove(&self.name).flatten() {
            Some(durable) => drop(state.kept.insert(self.name, durable)),
            None => state.spend(self.name),
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
        assert!(claims.claim_again(name, || Ok(None)).unwrap().is_none());
        assert_eq!((claims.get(name), claims.count()), (None, 0));
        claim.open();
        assert!(claims.reserve(name).is_none());
        assert_eq!((claims.get(name), claims.count()), (Some(None), 1));
        drop(claim);
        claims.reserve(name).unwrap().spend();
        assert!(claims.reserve(name).is_none());
        assert_eq!(claims.count(), 0);
    }

    #[test]
    fn a_chunk_that_can_not_be_ended_stays_open_as_far_as_it_is_durable() {
        let claims = Arc::new(Claims::default());
        let name = |chunk| ChunkName {
            pool: PoolId(1),
            chunk: ChunkId(chunk),
        };
        let durable = Entry::File {
            len: 5,
            crc: Default::default(),
            cuts: vec![],
            blocks: vec![Default::default()],
        };
        for chunk in [1, 2] {
            let claim = claims.reserve(name(chunk)).unwrap();
            claim.open();
            if chunk == 1 {
                claim.set_durable(durable.clone());
            }
            claim.keep();
            assert!(claims.reserve(name(chunk)).is_none());
        }
        let found = Some(Arc::new(durable));
        assert_eq!(claims.get(name(1)), Some(found.clone()));
        assert_eq!(claims.get(name(2)), None);
        assert_eq!(claims.all(), [(name(1), found)]);
        assert_eq!(claims.count(), 0, "nobody writes it");
        let again = |name| claims.claim_again(name, || Ok(None)).unwrap();
        assert!(again(name(1)).is_none() && again(name(2)).is_some());
    }

    /// Else what it finds might be older than what another one has just written.
    #[test]
    fn who_claims_a_chunk_again_looks_at_it_when_it_is_nobody_elses() {
        let claims = Arc::new(Claims::default());
        let name = ChunkName {
            pool: PoolId(1),
            chunk: ChunkId(1),
        };
        let claim = claims.claim_again(name, || {
            assert!(claims.reserve(name).is_none());
            assert_eq!(claims.get(name), None, "whoever reads goes by the index");
            Ok(None)
        });
        assert_eq!(claims.get(name), Some(None));
        drop(claim);
        let failed = || Err(quarry_common::Error::bug("a look"));
        assert!(claims.claim_again(name, failed).is_err());
        assert!(claims.reserve(name).is_some(), "it is free again");
    }
}
