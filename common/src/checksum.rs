//! CRC-32 (IEEE, reflected; RFC 1952) of blocks of 64 KiB and of whole chunks.

use crate::limits::BLOCK_LEN;
use serde::{Deserialize, Serialize};

/// A CRC-32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Crc(pub u32);

impl std::fmt::Debug for Crc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl Crc {
    /// The CRC of `bytes`.
    pub fn of(bytes: &[u8]) -> Crc {
        Crc(crc32fast::hash(bytes))
    }

    /// The CRC of the pieces as if they were one.
    pub fn of_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Crc {
        let mut hasher = crc32fast::Hasher::new();
        pieces.into_iter().for_each(|piece| hasher.update(piece));
        Crc(hasher.finalize())
    }

    /// The CRC of what `self` covers followed by `len` bytes that `next` covers.
    pub fn then(self, next: Crc, len: u64) -> Crc {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.combine(&crc32fast::Hasher::new_with_initial_len(next.0, len));
        Crc(hasher.finalize())
    }
}

/// The CRC of each block of `bytes`, the first of which starts a block.
pub fn blocks(bytes: &[u8]) -> Vec<Crc> {
    bytes.chunks(BLOCK_LEN).map(Crc::of).collect()
}

/// The CRC of a whole chunk of `len` bytes from those of its blocks.
pub fn whole(blocks: &[Crc], len: u64) -> Crc {
    let mut left = len;
    let mut crc = Crc::default();
    for block in blocks {
        let block_len = left.min(BLOCK_LEN as u64);
        crc = crc.then(*block, block_len);
        left -= block_len;
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_ieee_one() {
        assert_eq!(Crc::of(b"123456789"), Crc(0xcbf4_3926));
    }

    #[test]
    fn the_whole_is_what_its_blocks_say() {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
        for len in [0, 1, BLOCK_LEN, BLOCK_LEN + 1, bytes.len()] {
            assert_eq!(
                whole(&blocks(&bytes[..len]), len as u64),
                Crc::of(&bytes[..len])
            );
        }
    }
}
