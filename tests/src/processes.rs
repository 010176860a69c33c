//! A cluster of several processes, as `quarry cluster init` makes it: one metaserver or several and some
//! dataservers, each with its folder and its configuration file.

use crate::cluster::start_and_wait;
use crate::hosts::Hosts;
use crate::network::Cable;
use crate::run::{ok, quarry};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;

/// The host of the clients of [`Net::Hosts`].
pub const CLIENTS: &str = "clients";

/// Lines of a server's log that are shown when something failed.
const LOG_SHOWN: usize = 40;

/// Where servers and clients run.
#[derive(Clone, Debug)]
pub enum Net<'a> {
    /// All on this host.
    Here,
    /// The servers at one end, the clients at the other.
    Cable(&'a Cable),
    /// Each server on the host of its name, the clients on the host [`CLIENTS`].
    Hosts(Arc<Hosts>),
}

impl Net<'_> {
    fn on_server(&self, server: &str) -> Command {
        match self {
            Net::Here => Command::new(quarry()),
            Net::Cable(cable) => cable.on_servers(&quarry()),
            Net::Hosts(hosts) => hosts.on(server, &quarry()),
        }
    }

    fn on_clients(&self) -> Command {
        match self {
            Net::Here => Command::new(quarry()),
            Net::Cable(cable) => cable.on_clients(&quarry()),
            Net::Hosts(hosts) => hosts.on(CLIENTS, &quarry()),
        }
    }
}

/// The servers that run; killed when dropped.
#[derive(Debug)]
pub struct Processes<'a> {
    dir: PathBuf,
    net: Net<'a>,
    running: BTreeMap<String, Child>,
    settings: Vec<(&'static str, &'static str)>,
    keeps_logs: bool,
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
        let net = cable.map_or(Net::Here, Net::Cable);
        Processes::init_several(dir, metaserver, dataservers, net, more)
    }

    /// The same with these metaservers and dataservers.
    pub fn init_several(
        dir: &Path,
        metaservers: &[String],
        dataservers: &[String],
        net: Net<'a>,
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
            net,
            running: BTreeMap::new(),
            settings: Vec::new(),
            keeps_logs: false,
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

    /// From now on a server's log goes to the file `log` in its folder, not to this process's standard error.
    pub fn keep_logs(&mut self) {
        self.keeps_logs = true;
    }

    /// The folder of a server: `metaserver-1`, `dataserver-2`.
    pub fn folder(&self, server: &str) -> PathBuf {
        self.dir.join(server)
    }

    /// The command that runs a server, each in a failure domain of its own.
    pub fn command(&self, server: &str) -> Command {
        let mut command = self.net.on_server(server);
        let role = server.split('-').next().unwrap_or(server);
        let config = self.folder(server).join(format!("{role}.toml"));
        command.args([role, "run", "--config"]).arg(config);
        command
            .env("QUARRY_LOG", "error")
            .envs(self.settings.iter().copied());
        if role == "dataserver" {
            command.args(["--host", server]);
        }
        command
    }

    /// What a server said last, if its log is kept.
    pub fn end_of_log(&self, server: &str) -> String {
        // One that never started has none.
        let log = fs::read_to_string(self.folder(server).join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines.len().saturating_sub(LOG_SHOWN);
        format!("== {server}\n{}", lines[end..].join("\n"))
    }

    fn command_with_log(&self, server: &str) -> Result<Command> {
        let mut command = self.command(server);
        if self.keeps_logs {
            let log = self.folder(server).join("log");
            let log = fs::File::options().create(true).append(true).open(log)?;
            // Of an election openraft tells more than anybody wants to know.
            command.stderr(log).env("QUARRY_LOG", "info,openraft=error");
        }
        Ok(command)
    }

    /// Starts a server and waits until it is ready.
    pub fn start(&mut self, server: &str) -> Result<()> {
        self.start_several(&[server])
    }

    /// Starts a server with further arguments and waits until it is ready.
    pub fn start_with(&mut self, server: &str, args: &[&str]) -> Result<()> {
        ensure!(!self.running.contains_key(server), "{server} runs already");
        let mut command = self.command_with_log(server)?;
        let process = start_and_wait(command.args(args));
        let process = process.with_context(|| self.end_of_log(server))?;
        self.running.insert(server.to_owned(), process);
        Ok(())
    }

    /// Starts several at once and waits until all are ready.
    pub fn start_several<S: AsRef<str>>(&mut self, servers: &[S]) -> Result<()> {
        let mut starting = Vec::new();
        for server in servers.iter().map(AsRef::as_ref) {
            ensure!(!self.running.contains_key(server), "{server} runs already");
            let mut command = self.command_with_log(server)?;
            let start = std::thread::spawn(move || start_and_wait(&mut command));
            starting.push((server, start));
        }
        // All are known before an error ends this, so that none lives on.
        let mut failed = Ok(());
        for (server, start) in starting {
            match start.join().expect("it returns errors") {
                Ok(process) => {
                    self.running.insert(server.to_owned(), process);
                }
                Err(error) => failed = Err(error.context(self.end_of_log(server))),
            }
        }
        failed
    }

    /// Starts the metaserver and then so many dataservers.
    pub fn start_all(&mut self, dataservers: u32) -> Result<()> {
        self.start("metaserver-1")?;
        (1..=dataservers).try_for_each(|number| self.start(&format!("dataserver-{number}")))
    }

    /// Kills one server.
    pub fn kill(&mut self, server: &str) -> Result<()> {
        self.kill_all(&[server])
    }

    /// Kills several at once: none sees that another one is gone before it is gone itself.
    pub fn kill_all<S: AsRef<str>>(&mut self, servers: &[S]) -> Result<()> {
        for server in servers {
            self.signal(server.as_ref(), Signal::KILL)?;
        }
        for server in servers {
            let process = self.running.remove(server.as_ref());
            process.context("it does not run")?.wait()?;
        }
        Ok(())
    }

    /// Stops a server as an operator does, and waits until it has ended.
    pub fn stop(&mut self, server: &str) -> Result<()> {
        let mut process = self.running.remove(server).context("it does not run")?;
        rustix::process::kill_process(Pid::from_child(&process), Signal::TERM)?;
        let status = process.wait()?;
        ensure!(status.success(), "{server} stopped with {status}");
        Ok(())
    }

    /// Sends a running server a signal.
    pub fn signal(&self, server: &str, signal: Signal) -> Result<()> {
        let process = self.running.get(server).context("it does not run")?;
        Ok(rustix::process::kill_process(
            Pid::from_child(process),
            signal,
        )?)
    }

    /// The process of a running server.
    pub fn pid(&self, server: &str) -> Result<u32> {
        let process = self.running.get(server).context("it does not run")?;
        Ok(process.id())
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
        let mut command = self.net.on_clients();
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
