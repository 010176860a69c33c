//! Bytes that need not be kept to be compared: they follow from a seed.

use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::hash::{DefaultHasher, Hash, Hasher};

/// What a file consists of: bytes of a seed, and what was written over them later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    len: usize,
    seed: u64,
    patches: Vec<Patch>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Patch {
    offset: usize,
    len: usize,
    seed: u64,
}

/// The bytes of a seed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// A number that is another one for other bytes, but for one case in 2^64.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// How bytes differ from those that should be there; `None` if they do not.
pub fn difference(expected: &[u8], found: &[u8]) -> Option<String> {
    let place = expected
        .iter()
        .zip(found)
        .position(|(expected, found)| expected != found);
    match place {
        Some(place) => {
            let differing = expected
                .iter()
                .zip(found)
                .filter(|(expected, found)| expected != found);
            Some(format!(
                "{} of {} bytes are others, the first at {place}, and {} should be there",
                differing.count(),
                found.len(),
                expected.len()
            ))
        }
        None if expected.len() != found.len() => Some(format!(
            "{} bytes are there, {} should be",
            found.len(),
            expected.len()
        )),
        None => None,
    }
}

impl Content {
    /// So many bytes of a seed.
    pub fn new(seed: u64, len: usize) -> Content {
        Content {
            len,
            seed,
            patches: Vec::new(),
        }
    }

    /// The same with bytes of another seed over a part.
    pub fn patched(&self, offset: usize, len: usize, seed: u64) -> Content {
        let mut patched = self.clone();
        patched.patches.push(Patch { offset, len, seed });
        patched
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        let ends = self.patches.iter().map(|patch| patch.offset + patch.len);
        ends.fold(self.len, usize::max)
    }

    /// The bytes.
    pub fn render(&self) -> Vec<u8> {
        // More bytes of a seed do not begin with the same ones.
        let mut all = bytes(self.seed, self.len);
        all.resize(self.len(), 0);
        for patch in &self.patches {
            let range = patch.offset..patch.offset + patch.len;
            all[range].copy_from_slice(&bytes(patch.seed, patch.len));
        }
        all
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> u64 {
        digest(&self.render())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_over_a_file_leaves_the_rest_as_it_was() {
        for len in 0..40 {
            let content = Content::new(7, len);
            for offset in 0..=len {
                let patched = content.patched(offset, 3, 9).render();
                assert_eq!(patched[..offset], content.render()[..offset]);
                assert_eq!(patched[offset..offset + 3], bytes(9, 3));
                let behind = content.len().min(offset + 3);
                assert_eq!(
                    patched[behind.max(offset + 3)..],
                    content.render()[behind..]
                );
                assert_eq!(patched.len(), content.patched(offset, 3, 9).len());
            }
        }
    }

    #[test]
    fn a_difference_is_found_and_described() {
        assert_eq!(difference(b"abc", b"abc"), None);
        let found = |other: &[u8]| difference(b"abc", other).unwrap_or_default();
        assert!(found(b"axx").contains("2 of 3 bytes are others, the first at 1"));
        assert!(found(b"ab").contains("2 bytes are there"));
    }
}
