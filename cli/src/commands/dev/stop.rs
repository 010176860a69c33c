//! `quarry dev stop` and `quarry dev status`.

use super::control::{Reply, Request, ask};
use super::home::Home;
use super::lock::{Holder, end_holder, holder};
use super::servers::{self, Seen, Server, State};
use crate::commands::status;
use crate::context::Context;
use crate::failure::Reported;
use crate::leaderless::{or_leaderless, shown};
use anyhow::{Result, bail};
use quarry_client::{Client, ClientFile, Options};
use serde_json::json;
use std::time::Duration;

/// How long a cluster may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// Stops the cluster and waits until it has ended; one that does not run is fine.
///
/// # Errors
/// It does not stop, or the process may not be asked.
pub fn stop(context: &Context, home: &Home) -> Result<()> {
    let stopped = match holder(&home.lock())? {
        Holder::Nobody => None,
        Holder::Unknown => bail!(
            "{}: a process is just starting there: try again",
            home.dir().display()
        ),
        Holder::Process { pid, .. } => {
            end_holder(&home.lock(), pid, STOP_WITHIN)?;
            Some(pid)
        }
    };
    if context.json {
        let object = json!({ "stopped": stopped.is_some(), "pid": stopped, "dir": home.dir() });
        return context.print_json(&object);
    }
    context.print(&match stopped {
        Some(pid) => format!("stopped (process {pid})\n"),
        None => format!("no cluster runs in {}\n", home.dir().display()),
    })
}

/// Shows whether the cluster runs, its servers, and how it is.
///
/// # Errors
/// [`Reported`] if it does not run, or no metaserver can lead.
pub fn status(context: &Context, home: &Home) -> Result<()> {
    let dir = home.dir().display();
    let (pid, ready) = match holder(&home.lock())? {
        Holder::Process { pid, ready } => (Some(pid), ready),
        Holder::Unknown => (None, false),
        Holder::Nobody => {
            let made = home.plan()?.is_some();
            if context.json {
                context
                    .print_json(&json!({ "running": false, "dir": home.dir(), "made": made }))?;
            } else if made {
                context.print(&format!("not running; start the cluster in {dir} with 'quarry dev --dir {dir} --detach'\n"))?;
            } else {
                context.print(&format!("there is no cluster in {dir} yet; 'quarry dev --dir {dir} --detach' makes one\n"))?;
            }
            return Err(Reported.into());
        }
    };
    let (servers, processes) = servers_of(home, pid, ready)?;
    if context.json {
        return context.print_json(&json!({
            "running": true, "ready": ready, "pid": pid, "dir": home.dir(), "client_file": home.client_file(),
            "processes": processes, "servers": servers,
        }));
    }
    let pid = pid.map_or("a process".to_owned(), |pid| format!("process {pid}"));
    let does = match ready {
        true => "runs",
        false => "is starting",
    };
    let servers = servers::text(&servers);
    context.print(&format!("{pid} {does} the cluster in {dir}\n\n{servers}"))?;
    if !ready {
        return Ok(());
    }
    context.print("\n")?;
    let file = ClientFile::load(&home.client_file())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ask = async |client: &Client| status::Seen::of(client).await;
    let asked = context.with_client_of(file.clone(), Options::default(), ask);
    let seen = runtime.block_on(or_leaderless(&file, asked));
    context.print(&status::text(&seen.map_err(|error| shown(context, error))?))
}

/// All servers, and whether they are processes of their own.
fn servers_of(home: &Home, pid: Option<u32>, ready: bool) -> Result<(Vec<Seen>, bool)> {
    match ask(home, &Request::Status)? {
        Some(Reply::Servers(servers)) => return Ok((servers, true)),
        Some(Reply::Refused(reason)) => bail!("{reason}"),
        None => {}
    }
    // It may not be made yet.
    let all = home
        .plan()?
        .iter()
        .flat_map(Server::all)
        .collect::<Vec<_>>();
    let seen = all.into_iter().map(|(server, address)| Seen {
        name: server.to_string(),
        id: server.id().0,
        address,
        pid,
        state: match ready {
            true => State::Running,
            false => State::Starting,
        },
        ended: None,
        log: None,
    });
    Ok((seen.collect(), false))
}
