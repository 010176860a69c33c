//! A cluster of one process, or of several under one, `quarry dev`, to be killed and started again.

use crate::run::quarry;
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long a cluster may take to say that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running `quarry dev`; killed when dropped.
#[derive(Debug)]
pub struct Dev {
    dir: PathBuf,
    dataservers: u32,
    more: Vec<&'static str>,
    process: Option<Child>,
}

impl Dev {
    /// Starts a cluster with its state in `dir` and waits until it is ready.
    pub fn start(dir: &Path, dataservers: u32) -> Result<Dev> {
        Dev::start_with(dir, dataservers, &[])
    }

    /// The same with further arguments of `quarry dev`.
    pub fn start_with(dir: &Path, dataservers: u32, more: &[&'static str]) -> Result<Dev> {
        let mut dev = Dev {
            dir: dir.to_owned(),
            dataservers,
            more: more.to_vec(),
            process: None,
        };
        dev.start_again()?;
        Ok(dev)
    }

    /// Starts the cluster on its state and waits until it is ready.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the cluster is running");
        let mut command = Command::new(quarry());
        command.arg("dev").arg("--dir").arg(&self.dir);
        command
            .arg("--dataservers")
            .arg(self.dataservers.to_string())
            .args(&self.more)
            .env("QUARRY_LOG", "error");
        self.process = Some(start_and_wait(&mut self.environment(command))?);
        Ok(())
    }

    /// The same with these further arguments from now on.
    pub fn start_again_with(&mut self, more: &[&'static str]) -> Result<()> {
        self.more = more.to_vec();
        self.start_again()
    }

    /// Stops the cluster as a user does, and waits until it has ended.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the cluster is not running")?;
        let stopped = self.dev(&["stop"]);
        let status = match stopped {
            Ok(_) => process.wait()?,
            Err(error) => {
                process.kill()?;
                process.wait()?;
                return Err(error);
            }
        };
        ensure!(status.success(), "the cluster stopped with {status}");
        Ok(())
    }

    /// Kills every server at once, as nothing can prevent.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the cluster is not running")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// The process of all servers.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// The folder of its state.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The admin's client file.
    pub fn client_file(&self) -> PathBuf {
        self.dir.join("client.toml")
    }

    /// A `quarry` command against this cluster.
    pub fn quarry<A: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(quarry());
        command.args(args);
        self.environment(command)
    }

    /// Runs a `quarry dev` command for this cluster; returns what it wrote.
    pub fn dev(&self, args: &[&str]) -> Result<String> {
        let mut command = self.quarry(["dev"]);
        command.args(args).arg("--dir").arg(&self.dir);
        Ok(String::from_utf8(crate::run::ok(&mut command)?.stdout)?)
    }

    /// The user's own configuration is neither read nor written.
    fn environment(&self, mut command: Command) -> Command {
        command
            .env("QUARRY_CLUSTER", self.client_file())
            .env("XDG_CONFIG_HOME", self.dir.join("xdg"));
        command
    }

    /// Runs a `quarry` command to its end; fails with its output unless it succeeds.
    pub fn ok<A: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Output> {
        crate::run::ok(&mut self.quarry(args))
    }

    /// Runs a `quarry` command that must fail with exit code 1 or 2; returns what it said.
    pub fn refused<A: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let mut command = self.quarry(args);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            matches!(output.status.code(), Some(1 | 2)),
            "{command:?}: {}: {said}",
            output.status
        );
        ensure!(!said.contains("panicked"), "{command:?}: {said}");
        Ok(said)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have died by itself.
            process.kill().ok();
            process.wait().ok();
        }
    }
}

/// Starts a server and waits until it says on its standard output that it is ready. What it says
/// afterwards goes nowhere; its log goes where `command` says.
pub fn start_and_wait(command: &mut Command) -> Result<Child> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let output = child.stdout.take().context("a pipe was asked for")?;
    let (send, ready) = mpsc::channel();
    std::thread::spawn(move || {
        let mut told = false;
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if !told && line.contains("ready") {
                told = true;
                // The starter may have given up.
                send.send(()).ok();
            }
        }
    });
    if ready.recv_timeout(READY_WITHIN).is_ok() {
        return Ok(child);
    }
    child.kill()?;
    let status = child.wait()?;
    bail!("{command:?} was not ready within {READY_WITHIN:?} ({status})");
}
