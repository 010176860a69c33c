//! Frames of bulk streams, byte by byte (all integers little-endian):
//!
//! ```text
//! kind u8 | a u32 | b u32 | …
//! Data  1 | offset in the chunk | len 1..=1 MiB | one CRC u32 per block touched | len bytes
//! Flush 2 | length of the chunk so far | CRC of all of it
//! Seal  3 | length of the chunk | CRC of all of it
//! ```
//!
//! Blocks are the 64 KiB-aligned pieces of the *chunk*: a frame that starts or ends within a block
//! carries the CRC of its part of it.

use crate::checksum::Crc;
use crate::error::{Code, Error, Result};
use crate::limits::{BLOCK_LEN, CHUNK_LEN_MAX, FRAME_LEN_MAX};
use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of every frame's head.
pub const HEAD_LEN: usize = 9;

/// CRCs of one frame at most: an unaligned frame of full length touches one block more.
pub const CRCS_MAX: usize = FRAME_LEN_MAX / BLOCK_LEN + 1;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// `crcs_of(offset, len)` CRCs and `len` bytes follow.
    Data {
        /// The first byte's place in the chunk.
        offset: u32,
        /// Bytes.
        len: u32,
    },
    /// Make everything so far durable.
    Flush {
        /// The length of the chunk so far.
        len: u32,
        /// The CRC of all of it.
        crc: Crc,
    },
    /// The same, and the chunk is complete.
    Seal {
        /// The length of the chunk.
        len: u32,
        /// The CRC of all of it.
        crc: Crc,
    },
}

/// Blocks touched by `len` bytes at `offset` of a chunk.
pub fn crcs_of(offset: u32, len: u32) -> usize {
    let block = BLOCK_LEN as u32;
    ((offset % block + len).div_ceil(block)) as usize
}

/// The lengths of the parts into which block boundaries cut `len` bytes at `offset`.
pub fn parts(offset: u32, len: u32) -> impl Iterator<Item = usize> {
    let first = (BLOCK_LEN as u32 - offset % BLOCK_LEN as u32).min(len);
    let (first, len) = (first as usize, len as usize);
    std::iter::once(first)
        .chain(
            (first..len)
                .step_by(BLOCK_LEN)
                .map(move |at| BLOCK_LEN.min(len - at)),
        )
        .filter(|len| *len > 0)
}

impl Head {
    /// Nine bytes.
    pub fn encode(self) -> [u8; HEAD_LEN] {
        let (kind, a, b) = match self {
            Head::Data { offset, len } => (1, offset, len),
            Head::Flush { len, crc } => (2, len, crc.0),
            Head::Seal { len, crc } => (3, len, crc.0),
        };
        let mut bytes = [kind; HEAD_LEN];
        bytes[1..5].copy_from_slice(&a.to_le_bytes());
        bytes[5..].copy_from_slice(&b.to_le_bytes());
        bytes
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn decode(bytes: &[u8; HEAD_LEN]) -> Result<Head> {
        let [kind, a0, a1, a2, a3, b0, b1, b2, b3] = *bytes;
        let (a, b) = (
            u32::from_le_bytes([a0, a1, a2, a3]),
            u32::from_le_bytes([b0, b1, b2, b3]),
        );
        let refuse = |what: &str| {
            Err(Error::malformed(format!(
                "a frame {what} ({kind}, {a}, {b})"
            )))
        };
        match kind {
            1 if b == 0 || b as usize > FRAME_LEN_MAX => refuse("of impossible length"),
            1 if a > CHUNK_LEN_MAX || a + b > CHUNK_LEN_MAX => refuse("beyond the longest chunk"),
            1 => Ok(Head::Data { offset: a, len: b }),
            2 | 3 if a > CHUNK_LEN_MAX => refuse("beyond the longest chunk"),
            2 => Ok(Head::Flush {
                len: a,
                crc: Crc(b),
            }),
            3 => Ok(Head::Seal {
                len: a,
                crc: Crc(b),
            }),
            _ => refuse("of unknown kind"),
        }
    }
}

/// The head and CRCs of a data frame; the data follows on the stream.
pub fn data_prefix(offset: u32, len: u32, crcs: &[Crc]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEAD_LEN + 4 * crcs.len());
    bytes.put_slice(&Head::Data { offset, len }.encode());
    crcs.iter().for_each(|crc| bytes.put_u32_le(crc.0));
    bytes.freeze()
}

/// Reads the CRCs that follow a data frame's head.
pub fn decode_crcs(bytes: &[u8]) -> Vec<Crc> {
    bytes
        .chunks_exact(4)
        .map(|four| Crc(u32::from_le_bytes([four[0], four[1], four[2], four[3]])))
        .collect()
}

/// The CRCs of `pieces`, which together lie at `offset` of a chunk, one per block touched.
pub fn compute_crcs(offset: u32, pieces: &[Bytes]) -> Vec<Crc> {
    let len: usize = pieces.iter().map(Bytes::len).sum();
    let mut crcs = Vec::with_capacity(CRCS_MAX);
    let mut pieces = pieces.iter().map(|piece| &piece[..]);
    let mut rest: &[u8] = &[];
    for part_len in parts(offset, len as u32) {
        let mut hasher = crc32fast::Hasher::new();
        let mut left = part_len;
        while left > 0 {
            if rest.is_empty() {
                rest = pieces.next().unwrap_or_default();
                continue;
            }
            let (now, later) = rest.split_at(left.min(rest.len()));
            hasher.update(now);
            left -= now.len();
            rest = later;
        }
        crcs.push(Crc(hasher.finalize()));
    }
    crcs
}

/// Checks data against its CRCs.
///
/// # Errors
/// `DamagedOnTheWay`, naming the block.
pub fn check_crcs(offset: u32, pieces: &[Bytes], crcs: &[Crc]) -> Result<()> {
    let computed = compute_crcs(offset, pieces);
    if computed == crcs {
        return Ok(());
    }
    let bad = computed
        .iter()
        .zip(crcs)
        .position(|(ours, theirs)| ours != theirs)
        .unwrap_or(crcs.len());
    let block = offset as usize / BLOCK_LEN + bad;
    Err(Error::new(
        Code::DamagedOnTheWay,
        format!("block {block} of the chunk does not match its checksum"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_have_golden_bytes() {
        let golden = [
            (
                Head::Data {
                    offset: 0x0010_0000,
                    len: 0x0002_0001,
                },
                [1, 0, 0, 0x10, 0, 1, 0, 2, 0],
            ),
            (
                Head::Flush {
                    len: 5,
                    crc: Crc(0x0403_0201),
                },
                [2, 5, 0, 0, 0, 1, 2, 3, 4],
            ),
            (
                Head::Seal {
                    len: 6,
                    crc: Crc(0xffff_fffe),
                },
                [3, 6, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff],
            ),
        ];
        for (head, bytes) in golden {
            assert_eq!(head.encode(), bytes);
            assert_eq!(Head::decode(&bytes), Ok(head));
        }
    }

    #[test]
    fn impossible_heads_are_refused() {
        for (kind, a, b) in [
            (0, 0, 0),
            (4, 0, 1),
            (1, 0, 0),
            (1, 0, (1 << 20) + 1),
            (1, u32::MAX, 1),
            (1, 64 << 20, 1),
            (2, u32::MAX, 0),
            (3, (64 << 20) + 1, 0),
        ] {
            let mut bytes = [kind; HEAD_LEN];
            bytes[1..5].copy_from_slice(&u32::to_le_bytes(a));
            bytes[5..].copy_from_slice(&u32::to_le_bytes(b));
            assert!(Head::decode(&bytes).is_err(), "{kind} {a} {b}");
        }
    }

    #[test]
    fn parts_follow_the_blocks_of_the_chunk() {
        let block = BLOCK_LEN as u32;
        assert_eq!(parts(0, 1).collect::<Vec<_>>(), [1]);
        assert_eq!(parts(block - 1, 2).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(
            parts(10, 2 * block).collect::<Vec<_>>(),
            [BLOCK_LEN - 10, BLOCK_LEN, 10]
        );
        for (offset, len) in [
            (0, block),
            (1, block),
            (block - 1, 1),
            (5, 3 * block),
            (0, 0),
        ] {
            assert_eq!(parts(offset, len).count(), crcs_of(offset, len));
            assert_eq!(parts(offset, len).sum::<usize>(), len as usize);
        }
    }

    #[test]
    fn a_flipped_bit_is_found_whatever_the_pieces() {
        let data: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let whole = Bytes::from(data.clone());
        let crcs = compute_crcs(100, std::slice::from_ref(&whole));
        let pieces = [
            whole.slice(..7),
            whole.slice(7..70_000),
            Bytes::new(),
            whole.slice(70_000..),
        ];
        assert_eq!(check_crcs(100, &pieces, &crcs), Ok(()));
        let mut bad = data;
        bad[150_000] ^= 4;
        let error = check_crcs(100, &[Bytes::from(bad)], &crcs).unwrap_err();
        assert!(error.text.contains("block 2 "), "{error}");
    }
}
