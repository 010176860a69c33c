//! The records of the Raft log on disk.
//!
//! An entry: version byte 1; CRC-32 (little-endian) of its index (eight bytes, big-endian) and
//! of the body; the body, an encoded `openraft::Entry`. The index in the checksum shows an
//! entry that stands in another's place.

use crate::raft::types::LogEntry;
use quarry_common::checksum::Crc;
use quarry_common::{Code, Error, Result, codec};

const VERSION: u8 = 1;
const HEAD_LEN: usize = 5;

/// The key of an entry: its index, big-endian.
pub(super) fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

pub(super) fn encode(entry: &LogEntry) -> Vec<u8> {
    let body = codec::encode(entry);
    let crc = Crc::of_pieces([&key(entry.log_id.index)[..], &body]);
    let mut bytes = Vec::with_capacity(HEAD_LEN + body.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&crc.0.to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// Reads the entry at `key`; what does not match its checksum or place is damaged.
pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Result<LogEntry> {
    let Ok(place) = <[u8; 8]>::try_from(key) else {
        return Err(damaged(format!("a key of {} bytes", key.len())));
    };
    let index = u64::from_be_bytes(place);
    match bytes.first() {
        Some(&VERSION) => {}
        Some(version) if *version > VERSION => {
            return Err(Error::new(
                Code::TooNew,
                format!(
                    "entry {index} has format {version}, this program knows {VERSION}: use a newer quarry"
                ),
            ));
        }
        Some(found) => return Err(damaged(format!("entry {index} begins with {found}"))),
        None => return Err(damaged(format!("entry {index} is empty"))),
    }
    let Some((head, body)) = bytes.split_first_chunk::<HEAD_LEN>() else {
        return Err(damaged(format!(
            "entry {index} has only {} bytes",
            bytes.len()
        )));
    };
    let crc = Crc(u32::from_le_bytes([head[1], head[2], head[3], head[4]]));
    if crc != Crc::of_pieces([key, body]) {
        return Err(damaged(format!(
            "entry {index} does not match its checksum"
        )));
    }
    let entry: LogEntry = codec::decode(&format!("entry {index}"), body)?;
    if entry.log_id.index != index {
        return Err(damaged(format!(
            "entry {} stands at {index}",
            entry.log_id.index
        )));
    }
    Ok(entry)
}

pub(super) fn damaged(what: String) -> Error {
    Error::new(Code::ChecksumMismatch, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::golden::{TWO_MEMBERS, two_members};
    use bytes::Bytes;
    use openraft::{CommittedLeaderId, EntryPayload};

    fn entry(index: u64) -> LogEntry {
        let log_id = openraft::LogId::new(CommittedLeaderId::new(3, 1), index);
        LogEntry {
            log_id,
            payload: EntryPayload::Normal(Bytes::from_static(b"set")),
        }
    }

    #[test]
    fn the_bytes_of_an_entry_stay_as_they_were_shipped() {
        let golden = [
            1, // version
            0xe3, 0x60, 0xa7, 0x8b, // CRC-32 of index and body
            3, 1, 7, // term, node, index
            1, 3, b's', b'e', b't', // a proposal of three bytes
        ];
        assert_eq!(encode(&entry(7)), golden);
        let with = |payload| {
            let log_id = entry(7).log_id;
            encode(&LogEntry { log_id, payload }).split_off(HEAD_LEN)
        };
        assert_eq!(with(EntryPayload::Blank), [3, 1, 7, 0]);
        let members = EntryPayload::Membership(two_members());
        assert_eq!(with(members), [&[3, 1, 7, 2][..], &TWO_MEMBERS].concat());
    }

    #[test]
    fn any_flipped_bit_and_another_place_are_refused() {
        let bytes = encode(&entry(7));
        assert_eq!(decode(&key(7), &bytes).unwrap(), entry(7));
        assert!(decode(&key(8), &bytes).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&key(7), &damaged).is_err(), "bit {bit}");
        }
        assert!(decode(&key(7), &bytes[..3]).is_err());
        assert!(decode(&key(7), &[]).is_err());
    }
}
