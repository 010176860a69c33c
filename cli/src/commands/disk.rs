//! `quarry disk`.

use crate::context::Context;
use crate::path::escaped;
use crate::size::{grouped, human};
use crate::table::Table;
use anyhow::Result;
use clap::Subcommand;
use quarry_common::limits::CLIENT_FREE_PERCENT;
use quarry_common::map::DiskState;
use quarry_common::wire::meta::{DiskStatus, ServerStatus, Serves, Status};
use serde_json::{Value, json};

/// Disks of the cluster
#[derive(Debug, clap::Args)]
pub struct Disk {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all disks with their state and fill
    ///
    /// A disk whose place another one has taken stays in the list as replaced: its number is not given again.
    List,
}

impl Disk {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        match self.action {
            Action::List => {
                let ask = async |client: &quarry_client::Client| Ok(client.status().await?);
                let status = context.ask(ask).await?;
                match context.json {
                    true => context.print_json(&json(&status)),
                    false => context.print(&text(&status)),
                }
            }
        }
    }
}

/// Each disk with its server.
pub fn disks(status: &Status) -> impl Iterator<Item = (&ServerStatus, &DiskStatus)> {
    let servers = status.servers.iter();
    servers.flat_map(|server| server.disks.iter().map(move |disk| (server, disk)))
}

/// Bytes in use, and their share of the disk's capacity in per cent.
pub fn used(disk: &DiskStatus) -> (u64, u64) {
    let used = disk.report.total.saturating_sub(disk.report.free);
    let share = (u128::from(used) * 100).checked_div(u128::from(disk.report.total));
    (used, share.unwrap_or(0) as u64)
}

/// Bytes that clients may still write to it.
pub fn room(disk: &DiskStatus) -> u64 {
    let kept = disk.report.total / 100 * u64::from(CLIENT_FREE_PERCENT);
    disk.report.free.saturating_sub(kept)
}

/// Whether another disk has taken the place of one that is out.
pub fn is_replaced(server: &ServerStatus, disk: &DiskStatus) -> bool {
    let newer =
        |other: &DiskStatus| other.disk > disk.disk && other.report.path == disk.report.path;
    disk.state == DiskState::Out && server.disks.iter().any(newer)
}

/// A disk's state in a word or two.
fn state(server: &ServerStatus, disk: &DiskStatus) -> String {
    if is_replaced(server, disk) {
        return "replaced".to_owned();
    }
    let serves = match (&disk.report.failed, disk.serves, disk.returns_in_ms) {
        (Some(_), ..) => "failed".to_owned(),
        (None, Serves::Up, _) => "up".to_owned(),
        (None, Serves::Unknown, _) => "unknown".to_owned(),
        (None, Serves::Down, Some(ms)) => format!("up in {} s", ms.div_ceil(1000)),
        (None, Serves::Down, None) => "down".to_owned(),
    };
    match disk.state {
        DiskState::In => serves,
        DiskState::Draining => format!("{serves}, draining"),
        DiskState::Out => format!("{serves}, out"),
    }
}

fn text(status: &Status) -> String {
    let head = [
        "disk",
        "state",
        "server",
        "host",
        "used",
        "of",
        "full",
        "chunks",
        "groups",
        "directory",
    ];
    let mut table = Table::new(&head, &[0, 2, 4, 5, 6, 7, 8]);
    for (server, disk) in disks(status) {
        let (bytes, share) = used(disk);
        table.row(vec![
            disk.disk.to_string(),
            state(server, disk),
            server.server.to_string(),
            server.host.clone(),
            human(bytes),
            human(disk.report.total),
            format!("{share}%"),
            grouped(disk.report.chunks),
            disk.groups.to_string(),
            escaped(disk.report.path.as_bytes()),
        ]);
    }
    let mut text = table.text();
    for (_, disk) in disks(status) {
        if let Some(why) = &disk.report.failed {
            text.push_str(&format!("  disk {} does not serve: {why}\n", disk.disk));
        }
    }
    text
}

fn json(status: &Status) -> Value {
    let disk = |(server, disk): (&ServerStatus, &DiskStatus)| {
        json!({
            "disk": disk.disk,
            "server": server.server,
            "host": server.host,
            "address": server.address,
            "up": disk.serves == Serves::Up,
            "state": state(server, disk),
            "returns_in_ms": disk.returns_in_ms,
            "failed": disk.report.failed,
            "lost": disk.report.lost,
            "total": disk.report.total,
            "free": disk.report.free,
            "chunks": disk.report.chunks,
            "groups": disk.groups,
            "path": disk.report.path,
        })
    };
    disks(status).map(disk).collect()
}
