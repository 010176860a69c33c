//! Paths that end in a slash, and names that nobody expects.

use super::*;

/// A slash at the end of a path says that a directory is meant.
pub(super) fn slashes(dev: &Dev, scratch: &Path) -> Result<()> {
    let local = scratch.join("slashes");
    let local = local.to_str().context("utf-8")?;
    fs::write(local, "x")?;
    dev.ok(["mkdir", "/s", "/s/d/"])?;
    dev.ok(["put", local, "/s/f"])?;
    dev.ok(["ln", "-s", "d", "/s/link"])?;
    for args in [
        vec!["rm", "/s/f/"],
        vec!["rm", "-rf", "/s/f/"],
        vec!["rmdir", "/s/f/"],
        vec!["cat", "/s/f/"],
        vec!["ls", "/s/f/"],
        vec!["ls", "-d", "/s/f/"],
        vec!["stat", "/s/f/"],
        vec!["cp", "/s/f/", "/s/x"],
        vec!["cp", "/s/d/../f", "/s/f/"],
        vec!["mv", "/s/f/", "/s/x"],
        vec!["mv", "-T", "/s/f", "/s/x/"],
        vec!["chmod", "644", "/s/f/"],
        vec!["chown", "1", "/s/f/"],
        vec!["truncate", "-s", "1", "/s/f/"],
        vec!["append", "/s/f/", local],
        vec!["get", "/s/f/", "-"],
        vec!["put", local, "/s/f/"],
        vec!["ln", "/s/f/", "/s/x"],
    ] {
        let refused = dev.refused(&args)?;
        let named = refused.contains("/s/f") && refused.contains("not a directory");
        ensure!(named, "{args:?}: {refused}");
    }
    // Neither a link nor what it leads to goes.
    for args in [
        vec!["rm", "/s/link/"],
        vec!["rm", "-r", "/s/link/"],
        vec!["rmdir", "/s/link/"],
        vec!["mv", "/s/link/", "/s/x"],
    ] {
        let refused = dev.refused(&args)?;
        let named = refused.contains("/s/link/: ") && refused.contains("not a directory");
        ensure!(named, "{args:?}: {refused}");
    }
    // A name with a slash is no file's.
    for args in [
        vec!["append", "/s/x/", local],
        vec!["truncate", "-s", "1", "/s/x/"],
        vec!["put", local, "/s/x/"],
        vec!["cp", "-r", "/s/f", "/s/x/"],
        vec!["mv", "/s/f", "/s/x/"],
    ] {
        ensure!(dev.refused(&args)?.contains("/s/x/"), "{args:?}");
    }
    ensure!(said(dev, &["ls", "/s/"])? == "d\nf\nlink\n");
    dev.ok(["put", local, "/s/d/"])?;
    ensure!(said(dev, &["ls", "/s/link/"])? == "slashes\n");
    dev.ok(["mkdir", "-p", "-m", "700", "/s/new/deep/"])?;
    let made = json(dev, &["stat", "--json", "/s/new/deep"])?;
    ensure!(made[0]["mode"] == "0700", "{made}");
    dev.ok(["cp", "-r", "/s/d/", "/s/copy/"])?;
    ensure!(
        dev.refused(["cp", "-r", "/s/d/", "/s/d/in"])?
            .contains("itself")
    );
    dev.ok(["mv", "/s/d/", "/s/e"])?;
    dev.ok(["mv", "/s/e/", "/s/d/"])?;
    dev.ok(["rmdir", "/s/new/deep/"])?;
    dev.ok(["rm", "-r", "/s/copy/"])?;
    ensure!(said(dev, &["ls", "/s/"])? == "d\nf\nlink\nnew\n");
    dev.ok(["rm", "-r", "/s/"])?;
    Ok(())
}

pub(super) fn odd_names(dev: &Dev) -> Result<()> {
    let odd = OsStr::from_bytes(b"/odd-\xff\n");
    with_input(
        dev.quarry([OsStr::new("put"), OsStr::new("-"), odd]),
        b"odd",
    )?;
    let listed = json(dev, &["ls", "--json", "/"])?;
    let entries = listed.as_array().context("a list")?;
    let coded = entries
        .iter()
        .find_map(|entry| entry["path_base64"].as_str());
    ensure!(coded == Some("L29kZC3/Cg=="), "{listed}");
    ensure!(
        dev.ok(["ls", "/"])?
            .stdout
            .windows(6)
            .any(|part| part == b"odd-\xff\n")
    );
    dev.ok([OsStr::new("rm"), odd])?;
    Ok(())
}
