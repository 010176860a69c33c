//! Who may do what, and client files that are lost.

use super::*;

/// Who may not do everything does the rest, and hears of each thing that was not done.
pub(super) fn what_is_allowed(dev: &Dev, scratch: &Path) -> Result<()> {
    let client_file = scratch.join("bob.toml");
    let add = ["user", "add", "bob", "--uid", "1234", "--out"].map(OsStr::new);
    dev.ok(add.into_iter().chain([client_file.as_os_str()]))?;
    let as_bob = |args: &[&str]| {
        let mut command = dev.quarry(args);
        command.env("QUARRY_CLUSTER", &client_file);
        command
    };
    let told = |args: &[&str]| -> Result<(String, String)> {
        let output = as_bob(args).output()?;
        ensure!(output.status.code() == Some(1), "{args:?}: {output:?}");
        Ok((
            String::from_utf8(output.stdout)?,
            String::from_utf8(output.stderr)?,
        ))
    };
    dev.ok(["mkdir", "-m", "777", "/mixed"])?;
    quarry_tests::run::ok(&mut as_bob(&["mkdir", "-p", "/mixed/bobs/a"]))?;
    for path in ["/mixed/bobs/a/file", "/mixed/bobs/c"] {
        with_input(as_bob(&["put", "-", path]), b"bob's")?;
    }
    with_input(dev.quarry(["put", "-", "/mixed/bobs/b"]), b"secret")?;
    dev.ok(["chmod", "600", "/mixed/bobs/b"])?;
    for (dir, mode) in [("closed", "700"), ("names", "744")] {
        let dir = format!("/mixed/bobs/{dir}");
        dev.ok(["mkdir", "-m", mode, &dir])?;
        with_input(dev.quarry(["put", "-", &format!("{dir}/inner")]), b"")?;
    }

    let (listed, failed) = told(&["ls", "-R", "/mixed/bobs"])?;
    ensure!(
        listed.contains("/mixed/bobs/a:\nfile\n") && listed.contains("/mixed/bobs/names:\ninner\n"),
        "{listed}"
    );
    ensure!(
        failed.contains("/mixed/bobs/closed") && failed.lines().count() == 1,
        "{failed}"
    );
    let (_, failed) = told(&["chmod", "-R", "go-r", "/mixed/bobs"])?;
    ensure!(failed.contains("/mixed/bobs/closed"), "{failed}");
    for path in ["/mixed/bobs/a/file", "/mixed/bobs/c"] {
        let stat = json(dev, &["stat", "--json", path])?;
        ensure!(stat[0]["mode"] == "0600", "{stat}");
    }
    let (_, failed) = told(&["cp", "-r", "/mixed/bobs", "/mixed/copy"])?;
    for path in ["/mixed/bobs/b", "/mixed/bobs/closed"] {
        ensure!(failed.contains(path), "{failed}");
    }
    for path in ["/mixed/copy/a/file", "/mixed/copy/c"] {
        ensure!(said(dev, &["cat", path])? == "bob's", "{path}");
    }
    let (_, failed) = told(&["rm", "-r", "/mixed/bobs"])?;
    for path in ["/mixed/bobs/closed: ", "/mixed/bobs/names/inner: "] {
        ensure!(failed.contains(path), "{failed}");
    }
    ensure!(failed.lines().count() == 2, "{failed}");
    ensure!(said(dev, &["ls", "/mixed/bobs"])? == "closed\nnames\n");
    dev.ok(["rm", "-r", "/mixed"])?;
    Ok(())
}

/// No key is issued that can not be written, and who lost one gets another.
pub(super) fn lost_client_files(dev: &Dev, scratch: &Path) -> Result<()> {
    let told = |args: &[&str], out: &Path| -> Result<String> {
        let output = dev.quarry(args).arg("--out").arg(out).output()?;
        ensure!(output.status.code() == Some(1), "{args:?}: {output:?}");
        Ok(String::from_utf8(output.stderr)?)
    };
    let (file, lost) = (scratch.join("carol.toml"), scratch.join("nothing"));
    fs::write(&lost, "a file")?;
    let failed = told(&["user", "add", "carol"], &lost.join("carol.toml"))?;
    ensure!(failed.contains("can not be written"), "{failed}");
    ensure!(!said(dev, &["user", "list"])?.contains("carol"));
    dev.ok(["user", "add", "carol", "--uid", "1300"])?;

    let failed = told(&["user", "add", "carol", "--uid", "1301"], &file)?;
    ensure!(failed.contains("quarry user renew carol"), "{failed}");
    ensure!(!file.exists(), "what was refused leaves a file");
    let failed = told(&["user", "renew", "dave"], &file)?;
    ensure!(
        failed.contains("no user 'dave'") && !file.exists(),
        "{failed}"
    );
    let renew = ["user", "renew", "carol", "--out"].map(OsStr::new);
    dev.ok(renew.into_iter().chain([file.as_os_str()]))?;
    let as_carol = |args: &[&str]| {
        let mut command = dev.quarry(args);
        command.env("QUARRY_CLUSTER", &file);
        command
    };
    quarry_tests::run::ok(&mut as_carol(&["mkdir", "/home/carol/hers"]))?;
    // A key is an admin's to give.
    let output = as_carol(&["user", "renew", "carol"]).output()?;
    ensure!(
        output.status.code() == Some(1) && output.stdout.is_empty(),
        "{output:?}"
    );
    // Others may read it: it is used, with a warning.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&file, mode)?;
    let output = quarry_tests::run::ok(&mut as_carol(&["ls", "/home/carol"]))?;
    let warned = String::from_utf8(output.stderr)?;
    let remedy = format!("chmod 600 {}", file.display());
    ensure!(
        output.stdout == b"hers\n" && warned.matches(&remedy).count() == 1,
        "{warned}"
    );
    Ok(())
}
