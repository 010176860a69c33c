//! Which chunks may be referred to: no inode ever refers to data that was not durable (DESIGN §5.2).

use super::chunks;
use super::keys;
use super::map_state::{self, keys::receipt_key};
use super::session;
use super::stop::{OpResult, Stop};
use super::txn::{Txn, Who};
use crate::kv::{Family, KvRead};
use quarry_common::ids::{DiskId, KeyNumber, ServerId};
use quarry_common::map::{Topology, pg_of};
use quarry_common::token::receipt::Durable;
use quarry_common::token::{Key, Receipt};
use quarry_common::{Code, Error, Result};

/// Takes over that a chunk is durable, at the commit of `who`.
///
/// **The law of publishing** (DESIGN §4.2.7): a receipt counts if its epoch is its group's present one, compared here, where
/// the command is applied. One of an older epoch counts only after every present member has confirmed, in words of the present
/// epoch, that it has the chunk at that length and CRC. This alone keeps what is committed on the members, whatever dataservers
/// with old maps acknowledge.
///
/// # Errors
/// `BadReceipt`: the chunk is not the session's to commit, waits for its deletion, is too long, was
/// committed with other bytes, or a member did not give its word. `OldReceipt`: the group has other
/// members by now, who have not confirmed the chunk. `TooFewDisks`: the group has fewer members than the pool asks for.
/// `SessionLost`.
pub fn accept(txn: &mut Txn<'_>, who: &Who<'_>, receipt: &Receipt) -> OpResult<()> {
    let Receipt {
        pool,
        chunk,
        epoch,
        len,
        crc,
        ..
    } = *receipt;
    let refuse = |what: &str| {
        let text =
            format!("chunk {chunk} of pool {pool} {what}: write its bytes again to a new chunk");
        Err(Stop::Refused(Error::new(Code::BadReceipt, text)))
    };
    let topology = map_state::topology(txn)?;
    let Some(in_pool) = topology.pools.get(&pool) else {
        return refuse("is of a pool that does not exist");
    };
    session::check_own(txn, who.session, pool, chunk)?;
    if txn
        .get_bytes(Family::Doomed, &keys::doomed(pool, chunk))?
        .is_some()
    {
        return refuse("was given up and waits for its deletion");
    }
    if len == 0 || len > in_pool.chunk_len_max {
        return refuse("is empty or longer than a chunk of this pool can be");
    }
    let pg = pg_of(chunk, in_pool.pg_count);
    let row = map_state::row(txn, pool, pg)?;
    let of_now = if epoch == row.epoch {
        Some(receipt)
    } else {
        let same = Durable {
            epoch: row.epoch,
            ..receipt.durable()
        };
        let mut confirmed = who.confirmed.iter();
        confirmed.find(|confirmed| confirmed.durable() == same)
    };
    let Some(receipt) = of_now else {
        let text = format!(
            "the receipt for chunk {chunk} is of epoch {epoch}, group {pool}.{pg} has other members since epoch {}, and they have not confirmed it: try again",
            row.epoch
        );
        return Err(Error::new(Code::OldReceipt, text).into());
    };
    let (present, min) = (row.present(), in_pool.redundancy.min_members());
    if present < min {
        let text = format!(
            "group {pool}.{pg} has {present} members, {min} are needed: start more dataservers of pool '{}'",
            in_pool.name
        );
        return Err(Error::new(Code::TooFewDisks, text).into());
    }
    let members: Vec<DiskId> = row.chain().collect();
    check_words(txn.state(), &topology, receipt, &members).map_err(Stop::Broken)??;
    chunks::commit(txn, pool, chunk, len, crc)
}

/// Checks that a receipt has the word of each of `disks`. The outer error is that of the state.
pub fn check_words(
    state: &dyn KvRead,
    topology: &Topology,
    receipt: &Receipt,
    disks: &[DiskId],
) -> Result<Result<()>> {
    let mut keys = Vec::with_capacity(disks.len());
    for disk in disks.iter().copied() {
        let word = receipt.macs.iter().find(|word| word.disk == disk);
        let server = topology.disks.get(&disk).map(|disk| disk.server);
        keys.push((disk, find_key(state, server, word.map(|word| word.key))?));
    }
    let key_of = |disk: DiskId, number: KeyNumber| {
        let (_, key) = keys.iter().find(|(member, _)| *member == disk)?;
        key.clone().filter(|key| key.number == number)
    };
    Ok(receipt.check(disks.iter().copied(), key_of))
}

fn find_key(
    state: &dyn KvRead,
    server: Option<ServerId>,
    number: Option<KeyNumber>,
) -> Result<Option<Key>> {
    match (server, number) {
        (Some(server), Some(number)) => receipt_key(state, server, number),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Batch;
    use crate::state::command::Action;
    use crate::state::data_records::DoomedRecord;
    use crate::state::data_testing::{POOL, commit, of_chunk};
    use crate::state::records::Record;
    use crate::state::testing::{World, on_both, root};
    use quarry_common::checksum::Crc;
    use quarry_common::ids::{ChunkId, Epoch, InodeId, PgId, PoolId, Version};
    use quarry_common::token::MemberMac;
    use quarry_common::wire::meta::Op;

    fn refused(world: &mut World, inode: InodeId, receipt: Receipt) -> Code {
        let before = world.extents(inode);
        let error = world.op(&root(), commit(inode, 0, 5, receipt)).unwrap_err();
        assert_eq!(world.extents(inode), before, "{error:?}");
        error.code
    }

    #[test]
    fn a_receipt_with_any_field_changed_is_refused() {
        on_both(|world| {
            world.add_disks(3);
            let chunk = world.grant(10).first;
            let inode = world.put(InodeId::ROOT, "f", b"").inode;
            let good = world.receipt(chunk, 5);
            let word = |at: usize, change: &dyn Fn(&mut MemberMac)| {
                let mut macs = good.macs.clone();
                change(&mut macs[at]);
                macs
            };
            let bad = [
                Receipt {
                    pool: PoolId(2),
                    ..good.clone()
                },
                Receipt {
                    chunk: ChunkId(chunk.0 + 1),
                    ..good.clone()
                },
                Receipt {
                    epoch: Epoch(good.epoch.0 + 1),
                    ..good.clone()
                },
                Receipt {
                    epoch: Epoch(good.epoch.0 - 1),
                    ..good.clone()
                },
                Receipt {
                    len: 6,
                    ..good.clone()
                },
                Receipt {
                    crc: Crc(good.crc.0 ^ 1),
                    ..good.clone()
                },
                Receipt {
                    macs: Vec::new(),
                    ..good.clone()
                },
                Receipt {
                    macs: good.macs[1..].to_vec(),
                    ..good.clone()
                },
                Receipt {
                    macs: vec![good.macs[0].clone(); 9],
                    ..good.clone()
                },
                Receipt {
                    macs: word(0, &|word| word.mac[3] ^= 1),
                    ..good.clone()
                },
                Receipt {
                    macs: word(2, &|word| word.disk.0 += 1),
                    ..good.clone()
                },
                Receipt {
                    macs: word(1, &|word| word.key.0 += 1),
                    ..good.clone()
                },
                // One server's word for another's disk.
                Receipt {
                    macs: word(1, &|word| {
                        *word = MemberMac {
                            disk: word.disk,
                            ..good.macs[0].clone()
                        }
                    }),
                    ..good.clone()
                },
            ];
            for receipt in bad {
                let shown = format!("{receipt:?}");
                let code = refused(world, inode, receipt);
                assert!(
                    matches!(code, Code::BadReceipt | Code::OldReceipt),
                    "{shown}: {code:?}"
                );
            }
            world.op(&root(), commit(inode, 0, 5, good)).unwrap();
        });
    }

    #[test]
    fn a_chunk_of_nobody_or_of_another_session_or_given_up_is_refused() {
        on_both(|world| {
            world.add_disks(3);
            let range = world.grant(10);
            let inode = world.put(InodeId::ROOT, "f", b"").inode;
            for chunk in [ChunkId(range.first.0 + 10), ChunkId(0), ChunkId(u64::MAX)] {
                let receipt = world.receipt(chunk, 5);
                assert_eq!(refused(world, inode, receipt), Code::BadReceipt);
            }
            let doomed = DoomedRecord {
                at: Version(1),
                gone_from: Vec::new(),
            };
            let mut doom = Batch::new();
            doom.put(
                Family::Doomed,
                keys::doomed(POOL, range.first),
                doomed.to_bytes(),
            );
            world.kv.write(&doom).unwrap();
            let receipt = world.receipt(range.first, 5);
            assert_eq!(refused(world, inode, receipt), Code::BadReceipt);
            let mine = world.session;
            let other = world
                .act(Action::OpenSession {
                    user: "ann".into(),
                    certificate: [2; 32],
                })
                .unwrap();
            let crate::state::command::Reply::Session(other) = other else {
                panic!()
            };
            world.session = other;
            let receipt = world.receipt(ChunkId(range.first.0 + 1), 5);
            assert_eq!(refused(world, inode, receipt.clone()), Code::BadReceipt);
            world.session = mine;
            world.op(&root(), commit(inode, 0, 5, receipt)).unwrap();
        });
    }

    #[test]
    fn a_receipt_of_former_members_does_not_count() {
        let world = &mut World::in_memory();
        world.add_disks(4);
        let chunk = world.grant(10).first;
        let inode = world.put(InodeId::ROOT, "f", b"").inode;
        let old = world.receipt(chunk, 5);
        let map = world.map();
        let pg = pg_of(chunk, map.topology.pools[&POOL].pg_count);
        let mut members: Vec<_> = map.rows[&POOL][pg.0 as usize].chain().map(Some).collect();
        members.rotate_left(1);
        let place = |world: &mut World, pg: PgId, members| {
            let epoch = world.map().epoch;
            world
                .act(Action::Place {
                    epoch,
                    pool: POOL,
                    rows: vec![(pg, members)],
                })
                .unwrap();
        };
        // Another group's change does not matter.
        place(world, PgId(pg.0 ^ 1), vec![members[0], members[1], None]);
        let other = world.receipt(ChunkId(chunk.0 + 1), 5);
        place(world, pg, members.clone());
        assert_eq!(refused(world, inode, old), Code::OldReceipt);
        let receipt = world.receipt(chunk, 5);
        world.op(&root(), commit(inode, 0, 5, receipt)).unwrap();
        if pg_of(other.chunk, 64) != pg {
            world.op(&root(), commit(inode, 0, 5, other)).unwrap();
        }
        // Too few members to keep what is committed.
        place(world, pg, vec![members[0], None, None]);
        let receipt = world.receipt(chunk, 6);
        assert_eq!(refused(world, inode, receipt), Code::TooFewDisks);
    }

    #[test]
    fn a_chunk_grows_with_its_receipts_and_the_same_length_is_the_same_bytes() {
        let world = &mut World::in_memory();
        world.add_disks(3);
        let chunk = world.grant(10).first;
        let inode = world.put(InodeId::ROOT, "f", b"").inode;
        let known = |world: &World| {
            let found = crate::state::txn::load::<crate::state::records::ChunkRecord>(
                &*world.kv,
                Family::Chunks,
                &keys::chunk(POOL, chunk),
            );
            found.unwrap().map(|record| (record.len, record.crc))
        };
        let (short, long) = (world.receipt(chunk, 5), world.receipt(chunk, 9));
        world
            .op(&root(), commit(inode, 0, 5, short.clone()))
            .unwrap();
        world
            .op(&root(), commit(inode, 0, 9, long.clone()))
            .unwrap();
        assert_eq!(known(world), Some((9, long.crc)));
        // The older word, later: the bytes are the same, and the longer length stays.
        world.op(&root(), commit(inode, 20, 5, short)).unwrap();
        assert_eq!(known(world), Some((9, long.crc)));
        // The same length with other bytes, by members who would sign anything.
        let mut other = quarry_common::token::receipt::Durable {
            crc: Crc(1),
            ..long.durable()
        }
        .receipt(Vec::new());
        let map = world.map();
        for disk in long.macs.iter().map(|word| word.disk) {
            let server = map.topology.disks[&disk].server;
            let key = map_state::keys::keys_of(&*world.kv, server)
                .unwrap()
                .receipt
                .unwrap();
            other.macs.push(other.durable().sign(&key, disk));
        }
        assert_eq!(refused(world, inode, other), Code::BadReceipt);
    }

    #[test]
    fn extents_that_can_not_be_are_refused() {
        let world = &mut World::in_memory();
        world.add_disks(3);
        let chunk = world.grant(10).first;
        let inode = world.put(InodeId::ROOT, "f", b"").inode;
        let receipt = world.receipt(chunk, 100);
        let window = crate::state::extents::span::WINDOW_LEN;
        let inline = crate::state::testing::inline;
        let mut too_short = inline(0, b"abc");
        too_short.len = 4;
        let cases = [
            (vec![of_chunk(0, 101, 0)], Code::Invalid),
            (vec![of_chunk(0, 50, 51)], Code::Invalid),
            (vec![of_chunk(0, 1, u32::MAX)], Code::Invalid),
            (vec![of_chunk(0, 0, 0)], Code::Invalid),
            (vec![of_chunk(window - 1, 2, 0)], Code::Invalid),
            (vec![of_chunk(0, 10, 0), of_chunk(9, 10, 0)], Code::Invalid),
            (
                vec![of_chunk(9, 10, 0), inline(0, b"1234567890")],
                Code::Invalid,
            ),
            (vec![inline(0, &[0; 257])], Code::Invalid),
            (vec![too_short], Code::Invalid),
            (vec![of_chunk(u64::MAX, 1, 0)], Code::FileTooBig),
            (vec![of_chunk(i64::MAX as u64, 1, 0)], Code::FileTooBig),
            (vec![inline(0, b"a"); 1_001], Code::TooBig),
        ];
        for (extents, code) in cases {
            let op = Op::CommitExtents {
                inode,
                extents: extents.clone(),
                receipts: vec![receipt.clone()],
                size: None,
                mtime: None,
            };
            assert_eq!(
                world.op(&root(), op).map_err(|error| error.code),
                Err(code),
                "{:?}",
                extents[0]
            );
        }
        let unknown = Op::CommitExtents {
            inode,
            extents: vec![of_chunk(0, 1, 0)],
            receipts: Vec::new(),
            size: None,
            mtime: None,
        };
        assert_eq!(world.op(&root(), unknown).unwrap_err().code, Code::Invalid);
        assert!(world.extents(inode).extents.is_empty());
        world
            .op(&root(), commit(inode, i64::MAX as u64 - 100, 100, receipt))
            .unwrap();
    }

    /// Three of four disks are the members of a chunk's group, and are rotated so that its epoch is newer.
    fn moved(world: &mut World) -> (InodeId, Receipt, Receipt) {
        world.add_disks(4);
        let chunk = world.grant(10).first;
        let inode = world.put(InodeId::ROOT, "f", b"").inode;
        let old = world.receipt(chunk, 5);
        turn(world, chunk);
        let confirmed = world.receipt(chunk, 5);
        assert!(confirmed.epoch > old.epoch);
        (inode, old, confirmed)
    }

    /// The group of a chunk gets other members.
    fn turn(world: &mut World, chunk: ChunkId) {
        let map = world.map();
        let pg = pg_of(chunk, 64);
        let mut members: Vec<_> = map.rows[&POOL][pg.0 as usize].chain().map(Some).collect();
        members.rotate_left(1);
        world
            .act(Action::Place {
                epoch: map.epoch,
                pool: POOL,
                rows: vec![(pg, members)],
            })
            .unwrap();
    }

    /// The request with what the members confirmed.
    fn confirmed(request: &Action, confirmed: Result<Vec<Receipt>>) -> Action {
        let Action::Mutate {
            session,
            number,
            answered_below,
            caller,
            op,
        } = request.clone()
        else {
            panic!("{request:?}");
        };
        Action::MutateConfirmed {
            session,
            number,
            answered_below,
            caller,
            op,
            confirmed,
        }
    }

    #[test]
    fn an_old_receipt_counts_with_the_word_of_every_present_member_for_the_same_bytes() {
        on_both(|world| {
            let (inode, old, good) = moved(world);
            let request = world.mutation(&root(), commit(inode, 0, 5, old.clone()));
            let chunk = good.chunk;
            let bad = [
                vec![],
                // Their own receipt is nobody's confirmation.
                vec![old],
                vec![world.receipt(chunk, 6)],
                vec![world.receipt(ChunkId(chunk.0 + 1), 5)],
                vec![Receipt {
                    crc: Crc(good.crc.0 ^ 1),
                    ..good.clone()
                }],
                vec![Receipt {
                    epoch: Epoch(good.epoch.0 + 1),
                    ..good.clone()
                }],
            ];
            for words in bad {
                let shown = format!("{words:?}");
                let refused = world.act(confirmed(&request, Ok(words))).unwrap_err();
                assert_eq!(refused.code, Code::OldReceipt, "{shown}");
                assert!(world.extents(inode).extents.is_empty());
            }
            // None of that was the answer for ever.
            let done = world.act(confirmed(&request, Ok(vec![good.clone()])));
            assert!(done.is_ok(), "{done:?}");
            assert_eq!(world.extents(inode).extents.len(), 1);
            // And this is, however it comes again: the number is bound to the client's operation alone.
            assert_eq!(world.act(request.clone()), done);
            assert_eq!(world.act(confirmed(&request, Ok(vec![good]))), done);
        });
    }

    #[test]
    fn a_confirmation_without_the_word_of_one_member_is_refused() {
        let world = &mut World::in_memory();
        let (inode, old, good) = moved(world);
        let mut short = good;
        short.macs.pop();
        let request = world.mutation(&root(), commit(inode, 0, 5, old));
        let refused = world.act(confirmed(&request, Ok(vec![short]))).unwrap_err();
        assert_eq!(refused.code, Code::BadReceipt);
        assert!(world.extents(inode).extents.is_empty());
    }

    #[test]
    fn the_epoch_is_compared_when_the_command_is_applied() {
        let world = &mut World::in_memory();
        let (inode, old, good) = moved(world);
        let request = world.mutation(&root(), commit(inode, 0, 5, old));
        // The members change once more, after they confirmed.
        turn(world, good.chunk);
        let refused = world.act(confirmed(&request, Ok(vec![good.clone()])));
        assert_eq!(refused.unwrap_err().code, Code::OldReceipt);
        let again = world.receipt(good.chunk, 5);
        world
            .act(confirmed(&request, Ok(vec![good, again])))
            .unwrap();
    }

    #[test]
    fn what_can_not_be_confirmed_is_answered_so_for_ever() {
        let world = &mut World::in_memory();
        let (inode, old, good) = moved(world);
        let request = world.mutation(&root(), commit(inode, 0, 5, old));
        let why = Error::new(Code::BadReceipt, "nobody has it");
        let first = world.act(confirmed(&request, Err(why.clone())));
        assert_eq!(first, Err(why));
        assert_eq!(world.act(confirmed(&request, Ok(vec![good]))), first);
        assert!(world.extents(inode).extents.is_empty());
    }
}
