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
        patched.len = patched.len.max(offset + len);
        patched.patches.push(Patch { offset, len, seed });
        patched
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The bytes.
    pub fn render(&self) -> Vec<u8> {
        let mut all = bytes(self.seed, self.len);
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
