//! A server that was killed and started again tells its old peers so: the stateless resets of
//! RFC 9000 §10.3, with a key that follows from the server's private key and so outlives the
//! process. Without them its peers would wait for the idle timeout.

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};
use std::time::Duration;

/// A keyed BLAKE3 as the message authentication code of reset tokens.
pub struct ResetKey([u8; 32]);

impl ResetKey {
    /// From something secret that stays the same over restarts.
    pub fn derive(secret: &[u8]) -> ResetKey {
        ResetKey(blake3::derive_key(
            "quarry 2026 QUIC stateless reset",
            secret,
        ))
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        blake3::Hasher::new_keyed(&self.0)
            .update(data)
            .finalize_xof()
            .fill(signature_out);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let expected = blake3::keyed_hash(&self.0, data);
        // blake3's comparison takes the same time wherever the first difference is.
        match <[u8; 32]>::try_from(signature) {
            Ok(found) if expected == blake3::Hash::from_bytes(found) => Ok(()),
            _ => Err(CryptoError),
        }
    }
}

/// Connection ids of eight random bytes, every one of which this endpoint takes for its own: so it
/// answers packets of its former life, which it can not know, with a reset.
pub struct RandomIds;

const ID_LEN: usize = 8;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; ID_LEN]>())
    }

    fn cid_len(&self) -> usize {
        ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a server of another version could not reset the connections of its former life.
    #[test]
    fn a_token_stays_as_it_was() {
        let mut token = [0; 32];
        ResetKey::derive(b"secret").sign(b"connection id", &mut token);
        let hex: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "50a91750fbb4f8b8ab82759a2aa19f5f2cc4b66e49acc49bbb74111e7da6e1c7"
        );
    }
}
