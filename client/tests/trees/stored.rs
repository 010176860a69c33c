//! Files and trees that are stored, and what is counted as files.

use super::*;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

#[tokio::test]
async fn the_uploads_of_a_command_hold_only_so_much_together() {
    const LEN: u64 = 200 << 20;
    let fake = Fake::new(3);
    let client = fake.client().await;
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("file");
    std::fs::write(&local, [1; 100_000]).unwrap();
    let file = std::fs::File::options().write(true).open(&local).unwrap();
    file.set_len(LEN).unwrap();
    fake.state().faults.cut = true;
    let transfer = transfer(TreeOptions::default());
    let mut putting = tokio::task::JoinSet::new();
    for number in 0..6 {
        let (client, local, transfer) = (client.clone(), local.clone(), transfer.clone());
        putting.spawn(async move {
            let remote = format!("/{number}");
            put_file(&client, &local, remote.as_bytes(), &transfer).await
        });
    }
    let read = || transfer.progress().bytes.load(Ordering::Relaxed);
    let begun = Instant::now();
    while read() < 4 * LEN && begun.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(read(), 4 * LEN, "the others wait");
    fake.state().faults.cut = false;
    while let Some(put) = putting.join_next().await {
        assert_eq!(put.unwrap().unwrap().size, LEN);
    }
}

#[tokio::test]
async fn the_contents_of_a_directory_go_into_the_root_of_the_cluster() {
    let client = Fake::new(3).client().await;
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("file"), "x").unwrap();
    std::fs::set_permissions(&from, Permissions::from_mode(0o700)).unwrap();
    let transfer = transfer(TreeOptions::default());
    let report = put_tree(&client, &from, b"/", &transfer).await;
    assert_eq!(failed(&report.unwrap()), []);
    assert_eq!(client.stat(b"/file").await.unwrap().size, 1);
    assert_eq!(client.stat(b"/").await.unwrap().mode, 0o755);
}

#[tokio::test]
async fn a_file_by_itself_goes_where_a_link_leads_and_in_a_tree_it_takes_its_place() {
    let client = Fake::new(3).client().await;
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("link");
    std::fs::write(&local, "new").unwrap();
    client.mkdir(b"/dir", 0o755).await.unwrap();
    publish(&client, b"/dir/file", b"old one").await;
    client.symlink(b"dir/file", b"/link").await.unwrap();
    let size = async |path: &[u8]| client.lstat(path).await.unwrap().size;
    let kind = async |path: &[u8]| client.lstat(path).await.unwrap().kind;
    let transfer = transfer(TreeOptions::default());
    let stored = put_file(&client, &local, b"/link", &transfer).await;
    stored.unwrap();
    assert_eq!(size(b"/dir/file").await, 3);
    publish(&client, b"/link", b"newer").await;
    assert_eq!(size(b"/dir/file").await, 5);
    assert_eq!(kind(b"/link").await, FileKind::Symlink);

    client.symlink(b"nowhere", b"/dangling").await.unwrap();
    let refused = put_file(&client, &local, b"/dangling", &transfer).await;
    let text = refused.unwrap_err().text;
    assert_eq!(text, "/dangling: is a dangling link: not written through");

    let report = put_tree(&client, folder.path(), b"/", &transfer).await;
    assert_eq!(failed(&report.unwrap()), []);
    assert_eq!(kind(b"/link").await, FileKind::File);
    assert_eq!(size(b"/dir/file").await, 5);
}

#[tokio::test]
async fn a_file_that_is_written_to_while_it_is_stored_is_told_and_there() {
    const LEN: u64 = 32 << 20;
    let client = Fake::new(3).client().await;
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("log");
    std::fs::write(&local, vec![1; LEN as usize]).unwrap();
    let goes_on = Arc::new(AtomicBool::new(true));
    let writing = {
        let goes_on = goes_on.clone();
        let mut log = std::fs::File::options().append(true).open(&local).unwrap();
        std::thread::spawn(move || {
            while goes_on.load(Ordering::Relaxed) {
                log.write_all(b"x").unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    };
    let transfer = transfer(TreeOptions::default());
    let error = put_file(&client, &local, b"/log", &transfer).await;
    let error = error.unwrap_err();
    assert_eq!(error.code, Code::Busy, "{error}");
    assert!(
        error.text.contains("log: changed while it was read"),
        "{error}"
    );
    assert!(client.stat(b"/log").await.unwrap().size >= LEN);
    let report = put_tree(&client, folder.path(), b"/tree", &transfer).await;
    assert_eq!(failed(&report.unwrap()), [(local, Code::Busy)]);
    assert!(client.stat(b"/tree/log").await.unwrap().size >= LEN);
    goes_on.store(false, Ordering::Relaxed);
    writing.join().unwrap();
}

#[tokio::test]
async fn only_what_was_copied_is_counted_as_files() {
    let client = Fake::new(3).client().await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("from")).unwrap();
    for name in ["from/a", "from/b", "from/in the way"] {
        std::fs::write(at(name), "x").unwrap();
    }
    let copied = |transfer: &Transfer| transfer.progress().files.load(Ordering::Relaxed);
    client.mkdir_all(b"/tree/in the way", 0o755).await.unwrap();
    let putting = transfer(no_clobber());
    let report = put_tree(&client, &at("from"), b"/tree", &putting)
        .await
        .unwrap();
    assert_eq!((report.failed.len(), copied(&putting)), (1, 2));
    std::fs::create_dir(at("to")).unwrap();
    std::fs::write(at("to/b"), "mine").unwrap();
    let getting = transfer(no_clobber());
    let report = get_tree(&client, b"/tree", &at("to"), &getting)
        .await
        .unwrap();
    assert_eq!((report.failed.len(), copied(&getting)), (1, 1));
}
