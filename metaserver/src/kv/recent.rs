//! The newest writes in memory: most of what an entry reads was written by one of the entries before it, the directory that
//! is filled, the sums above it, the session that asks. (Measured with three metaservers: without it a fifth of all time
//! went into searching them among the older versions that RocksDB has in memory; with the last entry alone still a tenth,
//! for 128 clients that take turns.)

use super::{Batch, Family, Kv, KvRead, Visit};
use bytes::Bytes;
use quarry_common::Result;
use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

/// Keys and bytes of a generation at most, but for its last batch. There are two.
const KEYS_MAX: usize = 4 << 10;
const LEN_MAX: usize = 4 << 20;

/// A state together with what was written to it last. Whoever writes to the state otherwise calls [`Recent::forget`].
pub struct Recent {
    kv: Arc<dyn Kv>,
    young: Generation,
    /// What was young before: it goes when the young one is full.
    old: Generation,
}

/// What was written in a while: the last value of each key.
#[derive(Default)]
struct Generation {
    families: [HashMap<Bytes, Option<Bytes>>; Family::COUNT],
    keys: usize,
    /// Bytes in keys and values, those that were replaced among them.
    len: usize,
}

impl Generation {
    fn is_full(&self) -> bool {
        self.keys >= KEYS_MAX || self.len >= LEN_MAX
    }

    /// Keeps the room that it took, for the next ones.
    fn clear(&mut self) {
        self.families.iter_mut().for_each(HashMap::clear);
        (self.keys, self.len) = (0, 0);
    }

    fn get(&self, family: Family, key: &[u8]) -> Option<&Option<Bytes>> {
        self.families[family.index()].get(key)
    }

    fn set(&mut self, family: Family, key: Bytes, value: Option<Bytes>) {
        self.len += key.len() + value.as_ref().map_or(0, Bytes::len);
        if self.families[family.index()].insert(key, value).is_none() {
            self.keys += 1;
        }
    }
}

impl Recent {
    /// Of a state.
    pub fn new(kv: Arc<dyn Kv>) -> Recent {
        Recent {
            kv,
            young: Generation::default(),
            old: Generation::default(),
        }
    }

    /// Writes a batch and remembers it.
    ///
    /// # Errors
    /// Those of the state; then nothing is remembered.
    pub fn write(&mut self, batch: Batch) -> Result<()> {
        if let Err(error) = self.kv.write(&batch) {
            self.forget();
            return Err(error);
        }
        if self.young.is_full() {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        for change in batch.changes {
            self.young.set(change.family, change.key, change.value);
        }
        Ok(())
    }

    /// The state was changed by others.
    pub fn forget(&mut self) {
        (self.young, self.old) = Default::default();
    }
}

impl KvRead for Recent {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>> {
        let young = self.young.get(family, key);
        match young.or_else(|| self.old.get(family, key)) {
            Some(written) => Ok(written.clone()),
            None => self.kv.get(family, key),
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

    #[test]
    fn so_much_is_remembered_and_no_more_and_all_of_it_is_what_the_state_has() {
        let kv = Arc::new(Memory::new());
        let mut recent = Recent::new(Arc::clone(&kv) as Arc<dyn Kv>);
        let key = |number: usize| format!("{:05}", number % 50_000);
        for round in 0..3_000_usize {
            let mut batch = Batch::new();
            for number in round * 37..round * 37 + 50 {
                match number % 5 {
                    0 => batch.delete(Family::Inodes, key(number * 7)),
                    _ => batch.put(Family::Inodes, key(number * 7), round.to_string()),
                }
            }
            // A few large ones: bytes count too.
            batch.put(
                Family::Sessions,
                key(round % 3),
                vec![7; round % 20 * 1_000],
            );
            recent.write(batch).unwrap();
            for generation in [&recent.young, &recent.old] {
                assert!(generation.keys <= KEYS_MAX + 51);
                assert!(generation.len <= LEN_MAX + 51 * 20 + 20_000);
            }
        }
        for number in 0..50_000 {
            for family in [Family::Inodes, Family::Sessions] {
                let key = key(number);
                let found = recent.get(family, key.as_bytes()).unwrap();
                assert_eq!(found, kv.get(family, key.as_bytes()).unwrap(), "{key}");
            }
        }
    }
}
