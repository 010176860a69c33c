//! What is promised of files and trees that are fetched and stored, on a cluster in memory with faults.

#[allow(dead_code)]
mod fake;

use fake::Fake;
use quarry_client::{
    Client, Options, Progress, PublishOptions, Told, Transfer, TreeOptions, TreeReport, get_file,
    get_tree, put_file, put_tree,
};
use quarry_common::Code;
use quarry_common::ids::{
    DiskId, FileOffset, Gid, InodeId, RequestNumber, SessionId, ShardId, Uid, Version,
};
use quarry_common::limits::BLOCK_LEN;
use quarry_common::wire::meta::{
    Attr, Contents, MetaBody, MetaReply, MetaRequest, NewExtent, Op, Publish, Read, ReadReply,
    Source, View, XattrMode,
};
use rustix::fs::{CWD, FileType, Mode};
use rustix::process::{getegid, geteuid};
use std::fs::Permissions;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn transfer(options: TreeOptions) -> Arc<Transfer> {
    Arc::new(Transfer::new(options, Arc::new(Progress::default())))
}

async fn publish(client: &Client, path: &[u8], bytes: &[u8]) {
    let options = PublishOptions::default();
    client.publish(path, bytes, options).await.unwrap();
}

fn make_pipe(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

async fn fetch(client: &Client, remote: &[u8], local: &Path) -> quarry_common::Result<u64> {
    let transfer = transfer(TreeOptions::default());
    get_file(client, remote, local, &transfer).await
}

async fn fetch_tree(client: &Client, remote: &[u8], local: &Path) -> TreeReport {
    let transfer = transfer(TreeOptions::default());
    let report = get_tree(client, remote, local, &transfer).await;
    report.unwrap()
}

fn no_clobber() -> TreeOptions {
    TreeOptions {
        replace: false,
        ..TreeOptions::default()
    }
}

/// The names of what failed, and why.
fn failed(report: &TreeReport) -> Vec<(PathBuf, Code)> {
    let failed = report.failed.iter();
    let mut failed: Vec<_> = failed
        .map(|(path, error)| (path.clone(), error.code))
        .collect();
    failed.sort_by(|(a, _), (b, _)| a.cmp(b));
    failed
}

#[tokio::test]
async fn a_link_is_written_through_and_a_pipe_or_a_device_gets_the_bytes() {
    let client = Fake::new(3).client().await;
    publish(&client, b"/new", b"new").await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("dir")).unwrap();
    std::fs::write(at("dir/old"), "old").unwrap();
    symlink("dir/old", at("link")).unwrap();
    symlink("link", at("second link")).unwrap();
    symlink("dir/missing", at("dangling")).unwrap();
    symlink("/dev/null", at("null")).unwrap();
    symlink("loop", at("loop")).unwrap();
    make_pipe(&at("pipe"));
    for name in ["second link", "dangling", "null"] {
        assert_eq!(fetch(&client, b"/new", &at(name)).await.unwrap(), 3);
        assert!(at(name).is_symlink(), "{name}");
    }
    assert_eq!(std::fs::read(at("dir/old")).unwrap(), b"new");
    assert_eq!(std::fs::read(at("dir/missing")).unwrap(), b"new");
    assert!(at("null").metadata().unwrap().file_type().is_char_device());
    fetch(&client, b"/new", &at("loop")).await.unwrap_err();
    let pipe = at("pipe");
    let reader = std::thread::spawn(move || std::fs::read(pipe).unwrap());
    assert_eq!(fetch(&client, b"/new", &at("pipe")).await.unwrap(), 3);
    assert_eq!(reader.join().unwrap(), b"new");
    let kind = at("pipe").symlink_metadata().unwrap().file_type();
    assert!(kind.is_fifo());
    let error = fetch(&client, b"/new", &at("dir")).await.unwrap_err();
    assert_eq!(error.code, Code::IsDirectory);
}

#[tokio::test]
async fn a_device_that_is_full_says_nothing_of_the_cluster() {
    let client = Fake::new(3).client().await;
    publish(&client, b"/file", &[1; 100_000]).await;
    let transfer = transfer(TreeOptions::default());
    let full = get_file(&client, b"/file", Path::new("/dev/full"), &transfer);
    let error = full.await.unwrap_err();
    assert_eq!(error.code, Code::Io, "{error}");
    assert!(error.text.contains("/dev/full"), "{error}");
    assert_eq!(transfer.given_up(), None);
}

#[tokio::test]
async fn within_a_tree_odd_things_stay_and_are_not_followed() {
    let client = Fake::new(3).client().await;
    client.mkdir(b"/tree", 0o755).await.unwrap();
    for name in ["a", "link", "pipe"] {
        publish(&client, format!("/tree/{name}").as_bytes(), b"new").await;
    }
    client.symlink(b"elsewhere", b"/tree/same").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("to")).unwrap();
    std::fs::write(at("outside"), "mine").unwrap();
    std::fs::write(at("to/a"), "old").unwrap();
    symlink("../outside", at("to/link")).unwrap();
    symlink("old", at("to/same")).unwrap();
    make_pipe(&at("to/pipe"));
    let report = fetch_tree(&client, b"/tree", &at("to")).await;
    let stayed = ["/tree/link", "/tree/pipe"].map(|path| (path.into(), Code::Exists));
    assert_eq!(failed(&report), stayed);
    for (_, error) in &report.failed {
        assert!(error.text.contains("remove it"), "{error}");
    }
    assert!(at("to/link").is_symlink());
    assert_eq!(std::fs::read(at("outside")).unwrap(), b"mine");
    assert_eq!(std::fs::read(at("to/a")).unwrap(), b"new");
    let target = std::fs::read_link(at("to/same")).unwrap();
    assert_eq!(target, Path::new("elsewhere"), "a link replaces a link");
}

#[tokio::test]
async fn a_second_name_is_not_linked_to_what_its_first_name_left_as_it_was() {
    let client = Fake::new(3).client().await;
    client.mkdir(b"/tree", 0o755).await.unwrap();
    publish(&client, b"/tree/a", b"new").await;
    for name in ["b", "c"] {
        let name = format!("/tree/{name}");
        client.link(b"/tree/a", name.as_bytes()).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("a"), "mine").unwrap();
    let transfer = transfer(no_clobber());
    let report = get_tree(&client, b"/tree", folder.path(), &transfer).await;
    let report = report.unwrap();
    assert_eq!(failed(&report), [("/tree/a".into(), Code::Exists)]);
    assert_eq!((report.files, report.links), (1, 1));
    assert_eq!(std::fs::read(at("a")).unwrap(), b"mine");
    assert_eq!(std::fs::read(at("b")).unwrap(), b"new");
    let inode = |name: &str| at(name).metadata().unwrap().ino();
    assert_eq!(inode("b"), inode("c"));
}

#[tokio::test]
async fn a_second_name_takes_the_place_of_nothing_odd() {
    let client = Fake::new(3).client().await;
    client.mkdir(b"/tree", 0o755).await.unwrap();
    publish(&client, b"/tree/a", b"new").await;
    for name in ["b", "c"] {
        let name = format!("/tree/{name}");
        client.link(b"/tree/a", name.as_bytes()).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    symlink("elsewhere", at("b")).unwrap();
    std::fs::write(at("c"), "old").unwrap();
    let report = fetch_tree(&client, b"/tree", folder.path()).await;
    assert_eq!(failed(&report), [("/tree/b".into(), Code::Exists)]);
    assert!(at("b").is_symlink());
    let inode = |name: &str| at(name).metadata().unwrap().ino();
    assert_eq!(inode("a"), inode("c"));
}

#[tokio::test]
async fn a_directory_of_a_tree_is_not_looked_for_behind_a_link() {
    let client = Fake::new(3).client().await;
    client.mkdir_all(b"/tree/dir", 0o755).await.unwrap();
    publish(&client, b"/tree/dir/a", b"new").await;
    publish(&client, b"/tree/b", b"new").await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(at("outside")).unwrap();
    std::fs::create_dir(at("to")).unwrap();
    std::fs::set_permissions(at("outside"), Permissions::from_mode(0o711)).unwrap();
    symlink("../outside", at("to/dir")).unwrap();
    // The top itself may be behind one, as with cp.
    symlink("to", at("top")).unwrap();
    let report = fetch_tree(&client, b"/tree", &at("top")).await;
    assert_eq!(failed(&report), [("/tree/dir".into(), Code::Exists)]);
    let text = &report.failed[0].1.text;
    assert!(text.contains("top/dir: is a symbolic link"), "{text}");
    assert_eq!(std::fs::read_dir(at("outside")).unwrap().count(), 0);
    let mode = at("outside").metadata().unwrap().mode();
    assert_eq!(mode & 0o7777, 0o711);
    assert_eq!(std::fs::read(at("to/b")).unwrap(), b"new");
}

#[tokio::test]
async fn who_gets_a_file_that_runs_as_another_user_gets_one_that_does_not() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/tree", 0o2755).await.unwrap();
    for (name, mode) in [("user", 0o4755), ("group", 0o2711), ("sticky", 0o1644)] {
        let options = PublishOptions {
            mode,
            ..PublishOptions::default()
        };
        let path = format!("/tree/{name}");
        client
            .publish(path.as_bytes(), &b"x"[..], options)
            .await
            .unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let mode = |name: &str| folder.path().join(name).metadata().unwrap().mode() & 0o7777;
    let (us, ours) = (Uid(geteuid().as_raw()), Gid(getegid().as_raw()));
    let other = (Uid(us.0 + 1), Gid(ours.0 + 1));
    for (at, (uid, gid), modes) in [
        ("ours", (us, ours), [0o4755, 0o2711, 0o1644, 0o2755]),
        ("group's", (us, other.1), [0o4755, 0o711, 0o1644, 0o755]),
        ("theirs", (other.0, ours), [0o755, 0o711, 0o1644, 0o755]),
    ] {
        fake.state().meta.give_to(uid, gid);
        let to = folder.path().join(at);
        let report = fetch_tree(&client, b"/tree", &to).await;
        assert_eq!(failed(&report), []);
        let found = ["user", "group", "sticky", ""].map(|name| mode(&format!("{at}/{name}")));
        assert_eq!(found, modes, "{at}");
    }
}

#[tokio::test]
async fn a_private_tree_is_never_open_while_it_is_fetched() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir_all(b"/tree/dir", 0o755).await.unwrap();
    publish(&client, b"/tree/dir/a", &[1; 100_000]).await;
    fake.state().faults.cut = true;
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("to");
    let got = to.clone();
    let fetching = tokio::spawn(async move { fetch_tree(&client, b"/tree", &got).await });
    while !to.join("dir").exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for path in [&to, &to.join("dir")] {
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o700);
    }
    fake.state().faults.cut = false;
    assert_eq!(failed(&fetching.await.unwrap()), []);
    assert_eq!(to.join("dir").metadata().unwrap().mode() & 0o7777, 0o755);
}

/// Puts a file whose session is lost with the answer to its publishing; then `meanwhile` happens.
async fn put_without_answer(
    fake: &Fake,
    bytes: &[u8],
    meanwhile: impl FnOnce(&mut fake::State),
) -> quarry_common::Result<Attr> {
    let client = fake.client().await;
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("file");
    std::fs::write(&local, bytes).unwrap();
    fake.state().faults.ends_session = Some(|op| matches!(op, Op::Publish(_)));
    let putting = tokio::spawn(async move {
        let transfer = transfer(TreeOptions::default());
        put_file(&client, &local, b"/file", &transfer).await
    });
    while fake.state().faults.ends_session.is_some() {
        tokio::task::yield_now().await;
    }
    meanwhile(&mut fake.state());
    putting.await.unwrap()
}

/// A file of more extents than one command takes: a block of data, a hole, and so on.
fn many_extents(path: &Path) {
    let file = std::fs::File::create(path).unwrap();
    for at in 0..300 {
        let bytes = vec![at as u8 | 1; BLOCK_LEN];
        let offset = at * 2 * BLOCK_LEN as u64;
        file.write_all_at(&bytes, offset).unwrap();
    }
}

#[tokio::test]
async fn a_long_file_that_nobody_sees_yet_is_put_again_when_its_session_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    many_extents(&at("file"));
    let moments: [fn(&Op) -> bool; 3] = [
        |op| matches!(op, Op::CreateUnnamed { .. }),
        |op| matches!(op, Op::CommitExtents { size: None, .. }),
        |op| matches!(op, Op::CommitExtents { size: Some(_), .. }),
    ];
    for moment in moments {
        let fake = Fake::new(3);
        let client = fake.client().await;
        fake.state().faults.ends_session = Some(moment);
        let transfer = transfer(TreeOptions::default());
        put_file(&client, &at("file"), b"/file", &transfer)
            .await
            .unwrap();
        assert!(fake.state().faults.ends_session.is_none());
        fetch(&client, b"/file", &at("back")).await.unwrap();
        let read = |name| std::fs::read(at(name)).unwrap();
        assert!(read("back") == read("file"));
    }
}

/// What has a name in the root.
fn look_up(state: &mut fake::State, name: &[u8]) -> Attr {
    let read = Read::Lookup {
        view: View::Live,
        parent: InodeId::ROOT,
        name: name.to_vec(),
    };
    let request = MetaRequest {
        shard: ShardId::FIRST,
        seen: Version(0),
        act_as: None,
        body: MetaBody::Read(read),
    };
    match state.answer(request).unwrap().result.unwrap() {
        MetaReply::Read(ReadReply::Attr(attr)) => attr,
        other => panic!("{other:?}"),
    }
}

/// What another client does.
fn change(state: &mut fake::State, op: Op) {
    let request = MetaRequest {
        shard: ShardId::FIRST,
        seen: Version(0),
        act_as: None,
        body: MetaBody::Mutate {
            session: SessionId(1_000),
            number: RequestNumber(1),
            answered_below: RequestNumber(1),
            op,
        },
    };
    state.answer(request).unwrap().result.unwrap();
}

#[tokio::test]
async fn a_put_that_lost_its_answer_is_done_if_its_file_is_there() {
    for len in [0, 100, 10_000, 3 << 20] {
        let fake = Fake::new(3);
        let bytes = vec![7; len];
        let streams = |fake: &Fake| {
            let state = fake.state();
            state.write_streams + state.small_writes
        };
        let attr = put_without_answer(&fake, &bytes, |_| {}).await.unwrap();
        assert_eq!(attr.size, len as u64);
        let written = u32::from(len > 256);
        assert_eq!(streams(&fake), written, "nothing was uploaded twice");
    }
}

#[tokio::test]
async fn a_put_that_lost_its_answer_replaces_nothing_that_came_after_it() {
    for len in [100, 10_000] {
        let bytes = vec![7; len];
        let theirs = || {
            Op::Publish(Publish {
                parent: InodeId::ROOT,
                name: b"file".to_vec(),
                mode: 0o644,
                mtime: None,
                replace: true,
                xattrs: Vec::new(),
                contents: Contents::Extents {
                    size: 6,
                    extents: vec![NewExtent {
                        offset: FileOffset(0),
                        len: 6,
                        source: Source::Inline(b"theirs".to_vec()),
                    }],
                    receipts: Vec::new(),
                },
            })
        };
        let fake = Fake::new(3);
        let put = put_without_answer(&fake, &bytes, |state| change(state, theirs()));
        let error = put.await.unwrap_err();
        assert_eq!(error.code, Code::UnknownOutcome, "{error}");
        assert!(
            error.text.contains("/file") && error.text.contains("look at it"),
            "{error}"
        );
        let client = fake.client().await;
        let mut found = Vec::new();
        client
            .read_to(b"/file", &mut found, None, None)
            .await
            .unwrap();
        assert_eq!(found, b"theirs");

        let removed = Op::Unlink {
            parent: InodeId::ROOT,
            name: b"file".to_vec(),
        };
        let fake = Fake::new(3);
        let put = put_without_answer(&fake, &bytes, |state| change(state, removed));
        let error = put.await.unwrap_err();
        assert_eq!(error.code, Code::UnknownOutcome, "{error}");
        assert!(error.text.contains("store it again"), "{error}");
        let gone = fake.client().await.stat(b"/file").await.unwrap_err();
        assert_eq!(gone.code, Code::NotFound);
    }
}

/// No chunk says of a short file whose it is.
#[tokio::test]
async fn a_short_file_is_what_was_put_only_if_all_of_it_is_the_same() {
    let bytes = [7; 100];
    for (other_bytes, other_mode) in [(true, false), (false, true)] {
        let fake = Fake::new(3);
        let replace = |state: &mut fake::State| {
            let found = look_up(state, b"file");
            let mut content = bytes.to_vec();
            content[99] ^= u8::from(other_bytes);
            let theirs = Publish {
                parent: InodeId::ROOT,
                name: b"file".to_vec(),
                mode: found.mode ^ u16::from(other_mode),
                mtime: Some(found.mtime),
                replace: true,
                xattrs: Vec::new(),
                contents: Contents::Extents {
                    size: 100,
                    extents: vec![NewExtent {
                        offset: FileOffset(0),
                        len: 100,
                        source: Source::Inline(content),
                    }],
                    receipts: Vec::new(),
                },
            };
            change(state, Op::Publish(theirs));
        };
        let put = put_without_answer(&fake, &bytes, replace);
        let error = put.await.unwrap_err();
        assert_eq!(error.code, Code::UnknownOutcome, "{error}");
        assert!(error.text.contains("another file"), "{error}");
    }
}

#[tokio::test]
async fn extended_attributes_come_along() {
    let client = Fake::new(3).client().await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(at("from/dir")).unwrap();
    std::fs::write(at("from/dir/file"), [1; 1_000]).unwrap();
    symlink("from/dir/file", at("link")).unwrap();
    for (name, attribute, value) in [
        ("from", "user.top", "1"),
        ("from/dir", "user.empty", ""),
        ("from/dir/file", "user.colour", "blue"),
        ("from/dir/file", "user.size", "large"),
    ] {
        xattr::set(at(name), attribute, value.as_bytes()).unwrap();
    }
    for (name, mode) in [("from/dir/file", 0o400), ("from/dir", 0o555)] {
        std::fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
    }
    let transfer = transfer(TreeOptions::default());
    let report = put_tree(&client, &at("from"), b"/tree", &transfer).await;
    assert_eq!(failed(&report.unwrap()), []);
    put_file(&client, &at("link"), b"/file", &transfer)
        .await
        .unwrap();
    // What is not of users stays in the cluster.
    let mode = XattrMode::Set;
    client
        .set_xattr(b"/tree/dir", b"trusted.secret", b"x", mode)
        .await
        .unwrap();
    let report = fetch_tree(&client, b"/tree", &at("to")).await;
    assert_eq!(failed(&report), []);
    fetch(&client, b"/file", &at("single")).await.unwrap();
    let all = |name: &str| {
        let names = xattr::list(at(name)).unwrap();
        let values = names.map(|name_of| {
            let value = xattr::get(at(name), &name_of).unwrap().unwrap();
            (name_of, value)
        });
        let mut values: Vec<_> = values.collect();
        values.sort();
        values
    };
    for (from, to) in [
        ("from", "to"),
        ("from/dir", "to/dir"),
        ("from/dir/file", "to/dir/file"),
        ("from/dir/file", "single"),
    ] {
        assert_eq!(all(from), all(to), "{to}");
        assert!(!all(to).is_empty(), "{to}");
        let mode = |name: &str| at(name).metadata().unwrap().mode();
        assert_eq!(mode(from), mode(to), "{to}");
    }
}

#[tokio::test]
async fn an_attribute_that_can_not_be_kept_here_is_named() {
    let client = Fake::new(3).client().await;
    publish(&client, b"/file", b"x").await;
    // Longer than Linux has them.
    let name = format!("user.{}", "long".repeat(100));
    let mode = XattrMode::Set;
    client
        .set_xattr(b"/file", name.as_bytes(), b"x", mode)
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("file");
    let error = fetch(&client, b"/file", &local).await.unwrap_err();
    assert!(error.text.contains(&name), "{error}");
    assert!(!local.exists());
}

#[tokio::test]
async fn attributes_that_mean_something_only_here_are_not_stored() {
    let client = Fake::new(3).client().await;
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("file");
    std::fs::write(&local, "x").unwrap();
    xattr::set(&local, "user.colour", b"blue").unwrap();
    if let Err(error) = xattr::set(&local, "trusted.mine", b"x") {
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    }
    let transfer = transfer(TreeOptions::default());
    put_file(&client, &local, b"/file", &transfer)
        .await
        .unwrap();
    let names = client.list_xattr(b"/file").await.unwrap();
    assert_eq!(names, [b"user.colour"]);
}

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

/// A client that asks the metaservers for a tenth of a second only, and what was told of a transfer of it.
async fn impatient(fake: &Fake, jobs: usize) -> (Client, Arc<Transfer>, Arc<Mutex<Vec<Code>>>) {
    let client = fake.client_with(Options {
        meta_deadline: Duration::from_millis(100),
        ..Options::default()
    });
    let heard = Arc::new(Mutex::new(Vec::new()));
    let options = TreeOptions {
        jobs,
        ..TreeOptions::default()
    };
    let ears = heard.clone();
    let transfer = Transfer::new(options, Arc::default()).telling(move |told| match told {
        Told::Failed(_, error) => ears.lock().unwrap().push(error.code),
        other => panic!("{other:?}"),
    });
    (client.await, Arc::new(transfer), heard)
}

#[tokio::test]
async fn a_tree_is_given_up_when_nobody_answers_any_more() {
    let fake = Fake::new(3);
    let (client, transfer, heard) = impatient(&fake, 4).await;
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    std::fs::create_dir(&from).unwrap();
    for number in 0..100 {
        let dir = from.join(format!("{}", number / 5));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{number}")), [1; 100]).unwrap();
    }
    let report = put_tree(&client, &from, b"/tree", &transfer).await.unwrap();
    assert_eq!((failed(&report), report.files), (vec![], 100));
    assert!(transfer.given_up().is_none());

    fake.state().faults.overloaded = u32::MAX;
    let begun = Instant::now();
    let report = put_tree(&client, &from, b"/tree", &transfer).await.unwrap();
    assert_eq!(report.files, 0);
    // Those of the directories that are asked for together, and that the rest was not tried.
    let count = report.failed.len();
    assert!((5..=20 + 6).contains(&count), "{report:?}");
    assert_eq!(heard.lock().unwrap().len(), count, "each was told");
    let (path, last) = report.failed.last().unwrap();
    assert_eq!((path, last.code), (&from, Code::Unreachable));
    assert!(last.text.contains("the rest was not tried"), "{last}");
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(transfer.given_up().is_some());

    fake.state().faults.overloaded = 0;
    let (client, transfer, heard) = impatient(&fake, 4).await;
    let to = folder.path().join("to");
    let (fetching, going) = (to.clone(), transfer.clone());
    let cut = fake.clone();
    let fetching = tokio::spawn(async move {
        let report = get_tree(&client, b"/tree", &fetching, &going);
        report.await.unwrap()
    });
    while transfer.progress().files.load(Ordering::Relaxed) < 10 {
        tokio::task::yield_now().await;
    }
    cut.state().faults.meta_cut = true;
    let report = fetching.await.unwrap();
    assert!((10..100).contains(&report.files), "{report:?}");
    let last = &report.failed.last().unwrap().1;
    assert!(last.text.contains("the rest was not tried"), "{last}");
    assert_eq!(heard.lock().unwrap().len(), report.failed.len());
    // What was made has its mode nevertheless.
    assert_eq!(
        to.metadata().unwrap().mode(),
        from.metadata().unwrap().mode()
    );
}

#[tokio::test]
async fn a_file_that_was_replaced_since_its_directory_was_listed_is_fetched_as_it_is_now() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/tree", 0o755).await.unwrap();
    for name in ["a", "b"] {
        publish(&client, format!("/tree/{name}").as_bytes(), &[1; 100_000]).await;
    }
    // With one file at a time, `b` is looked at while `a` can not be read yet.
    fake.state().faults.cut = true;
    let folder = tempfile::tempdir().unwrap();
    let (to, getting) = (folder.path().to_path_buf(), client.clone());
    let fetching = tokio::spawn(async move {
        let transfer = transfer(TreeOptions {
            jobs: 1,
            ..TreeOptions::default()
        });
        get_tree(&getting, b"/tree", &to, &transfer).await.unwrap()
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let old = client.stat(b"/tree/b").await.unwrap().inode;
    let inline = PublishOptions::default();
    client
        .publish(b"/tree/b", &b"new"[..], inline)
        .await
        .unwrap();
    fake.state().meta.purge(old);
    fake.state().faults.cut = false;
    let report = fetching.await.unwrap();
    assert_eq!((failed(&report), report.files), (vec![], 2));
    assert_eq!(std::fs::read(folder.path().join("b")).unwrap(), b"new");
}

#[tokio::test]
async fn two_names_of_one_file_that_were_both_replaced_since_are_two_files() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.mkdir(b"/tree", 0o755).await.unwrap();
    for name in ["0", "a"] {
        publish(&client, format!("/tree/{name}").as_bytes(), &[1; 100_000]).await;
    }
    client.link(b"/tree/a", b"/tree/b").await.unwrap();
    // With one file at a time, both names are looked at while `0` can not be read yet.
    fake.state().faults.cut = true;
    let folder = tempfile::tempdir().unwrap();
    let (to, getting) = (folder.path().to_path_buf(), client.clone());
    let fetching = tokio::spawn(async move {
        let transfer = transfer(TreeOptions {
            jobs: 1,
            ..TreeOptions::default()
        });
        get_tree(&getting, b"/tree", &to, &transfer).await.unwrap()
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let old = client.stat(b"/tree/a").await.unwrap().inode;
    for name in ["a", "b"] {
        publish(&client, format!("/tree/{name}").as_bytes(), name.as_bytes()).await;
    }
    fake.state().meta.purge(old);
    fake.state().faults.cut = false;
    let report = fetching.await.unwrap();
    assert_eq!((failed(&report), report.files), (vec![], 3));
    for name in ["a", "b"] {
        let found = std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(found, name.as_bytes());
    }
}

#[tokio::test]
async fn files_that_nobody_would_answer_for_are_not_begun_with() {
    let fake = Fake::new(3);
    let (client, transfer, heard) = impatient(&fake, 4).await;
    let folder = tempfile::tempdir().unwrap();
    for number in 0..50 {
        std::fs::write(folder.path().join(format!("{number}")), "x").unwrap();
    }
    let is_silent = |op: &Op| matches!(op, Op::Publish(_)).then_some(Code::Unreachable);
    fake.state().faults.refuses = Some(Box::new(is_silent));
    let report = put_tree(&client, folder.path(), b"/tree", &transfer).await;
    let report = report.unwrap();
    // As many as there are jobs, those under way by then, and that the rest was not tried.
    assert!((5..=5 + 8).contains(&report.failed.len()), "{report:?}");
    assert_eq!(heard.lock().unwrap().len(), report.failed.len());
    let last = &report.failed.last().unwrap().1;
    assert!(last.text.contains("the rest was not tried"), "{last}");
}

#[tokio::test]
async fn who_is_silent_now_and_then_is_not_given_up() {
    let fake = Fake::new(3);
    let (client, transfer, _) = impatient(&fake, 2).await;
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("file");
    std::fs::write(&local, "x").unwrap();
    for is_silent in [true, false, true, false] {
        fake.state().faults.meta_cut = is_silent;
        let put = put_file(&client, &local, b"/file", &transfer).await;
        assert_eq!(put.is_err(), is_silent);
        assert_eq!(transfer.given_up(), None);
    }
}

#[tokio::test]
async fn a_tree_is_given_up_when_the_cluster_is_full_and_what_is_there_gets_its_mode() {
    let fake = Fake::new(3);
    let (client, transfer, heard) = impatient(&fake, 2).await;
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    std::fs::create_dir(&from).unwrap();
    for number in 0..50 {
        std::fs::write(from.join(format!("{number}")), [1; 1_000]).unwrap();
    }
    std::fs::set_permissions(&from, Permissions::from_mode(0o555)).unwrap();
    fake.state().faults.full = (1..=3).map(DiskId).collect();
    let report = put_tree(&client, &from, b"/tree", &transfer).await.unwrap();
    assert!(report.failed.len() < 10, "{report:?}");
    assert_eq!(heard.lock().unwrap().len(), report.failed.len());
    let (path, last) = report.failed.last().unwrap();
    assert_eq!((path, last.code), (&from, Code::ClusterFull));
    assert!(last.text.contains("the rest was not tried"), "{last}");
    assert_eq!(client.stat(b"/tree").await.unwrap().mode, 0o555);
}

/// Each question to nobody takes its time.
#[tokio::test]
async fn nobody_is_asked_once_for_each_directory_or_name_who_does_not_answer() {
    const COUNT: usize = 60;
    let folder = tempfile::tempdir().unwrap();
    let [directories, deep, names] = ["dirs", "deep", "names"].map(|at| folder.path().join(at));
    for number in 0..COUNT {
        std::fs::create_dir_all(directories.join(format!("{number}"))).unwrap();
        std::fs::create_dir_all(deep.join(format!("{number}/below"))).unwrap();
    }
    std::fs::create_dir(&names).unwrap();
    std::fs::write(names.join("0"), "x").unwrap();
    for number in 1..COUNT {
        std::fs::hard_link(names.join("0"), names.join(format!("{number}"))).unwrap();
    }
    type Silence = fn(&Op) -> bool;
    let silences: [(&Path, Silence); 4] = [
        (&directories, |op| matches!(op, Op::Mkdir { .. })),
        (
            &deep,
            |op| matches!(op, Op::Mkdir { name, .. } if name == b"below"),
        ),
        (&directories, |op| matches!(op, Op::SetAttr { .. })),
        (&names, |op| matches!(op, Op::Link { .. })),
    ];
    for (from, is_silent) in silences {
        let fake = Fake::new(3);
        let (client, transfer, heard) = impatient(&fake, 4).await;
        client.mkdir(b"/tree", 0o755).await.unwrap();
        fake.state().faults.refuses = Some(Box::new(move |op| {
            let any = match op {
                Op::List { ops, .. } => ops.iter().any(is_silent),
                op => is_silent(op),
            };
            any.then_some(Code::Overloaded)
        }));
        let begun = Instant::now();
        let report = put_tree(&client, from, b"/tree", &transfer).await.unwrap();
        let took = begun.elapsed();
        assert!(!report.failed.is_empty());
        assert_eq!(heard.lock().unwrap().len(), report.failed.len());
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
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
