//! How messages and records become bytes.
//!
//! Messages on the wire are bincode (variable-length integers, little-endian) of the types in
//! [`crate::wire`]. Records on disk have a format version byte before the same encoding: none of
//! bincode's kind evolves schemas, so a changed record is a new version.

use crate::error::{Code, Error, Result};
use crate::limits::MESSAGE_LEN_MAX;
use serde::{Serialize, de::DeserializeOwned};

/// The limit makes bincode refuse a length before it allocates for it.
fn configuration() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<{ 4 * MESSAGE_LEN_MAX }>()
}

/// Encodes a message.
///
/// # Panics
/// Never for the types of this crate: they have no unsized sequences or foreign errors.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, configuration()).expect("our own types can be encoded")
}

/// Decodes a message that must fill `bytes` exactly; `what` names it in the error.
pub fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    let (value, len) = bincode::serde::decode_from_slice(bytes, configuration())
        .map_err(|error| Error::malformed(format!("{what} can not be decoded: {error}")))?;
    if len != bytes.len() {
        return Err(Error::malformed(format!(
            "{what} has {} bytes too many",
            bytes.len() - len
        )));
    }
    Ok(value)
}

/// Encodes a record with its format version in the first byte.
pub fn encode_record<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(version);
    bincode::serde::encode_into_std_write(value, &mut bytes, configuration())
        .expect("our own types can be encoded");
    bytes
}

/// Decodes a record of one known format version and returns it with the bytes that follow it:
/// fields that a later revision of the same version appended, to be preserved when it is written.
pub fn decode_record<T: DeserializeOwned>(
    what: &str,
    version: u8,
    bytes: &[u8],
) -> Result<(T, usize)> {
    match bytes.first() {
        Some(found) if *found == version => {}
        Some(found) if *found > version => {
            return Err(Error::new(
                Code::TooNew,
                format!(
                    "{what} has format {found}, this program knows {version}: use a newer quarry"
                ),
            ));
        }
        Some(found) => {
            return Err(Error::malformed(format!(
                "{what} has format {found}, this program knows {version}: an older quarry wrote it; read the files with that one \
                 and put them into a new cluster"
            )));
        }
        None => return Err(Error::malformed(format!("{what} is empty"))),
    }
    let (value, len) = bincode::serde::decode_from_slice(&bytes[1..], configuration())
        .map_err(|error| Error::malformed(format!("{what} can not be decoded: {error}")))?;
    Ok((value, 1 + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_allocated() {
        let mut bytes = vec![253];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode::<Vec<u8>>("list", &bytes).is_err());
    }

    /// All formats are made of these.
    #[test]
    fn golden_bytes() {
        let number = |number: u64, golden: &[u8]| {
            assert_eq!(encode(&number), golden);
            assert_eq!(decode("it", golden), Ok(number));
        };
        number(250, &[250]);
        number(251, &[251, 251, 0]);
        number(0x102, &[251, 2, 1]);
        number(0x0102_0304, &[252, 4, 3, 2, 1]);
        number(0x0102_0304_0506_0708, &[253, 8, 7, 6, 5, 4, 3, 2, 1]);
        let long = [&[254][..], &[0; 15], &[1]].concat();
        assert_eq!(encode(&(1u128 << 120)), long);
        for (signed, zigzag) in [(0i64, 0u64), (-1, 1), (1, 2), (-126, 251)] {
            assert_eq!(encode(&signed), encode(&zigzag), "{signed}");
        }
        assert_eq!(encode(&(255u8, true, false)), [255, 1, 0]);
        assert_eq!(encode(&(Some(7u32), None::<u32>)), [1, 7, 0]);
        assert_eq!(encode(&("ab", vec![3u16, 4])), [2, b'a', b'b', 2, 3, 4]);
        assert_eq!(encode(&[5u8, 6]), [5, 6]);
        assert_eq!(encode(&Err::<(), u8>(9)), [1, 9]);
        let map = std::collections::BTreeMap::from([(2u8, 'x'), (1, 'y')]);
        assert_eq!(encode(&map), [2, 1, b'y', 2, b'x']);
        assert_eq!(encode_record(4, &300u64), [4, 251, 44, 1]);
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = encode(&7u32);
        bytes.push(0);
        assert!(
            decode::<u32>("number", &bytes)
                .unwrap_err()
                .text
                .contains("too many")
        );
    }

    #[test]
    fn a_newer_record_is_refused_with_both_numbers() {
        let bytes = encode_record(9, &1u8);
        let error = decode_record::<u8>("thing", 3, &bytes).unwrap_err();
        assert_eq!(error.code, Code::TooNew);
        assert!(error.text.contains('9') && error.text.contains('3'));
    }
}
