//! Who waits for servers that are away is told why, and then served.

use anyhow::{Context, Result, ensure};
use quarry_tests::processes::Processes;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

/// A command waits for longer than the patience after which it says so.
const AWAY_FOR: Duration = Duration::from_secs(6);

fn spawn(cluster: &Processes, args: &[&str]) -> Result<Child> {
    let mut command = cluster.quarry(args);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    Ok(command.spawn()?)
}

/// Waits for the end of a command, which is to succeed having said that once.
fn ends_having_said(mut command: Child, what: &str) -> Result<()> {
    let mut said = String::new();
    let stderr = command.stderr.as_mut().context("a pipe")?;
    stderr.read_to_string(&mut said)?;
    let status = command.wait()?;
    ensure!(status.success(), "{status}: {said}");
    ensure!(
        said.matches(what).count() == 1,
        "'{what}' is not in: {said}"
    );
    Ok(())
}

#[test]
fn who_waits_for_a_server_is_told_so_once_and_served_when_it_is_back() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let addresses = Processes::free_addresses(2)?;
    let mut cluster = Processes::init(&scratch.path().join("cluster"), &addresses, None)?;
    cluster.start_all(1)?;
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree)?;
    for number in 0..40 {
        std::fs::write(tree.join(format!("f{number}")), vec![number; 100_000])?;
    }
    let tree = tree.to_str().context("utf-8")?;
    cluster.ok(["put", "-r", tree, "/"])?;

    cluster.stop("dataserver-1")?;
    let back = scratch.path().join("back");
    let back = back.to_str().context("utf-8")?;
    let up = spawn(&cluster, &["put", "-r", tree, "/again"])?;
    let down = spawn(&cluster, &["get", "-r", "/tree", back])?;
    std::thread::sleep(AWAY_FOR);
    cluster.start("dataserver-1")?;
    ends_having_said(up, "do not take the bytes yet")?;
    ends_having_said(down, "no dataserver gives the bytes")?;

    cluster.stop("metaserver-1")?;
    let list = spawn(&cluster, &["ls", "-R", "/"])?;
    std::thread::sleep(AWAY_FOR);
    cluster.start("metaserver-1")?;
    ends_having_said(list, "no metaserver answers yet")
}
