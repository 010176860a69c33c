//! The newest writes in memory: most of what an entry reads was written by the entry before it, the directory that is
//! filled, the sums above it, the session that asks. (Measured with three metaservers: without it a fifth of all time
//! went into searching them among the older versions that RocksDB has in memory.)

use super::{Batch, Change, Family, Kv, KvRead, Visit};
use bytes::Bytes;
use quarry_common::Result;
use std::ops::Bound;
use std::sync::Arc;

/// A state together with what was written to it last. Whoever writes to the state otherwise calls [`Recent::forget`].
pub struct Recent {
    kv: Arc<dyn Kv>,
    /// One a key, ordered by family and key.
    changes: Vec<Change>,
}

impl Recent {
    /// Of a state.
    pub fn new(kv: Arc<dyn Kv>) -> Recent {
        Recent {
            kv,
            changes: Vec::new(),
        }
    }

    /// Writes a batch, and remembers it instead of the one before.
    ///
    /// # Errors
    /// Those of the state.
    pub fn write(&mut self, batch: Batch) -> Result<()> {
        self.forget();
        self.kv.write(&batch)?;
        self.changes = batch.changes;
        // In order already but for a few, and of two of one key the later one counts.
        self.changes.reverse();
        self.changes
            .sort_by(|a, b| (a.family, &a.key).cmp(&(b.family, &b.key)));
        self.changes
            .dedup_by(|later, first| (later.family, &later.key) == (first.family, &first.key));
        Ok(())
    }

    /// The state was changed by others.
    pub fn forget(&mut self) {
        self.changes = Vec::new();
    }
}

impl KvRead for Recent {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self
            .changes
            .binary_search_by(|change| (change.family, &change.key[..]).cmp(&(family, key)));
        match found {
            Ok(at) => Ok(self.changes[at].value.clone()),
            Err(_) => self.kv.get(family, key),
        }
    }

    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<()> {
        self.kv.scan(family, from, to, visit)
    }

    fn last_before(
        &self,
        family: Family,
        low: &[u8],
        high: Bound<&[u8]>,
    ) -> Result<Option<(Bytes, Bytes)>> {
        self.kv.last_before(family, low, high)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;

    #[test]
    fn the_last_write_and_everything_before_it_is_read() {
        let kv = Arc::new(Memory::new());
        let mut recent = Recent::new(Arc::clone(&kv) as Arc<dyn Kv>);
        let get = |recent: &Recent, key: &'static str| {
            let found = recent.get(Family::Inodes, key.as_bytes()).unwrap();
            assert_eq!(found, kv.get(Family::Inodes, key.as_bytes()).unwrap());
            found.map(|value| String::from_utf8(value.to_vec()).unwrap())
        };
        let mut batch = Batch::new();
        batch.put(Family::Inodes, "b", "1");
        batch.put(Family::Inodes, "a", "2");
        batch.put(Family::Dentries, "a", "3");
        batch.put(Family::Inodes, "b", "4");
        recent.write(batch).unwrap();
        assert_eq!(get(&recent, "a"), Some("2".into()));
        assert_eq!(get(&recent, "b"), Some("4".into()), "the later one counts");
        assert_eq!(get(&recent, "c"), None);
        let mut batch = Batch::new();
        batch.delete(Family::Inodes, "a");
        recent.write(batch).unwrap();
        assert_eq!(get(&recent, "a"), None);
        assert_eq!(get(&recent, "b"), Some("4".into()));
        let mut batch = Batch::new();
        batch.put(Family::Inodes, "a", "5");
        kv.write(&batch).unwrap();
        recent.forget();
        assert_eq!(get(&recent, "a"), Some("5".into()));
    }
}
