//! Changes that take effect together.

use super::Family;
use bytes::Bytes;

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where the key is.
    pub family: Family,
    /// The key.
    pub key: Bytes,
    /// The new value; `None` removes the key, which need not exist.
    pub value: Option<Bytes>,
}

/// A list of changes, applied in order and atomically over all families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes; of two of the same key the later one counts.
    pub changes: Vec<Change>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, family: Family, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push(Change {
            family,
            key: key.into(),
            value: Some(value.into()),
        });
    }

    /// Removes `key`, which need not exist.
    pub fn delete(&mut self, family: Family, key: impl Into<Bytes>) {
        self.changes.push(Change {
            family,
            key: key.into(),
            value: None,
        });
    }

    /// Adds the changes of `later` after these.
    pub fn extend(&mut self, later: Batch) {
        self.changes.extend(later.changes);
    }
}
