//! A receipt is the word of every member that a chunk is durable.

use super::{Key, Mac, mac, same};
use crate::checksum::Crc;
use crate::error::{Code, Error, Result};
use crate::ids::{ChunkId, DiskId, Epoch, KeyNumber, PoolId};
use crate::limits::REPLICAS_MAX;
use serde::{Deserialize, Serialize};

/// What the members of a chunk's group confirm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The epoch of the group's row under which it was written.
    pub epoch: Epoch,
    /// Bytes that are durable.
    pub len: u32,
    /// The CRC of those bytes.
    pub crc: Crc,
    /// One MAC a member, in the order of the pipeline.
    pub macs: Vec<MemberMac>,
}

/// One member's word, under a key that only its dataserver and the metaservers know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberMac {
    /// The member.
    pub disk: DiskId,
    /// The key of its dataserver.
    pub key: KeyNumber,
    /// Over chunk, epoch, length, CRC and disk.
    pub mac: Mac,
}

/// What a MAC of a receipt is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// The pool.
    pub pool: PoolId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The epoch of its group's row.
    pub epoch: Epoch,
    /// Bytes that are durable.
    pub len: u32,
    /// Their CRC.
    pub crc: Crc,
}

impl Durable {
    /// A member's word for it. To be called only after its bytes are on stable storage.
    pub fn sign(&self, key: &Key, disk: DiskId) -> MemberMac {
        MemberMac {
            disk,
            key: key.number,
            mac: self.compute(key, disk),
        }
    }

    fn compute(&self, key: &Key, disk: DiskId) -> Mac {
        let mut bytes = Vec::with_capacity(40);
        bytes.extend_from_slice(&self.pool.0.to_be_bytes());
        bytes.extend_from_slice(&self.chunk.0.to_be_bytes());
        bytes.extend_from_slice(&self.epoch.0.to_be_bytes());
        bytes.extend_from_slice(&self.len.to_be_bytes());
        bytes.extend_from_slice(&self.crc.0.to_be_bytes());
        bytes.extend_from_slice(&disk.0.to_be_bytes());
        bytes.extend_from_slice(&key.number.0.to_be_bytes());
        mac(key, "quarry receipt 1", &bytes)
    }

    /// The receipt that the members' words make.
    pub fn receipt(self, macs: Vec<MemberMac>) -> Receipt {
        let Durable {
            pool,
            chunk,
            epoch,
            len,
            crc,
        } = self;
        Receipt {
            pool,
            chunk,
            epoch,
            len,
            crc,
            macs,
        }
    }
}

impl Receipt {
    /// What it is about.
    pub fn durable(&self) -> Durable {
        Durable {
            pool: self.pool,
            chunk: self.chunk,
            epoch: self.epoch,
            len: self.len,
            crc: self.crc,
        }
    }

    /// Checks that each of `members` gave its word; `key_of` finds a disk's key of that number.
    ///
    /// # Errors
    /// `BadReceipt`, with what is wrong.
    pub fn check(
        &self,
        members: impl IntoIterator<Item = DiskId>,
        key_of: impl Fn(DiskId, KeyNumber) -> Option<Key>,
    ) -> Result<()> {
        let refuse = |what: String| {
            Err(Error::new(
                Code::BadReceipt,
                format!(
                    "the receipt for chunk {} of pool {} {what}",
                    self.chunk, self.pool
                ),
            ))
        };
        if self.macs.len() > REPLICAS_MAX {
            return refuse(format!("has {} MACs", self.macs.len()));
        }
        for disk in members {
            let Some(word) = self.macs.iter().find(|word| word.disk == disk) else {
                return refuse(format!("lacks disk {disk}'s word"));
            };
            let key = key_of(disk, word.key);
            let good = key.is_some_and(|key| same(&self.durable().compute(&key, disk), &word.mac));
            if !good {
                return refuse(format!("has a MAC that disk {disk} did not make"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dataserver and metaserver may be of different versions.
    #[test]
    fn what_a_mac_is_over_never_changes() {
        let key = Key {
            number: KeyNumber(0x3132_3334),
            secret: [7; 32],
        };
        let durable = Durable {
            pool: PoolId(0x0102),
            chunk: ChunkId(0x0807_0605_0403_0201),
            epoch: Epoch(0x1817_1615_1413_1211),
            len: 0x0a0b_0c0d,
            crc: Crc(0x1a1b_1c1d),
        };
        #[rustfmt::skip]
        let over = [
            &b"quarry receipt 1"[..],
            &[1, 2],                                            // pool
            &[8, 7, 6, 5, 4, 3, 2, 1],                          // chunk
            &[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11],  // epoch
            &[0x0a, 0x0b, 0x0c, 0x0d],                          // length
            &[0x1a, 0x1b, 0x1c, 0x1d],                          // CRC
            &[0x21, 0x22, 0x23, 0x24],                          // disk
            &[0x31, 0x32, 0x33, 0x34],                          // key
        ]
        .concat();
        let word = durable.sign(&key, DiskId(0x2122_2324));
        let mac = blake3::keyed_hash(&key.secret, &over);
        assert_eq!(word.mac, mac.as_bytes()[..16]);
    }

    #[test]
    fn a_receipt_needs_every_members_own_word() {
        let keys = [
            Key {
                number: KeyNumber(1),
                secret: [1; 32],
            },
            Key {
                number: KeyNumber(2),
                secret: [2; 32],
            },
        ];
        let key_of = |disk: DiskId, number| {
            keys.get(disk.0 as usize)
                .filter(|key| key.number == number)
                .cloned()
        };
        let durable = Durable {
            pool: PoolId(1),
            chunk: ChunkId(5),
            epoch: Epoch(3),
            len: 100,
            crc: Crc(7),
        };
        let macs = vec![
            durable.sign(&keys[0], DiskId(0)),
            durable.sign(&keys[1], DiskId(1)),
        ];
        let good = durable.receipt(macs.clone());
        let both = [DiskId(0), DiskId(1)];
        assert_eq!(good.check(both, key_of), Ok(()));
        let forged = [
            Receipt {
                len: 101,
                ..good.clone()
            },
            Receipt {
                crc: Crc(8),
                ..good.clone()
            },
            Receipt {
                epoch: Epoch(4),
                ..good.clone()
            },
            Receipt {
                chunk: ChunkId(6),
                ..good.clone()
            },
            Receipt {
                pool: PoolId(2),
                ..good.clone()
            },
            Receipt {
                macs: macs[..1].to_vec(),
                ..good.clone()
            },
            // One server can not speak for another.
            Receipt {
                macs: vec![
                    macs[0].clone(),
                    MemberMac {
                        disk: DiskId(1),
                        ..macs[0].clone()
                    },
                ],
                ..good.clone()
            },
        ];
        for receipt in forged {
            assert!(receipt.check(both, key_of).is_err(), "{receipt:?}");
        }
    }
}
