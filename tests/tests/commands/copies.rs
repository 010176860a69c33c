//! Copies within the cluster, and links.

use super::*;

/// Of odd names, modes, times, attributes and files of several names.
pub(super) fn a_copied_tree_is_as_the_one_it_is_of(dev: &Dev, scratch: &Path) -> Result<()> {
    let (tree, back) = (scratch.join("odd"), scratch.join("odd-back"));
    make(&tree, 11, Scale::Small)?;
    let (local, fetched) = (tree.to_str(), back.to_str());
    let (local, fetched) = (local.context("utf-8")?, fetched.context("utf-8")?);
    let put = json(dev, &["--json", "put", "-r", local, "/odd"])?;
    // The second time over what is there.
    for _ in 0..2 {
        let copied = json(dev, &["--json", "cp", "-rp", "/odd/.", "/odd-too"])?;
        for figure in ["files", "directories", "failed"] {
            ensure!(copied[figure] == put[figure], "{figure}: {copied} {put}");
        }
        dev.ok(["get", "-r", "/odd-too", fetched])?;
        assert_same(&tree, &back)?;
        fs::remove_dir_all(&back)?;
    }
    let refused = dev.refused(["cp", "-rn", "/odd/.", "/odd-too"])?;
    ensure!(refused.contains("already"), "{refused}");
    dev.ok(["rm", "-r", "/odd", "/odd-too"])?;
    Ok(fs::remove_dir_all(&tree)?)
}

pub(super) fn links_and_copies(dev: &Dev, scratch: &Path) -> Result<()> {
    dev.ok(["mkdir", "/c"])?;
    with_input(dev.quarry(["put", "-", "/c/data"]), &vec![b'd'; 200_000])?;
    dev.ok(["ln", "/c/data", "/c/second"])?;
    dev.ok(["ln", "-s", "data", "/c/link"])?;
    ensure!(said(dev, &["ls", "-l", "/c"])?.contains(" link -> data\n"));
    ensure!(said(dev, &["cat", "/c/link"])?.len() == 200_000);
    ensure!(said(dev, &["locate", "/c/data"])?.contains("disk"));

    dev.ok(["cp", "/c/data", "/copy"])?;
    let (old, new) = (chunks(dev, "/c/data")?, chunks(dev, "/copy")?);
    ensure!(!old.is_empty() && old == new, "{old:?} {new:?}");
    dev.refused(["cp", "/c", "/tree"])?;
    for _again in 0..2 {
        dev.ok(["cp", "-r", "/c/.", "/tree"])?;
        let tree = json(dev, &["ls", "--json", "/tree"])?;
        let inode = |at: usize| (tree[at]["path"].clone(), tree[at]["inode"].clone());
        ensure!(inode(0).0 == "/tree/data" && inode(2).0 == "/tree/second");
        ensure!(
            inode(0).1 == inode(2).1,
            "two names became two files: {tree}"
        );
        ensure!(
            tree[0]["links"] == 2 && tree[1]["kind"] == "symlink",
            "{tree}"
        );
    }
    ensure!(said(dev, &["cat", "/tree/second"])?.len() == 200_000);
    // Also over what is named one after the other.
    dev.ok(["mkdir", "/c2"])?;
    dev.ok(["ln", "/c/data", "/c2/third"])?;
    dev.ok(["mkdir", "/both"])?;
    dev.ok(["cp", "-r", "/c", "/c2", "/c2/third", "/both"])?;
    let names = ["/both/c/data", "/both/c2/third", "/both/third"];
    let copies = json(dev, &[&["stat", "--json"][..], &names].concat())?;
    for at in 0..names.len() {
        ensure!(copies[at]["inode"] == copies[0]["inode"], "{copies}");
    }
    dev.ok(["rm", "-r", "/both", "/c2"])?;
    // A file by itself goes where a link leads.
    let local = scratch.join("by-itself");
    fs::write(&local, "put")?;
    let local = local.to_str().context("utf-8")?;
    dev.ok(["mkdir", "/t"])?;
    with_input(dev.quarry(["put", "-", "/t/file"]), b"old")?;
    with_input(dev.quarry(["put", "-", "/t/copied"]), b"copied")?;
    dev.ok(["ln", "-s", "file", "/t/link"])?;
    dev.ok(["ln", "-s", "nowhere", "/t/dangling"])?;
    dev.ok(["cp", "-p", "/t/copied", "/t/link"])?;
    ensure!(said(dev, &["cat", "/t/file"])? == "copied");
    dev.ok(["put", local, "/t/link"])?;
    ensure!(said(dev, &["cat", "/t/file"])? == "put");
    with_input(dev.quarry(["put", "-", "/t/link"]), b"input")?;
    ensure!(said(dev, &["cat", "/t/file"])? == "input");
    for args in [
        ["cp", "/t/copied", "/t/dangling"],
        ["put", local, "/t/dangling"],
    ] {
        let refused = dev.refused(args)?;
        let told = "/t/dangling: is a dangling link: not written through";
        ensure!(refused.contains(told), "{refused}");
    }
    let links = said(dev, &["ls", "-l", "/t"])?;
    ensure!(links.contains(" link -> file\n") && links.contains(" dangling -> nowhere\n"));
    ensure!(
        dev.refused(["cp", "/t/file", "/t/link"])?
            .contains("same file")
    );
    dev.ok(["mv", "/t/copied", "/t/link"])?;
    ensure!(said(dev, &["ls", "/t"])? == "dangling\nfile\nlink\n");
    ensure!(said(dev, &["cat", "/t/file"])? == "input");
    dev.ok(["rm", "-r", "/t"])?;

    // Within a tree nothing goes where a link leads.
    dev.ok(["mkdir", "-p", "/from/sub", "/into", "/outside"])?;
    with_input(dev.quarry(["put", "-", "/from/sub/file"]), b"new")?;
    dev.ok(["ln", "-s", "/outside", "/into/sub"])?;
    let refused = dev.refused(["cp", "-r", "/from/.", "/into"])?;
    ensure!(
        refused.contains("/into/sub: exists and is not a directory"),
        "{refused}"
    );
    ensure!(said(dev, &["ls", "/outside"])?.is_empty());

    head(dev, "/c/data")?;

    // However the way into itself is spelled.
    dev.ok(["ln", "-s", "/c", "/to-c"])?;
    for (from, to) in [("/c/.", "/c/in"), ("//c", "/c/in"), ("/c", "/to-c/in")] {
        let refused = dev.refused(["cp", "-r", from, to])?;
        ensure!(refused.contains("into itself"), "{from} {to}: {refused}");
        ensure!(dev.refused(["ls", "/c/in/in"])?.contains("/c/in/in"));
        ensure!(said(dev, &["ls", "/c/in"])? == "data\nlink\nsecond\n");
        dev.ok(["rm", "-r", "/c/in"])?;
    }
    ensure!(dev.refused(["cp", "-r", "/c/.", "/c"])?.contains("itself"));
    dev.ok(["rm", "/to-c"])?;

    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(log(ClientFile::load(&dev.client_file())?, 2_500))?;
    dev.ok(["cp", "/log", "/log-too"])?;
    let copy = said(dev, &["cat", "/log-too"])?;
    ensure!(copy.len() == 25_000 && copy == said(dev, &["cat", "/log"])?);

    dev.ok(["ln", "/c/data", "/c/third"])?;
    dev.ok(["mv", "/c/third", "/c/second"])?;
    ensure!(said(dev, &["ls", "/c"])? == "data\nlink\nsecond\n");
    ensure!(
        dev.refused(["mv", "/c/data", "//c/data"])?
            .contains("same file")
    );
    ensure!(said(dev, &["cat", "/c/second"])?.len() == 200_000);

    dev.ok(["mv", "/copy", "/moved"])?;
    dev.ok(["mv", "/moved", "/tree"])?;
    ensure!(said(dev, &["ls", "/tree/moved"])? == "/tree/moved\n");
    dev.refused(["mv", "-n", "/tree/moved", "/c/data"])?;
    dev.refused(["ls", "/copy"])?;
    Ok(())
}

fn chunks(dev: &Dev, path: &str) -> Result<Vec<String>> {
    fn gather(value: &serde_json::Value, all: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                all.extend(fields.get("chunk").map(ToString::to_string));
                fields.values().for_each(|value| gather(value, all));
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| gather(value, all)),
            _ => {}
        }
    }
    let mut all = Vec::new();
    gather(&json(dev, &["locate", "--json", path])?, &mut all);
    Ok(all)
}
