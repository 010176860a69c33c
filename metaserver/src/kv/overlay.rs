//! Writes in memory over a state that does not change meanwhile: reads see them, a mark takes
//! some of them back, and at the end they are one batch.

use super::{Batch, Change, Family, KvRead, Visit};
use bytes::Bytes;
use quarry_common::Result;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

type Writes = BTreeMap<Bytes, Option<Bytes>>;

/// A layer of writes over `base`. Not shared: one applier works on it.
pub struct Overlay<'a> {
    base: &'a dyn KvRead,
    families: [Writes; Family::COUNT],
    /// What each write replaced in this layer, oldest first; `None` means it was not in the layer.
    undo: Vec<(Family, Bytes, Option<Option<Bytes>>)>,
}

/// A point to roll an [`Overlay`] back to; good until the overlay is rolled back beyond it.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl<'a> Overlay<'a> {
    /// An empty layer over `base`.
    pub fn new(base: &'a dyn KvRead) -> Overlay<'a> {
        Overlay {
            base,
            families: Default::default(),
            undo: Vec::new(),
        }
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, family: Family, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.set(family, key.into(), Some(value.into()));
    }

    /// Removes `key`, which need not exist.
    pub fn delete(&mut self, family: Family, key: impl Into<Bytes>) {
        self.set(family, key.into(), None);
    }

    fn set(&mut self, family: Family, key: Bytes, value: Option<Bytes>) {
        let before = self.families[family.index()].insert(key.clone(), value);
        self.undo.push((family, key, before));
    }

    /// Remembers the present point, to return to if an operation is refused halfway.
    pub fn mark(&self) -> Mark {
        Mark(self.undo.len())
    }

    /// Writes since `mark`.
    pub fn writes_since(&self, mark: Mark) -> usize {
        self.undo.len() - mark.0
    }

    /// Takes back every write since `mark`.
    pub fn roll_back(&mut self, mark: Mark) {
        while self.undo.len() > mark.0 {
            let Some((family, key, before)) = self.undo.pop() else {
                return;
            };
            let writes = &mut self.families[family.index()];
            match before {
                Some(value) => writes.insert(key, value),
                None => writes.remove(&key),
            };
        }
    }

    /// Whether something was written since `mark`.
    pub fn changed_since(&self, mark: Mark) -> bool {
        self.undo.len() > mark.0
    }

    /// Whether nothing is written in this layer.
    pub fn is_empty(&self) -> bool {
        self.families.iter().all(BTreeMap::is_empty)
    }

    /// All writes of this layer as one batch, one change a key.
    pub fn into_batch(self) -> Batch {
        let mut changes = Vec::with_capacity(self.families.iter().map(BTreeMap::len).sum());
        for (family, writes) in Family::ALL.iter().zip(self.families) {
            changes.extend(writes.into_iter().map(|(key, value)| Change {
                family: *family,
                key,
                value,
            }));
        }
        Batch { changes }
    }
}

impl KvRead for Overlay<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        match self.families[family.index()].get(key) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(family, key),
        }
    }

    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<()> {
        if to.is_some_and(|to| from >= to) {
            return Ok(());
        }
        let writes = &self.families[family.index()];
        let until = to.map_or(Bound::Unbounded, Bound::Excluded);
        let mut own = writes
            .range::<[u8], _>((Bound::Included(from), until))
            .peekable();
        if own.peek().is_none() {
            return self.base.scan(family, from, to, visit);
        }
        let mut flow = ControlFlow::Continue(());
        self.base.scan(family, from, to, &mut |key, value| {
            while let Some((written, new)) = own.next_if(|(written, _)| written.as_ref() <= key) {
                if let Some(new) = new {
                    flow = visit(written, new);
                }
                if flow.is_break() || written.as_ref() == key {
                    return flow;
                }
            }
            flow = visit(key, value);
            flow
        })?;
        if flow.is_continue() {
            for (written, new) in own {
                if let Some(new) = new
                    && visit(written, new).is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }

    fn last_before(
        &self,
        family: Family,
        low: &[u8],
        high: Bound<&[u8]>,
    ) -> Result<Option<(Bytes, Bytes)>> {
        let writes = &self.families[family.index()];
        if is_empty_range(low, high) {
            return Ok(None);
        }
        let mut own = writes
            .range::<[u8], _>((Bound::Included(low), high))
            .rev()
            .peekable();
        // The base is asked again only below a key that it holds and this layer removed.
        let mut below = high;
        loop {
            let found = if is_empty_range(low, below) {
                None
            } else {
                self.base.last_before(family, low, below)?
            };
            let floor: &[u8] = found.as_ref().map_or(low, |(key, _)| key);
            let mut hidden = None;
            while let Some((key, new)) = own.next_if(|(key, _)| key.as_ref() >= floor) {
                if let Some(new) = new {
                    return Ok(Some((key.clone(), new.clone())));
                }
                if found.is_some() && key.as_ref() == floor {
                    hidden = Some(key);
                }
            }
            match hidden {
                Some(key) => below = Bound::Excluded(key.as_ref()),
                None => return Ok(found),
            }
        }
    }
}

/// Whether no key can be at least `low` and within `high`.
pub(super) fn is_empty_range(low: &[u8], high: Bound<&[u8]>) -> bool {
    match high {
        Bound::Included(high) => low > high,
        Bound::Excluded(high) => low >= high,
        Bound::Unbounded => false,
    }
}
