//! Every number that names something is a type of its own.
//!
//! Ids are encoded as plain integers; their order is the order of their keys.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// One Raft group and the slots it serves. Today there is [`ShardId::FIRST`] alone.
    ShardId(u32)
);
id!(
    /// One of 65,536 parts of the namespace (DESIGN §5.3).
    Slot(u16)
);
id!(
    /// A metaserver or a dataserver, from its certificate. Unique within the cluster and role.
    ServerId(u32)
);
id!(
    /// One data directory of a dataserver. Given out by the metaserver, never reused.
    DiskId(u32)
);
id!(
    /// A pool: a redundancy scheme and its placement groups.
    PoolId(u16)
);
id!(
    /// A placement group within its pool: a number below the pool's `pg_count`.
    PgId(u32)
);
id!(
    /// A client's lease with the metaserver. The top 16 bits are the incarnation. 0 is nobody.
    SessionId(u64)
);
id!(
    /// The number of a mutating request within its session, from 1.
    RequestNumber(u64)
);
id!(
    /// The version of one operation: orders everything in a shard; microseconds since 1970
    /// or one more than its predecessor, whichever is greater (DESIGN §5.1).
    Version(u64)
);
id!(
    /// A byte position in a file.
    FileOffset(u64)
);
id!(
    /// A byte position in a chunk.
    ChunkOffset(u32)
);
id!(
    /// The number of a secret key, never reused.
    KeyNumber(u32)
);
id!(
    /// A start of a disk: each start writes and registers a new one (DESIGN §4.4).
    OpenNumber(u64)
);
id!(
    /// One run of a process, drawn when it starts: two with one certificate differ.
    ProcessNumber(u64)
);
id!(
    /// A numeric user id, as in POSIX.
    Uid(u32)
);
id!(
    /// A numeric group id, as in POSIX.
    Gid(u32)
);

/// The version of the cluster map: 16 bits of incarnation, 48 of sequence.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Before the first map.
    pub const ZERO: Epoch = Epoch(0);

    /// The epoch after this one, of the same incarnation.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }

    /// Which life of the metaservers made this epoch; a restore from an older copy starts a new one.
    pub fn incarnation(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 & ((1 << 48) - 1))
    }
}

impl ShardId {
    /// The only shard of today's clusters.
    pub const FIRST: ShardId = ShardId(0);
}

impl SessionId {
    /// No session: a reader, or the cluster itself.
    pub const NONE: SessionId = SessionId(0);
}

macro_rules! slotted {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Puts a home slot and a 48-bit sequence number together.
            ///
            /// # Panics
            /// If `sequence` needs more than 48 bits: after 2^48 ids of one slot.
            pub fn new(slot: Slot, sequence: u64) -> Self {
                assert!(sequence < 1 << 48, "the ids of slot {slot} are used up");
                Self(u64::from(slot.0) << 48 | sequence)
            }

            /// The slot whose shard knows this id.
            pub fn slot(self) -> Slot {
                Slot((self.0 >> 48) as u16)
            }

            /// The number within the slot.
            pub fn sequence(self) -> u64 {
                self.0 & ((1 << 48) - 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:x}"), self.0)
            }
        }
    };
}

slotted!(
    /// A file, directory or other object: 16 bits of slot, 48 of sequence, never reused.
    InodeId, "i"
);
slotted!(
    /// A chunk: 16 bits of slot, 48 of sequence, never reused.
    ChunkId, "c"
);

impl InodeId {
    /// The directory `/`.
    pub const ROOT: InodeId = InodeId(1);
}

/// The cluster: 16 random bytes, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for ClusterId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || format!("'{text}' is not a cluster id: 32 hexadecimal digits are");
        if text.len() != 32 || !text.is_ascii() {
            return Err(refuse());
        }
        let mut id = [0; 16];
        for (at, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| refuse())?;
        }
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slotted_ids_keep_their_parts() {
        let chunk = ChunkId::new(Slot(0xfffe), 77);
        assert_eq!((chunk.slot(), chunk.sequence()), (Slot(0xfffe), 77));
    }

    #[test]
    fn cluster_ids_read_back_what_they_print() {
        let id = ClusterId(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("xyz".parse::<ClusterId>().is_err());
        assert!("ä".repeat(16).parse::<ClusterId>().is_err());
    }
}
