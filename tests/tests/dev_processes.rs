//! A laptop cluster whose servers are processes of their own: anyone can kill, pause and start them, and none
//! outlives the cluster.

use anyhow::{Context, Result, ensure};
use quarry_tests::cluster::Dev;
use quarry_tests::compare::assert_same;
use quarry_tests::generator::{Scale, make};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const PROCESSES: &[&str] = &["--metaservers", "3", "--processes"];

/// For what takes as long as a busy machine needs.
const LONG: Duration = Duration::from_secs(60);

/// What must not wait for a deadline: less than the 30 s after which servers that do not stop are killed.
const PROMPT: Duration = Duration::from_secs(15);

fn status(dev: &Dev) -> Result<Value> {
    Ok(serde_json::from_str(&dev.dev(&["status", "--json"])?)?)
}

fn server(dev: &Dev, name: &str) -> Result<Value> {
    let status = status(dev)?;
    let servers = status["servers"].as_array().context("a list")?;
    let found = servers.iter().find(|server| server["name"] == name);
    found.cloned().with_context(|| format!("no {name}"))
}

fn pid(dev: &Dev, name: &str) -> Result<u64> {
    server(dev, name)?["pid"].as_u64().context("no process")
}

/// The state of a process as the kernel has it, if there is such a process.
fn kernel_state(pid: u64) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The command lines of all processes that have something to do with a directory.
fn processes_of(dir: &Path) -> Result<Vec<String>> {
    let dir = dir.to_str().context("utf-8")?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(dir) {
            found.push(line);
        }
    }
    Ok(found)
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < LONG, "not so after {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Runs a `quarry dev` command that must fail; returns what it said.
fn refused(dev: &Dev, args: &[&str]) -> Result<String> {
    let dir = dev.dir().to_str().context("utf-8")?;
    dev.refused(["dev"].iter().chain(args).chain(&["--dir", dir]))
}

/// Whether the tree that was put is there, whole.
fn is_whole(dev: &Dev, tree: &Path, scratch: &Path) -> Result<()> {
    let back = scratch.join("back");
    let (from, to) = ("/tree", back.to_str().context("utf-8")?);
    dev.ok(["get", "-r", from, to])?;
    assert_same(tree, &back)?;
    Ok(fs::remove_dir_all(&back)?)
}

fn metaservers(dev: &Dev) -> Result<Vec<Value>> {
    let output = dev.ok(["--json", "metaserver", "status"])?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn what_was_stored_is_read_and_changed_while_servers_are_killed_paused_and_started() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let dir = scratch.path().join("cluster");
    let mut dev = Dev::start_with(&dir, 3, PROCESSES)?;
    let names = ["meta-1", "meta-2", "meta-3", "data-1", "data-2", "data-3"];
    let mut pids = Vec::new();
    for name in names {
        let server = server(&dev, name)?;
        ensure!(server["state"] == "running", "{server}");
        pids.push(server["pid"].as_u64().context("no process")?);
    }
    pids.push(u64::from(dev.pid().context("it runs")?));
    pids.sort_unstable();
    pids.dedup();
    ensure!(pids.len() == 7, "not each in a process: {pids:?}");
    // Clusters of one process are started with the same.
    for file in ["meta-1/metaserver.toml", "dataserver-1/dataserver.toml"] {
        let file = dir.join(file);
        dev.ok(["config", "check", file.to_str().context("utf-8")?])?;
    }

    let tree = scratch.path().join("tree");
    make(&tree, 7, Scale::Small)?;
    dev.ok(["put", "-r", tree.to_str().context("utf-8")?, "/tree"])?;

    a_leader_dies_and_comes_back(&dev)?;
    is_whole(&dev, &tree, scratch.path())?;
    a_new_metaserver_gets_the_leaders_settings(&dev, scratch.path())?;
    a_dataserver_hangs(&dev, &tree, scratch.path())?;
    for name in ["data-1", "data-2", "data-3"] {
        let before = pid(&dev, name)?;
        dev.dev(&["kill", name])?;
        ensure!(kernel_state(before).is_none(), "{name} lives");
        is_whole(&dev, &tree, scratch.path())?;
        dev.dev(&["start", name])?;
        ensure!(pid(&dev, name)? != before, "{name} is the same process");
    }
    a_disk_is_replaced(&dev, &dir)?;
    is_whole(&dev, &tree, scratch.path())?;
    dev.ok(["put", "-r", tree.to_str().context("utf-8")?, "/again"])?;

    dev.stop()?;
    ensure!(processes_of(&dir)?.is_empty(), "{:?}", processes_of(&dir)?);
    // On the same state in one process, which has no servers that could be killed one by one.
    dev.start_again_with(&[])?;
    is_whole(&dev, &tree, scratch.path())?;
    let said = refused(&dev, &["kill", "data-1"])?;
    ensure!(said.contains("dev --processes"), "{said}");
    dev.stop()?;
    let said = refused(&dev, &["kill", "data-1"])?;
    ensure!(said.contains("no cluster runs"), "{said}");

    // And in processes again; they end with the one that started them, and are in nobody's way.
    dev.start_again_with(PROCESSES)?;
    dev.kill()?;
    dev.start_again()?;
    is_whole(&dev, &tree, scratch.path())?;
    dev.kill()?;
    wait_until("all servers end with their parent", || {
        Ok(processes_of(&dir)?.is_empty())
    })
}

fn a_leader_dies_and_comes_back(dev: &Dev) -> Result<()> {
    let all = metaservers(dev)?;
    let leader = all.iter().find(|server| server["leads"] == true);
    let id = leader.context("nobody leads")?["server"].clone();
    let name = format!("meta-{id}");
    let before = pid(dev, &name)?;
    dev.dev(&["kill", &name])?;
    ensure!(kernel_state(before).is_none(), "{name} lives");
    ensure!(server(dev, &name)?["state"] == "dead");
    dev.ok(["mkdir", "/after-the-leader"])?;
    let said = refused(dev, &["kill", &name])?;
    ensure!(said.contains("dead already"), "{said}");
    let said = refused(dev, &["kill", "meta-9"])?;
    ensure!(said.contains("meta-1, meta-2, meta-3, data-1"), "{said}");

    dev.dev(&["start", &name])?;
    let said = refused(dev, &["start", &name])?;
    ensure!(said.contains("running already"), "{said}");
    wait_until("the killed leader follows", || {
        let all = metaservers(dev)?;
        Ok(all
            .iter()
            .any(|server| server["server"] == id && server["role"] == "follows"))
    })
}

fn a_new_metaserver_gets_the_leaders_settings(dev: &Dev, scratch: &Path) -> Result<()> {
    let folder = scratch.join("meta-4");
    let out = folder.to_str().context("utf-8")?;
    dev.ok(["metaserver", "add", "127.0.0.1:1", "--out", out])?;
    let text = fs::read_to_string(folder.join("metaserver.toml"))?;
    for part in ["\n# doom_grace_seconds = 300 ", "\nout_after_seconds = 20 "] {
        ensure!(text.contains(part), "{text}");
    }
    dev.ok(["metaserver", "remove", "4"])?;
    // Not where a dataserver is.
    let taken = server(dev, "data-1")?["address"].clone();
    let (taken, out) = (taken.as_str().context("an address")?, format!("{out}-2"));
    let said = dev.refused(["metaserver", "add", taken, "--out", &out])?;
    ensure!(said.contains("dataserver 1 is at"), "{said}");
    Ok(())
}

fn a_disk_is_replaced(dev: &Dev, dir: &Path) -> Result<()> {
    let disk = dir.join("dataserver-3/disk-1");
    dev.dev(&["kill", "data-3"])?;
    fs::remove_dir_all(&disk)?;
    fs::create_dir(&disk)?;
    let said = refused(dev, &["start", "data-3"])?;
    ensure!(said.contains("--replace-disk"), "{said}");
    let replace = |name| ["start", name, "--replace-disk", disk.to_str().unwrap_or("")];
    let said = refused(dev, &replace("meta-1"))?;
    ensure!(said.contains("meta-1 is a metaserver"), "{said}");
    dev.dev(&replace("data-3"))?;
    ensure!(server(dev, "data-3")?["state"] == "running");
    Ok(())
}

fn a_dataserver_hangs(dev: &Dev, tree: &Path, scratch: &Path) -> Result<()> {
    let before = pid(dev, "data-2")?;
    dev.dev(&["pause", "data-2"])?;
    ensure!(kernel_state(before) == Some('T'), "it goes on");
    ensure!(server(dev, "data-2")?["state"] == "paused");
    let said = refused(dev, &["pause", "data-2"])?;
    ensure!(said.contains("paused already"), "{said}");
    is_whole(dev, tree, scratch)?;
    dev.dev(&["resume", "data-2"])?;
    ensure!(matches!(kernel_state(before), Some('R' | 'S' | 'D')));
    ensure!(server(dev, "data-2")?["state"] == "running");
    let said = refused(dev, &["resume", "data-2"])?;
    ensure!(said.contains("not paused"), "{said}");
    wait_until("it is heard again", || {
        Ok(!dev
            .ok(["status"])?
            .stdout
            .windows(4)
            .any(|part| part == b"down"))
    })
}

#[test]
fn a_server_that_ends_by_itself_is_reported_and_not_started_again() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let dir = scratch.path().join("cluster");
    let dev = Detached::start(&dir)?;
    let log = || fs::read_to_string(dir.join("log"));
    let victim = dev.pid("data-1")?;
    kill_9(victim)?;
    wait_until("its end is reported", || {
        Ok(log()?.contains("data-1 ended by itself (signal: 9 (SIGKILL))"))
    })?;
    let file = dir.join("data-1.log");
    let file = file.to_str().context("utf-8")?;
    ensure!(log()?.contains(file), "{}", log()?);
    std::thread::sleep(Duration::from_secs(1));
    let server = dev.server("data-1")?;
    ensure!(server["state"] == "dead" && server["pid"].is_null());
    ensure!(server["ended"] == "signal: 9 (SIGKILL)", "{server}");

    // One that can not start says why.
    let address = server["address"].as_str().context("an address")?;
    let in_its_place = UdpSocket::bind(address)?;
    let output = dev.command(&["start", "data-1"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{output:?}");
    for part in ["data-1 has not started", "data-1.log", address] {
        ensure!(said.contains(part), "'{part}' is missing: {said}");
    }
    // And so does the whole cluster, which leaves nothing behind.
    dev.run(&["stop"])?;
    let output = dev.command(&["--processes", "--detach"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{output:?}");
    for part in ["data-1 ended by itself", "data-1.log", address] {
        ensure!(said.contains(part), "'{part}' is missing: {said}");
    }
    ensure!(processes_of(&dir)?.is_empty(), "{:?}", processes_of(&dir)?);
    drop(in_its_place);
    dev.run(&["--processes", "--detach"])?;
    ensure!(dev.server("data-1")?["state"] == "running");
    dev.run(&["stop"])?;
    Ok(())
}

#[test]
fn paused_servers_and_those_that_wait_stop_at_once() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let dir = scratch.path().join("cluster");
    let dev = Detached::start(&dir)?;
    for args in [
        ["pause", "data-2"],
        ["kill", "data-1"],
        ["pause", "meta-1"],
        ["kill", "meta-2"],
        ["kill", "meta-3"],
    ] {
        dev.run(&args)?;
    }
    // It waits for metaservers, of which too few are there.
    let mut command = dev.command(&["start", "data-1"]);
    let mut starting = command
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    wait_until("it waits", || {
        Ok(dev.server("data-1")?["state"] == "starting")
    })?;
    let (status, leads) = dev.status()?;
    let cluster = &status["cluster"];
    ensure!(!leads && cluster["leader"].is_null(), "{status}");
    let problem = cluster["problems"][0].as_str().unwrap_or_default();
    ensure!(problem.contains("0 of 3 metaservers answer"), "{problem}");
    let begun = Instant::now();
    dev.run(&["stop"])?;
    ensure!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    ensure!(!starting.wait()?.success(), "it started without a cluster");
    ensure!(processes_of(&dir)?.is_empty(), "{:?}", processes_of(&dir)?);
    let log = fs::read_to_string(dir.join("log"))?;
    ensure!(
        !log.contains("stopped with") && !log.contains("was killed"),
        "{log}"
    );
    Ok(())
}

#[test]
fn ctrl_c_stops_a_cluster_as_stop_does() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let dir = scratch.path().join("cluster");
    for kind in [&["--processes"][..], &[]] {
        let mut command = std::process::Command::new(quarry_tests::run::quarry());
        command.args(["dev", "--dataservers", "1"]).args(kind);
        command
            .arg("--dir")
            .arg(&dir)
            .env("XDG_CONFIG_HOME", scratch.path());
        // A terminal sends it to all processes of its foreground.
        command.process_group(0).stderr(Stdio::piped());
        let process = quarry_tests::cluster::start_and_wait(&mut command)?;
        let group = Pid::from_raw(i32::try_from(process.id())?).context("a group")?;
        let begun = Instant::now();
        rustix::process::kill_process_group(group, Signal::INT)?;
        let output = process.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said}", output.status);
        ensure!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
        ensure!(
            !["was killed", "by itself", "stopped with", "ERROR"]
                .iter()
                .any(|word| said.contains(word)),
            "{said}"
        );
        ensure!(processes_of(&dir)?.is_empty(), "{:?}", processes_of(&dir)?);
    }
    Ok(())
}

fn kill_9(pid: u64) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a process")?;
    Ok(rustix::process::kill_process(pid, Signal::KILL)?)
}

/// A detached cluster; stopped when dropped.
struct Detached<'a> {
    dir: &'a Path,
}

impl Detached<'_> {
    fn start(dir: &Path) -> Result<Detached<'_>> {
        let dev = Detached { dir };
        let new = ["--metaservers", "3", "--dataservers", "2"];
        dev.run(&[&new[..], &["--processes", "--detach"]].concat())?;
        Ok(dev)
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(quarry_tests::run::quarry());
        command.arg("dev").args(args).arg("--dir").arg(self.dir);
        command.env("XDG_CONFIG_HOME", self.dir.with_extension("xdg"));
        // Of servers that are started by hand: these have their own.
        command.envs([("QUARRY_LISTEN", "127.0.0.1:1"), ("QUARRY_DIR", "/none")]);
        command
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        let output = quarry_tests::run::ok(&mut self.command(args))?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What is shown, and whether somebody leads.
    fn status(&self) -> Result<(Value, bool)> {
        let output = self.command(&["status", "--json"]).output()?;
        Ok((
            serde_json::from_slice(&output.stdout)?,
            output.status.success(),
        ))
    }

    fn server(&self, name: &str) -> Result<Value> {
        let (status, _) = self.status()?;
        let servers = status["servers"].as_array().context("a list")?;
        let found = servers.iter().find(|server| server["name"] == name);
        found.cloned().with_context(|| format!("no {name}"))
    }

    fn pid(&self, name: &str) -> Result<u64> {
        self.server(name)?["pid"].as_u64().context("no process")
    }
}

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        // It may have stopped.
        self.run(&["stop"]).ok();
    }
}
