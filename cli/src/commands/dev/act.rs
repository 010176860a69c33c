//! `quarry dev kill`, `pause`, `resume` and `start`.

use super::control::{Reply, Request, ask};
use super::home::Home;
use super::lock::{Holder, holder};
use super::run::log_end;
use super::servers::{Action, Seen, State};
use crate::context::Context;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A signal is done at once, unless a process hangs in the kernel.
const SIGNAL_WITHIN: Duration = Duration::from_secs(10);

/// A dataserver waits for the metaservers, and a metaserver reads its log.
const START_WITHIN: Duration = Duration::from_secs(60);

/// Whoever waits is told so often what for.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Does something to a server and waits until it is done. `replaced` are the disks that a start makes anew.
///
/// # Errors
/// The cluster does not run, or not with `--processes`; there is no such server; it is not in a state for
/// that; it is not done in time, or the server ends instead of starting.
pub fn act(
    context: &Context,
    home: &Home,
    action: Action,
    name: &str,
    replaced: &[PathBuf],
) -> Result<()> {
    let absolute =
        |path: &PathBuf| std::path::absolute(path).with_context(|| path.display().to_string());
    let replaced: Vec<PathBuf> = replaced.iter().map(absolute).collect::<Result<_>>()?;
    for disk in &replaced {
        check_gone(disk)?;
    }
    let begin = Request::Act {
        action,
        server: name.to_owned(),
        replaced,
    };
    let before = find(servers(home, &Request::Status)?, name);
    let mut seen = find(servers(home, &begin)?, name);
    let within = match action {
        Action::Start => START_WITHIN,
        Action::Kill | Action::Pause | Action::Resume => SIGNAL_WITHIN,
    };
    let until = Instant::now() + within;
    let mut tell_at = Instant::now() + TELL_EVERY;
    loop {
        let Some(server) = seen else {
            bail!("the cluster has no server {name} any more");
        };
        if action.is_done(server.state) {
            return match context.json {
                true => context.print_json(&serde_json::to_value(&server)?),
                false => {
                    let process = before.as_ref().and_then(|before| before.pid).or(server.pid);
                    context.print(&done(&server, action, process))
                }
            };
        }
        if action == Action::Start && server.state == State::Dead {
            bail!(
                "{name} has not started ({}){}",
                server.ended.as_deref().unwrap_or("it ended"),
                end_of_log(&server)
            );
        }
        if Instant::now() > until {
            bail!(
                "{name} is {} after {} s{}",
                server.state,
                within.as_secs(),
                end_of_log(&server)
            );
        }
        if Instant::now() > tell_at {
            tell_starting(&server);
            tell_at += TELL_EVERY;
        }
        std::thread::sleep(Duration::from_millis(10));
        seen = find(servers(home, &Request::Status)?, name);
    }
}

/// A disk that is gone for good leaves an empty directory, or none.
fn check_gone(disk: &Path) -> Result<()> {
    let entries = std::fs::read_dir(disk).into_iter().flatten();
    let mut names = entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name());
    if names.any(|name| name != "lost+found") {
        bail!(
            "{}: is not empty, so the disk is not gone: start the server without --replace-disk, or empty the directory first",
            disk.display()
        );
    }
    Ok(())
}

fn done(server: &Seen, action: Action, process: Option<u32>) -> String {
    let process = process.map_or(String::new(), |pid| format!(" (process {pid})"));
    match action {
        Action::Start => format!("{} is ready{process}\n", server.name),
        Action::Kill | Action::Pause | Action::Resume => {
            format!("{} is {}{process}\n", server.name, server.state)
        }
    }
}

fn end_of_log(server: &Seen) -> String {
    let Some(log) = &server.log else {
        return String::new();
    };
    let end = log_end(log, server.log_from);
    let mut text = format!("; its log, {}, ends:\n{end}", log.display());
    if end.contains("--replace-disk") {
        let name = &server.name;
        text.push_str(&format!(
            "\n(here that is 'quarry dev start {name} --replace-disk DIR')"
        ));
    }
    text
}

/// That a server has not started for a while, with what it says.
fn tell_starting(server: &Seen) {
    let Some(log) = &server.log else {
        return;
    };
    let end = log_end(log, server.log_from);
    let last = end.lines().last().unwrap_or("nothing");
    eprintln!(
        "quarry: dev: {} is {} still; its log, {}, says last: {last}",
        server.name,
        server.state,
        log.display()
    );
}

fn find(servers: Vec<Seen>, name: &str) -> Option<Seen> {
    servers.into_iter().find(|server| server.name == name)
}

/// Asks the parent of the servers.
fn servers(home: &Home, request: &Request) -> Result<Vec<Seen>> {
    let (dir, place) = (home.dir().display(), home.place());
    let start = format!("'quarry dev --processes --detach{place}'");
    let pid = match holder(&home.lock())? {
        Holder::Nobody => bail!("no cluster runs in {dir}: start it with {start}"),
        Holder::Unknown => bail!("{dir}: a process is just starting there: try again"),
        Holder::Process { pid, .. } => pid,
    };
    match ask(home, request)? {
        Some(Reply::Servers(servers)) => Ok(servers),
        Some(Reply::Refused(reason)) => bail!("{reason}"),
        None => bail!(
            "the cluster in {dir} runs in one process ({pid}), whose servers can only be stopped together: \
             'quarry dev stop{place}', then {start}, makes each a process of its own"
        ),
    }
}
