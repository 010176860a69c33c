//! What is done to a cluster, and the proof that it was done.

use crate::hosts::{Dropping, Hosts};
use crate::processes::Processes;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// A fault that lasts until it is healed. Servers and hosts have the same names.
#[derive(Clone, Debug)]
pub enum Fault {
    /// SIGKILL, all at once; healed by starting them again.
    Killed(Vec<String>),
    /// SIGSTOP, healed by SIGCONT.
    Paused(Vec<String>),
    /// Packets between hosts are dropped.
    Dropped {
        /// So many of a hundred.
        percent: u32,
        /// From these hosts,
        from: Vec<String>,
        /// to these,
        to: Vec<String>,
        /// and back.
        both_ways: bool,
    },
}

/// A fault that took effect and lasts.
#[derive(Debug)]
#[must_use = "it is to be healed"]
pub enum Injected {
    /// See [`Fault::Killed`].
    Killed(Vec<String>),
    /// See [`Fault::Paused`].
    Paused(Vec<String>),
    /// See [`Fault::Dropped`].
    Dropped(Vec<Dropping>),
}

impl Fault {
    /// No packet passes between these hosts.
    pub fn cut<S: AsRef<str>>(from: &[S], to: &[S]) -> Fault {
        Fault::lossy(100, from, to, true)
    }

    /// No packet passes from some hosts to others; those the other way do.
    pub fn cut_one_way<S: AsRef<str>>(from: &[S], to: &[S]) -> Fault {
        Fault::lossy(100, from, to, false)
    }

    /// So many of a hundred packets are lost.
    pub fn lossy<S: AsRef<str>>(percent: u32, from: &[S], to: &[S], both_ways: bool) -> Fault {
        let owned = |hosts: &[S]| hosts.iter().map(|host| host.as_ref().to_owned()).collect();
        Fault::Dropped {
            percent,
            from: owned(from),
            to: owned(to),
            both_ways,
        }
    }

    /// Does it; fails if it took no effect where that shows at once.
    pub fn inject(&self, cluster: &mut Processes, hosts: &Hosts) -> Result<Injected> {
        match self {
            Fault::Killed(servers) => {
                let pids: Vec<u32> = servers
                    .iter()
                    .map(|server| cluster.pid(server))
                    .collect::<Result<_>>()?;
                cluster.kill_all(servers)?;
                for pid in pids {
                    ensure!(state(pid).is_none(), "process {pid} lives on after SIGKILL");
                }
                Ok(Injected::Killed(servers.clone()))
            }
            Fault::Paused(servers) => {
                for server in servers {
                    cluster.signal(server, Signal::STOP)?;
                }
                check_stopped(cluster, servers)?;
                Ok(Injected::Paused(servers.clone()))
            }
            Fault::Dropped {
                percent,
                from,
                to,
                both_ways,
            } => {
                let from: Vec<&str> = from.iter().map(String::as_str).collect();
                let to: Vec<&str> = to.iter().map(String::as_str).collect();
                let mut dropping = vec![hosts.lose(*percent, &from, &to)?];
                if *both_ways {
                    dropping.push(hosts.lose(*percent, &to, &from)?);
                }
                Ok(Injected::Dropped(dropping))
            }
        }
    }
}

impl Injected {
    /// Ends it; fails if it took no effect. Returns what shows that it did.
    pub fn heal(self, cluster: &mut Processes, hosts: &Hosts) -> Result<String> {
        match self {
            Injected::Killed(servers) => {
                let begun = Instant::now();
                cluster.start_several(&servers)?;
                Ok(format!(
                    "ready again after {:.1} s",
                    begun.elapsed().as_secs_f64()
                ))
            }
            Injected::Paused(servers) => {
                check_stopped(cluster, &servers)?;
                for server in &servers {
                    cluster.signal(server, Signal::CONT)?;
                }
                Ok("was in state T until now".into())
            }
            Injected::Dropped(dropping) => {
                let counts = dropping.iter().map(|dropping| hosts.heal(dropping));
                let counts = counts.collect::<Result<Vec<u64>>>()?;
                let counts: Vec<String> = counts.iter().map(u64::to_string).collect();
                Ok(format!("{} packets dropped", counts.join(" and ")))
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Killed(servers) => write!(f, "SIGKILL of {}", servers.join(", ")),
            Fault::Paused(servers) => write!(f, "SIGSTOP of {}", servers.join(", ")),
            Fault::Dropped {
                percent,
                from,
                to,
                both_ways,
            } => {
                let way = if *both_ways { "between" } else { "from" };
                let link = if *both_ways { "and" } else { "to" };
                let (from, to) = (from.join(", "), to.join(", "));
                write!(f, "{percent} % of packets lost {way} {from} {link} {to}")
            }
        }
    }
}

/// The state of a process as the kernel calls it; `None` if there is no such process.
pub(super) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.chars().next()
}

fn check_stopped(cluster: &Processes, servers: &[String]) -> Result<()> {
    for server in servers {
        let pid = cluster.pid(server)?;
        let until = Instant::now() + Duration::from_secs(2);
        loop {
            let state = state(pid).with_context(|| format!("{server} has died"))?;
            if state == 'T' {
                break;
            }
            ensure!(
                Instant::now() < until,
                "{server} is in state {state}: it was not stopped"
            );
        }
    }
    Ok(())
}
