//! Who waits for servers that are away is told why, and then served.

use anyhow::{Context, Result, ensure};
use quarry_tests::processes::Processes;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A command that waits says so sooner.
const SAYS_SO_WITHIN: Duration = Duration::from_secs(60);

/// A command, and the lines it says.
struct Waiting {
    command: Child,
    lines: Receiver<String>,
}

impl Waiting {
    fn spawn(cluster: &Processes, args: &[&str]) -> Result<Waiting> {
        let mut command = cluster.quarry(args);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut command = command.spawn()?;
        let stderr = command.stderr.take().context("a pipe")?;
        let (said, lines) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stderr).lines().map_while(Result::ok);
            // Nobody listens any more where the test has failed.
            let _ = lines.map(|line| said.send(line)).find(Result::is_err);
        });
        Ok(Waiting { command, lines })
    }

    /// Waits until it says that it waits.
    fn until_it_says(&self, what: &str) -> Result<()> {
        let line = self.lines.recv_timeout(SAYS_SO_WITHIN);
        let line = line.with_context(|| format!("'{what}' is not said"))?;
        ensure!(line.contains(what), "'{what}' is not in: {line}");
        Ok(())
    }

    /// Waits for its end, which is to succeed without another word.
    fn ends_well(mut self) -> Result<()> {
        let more: Vec<String> = self.lines.iter().collect();
        let status = self.command.wait()?;
        ensure!(status.success() && more.is_empty(), "{status}: {more:?}");
        Ok(())
    }
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
    let up = Waiting::spawn(&cluster, &["put", "-r", tree, "/again"])?;
    let down = Waiting::spawn(&cluster, &["get", "-r", "/tree", back])?;
    up.until_it_says("do not take the bytes yet")?;
    down.until_it_says("no dataserver gives the bytes")?;
    cluster.start("dataserver-1")?;
    up.ends_well()?;
    down.ends_well()?;

    cluster.stop("metaserver-1")?;
    let list = Waiting::spawn(&cluster, &["ls", "-R", "/"])?;
    list.until_it_says("no metaserver answers yet")?;
    cluster.start("metaserver-1")?;
    list.ends_well()
}
