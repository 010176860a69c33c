//! One random test over both backings and the overlay: each must behave as a `BTreeMap` does.

use super::{Batch, Family, Kv, KvRead, Memory, Overlay, Rocks, RocksOptions};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

type Model = BTreeMap<(Family, Vec<u8>), Vec<u8>>;
type Entry = (Vec<u8>, Vec<u8>);

#[derive(Clone, Debug)]
enum Step {
    Put(Family, Vec<u8>, u8),
    Delete(Family, Vec<u8>),
    Mark,
    RollBack,
    Read(Family, Vec<u8>, Option<Vec<u8>>),
    /// Writes the overlay to the state.
    Commit,
    /// Throws the overlay away.
    Abandon,
    Flush,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few and edge-like bytes, so that keys meet each other and the ends of ranges.
    prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    let family = prop_oneof![Just(Family::Inodes), Just(Family::Extents)];
    prop_oneof![
        6 => (family.clone(), key(), any::<u8>()).prop_map(|(f, k, v)| Step::Put(f, k, v)),
        3 => (family.clone(), key()).prop_map(|(f, k)| Step::Delete(f, k)),
        1 => Just(Step::Mark),
        1 => Just(Step::RollBack),
        6 => (family, key(), prop::option::of(key())).prop_map(|(f, k, to)| Step::Read(f, k, to)),
        1 => Just(Step::Commit),
        1 => Just(Step::Abandon),
        1 => Just(Step::Flush),
    ]
}

fn collect(
    kv: &dyn KvRead,
    family: Family,
    from: &[u8],
    to: Option<&[u8]>,
    most: usize,
) -> Vec<Entry> {
    let mut found = Vec::new();
    kv.scan(family, from, to, &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        if found.len() == most {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .unwrap();
    found
}

fn expected(model: &Model, family: Family, from: &[u8], high: Bound<&[u8]>) -> Vec<Entry> {
    let within = |key: &[u8]| match high {
        Bound::Included(high) => key <= high,
        Bound::Excluded(high) => key < high,
        Bound::Unbounded => true,
    };
    model
        .iter()
        .filter(|((f, key), _)| *f == family && key.as_slice() >= from && within(key))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect()
}

fn check(kv: &dyn KvRead, model: &Model, family: Family, from: &[u8], to: Option<&[u8]>) {
    let value = model.get(&(family, from.to_vec())).cloned();
    assert_eq!(
        kv.get(family, from).unwrap().map(|v| v.to_vec()),
        value,
        "get {from:?}"
    );
    let all = expected(
        model,
        family,
        from,
        to.map_or(Bound::Unbounded, Bound::Excluded),
    );
    assert_eq!(
        collect(kv, family, from, to, usize::MAX),
        all,
        "scan {from:?} to {to:?}"
    );
    let two = all.iter().take(2).cloned().collect::<Vec<_>>();
    assert_eq!(
        collect(kv, family, from, to, 2),
        two,
        "scan of two {from:?} to {to:?}"
    );
    let highs = match to {
        Some(to) => vec![Bound::Included(to), Bound::Excluded(to)],
        None => vec![Bound::Unbounded],
    };
    for high in highs {
        let last = expected(model, family, from, high).pop();
        let found = kv.last_before(family, from, high).unwrap();
        let found = found.map(|(key, value)| (key.to_vec(), value.to_vec()));
        assert_eq!(found, last, "last from {from:?} within {high:?}");
    }
}

/// Plays the steps over `kv`, which is emptied first.
fn play(kv: &dyn Kv, steps: &[Step]) {
    let mut clear = Batch::new();
    for family in Family::ALL {
        for (key, _) in collect(kv, *family, &[], None, usize::MAX) {
            clear.delete(*family, key);
        }
    }
    kv.write(&clear).unwrap();

    let mut committed = Model::new();
    let mut steps = steps.iter();
    let mut more = true;
    while more {
        let before = kv.view();
        let committed_before = committed.clone();
        let mut model = committed.clone();
        let mut overlay = Overlay::new(kv);
        let mut marks = vec![(overlay.mark(), model.clone())];
        more = false;
        for step in steps.by_ref() {
            match step {
                Step::Put(family, key, value) => {
                    overlay.put(*family, key.clone(), vec![*value]);
                    model.insert((*family, key.clone()), vec![*value]);
                }
                Step::Delete(family, key) => {
                    overlay.delete(*family, key.clone());
                    model.remove(&(*family, key.clone()));
                }
                Step::Mark => marks.push((overlay.mark(), model.clone())),
                Step::RollBack => {
                    if let Some((mark, then)) = marks.pop() {
                        overlay.roll_back(mark);
                        assert!(!overlay.changed_since(mark));
                        model = then;
                    }
                }
                Step::Read(family, from, to) => {
                    check(&overlay, &model, *family, from, to.as_deref());
                    check(kv, &committed, *family, from, to.as_deref());
                }
                Step::Commit => {
                    kv.write(&overlay.into_batch()).unwrap();
                    committed = model;
                    more = true;
                    break;
                }
                Step::Abandon => {
                    more = true;
                    break;
                }
                Step::Flush => kv.flush().unwrap(),
            }
        }
        for family in [Family::Inodes, Family::Extents] {
            check(before.as_ref(), &committed_before, family, &[], None);
            check(kv, &committed, family, &[], None);
        }
    }
}

fn play_random(kv: &dyn Kv, cases: u32) {
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&prop::collection::vec(step(), 0..60), |steps| {
            play(kv, &steps);
            Ok(())
        })
        .unwrap();
}

#[test]
fn memory_behaves_as_an_ordered_map() {
    play_random(&Memory::new(), 512);
}

#[test]
fn rocks_behaves_as_an_ordered_map() {
    let dir = tempfile::tempdir().unwrap();
    let kv = Rocks::open(dir.path(), RocksOptions::default()).unwrap();
    play_random(&kv, 128);
}

fn sample(kv: &dyn Kv, value: &'static str) {
    let mut batch = Batch::new();
    batch.put(Family::Inodes, &b"a"[..], value);
    batch.put(Family::System, &b"z"[..], value);
    kv.write(&batch).unwrap();
}

fn value(kv: &dyn KvRead, family: Family, key: &str) -> Option<Bytes> {
    kv.get(family, key.as_bytes()).unwrap()
}

#[test]
fn an_imported_copy_replaces_everything_and_views_keep_what_they_saw() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = Rocks::open(&dir.path().join("rocks"), RocksOptions::default()).unwrap();
    let memory = Memory::new();
    for (kv, name) in [(&rocks as &dyn Kv, "copy-rocks"), (&memory, "copy-memory")] {
        let copy = dir.path().join(name);
        sample(kv, "one");
        kv.export(&copy).unwrap();
        sample(kv, "two");
        let mut batch = Batch::new();
        batch.put(Family::Names, &b"later"[..], "x");
        kv.write(&batch).unwrap();
        let view = kv.view();

        kv.import(&copy).unwrap();
        kv.import(&copy).unwrap();
        assert_eq!(value(kv, Family::Inodes, "a").unwrap(), "one");
        assert_eq!(value(kv, Family::System, "z").unwrap(), "one");
        assert_eq!(value(kv, Family::Names, "later"), None);
        assert_eq!(value(view.as_ref(), Family::Inodes, "a").unwrap(), "two");
        drop(view);
        sample(kv, "three");
        kv.flush().unwrap();
    }
    drop(rocks);
    let left: Vec<_> = std::fs::read_dir(dir.path().join("rocks"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1, "replaced generations are removed: {left:?}");
    let rocks = Rocks::open(&dir.path().join("rocks"), RocksOptions::default()).unwrap();
    assert_eq!(value(&rocks, Family::Inodes, "a").unwrap(), "three");
}

#[test]
fn a_damaged_copy_is_refused_and_the_old_state_stays() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = Rocks::open(&dir.path().join("rocks"), RocksOptions::default()).unwrap();
    let memory = Memory::new();
    for (kv, name) in [(&rocks as &dyn Kv, "copy-rocks"), (&memory, "copy-memory")] {
        let copy = dir.path().join(name);
        sample(kv, "one");
        kv.export(&copy).unwrap();
        sample(kv, "two");
        kv.flush().unwrap();
        flip_data_byte(&copy);
        let error = kv.import(&copy).unwrap_err();
        assert_eq!(error.code, quarry_common::Code::ChecksumMismatch, "{error}");
        assert_eq!(value(kv, Family::Inodes, "a").unwrap(), "two");
    }
}

/// Flips a byte where the data of a copy is: the first bytes of a table file or the end of a dump.
fn flip_data_byte(copy: &std::path::Path) {
    let mut paths: Vec<_> = std::fs::read_dir(copy)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let is_data = |path: &&std::path::PathBuf| {
        path.extension().is_some_and(|e| e == "sst") || path.ends_with("dump")
    };
    let path = paths.iter().find(is_data).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let at = if path.ends_with("dump") {
        bytes.len() - 1
    } else {
        3
    };
    bytes[at] ^= 1;
    // A new file: table files of a copy are linked to those of the state.
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn rocks_without_one_of_its_files_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let kv = Rocks::open(dir.path(), RocksOptions::default()).unwrap();
    sample(&kv, "one");
    kv.flush().unwrap();
    drop(kv);
    let generation = dir.path().join("00000001");
    let table = std::fs::read_dir(&generation)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .unwrap();
    std::fs::remove_file(table).unwrap();
    let error = Rocks::open(dir.path(), RocksOptions::default())
        .err()
        .expect("it opened");
    assert!(error.text.contains("00000001"), "{error}");
}

#[test]
fn a_state_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let _open = Rocks::open(dir.path(), RocksOptions::default()).unwrap();
    assert!(Rocks::open(dir.path(), RocksOptions::default()).is_err());
}

#[test]
fn a_power_cut_takes_memory_back_to_its_flush() {
    let kv = Memory::new();
    sample(&kv, "one");
    kv.flush().unwrap();
    sample(&kv, "two");
    assert_eq!(
        value(&kv.after_power_cut(), Family::Inodes, "a").unwrap(),
        "one"
    );
}

#[test]
fn the_key_after_a_prefix_is_after_all_it_begins() {
    assert_eq!(super::after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
    assert_eq!(super::after_prefix(b"\xff"), None);
    assert_eq!(super::after_prefix(b""), None);
}
