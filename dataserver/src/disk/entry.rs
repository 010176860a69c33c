//! What the index says of a sealed chunk.

use super::layout::cuts_are_valid;
use super::segment_format::SegmentId;
use quarry_common::checksum::Crc;
use quarry_common::limits::{BLOCK_LEN, SMALL_CHUNK_LEN_MAX};
use quarry_common::{Error, Result, codec};
use serde::{Deserialize, Serialize};

/// The format of an entry: the first byte of its value. The index is derived, so a change of the format
/// needs no migration: an index with an unknown one is rebuilt.
const VERSION: u8 = 1;

/// Where the bytes of a sealed chunk are, and what they must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// In a chunk file of its own.
    File {
        /// Length of the chunk in bytes.
        len: u32,
        /// CRC of the chunk.
        crc: Crc,
        /// Cuts of the file (see [`super::layout`]).
        cuts: Vec<u32>,
        /// CRC of each block of 64 KiB.
        blocks: Vec<Crc>,
    },
    /// A record of a segment.
    Small {
        /// Length of the chunk in bytes.
        len: u32,
        /// CRC of the chunk, which is one block.
        crc: Crc,
        /// The segment.
        segment: SegmentId,
        /// Where its head is in the segment.
        at: u32,
    },
}

impl Entry {
    /// Length of the chunk in bytes.
    pub fn len(&self) -> u32 {
        match self {
            Entry::File { len, .. } | Entry::Small { len, .. } => *len,
        }
    }

    /// CRC of the chunk.
    pub fn crc(&self) -> Crc {
        match self {
            Entry::File { crc, .. } | Entry::Small { crc, .. } => *crc,
        }
    }

    /// The value in the index.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode_record(VERSION, self)
    }

    /// From a value of the index.
    pub fn decode(bytes: &[u8]) -> Result<Entry> {
        let (entry, _): (Entry, usize) =
            codec::decode_record("entry of a disk's index", VERSION, bytes)?;
        let valid = match &entry {
            Entry::File {
                len, cuts, blocks, ..
            } => cuts_are_valid(cuts, *len) && blocks.len() == (*len as usize).div_ceil(BLOCK_LEN),
            Entry::Small { len, .. } => *len as usize <= SMALL_CHUNK_LEN_MAX,
        };
        valid
            .then_some(entry)
            .ok_or_else(|| Error::malformed("an entry of a disk's index contradicts itself"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let file = Entry::File {
            len: 70_000,
            crc: Crc(5),
            cuts: vec![100],
            blocks: vec![Crc(1), Crc(2)],
        };
        let bytes = file.encode();
        assert_eq!(bytes, [1, 0, 252, 0x70, 0x11, 1, 0, 5, 1, 100, 2, 1, 2]);
        assert_eq!(Entry::decode(&bytes).unwrap(), file);
        let small = Entry::Small {
            len: 9,
            crc: Crc(5),
            segment: SegmentId(3),
            at: 8192,
        };
        let bytes = small.encode();
        assert_eq!(bytes, [1, 1, 9, 5, 3, 251, 0, 32]);
        assert_eq!(Entry::decode(&bytes).unwrap(), small);
    }

    #[test]
    fn entries_that_contradict_themselves_are_refused() {
        let file = Entry::File {
            len: 70_000,
            crc: Crc(5),
            cuts: vec![],
            blocks: vec![Crc(1)],
        };
        assert!(Entry::decode(&file.encode()).is_err());
        let small = Entry::Small {
            len: 1 << 20,
            crc: Crc(5),
            segment: SegmentId(3),
            at: 8192,
        };
        assert!(Entry::decode(&small.encode()).is_err());
    }
}
