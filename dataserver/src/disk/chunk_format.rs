//! The records of a chunk file: header, flush records, footer.
//!
//! | at | what |
//! | --- | --- |
//! | 0 | header, one sector |
//! | 1..=15 sectors | flush records, each in a sector of its own and written once; unused ones are holes |
//! | 64 KiB | data, see [`super::layout`] |
//! | first sector after the data | footer: its record, zeros, and in the last 16 bytes of the file the trailer |
//!
//! Each record carries the identity of the chunk and of the disk: a file that was copied, renamed or
//! swapped is recognised. The trailer says how long the footer's record is, so that a sealed chunk is
//! recognised by the end of its file.

use super::frame::{self, Kind};
use super::layout::{SECTOR_LEN, cuts_are_valid};
use quarry_common::checksum::Crc;
use quarry_common::ids::{ChunkId, ClusterId, DiskId, PoolId};
use quarry_common::limits::{BLOCK_LEN, CHUNK_LEN_MAX, FLUSHES_MAX};
use quarry_common::{Code, Error, Result};
use serde::{Deserialize, Serialize};

/// Which chunk, on which disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The disk.
    pub disk: DiskId,
    /// The pool of the chunk.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
}

/// The first sector: what the file was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Whose bytes these are.
    pub owner: Owner,
    /// The chunk grows to at most this many bytes.
    pub capacity: u32,
}

/// That a prefix of the chunk is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushRecord {
    /// Whose bytes these are.
    pub owner: Owner,
    /// Which flush, from 0: the record stands in sector 1 + `sequence`.
    pub sequence: u32,
    /// Length of the prefix in bytes.
    pub len: u32,
    /// CRC of the prefix.
    pub crc: Crc,
    /// Cuts of the file up to and including this flush (see [`super::layout`]).
    pub cuts: Vec<u32>,
}

/// That the chunk is sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// Whose bytes these are.
    pub owner: Owner,
    /// Length of the chunk in bytes.
    pub len: u32,
    /// CRC of the whole chunk.
    pub crc: Crc,
    /// Cuts of the file.
    pub cuts: Vec<u32>,
    /// CRC of each block of 64 KiB.
    pub blocks: Vec<Crc>,
}

const HEADER: Kind = Kind {
    magic: *b"QCHd",
    version: 1,
    name: "header of a chunk file",
    body_len_max: SECTOR_LEN - frame::OVERHEAD_LEN,
};
const FLUSH: Kind = Kind {
    magic: *b"QCFl",
    version: 1,
    name: "flush record of a chunk file",
    body_len_max: SECTOR_LEN - frame::OVERHEAD_LEN,
};
const FOOTER: Kind = Kind {
    magic: *b"QCFt",
    version: 1,
    name: "footer of a chunk file",
    body_len_max: FOOTER_LEN_MAX - frame::OVERHEAD_LEN - TRAILER_LEN,
};
const TRAILER_MAGIC: [u8; 4] = *b"QCTr";
const TRAILER_VERSION: u8 = 1;
const TRAILER_LEN: usize = 16;

/// A footer is at most this long: 1,024 CRCs of at most five bytes and the rest, in whole sectors.
pub const FOOTER_LEN_MAX: usize = 8192;

const _: () = assert!(
    (CHUNK_LEN_MAX as usize / BLOCK_LEN) * 5
        + FLUSHES_MAX as usize * 5
        + 64
        + frame::OVERHEAD_LEN
        + TRAILER_LEN
        <= FOOTER_LEN_MAX
);

impl Header {
    /// The record, to be padded to a sector.
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(&HEADER, self)
    }

    /// From the first sector of a file.
    pub fn decode(sector: &[u8]) -> Result<Header> {
        frame::decode(&HEADER, sector)
    }
}

impl FlushRecord {
    /// The record, to be padded to a sector.
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(&FLUSH, self)
    }

    /// From a sector; a record that contradicts itself is refused.
    pub fn decode(sector: &[u8]) -> Result<FlushRecord> {
        let record: FlushRecord = frame::decode(&FLUSH, sector)?;
        if record.sequence >= FLUSHES_MAX || !cuts_are_valid(&record.cuts, record.len) {
            return Err(contradiction(FLUSH.name));
        }
        Ok(record)
    }
}

impl Footer {
    /// The footer with its trailer, a whole number of sectors.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = frame::encode(&FOOTER, self);
        let record_len = bytes.len() as u32;
        bytes.resize(
            (bytes.len() + TRAILER_LEN).next_multiple_of(SECTOR_LEN) - TRAILER_LEN,
            0,
        );
        let mut trailer = [0; TRAILER_LEN];
        trailer[..4].copy_from_slice(&TRAILER_MAGIC);
        trailer[4] = TRAILER_VERSION;
        trailer[8..12].copy_from_slice(&record_len.to_le_bytes());
        let crc = Crc::of(&trailer[..12]);
        trailer[12..].copy_from_slice(&crc.0.to_le_bytes());
        bytes.extend_from_slice(&trailer);
        bytes
    }

    /// From the last [`FOOTER_LEN_MAX`] bytes of a file (fewer if it is shorter); with how many bytes
    /// at the end of the file are the footer's.
    pub fn decode_end(end: &[u8]) -> Result<(Footer, usize)> {
        let damaged = || {
            Error::new(
                Code::ChecksumMismatch,
                "the trailer of a chunk file is not there or is damaged",
            )
        };
        let trailer = end.last_chunk::<TRAILER_LEN>().ok_or_else(damaged)?;
        let crc = Crc(u32::from_le_bytes([
            trailer[12],
            trailer[13],
            trailer[14],
            trailer[15],
        ]));
        if trailer[..4] != TRAILER_MAGIC || Crc::of(&trailer[..12]) != crc {
            return Err(damaged());
        }
        if trailer[4] != TRAILER_VERSION {
            return Err(Error::new(
                Code::TooNew,
                format!(
                    "a chunk file has format {}, this program knows {TRAILER_VERSION}: use a newer quarry",
                    trailer[4]
                ),
            ));
        }
        let record_len =
            u32::from_le_bytes([trailer[8], trailer[9], trailer[10], trailer[11]]) as usize;
        if record_len > FOOTER_LEN_MAX - TRAILER_LEN {
            return Err(damaged());
        }
        let footer_len = (record_len + TRAILER_LEN).next_multiple_of(SECTOR_LEN);
        let start = end.len().checked_sub(footer_len).ok_or_else(damaged)?;
        let footer: Footer = frame::decode(&FOOTER, &end[start..start + record_len])?;
        if !cuts_are_valid(&footer.cuts, footer.len)
            || footer.blocks.len() != (footer.len as usize).div_ceil(BLOCK_LEN)
        {
            return Err(contradiction(FOOTER.name));
        }
        Ok((footer, footer_len))
    }

    /// Whether a file that ends so was sealed once, even if its footer can not be decoded any more.
    pub fn is_hinted(end: &[u8]) -> bool {
        end.last_chunk::<TRAILER_LEN>().is_some_and(|trailer| {
            // Either of two far-apart traces is enough, so that one damaged place does not hide both.
            trailer[..4] == TRAILER_MAGIC
        }) || end
            .chunks_exact(SECTOR_LEN)
            .any(|sector| sector[..4] == FOOTER.magic)
    }
}

fn contradiction(name: &str) -> Error {
    Error::new(
        Code::ChecksumMismatch,
        format!("the {name} contradicts itself"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owner() -> Owner {
        Owner {
            cluster: ClusterId(*b"0123456789abcdef"),
            disk: DiskId(3),
            pool: PoolId(1),
            chunk: ChunkId(0x4_0000_0007),
        }
    }

    fn footer() -> Footer {
        Footer {
            owner: owner(),
            len: 70_000,
            crc: Crc(0x01020304),
            cuts: vec![100],
            blocks: vec![Crc(1), Crc(0xffff_ffff)],
        }
    }

    fn flush() -> FlushRecord {
        FlushRecord {
            owner: owner(),
            sequence: 2,
            len: 5000,
            crc: Crc(9),
            cuts: vec![100, 5000],
        }
    }

    #[test]
    fn golden_bytes() {
        #[rustfmt::skip]
        let owner_bytes = [
            b'0', b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'8', b'9', b'a', b'b', b'c', b'd', b'e', b'f', // cluster
            3,                            // disk
            1,                            // pool
            253, 7, 0, 0, 0, 4, 0, 0, 0,  // chunk
        ];
        let header = Header {
            owner: owner(),
            capacity: 64 << 20,
        }
        .encode();
        assert_eq!(
            header[..12],
            [b'Q', b'C', b'H', b'd', 1, 0, 0, 0, 32, 0, 0, 0]
        );
        assert_eq!(header[12..39], owner_bytes);
        assert_eq!(header[39..44], [252, 0, 0, 0, 4]);
        assert_eq!(header.len(), 48);

        let record = flush().encode();
        assert_eq!(record[..5], [b'Q', b'C', b'F', b'l', 1]);
        assert_eq!(record[12..39], owner_bytes);
        assert_eq!(
            record[39..record.len() - 4],
            [2, 251, 136, 19, 9, 2, 100, 251, 136, 19]
        );

        let bytes = footer().encode();
        assert_eq!(bytes.len(), SECTOR_LEN);
        assert_eq!(bytes[..5], [b'Q', b'C', b'F', b't', 1]);
        assert_eq!(bytes[12..39], owner_bytes);
        #[rustfmt::skip]
        assert_eq!(bytes[39..58], [
            252, 0x70, 0x11, 1, 0,          // length
            252, 4, 3, 2, 1,                // CRC
            1, 100,                         // cuts
            2, 1, 252, 255, 255, 255, 255,  // CRCs of the blocks
        ]);
        assert_eq!(
            bytes[SECTOR_LEN - 16..SECTOR_LEN - 4],
            [b'Q', b'C', b'T', b'r', 1, 0, 0, 0, 62, 0, 0, 0]
        );
    }

    #[test]
    fn records_read_back() {
        let header = Header {
            owner: owner(),
            capacity: 5,
        };
        assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        assert_eq!(FlushRecord::decode(&flush().encode()).unwrap(), flush());
        assert_eq!(
            Footer::decode_end(&footer().encode()).unwrap(),
            (footer(), SECTOR_LEN)
        );
    }

    #[test]
    fn the_largest_footer_fits() {
        let blocks = vec![Crc(u32::MAX); CHUNK_LEN_MAX as usize / BLOCK_LEN];
        let cuts = (0..15).map(|i| CHUNK_LEN_MAX - 100 + i).collect();
        let largest = Footer {
            owner: Owner {
                chunk: ChunkId(u64::MAX),
                disk: DiskId(u32::MAX),
                pool: PoolId(u16::MAX),
                ..owner()
            },
            len: CHUNK_LEN_MAX,
            crc: Crc(u32::MAX),
            cuts,
            blocks,
        };
        let bytes = largest.encode();
        assert_eq!(bytes.len(), FOOTER_LEN_MAX);
        assert_eq!(Footer::decode_end(&bytes).unwrap().0, largest);
    }

    #[test]
    fn every_flipped_bit_of_a_footer_is_noticed_or_harmless() {
        let bytes = footer().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok((decoded, _)) = Footer::decode_end(&flipped) {
                assert_eq!(decoded, footer(), "bit {bit}");
            }
            assert!(
                Footer::is_hinted(&flipped),
                "bit {bit} hid that the chunk was sealed"
            );
        }
    }

    #[test]
    fn records_that_contradict_themselves_are_refused() {
        assert!(FlushRecord::decode(&FlushRecord { len: 99, ..flush() }.encode()).is_err());
        assert!(
            FlushRecord::decode(
                &FlushRecord {
                    sequence: 15,
                    ..flush()
                }
                .encode()
            )
            .is_err()
        );
        assert!(
            Footer::decode_end(
                &Footer {
                    blocks: vec![],
                    ..footer()
                }
                .encode()
            )
            .is_err()
        );
        assert!(
            Footer::decode_end(
                &Footer {
                    len: u32::MAX,
                    ..footer()
                }
                .encode()
            )
            .is_err()
        );
    }

    proptest! {
        #[test]
        fn mutated_records_never_panic(places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
            for golden in [footer().encode(), flush().encode(), Header { owner: owner(), capacity: 5 }.encode()] {
                let mut bytes = golden.clone();
                for (at, value) in &places {
                    let at = at.index(bytes.len());
                    bytes[at] = *value;
                }
                bytes.truncate(cut.index(bytes.len() + 1));
                // Only that these return; what they return is checked above.
                let _ = (Footer::decode_end(&bytes).is_ok(), FlushRecord::decode(&bytes).is_ok(), Header::decode(&bytes).is_ok(), Footer::is_hinted(&bytes));
            }
        }
    }
}
