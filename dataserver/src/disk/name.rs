//! The name of a chunk on a disk: its pool and its id, and how they are spelled in file names and keys.

use quarry_common::ids::{ChunkId, PgId, PoolId};
use quarry_common::map::hash_of;
use std::fmt;
use std::ops::RangeInclusive;

/// A chunk of a pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkName {
    /// The pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
}

impl ChunkName {
    /// The file name: pool and chunk in hexadecimal, `0001-00000000000000ab`.
    pub fn file_name(self) -> String {
        format!("{:04x}-{:016x}", self.pool.0, self.chunk.0)
    }

    /// The name in a file name; exactly what [`ChunkName::file_name`] writes.
    pub fn parse(text: &str) -> Option<ChunkName> {
        let (pool, chunk) = text.split_once('-')?;
        let name = ChunkName {
            pool: PoolId(u16::from_str_radix(pool, 16).ok()?),
            chunk: ChunkId(u64::from_str_radix(chunk, 16).ok()?),
        };
        (name.file_name() == text).then_some(name)
    }

    /// Which of the 256 folders of `chunks/` holds its file: the low byte of the id, so that chunks
    /// written one after the other are spread.
    pub fn folder(self) -> u8 {
        self.chunk.0 as u8
    }

    /// The chunk's place in the order in which groups are listed: the bits of its hash in reverse, so that a
    /// placement group is one run ([`orders_of`]).
    pub fn order(self) -> u64 {
        hash_of(self.chunk).reverse_bits()
    }
}

/// The orders of the chunks of a placement group; `pg_count` is a power of two, and `pg` below it.
pub fn orders_of(pg: PgId, pg_count: u32) -> RangeInclusive<u64> {
    let first = u64::from(pg.0).reverse_bits();
    // Those of one group share the bits above the others.
    let others = u64::MAX.checked_shr(pg_count.trailing_zeros());
    first..=first | others.unwrap_or(0)
}

impl fmt::Display for ChunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunk {} of pool {}", self.chunk, self.pool)
    }
}

impl fmt::Debug for ChunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_read_back_and_nothing_else_does() {
        let name = ChunkName {
            pool: PoolId(1),
            chunk: ChunkId(0xab),
        };
        assert_eq!(name.file_name(), "0001-00000000000000ab");
        assert_eq!(ChunkName::parse("0001-00000000000000ab"), Some(name));
        for other in [
            "",
            "0001",
            "1-ab",
            "0001-00000000000000AB",
            "+001-00000000000000ab",
            "0001-00000000000000ab.new",
        ] {
            assert_eq!(ChunkName::parse(other), None, "{other}");
        }
    }
}
