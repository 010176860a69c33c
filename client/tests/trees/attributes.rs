//! Extended attributes come along, or are named.

use super::*;
use quarry_common::wire::meta::XattrMode;
use std::os::unix::fs::symlink;

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
