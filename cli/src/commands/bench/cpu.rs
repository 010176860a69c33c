//! CPU time of this process and of the cluster's servers on this machine.

use quarry_common::wire::meta::Status;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};

/// Ticks a second in /proc/PID/stat: Linux tells programs 100 on every architecture (proc(5), USER_HZ).
const TICKS: f64 = 100.0;

/// The processes whose CPU time counts.
pub struct Processes {
    pids: BTreeSet<u32>,
    /// Whether every server of the cluster is among them.
    whole: bool,
}

/// CPU time that was used.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Seconds, of all processors together.
    pub seconds: f64,
    /// Whether it is that of the client and all servers.
    pub whole: bool,
}

impl Processes {
    /// This process and those that own the UDP ports of the cluster's servers.
    pub fn find(status: &Status) -> Processes {
        let metaservers = status.metaservers.iter().map(|(_, address)| address);
        let dataservers = status.servers.iter().map(|server| &server.address);
        let owners = owners();
        let mut pids = BTreeSet::from([std::process::id()]);
        let mut whole = true;
        for address in metaservers.chain(dataservers) {
            let port = local_port(address);
            match port.and_then(|port| owners.get(&port)) {
                Some(pid) => {
                    pids.insert(*pid);
                }
                None => whole = false,
            }
        }
        Processes { pids, whole }
    }

    /// What the CPU time covers, in words.
    pub fn note(&self) -> String {
        match self.whole {
            true => format!(
                "CPU: the client and all servers, {} processes on this machine",
                self.pids.len()
            ),
            false => "CPU: the client and those servers that run on this machine as the same user; others are not counted".into(),
        }
    }

    /// CPU time used so far.
    pub fn so_far(&self) -> Spent {
        Spent {
            seconds: self.pids.iter().map(|pid| seconds_of(*pid)).sum(),
            whole: self.whole,
        }
    }

    /// CPU time used since then.
    pub fn since(&self, then: Spent) -> Spent {
        let now = self.so_far();
        Spent {
            seconds: (now.seconds - then.seconds).max(0.0),
            whole: self.whole,
        }
    }
}

/// User and system time of a process; 0 for one that is gone.
fn seconds_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The command's name, in parentheses, may hold anything.
    let fields = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace();
    let ticks = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok());
    ticks.sum::<u64>() as f64 / TICKS
}

/// The port of an address, if it is this machine's.
fn local_port(address: &str) -> Option<u16> {
    let here = |ip: IpAddr| ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok();
    let mut addresses = address.to_socket_addrs().ok()?;
    addresses
        .find(|address| here(address.ip()))
        .map(|address| address.port())
}

/// Who owns each UDP port, as far as this user may see it.
fn owners() -> BTreeMap<u16, u32> {
    let mut ports = BTreeMap::new();
    for table in ["/proc/net/udp", "/proc/net/udp6"] {
        let table = std::fs::read_to_string(table).unwrap_or_default();
        ports.extend(table.lines().skip(1).filter_map(port_and_socket));
    }
    let mut owners = BTreeMap::new();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return owners;
    };
    for process in processes.flatten() {
        let pid = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok());
        let (Some(pid), Ok(open)) = (pid, std::fs::read_dir(process.path().join("fd"))) else {
            continue;
        };
        for file in open.flatten() {
            let link = std::fs::read_link(file.path()).unwrap_or_default();
            let socket = link.to_str().and_then(|link| {
                link.strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .parse::<u64>()
                    .ok()
            });
            if let Some(port) = socket.and_then(|socket| ports.get(&socket)) {
                owners.insert(*port, pid);
            }
        }
    }
    owners
}

/// The socket and its port, from a line of /proc/net/udp.
fn port_and_socket(line: &str) -> Option<(u64, u16)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let port = fields.get(1)?.rsplit_once(':')?.1;
    Some((
        fields.get(9)?.parse().ok()?,
        u16::from_str_radix(port, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_port_is_found() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(owners().get(&port), Some(&std::process::id()));
        assert_eq!(local_port(&format!("127.0.0.1:{port}")), Some(port));
        // RFC 5737: documentation, nobody's.
        assert_eq!(local_port("192.0.2.1:1"), None);
    }

    #[test]
    fn time_that_was_used_is_counted() {
        let start = std::time::Instant::now();
        let before = seconds_of(std::process::id());
        while start.elapsed().as_millis() < 100 {}
        assert!(seconds_of(std::process::id()) > before);
    }
}
