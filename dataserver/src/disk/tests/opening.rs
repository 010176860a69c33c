//! Directories that are no disk, or not the right one.

use super::*;

fn refused(path: &Path, cluster: ClusterId) -> Error {
    Disk::open(path, cluster, OPTIONS)
        .err()
        .expect("the directory is refused")
}

#[test]
fn each_registered_start_has_a_new_number_and_knows_the_one_before() {
    let dir = formatted();
    let first = open(&dir);
    assert_eq!(first.previous_open_number(), OpenNumber(0));
    let number = first.open_number();
    first.confirm_start().unwrap();
    drop(first);
    let second = open(&dir);
    assert_eq!(second.previous_open_number(), number);
    assert_ne!(second.open_number(), number);
    assert_eq!(second.identity(), IDENTITY);
}

#[test]
fn a_disk_in_use_is_refused_and_free_again_after() {
    let dir = formatted();
    let disk = open(&dir);
    let error = refused(dir.path(), CLUSTER);
    assert!(
        error.code == Code::Busy && error.text.contains("in use"),
        "{error}"
    );
    drop(disk);
    open(&dir);
}

#[test]
fn the_disk_of_another_cluster_is_refused_with_both_names() {
    let dir = formatted();
    let other = ClusterId([2; 16]);
    let error = refused(dir.path(), other);
    assert_eq!(error.code, Code::Configuration);
    assert!(
        error.text.contains(&CLUSTER.to_string()) && error.text.contains(&other.to_string()),
        "{error}"
    );
}

#[test]
fn a_newer_format_is_refused_with_both_numbers() {
    let dir = formatted();
    let file = dir.path().join("identity");
    let newer = frame::Kind {
        version: 2,
        ..identity::IDENTITY
    };
    fs::write(&file, frame::encode(&newer, &IDENTITY)).unwrap();
    let error = refused(dir.path(), CLUSTER);
    assert_eq!(error.code, Code::TooNew);
    assert!(
        error.text.contains("format 2") && error.text.contains("up to 1"),
        "{error}"
    );
}

#[test]
fn an_empty_or_missing_directory_or_a_file_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let error = refused(dir.path(), CLUSTER);
    assert!(
        error.code == Code::NotFound
            && error.text.contains("is empty")
            && error.text.contains("mounted"),
        "{error}"
    );
    let error = refused(&dir.path().join("gone"), CLUSTER);
    assert!(
        error.code == Code::NotFound && error.text.contains("mounted"),
        "{error}"
    );
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    assert_eq!(refused(&file, CLUSTER).code, Code::NotDirectory);
    assert_eq!(Disk::inspect(&file).unwrap_err().code, Code::NotDirectory);
    assert_eq!(
        Disk::format(&file, IDENTITY).unwrap_err().code,
        Code::NotDirectory
    );
    assert!(
        refused(dir.path(), CLUSTER)
            .text
            .contains("is no disk of a cluster")
    );
}

#[test]
fn a_damaged_identity_is_refused() {
    // Its format among them.
    for at in [20, 4] {
        let dir = formatted();
        flip(&dir.path().join("identity"), at);
        let error = refused(dir.path(), CLUSTER);
        assert!(
            error.code == Code::ChecksumMismatch && error.text.contains("damaged"),
            "{error}"
        );
    }
}
