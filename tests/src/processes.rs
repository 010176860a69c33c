//! A cluster of several processes, as `quarry cluster init` makes it: one metaserver or several and some
//! dataservers, each with its folder and its configuration file.

use crate::cluster::start_and_wait;
use crate::network::Cable;
use crate::run::{ok, quarry};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

/// The servers that run; killed when dropped.
#[derive(Debug)]
pub struct Processes<'a> {
    dir: PathBuf,
    cable: Option<&'a Cable>,
    running: BTreeMap<String, Child>,
    settings: Vec<(&'static str, &'static str)>,
}

impl<'a> Processes<'a> {
    /// Makes the certificates and configurations in the new folder `dir`: a metaserver at
    /// `addresses[0]` and dataservers at the others. Nothing is started yet.
    pub fn init(dir: &Path, addresses: &[String], cable: Option<&'a Cable>) -> Result<Self> {
        Processes::init_with(dir, addresses, cable, &[])
    }

    /// The same with further arguments of `quarry cluster init`.
    pub fn init_with(
        dir: &Path,
        addresses: &[String],
        cable: Option<&'a Cable>,
        more: &[&str],
    ) -> Result<Self> {
        let (metaserver, dataservers) = addresses.split_at(1.min(addresses.len()));
        Processes::init_several(dir, metaserver, dataservers, cable, more)
    }

    /// The same with these metaservers and dataservers.
    pub fn init_several(
        dir: &Path,
        metaservers: &[String],
        dataservers: &[String],
        cable: Option<&'a Cable>,
        more: &[&str],
    ) -> Result<Self> {
        let mut init = Command::new(quarry());
        init.args(["cluster", "init"]).arg(dir).args(more);
        for address in metaservers {
            init.args(["--metaserver", address]);
        }
        for address in dataservers {
            init.args(["--dataserver", address]);
        }
        ok(&mut init)?;
        Ok(Processes {
            dir: dir.to_owned(),
            cable,
            running: BTreeMap::new(),
            settings: Vec::new(),
        })
    }

    /// Addresses on this host that nobody uses now.
    pub fn free_addresses(count: usize) -> Result<Vec<String>> {
        // All are held until all are found, so that they differ.
        let sockets = (0..count).map(|_| UdpSocket::bind("127.0.0.1:0"));
        let sockets = sockets.collect::<std::io::Result<Vec<_>>>()?;
        sockets
            .iter()
            .map(|socket| Ok(socket.local_addr()?.to_string()))
            .collect()
    }

    /// Gives every server that is started from now on a setting, by its environment variable.
    pub fn set(&mut self, variable: &'static str, value: &'static str) {
        self.settings.push((variable, value));
    }

    /// The folder of a server: `metaserver-1`, `dataserver-2`.
    pub fn folder(&self, server: &str) -> PathBuf {
        self.dir.join(server)
    }

    /// The command that runs a server, each in a failure domain of its own.
    pub fn command(&self, server: &str) -> Command {
        let mut command = match self.cable {
            Some(cable) => cable.on_servers(&quarry()),
            None => Command::new(quarry()),
        };
        let role = server.split('-').next().unwrap_or(server);
        let config = self.folder(server).join(format!("{role}.toml"));
        command.args([role, "run", "--config"]).arg(config);
        command.envs(self.settings.iter().copied());
        if role == "dataserver" {
            command.args(["--host", server]);
        }
        command
    }

    /// Starts a server and waits until it is ready.
    pub fn start(&mut self, server: &str) -> Result<()> {
        ensure!(!self.running.contains_key(server), "{server} runs already");
        let process = start_and_wait(&mut self.command(server))?;
        self.running.insert(server.to_owned(), process);
        Ok(())
    }

    /// Starts the metaserver and then so many dataservers.
    pub fn start_all(&mut self, dataservers: u32) -> Result<()> {
        self.start("metaserver-1")?;
        (1..=dataservers).try_for_each(|number| self.start(&format!("dataserver-{number}")))
    }

    /// Kills one server.
    pub fn kill(&mut self, server: &str) -> Result<()> {
        let mut process = self.running.remove(server).context("it does not run")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Stops a server as an operator does, and waits until it has ended.
    pub fn stop(&mut self, server: &str) -> Result<()> {
        let mut process = self.running.remove(server).context("it does not run")?;
        let pid = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = process.wait()?;
        ensure!(status.success(), "{server} stopped with {status}");
        Ok(())
    }

    /// The servers that run.
    pub fn running(&self) -> Vec<String> {
        self.running.keys().cloned().collect()
    }

    /// The admin's client file.
    pub fn client_file(&self) -> PathBuf {
        self.dir.join("client.toml")
    }

    /// A `quarry` command of the admin, on the host of the clients.
    pub fn quarry<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = match self.cable {
            Some(cable) => cable.on_clients(&quarry()),
            None => Command::new(quarry()),
        };
        command
            .args(args)
            .env("QUARRY_CLUSTER", self.client_file())
            .env("XDG_CONFIG_HOME", self.dir.join("xdg"));
        command
    }

    /// Runs a `quarry` command of the admin to its end; fails with its output unless it succeeds.
    pub fn ok<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Output> {
        ok(&mut self.quarry(args))
    }
}

impl Drop for Processes<'_> {
    fn drop(&mut self) {
        for process in self.running.values_mut() {
            // It may have died by itself.
            process.kill().ok();
            process.wait().ok();
        }
    }
}
