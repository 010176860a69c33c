//! The hosts of a cluster: network namespaces, joined by a switch that drops what it is told to drop.

use crate::run::{feed, tool};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Who was just paused is avoided for a while, so that nobody says anything to it.
const EFFECT_WITHIN: Duration = Duration::from_secs(30);

/// Namespaces of hosts by name, and the one of the switch; gone when dropped.
#[derive(Debug)]
pub struct Hosts {
    /// What the namespaces' names begin with; no other test's do.
    unique: String,
    /// The hosts and their numbers, from 1: the last byte of an address, the name of a port of the switch.
    numbers: BTreeMap<String, usize>,
    next_drop: AtomicU32,
}

/// A rule of the switch; it holds until [`Hosts::heal`].
#[derive(Debug)]
#[must_use = "it is to be healed, which shows that it took effect"]
pub struct Dropping {
    table: String,
}

impl Hosts {
    /// Hosts that all reach each other.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Hosts> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let hosts = Hosts {
            unique: format!(
                "quarry-{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            ),
            numbers: names.into_iter().map(str::to_owned).zip(1..).collect(),
            next_drop: AtomicU32::new(0),
        };
        remove_abandoned()?;
        let switch = hosts.switch();
        tool("ip", ["netns", "add", &switch])?;
        ip(&switch, "link add bridge type bridge forward_delay 0")?;
        ip(&switch, "link set bridge up")?;
        for (name, number) in &hosts.numbers {
            let host = hosts.namespace(name);
            tool("ip", ["netns", "add", &host])?;
            ip(
                &switch,
                &format!("link add port{number} type veth peer name wire netns {host}"),
            )?;
            ip(&switch, &format!("link set port{number} master bridge up"))?;
            ip(&host, "link set lo up")?;
            ip(&host, &format!("addr add 10.98.0.{number}/24 dev wire"))?;
            ip(&host, "link set wire up")?;
        }
        Ok(hosts)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.unique)
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.unique)
    }

    fn number(&self, host: &str) -> Result<usize> {
        let number = self.numbers.get(host).copied();
        number.with_context(|| format!("there is no host {host}"))
    }

    /// The address of a host.
    pub fn address(&self, host: &str) -> Result<String> {
        Ok(format!("10.98.0.{}", self.number(host)?))
    }

    /// The names of all hosts.
    pub fn names(&self) -> Vec<&str> {
        self.numbers.keys().map(String::as_str).collect()
    }

    /// A command that will run on a host.
    pub fn on(&self, host: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(host)])
            .arg(program);
        command
    }

    /// The file by which a thread moves to a host ([`crate::hosts::move_to`]).
    pub fn file(&self, host: &str) -> PathBuf {
        Path::new("/run/netns").join(self.namespace(host))
    }

    /// Drops so many of a hundred packets that go from some hosts to others, that way only. Both ways are two of it.
    ///
    /// Neighbours go on to find each other: who is cut off hears nothing, also not that somebody is unreachable.
    pub fn lose(&self, percent: u32, from: &[&str], to: &[&str]) -> Result<Dropping> {
        let ports = |hosts: &[&str]| -> Result<String> {
            let ports = hosts
                .iter()
                .map(|host| Ok(format!("port{}", self.number(host)?)));
            Ok(ports.collect::<Result<Vec<_>>>()?.join(", "))
        };
        // nft refuses a comparison that is always true.
        let which = match percent {
            100.. => String::new(),
            some => format!("numgen random mod 100 < {some}"),
        };
        let dropping = Dropping {
            table: format!("drop{}", self.next_drop.fetch_add(1, Ordering::Relaxed)),
        };
        let rules = format!(
            "table bridge {} {{\n chain forward {{ type filter hook forward priority 0\n\
             ether type ip iifname {{ {} }} oifname {{ {} }} {which} counter drop\n }}\n}}\n",
            dropping.table,
            ports(from)?,
            ports(to)?
        );
        feed(&mut self.nft(["-f", "-"]), &rules)?;
        Ok(dropping)
    }

    /// Packets that a rule has dropped so far.
    pub fn dropped(&self, dropping: &Dropping) -> Result<u64> {
        let mut command = self.nft(["list", "table", "bridge", &dropping.table]);
        let rules = feed(&mut command, "")?;
        let count = rules
            .split("packets ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        count
            .context("a rule without a counter")?
            .parse()
            .context("a counter")
    }

    /// Ends a rule once it has dropped a packet; returns how many it dropped. None at all is an error: it was no fault.
    pub fn heal(&self, dropping: &Dropping) -> Result<u64> {
        let since = Instant::now();
        let dropped = loop {
            let dropped = self.dropped(dropping)?;
            if dropped > 0 || since.elapsed() >= EFFECT_WITHIN {
                break dropped;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        feed(
            &mut self.nft(["delete", "table", "bridge", &dropping.table]),
            "",
        )?;
        ensure!(
            dropped > 0,
            "the switch dropped no packet: nothing was tested"
        );
        Ok(dropped)
    }

    /// Bytes that have come to a host and gone from it, lost ones too.
    pub fn carried(&self, host: &str) -> Result<u64> {
        let counter = |name| format!("/sys/class/net/wire/statistics/{name}");
        let mut command = self.on(host, Path::new("cat"));
        command.args([counter("rx_bytes"), counter("tx_bytes")]);
        let counters = feed(&mut command, "")?;
        let bytes = counters
            .lines()
            .map(|line| line.parse::<u64>().context("a counter"));
        bytes.sum()
    }

    fn nft<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.switch(), "nft"])
            .args(args);
        command
    }
}

/// Moves this thread to a host: sockets that it makes from now on are there.
pub fn move_to(host: &Path) -> Result<()> {
    let file = std::fs::File::open(host).with_context(|| format!("open {}", host.display()))?;
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind))
        .with_context(|| format!("move to {}", host.display()))
}

/// Removes the namespaces of tests that were killed.
fn remove_abandoned() -> Result<()> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return Ok(());
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix("quarry-")
            .and_then(|rest| rest.split('-').next());
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            // Another test may be removing it.
            let _gone = tool("ip", ["netns", "del", &name]);
        }
    }
    Ok(())
}

fn ip(namespace: &str, words: &str) -> Result<()> {
    tool(
        "ip",
        ["-n", namespace]
            .into_iter()
            .chain(words.split_whitespace()),
    )
    .map(drop)
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let hosts = self.numbers.keys().map(|name| self.namespace(name));
        // The kernel takes half a second for each, most of which it waits: all at once.
        let removals: Vec<_> = hosts
            .chain([self.switch()])
            // After a failure in the making the last ones are not there.
            .filter(|namespace| Path::new("/run/netns").join(namespace).exists())
            .map(|namespace| std::thread::spawn(move || tool("ip", ["netns", "del", &namespace])))
            .collect();
        for removal in removals {
            if let Err(error) = removal.join().expect("it returns errors") {
                eprintln!("{error:#}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    /// A socket on a host.
    fn socket(hosts: &Hosts, host: &str) -> Result<UdpSocket> {
        let (file, address) = (hosts.file(host), hosts.address(host)?);
        let bind = move || -> Result<UdpSocket> {
            move_to(&file)?;
            let socket = UdpSocket::bind(format!("{address}:7"))?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            Ok(socket)
        };
        std::thread::spawn(bind).join().expect("it returns errors")
    }

    fn arrives(from: &UdpSocket, to: &UdpSocket) -> Result<bool> {
        from.send_to(b"x", to.local_addr()?)?;
        Ok(to.recv_from(&mut [0; 8]).is_ok())
    }

    #[test]
    fn namespaces_of_a_test_that_was_killed_are_removed() -> Result<()> {
        // No process has a number beyond 2^22.
        let abandoned = "quarry-4194305-0-a";
        tool("ip", ["netns", "add", abandoned])?;
        let hosts = Hosts::new(["a"])?;
        ensure!(!Path::new("/run/netns").join(abandoned).exists());
        ensure!(hosts.file("a").exists());
        Ok(())
    }

    #[test]
    fn packets_are_dropped_one_way_and_counted() -> Result<()> {
        let hosts = Hosts::new(["a", "b", "c"])?;
        let [a, b, c] = ["a", "b", "c"].map(|host| socket(&hosts, host));
        let (a, b, c) = (a?, b?, c?);
        ensure!(arrives(&a, &b)? && arrives(&b, &a)?, "before");

        let cut = hosts.lose(100, &["a"], &["b"])?;
        let unused = hosts.lose(100, &["c"], &["b"])?;
        ensure!(!arrives(&a, &b)?, "it was cut");
        ensure!(arrives(&b, &a)? && arrives(&a, &c)?, "it was not cut");
        ensure!(hosts.heal(&cut)? == 1, "one packet");
        ensure!(arrives(&a, &b)?, "after");
        ensure!(
            hosts.heal(&unused).is_err(),
            "a fault without effect is an error"
        );

        let some = hosts.lose(30, &["a"], &["b", "c"])?;
        let arrived = (0..100)
            .filter(|_| arrives(&a, &b).is_ok_and(|is| is))
            .count();
        ensure!((45..95).contains(&arrived), "{arrived} of 100 arrived");
        ensure!(hosts.heal(&some)? == 100 - arrived as u64, "the counter");

        let gone = hosts.file("a");
        drop(hosts);
        ensure!(!gone.exists(), "a namespace stays");
        Ok(())
    }
}
