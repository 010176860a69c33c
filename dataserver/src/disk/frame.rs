//! The envelope of every small record of a disk: what it is, its format, its length, its checksum.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..4 | magic: which kind of record |
//! | 4 | format version |
//! | 5..8 | zero |
//! | 8..12 | length of the body, little-endian |
//! | 12.. | body (bincode, see `quarry_common::codec`) |
//! | after it | CRC-32 of everything before, little-endian |

use quarry_common::checksum::Crc;
use quarry_common::{Code, Error, Result, codec};
use serde::{Serialize, de::DeserializeOwned};

/// Bytes before the body.
const HEAD_LEN: usize = 12;
/// Bytes around the body.
pub const OVERHEAD_LEN: usize = HEAD_LEN + 4;

/// A kind of record: its magic, the version that this program writes and knows, its name in errors.
pub struct Kind {
    /// The first four bytes.
    pub magic: [u8; 4],
    /// The format version.
    pub version: u8,
    /// What a person calls it.
    pub name: &'static str,
    /// A body is at most this long; checked before anything is read or allocated.
    pub body_len_max: usize,
}

/// Encodes `body` in its envelope.
pub fn encode<T: Serialize>(kind: &Kind, body: &T) -> Vec<u8> {
    let body = codec::encode(body);
    let mut bytes = Vec::with_capacity(OVERHEAD_LEN + body.len());
    bytes.extend_from_slice(&kind.magic);
    bytes.extend_from_slice(&[kind.version, 0, 0, 0]);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&body);
    let crc = Crc::of(&bytes);
    bytes.extend_from_slice(&crc.0.to_le_bytes());
    bytes
}

/// Decodes a record at the start of `bytes`; what follows it is padding. The envelope is the same in every format.
///
/// Errors: `TooNew` with both versions; `ChecksumMismatch` for everything that is no such record.
pub fn decode<T: DeserializeOwned>(kind: &Kind, bytes: &[u8]) -> Result<T> {
    let damaged = |why: &str| Error::new(Code::ChecksumMismatch, format!("{}: {why}", kind.name));
    let head = bytes.get(..HEAD_LEN).ok_or_else(|| damaged("too short"))?;
    if head[..4] != kind.magic {
        return Err(damaged("not there, or its first bytes are damaged"));
    }
    let is_newer = head[4] > kind.version;
    let body_len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    // A newer format may have more; either way nothing is read beyond `bytes`.
    if body_len > kind.body_len_max && !is_newer {
        return Err(damaged("its length is impossible"));
    }
    let covered = bytes
        .get(..HEAD_LEN + body_len)
        .ok_or_else(|| damaged("cut short"))?;
    let stored = bytes
        .get(covered.len()..covered.len() + 4)
        .and_then(|stored| stored.try_into().ok())
        .ok_or_else(|| damaged("cut short"))?;
    // Before the version is believed: a damaged byte is no reason to use a newer program.
    if Crc::of(covered) != Crc(u32::from_le_bytes(stored)) {
        return Err(damaged("its checksum is wrong"));
    }
    if is_newer {
        return Err(Error::new(
            Code::TooNew,
            format!(
                "the {} has format {}, this program knows up to {}: use a newer quarry",
                kind.name, head[4], kind.version
            ),
        ));
    }
    if head[4] != kind.version || head[5..8] != [0; 3] {
        return Err(damaged("its format is none"));
    }
    codec::decode(kind.name, &covered[HEAD_LEN..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind {
        magic: *b"QTST",
        version: 2,
        name: "test record",
        body_len_max: 100,
    };

    #[test]
    fn golden_bytes() {
        let bytes = encode(&KIND, &(7u8, 300u32));
        #[rustfmt::skip]
        let golden = [
            b'Q', b'T', b'S', b'T', // magic
            2, 0, 0, 0,             // version
            4, 0, 0, 0,             // length of the body
            7, 251, 44, 1,          // body
        ];
        assert_eq!(bytes[..16], golden);
        assert_eq!(bytes[16..], Crc::of(&golden).0.to_le_bytes());
        assert_eq!(decode::<(u8, u32)>(&KIND, &bytes).unwrap(), (7, 300));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encode(&KIND, &(7u8, 300u32));
        for len in 0..bytes.len() {
            assert!(
                decode::<(u8, u32)>(&KIND, &bytes[..len]).is_err(),
                "cut at {len}"
            );
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<(u8, u32)>(&KIND, &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_damaged_version_is_no_newer_format() {
        let mut bytes = encode(&KIND, &1u8);
        bytes[4] = 9;
        let error = decode::<u8>(&KIND, &bytes).unwrap_err();
        assert_eq!(error.code, Code::ChecksumMismatch);
    }

    #[test]
    fn a_newer_format_is_refused_with_both_numbers() {
        let newer = Kind {
            version: 9,
            body_len_max: 1_000,
            ..KIND
        };
        let bytes = encode(&newer, &vec![1u8; 500]);
        let error = decode::<u8>(&KIND, &bytes).unwrap_err();
        assert_eq!(error.code, Code::TooNew);
        assert!(
            error.text.contains("format 9") && error.text.contains("up to 2"),
            "{error}"
        );
    }
}
