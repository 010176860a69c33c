//! `quarry status`.

use super::disk::{disks, room, used};
use crate::context::Context;
use crate::size::{counted, grouped, human};
use crate::table::Table;
use anyhow::Result;
use indicatif::HumanDuration;
use quarry_common::ids::ServerId;
use quarry_common::limits::{CLIENT_FREE_PERCENT, DOWN_AFTER, FREED_AFTER};
use quarry_common::map::{DiskState, Redundancy};
use quarry_common::wire::meta::{DiskStatus, ServerStatus, Status as Report};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

/// A disk fuller than this, in per cent, is worth a warning.
const NEARLY_FULL: u64 = 90;

/// `--watch` asks this often: as often as disks report.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Show the health of the cluster on one screen
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Show it again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

impl Status {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let show = async |client: &quarry_client::Client| {
            loop {
                match Seen::of(client).await {
                    Ok(seen) if context.json => context.print_json(&json(&seen))?,
                    Ok(seen) => context.print(&self.screen(context, &text(&seen)))?,
                    // Whoever watches waits for the cluster to come back.
                    Err(error) if self.watch => {
                        context.print(&self.screen(context, &format!("{error}\n")))?;
                    }
                    Err(error) => return Err(error),
                }
                if !self.watch {
                    return Ok(());
                }
                tokio::time::sleep(WATCH_EVERY).await;
            }
        };
        context.with_client(show).await
    }

    /// The text, in place of the one before on a terminal.
    fn screen(&self, context: &Context, text: &str) -> String {
        match (self.watch, context.terminal) {
            // To the upper left corner, each line cleared, and what is below.
            (true, true) => format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")),
            (true, false) => format!("{text}\n"),
            (false, _) => text.to_owned(),
        }
    }
}

/// What the leader says of the cluster, and which metaservers do not answer it.
pub struct Seen {
    /// What the leader says.
    pub report: Report,
    silent: BTreeSet<ServerId>,
    /// What else the leader says.
    warnings: Vec<String>,
}

impl Seen {
    /// As it is now.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn of(client: &quarry_client::Client) -> Result<Seen> {
        let (report, metaservers, warnings) =
            tokio::try_join!(client.status(), client.metaservers(), client.warnings())?;
        let silent = metaservers.iter().filter(|one| one.standing.is_none());
        Ok(Seen {
            silent: silent.map(|one| one.id).collect(),
            report,
            warnings,
        })
    }
}

/// What is wrong, each with what to do; nothing if all is well.
pub fn problems(seen: &Seen) -> Vec<String> {
    let Seen {
        report,
        silent,
        warnings,
    } = seen;
    let mut found = Vec::new();
    for (id, address) in &report.metaservers {
        if silent.contains(id) {
            found.push(format!(
                "metaserver {id} ({address}) does not answer: start it, or look into its log"
            ));
        }
    }
    found.extend(warnings.iter().cloned());
    if report.servers.is_empty() {
        // What the groups lack is that.
        found.push("no dataserver has registered: start them ('quarry dataserver run')".to_owned());
        return found;
    }
    let pools = report.pools.iter();
    let chunk_len = pools.map(|(_, pool, _)| u64::from(pool.chunk_len_max));
    let chunk_len = chunk_len.max().unwrap_or(0);
    // What is out was rebuilt elsewhere, or is being: that shows in the groups.
    let counts_on = |disk: &DiskStatus| disk.state != DiskState::Out;
    let missed = |server: &&ServerStatus| {
        !is_up(server) && (server.disks.is_empty() || server.disks.iter().any(counts_on))
    };
    for server in report.servers.iter().filter(missed) {
        found.push(format!(
            "dataserver {} ({}, {}) is down, {}: start it, or look into its log",
            server.server,
            server.host,
            server.address,
            heard(server)
        ));
    }
    for (server, disk) in disks(report).filter(|(_, disk)| counts_on(disk)) {
        let name = format!(
            "disk {} ({} on {})",
            disk.disk, disk.report.path, server.host
        );
        if let Some(why) = &disk.report.failed {
            found.push(format!("{name} does not serve: {why}"));
        } else if let Some(ms) = disk.returns_in_ms {
            found.push(format!(
                "{name} went down more than once lately and takes part again in {} s: look into the server's log",
                ms.div_ceil(1000)
            ));
        } else if !disk.up && is_up(server) {
            found.push(format!(
                "{name} is down although its server is up: look into the server's log"
            ));
        } else if let Some(room) = disk.up.then(|| room(disk)).filter(|room| *room < chunk_len) {
            found.push(format!(
                "{name} is full: {} are free for files ({CLIENT_FREE_PERCENT} % of it are kept for repair), less than a chunk of {}: \
                 add disks, or remove files, whose room is free within about {} minutes",
                human(room),
                human(chunk_len),
                FREED_AFTER.as_secs() / 60
            ));
        } else if disk.up && used(disk).1 >= NEARLY_FULL {
            found.push(format!(
                "{name} is {}% full: add disks or remove files",
                used(disk).1
            ));
        }
        if disk.report.lost > 0 {
            found.push(format!(
                "{name} lacks {} chunks that no disk has: the log of its server names them; restore their files from a backup",
                disk.report.lost
            ));
        }
    }
    for (id, pool, counts) in &report.pools {
        let groups = |count: u32, what: &str| {
            let all = u64::from(pool.pg_count);
            format!(
                "pool {id} '{}': {} of {} groups {what}",
                pool.name,
                grouped(count.into()),
                grouped(all)
            )
        };
        if counts.unwritable > 0 {
            found.push(groups(
                counts.unwritable,
                "take no writes: too few of their disks are up",
            ));
        }
        if pool.in_use && counts.copies[0] > 0 {
            found.push(groups(
                counts.copies[0],
                "have chunks of which no copy is on a disk that is up: start what is down",
            ));
        }
        if pool.in_use && counts.copies[1] > 0 && pool.redundancy.members() > 1 {
            found.push(groups(counts.copies[1], "have chunks with one copy left"));
        }
        if counts.degraded > 0 {
            found.push(groups(
                counts.degraded,
                "lack a copy: there are too few disks; start or add some",
            ));
        }
    }
    found
}

fn is_up(server: &ServerStatus) -> bool {
    let limit = DOWN_AFTER.as_millis() as u64;
    server.heard_ms_ago.is_some_and(|ago| ago < limit)
}

fn heard(server: &ServerStatus) -> String {
    match server.heard_ms_ago {
        None => "not heard since the metaserver started".to_owned(),
        Some(ms) => format!("last heard {:.1} s ago", ms as f64 / 1000.0),
    }
}

/// Chunks, and bytes of copies, of which a metaserver knows only in which groups they are: a group has about the mean.
struct Means {
    chunks: u64,
    bytes: u64,
    /// Positions of groups on disks that are up.
    positions: u64,
}

impl Means {
    fn of(report: &Report) -> Means {
        let up = || disks(report).filter(|(_, disk)| disk.up);
        let pool = report.pools.first();
        let replicas = pool.map_or(1, |(_, pool, _)| pool.redundancy.members() as u64);
        Means {
            chunks: up().map(|(_, disk)| disk.report.chunks).sum(),
            bytes: report.bytes.saturating_mul(replicas),
            positions: up().map(|(_, disk)| u64::from(disk.groups)).sum(),
        }
    }

    fn share(&self, groups: u64, all: u64) -> u64 {
        let share = (u128::from(groups) * u128::from(all)).checked_div(u128::from(self.positions));
        share.unwrap_or(0) as u64
    }

    fn chunks_of(&self, groups: u64) -> u64 {
        self.share(groups, self.chunks)
    }

    fn bytes_of(&self, groups: u64) -> u64 {
        self.share(groups, self.bytes)
    }
}

/// Which chunks have fewer copies than they should, a line for each number of copies.
fn endangered(report: &Report) -> Vec<String> {
    let means = Means::of(report);
    let mut found = Vec::new();
    // A pool that is not in use has no chunks.
    for (id, pool, counts) in report.pools.iter().filter(|(_, pool, _)| pool.in_use) {
        let members = pool.redundancy.members();
        for copies in (0..members).filter(|copies| counts.copies[*copies] > 0) {
            let groups = u64::from(counts.copies[copies]);
            found.push(format!(
                "pool {id}: about {} with {copies} of {members} copies up, in {}",
                counted(means.chunks_of(groups), "chunk", "chunks"),
                counted(groups, "group", "groups"),
            ));
        }
    }
    found
}

/// How much is to be copied until every group is whole, if anything is.
fn rebuilding(report: &Report) -> Option<String> {
    let filling = report.pools.iter();
    let groups: u64 = filling.map(|(.., counts)| u64::from(counts.filling)).sum();
    if groups == 0 {
        return None;
    }
    let means = Means::of(report);
    let mut words = format!(
        "rebuilding: {} filling, about {} to check or copy",
        counted(groups, "group", "groups"),
        counted(means.chunks_of(groups), "chunk", "chunks"),
    );
    let rate: u64 = disks(report).map(|(_, disk)| disk.copies_per_second).sum();
    if let Some(left) = means.bytes_of(groups).checked_div(rate) {
        let words_of_rate = format!(
            "\n            at {}/s, at most {} more",
            human(rate),
            HumanDuration(Duration::from_secs(left))
        );
        words.push_str(&words_of_rate);
    }
    Some(words)
}

/// The screen.
pub fn text(seen: &Seen) -> String {
    let Seen { report, silent, .. } = seen;
    let mut text = String::new();
    // Writing to a String can not fail.
    let mut line = |words: String| writeln!(text, "{words}").unwrap_or_default();
    let problems = problems(seen);
    line(format!(
        "cluster {}, map epoch {}",
        report.cluster, report.epoch
    ));
    match problems.as_slice() {
        [] => line("health: all is well".into()),
        _ => {
            line(format!(
                "health: {}",
                counted(problems.len() as u64, "problem", "problems")
            ));
            problems
                .iter()
                .for_each(|problem| line(format!("  ! {problem}")));
        }
    }
    line(String::new());
    for (id, address) in &report.metaservers {
        let how = match (*id == report.leader, silent.contains(id)) {
            (true, _) => ", leads",
            (false, true) => ", does not answer",
            (false, false) => "",
        };
        line(format!("metaserver {id} at {address}{how}"));
    }
    let mut servers = Table::new(
        &[
            "dataserver",
            "state",
            "heard",
            "host",
            "address",
            "disks",
            "used",
            "of",
        ],
        &[0, 5, 6, 7],
    );
    for server in &report.servers {
        let up = server.disks.iter().filter(|disk| disk.up).count();
        let total: u64 = server.disks.iter().map(|disk| disk.report.total).sum();
        let bytes: u64 = server.disks.iter().map(|disk| used(disk).0).sum();
        let ago = server.heard_ms_ago.map_or("never".into(), |ms| {
            format!("{:.1} s ago", ms as f64 / 1000.0)
        });
        servers.row(vec![
            server.server.to_string(),
            if is_up(server) { "up" } else { "down" }.into(),
            ago,
            server.host.clone(),
            server.address.clone(),
            format!("{up}/{}", server.disks.len()),
            human(bytes),
            human(total),
        ]);
    }
    line(servers.text());
    let mut pools = Table::new(
        &[
            "pool",
            "name",
            "copies",
            "groups",
            "clean",
            "filling",
            "crowded",
            "lacking",
            "unwritable",
        ],
        &[0, 3, 4, 5, 6, 7, 8],
    );
    for (id, pool, counts) in &report.pools {
        let Redundancy::Replicated {
            replicas,
            min_members,
        } = pool.redundancy;
        pools.row(vec![
            id.to_string(),
            pool.name.clone(),
            format!("{replicas} (writes with {min_members})"),
            pool.pg_count.to_string(),
            counts.clean.to_string(),
            counts.filling.to_string(),
            counts.crowded.to_string(),
            counts.degraded.to_string(),
            counts.unwritable.to_string(),
        ]);
    }
    line(pools.text());
    endangered(report).into_iter().for_each(&mut line);
    if let Some(words) = rebuilding(report) {
        line(words);
    }
    line(format!(
        "holds {} in {} and {}; {} open",
        human(report.bytes),
        counted(report.files, "file", "files"),
        counted(report.directories, "directory", "directories"),
        counted(report.sessions, "session", "sessions")
    ));
    line(format!(
        "waiting: {} to be emptied, {} to be collected",
        counted(report.orphans, "unnamed file", "unnamed files"),
        counted(
            report.unreferenced_chunks,
            "unreferenced chunk",
            "unreferenced chunks"
        )
    ));
    line(format!(
        "deleting: {} on their way; {} in the disks' trash",
        counted(report.doomed_chunks, "chunk", "chunks"),
        human(trash(report))
    ));
    text
}

/// Bytes in the trash of all disks: kept for a day, and free when they are needed.
fn trash(report: &Report) -> u64 {
    disks(report).map(|(_, disk)| disk.report.trash).sum()
}

fn json(seen: &Seen) -> Value {
    let Seen { report, silent, .. } = seen;
    let problems = problems(seen);
    let server = |server: &ServerStatus| {
        json!({
            "server": server.server,
            "address": server.address,
            "host": server.host,
            "up": is_up(server),
            "heard_ms_ago": server.heard_ms_ago,
            "disks": server.disks.len(),
        })
    };
    let pools = report.pools.iter().map(|(id, pool, counts)| {
        json!({
            "pool": id,
            "name": pool.name,
            "replicas": pool.redundancy.members(),
            "min_members": pool.redundancy.min_members(),
            "pg_count": pool.pg_count,
            "in_use": pool.in_use,
            "clean": counts.clean,
            "filling": counts.filling,
            "copies": &counts.copies[..=pool.redundancy.members()],
            "crowded": counts.crowded,
            "degraded": counts.degraded,
            "unwritable": counts.unwritable,
        })
    });
    let metaservers = report.metaservers.iter();
    json!({
        "cluster": report.cluster.to_string(),
        "epoch": report.epoch,
        "healthy": problems.is_empty(),
        "problems": problems,
        "leader": report.leader,
        "metaservers": metaservers.map(|(id, at)| json!({ "server": id, "address": at, "answers": !silent.contains(id) })).collect::<Vec<_>>(),
        "servers": report.servers.iter().map(server).collect::<Vec<_>>(),
        "pools": pools.collect::<Vec<_>>(),
        "bytes": report.bytes,
        "files": report.files,
        "directories": report.directories,
        "sessions": report.sessions,
        "orphans": report.orphans,
        "unreferenced_chunks": report.unreferenced_chunks,
        "doomed_chunks": report.doomed_chunks,
        "trash_bytes": trash(report),
        "copied_bytes": disks(report).map(|(_, disk)| disk.report.copied).sum::<u64>(),
        "copies_per_second": disks(report).map(|(_, disk)| disk.copies_per_second).sum::<u64>(),
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use quarry_common::ids::{ClusterId, DiskId, Epoch, OpenNumber, PoolId};
    use quarry_common::map::{FailureDomain, Pool};
    use quarry_common::wire::meta::DiskReport;
    use quarry_common::wire::meta::admin::PgCounts;
    use std::collections::BTreeMap;

    /// One server with one disk, all well.
    pub fn healthy() -> Seen {
        let report = DiskReport {
            disk: Some(DiskId(1)),
            path: "/d".into(),
            replaces_lost: false,
            previous_open: OpenNumber(0),
            open_number: OpenNumber(1),
            total: 1 << 40,
            free: 1 << 39,
            chunks: 12,
            failed: None,
            trash: 0,
            lost: 0,
            copied: 0,
        };
        let server = ServerStatus {
            server: ServerId(1),
            address: "127.0.0.1:1".into(),
            host: "dev-1".into(),
            heard_ms_ago: Some(300),
            disks: vec![DiskStatus {
                disk: DiskId(1),
                up: true,
                groups: 64,
                report,
                state: DiskState::In,
                returns_in_ms: None,
                copies_per_second: 0,
            }],
        };
        let redundancy = Redundancy::Replicated {
            replicas: 1,
            min_members: 1,
        };
        let pool = Pool {
            name: "main".into(),
            redundancy,
            failure_domain: FailureDomain::Host,
            pg_count: 64,
            chunk_len_max: 64 << 20,
            in_use: true,
            exceptions: BTreeMap::new(),
        };
        let mut copies = [0; 9];
        copies[1] = 64;
        let counts = PgCounts {
            clean: 64,
            copies,
            ..PgCounts::default()
        };
        let report = Report {
            cluster: ClusterId([7; 16]),
            epoch: Epoch(5),
            leader: ServerId(1),
            metaservers: vec![(ServerId(1), "127.0.0.1:2".into())],
            servers: vec![server],
            pools: vec![(PoolId(1), pool, counts)],
            bytes: 1 << 30,
            files: 1,
            directories: 2,
            sessions: 1,
            orphans: 0,
            unreferenced_chunks: 3,
            doomed_chunks: 2,
        };
        Seen {
            report,
            silent: BTreeSet::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_healthy_cluster_fits_one_screen_and_says_so() {
        let text = text(&healthy());
        assert!(
            text.contains("all is well") && text.contains("leads"),
            "{text}"
        );
        assert!(text.contains("1 file and 2 directories"), "{text}");
        assert!(
            text.lines().count() < 24 && text.lines().all(|line| line.len() <= 100),
            "{text}"
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_do() {
        let mut seen = healthy();
        let report = &mut seen.report;
        report.servers[0].heard_ms_ago = Some(60_000);
        report.servers[0].disks[0].report.failed = Some("an fsync failed".into());
        report.pools[0].2.unwritable = 64;
        report.pools[0].2.degraded = 64;
        let silent = (ServerId(2), "127.0.0.1:3".into());
        report.metaservers.push(silent);
        seen.silent.insert(ServerId(2));
        let text = text(&seen);
        for part in [
            "5 problems",
            "metaserver 2 (127.0.0.1:3) does not answer: start it",
            "metaserver 2 at 127.0.0.1:3, does not answer",
            "60.0 s ago",
            "an fsync failed",
            "take no writes",
            "start or add some",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(json(&seen)["healthy"], false);
        assert_eq!(json(&seen)["metaservers"][1]["answers"], false);
        let full = |per_mille: u64, more: u64| {
            let mut full = healthy();
            let report = &mut full.report.servers[0].disks[0].report;
            report.free = report.total / 1000 * per_mille + more;
            problems(&full).remove(0)
        };
        assert!(full(60, 0).contains("94% full"));
        let words = full(50, 48 << 20);
        for part in [
            "disk 1 (/d on dev-1) is full",
            " 48M are free for files",
            "64M",
            "add disks",
        ] {
            assert!(words.contains(part), "{part} in {words}");
        }
    }

    #[test]
    fn before_there_are_chunks_none_is_told_to_be_in_danger() {
        let mut seen = healthy();
        let (_, pool, counts) = &mut seen.report.pools[0];
        pool.in_use = false;
        (counts.copies, counts.unwritable) = ([64, 0, 0, 0, 0, 0, 0, 0, 0], 64);
        let shown = text(&seen);
        assert!(
            shown.contains("take no writes")
                && !shown.contains("no copy")
                && !shown.contains("copies up"),
            "{shown}"
        );
        seen.report.servers.clear();
        assert_eq!(problems(&seen).len(), 1, "{:?}", problems(&seen));
        assert!(problems(&seen)[0].contains("no dataserver has registered"));
    }

    #[test]
    fn a_rebuild_shows_what_is_left_and_what_is_out_is_no_problem_any_more() {
        let mut seen = healthy();
        let report = &mut seen.report;
        assert_eq!(rebuilding(report), None);
        assert_eq!(endangered(report), Vec::<String>::new());
        let counts = &mut report.pools[0].2;
        (counts.filling, counts.clean) = (16, 48);
        counts.copies = [0; 9];
        (counts.copies[0], counts.copies[1]) = (8, 56);
        let words = rebuilding(report).unwrap();
        assert!(
            words.contains("16 groups filling, about 3 chunks"),
            "{words}"
        );
        let few = endangered(report);
        assert_eq!(
            few,
            ["pool 1: about 1 chunk with 0 of 1 copies up, in 8 groups"]
        );
        assert!(!words.contains("more"), "nothing is copied: {words}");
        report.pools[0].2.filling = 0;
        assert_eq!(rebuilding(report), None);
        assert_eq!(endangered(report), few);
        report.pools[0].2.filling = 16;
        report.servers[0].disks[0].copies_per_second = 1 << 20;
        let words = rebuilding(report).unwrap();
        // A quarter of a gibibyte.
        assert!(
            words.contains("at 1.0M/s, at most 4 minutes more"),
            "{words}"
        );
        let shown = text(&seen);
        assert!(shown.contains("no copy is on a disk that is up") && shown.contains(&few[0]));
        let mut gone = healthy();
        gone.report.servers[0].heard_ms_ago = Some(60_000);
        gone.report.servers[0].disks[0].up = false;
        assert!(!problems(&gone).is_empty());
        gone.report.servers[0].disks[0].state = DiskState::Out;
        assert_eq!(problems(&gone), Vec::<String>::new());
        let mut flapping = healthy();
        flapping.report.servers[0].disks[0].up = false;
        flapping.report.servers[0].disks[0].returns_in_ms = Some(9_500);
        assert!(problems(&flapping)[0].contains("in 10 s"));
    }
}
