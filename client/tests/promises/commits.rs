//! What was written is committed, is written again where it has to be, or fails for good.

use super::*;
use quarry_client::put_tree;

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
async fn what_a_lost_session_had_not_committed_is_written_again() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let mut file = client.open(b"/file", OpenOptions::writing()).await.unwrap();
    // So much that it leaves, and in two ranges: the first of them is durable and not committed.
    let mut bytes = vec![0; 11 * MIB];
    for (at, part) in [(2, 0), (0, 1), (1, 2), (10, 3), (9, 4), (8, 5)] {
        let part = content(MIB + part)[part..].to_vec();
        bytes[at * MIB..][..MIB].copy_from_slice(&part);
        file.write_at((at * MIB) as u64, part.into()).await.unwrap();
    }
    // Else the session is lost before anything is written with it.
    while fake.state().chunks.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let streams = fake.state().write_streams;
    fake.state().faults.sessions_lost = true;
    file.write_at(11 * MIB as u64, content(100).into())
        .await
        .unwrap();
    file.close().await.unwrap();
    assert!(fake.state().write_streams > streams);
    bytes.extend(content(100));
    assert!(read(&client, b"/file").await.unwrap() == bytes);
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
