//! What a cluster says of itself.

use super::*;

pub(super) fn standing(dev: &Dev) -> Result<()> {
    ensure!(said(dev, &["status"])?.contains("disk"));
    for args in [
        ["status", "--json"],
        ["disk", "list"],
        ["pg", "list"],
        ["user", "list"],
    ] {
        ensure!(!said(dev, &args)?.is_empty(), "{args:?}");
    }
    for args in [
        ["disk", "list", "--json"],
        ["pg", "list", "--json"],
        ["user", "list", "--json"],
    ] {
        json(dev, &args)?;
    }
    // One process runs all servers: they are shown, and can not be ended one by one.
    let running: serde_json::Value = serde_json::from_str(&dev.dev(&["status", "--json"])?)?;
    ensure!(running["processes"] == false, "{running}");
    let pid = dev.pid().context("it runs")?;
    for (server, name) in ["meta-1", "data-1"].iter().enumerate() {
        let server = &running["servers"][server];
        ensure!(server["name"] == *name && server["state"] == "running");
        ensure!(server["pid"] == pid && server["server"] == 1, "{server}");
    }
    ensure!(dev.dev(&["status"])?.contains("data-1"));
    let dir = dev.dir().to_str().context("utf-8")?;
    for action in ["kill", "pause", "resume", "start"] {
        let refused = dev.refused(["dev", action, "data-1", "--dir", dir])?;
        ensure!(refused.contains("dev --processes --detach"), "{refused}");
    }
    let client_file = dev.client_file();
    let checked = dev.ok([
        OsStr::new("config"),
        OsStr::new("check"),
        client_file.as_os_str(),
    ])?;
    ensure!(String::from_utf8(checked.stdout)?.contains("client"));
    let client_file = client_file.to_str().context("utf-8")?;
    let checked = json(dev, &["config", "check", "--json", client_file])?;
    ensure!(checked["good_configuration_of"] == "client", "{checked}");
    let again = json(dev, &["dev", "--detach", "--json", "--dir", dir])?;
    ensure!(again["ready"] == true && again["pid"] == pid, "{again}");
    let scratch = tempfile::tempdir()?;
    let none = scratch.path().to_str().context("utf-8")?;
    let stopped = json(dev, &["dev", "stop", "--json", "--dir", none])?;
    ensure!(
        stopped["stopped"] == false && stopped["dir"] == none,
        "{stopped}"
    );
    let new = scratch.path().join("new");
    let new = new.to_str().context("utf-8")?;
    let made = json(
        dev,
        &[
            "cluster",
            "init",
            "--json",
            "--metaserver",
            "m",
            "--dataservers",
            "2",
            new,
        ],
    )?;
    ensure!(
        made["dataservers"][1] == "dataserver-2" && made["dir"] == new,
        "{made}"
    );
    // Used wrongly is another thing than failed.
    for (args, code) in [
        (vec!["ls", "/none"], 1),
        (vec!["cat", "/l"], 1),
        (vec!["ls", "relative"], 2),
        (vec!["ls", "--sideways"], 2),
        (vec!["frobnicate"], 2),
        (vec!["put", "/etc"], 2),
        (vec!["help"], 0),
        (vec!["help", "ls"], 0),
        (vec!["put", "--help"], 0),
        (vec!["dev", "--help"], 0),
        (vec!["dev", "kill", "--help"], 0),
        (vec!["dev", "kill"], 2),
        (vec!["--version"], 0),
    ] {
        let output = dev.quarry(&args).output()?;
        ensure!(output.status.code() == Some(code), "{args:?}: {output:?}");
        let (out, err) = (output.stdout.is_empty(), output.stderr.is_empty());
        ensure!(
            if code == 0 { !out && err } else { out && !err },
            "{args:?}: {output:?}"
        );
    }
    Ok(())
}
