//! Files and trees that are fetched: over what is there, whose, and as they are by then.

use super::*;
use quarry_common::ids::{Gid, Uid};
use rustix::fs::{CWD, FileType, Mode};
use rustix::process::{getegid, geteuid};
use std::os::unix::fs::{FileTypeExt, symlink};

fn make_pipe(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
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
