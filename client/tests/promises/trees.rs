//! Directories and trees: made, removed, stored and fetched.

use super::*;
use quarry_client::{get_tree, put_tree};

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
