//! What Raft needs of the state machine above it.

use crate::kv::{Batch, KvRead};
use bytes::Bytes;
use quarry_common::Result;

/// The rules by which entries change the state. Deterministic: the same state and entry give
/// the same batch and answers on every metaserver, at any time; no clock, no randomness.
pub trait Apply: Send + Sync + 'static {
    /// Works out what `entry` (an encoded [`super::entry::Entry`]) changes in `base`, the state after all
    /// earlier entries, and its answers ([`super::entry::encode_answers`], one for each
    /// command). The caller writes the batch together with the applied index before it calls again.
    ///
    /// A command that is refused is an answer. An error means that the state can not be read or
    /// the entry can not be understood: it ends the process, since going on would make this
    /// state differ from the others.
    fn apply(&self, base: &dyn KvRead, entry: &[u8]) -> Result<(Batch, Bytes)>;

    /// The state was replaced as a whole by a snapshot: whatever is cached of it is wrong now.
    fn reset(&self);
}
