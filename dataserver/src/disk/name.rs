//! The name of a chunk on a disk: its pool and its id, and how they are spelled in file names and keys.

use quarry_common::ids::{ChunkId, PoolId};
use std::fmt;

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
