//! Starting a development cluster, in the foreground or detached.

use super::control::{Request, ask};
use super::home::{Home, Plan, Wanted};
use super::lock::{Holder, Lock, holder};
use super::processes;
use crate::commands::metaserver::Begun;
use crate::context::Context;
use crate::failure::Interrupted;
use crate::server::{self, Stopped};
use crate::size::counted;
use anyhow::{Context as _, Result, anyhow, bail};
use quarry_client::{Client, ClientFile, Options};
use quarry_common::wire::meta::{Serves, Status};
use quarry_dataserver::Dataserver;
use quarry_metaserver::Metaserver;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A cluster that is not ready by then says what it waits for.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// What a failed detached process wrote last, in lines.
const LOG_LINES: usize = 12;

/// And at most so many bytes.
const LOG_END_LEN: u64 = 64 << 10;

/// The servers of a cluster.
struct Servers {
    metaservers: Vec<Metaserver>,
    dataservers: Vec<Dataserver>,
}

/// How a cluster runs.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Each server in a process of its own.
    pub processes: bool,
    /// This process was started by `--detach`.
    pub detached: bool,
}

/// Runs the cluster until this process is told to stop.
///
/// # Errors
/// Another process runs it, or it can not start.
pub fn foreground(context: &Context, home: &Home, wanted: Wanted, how: How) -> Result<()> {
    if how.detached {
        // Away from the terminal of whoever started it.
        rustix::process::setsid().context("the process can not leave its terminal")?;
    }
    home.make()?;
    let Some(mut lock) = Lock::take(&home.lock())? else {
        return Err(in_use(home)?);
    };
    let plan = home.found_or_make(wanted)?;
    processes::wait_for_earlier(home, &plan)?;
    server::run(async move |stopped: Stopped| {
        let authority = home.authority(&plan)?;
        let file = home.renewed_client_file(&authority, &plan)?;
        let ready = || {
            let place = publish(home, &file)?;
            lock.set_ready()?;
            let pid = std::process::id();
            announce(context, home, &plan, &place, pid, how)
        };
        let ran = match how.processes {
            true => {
                let ran = processes::run(home, &plan, file.clone(), ready, stopped);
                Box::pin(ran).await
            }
            false => here(home, &plan, file.clone(), ready, stopped).await,
        };
        ran?;
        if !how.detached && !context.json {
            context.print("stopped\n").ok();
        }
        drop(lock);
        Ok(())
    })
}

/// Runs all servers in this process until `stopped`.
async fn here(
    home: &Home,
    plan: &Plan,
    file: ClientFile,
    announce: impl FnOnce() -> Result<()>,
    mut stopped: Stopped,
) -> Result<()> {
    let servers = tokio::select! {
        started = Box::pin(start(home, plan, file)) => started?,
        () = &mut stopped => return Err(Interrupted.into()),
    };
    announce()?;
    stopped.await;
    stop(servers).await
}

async fn start(home: &Home, plan: &Plan, file: ClientFile) -> Result<Servers> {
    let authority = home.authority(plan)?;
    let seed = plan.seed(&authority);
    let mut metaservers = Vec::new();
    for (server, _) in plan.metaservers() {
        let (config, identity) = home.metaserver(&authority, plan, server)?;
        let authority = home.authority(plan)?;
        let begun = Begun::of(server, &home.seed(), &seed, &config.dir);
        begun.check()?;
        let started = Metaserver::start(config, identity, authority, Some(seed.clone())).await;
        metaservers.push(started.map_err(|error| with_ports(home, error))?);
        begun.note();
    }
    let mut settings = Vec::new();
    for server in plan.servers() {
        settings.push(home.dataserver(&authority, plan, server)?);
    }
    let mut starting = tokio::task::JoinSet::new();
    for (config, identity) in settings {
        starting.spawn(Dataserver::start(config, identity));
    }
    let mut dataservers = Vec::new();
    for started in starting.join_all().await {
        dataservers.push(started.map_err(|error| with_ports(home, error))?);
    }
    wait_until_ready(file, plan).await?;
    Ok(Servers {
        metaservers,
        dataservers,
    })
}

fn with_ports(home: &Home, error: quarry_common::Error) -> anyhow::Error {
    let hint = format!("(ports are in {})", home.dir().join("dev.toml").display());
    anyhow!("{error} {hint}")
}

/// Dataservers first: what they acknowledge while they stop is still known to the metaservers.
async fn stop(servers: Servers) -> Result<()> {
    for dataserver in servers.dataservers {
        dataserver.stop().await?;
    }
    for metaserver in servers.metaservers {
        metaserver.stop().await?;
    }
    Ok(())
}

/// Ready is what a client finds ready: every dataserver is heard and every group takes writes.
pub async fn wait_until_ready(file: ClientFile, plan: &Plan) -> Result<()> {
    let options = Options {
        // Metaservers that are processes of their own may only be starting.
        meta_deadline: READY_WITHIN,
        ..Options::default()
    };
    let client = Client::connect_with(file, options).await?;
    let until = Instant::now() + READY_WITHIN;
    loop {
        let status = client.status().await?;
        let Some(missing) = missing(&status, plan) else {
            break;
        };
        if Instant::now() > until {
            bail!(
                "the cluster is not ready after {} s: {missing}",
                READY_WITHIN.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(client.close().await?)
}

fn missing(status: &Status, plan: &Plan) -> Option<String> {
    let heard = status
        .servers
        .iter()
        .filter(|server| server.heard_ms_ago.is_some());
    if (heard.count() as u32) < plan.dataservers {
        return Some("not all dataservers have registered".into());
    }
    let mut disks = status.servers.iter().flat_map(|server| &server.disks);
    if !disks.any(|disk| disk.serves == Serves::Up) {
        return Some("no disk is up".into());
    }
    let unplaced = |(id, pool, counts): &(
        _,
        quarry_common::map::Pool,
        quarry_common::wire::meta::admin::PgCounts,
    )| {
        let placed = counts.clean + counts.crowded + counts.degraded;
        (counts.unwritable > 0 || placed == 0)
            .then(|| format!("pool {id} '{}' takes no writes yet", pool.name))
    };
    match status.pools.is_empty() {
        true => Some("there is no pool yet".into()),
        false => status.pools.iter().find_map(unplaced),
    }
}

/// Gives the client file to the user who has none yet; returns where a command finds it.
fn publish(home: &Home, file: &ClientFile) -> Result<Found> {
    let usual = ClientFile::default_path()?;
    match ClientFile::load(&usual) {
        Ok(there) if there.cluster == file.cluster => {
            // The same cluster: a renewed certificate takes the place of the old one.
            if there.user == file.user && there.identity != file.identity {
                file.save(&usual)?;
            }
            Ok(Found::Usual(usual))
        }
        Err(_) if !usual.exists() => {
            file.save(&usual)?;
            Ok(Found::Usual(usual))
        }
        // Another cluster's, or one that can not be read: the user's own.
        Ok(_) | Err(_) => Ok(Found::ByName(home.client_file(), usual)),
    }
}

/// How a command finds the cluster.
enum Found {
    /// In the XDG config directory, without being told.
    Usual(PathBuf),
    /// Only by name: the file in the XDG config directory is for another cluster.
    ByName(PathBuf, PathBuf),
}

/// Says that the cluster is ready.
fn announce(
    context: &Context,
    home: &Home,
    plan: &Plan,
    found: &Found,
    pid: u32,
    how: How,
) -> Result<()> {
    match context.json {
        true => context.print_json(&announcement_json(home, plan, found, pid, how)),
        false => context.print(&announcement(home, plan, found, pid, how)),
    }
}

fn announcement_json(home: &Home, plan: &Plan, found: &Found, pid: u32, how: How) -> Value {
    json!({
        "ready": true,
        "pid": pid,
        "metaservers": plan.metaserver_ports.len(),
        "dataservers": plan.dataservers,
        "disks_each": plan.disks,
        "processes": how.processes,
        "dir": home.dir(),
        "client_file": home.client_file(),
        "found_without_name": matches!(found, Found::Usual(_)),
        "log": how.detached.then(|| home.log()),
    })
}

fn announcement(home: &Home, plan: &Plan, found: &Found, pid: u32, how: How) -> String {
    let disks = match plan.disks {
        1 => String::new(),
        disks => format!(" with {disks} disks each"),
    };
    let mut text = format!(
        "the cluster is ready: {}, {}{disks}, process {pid}\n  state        {}\n",
        counted(
            plan.metaserver_ports.len() as u64,
            "metaserver",
            "metaservers"
        ),
        counted(plan.dataservers.into(), "dataserver", "dataservers"),
        home.dir().display()
    );
    if plan.metaserver_ports.len().is_multiple_of(2) {
        let fewer = plan.metaserver_ports.len() - 1;
        text.push_str(&format!(
            "  note         of an even number of metaservers as few may fail as of {fewer}\n"
        ));
    }
    let command = match found {
        Found::Usual(path) => {
            text.push_str(&format!(
                "  client file  {} (also {})\n",
                home.client_file().display(),
                path.display()
            ));
            "quarry".to_owned()
        }
        Found::ByName(path, other) => {
            text.push_str(&format!(
                "  client file  {}\n  note         {} is for another cluster; it was left alone.\n               export QUARRY_CLUSTER={} to use this one\n",
                path.display(),
                other.display(),
                path.display()
            ));
            format!("quarry --cluster {}", path.display())
        }
    };
    text.push_str(&format!(
        "  try          echo hello | {command} put - /hello.txt && {command} cat /hello.txt\n"
    ));
    let place = home.place();
    if how.processes {
        text.push_str(&format!(
            "  break it     quarry dev kill data-1{place} (or pause, resume, start; quarry dev status{place})\n  \
               servers' log {}/NAME.log\n",
            home.dir().display()
        ));
    }
    let stop = format!("quarry dev stop{place}");
    text.push_str(&match how.detached {
        true => format!(
            "  log          {}\n  stop         {stop}\n",
            home.log().display()
        ),
        false => format!("  stop         Ctrl-C, or {stop}\n"),
    });
    text
}

fn in_use(home: &Home) -> Result<anyhow::Error> {
    let who = match holder(&home.lock())? {
        Holder::Process { pid, .. } => format!("process {pid}"),
        Holder::Unknown | Holder::Nobody => "another process".to_owned(),
    };
    let dir = home.dir().display();
    Ok(anyhow!(
        "{dir}: {who} runs the cluster there already: stop it with 'quarry dev stop --dir {dir}', or use another --dir"
    ))
}

/// Starts the cluster in the background and waits until it is ready. One that runs already and
/// is what was asked for is fine.
///
/// # Errors
/// It can not start; the text has the end of its log.
pub fn detach(context: &Context, home: &Home, wanted: Wanted, processes: bool) -> Result<()> {
    home.make()?;
    let mut child = None;
    let log_from = log_len(&home.log());
    let until = Instant::now() + READY_WITHIN + Duration::from_secs(10);
    loop {
        match holder(&home.lock())? {
            Holder::Process { pid, ready: true } => {
                let plan = home
                    .plan()?
                    .with_context(|| format!("{}: has no dev.toml", home.dir().display()))?;
                home.check(&plan, wanted)?;
                let how = How {
                    processes: ask(home, &Request::Status)?.is_some(),
                    detached: true,
                };
                if processes && !how.processes {
                    bail!(
                        "the cluster in {} runs in one process ({pid}): stop it first, with 'quarry dev stop{}'",
                        home.dir().display(),
                        home.place()
                    );
                }
                let place = publish(home, &ClientFile::load(&home.client_file())?)?;
                return announce(context, home, &plan, &place, pid, how);
            }
            Holder::Nobody if child.is_none() => {
                if let Some(plan) = home.plan()? {
                    home.check(&plan, wanted)?;
                }
                child = Some(spawn(home, wanted, processes)?);
            }
            Holder::Nobody | Holder::Unknown | Holder::Process { .. } => {}
        }
        if let Some(child) = &mut child
            && let Some(ended) = child.try_wait()?
        {
            bail!(
                "the cluster did not start ({ended}); its log ends:\n{}",
                log_end(&home.log(), log_from)
            );
        }
        if Instant::now() > until {
            bail!(
                "the cluster is not ready after {} s; its log ends:\n{}",
                READY_WITHIN.as_secs(),
                log_end(&home.log(), log_from)
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn spawn(home: &Home, wanted: Wanted, processes: bool) -> Result<Child> {
    let path = home.log();
    let log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path);
    let log = log.with_context(|| format!("{}: can not be written", path.display()))?;
    let mut command = Command::new(std::env::current_exe().context("where this program is")?);
    command.args(["dev", "--detached", "--dir"]).arg(home.dir());
    if let Some(count) = wanted.metaservers {
        command.arg("--metaservers").arg(count.to_string());
    }
    if let Some(count) = wanted.dataservers {
        command.arg("--dataservers").arg(count.to_string());
    }
    if let Some(count) = wanted.disks {
        command.arg("--disks").arg(count.to_string());
    }
    if processes {
        command.arg("--processes");
    }
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // The working directory may be on a file system that is to be unmounted.
    command.current_dir("/");
    command
        .spawn()
        .context("the cluster's process can not be started")
}

/// The last lines of a log, of what was written behind `from`: earlier starts end there.
pub fn log_end(path: &Path, from: u64) -> String {
    let from = from.max(log_len(path).saturating_sub(LOG_END_LEN));
    let mut log = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(from))?;
        file.read_to_end(&mut log)
    });
    if let Err(error) = read {
        return format!("it can not be read: {error}");
    }
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// The length of a log, in bytes.
pub fn log_len(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |log| log.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::status::tests::healthy;

    fn plan() -> Plan {
        Plan {
            cluster: "0".repeat(32),
            dataservers: 1,
            disks: 1,
            metaserver_ports: vec![1],
            dataserver_ports: vec![2],
            admin: "anna".into(),
        }
    }

    #[test]
    fn ready_is_when_all_are_heard_and_writes_are_taken() {
        let mut status = healthy().report;
        assert_eq!(missing(&status, &plan()), None);
        status.pools[0].2.unwritable = 1;
        assert!(missing(&status, &plan()).unwrap().contains("no writes"));
        status.servers[0].heard_ms_ago = None;
        assert!(missing(&status, &plan()).unwrap().contains("registered"));
    }

    #[test]
    fn the_announcement_says_ready_and_how_to_go_on() {
        let home = Home::new("/d".into());
        let found = Found::ByName("/d/client.toml".into(), "/c".into());
        let how = How {
            processes: true,
            detached: true,
        };
        let object = announcement_json(&home, &plan(), &found, 7, how);
        assert_eq!(object["pid"], 7);
        assert_eq!(object["client_file"], "/d/client.toml");
        assert_eq!(object["found_without_name"], false);
        let text = announcement(&home, &plan(), &found, 7, how);
        for part in [
            "dev kill data-1 --dir /d",
            "/d/NAME.log",
            "ready",
            "/d/client.toml",
            "put - /hello.txt",
            "dev stop --dir /d",
            "/d/log",
            "process 7",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
