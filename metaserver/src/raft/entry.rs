//! What one entry of the Raft log carries: several commands with one time stamp.

use bytes::Bytes;
use quarry_common::limits::RAFT_ENTRY_LEN_MAX;
use quarry_common::{Result, codec};
use serde::{Deserialize, Serialize};

/// Operations in one entry at most: so many that a sync is shared well, so few that a caller
/// does not wait long for its neighbours (measured best at 128 to 256 callers).
pub const ENTRY_COMMANDS_MAX: usize = 512;

/// What an entry may add to the bytes of its commands: the time stamp and the lengths.
pub const ENTRY_OVERHEAD_MAX: usize = 16 + 5 * ENTRY_COMMANDS_MAX;

/// The longest command: one that fills an entry alone.
pub const COMMAND_LEN_MAX: usize = RAFT_ENTRY_LEN_MAX - ENTRY_OVERHEAD_MAX;

/// The payload of an entry of the Raft log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The leader's clock when it packed the entry: microseconds since 1970, never less than in
    /// an earlier entry of the same leader. Another leader's clock may be behind.
    pub time_us: u64,
    /// Encoded commands, applied in this order.
    pub commands: Vec<Bytes>,
}

impl Entry {
    /// The bytes that are proposed, and given to [`super::Apply::apply`].
    pub fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    /// Reads what [`Entry::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Entry> {
        codec::decode("an entry of the Raft log", bytes)
    }
}

/// One answer for each command of an entry, in their order.
pub fn encode_answers(answers: &[Bytes]) -> Bytes {
    codec::encode(&answers).into()
}

/// Reads what [`encode_answers`] wrote.
pub fn decode_answers(bytes: &[u8]) -> Result<Vec<Bytes>> {
    codec::decode("the answers of an entry", bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_entry_stays_within_its_limit() {
        let share = COMMAND_LEN_MAX / ENTRY_COMMANDS_MAX;
        let commands = vec![Bytes::from(vec![1; share]); ENTRY_COMMANDS_MAX];
        let entry = Entry {
            time_us: u64::MAX,
            commands,
        };
        let bytes = entry.encode();
        assert!(bytes.len() <= RAFT_ENTRY_LEN_MAX);
        assert_eq!(Entry::decode(&bytes).unwrap(), entry);
        let alone = Entry {
            time_us: u64::MAX,
            commands: vec![Bytes::from(vec![1; COMMAND_LEN_MAX])],
        };
        assert!(alone.encode().len() <= RAFT_ENTRY_LEN_MAX);
    }

    #[test]
    fn answers_keep_their_order() {
        let answers = vec![
            Bytes::from_static(b"a"),
            Bytes::new(),
            Bytes::from_static(b"c"),
        ];
        assert_eq!(decode_answers(&encode_answers(&answers)).unwrap(), answers);
    }
}
