//! What the library promises, on a cluster in memory with faults.

#[allow(dead_code)]
mod fake;

use bytes::Bytes;
use fake::Fake;
use quarry_client::{
    Client, OpenOptions, Options, Place, Progress, PublishOptions, Transfer, TreeOptions, get_tree,
    put_tree,
};
use quarry_common::Code;
use quarry_common::ids::{DiskId, Epoch, ServerId};
use std::io::SeekFrom;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

const MIB: usize = 1 << 20;

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 7) >> 5) as u8 | 1).collect()
}

fn transfer(options: TreeOptions) -> Arc<Transfer> {
    Arc::new(Transfer::new(options, Arc::new(Progress::default())))
}

async fn publish(client: &Client, path: &[u8], bytes: &[u8]) -> quarry_common::Result<()> {
    client
        .publish(path, bytes, PublishOptions::default())
        .await
        .map(drop)
}

async fn read(client: &Client, path: &[u8]) -> quarry_common::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    client.read_to(path, &mut bytes, None, None).await?;
    Ok(bytes)
}

/// The disk from which a file is read.
async fn first_choice(fake: &Fake, client: &Client, path: &[u8]) -> DiskId {
    fake.state().reads.clear();
    for _ in 0..5 {
        read(client, path).await.unwrap();
    }
    let reads = std::mem::take(&mut fake.state().reads);
    let most = reads.into_iter().max_by_key(|(_, count)| *count);
    most.unwrap().0
}

#[tokio::test]
async fn files_of_all_lengths_read_back_as_they_were_written() {
    let client = Fake::new(5).client().await;
    for len in [
        0,
        1,
        256,
        257,
        65_536,
        65_537,
        3 * MIB + 1,
        64 * MIB + 9,
        66 * MIB,
    ] {
        let bytes = content(len);
        publish(&client, b"/file", &bytes).await.unwrap();
        assert_eq!(client.stat(b"/file").await.unwrap().size, len as u64);
        assert!(read(&client, b"/file").await.unwrap() == bytes, "{len}");
    }
}

#[tokio::test]
async fn a_range_of_a_file_is_read_without_the_rest() {
    let client = Fake::new(3).client().await;
    let bytes = content(5 * MIB);
    publish(&client, b"/file", &bytes).await.unwrap();
    for range in [
        0..1u64,
        70_000..70_001,
        1_000_000..4_000_000,
        5_242_879..9_999_999,
    ] {
        let mut part = Vec::new();
        let wanted = Some(range.clone());
        client
            .read_to(b"/file", &mut part, wanted, None)
            .await
            .unwrap();
        let end = (range.end as usize).min(bytes.len());
        assert!(part == bytes[range.start as usize..end], "{range:?}");
    }
}

#[tokio::test]
async fn runs_of_zeros_are_holes_and_read_as_zeros() {
    let client = Fake::new(3).client().await;
    let mut bytes = content(MIB);
    bytes.resize(10 * MIB, 0);
    bytes.extend(content(100));
    bytes.resize(15 * MIB, 0);
    publish(&client, b"/sparse", &bytes).await.unwrap();
    assert!(read(&client, b"/sparse").await.unwrap() == bytes);
    let located = client.locate(b"/sparse").await.unwrap();
    let holes = located
        .iter()
        .filter(|range| matches!(range.at, Place::Hole));
    assert!(holes.map(|hole| hole.len).sum::<u64>() >= 13 * MIB as u64);
    assert_eq!(
        located.iter().map(|range| range.len).sum::<u64>(),
        bytes.len() as u64
    );
}

#[tokio::test]
async fn a_file_of_more_extents_than_one_command_takes_appears_whole() {
    let client = Fake::new(3).client().await;
    let mut bytes = Vec::new();
    for _ in 0..600 {
        bytes.extend(content(65_536));
        bytes.resize(bytes.len() + 65_536, 0);
    }
    publish(&client, b"/many", &bytes).await.unwrap();
    assert!(read(&client, b"/many").await.unwrap() == bytes);
}

#[tokio::test]
async fn a_mutation_whose_answer_was_lost_happens_once() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let options = OpenOptions {
        write: true,
        create: true,
        ..OpenOptions::default()
    };
    let mut file = client.open(b"/log", options).await.unwrap();
    fake.state().faults.answers_lost = 2;
    assert_eq!(file.append(Bytes::from_static(b"one")).await.unwrap(), 0);
    assert_eq!(file.append(Bytes::from_static(b"two")).await.unwrap(), 3);
    assert_eq!(fake.state().meta.appends, 2);
    assert_eq!(read(&client, b"/log").await.unwrap(), b"onetwo");
}

#[tokio::test]
async fn a_request_open_when_its_session_is_lost_is_unknown_and_later_ones_work() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/before", 0o755).await.unwrap();
    // The answer is lost, and with it goes the session.
    let lost = client.clone();
    fake.state().faults.answers_lost = 1;
    let request = tokio::spawn(async move { lost.mkdir(b"/unknown", 0o755).await });
    while fake.state().faults.answers_lost > 0 {
        tokio::task::yield_now().await;
    }
    fake.state().faults.sessions_lost = true;
    let error = request.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::UnknownOutcome, "{error}");
    assert!(error.text.contains("/unknown"), "{error}");
    client.mkdir(b"/after", 0o755).await.unwrap();
}

#[tokio::test]
async fn a_request_refused_by_a_lost_session_is_done_in_a_new_one() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/before", 0o755).await.unwrap();
    fake.state().faults.sessions_lost = true;
    client.mkdir(b"/after", 0o755).await.unwrap();
    publish(&client, b"/after/file", &content(MIB))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_request_that_was_lost_before_its_session_was_is_done_in_a_new_one() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/before", 0o755).await.unwrap();
    let lost = client.clone();
    fake.state().faults.requests_lost = 1;
    let request = tokio::spawn(async move { lost.mkdir(b"/once", 0o755).await });
    while fake.state().faults.requests_lost > 0 {
        tokio::task::yield_now().await;
    }
    fake.state().faults.sessions_lost = true;
    request.await.unwrap().unwrap();
    client.stat(b"/once").await.unwrap();
}

/// A client that asks the metaservers for a fifth of a second only.
async fn impatient(fake: &Fake) -> Client {
    let options = Options {
        meta_deadline: Duration::from_millis(200),
        ..Options::default()
    };
    fake.client_with(options).await
}

#[tokio::test]
async fn a_mutation_that_was_refused_each_time_is_known_not_to_be_done() {
    let fake = Fake::new(3);
    let client = impatient(&fake).await;
    client.mkdir(b"/before", 0o755).await.unwrap();
    fake.state().faults.overloaded = u32::MAX;
    let error = client.mkdir(b"/dir", 0o755).await.unwrap_err();
    assert_eq!(error.code, Code::Overloaded, "{error}");
    fake.state().faults.requests_lost = 1;
    let error = client.mkdir(b"/dir", 0o755).await.unwrap_err();
    assert_eq!(error.code, Code::UnknownOutcome, "{error}");
}

#[tokio::test]
async fn a_commit_waits_while_there_is_too_much_to_do() {
    let fake = Fake::new(3);
    let client = impatient(&fake).await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    file.write_at(0, content(100).into()).await.unwrap();
    fake.state().faults.overloaded = u32::MAX;
    let eased = fake.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(800)).await;
        eased.state().faults.overloaded = 0;
    });
    file.close().await.unwrap();
    assert!(read(&client, b"/file").await.unwrap() == content(100));
}

#[tokio::test]
async fn a_request_that_waits_for_others_goes_on_when_they_have_their_answers() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/opens-the-session", 0o755).await.unwrap();
    fake.state().faults.long_answers = true;
    fake.state().faults.answer_late = Duration::from_millis(300);
    let late = client.mkdir(b"/answered-late", 0o755);
    let next = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.mkdir(b"/next", 0o755).await
    };
    let both = async { tokio::join!(late, next) };
    let both = tokio::time::timeout(Duration::from_secs(5), both).await;
    let (late, next) = both.expect("the second is told that the first has its answer");
    late.unwrap();
    next.unwrap();
}

#[tokio::test]
async fn a_metaserver_that_is_refused_is_left_for_another_one() {
    let fake = Fake::new(3);
    let metaservers = [(ServerId(1), "one".into()), (ServerId(2), "two".into())];
    fake.state().map.topology.metaservers = metaservers.into();
    let client = fake.client().await;
    client.mkdir(b"/before", 0o755).await.unwrap();
    fake.state().faults.meta_refused = [ServerId(1)].into();
    client.mkdir(b"/dir", 0o755).await.unwrap();
    // All are: it is said at once.
    fake.state().faults.meta_refused = [ServerId(1), ServerId(2)].into();
    let error = client.mkdir(b"/none", 0o755).await.unwrap_err();
    assert_eq!(error.code, Code::Configuration, "{error}");
    // An earlier attempt may have been carried out.
    fake.state().faults.meta_refused.clear();
    fake.state().faults.requests_lost = 2;
    let asking = client.clone();
    let request = tokio::spawn(async move { asking.mkdir(b"/unknown", 0o755).await });
    while fake.state().faults.requests_lost > 0 {
        tokio::task::yield_now().await;
    }
    fake.state().faults.meta_refused = [ServerId(1), ServerId(2)].into();
    let error = request.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::UnknownOutcome, "{error}");
}

#[tokio::test]
async fn a_dataserver_that_is_refused_is_a_failure_of_its_disks_only() {
    let fake = Fake::new(6);
    let client = fake.client().await;
    fake.state().faults.refused = [ServerId(1), ServerId(2)].into();
    for len in [1_000, MIB] {
        for _ in 0..8 {
            publish(&client, b"/file", &content(len)).await.unwrap();
            assert!(read(&client, b"/file").await.unwrap() == content(len));
        }
    }
    // Where all are, something is wrong with us.
    fake.state().faults.refused = (1..=6).map(ServerId).collect();
    let error = publish(&client, b"/file", &content(MIB)).await.unwrap_err();
    assert_eq!(error.code, Code::Configuration, "{error}");
}

#[tokio::test]
async fn a_writer_gives_up_when_no_chunk_ids_can_be_had() {
    let fake = Fake::new(3);
    let options = Options {
        data_deadline: Duration::from_millis(500),
        ..Options::default()
    };
    let client = fake.client_with(options).await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    fake.state().faults.meta_cut = true;
    file.write_at(0, content(MIB).into()).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(30), file.close());
    let error = closed.await.expect("it ends").unwrap_err();
    assert_eq!(error.code, Code::Unreachable, "{error}");
    assert!(error.text.contains("no chunk ids"), "{error}");
}

#[tokio::test]
async fn what_changes_while_the_map_comes_in_pages_comes_with_the_next_one() {
    let fake = Fake::new(3);
    fake.state().faults.map_in_pages = true;
    let client = fake.client().await;
    let map = client.refresh_map().await.unwrap();
    assert_eq!(map.rows[&fake::POOL][0].epoch, Epoch(2));
    assert_eq!(map.epoch, Epoch(2));
}

#[tokio::test]
async fn an_old_receipt_is_not_waited_for_and_who_has_the_bytes_writes_them_again() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let begun = Instant::now();
    let old = || fake.state().faults.old_receipts = 1;
    old();
    let error = publish(&client, b"/stream", &content(MIB))
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::OldReceipt, "{error}");
    let options = OpenOptions {
        write: true,
        create: true,
        ..OpenOptions::default()
    };
    let mut file = client.open(b"/log", options).await.unwrap();
    old();
    file.append(content(1_000).into()).await.unwrap();
    assert!(read(&client, b"/log").await.unwrap() == content(1_000));
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("file");
    std::fs::write(&local, content(MIB)).unwrap();
    old();
    let transfer = transfer(TreeOptions::default());
    put_tree(&client, &local, b"/file", &transfer)
        .await
        .unwrap();
    assert!(read(&client, b"/file").await.unwrap() == content(MIB));
    assert_eq!(fake.state().faults.old_receipts, 0);
    // A refusal is certain, so that this is no reason to replace anything.
    old();
    let transfer = crate::transfer(TreeOptions {
        replace: false,
        ..TreeOptions::default()
    });
    put_tree(&client, &local, b"/other", &transfer)
        .await
        .unwrap();
    assert!(read(&client, b"/other").await.unwrap() == content(MIB));
    old();
    let error = put_tree(&client, &local, b"/other", &transfer)
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::Exists, "{error}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn a_log_of_short_records_is_read_without_a_task_for_each() {
    let client = Fake::new(3).client().await;
    let options = OpenOptions {
        write: true,
        create: true,
        ..OpenOptions::default()
    };
    let mut file = client.open(b"/log", options).await.unwrap();
    for _ in 0..2_000 {
        file.append(Bytes::from_static(b"a record\n"))
            .await
            .unwrap();
    }
    let (mut all, mut polls) = (Vec::new(), 0);
    let mut reading = std::pin::pin!(client.read_to(b"/log", &mut all, None, None));
    let read = std::future::poll_fn(|context| {
        polls += 1;
        reading.as_mut().poll(context)
    });
    assert_eq!(read.await.unwrap(), 18_000);
    // Who waits for a task is polled again.
    assert!(polls < 5, "{polls}");
}

#[tokio::test]
async fn few_of_many_short_records_are_asked_for_at_a_time() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let options = OpenOptions {
        write: true,
        create: true,
        ..OpenOptions::default()
    };
    let mut file = client.open(b"/log", options).await.unwrap();
    for _ in 0..300 {
        file.append(content(1_000).into()).await.unwrap();
    }
    let long = Duration::from_secs(1);
    fake.state().faults.slow = (1..=3).map(|disk| (DiskId(disk), long)).collect();
    let mut all = Vec::new();
    let reading = client.read_to(b"/log", &mut all, None, None);
    let read = tokio::time::timeout(Duration::from_millis(200), reading);
    read.await.unwrap_err();
    let asked: u32 = fake.state().reads.values().sum();
    assert!((1..=130).contains(&asked), "{asked}");
}

#[tokio::test]
async fn directories_are_made_along_any_spelling_of_a_path() {
    let client = Fake::new(3).client().await;
    for path in ["/", "//", "/.."] {
        let error = client.mkdir(path.as_bytes(), 0o755).await.unwrap_err();
        assert_eq!(error.code, Code::Exists, "{error}");
        client.mkdir_all(path.as_bytes(), 0o755).await.unwrap();
    }
    client.mkdir_all(b"/a/./b", 0o755).await.unwrap();
    client.mkdir_all(b"/c/../d/", 0o755).await.unwrap();
    for path in ["/a/b", "/c", "/d"] {
        client.stat(path.as_bytes()).await.unwrap();
        let again = client.mkdir(format!("{path}/.").as_bytes(), 0o755).await;
        assert_eq!(again.unwrap_err().code, Code::Exists);
    }
    let error = client.mkdir(b"/none/.", 0o755).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound, "{error}");
}

#[tokio::test]
async fn what_a_lost_session_had_not_committed_is_written_again() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    let bytes = content(3 * MIB);
    // Out of order, so that some of it is durable and not committed.
    for (at, part) in [(2, 0), (0, 1), (1, 2)] {
        let offset = (at * MIB) as u64;
        let part = content(MIB + part)[part..].to_vec();
        file.write_at(offset, part.into()).await.unwrap();
    }
    // Else the session is lost before anything is written with it.
    while fake.state().chunks.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let streams = fake.state().write_streams;
    fake.state().faults.sessions_lost = true;
    file.write_at(3 * MIB as u64, content(100).into())
        .await
        .unwrap();
    file.close().await.unwrap();
    assert!(fake.state().write_streams > streams);
    let read = read(&client, b"/file").await.unwrap();
    assert_eq!(read.len(), 3 * MIB + 100);
    assert!(read[2 * MIB..3 * MIB] == bytes[..MIB]);
    assert!(read[..MIB] == content(MIB + 1)[1..]);
    assert!(read[MIB..2 * MIB] == content(MIB + 2)[2..]);
    assert!(read[3 * MIB..] == content(100));
}

#[tokio::test]
async fn what_was_committed_is_not_kept_to_be_written_again() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    file.write_at(MIB as u64, content(MIB).into())
        .await
        .unwrap();
    file.sync().await.unwrap();
    file.set_len(0).await.unwrap();
    let bytes = content(2 * MIB + 1)[1..].to_vec();
    file.write_at(0, bytes.clone().into()).await.unwrap();
    fake.state().faults.sessions_lost = true;
    file.close().await.unwrap();
    assert!(read(&client, b"/file").await.unwrap() == bytes);
}

#[tokio::test]
async fn a_file_whose_receipts_never_count_is_not_written_for_ever() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    file.write_at(0, content(MIB).into()).await.unwrap();
    fake.state().faults.old_receipts = u32::MAX;
    let synced = tokio::time::timeout(Duration::from_secs(20), file.sync());
    let error = synced.await.expect("it ends").unwrap_err();
    assert_eq!(error.code, Code::OldReceipt, "{error}");
    assert!(fake.state().write_streams < 20);
    // And says so to whoever comes later.
    fake.state().faults.old_receipts = 0;
    let error = file.close().await.unwrap_err();
    assert_eq!(error.code, Code::OldReceipt, "{error}");
}

#[tokio::test]
async fn little_of_a_long_file_waits_to_be_committed() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    for at in 0..200 {
        let offset = (at * MIB) as u64;
        file.write_at(offset, content(MIB).into()).await.unwrap();
    }
    let size = client.stat(b"/file").await.unwrap().size;
    assert!(size >= 64 << 20, "{size}");
    file.close().await.unwrap();
    assert_eq!(client.stat(b"/file").await.unwrap().size, 200 << 20);
}

#[tokio::test]
async fn what_can_not_be_removed_of_a_tree_stays_and_the_rest_goes() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    for dir in ["/top", "/top/a", "/top/a/b", "/top/c"] {
        client.mkdir(dir.as_bytes(), 0o755).await.unwrap();
        for name in ["one", "two", "three"] {
            let path = format!("{dir}/{name}");
            client.create(path.as_bytes(), 0o644, true).await.unwrap();
        }
    }
    client
        .create(b"/top/a/b/\x1bkept", 0o644, true)
        .await
        .unwrap();
    fake.state().faults.denied = [b"\x1bkept".to_vec()].into();
    let mut failed = Vec::new();
    let removed = client.remove_tree_with(b"/top", |error| failed.push(error.to_string()));
    assert_eq!(removed.await.unwrap(), 13, "twelve files and a directory");
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].starts_with("/top/a/b/\\x1bkept: "), "{failed:?}");
    client.stat(b"/top/a/b").await.unwrap();
    assert!(client.stat(b"/top/c").await.is_err());
    let error = client.remove_tree(b"/top").await.unwrap_err();
    assert_eq!(error.code, Code::AccessDenied, "{error}");
    fake.state().faults.denied.clear();
    assert_eq!(client.remove_tree(b"/top").await.unwrap(), 4);
    assert!(client.stat(b"/top").await.is_err());
}

#[tokio::test]
async fn a_directory_that_can_not_be_listed_stays_and_the_rest_goes() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    for dir in ["/top", "/top/closed", "/top/open"] {
        client.mkdir(dir.as_bytes(), 0o755).await.unwrap();
        let path = format!("{dir}/file");
        client.create(path.as_bytes(), 0o644, true).await.unwrap();
    }
    let closed = client.stat(b"/top/closed").await.unwrap().inode;
    fake.state().faults.closed = [closed].into();
    let mut failed = Vec::new();
    let removed = client.remove_tree_with(b"/top", |error| failed.push(error));
    assert_eq!(removed.await.unwrap(), 3);
    // Not that it is not empty, and nothing of what it is in.
    let [error] = &failed[..] else {
        panic!("{failed:?}");
    };
    assert_eq!(error.code, Code::AccessDenied, "{error}");
    assert!(error.text.starts_with("/top/closed: "), "{error}");
    client.stat(b"/top/closed/file").await.unwrap();
}

#[tokio::test]
async fn what_somebody_else_removes_at_the_same_time_is_no_failure() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    for dir in ["/top", "/top/a", "/top/b"] {
        client.mkdir(dir.as_bytes(), 0o755).await.unwrap();
        for name in ["one", "two", "three"] {
            let path = format!("{dir}/{name}");
            client.create(path.as_bytes(), 0o644, true).await.unwrap();
        }
    }
    // The directory that something was in may be gone as well.
    let removed_first = [
        ("one", Code::NotFound),
        ("two", Code::Stale),
        ("a", Code::NotFound),
        ("b", Code::Stale),
    ];
    let removed_first = removed_first.map(|(name, code)| (name.into(), code));
    fake.state().faults.removed_first = removed_first.into();
    // A name in each, and the top.
    assert_eq!(client.remove_tree(b"/top").await.unwrap(), 3 + 1);
    assert!(client.stat(b"/top").await.is_err());
}

/// Two metaservers, of which the first one, that leads, has fallen silent.
async fn silent_leader() -> (Fake, Client) {
    let fake = Fake::new(3);
    let second = (ServerId(2), "meta-2".into());
    fake.state().map.topology.metaservers.extend([second]);
    let client = fake.client().await;
    client.stat(b"/").await.unwrap();
    let mut state = fake.state();
    state.faults.silent = [ServerId(1)].into();
    state.asked.clear();
    drop(state);
    (fake, client)
}

#[tokio::test]
async fn a_leader_that_is_silent_is_left_soon_for_the_one_that_leads_now() {
    let (_fake, client) = silent_leader().await;
    let begun = Instant::now();
    client.stat(b"/").await.unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn one_of_many_who_wait_asks_who_leads() {
    let (fake, client) = silent_leader().await;
    fake.state().faults.followers = [ServerId(2)].into();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let client = client.clone();
        waiting.spawn(async move { client.stat(b"/").await.map(drop) });
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let asked = fake.state().asked.clone();
    let of = |server| asked.get(&ServerId(server)).copied().unwrap_or(0);
    assert!((100..110).contains(&of(1)), "{asked:?}");
    assert!((1..30).contains(&of(2)), "{asked:?}");
    // All of them hear of it.
    fake.state().faults.followers.clear();
    let begun = Instant::now();
    while let Some(answered) = waiting.join_next().await {
        answered.unwrap().unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_failing_member_costs_a_new_chunk_and_no_byte() {
    let fake = Fake::new(6);
    let client = fake.client().await;
    fake.state().faults.fails_after.insert(DiskId(1), 20 << 20);
    fake.state().faults.fails_after.insert(DiskId(2), 100_000);
    let bytes = content(70 * MIB);
    publish(&client, b"/file", &bytes).await.unwrap();
    assert!(read(&client, b"/file").await.unwrap() == bytes);
    for len in [1_000, 60_000, 200_000] {
        publish(&client, b"/small", &content(len)).await.unwrap();
        assert!(read(&client, b"/small").await.unwrap() == content(len));
    }
    // The metaserver hears of it.
    let suspects = fake.state().meta.suspects.clone();
    let killed = |server: &ServerId| [1, 2].contains(&server.0);
    assert!(
        !suspects.is_empty() && suspects.iter().all(killed),
        "{suspects:?}"
    );
}

#[tokio::test]
async fn a_head_that_is_gone_is_reported_also_after_it_acknowledged_something() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    fake.state().faults.breaks_after = (1..=3).map(|disk| (DiskId(disk), 20 << 20)).collect();
    let bytes = content(30 * MIB);
    publish(&client, b"/file", &bytes).await.unwrap();
    assert_eq!(fake.state().write_streams, 2, "a prefix was kept");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fake.state().meta.suspects.len(), 1);
    assert!(read(&client, b"/file").await.unwrap() == bytes);
}

#[tokio::test]
async fn an_outage_in_the_middle_of_a_transfer_is_ridden_out() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    fake.state().faults.cut = true;
    let healed = fake.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        healed.state().faults.cut = false;
    });
    publish(&client, b"/file", &content(3 * MIB)).await.unwrap();
    fake.state().faults.cut = true;
    let healed = fake.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        healed.state().faults.cut = false;
    });
    assert!(read(&client, b"/file").await.unwrap() == content(3 * MIB));
}

#[tokio::test]
async fn the_time_for_trouble_runs_from_the_first_failure_and_not_from_the_start_of_a_slow_upload()
{
    let fake = Fake::new(6);
    let deadline = Duration::from_secs(1);
    let client = fake.client_with(Options {
        data_deadline: deadline,
        ..Options::default()
    });
    let client = client.await;
    let (mut writer, reader) = tokio::io::duplex(MIB);
    let uploading = client.clone();
    let upload = tokio::spawn(async move {
        let options = PublishOptions::default();
        uploading.publish(b"/file", reader, options).await
    });
    let bytes = content(4 * MIB);
    writer.write_all(&bytes[..2 * MIB]).await.unwrap();
    tokio::time::sleep(deadline * 3 / 2).await;
    fake.state().faults.fails_after = (1..=6).map(|disk| (DiskId(disk), 0)).collect();
    writer.write_all(&bytes[2 * MIB..]).await.unwrap();
    drop(writer);
    let streams = fake.state().write_streams;
    while fake.state().write_streams == streams && !upload.is_finished() {
        tokio::task::yield_now().await;
    }
    fake.state().faults.fails_after.clear();
    upload.await.unwrap().unwrap();
    assert!(read(&client, b"/file").await.unwrap() == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_gives_a_silent_writer_up_is_not_reported() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    fake.state().faults.given_up_after = [Duration::from_secs(300)].into();
    let (mut writer, reader) = tokio::io::duplex(MIB);
    let uploading = client.clone();
    let upload = tokio::spawn(async move {
        let options = PublishOptions::default();
        uploading.publish(b"/file", reader, options).await
    });
    let bytes = content(4 * MIB);
    writer.write_all(&bytes[..3 * MIB]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(310)).await;
    writer.write_all(&bytes[3 * MIB..]).await.unwrap();
    drop(writer);
    upload.await.unwrap().unwrap();
    assert!(read(&client, b"/file").await.unwrap() == bytes);
    assert_eq!(fake.state().write_streams, 2, "it was given up once");
    assert!(fake.state().meta.suspects.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_that_did_all_it_was_asked_for_ends_a_row_of_failures() {
    let fake = Fake::new(6);
    let deadline = Duration::from_millis(300);
    let client = fake.client_with(Options {
        data_deadline: deadline,
        ..Options::default()
    });
    let client = client.await;
    fake.state().faults.given_up_after = [Duration::from_secs(30); 2].into();
    let (mut writer, reader) = tokio::io::duplex(MIB);
    let uploading = client.clone();
    let upload = tokio::spawn(async move {
        let options = PublishOptions::default();
        uploading.publish(b"/file", reader, options).await
    });
    let bytes = content(4 * MIB);
    writer.write_all(&bytes[..3 * MIB]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(fake.state().write_streams, 2);
    // Deadlines are of the real clock.
    std::thread::sleep(deadline);
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(fake.state().write_streams, 3);
    writer.write_all(&bytes[3 * MIB..]).await.unwrap();
    drop(writer);
    upload.await.unwrap().unwrap();
    assert!(read(&client, b"/file").await.unwrap() == bytes);
}

#[tokio::test]
async fn full_disks_are_avoided_and_a_full_cluster_says_so() {
    let fake = Fake::new(6);
    let client = fake.client().await;
    fake.state().faults.full.insert(DiskId(3));
    publish(&client, b"/file", &content(MIB)).await.unwrap();
    let streams = fake.state().write_streams;
    for _ in 0..5 {
        publish(&client, b"/file", &content(MIB)).await.unwrap();
    }
    assert_eq!(
        fake.state().write_streams,
        streams + 5,
        "asked once, then avoided"
    );
    let small = fake.state().small_writes;
    fake.state().faults.full = [DiskId(5)].into();
    for _ in 0..20 {
        publish(&client, b"/small", &content(1000)).await.unwrap();
    }
    assert_eq!(
        fake.state().small_writes,
        small + 21,
        "asked once, then avoided"
    );
    let all = (1..=6).map(DiskId).collect();
    fake.state().faults.full = all;
    for len in [1000, MIB] {
        let error = publish(&client, b"/file", &content(len)).await.unwrap_err();
        assert_eq!(error.code, Code::ClusterFull, "{error}");
        assert!(error.text.contains("add disks"), "{error}");
    }
}

#[tokio::test]
async fn a_full_disk_that_can_be_read_is_still_avoided_by_writers() {
    let fake = Fake::new(4);
    let client = fake.client().await;
    publish(&client, b"/old", &content(MIB)).await.unwrap();
    let readers_disk = first_choice(&fake, &client, b"/old").await;
    fake.state().faults.full = [readers_disk].into();
    while fake.state().write_streams < 3 {
        publish(&client, b"/new", &content(MIB)).await.unwrap();
    }
    let streams = fake.state().write_streams;
    for _ in 0..8 {
        assert!(read(&client, b"/old").await.unwrap() == content(MIB));
        publish(&client, b"/new", &content(MIB)).await.unwrap();
    }
    assert_eq!(fake.state().write_streams, streams + 8);
}

#[tokio::test]
async fn a_refusal_counts_more_than_the_stream_that_broke_with_it() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    fake.state().faults.refusals_late = Duration::from_millis(500);
    fake.state().faults.full = (1..=3).map(DiskId).collect();
    let error = publish(&client, b"/file", &content(MIB)).await.unwrap_err();
    assert_eq!(error.code, Code::ClusterFull, "{error}");
    assert_eq!(fake.state().write_streams, 1);
}

#[tokio::test]
async fn a_wrong_checksum_makes_the_reader_take_another_replica() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    for len in [5_000, 6 * MIB] {
        publish(&client, b"/file", &content(len)).await.unwrap();
        fake.state().faults.corrupt = [DiskId(1), DiskId(3)].into();
        assert!(read(&client, b"/file").await.unwrap() == content(len));
    }
    // Each disk that gave wrong bytes hears of it, and no other.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let told = fake.state().reported.clone();
    let told: Vec<DiskId> = told.into_iter().map(|(disk, _)| disk).collect();
    assert!(!told.is_empty() && !told.contains(&DiskId(2)), "{told:?}");
}

#[tokio::test]
async fn when_all_replicas_are_bad_the_error_names_the_file_and_each_disk() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/dir", 0o755).await.unwrap();
    for len in [5_000, 6 * MIB] {
        publish(&client, b"/dir/file", &content(len)).await.unwrap();
        fake.state().faults.corrupt = [DiskId(1), DiskId(3)].into();
        fake.state()
            .chunks
            .retain(|(disk, _), _| *disk != DiskId(2));
        let outcome = read(&client, b"/dir/file").await;
        let error = outcome.map(|bytes| bytes.len()).unwrap_err();
        assert_eq!(error.code, Code::Io);
        for word in [
            "/dir/file",
            "chunk c",
            "disk 1",
            "disk 2",
            "disk 3",
            "not here",
        ] {
            assert!(error.text.contains(word), "{word}: {error}");
        }
        fake.state().faults.corrupt.clear();
    }
}

#[tokio::test]
async fn a_slow_replica_does_not_hold_up_a_reader() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    publish(&client, b"/file", &content(10_000)).await.unwrap();
    let slow = (1..=2).map(|disk| (DiskId(disk), Duration::from_secs(3)));
    fake.state().faults.slow = slow.collect();
    let begun = Instant::now();
    assert!(read(&client, b"/file").await.unwrap() == content(10_000));
    assert!(
        begun.elapsed() < Duration::from_millis(2_500),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_slow_replica_is_not_waited_for_at_each_read() {
    for len in [10_000, MIB] {
        let fake = Fake::new(3);
        let client = fake.client().await;
        publish(&client, b"/file", &content(len)).await.unwrap();
        let slow = first_choice(&fake, &client, b"/file").await;
        fake.state().faults.slow = [(slow, Duration::from_secs(3))].into();
        for _ in 0..20 {
            assert!(read(&client, b"/file").await.unwrap() == content(len));
        }
        let waited_for = fake.state().reads.get(&slow).copied().unwrap_or(0);
        assert!(waited_for < 10, "{waited_for} times");
        assert!(fake.state().meta.suspects.is_empty(), "it lives");
    }
}

#[tokio::test]
async fn a_dead_replica_is_remembered_and_reported_while_another_one_delivers() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    publish(&client, b"/file", &content(MIB)).await.unwrap();
    fake.state().faults.dead = [DiskId(1), DiskId(2)].into();
    for _ in 0..20 {
        assert!(read(&client, b"/file").await.unwrap() == content(MIB));
    }
    // They may be tried again after half a second.
    let tried: u32 = fake.state().reads.values().sum();
    assert!(tried < 20 + 12, "{tried}");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let suspects = fake.state().meta.suspects.clone();
    let dead = |server: &ServerId| [1, 2].contains(&server.0);
    assert!(
        !suspects.is_empty() && suspects.iter().all(dead),
        "{suspects:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn over_a_slow_link_no_byte_is_sent_twice_and_nobody_is_blamed() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    // A frame takes half a minute.
    fake.state().faults.stream_rate = Some(35_000);
    let bytes = content(3 * MIB + 5);
    publish(&client, b"/file", &bytes).await.unwrap();
    assert_eq!(fake.state().write_streams, 1);
    assert!(read(&client, b"/file").await.unwrap() == bytes);
    let reads: u32 = fake.state().reads.values().sum();
    assert_eq!(reads, 4, "one a unit");
    assert!(fake.state().meta.suspects.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_is_awaited_while_bytes_flow_towards_it() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    fake.state().faults.acks_late = Duration::from_secs(50);
    fake.state().faults.link_rate = 100_000;
    publish(&client, b"/file", &content(MIB)).await.unwrap();
    assert_eq!(fake.state().write_streams, 1);
    assert!(fake.state().meta.suspects.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_acknowledges_nothing_is_given_up_however_busy_its_link_is() {
    for (link_rate, most) in [(0, 13), (100 << 20, 13), (100_000, 63)] {
        let fake = Fake::new(3);
        let client = fake.client().await;
        fake.state().faults.acks_late = Duration::from_secs(3_600);
        fake.state().faults.link_rate = link_rate;
        let begun = tokio::time::Instant::now();
        let uploading =
            tokio::spawn(async move { publish(&client, b"/file", &content(MIB)).await });
        while fake.state().write_streams < 2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(most), "{took:?}");
        assert!(!fake.state().meta.suspects.is_empty());
        uploading.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_sends_no_more_is_left_for_another_one() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    publish(&client, b"/file", &content(MIB)).await.unwrap();
    fake.state().faults.stream_rate = Some(100_000);
    fake.state().faults.reads_hang_after = Some(30_000);
    let begun = tokio::time::Instant::now();
    let reading = tokio::spawn(async move { read(&client, b"/file").await });
    while fake.state().reads.values().sum::<u32>() < 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    reading.abort();
}

#[tokio::test]
async fn nothing_is_visible_of_an_upload_that_was_dropped_in_the_middle() {
    let client = Fake::new(3).client().await;
    let (mut writer, reader) = tokio::io::duplex(MIB);
    let uploading = client.clone();
    let upload = tokio::spawn(async move {
        let options = PublishOptions::default();
        uploading.publish(b"/file", reader, options).await
    });
    writer.write_all(&content(70 * MIB)).await.unwrap();
    upload.abort();
    assert!(upload.await.unwrap_err().is_cancelled());
    let error = client.stat(b"/file").await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
}

#[tokio::test]
async fn a_handle_reads_what_it_wrote_and_others_see_it_after_sync() {
    let client = Fake::new(3).client().await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    let mut model = vec![0; 3 * MIB];
    for (at, len) in [(0, 100), (100, 2 * MIB), (2_500_000, 600_000), (50, 10)] {
        let bytes = content(len);
        model[at..at + len].copy_from_slice(&bytes);
        let len = at + len;
        file.write_at(at as u64, bytes.into()).await.unwrap();
        let read = file.read_at(at as u64, len).await.unwrap();
        assert!(read[..] == model[at..(at + len).min(at + read.len())]);
        // The fake keeps whole extents by their start: overlaps are the metaserver's business.
        if at == 2_500_000 {
            break;
        }
    }
    file.sync().await.unwrap();
    assert!(read(&client, b"/file").await.unwrap() == model[..3_100_000]);
    file.set_len(10).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 10);
    file.close().await.unwrap();
}

#[tokio::test]
async fn a_file_is_a_stream_with_a_position() {
    let client = Fake::new(3).client().await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    let bytes = content(5 * MIB + 77);
    file.write_all(&bytes).await.unwrap();
    file.flush().await.unwrap();
    assert_eq!(file.seek(SeekFrom::End(-77)).await.unwrap(), 5 * MIB as u64);
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).await.unwrap();
    assert!(tail == bytes[5 * MIB..]);
    file.seek(SeekFrom::Start(0)).await.unwrap();
    let mut all = Vec::new();
    file.read_to_end(&mut all).await.unwrap();
    assert!(all == bytes);
}

#[tokio::test]
async fn close_reports_a_write_that_failed() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    fake.state().faults.full = (1..=3).map(DiskId).collect();
    file.write_at(0, content(1_000).into()).await.unwrap();
    let error = file.close().await.unwrap_err();
    assert_eq!(error.code, Code::ClusterFull);
    assert!(error.text.contains("/file"), "{error}");
}

#[tokio::test]
async fn a_stream_takes_no_bytes_that_can_not_be_written() {
    let client = Fake::new(3).client().await;
    publish(&client, b"/file", b"there").await.unwrap();
    let mut file = client.open(b"/file", OpenOptions::reading()).await.unwrap();
    let error = file.write_all(b"lost").await.unwrap_err();
    assert!(
        error.to_string().contains("not opened for writing"),
        "{error}"
    );
    file.close().await.unwrap();
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    let end = quarry_common::limits::FILE_LEN_MAX;
    file.seek(SeekFrom::Start(end)).await.unwrap();
    let error = file.write_all(b"lost").await.unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    file.close().await.unwrap();
    assert_eq!(read(&client, b"/file").await.unwrap(), b"");
}

#[tokio::test]
async fn after_a_sync_that_was_broken_off_no_other_one_says_that_all_is_durable() {
    let client = Fake::new(3).client().await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    file.write_at(0, content(1_000).into()).await.unwrap();
    tokio::select! {
        biased;
        _ = file.sync() => panic!("it was not to be done at the first look"),
        () = std::future::ready(()) => {}
    }
    let written = file.write_at(1_000, content(10).into()).await;
    assert_eq!(written.unwrap_err().code, Code::Io);
    let error = file.close().await.unwrap_err();
    assert!(
        error
            .text
            .contains("/file: a write or a sync was broken off"),
        "{error}"
    );
}

#[tokio::test]
async fn a_tree_comes_back_as_it_was() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let client = Fake::new(3).client().await;
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    std::fs::create_dir_all(from.join("a/b/empty")).unwrap();
    for number in 0..40 {
        std::fs::write(from.join(format!("a/{number}")), content(number * 3_000)).unwrap();
    }
    let odd = std::ffi::OsString::from("od\u{7}d \u{fffd}\n'name");
    std::fs::write(from.join("a/b").join(&odd), "odd").unwrap();
    std::fs::write(from.join("a/tool"), "tool").unwrap();
    std::fs::set_permissions(from.join("a/tool"), PermissionsExt::from_mode(0o750)).unwrap();
    std::fs::hard_link(from.join("a/tool"), from.join("second")).unwrap();
    symlink("a/../nowhere", from.join("dangling")).unwrap();
    let old = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let directory = std::fs::File::open(from.join("a/b")).unwrap();
    directory.set_modified(old).unwrap();

    let transfer = transfer(TreeOptions::default());
    let report = put_tree(&client, &from, b"/copy", &transfer).await.unwrap();
    assert_eq!(
        (report.failed.len(), report.skipped.len()),
        (0, 0),
        "{:?}",
        report.failed
    );
    assert_eq!((report.files, report.directories, report.links), (42, 4, 2));
    // Once more over what is there.
    let report = put_tree(&client, &from, b"/copy", &transfer).await.unwrap();
    assert_eq!(report.failed.len(), 0, "{:?}", report.failed);

    let to = folder.path().join("to");
    let report = get_tree(&client, b"/copy", &to, &transfer).await.unwrap();
    assert_eq!(report.failed.len(), 0, "{:?}", report.failed);
    for entry in walkdir::WalkDir::new(&from) {
        let entry = entry.unwrap();
        let path = to.join(entry.path().strip_prefix(&from).unwrap());
        let (meta, copy) = (entry.metadata().unwrap(), path.symlink_metadata().unwrap());
        assert_eq!(
            (meta.mode(), meta.mtime()),
            (copy.mode(), copy.mtime()),
            "{path:?}"
        );
        assert_eq!(meta.mtime_nsec(), copy.mtime_nsec(), "{path:?}");
        if meta.is_file() {
            let same = std::fs::read(entry.path()).unwrap() == std::fs::read(&path).unwrap();
            assert!(same, "{path:?}");
        }
        if meta.is_symlink() {
            assert_eq!(
                std::fs::read_link(&path).unwrap().to_str(),
                Some("a/../nowhere")
            );
        }
    }
    let inode = |name: &str| to.join(name).metadata().unwrap().ino();
    assert_eq!(inode("second"), inode("a/tool"));
    let parts = walkdir::WalkDir::new(&to).into_iter().flatten();
    assert!(
        parts
            .into_iter()
            .all(|entry| !entry.file_name().to_string_lossy().contains(".part"))
    );
}

#[tokio::test]
async fn one_bad_file_does_not_stop_a_tree() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "bad", "c"] {
        publish(&client, format!("/{name}").as_bytes(), &content(10_000))
            .await
            .unwrap();
        if name == "bad" {
            fake.state().chunks.retain(|(_, chunk), _| chunk.0 != 2);
        }
    }
    let transfer = transfer(TreeOptions::default());
    let to = folder.path().join("to");
    let report = get_tree(&client, b"/", &to, &transfer).await.unwrap();
    assert_eq!((report.files, report.failed.len()), (2, 1), "{report:?}");
    assert!(report.failed[0].1.text.contains("/bad"));
    let names = std::fs::read_dir(&to).unwrap().count();
    assert_eq!(names, 2, "no half file is left");
}

#[tokio::test(start_paused = true)]
async fn what_is_read_for_long_is_announced_as_open_and_a_short_read_needs_no_session() {
    let fake = Fake::new(3);
    publish(&fake.client().await, b"/file", &content(MIB))
        .await
        .unwrap();
    let sessions = fake.state().meta.sessions;
    let client = fake.client().await;
    let inode = client.stat(b"/file").await.unwrap().inode;
    assert!(read(&client, b"/file").await.unwrap() == content(MIB));
    let long = Duration::from_secs(25);
    tokio::time::sleep(long).await;
    assert_eq!(fake.state().meta.sessions, sessions);
    // Nobody takes what is read.
    let (mut writer, _reader) = tokio::io::duplex(1_000);
    let reading = client.clone();
    let slow =
        tokio::spawn(async move { reading.read_to(b"/file", &mut writer, None, None).await });
    tokio::time::sleep(long).await;
    assert_eq!(fake.state().meta.sessions, sessions + 1);
    assert_eq!(fake.state().meta.announced, [inode]);
    slow.abort();
    tokio::time::sleep(long).await;
    assert!(fake.state().meta.announced.is_empty());
    let _file = client.open(b"/file", OpenOptions::reading()).await.unwrap();
    tokio::time::sleep(long).await;
    assert_eq!(fake.state().meta.announced, [inode]);
}

#[tokio::test]
async fn closing_ends_the_session() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/dir", 0o755).await.unwrap();
    client.close().await.unwrap();
    assert_eq!(fake.state().meta.closed, 1);
}
