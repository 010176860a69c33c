//! What the commands of the map promise.

use crate::state::command::{Action, Reply};
use crate::state::consistency::faults;
use crate::state::data_testing::{POOL, new_disk, registration};
use crate::state::map_state::{self, keys, users};
use crate::state::testing::{World, beginning, on_both};
use crate::state::txn::HIDDEN_DIRECTORY;
use quarry_common::Code;
use quarry_common::ids::{DiskId, Gid, InodeId, KeyNumber, PgId, ServerId, Uid};
use quarry_common::map::MemberState;
use quarry_common::token::Key;
use quarry_common::wire::meta::User;

fn user(name: &str, uid: u32) -> User {
    User {
        name: name.into(),
        uid: Uid(uid),
        gids: vec![Gid(uid)],
        admin: false,
    }
}

#[test]
fn a_cluster_begins_with_its_directories_its_user_and_epoch_1_and_only_once() {
    on_both(|world| {
        assert_eq!(world.names(InodeId::ROOT), ["home"]);
        let home = world.lookup(InodeId::ROOT, "home").unwrap();
        let ann = world.lookup(home.inode, "ann").unwrap();
        assert_eq!((ann.uid, ann.gid, ann.mode), (Uid(1000), Gid(1000), 0o755));
        let root = world.stat(InodeId::ROOT).unwrap();
        assert_eq!((root.uid, root.mode, root.links), (Uid(0), 0o755, 3));
        assert!(world.record(HIDDEN_DIRECTORY).name.is_empty());
        let map = world.map();
        assert_eq!((map.epoch.0, map.topology.metaservers.len()), (1, 1));
        let before = world.dump();
        world.act(beginning().remove(0)).unwrap();
        assert_eq!(world.dump().len(), before.len());
        assert_eq!(faults(&*world.kv), Vec::<String>::new());
    });
}

#[test]
fn new_metaservers_are_a_new_epoch_and_the_same_ones_are_none() {
    let world = &mut World::in_memory();
    let servers = vec![
        (ServerId(1), "a:1".to_owned()),
        (ServerId(2), "b:1".to_owned()),
    ];
    for _ in 0..2 {
        world.act(Action::SetMetaservers(servers.clone())).unwrap();
        assert_eq!(map_state::epoch(&*world.kv).unwrap().0, 2);
    }
    assert_eq!(world.map().topology.metaservers.len(), 2);
}

#[test]
fn a_metaservers_number_is_never_given_out_again() {
    on_both(|world| {
        let at = |ids: &[u32]| {
            let server = |id: &u32| (ServerId(*id), format!("meta-{id}:1"));
            Action::SetMetaservers(ids.iter().map(server).collect())
        };
        let number = |world: &mut World| world.act(Action::NumberMetaserver).unwrap();
        world.act(at(&[1, 2, 3])).unwrap();
        // The last one goes before another was ever numbered.
        world.act(at(&[1, 2])).unwrap();
        assert_eq!(number(world), Reply::Metaserver(ServerId(4)));
        assert_eq!(number(world), Reply::Metaserver(ServerId(5)));
        world.act(at(&[1, 2, 5])).unwrap();
        world.act(at(&[1])).unwrap();
        assert_eq!(number(world), Reply::Metaserver(ServerId(6)));
    });
}

#[test]
fn a_registered_dataserver_has_disks_and_a_key_of_its_own() {
    on_both(|world| {
        let disks = vec![new_disk("/a"), new_disk("/b")];
        let first = world.act(registration(7, disks.clone())).unwrap();
        assert_eq!(first, Reply::Registered(vec![DiskId(1), DiskId(2)]));
        let epoch = world.map().epoch;
        let key = keys::keys_of(&*world.kv, ServerId(7))
            .unwrap()
            .receipt
            .unwrap();
        assert_eq!(key.secret, [7; 32]);
        // The same again: nothing changes, the key stays.
        assert_eq!(world.act(registration(7, disks)).unwrap(), first);
        assert_eq!(world.map().epoch, epoch);
        world.act(registration(8, vec![new_disk("/a")])).unwrap();
        let other = keys::keys_of(&*world.kv, ServerId(8)).unwrap();
        assert_ne!(other.receipt.as_ref().unwrap().number, key.number);
        assert_eq!(other.capability.len(), 1);
        // One server's key is not another's.
        assert_eq!(
            keys::receipt_key(&*world.kv, ServerId(8), key.number).unwrap(),
            None
        );
    });
}

#[test]
fn members_are_placed_only_by_the_map_they_were_computed_from() {
    on_both(|world| {
        world.act(registration(1, vec![new_disk("/a")])).unwrap();
        let old = world.placement();
        world.act(registration(2, vec![new_disk("/a")])).unwrap();
        assert_eq!(world.act(old).unwrap_err().code, Code::OldMap);
        let place = world.placement();
        let before = world.map().epoch;
        world.act(place).unwrap();
        let map = world.map();
        assert_eq!(map.epoch, before.next(), "one epoch for the whole command");
        assert!(
            map.rows[&POOL]
                .iter()
                .all(|row| row.epoch == map.epoch && row.present() == 2)
        );
        // Placed again by the new map: nothing changes.
        let again = world.placement();
        world.act(again).unwrap();
        assert_eq!(world.map().epoch, map.epoch);
    });
}

#[test]
fn who_joins_before_the_first_range_is_complete_and_afterwards_filling() {
    let world = &mut World::in_memory();
    world.add_disks(2);
    world.add_disks(3);
    let before = world.map();
    let members = |row: &quarry_common::map::Row| {
        row.members
            .iter()
            .flatten()
            .map(|member| member.state)
            .collect::<Vec<_>>()
    };
    assert!(
        before.rows[&POOL]
            .iter()
            .all(|row| members(row) == [MemberState::Complete; 3])
    );
    world.grant(1);
    world.add_disks(4);
    let map = world.map();
    let filling = map.rows[&POOL]
        .iter()
        .filter(|row| members(row).contains(&MemberState::Filling))
        .count();
    assert!(
        filling > 20,
        "{filling} of 64 groups have a share of the new disk"
    );
    for (row, old) in map.rows[&POOL].iter().zip(&before.rows[&POOL]) {
        let same = row.chain().eq(old.chain());
        assert_eq!(
            row.epoch == old.epoch,
            same,
            "the epoch of a row changes with its members alone"
        );
        assert_eq!(row.holders.is_empty(), same);
    }
}

#[test]
fn impossible_members_are_refused_and_change_nothing() {
    let world = &mut World::in_memory();
    world.add_disks(3);
    let map = world.map();
    let some = |disk| Some(DiskId(disk));
    for (pg, members) in [
        (64, vec![some(1), some(2), some(3)]),
        (0, vec![some(1), some(2)]),
        (0, vec![some(1), some(1), None]),
        (0, vec![some(1), some(99), None]),
    ] {
        // A good row before it is not taken over either.
        let rows = vec![(PgId(1), vec![None, None, None]), (PgId(pg), members)];
        let refused = world
            .act(Action::Place {
                epoch: map.epoch,
                pool: POOL,
                rows,
            })
            .unwrap_err();
        assert_eq!(refused.code, Code::Invalid);
        assert_eq!(world.map(), map);
    }
}

#[test]
fn users_have_a_name_a_number_and_a_home_of_their_own() {
    on_both(|world| {
        world.act(Action::AddUser(user("bob", 1001))).unwrap();
        world.act(Action::AddUser(user("bob", 1001))).unwrap();
        assert_eq!(users::users(&*world.kv).unwrap().len(), 2);
        assert_eq!(
            users::user(&*world.kv, "bob").unwrap().unwrap().uid,
            Uid(1001)
        );
        let home = world.lookup(InodeId::ROOT, "home").unwrap().inode;
        assert_eq!(world.lookup(home, "bob").unwrap().uid, Uid(1001));
        for (name, uid, code) in [("bob", 1002, Code::Exists), ("eve", 1001, Code::Exists)] {
            assert_eq!(
                world
                    .act(Action::AddUser(user(name, uid)))
                    .unwrap_err()
                    .code,
                code
            );
        }
        for name in ["", ".", "..", "a/b", "-a", "a b", "é", &"a".repeat(65)] {
            assert_eq!(
                world.act(Action::AddUser(user(name, 5))).unwrap_err().code,
                Code::Invalid,
                "{name}"
            );
        }
        world
            .mkdir(&crate::state::testing::root(), home, "carl", 0o755)
            .unwrap();
        let taken = world.act(Action::AddUser(user("carl", 1003))).unwrap_err();
        assert!(
            taken.code == Code::Exists && taken.text.contains("/home/carl"),
            "{}",
            taken.text
        );
        assert_eq!(users::users(&*world.kv).unwrap().len(), 2);
        assert_eq!(faults(&*world.kv), Vec::<String>::new());
    });
}

#[test]
fn keys_of_capabilities_follow_each_other_and_are_forgotten() {
    let world = &mut World::in_memory();
    let add = |world: &mut World, number: u32, below: u32| {
        let key = Key {
            number: KeyNumber(number),
            secret: [number as u8; 32],
        };
        world.act(Action::AddCapabilityKey {
            key,
            forget_below: KeyNumber(below),
        })
    };
    let numbers = |world: &World| {
        keys::capability_keys(&*world.kv)
            .unwrap()
            .iter()
            .map(|key| key.number.0)
            .collect::<Vec<_>>()
    };
    add(world, 2, 0).unwrap();
    add(world, 2, 0).unwrap();
    assert_eq!(add(world, 4, 0).unwrap_err().code, Code::Invalid);
    assert_eq!(numbers(world), [1, 2]);
    add(world, 3, 3).unwrap();
    assert_eq!(numbers(world), [3]);
    // The newest is never forgotten.
    add(world, 4, 99).unwrap();
    assert_eq!(numbers(world), [4]);
}

#[test]
fn before_the_bootstrap_nothing_else_is_done() {
    let world = &mut World::over(Box::new(crate::kv::Memory::new()), None);
    for action in [
        registration(1, vec![new_disk("/a")]),
        Action::SetMetaservers(Vec::new()),
        Action::AddUser(user("a", 1)),
    ] {
        assert!(world.act(action).is_err());
    }
    assert_eq!(map_state::load(&*world.kv).unwrap(), Default::default());
}

#[test]
fn how_long_a_disk_has_been_down_is_there_until_it_is_not() {
    use crate::state::map_state::downs::downs;
    use std::time::Duration;
    on_both(|world| {
        let register = registration(1, vec![new_disk("/d1"), new_disk("/d2")]);
        world.act(register).unwrap();
        let note = |world: &mut World, notes: &[(u32, Option<u64>)]| {
            let notes = notes.iter().map(|(disk, note)| (DiskId(*disk), *note));
            world.act(Action::NoteDown(notes.collect())).unwrap();
            downs(&*world.kv).unwrap()
        };
        let (one, two) = (Duration::from_millis(1_500), Duration::from_millis(70_000));
        let noted = note(world, &[(1, Some(1_500)), (2, Some(9)), (77, Some(5))]);
        assert_eq!(noted.len(), 2, "{noted:?}");
        let noted = note(world, &[(2, Some(70_000))]);
        assert_eq!(noted, [(DiskId(1), one), (DiskId(2), two)]);
        assert_eq!(note(world, &[(1, None)]), [(DiskId(2), two)]);
        assert_eq!(faults(&*world.kv), Vec::<String>::new());
    });
}
