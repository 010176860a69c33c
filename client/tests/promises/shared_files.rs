//! A file that several handles share: each sees what any of them wrote, and what was written last counts.

use super::*;
use quarry_client::SharedFile;
use quarry_common::ids::InodeId;
use quarry_common::wire::meta::{NewExtent, Op};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::atomic::{AtomicU64, Ordering};

async fn made(client: &Client, path: &[u8]) -> (InodeId, Arc<SharedFile>) {
    let inode = client.create(path, 0o644, true).await.unwrap().inode;
    (inode, client.open_shared(inode).await.unwrap().0)
}

async fn seen(file: &Arc<SharedFile>, offset: u64, len: usize) -> Vec<u8> {
    file.read_at(offset, len).await.unwrap().concat()
}

#[tokio::test]
async fn all_handles_see_what_one_wrote_and_other_clients_what_is_synced() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let (inode, one) = made(&client, b"/file").await;
    let other = client.open_shared(inode).await.unwrap().0;
    assert!(Arc::ptr_eq(&one, &other));
    one.write_at(5, content(100).into()).await.unwrap();
    let mut expected = vec![0; 5];
    expected.extend(content(100));
    assert_eq!(seen(&other, 0, 1000).await, expected);
    assert_eq!(other.attr().await.unwrap().size, 105);
    assert_eq!(read(&client, b"/file").await.unwrap(), b"");
    other.sync().await.unwrap();
    assert_eq!(read(&client, b"/file").await.unwrap(), expected);
    drop((one, other));
    let again = client.open_shared(inode).await.unwrap().0;
    assert_eq!(seen(&again, 0, 1000).await, expected);
}

#[tokio::test]
async fn what_nobody_syncs_is_committed_soon() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let (_, file) = made(&client, b"/file").await;
    file.write_at(0, content(100).into()).await.unwrap();
    // Also what nobody holds any more.
    drop(file);
    let begun = Instant::now();
    while read(&client, b"/file").await.unwrap() != content(100) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it is not");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn commits_are_refused(fake: &Fake) {
    fake.state().faults.refuses = Some(Box::new(|op| {
        let commits = matches!(op, Op::CommitExtents { .. });
        commits.then_some(Code::ClusterFull)
    }));
}

#[tokio::test]
async fn of_bytes_that_are_lost_all_are_told_who_have_the_file_open() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let (inode, one) = made(&client, b"/file").await;
    let other = client.open_shared(inode).await.unwrap().0;
    one.write_at(0, content(10).into()).await.unwrap();
    one.sync().await.unwrap();
    commits_are_refused(&fake);
    one.write_at(0, vec![0xff; 20].into()).await.unwrap();
    for file in [&one, &other, &one] {
        let error = file.sync().await.unwrap_err();
        assert_eq!(error.code, Code::ClusterFull, "{error}");
    }
    fake.state().faults.refuses = None;
    assert!(other.write_at(50, content(5).into()).await.is_err());
    assert!(other.append(content(5).into()).await.is_err());
    // What is durable is read on, and who opens the file from now on finds it well.
    assert_eq!(seen(&one, 0, 100).await, content(10));
    let again = client.open_shared(inode).await.unwrap().0;
    again.write_at(10, content(5).into()).await.unwrap();
    again.sync().await.unwrap();
    assert_eq!(read(&client, b"/file").await.unwrap().len(), 15);
    assert!(one.sync().await.is_err());
}

#[tokio::test]
async fn bytes_that_are_lost_unasked_are_told_by_the_next_sync() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let (_, file) = made(&client, b"/file").await;
    commits_are_refused(&fake);
    file.write_at(0, content(20).into()).await.unwrap();
    let begun = Instant::now();
    while file.attr().await.unwrap().size > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "it is kept");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fake.state().faults.refuses = None;
    let error = file.sync().await.unwrap_err();
    assert_eq!(error.code, Code::ClusterFull, "{error}");
    assert!(read(&client, b"/file").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_with_its_session_is_made_again() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let (_, file) = made(&client, b"/file").await;
    file.write_at(0, content(1_000).into()).await.unwrap();
    let commits = |op: &Op| matches!(op, Op::CommitExtents { .. });
    fake.state().faults.ends_session = Some(commits);
    file.sync().await.unwrap();
    assert!(
        fake.state().faults.ends_session.is_none(),
        "nothing was lost"
    );
    file.write_at(1_000, content(10).into()).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(read(&client, b"/file").await.unwrap().len(), 1_010);
}

#[tokio::test]
async fn a_commit_that_replaces_too_much_is_made_in_parts() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let (_, file) = made(&client, b"/file").await;
    let mut model = vec![0; 4_000];
    for at in (0..4_000).step_by(100) {
        model[at..at + 50].fill(at as u8 | 1);
        file.write_at(at as u64, vec![at as u8 | 1; 50].into())
            .await
            .unwrap();
    }
    fake.state().faults.refuses = Some(Box::new(|op| {
        let Op::CommitExtents { extents, .. } = op else {
            return None;
        };
        // One at a time, and about two places only few bytes.
        let is_dense = |extent: &NewExtent| matches!(extent.offset.0, 300..400 | 2_000..2_100);
        let is_too_big = |extent: &NewExtent| is_dense(extent) && extent.len > 13;
        let is_refused = extents.len() > 1 || extents.iter().any(is_too_big);
        is_refused.then_some(Code::TooBig)
    }));
    file.sync().await.unwrap();
    fake.state().faults.refuses = None;
    model.truncate(3_950);
    assert!(read(&client, b"/file").await.unwrap() == model);
}

#[tokio::test]
async fn the_time_of_a_write_is_that_of_its_commit() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let (_, file) = made(&client, b"/file").await;
    file.write_at(0, content(10).into()).await.unwrap();
    let written = file.attr().await.unwrap().mtime;
    assert!(written.0 > 0);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(file.attr().await.unwrap().mtime, written);
    file.sync().await.unwrap();
    assert_eq!(file.attr().await.unwrap().mtime, written);
    file.write_at(0, content(10).into()).await.unwrap();
    assert!(file.attr().await.unwrap().mtime > written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_again_while_it_leaves_is_committed_after_it() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let (_, file) = made(&client, b"/file").await;
    let mut random = StdRng::seed_from_u64(7);
    let mut model = vec![0; 16 * MIB];
    for at in 0..16 {
        // Bytes everywhere.
        file.write_at((at * MIB) as u64, vec![0; MIB].into())
            .await
            .unwrap();
    }
    for round in 0..80u8 {
        let at = random.random_range(0..60) * (MIB / 4);
        model[at..at + MIB].fill(round);
        file.write_at(at as u64, vec![round; MIB].into())
            .await
            .unwrap();
        let at = random.random_range(0..60) * (MIB / 4);
        assert!(
            seen(&file, at as u64, MIB).await == model[at..at + MIB],
            "{round}"
        );
    }
    file.sync().await.unwrap();
    assert!(read(&client, b"/file").await.unwrap() == model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_length_never_shrinks_while_what_was_written_is_committed() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let (_, file) = made(&client, b"/file").await;
    fake.state().faults.reads_late = Duration::from_millis(3);
    let (writer, written) = (file.clone(), Arc::new(AtomicU64::new(0)));
    let taken = written.clone();
    let writing = tokio::spawn(async move {
        for at in 0.. {
            let ones = vec![1; 300].into();
            writer.write_at(at * 300, ones).await.unwrap();
            taken.store((at + 1) * 300, Ordering::SeqCst);
            if at % 3 == 0 {
                writer.sync().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut least = 0;
    for _ in 0..80 {
        least = written.load(Ordering::SeqCst).max(least);
        let size = file.attr().await.unwrap().size;
        let bytes = seen(&file, 0, 1 << 20).await;
        assert!(
            size >= least && bytes.len() as u64 >= size,
            "{least} {size} {}",
            bytes.len()
        );
        assert!(bytes.iter().all(|byte| *byte == 1), "zeros were seen");
        least = size;
    }
    assert!(least > 1_000 && !writing.is_finished());
    writing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_never_goes_back() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let (_, file) = made(&client, b"/file").await;
    file.write_at(0, vec![0; 300].into()).await.unwrap();
    file.sync().await.unwrap();
    fake.state().faults.reads_late = Duration::from_millis(3);
    let (writer, written) = (file.clone(), Arc::new(AtomicU64::new(0)));
    let taken = written.clone();
    let writing = tokio::spawn(async move {
        for round in 0..200u8 {
            let bytes = vec![round; 300].into();
            writer.write_at(0, bytes).await.unwrap();
            taken.store(round.into(), Ordering::SeqCst);
            writer.sync().await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let mut looks = 0;
    while !writing.is_finished() {
        let least = written.load(Ordering::SeqCst);
        let bytes = seen(&file, 0, 300).await;
        let is_one = bytes.iter().all(|byte| *byte == bytes[0]);
        assert!(is_one && u64::from(bytes[0]) >= least, "{least} {bytes:?}");
        looks += 1;
    }
    writing.await.unwrap();
    assert!(looks > 20, "{looks}");
}

/// A writer that is faster than the dataservers takes no more memory than it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_wait_while_too_much_is_not_committed() {
    let fake = Fake::new(3);
    let options = Options {
        dirty_max: 8 << 20,
        ..Options::default()
    };
    let client = fake.client_with(options).await;
    fake.state().faults.stream_rate = Some(4 << 20);
    let (_, one) = made(&client, b"/one").await;
    let (_, other) = made(&client, b"/other").await;
    let begun = Instant::now();
    let write = async |file: &Arc<SharedFile>| {
        for at in 0..12 {
            let bytes = vec![at as u8; MIB];
            file.write_at(at * MIB as u64, bytes.into()).await.unwrap();
        }
    };
    tokio::join!(write(&one), write(&other));
    // Of 24 MiB at most 8, and a piece of each file, are on the way at the end.
    let least = Duration::from_secs(1);
    assert!(begun.elapsed() > least, "{:?}", begun.elapsed());
    fake.state().faults.stream_rate = None;
    one.sync().await.unwrap();
    other.sync().await.unwrap();
    let bytes = read(&client, b"/other").await.unwrap();
    assert!((0..12).all(|at| {
        bytes[at * MIB..][..MIB]
            .iter()
            .all(|byte| *byte == at as u8)
    }));
}

/// Random operations through two handles, with sessions that are lost and pipelines that break in between, against a
/// vector of bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_give_what_they_give_on_a_vector() {
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let fake = Fake::new(3);
        let client = fake.client().await;
        let (inode, one) = made(&client, b"/file").await;
        let other = client.open_shared(inode).await.unwrap().0;
        let mut model: Vec<u8> = Vec::new();
        for step in 0..250 {
            let file = if random.random() { &one } else { &other };
            let at = random.random_range(0..6000u64);
            let len = random.random_range(1..1500usize);
            let what = random.random_range(0..100);
            let put = |model: &mut Vec<u8>, at: usize, bytes: &[u8]| {
                model.resize(model.len().max(at + bytes.len()), 0);
                model[at..at + bytes.len()].copy_from_slice(bytes);
            };
            match what {
                0..50 => {
                    let bytes = vec![random.random::<u8>() | 1; len];
                    put(&mut model, at as usize, &bytes);
                    file.write_at(at, bytes.into()).await.unwrap();
                }
                50..75 => {
                    let end = model.len().min(at as usize + len);
                    let expected = model.get(at as usize..end).unwrap_or_default();
                    let bytes = seen(file, at, len).await;
                    assert!(bytes == expected, "seed {seed} step {step}: {at} {len}");
                }
                75..80 => file.sync().await.unwrap(),
                80..85 => {
                    model.resize(at as usize, 0);
                    file.set_len(at).await.unwrap();
                }
                85..90 => {
                    let bytes = vec![random.random::<u8>() | 1; len];
                    let end = model.len();
                    put(&mut model, end, &bytes);
                    assert_eq!(file.append(bytes.into()).await.unwrap(), end as u64);
                }
                90..94 => {
                    let keep = random.random();
                    let end = at as usize + len;
                    let end = if keep { end.min(model.len()) } else { end };
                    if (at as usize) < end {
                        put(&mut model, at as usize, &vec![0; end - at as usize]);
                    }
                    file.punch(at..at + len as u64, keep).await.unwrap();
                }
                94..97 => assert_eq!(file.attr().await.unwrap().size, model.len() as u64),
                _ => {
                    let mut state = fake.state();
                    match random.random_range(0..3) {
                        0 => state.faults.sessions_lost = true,
                        1 => state.faults.old_receipts = 1,
                        _ => state.faults.overloaded = 2,
                    }
                }
            }
        }
        one.sync().await.unwrap();
        assert!(
            read(&client, b"/file").await.unwrap() == model,
            "seed {seed}"
        );
    }
}
