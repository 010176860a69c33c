//! Tokens that say who may do what with a chunk, and who has it: MACs of keyed BLAKE3 (DESIGN §7).

pub mod capability;
pub mod receipt;

pub use capability::{Access, Capability};
pub use receipt::{MemberMac, Receipt};

use crate::ids::KeyNumber;
use serde::{Deserialize, Serialize};

/// A truncated MAC: 128 bits.
pub type Mac = [u8; 16];

/// The BLAKE3 hash of a client's certificate.
pub type CertificateHash = [u8; 32];

/// A secret key and its number.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Its number, never reused.
    pub number: KeyNumber,
    /// The key.
    pub secret: [u8; 32],
}

impl std::fmt::Debug for Key {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.number)
    }
}

/// The MAC of `parts` under `key`, for one purpose.
fn mac(key: &Key, purpose: &str, bytes: &[u8]) -> Mac {
    let mut hasher = blake3::Hasher::new_keyed(&key.secret);
    hasher.update(purpose.as_bytes());
    hasher.update(bytes);
    let mut mac = [0; 16];
    mac.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    mac
}

/// Compares in constant time, so that a guesser learns nothing from how long it took.
fn same(a: &Mac, b: &Mac) -> bool {
    a.iter()
        .zip(b)
        .fold(0, |difference, (a, b)| difference | (a ^ b))
        == 0
}
