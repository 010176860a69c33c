//! `quarry dev stop` and `quarry dev status`.

use super::control::{Reply, Request, ask};
use super::home::Home;
use super::lock::{Holder, end_holder, holder};
use super::servers::{self, Seen, Server, State};
use crate::commands::status;
use crate::context::Context;
use crate::failure::Reported;
use crate::leaderless::{Leaderless, or_leaderless, shown};
use anyhow::{Result, bail};
use quarry_client::{Client, ClientFile, Options};
use quarry_common::wire::meta::MetaserverStatus;
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
        let cluster = ready.then(|| seen(context, home)).transpose();
        let (cluster, leads) = match cluster {
            Ok(seen) => (seen.as_ref().map(status::json).transpose()?, true),
            Err(error) => match error.downcast_ref::<Leaderless>() {
                Some(nobody) => (Some(status::leaderless_json(nobody)), false),
                None => return Err(error),
            },
        };
        context.print_json(&json!({
            "running": true, "ready": ready, "pid": pid, "dir": home.dir(), "client_file": home.client_file(),
            "processes": processes, "servers": servers, "cluster": cluster,
        }))?;
        return match leads {
            true => Ok(()),
            false => Err(Reported.into()),
        };
    }
    let pid = pid.map_or("a process".to_owned(), |pid| format!("process {pid}"));
    let does = match ready {
        true => "runs",
        false => "is starting",
    };
    let table = servers::text(&servers);
    context.print(&format!("{pid} {does} the cluster in {dir}\n\n{table}"))?;
    if !ready {
        return Ok(());
    }
    context.print("\n")?;
    let seen = seen(context, home).map_err(|error| shown(context, error))?;
    context.print(&status::text(&seen))?;
    context.print(&others(&servers, &seen.metaservers))
}

/// How the cluster is.
fn seen(context: &Context, home: &Home) -> Result<status::Seen> {
    let file = ClientFile::load(&home.client_file())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ask = async |client: &Client| status::Seen::of(client).await;
    let found = (home.client_file(), file.clone());
    let asked = context.with_client_of(found, Options::default(), ask);
    runtime.block_on(or_leaderless(&file, asked))
}

/// The metaservers that run here and are no more in the cluster, and those that are in it and do not.
fn others(servers: &[Seen], members: &[MetaserverStatus]) -> String {
    let metaservers = servers
        .iter()
        .filter(|server| server.name.starts_with("meta-"));
    let metaservers: Vec<&Seen> = metaservers.collect();
    let mut text = String::new();
    for gone in &metaservers {
        if !members.iter().any(|member| member.id == gone.server) {
            text.push_str(&format!(
                "{} was removed from the cluster: it has no part in it, whether it runs or not\n",
                gone.name
            ));
        }
    }
    for member in members {
        if !metaservers.iter().any(|server| server.server == member.id) {
            text.push_str(&format!(
                "metaserver {} at {} was added to the cluster: 'quarry dev' does not start it\n",
                member.id, member.address
            ));
        }
    }
    text
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
        server: server.id(),
        address,
        pid,
        state: match ready {
            true => State::Running,
            false => State::Starting,
        },
        ended: None,
        log: None,
        log_from: 0,
    });
    Ok((seen.collect(), false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::ServerId;

    #[test]
    fn who_was_removed_or_added_is_told() {
        let runs = |id| Seen {
            name: format!("meta-{id}"),
            server: ServerId(id),
            address: format!("127.0.0.1:{id}"),
            pid: Some(7),
            state: State::Running,
            ended: None,
            log: None,
            log_from: 0,
        };
        let member = |id| MetaserverStatus {
            id: ServerId(id),
            address: format!("127.0.0.1:{id}"),
            votes: true,
            leads: false,
            standing: None,
        };
        let servers = [1, 2, 3].map(runs);
        assert_eq!(others(&servers, &[1, 2, 3].map(member)), "");
        let text = others(&servers, &[2, 3, 6].map(member));
        assert!(text.starts_with("meta-1 was removed"), "{text}");
        assert!(
            text.contains("\nmetaserver 6 at 127.0.0.1:6 was added"),
            "{text}"
        );
    }
}
