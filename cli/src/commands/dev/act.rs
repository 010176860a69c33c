//! `quarry dev kill`, `pause`, `resume` and `start`.

use super::control::{Reply, Request, ask};
use super::home::Home;
use super::lock::{Holder, holder};
use super::run::log_end;
use super::servers::{Action, Seen, State};
use crate::context::Context;
use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A signal is done at once, unless a process hangs in the kernel.
const SIGNAL_WITHIN: Duration = Duration::from_secs(10);

/// A dataserver waits for the metaservers, and a metaserver reads its log.
const START_WITHIN: Duration = Duration::from_secs(60);

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
    let begin = Request::Act {
        action,
        server: name.to_owned(),
        replaced: replaced.iter().map(absolute).collect::<Result<_>>()?,
    };
    let before = find(servers(home, &Request::Status)?, name);
    let mut seen = find(servers(home, &begin)?, name);
    let within = match action {
        Action::Start => START_WITHIN,
        Action::Kill | Action::Pause | Action::Resume => SIGNAL_WITHIN,
    };
    let until = Instant::now() + within;
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
        std::thread::sleep(Duration::from_millis(10));
        seen = find(servers(home, &Request::Status)?, name);
    }
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
    format!("; its log, {}, ends:\n{}", log.display(), log_end(log))
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
