//! Two hosts in network namespaces of their own, joined by a cable that can lose packets or be cut.

use crate::run::tool;
use anyhow::{Context, Result};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Two namespaces and the cable between them; gone when dropped.
#[derive(Debug)]
pub struct Cable {
    servers: String,
    clients: String,
}

/// The address of the host that runs the servers.
pub const SERVERS: &str = "10.97.0.1";
/// The address of the host that runs the clients.
pub const CLIENTS: &str = "10.97.0.2";

impl Cable {
    /// Two hosts that reach each other.
    pub fn new() -> Result<Cable> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!(
            "{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let cable = Cable {
            servers: format!("quarry-s-{unique}"),
            clients: format!("quarry-c-{unique}"),
        };
        for host in [&cable.servers, &cable.clients] {
            ip(["netns", "add", host])?;
            ip(["-n", host, "link", "set", "lo", "up"])?;
        }
        ip([
            "-n",
            &cable.servers,
            "link",
            "add",
            "wire",
            "type",
            "veth",
            "peer",
            "name",
            "wire",
            "netns",
            &cable.clients,
        ])?;
        for (host, address) in [(&cable.servers, SERVERS), (&cable.clients, CLIENTS)] {
            ip([
                "-n",
                host,
                "addr",
                "add",
                &format!("{address}/24"),
                "dev",
                "wire",
            ])?;
            ip(["-n", host, "link", "set", "wire", "up"])?;
        }
        Ok(cable)
    }

    /// A command that will run on the host of the servers.
    pub fn on_servers(&self, program: &std::path::Path) -> Command {
        inside(&self.servers, program)
    }

    /// A command that will run on the host of the clients.
    pub fn on_clients(&self, program: &std::path::Path) -> Command {
        inside(&self.clients, program)
    }

    /// Drops so many of a hundred packets, each way, from now on. 100 cuts the cable.
    pub fn lose(&self, percent: u32) -> Result<()> {
        for host in [&self.servers, &self.clients] {
            // In one transaction: a moment without rules is enough for megabytes to pass.
            // And nft refuses a comparison that is always true.
            let which = match percent {
                100.. => String::new(),
                some => format!("numgen random mod 100 < {some}"),
            };
            let rule = format!("iifname wire {which} counter drop");
            let rules = format!(
                "flush ruleset\ntable inet quarry {{ chain arriving {{ type filter hook input priority 0\n{rule}\n}}\n}}"
            );
            tool("ip", ["netns", "exec", host, "nft", &rules])?;
        }
        Ok(())
    }

    /// Packets dropped since [`Cable::lose`]: 0 means that the fault took no effect.
    pub fn lost(&self) -> Result<u64> {
        let mut lost = 0;
        for host in [&self.servers, &self.clients] {
            let rules = tool(
                "ip",
                [
                    "netns", "exec", host, "nft", "list", "table", "inet", "quarry",
                ],
            )?;
            let count = rules
                .split("packets ")
                .nth(1)
                .and_then(|rest| rest.split(' ').next());
            lost += count.context("a rule without a counter")?.parse::<u64>()?;
        }
        Ok(lost)
    }

    /// Bytes that have come and gone over the cable, lost ones too.
    pub fn carried(&self) -> Result<u64> {
        let counter = |name| format!("/sys/class/net/wire/statistics/{name}");
        let (came, went) = (counter("rx_bytes"), counter("tx_bytes"));
        let args = ["netns", "exec", &self.servers, "cat", &came, &went];
        let counters = tool("ip", args)?;
        counters
            .lines()
            .map(|line| line.parse::<u64>().context("a counter"))
            .sum()
    }

    /// Loses nothing from now on.
    pub fn heal(&self) -> Result<()> {
        for host in [&self.servers, &self.clients] {
            tool("ip", ["netns", "exec", host, "nft", "flush", "ruleset"])?;
        }
        Ok(())
    }
}

fn ip<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<()> {
    tool("ip", args).map(drop)
}

fn inside(host: &str, program: &std::path::Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", host]).arg(program);
    command
}

impl Drop for Cable {
    fn drop(&mut self) {
        for host in [&self.servers, &self.clients] {
            if let Err(error) = ip(["netns", "del", host]) {
                eprintln!("{error:#}");
            }
        }
    }
}
