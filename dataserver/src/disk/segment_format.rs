//! The records of a segment: many small chunks in one append-only file.
//!
//! | at | what |
//! | --- | --- |
//! | 0 and one sector | the segment's header, twice: without its nonce no record can be told from data |
//! | 8 KiB | batches, each starting a sector and written once; zeros fill the last sector of a batch |
//!
//! A batch is records one after the other, each a [`RecordHead`] followed by its data, padded to 8 bytes.
//! A head carries the segment's random nonce: bytes of an older use of the same blocks, or a user's
//! data that looks like a record, can never be read as one.

use super::frame::{self, Kind};
use super::layout::SECTOR_LEN;
use quarry_common::Result;
use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, ClusterId, DiskId, PoolId};
use quarry_common::limits::SMALL_CHUNK_LEN_MAX;
use serde::{Deserialize, Serialize};

/// Batches start here.
pub const BATCHES_AT: u64 = 2 * SECTOR_LEN as u64;

/// A segment is closed when the next batch would pass this: large enough that there are few, small
/// enough that compaction copies little; positions in it fit 32 bits.
pub const SEGMENT_LEN_MAX: u64 = 256 << 20;

/// The name of a segment on its disk; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentId(pub u32);

/// The first sector of a segment, and the second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// The cluster.
    pub cluster: ClusterId,
    /// The disk.
    pub disk: DiskId,
    /// The segment.
    pub segment: SegmentId,
    /// Random; in each record's head.
    pub nonce: u64,
}

const HEADER: Kind = Kind {
    magic: *b"QSHd",
    version: 1,
    name: "header of a segment",
    body_len_max: SECTOR_LEN - frame::OVERHEAD_LEN,
};

impl SegmentHeader {
    /// Both copies, [`BATCHES_AT`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = frame::encode(&HEADER, self);
        bytes.resize(SECTOR_LEN, 0);
        bytes.extend_from_within(..);
        bytes
    }

    /// From the first [`BATCHES_AT`] bytes of a segment: whichever copy is whole.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader> {
        frame::decode(&HEADER, bytes).or_else(|first| {
            bytes
                .get(SECTOR_LEN..)
                .map_or(Err(first.clone()), |second| {
                    frame::decode(&HEADER, second).map_err(|_| first)
                })
        })
    }
}

const RECORD_MAGIC: [u8; 4] = *b"QSRc";
const RECORD_VERSION: u8 = 1;

/// What stands before the data of a record.
///
/// | bytes | field (integers little-endian) |
/// | --- | --- |
/// | 0..4 | magic `QSRc` |
/// | 4 | format version |
/// | 5 | zero |
/// | 6..8 | pool |
/// | 8..16 | nonce of the segment |
/// | 16..24 | chunk |
/// | 24..28 | position of this head in the segment |
/// | 28..32 | length of the data |
/// | 32..36 | CRC of the data |
/// | 36..40 | CRC of bytes 0..36 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// The pool of the chunk.
    pub pool: PoolId,
    /// The nonce of the segment.
    pub nonce: u64,
    /// The chunk.
    pub chunk: ChunkId,
    /// The position of this head in the segment.
    pub at: u32,
    /// Length of the data in bytes.
    pub len: u32,
    /// CRC of the data.
    pub crc: Crc,
}

impl RecordHead {
    /// Its length in bytes.
    pub const LEN: usize = 40;
    /// Heads start at multiples of this, so that a scan can find the next one after a damaged one.
    pub const ALIGN: usize = 8;

    /// The bytes that the head and its data take.
    pub fn record_len(&self) -> usize {
        Self::record_len_of(self.len as usize)
    }

    /// The bytes that a head and `data_len` bytes of data take.
    pub fn record_len_of(data_len: usize) -> usize {
        (Self::LEN + data_len).next_multiple_of(Self::ALIGN)
    }

    /// The bytes of the head.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&RECORD_MAGIC);
        bytes[4] = RECORD_VERSION;
        bytes[6..8].copy_from_slice(&self.pool.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.chunk.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.at.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.len.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.crc.0.to_le_bytes());
        let crc = Crc::of(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.0.to_le_bytes());
        bytes
    }

    /// The head at the start of `bytes`, if one of the segment with `nonce` that stands at `at` is
    /// there; nothing else is one.
    pub fn decode(bytes: &[u8], nonce: u64, at: u64) -> Option<RecordHead> {
        let bytes: &[u8; Self::LEN] = bytes.first_chunk()?;
        // First, since a scan asks this of every eighth byte.
        if bytes[..4] != RECORD_MAGIC {
            return None;
        }
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let head = RecordHead {
            pool: PoolId(u16::from_le_bytes([bytes[6], bytes[7]])),
            nonce: u64_at(8),
            chunk: ChunkId(u64_at(16)),
            at: u32_at(24),
            len: u32_at(28),
            crc: Crc(u32_at(32)),
        };
        let right = bytes[4] == RECORD_VERSION
            && bytes[5] == 0
            && head.nonce == nonce
            && u64::from(head.at) == at
            && head.len as usize <= SMALL_CHUNK_LEN_MAX
            && Crc::of(&bytes[..36]) == Crc(u32_at(36));
        right.then_some(head)
    }
}

impl SegmentHeader {
    /// Whether this segment is `segment` of the disk that `owner` names.
    pub fn is(&self, cluster: ClusterId, disk: DiskId, segment: SegmentId) -> bool {
        (self.cluster, self.disk, self.segment) == (cluster, disk, segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: RecordHead = RecordHead {
        pool: PoolId(2),
        nonce: 0x1122_3344_5566_7788,
        chunk: ChunkId(0x99),
        at: 8192,
        len: 5,
        crc: Crc(0xaabb_ccdd),
    };

    #[test]
    fn golden_bytes() {
        let bytes = HEAD.encode();
        #[rustfmt::skip]
        assert_eq!(bytes[..36], [
            b'Q', b'S', b'R', b'c', 1, 0,                    // magic, version
            2, 0,                                            // pool
            0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,  // nonce
            0x99, 0, 0, 0, 0, 0, 0, 0,                       // chunk
            0, 0x20, 0, 0,                                   // position
            5, 0, 0, 0,                                      // length
            0xdd, 0xcc, 0xbb, 0xaa,                          // CRC of the data
        ]);
        assert_eq!(bytes[36..], Crc::of(&bytes[..36]).0.to_le_bytes());
        let header = SegmentHeader {
            cluster: ClusterId([7; 16]),
            disk: DiskId(1),
            segment: SegmentId(5),
            nonce: 9,
        };
        let bytes = header.encode();
        #[rustfmt::skip]
        assert_eq!(bytes[..31], [
            b'Q', b'S', b'H', b'd', 1, 0, 0, 0, 19, 0, 0, 0,
            7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // cluster
            1, 5, 9,                                        // disk, segment, nonce
        ]);
        assert_eq!(bytes.len() as u64, BATCHES_AT);
    }

    #[test]
    fn a_segment_header_survives_damage_to_either_copy() {
        let header = SegmentHeader {
            cluster: ClusterId([7; 16]),
            disk: DiskId(1),
            segment: SegmentId(5),
            nonce: 9,
        };
        for at in [13, SECTOR_LEN + 13] {
            let mut bytes = header.encode();
            bytes[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&bytes).unwrap(), header);
        }
        let mut bytes = header.encode();
        bytes[13] ^= 1;
        bytes[SECTOR_LEN + 13] ^= 1;
        assert!(SegmentHeader::decode(&bytes).is_err());
    }

    #[test]
    fn a_head_of_another_use_or_place_or_with_a_flipped_bit_is_none() {
        let bytes = HEAD.encode();
        assert_eq!(RecordHead::decode(&bytes, HEAD.nonce, 8192), Some(HEAD));
        assert_eq!(RecordHead::decode(&bytes, HEAD.nonce ^ 1, 8192), None);
        assert_eq!(RecordHead::decode(&bytes, HEAD.nonce, 8200), None);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                RecordHead::decode(&flipped, HEAD.nonce, 8192),
                None,
                "bit {bit}"
            );
        }
        for len in 0..bytes.len() {
            assert_eq!(RecordHead::decode(&bytes[..len], HEAD.nonce, 8192), None);
        }
        let long = RecordHead {
            len: SMALL_CHUNK_LEN_MAX as u32 + 1,
            ..HEAD
        }
        .encode();
        assert_eq!(RecordHead::decode(&long, HEAD.nonce, 8192), None);
    }

    proptest! {
        #[test]
        fn anything_decodes_to_something_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..100), nonce: u64, at: u64) {
            let _ = (RecordHead::decode(&bytes, nonce, at), SegmentHeader::decode(&bytes).is_ok());
        }
    }
}
