//! The servers of a development cluster as processes of their own, for `--processes`: this process starts them,
//! signals them, reports those that end by themselves, and takes all with it when it ends, however it ends.

use super::control::{self, Call, Reply, Request};
use super::home::{Home, Plan};
use super::run::{log_end, log_len, wait_until_ready};
use super::servers::{Action, Seen, Server, State};
use crate::failure::{Interrupted, text};
use crate::server::Stopped;
use anyhow::{Context as _, Result, anyhow, bail};
use quarry_client::ClientFile;
use quarry_common::durable;
use quarry_common::identity::Authority;
use quarry_common::telemetry::LOG_VARIABLE;
use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};
use serde::Serialize;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// A server that has not ended so long after SIGTERM is killed. `quarry dev stop` waits longer.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Servers of a parent that was killed end with it; this is for a slow machine.
const EARLIER_END_WITHIN: Duration = Duration::from_secs(10);

/// How often a condition is looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// All servers, running or not.
struct Processes<'a> {
    home: &'a Home,
    plan: &'a Plan,
    authority: Authority,
    /// This program by its path: a server that is started again is what stands there then.
    program: PathBuf,
    all: Vec<Member>,
    /// Ends by themselves that nobody was told of yet.
    deaths: Vec<String>,
}

/// A server.
struct Member {
    server: Server,
    address: String,
    log: PathBuf,
    /// Where in the log its last process began to write.
    log_from: u64,
    running: Option<Running>,
    /// Of its last process.
    ended: Option<ExitStatus>,
}

/// The process of a server. Until this is dropped nobody waits for it, so that its number means no other process.
struct Running {
    child: Child,
    is_ready: Arc<AtomicBool>,
    /// Whether it was asked to end.
    is_ending: bool,
}

/// Starts the servers, calls `announce` when the cluster is ready, and does what it is asked for until `stopped`;
/// then stops the servers. To be awaited on the main thread: servers end with the thread that started them.
///
/// # Errors
/// A server ends, or the cluster is not ready in time; those of `announce`; a server stops with an error.
pub async fn run(
    home: &Home,
    plan: &Plan,
    file: ClientFile,
    announce: impl FnOnce() -> Result<()>,
    stopped: Stopped,
) -> Result<()> {
    let calls = control::listen(home)?;
    let mut processes = Processes::new(home, plan)?;
    let ran = processes.serve(file, announce, calls, stopped).await;
    let ended = processes.stop().await;
    std::fs::remove_file(home.control()).ok();
    ran.and(ended)
}

/// Waits until the servers of an earlier parent, which was killed, have ended: each holds a lock on its log.
///
/// # Errors
/// One does not end.
pub fn wait_for_earlier(home: &Home, plan: &Plan) -> Result<()> {
    let until = Instant::now() + EARLIER_END_WITHIN;
    for (server, _) in Server::all(plan) {
        let path = server.log(home);
        let Ok(log) = File::open(&path) else {
            continue;
        };
        while let Err(TryLockError::WouldBlock) = log.try_lock_shared() {
            if Instant::now() > until {
                bail!(
                    "{server} of an earlier start still runs: 'fuser {}' finds it",
                    path.display()
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
    Ok(())
}

impl<'a> Processes<'a> {
    fn new(home: &'a Home, plan: &'a Plan) -> Result<Processes<'a>> {
        let authority = home.authority(plan)?;
        write(&home.seed(), &plan.seed(&authority))?;
        let all = Server::all(plan)
            .into_iter()
            .map(|(server, address)| Member {
                server,
                address,
                log: server.log(home),
                log_from: 0,
                running: None,
                ended: None,
            });
        Ok(Processes {
            home,
            plan,
            authority,
            program: std::env::current_exe().context("where this program is")?,
            all: all.collect(),
            deaths: Vec::new(),
        })
    }

    async fn serve(
        &mut self,
        file: ClientFile,
        announce: impl FnOnce() -> Result<()>,
        mut calls: mpsc::Receiver<Call>,
        mut stopped: Stopped,
    ) -> Result<()> {
        // Before there is a child: none may end unseen.
        let mut children = signal(SignalKind::child())?;
        for at in 0..self.all.len() {
            self.start(at, &[])?;
        }
        let mut taking = pin!(wait_until_ready(file, self.plan));
        let mut takes_writes = false;
        let mut announce = Some(announce);
        loop {
            tokio::select! {
                () = &mut stopped => return match announce {
                    Some(_) => Err(Interrupted.into()),
                    None => Ok(()),
                },
                taken = &mut taking, if !takes_writes => {
                    taken?;
                    takes_writes = true;
                }
                // The servers say a moment later that they are ready.
                () = tokio::time::sleep(LOOK_EVERY), if takes_writes && announce.is_some() => {
                    let are_running = self.all.iter().all(|member| member.state() == State::Running);
                    if are_running && let Some(announce) = announce.take() {
                        announce()?;
                    }
                }
                Some(call) = calls.recv() => {
                    self.reap();
                    let reply = self.reply(&call.request);
                    call.answer(reply);
                }
                _ = children.recv() => self.reap(),
            }
            for death in self.deaths.drain(..) {
                if announce.is_some() {
                    bail!("{death}");
                }
                tracing::error!("{death}");
            }
        }
    }

    /// The command of a server, and its files, written anew: they say what the cluster in one process is told.
    fn command(&self, server: Server) -> Result<Command> {
        #[derive(Serialize)]
        struct Settings<'a, C> {
            identity: &'a Path,
            #[serde(skip_serializing_if = "Option::is_none")]
            authority: Option<PathBuf>,
            #[serde(skip_serializing_if = "Option::is_none")]
            seed: Option<PathBuf>,
            #[serde(flatten)]
            config: C,
        }
        let mut command = Command::new(&self.program);
        let (role, dir) = match server {
            Server::Meta(id) => {
                let dir = self.home.metaserver_dir(id);
                let (config, _) = self.home.metaserver(&self.authority, self.plan, id)?;
                let settings = Settings {
                    identity: &dir.join("identity.pem"),
                    authority: Some(self.home.authority_path()),
                    seed: Some(self.home.seed()),
                    config,
                };
                write(&dir.join("metaserver.toml"), &settings)?;
                ("metaserver", dir)
            }
            Server::Data(id) => {
                let dir = self.home.dataserver_dir(id);
                let (config, _) = self.home.dataserver(&self.authority, self.plan, id)?;
                let settings = Settings {
                    identity: &dir.join("identity.pem"),
                    authority: None,
                    seed: None,
                    config,
                };
                write(&dir.join("dataserver.toml"), &settings)?;
                ("dataserver", dir)
            }
        };
        let file = dir.join(format!("{role}.toml"));
        command.args([role, "run", "--config"]).arg(file);
        // A variable would win over the file.
        for (variable, _) in std::env::vars_os() {
            if variable.as_bytes().starts_with(b"QUARRY_") && variable != LOG_VARIABLE {
                command.env_remove(variable);
            }
        }
        Ok(command)
    }

    /// Starts the process of a server that has none; a dataserver makes new disks of the directories that are replaced.
    fn start(&mut self, at: usize, replaced: &[PathBuf]) -> Result<()> {
        let mut command = self.command(self.all[at].server)?;
        for disk in replaced {
            command.arg("--replace-disk").arg(disk);
        }
        let member = &mut self.all[at];
        let failed = || format!("{}: can not be started", member.server);
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&member.log);
        let log = log.with_context(|| format!("{}: can not be written", member.log.display()))?;
        // The lock goes on with the server's copy of the file, until that ends: see `wait_for_earlier`.
        log.try_lock().with_context(failed)?;
        member.log_from = log_len(&member.log);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        // Ctrl-C is for this process, which stops the servers in their order.
        command.process_group(0);
        let parent = getpid();
        let end_with_parent = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // It may have died before that.
            match getppid() == Some(parent) {
                true => Ok(()),
                false => Err(std::io::Error::from(rustix::io::Errno::SRCH)),
            }
        };
        // SAFETY: between fork and exec it makes two system calls and touches neither memory of the heap nor locks.
        unsafe { command.pre_exec(end_with_parent) };
        let mut child = command.spawn().with_context(failed)?;
        let is_ready = Arc::new(AtomicBool::new(false));
        if let Some(output) = child.stdout.take() {
            let is_ready = Arc::clone(&is_ready);
            std::thread::spawn(move || listen_for_ready(output, &is_ready));
        }
        member.ended = None;
        member.running = Some(Running {
            child,
            is_ready,
            is_ending: false,
        });
        Ok(())
    }

    fn reply(&mut self, request: &Request) -> Reply {
        if let Request::Act {
            action,
            server,
            replaced,
        } = request
            && let Err(reason) = self.act(*action, server, replaced)
        {
            return Reply::Refused(reason);
        }
        Reply::Servers(self.all.iter().map(Member::seen).collect())
    }

    fn act(&mut self, action: Action, name: &str, replaced: &[PathBuf]) -> Result<(), String> {
        let names: Vec<String> = self
            .all
            .iter()
            .map(|member| member.server.to_string())
            .collect();
        let Some(at) = names.iter().position(|there| there == name) else {
            return Err(format!(
                "there is no server '{name}': the servers are {}",
                names.join(", ")
            ));
        };
        let member = &mut self.all[at];
        if !replaced.is_empty() && matches!(member.server, Server::Meta(_)) {
            return Err(format!(
                "{name} is a metaserver: it has no disks to be replaced"
            ));
        }
        action.check(name, member.state(), &self.home.place())?;
        let done = match action {
            Action::Kill => member.end(Signal::KILL),
            Action::Pause => member.signal(Signal::STOP),
            Action::Resume => member.signal(Signal::CONT),
            Action::Start => self.start(at, replaced),
        };
        done.map_err(|error| text(&error))
    }

    /// Takes note of processes that have ended.
    fn reap(&mut self) {
        let place = self.home.place();
        for member in &mut self.all {
            let Some(running) = &mut member.running else {
                continue;
            };
            let Ok(Some(status)) = running.child.try_wait() else {
                continue;
            };
            if !running.is_ending {
                let name = member.server;
                self.deaths.push(format!(
                    "{name} ended by itself ({status}); 'quarry dev start {name}{place}' starts it again; its log, {}, ends:\n{}",
                    member.log.display(),
                    log_end(&member.log, member.log_from)
                ));
            }
            member.ended = Some(status);
            member.running = None;
        }
    }

    /// Stops all: dataservers first, since what they acknowledge while they stop is still known to the metaservers.
    ///
    /// # Errors
    /// A server does not stop, or not well.
    async fn stop(&mut self) -> Result<()> {
        let until = Instant::now() + STOP_WITHIN;
        let mut wrong = Vec::new();
        for are_metaservers in [false, true] {
            let is_one = |member: &Member| {
                member.running.is_some()
                    && matches!(member.server, Server::Meta(_)) == are_metaservers
            };
            let stopping: Vec<usize> = (0..self.all.len())
                .filter(|at| is_one(&self.all[*at]))
                .collect();
            for at in &stopping {
                self.all[*at].end(Signal::TERM)?;
                // A paused one hears it only then.
                self.all[*at].signal(Signal::CONT)?;
            }
            let mut are_killed = false;
            while self.all.iter().any(is_one) {
                if Instant::now() > until && !are_killed {
                    are_killed = true;
                    for member in self.all.iter_mut().filter(|member| is_one(member)) {
                        member.end(Signal::KILL)?;
                    }
                }
                tokio::time::sleep(LOOK_EVERY).await;
                self.reap();
            }
            let members = stopping.iter().map(|at| &self.all[*at]);
            wrong.extend(members.filter_map(Member::wrong_end));
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(anyhow!("{}", wrong.join("\n"))),
        }
    }
}

impl Drop for Processes<'_> {
    fn drop(&mut self) {
        for running in self.all.iter_mut().filter_map(|all| all.running.as_mut()) {
            // Only after an error of `stop`.
            running.child.kill().ok();
            running.child.wait().ok();
        }
    }
}

impl Member {
    fn state(&self) -> State {
        let Some(running) = &self.running else {
            return State::Dead;
        };
        // As it is, not as it was asked for: anyone may send signals.
        match is_stopped(running.child.id()) {
            true => State::Paused,
            false if running.is_ready.load(Ordering::Acquire) => State::Running,
            false => State::Starting,
        }
    }

    fn seen(&self) -> Seen {
        Seen {
            name: self.server.to_string(),
            server: self.server.id(),
            address: self.address.clone(),
            pid: self.running.as_ref().map(|running| running.child.id()),
            state: self.state(),
            ended: self.ended.map(|status| status.to_string()),
            log: Some(self.log.clone()),
            log_from: self.log_from,
        }
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(running) = &self.running {
            kill_process(Pid::from_child(&running.child), signal)
                .with_context(|| format!("{}: can not be signalled", self.server))?;
        }
        Ok(())
    }

    /// A signal that ends it.
    fn end(&mut self, signal: Signal) -> Result<()> {
        if let Some(running) = &mut self.running {
            running.is_ending = true;
        }
        self.signal(signal)
    }

    /// What is wrong with how it ended after SIGTERM.
    fn wrong_end(&self) -> Option<String> {
        let status = self.ended?;
        // It may have had no time to say what it does at SIGTERM.
        if status.success() || status.signal() == Some(Signal::TERM.as_raw()) {
            return None;
        }
        let (name, log) = (self.server, self.log.display());
        Some(match status.signal() == Some(Signal::KILL.as_raw()) {
            true => format!(
                "{name} did not stop and was killed: what was stored is safe; its log is {log}"
            ),
            false => format!("{name} stopped with {status}: its log is {log}"),
        })
    }
}

/// Reads what a server says until it ends; the first line says that it is ready.
fn listen_for_ready(output: ChildStdout, is_ready: &AtomicBool) {
    for _line in BufReader::new(output).lines().map_while(Result::ok) {
        is_ready.store(true, Ordering::Release);
    }
}

/// Whether a process is stopped by a signal: state `T` of proc(5), behind the name in brackets.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| state.starts_with('T'))
}

fn write(path: &Path, settings: &impl Serialize) -> Result<()> {
    let text = format!(
        "# Written by 'quarry dev --processes' at each start\n{}",
        toml::to_string(settings)?
    );
    durable::replace(path, text.as_bytes())
        .with_context(|| format!("{}: can not be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::home::Wanted;
    use super::*;
    use crate::commands::{dataserver, metaserver};

    #[test]
    fn a_process_of_its_own_has_the_settings_of_a_server_in_the_same_process() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().to_path_buf());
        let wanted = Wanted {
            metaservers: Some(3),
            dataservers: Some(2),
            disks: Some(2),
        };
        home.make().unwrap();
        let plan = home.found_or_make(wanted).unwrap();
        let processes = Processes::new(&home, &plan).unwrap();
        let authority = home.authority(&plan).unwrap();
        for (id, _) in plan.metaservers() {
            processes.command(Server::Meta(id)).unwrap();
            let file = home.metaserver_dir(id).join("metaserver.toml");
            let settings = metaserver::Run::of_file(file).settings().unwrap();
            let (config, _) = home.metaserver(&authority, &plan, id).unwrap();
            assert_eq!(settings.server, config);
            let files = settings.files().unwrap();
            assert_eq!(files.seed, Some(plan.seed(&authority)));
            assert_eq!(files.authority.cluster(), authority.cluster());
        }
        for (id, _) in plan.dataserver_addresses() {
            processes.command(Server::Data(id)).unwrap();
            let file = home.dataserver_dir(id).join("dataserver.toml");
            let settings = dataserver::Run::of_file(file).settings().unwrap();
            let (config, identity) = home.dataserver(&authority, &plan, id).unwrap();
            assert_eq!(settings.server, config);
            let read = crate::server::load_identity(&settings.identity).unwrap();
            assert_eq!(read.name(), identity.name());
        }
    }

    #[test]
    fn a_start_waits_for_a_server_of_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().to_path_buf());
        home.make().unwrap();
        let plan = home.found_or_make(Wanted::default()).unwrap();
        wait_for_earlier(&home, &plan).unwrap();
        let log = File::create(Server::Data(plan.servers().next().unwrap()).log(&home)).unwrap();
        log.lock().unwrap();
        // It has the only copy of the file.
        let mut earlier = Command::new("sleep").arg("60").stderr(log).spawn().unwrap();
        let begun = Instant::now();
        let lives = Duration::from_millis(300);
        std::thread::spawn(move || {
            std::thread::sleep(lives);
            earlier.kill().unwrap();
            earlier.wait().unwrap();
        });
        wait_for_earlier(&home, &plan).unwrap();
        assert!(begun.elapsed() >= lives, "it did not wait");
    }
}
