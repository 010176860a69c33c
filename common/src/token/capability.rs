//! A capability lets its holder read or write chunks on dataservers.

use super::{CertificateHash, Key, Mac, mac, same};
use crate::error::{Code, Error, Result};
use crate::ids::{ChunkId, KeyNumber, PoolId};
use serde::{Deserialize, Serialize};

/// What a capability allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Access {
    /// Reading.
    Read = 1,
    /// Writing each chunk once.
    Write = 2,
}

/// Lets one client read or write a range of chunks of a pool until a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// The key of the MAC.
    pub key: KeyNumber,
    /// What it allows.
    pub access: Access,
    /// The pool.
    pub pool: PoolId,
    /// The first chunk.
    pub first: ChunkId,
    /// The last chunk, included.
    pub last: ChunkId,
    /// Seconds since 1970.
    pub expires_at: u64,
    /// Over everything above and the client's certificate.
    pub mac: Mac,
}

impl Capability {
    /// Makes the MAC.
    pub fn issue(
        key: &Key,
        client: &CertificateHash,
        access: Access,
        pool: PoolId,
        chunks: std::ops::RangeInclusive<ChunkId>,
        expires_at: u64,
    ) -> Capability {
        let (first, last) = chunks.into_inner();
        let mut token = Capability {
            key: key.number,
            access,
            pool,
            first,
            last,
            expires_at,
            mac: [0; 16],
        };
        token.mac = token.compute(key, client);
        token
    }

    /// What a dataserver sends that reads for repair: it allows nothing, since the reader's certificate and its
    /// place in the map are what counts.
    pub fn none(pool: PoolId, chunk: ChunkId) -> Capability {
        Capability {
            key: KeyNumber(0),
            access: Access::Read,
            pool,
            first: chunk,
            last: chunk,
            expires_at: 0,
            mac: [0; 16],
        }
    }

    fn compute(&self, key: &Key, client: &CertificateHash) -> Mac {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&self.key.0.to_be_bytes());
        bytes.push(self.access as u8);
        bytes.extend_from_slice(&self.pool.0.to_be_bytes());
        bytes.extend_from_slice(&self.first.0.to_be_bytes());
        bytes.extend_from_slice(&self.last.0.to_be_bytes());
        bytes.extend_from_slice(&self.expires_at.to_be_bytes());
        bytes.extend_from_slice(client);
        mac(key, "quarry capability 1", &bytes)
    }

    /// Checks that `client` may access the chunk now (seconds since 1970).
    ///
    /// # Errors
    /// `BadCapability`, with what is wrong.
    pub fn check(
        &self,
        keys: impl Fn(KeyNumber) -> Option<Key>,
        client: &CertificateHash,
        access: Access,
        pool: PoolId,
        chunk: ChunkId,
        now: u64,
    ) -> Result<()> {
        let refuse = |what: &str| {
            Err(Error::new(
                Code::BadCapability,
                format!("the capability for chunk {chunk} of pool {pool} {what}"),
            ))
        };
        let Some(key) = keys(self.key) else {
            return refuse("is under a key that this server does not know");
        };
        if !same(&self.compute(&key, client), &self.mac) {
            return refuse("is forged, or is another client's");
        }
        if self.access != access {
            return refuse("allows another operation");
        }
        if self.pool != pool || chunk < self.first || chunk > self.last {
            return refuse("is for other chunks");
        }
        if now >= self.expires_at {
            return refuse("has expired");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Client, dataserver and metaserver may be of different versions.
    #[test]
    fn what_the_mac_is_over_never_changes() {
        let key = Key {
            number: KeyNumber(0x0102_0304),
            secret: [7; 32],
        };
        let chunks = ChunkId(0x0807_0605_0403_0201)..=ChunkId(0x1817_1615_1413_1211);
        let expires_at = 0x2827_2625_2423_2221;
        for (access, byte) in [(Access::Read, 1), (Access::Write, 2)] {
            #[rustfmt::skip]
            let over = [
                &b"quarry capability 1"[..],
                &[1, 2, 3, 4],                                      // key
                &[byte],                                            // access
                &[5, 6],                                            // pool
                &[8, 7, 6, 5, 4, 3, 2, 1],                          // first
                &[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11],  // last
                &[0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21],  // expires at
                &[9; 32],                                           // certificate
            ]
            .concat();
            let pool = PoolId(0x0506);
            let token = Capability::issue(&key, &[9; 32], access, pool, chunks.clone(), expires_at);
            let mac = blake3::keyed_hash(&key.secret, &over);
            assert_eq!(token.mac, mac.as_bytes()[..16]);
        }
    }

    #[test]
    fn a_capability_with_any_field_changed_is_refused() {
        let key = Key {
            number: KeyNumber(4),
            secret: [7; 32],
        };
        let client = [9; 32];
        let good = Capability::issue(
            &key,
            &client,
            Access::Write,
            PoolId(1),
            ChunkId(10)..=ChunkId(20),
            1000,
        );
        let check = |token: &Capability, client: &CertificateHash, chunk: u64, now: u64| {
            let keys = |number| (number == key.number).then(|| key.clone());
            token.check(keys, client, Access::Write, PoolId(1), ChunkId(chunk), now)
        };
        assert_eq!(check(&good, &client, 10, 999), Ok(()));
        assert_eq!(check(&good, &client, 20, 999), Ok(()));
        assert!(check(&good, &client, 21, 999).is_err());
        assert!(check(&good, &client, 9, 999).is_err());
        assert!(check(&good, &client, 10, 1000).is_err());
        assert!(check(&good, &[8; 32], 10, 999).is_err());
        let forged = [
            Capability {
                key: KeyNumber(5),
                ..good.clone()
            },
            Capability {
                access: Access::Read,
                ..good.clone()
            },
            Capability {
                pool: PoolId(2),
                ..good.clone()
            },
            Capability {
                first: ChunkId(1),
                ..good.clone()
            },
            Capability {
                last: ChunkId(99),
                ..good.clone()
            },
            Capability {
                expires_at: 9999,
                ..good.clone()
            },
            Capability {
                mac: [0; 16],
                ..good.clone()
            },
        ];
        for token in forged {
            assert!(check(&token, &client, 15, 999).is_err(), "{token:?}");
        }
    }
}
