//! What `quarry status` says of a cluster: the screen and `--json` show this one value.

use super::Seen;
use crate::commands::disk::{disks, is_replaced, room, used};
use crate::size::{counted, grouped, human};
use quarry_common::ids::{DiskId, Epoch, PoolId, ServerId};
use quarry_common::limits::{CLIENT_FREE_PERCENT, FREED_AFTER};
use quarry_common::map::{DiskState, Pool};
use quarry_common::wire::meta::admin::PgCounts;
use quarry_common::wire::meta::{
    DiskStatus, MetaserverStatus, ServerStatus, Serves, Standing, Status as Report,
};
use serde::Serialize;

/// A disk fuller than this, in per cent, is worth a warning.
const NEARLY_FULL: u64 = 90;

/// How a cluster is.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub cluster: String,
    pub epoch: Epoch,
    /// There are no problems, and this leader has heard all dataservers.
    pub healthy: bool,
    /// What is wrong, each with what to do.
    pub problems: Vec<String>,
    /// What is no danger, and worth knowing.
    pub notices: Vec<String>,
    pub leader: ServerId,
    pub leads_for_ms: u64,
    pub metaservers: Vec<Metaserver>,
    pub servers: Vec<Server>,
    pub pools: Vec<InPool>,
    pub rebuild: Rebuild,
    pub bytes: u64,
    pub files: u64,
    pub directories: u64,
    pub sessions: u64,
    pub orphans: u64,
    pub unreferenced_chunks: u64,
    pub doomed_chunks: u64,
    /// So long after it was doomed each of them is deleted.
    pub doom_grace_seconds: u64,
    /// In the trash of all disks that were heard: kept for a day, and free when it is needed.
    pub trash_bytes: u64,
    pub copied_bytes: u64,
}

/// A metaserver, which may be only invited.
#[derive(Debug, Serialize)]
pub struct Metaserver {
    pub server: ServerId,
    pub address: String,
    pub role: &'static str,
    pub votes: bool,
    pub answers: bool,
}

/// Whether a server or a disk serves, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Up,
    /// The leader has not led for long enough to know.
    Unknown,
    Down,
    /// It was down for so long that what it held is rebuilt elsewhere, or was.
    Out,
    /// Of a disk: another one has taken its place.
    Replaced,
}

/// A dataserver.
#[derive(Debug, Serialize)]
pub struct Server {
    pub server: ServerId,
    pub address: String,
    pub host: String,
    pub state: State,
    pub heard_ms_ago: Option<u64>,
    pub disks: Vec<Disk>,
    /// Of all its disks, if any was heard of.
    pub used: Option<u64>,
    pub total: Option<u64>,
}

/// A disk.
#[derive(Debug, Serialize)]
pub struct Disk {
    pub disk: DiskId,
    pub path: String,
    pub state: State,
    pub failed: Option<String>,
    pub returns_in_ms: Option<u64>,
    /// It goes out in so many milliseconds, unless [`Rebuild::held_back`].
    pub out_in_ms: Option<u64>,
}

/// A pool, with its groups by state: one is clean or unclean, and may be several of the others besides.
#[derive(Debug, Serialize)]
pub struct InPool {
    pub pool: PoolId,
    pub name: String,
    pub replicas: usize,
    pub min_members: usize,
    pub in_use: bool,
    pub pg_count: u32,
    pub clean: u32,
    pub unclean: u32,
    pub filling: u32,
    pub rebuilding: u32,
    pub crowded: u32,
    pub degraded: u32,
    pub unwritable: u32,
    /// By on how many disks that are up each of their chunks is at least: none, one, ….
    pub groups_by_copies: Vec<u32>,
    /// About how many chunks these groups have, if any disk was heard of.
    pub chunks_by_copies: Option<Vec<u64>>,
}

/// What is copied until every group is whole, or will be.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Rebuild {
    /// Groups with a member that fetches what it lacks.
    pub groups: u64,
    /// About so many chunks are to be checked or copied.
    pub chunks: Option<u64>,
    pub bytes_per_second: u64,
    /// At most.
    pub seconds_left: Option<u64>,
    /// Groups with a member that takes new writes and fetches nothing, since what it stands in for may come back.
    pub waiting_groups: u64,
    /// The first that is down goes out in so many milliseconds, and is rebuilt from then on.
    pub begins_in_ms: Option<u64>,
    /// Too much is down at once for anything to go out by itself.
    pub held_back: bool,
}

impl Summary {
    /// Of what the leader says.
    pub fn of(seen: &Seen) -> Summary {
        let Seen {
            report,
            metaservers,
            ..
        } = seen;
        let means = Means::of(report);
        let problems = problems(seen);
        let pools = report.pools.iter();
        Summary {
            cluster: report.cluster.to_string(),
            epoch: report.epoch,
            healthy: problems.is_empty() && not_heard_yet(report) == 0,
            problems,
            notices: notices(report),
            leader: report.leader,
            leads_for_ms: report.leads_for_ms,
            metaservers: metaservers.iter().map(metaserver).collect(),
            servers: report.servers.iter().map(server).collect(),
            pools: pools.map(|pool| in_pool(pool, &means)).collect(),
            rebuild: rebuild(report, &means),
            bytes: report.bytes,
            files: report.files,
            directories: report.directories,
            sessions: report.sessions,
            orphans: report.orphans,
            unreferenced_chunks: report.unreferenced_chunks,
            doomed_chunks: report.doomed_chunks,
            doom_grace_seconds: seen.doom_grace.as_secs(),
            trash_bytes: disks(report).map(|(_, disk)| disk.report.trash).sum(),
            copied_bytes: disks(report).map(|(_, disk)| disk.report.copied).sum(),
        }
    }
}

/// What a metaserver is, as the leader sees it.
pub fn role(metaserver: &MetaserverStatus) -> &'static str {
    match (&metaserver.standing, metaserver.leads, metaserver.votes) {
        (None, _, true) => "does not answer",
        (None, _, false) => "invited, does not answer",
        (Some(_), true, _) => "leads",
        (Some(Standing { is_new: true, .. }), _, _) | (Some(_), _, false) => "catches up",
        (Some(_), false, true) => "follows",
    }
}

fn metaserver(one: &MetaserverStatus) -> Metaserver {
    Metaserver {
        server: one.id,
        address: one.address.clone(),
        role: role(one),
        votes: one.votes,
        answers: one.standing.is_some(),
    }
}

fn server(server: &ServerStatus) -> Server {
    // What was not heard of is reported with nothing at all.
    let known = server.disks.iter().any(|disk| disk.report.total > 0);
    let sum = |of: fn(&DiskStatus) -> u64| known.then(|| server.disks.iter().map(of).sum());
    let disk = |disk: &DiskStatus| Disk {
        disk: disk.disk,
        path: disk.report.path.clone(),
        state: match is_replaced(server, disk) {
            true => State::Replaced,
            false => state(disk.serves, is_out(disk)),
        },
        failed: disk.report.failed.clone(),
        returns_in_ms: disk.returns_in_ms,
        out_in_ms: disk.out_in_ms,
    };
    Server {
        server: server.server,
        address: server.address.clone(),
        host: server.host.clone(),
        state: server_state(server),
        heard_ms_ago: server.heard_ms_ago,
        disks: server.disks.iter().map(disk).collect(),
        used: sum(|disk| used(disk).0),
        total: sum(|disk| disk.report.total),
    }
}

fn is_out(disk: &DiskStatus) -> bool {
    disk.state == DiskState::Out
}

fn server_state(server: &ServerStatus) -> State {
    let is_out = !server.disks.is_empty() && server.disks.iter().all(is_out);
    state(server.serves, is_out)
}

fn state(serves: Serves, is_out: bool) -> State {
    match (serves, is_out) {
        (Serves::Up, _) => State::Up,
        (Serves::Unknown | Serves::Down, true) => State::Out,
        (Serves::Unknown, false) => State::Unknown,
        (Serves::Down, false) => State::Down,
    }
}

fn in_pool((id, pool, counts): &(PoolId, Pool, PgCounts), means: &Means) -> InPool {
    let replicas = pool.redundancy.members();
    let groups = &counts.copies[..=replicas];
    let chunks = groups
        .iter()
        .map(|groups| means.chunks_of((*groups).into()));
    InPool {
        pool: *id,
        name: pool.name.clone(),
        replicas,
        min_members: pool.redundancy.min_members(),
        in_use: pool.in_use,
        pg_count: pool.pg_count,
        clean: counts.clean,
        unclean: pool.pg_count.saturating_sub(counts.clean),
        filling: counts.filling,
        rebuilding: counts.rebuilding,
        crowded: counts.crowded,
        degraded: counts.degraded,
        unwritable: counts.unwritable,
        groups_by_copies: groups.to_vec(),
        chunks_by_copies: chunks.collect(),
    }
}

fn rebuild(report: &Report, means: &Means) -> Rebuild {
    let of = |count: fn(&PgCounts) -> u32| -> u64 {
        let pools = report.pools.iter();
        pools.map(|(.., counts)| u64::from(count(counts))).sum()
    };
    let groups = of(|counts| counts.rebuilding);
    let rate = disks(report).map(|(_, disk)| disk.copies_per_second).sum();
    // A pool that is not in use has no chunks.
    let in_use = report.pools.iter().any(|(_, pool, _)| pool.in_use);
    // Of some there is nothing to copy from now: nobody knows until when.
    let is_whole = of(|counts| counts.copies[0]) == 0;
    let held_back = in_use && report.none_goes_out;
    let left = means.bytes_of(groups).filter(|_| is_whole && !held_back);
    let out_in = disks(report).filter_map(|(_, disk)| disk.out_in_ms);
    Rebuild {
        groups,
        chunks: means.chunks_of(groups),
        bytes_per_second: rate,
        seconds_left: left.and_then(|left| left.checked_div(rate)),
        waiting_groups: of(|counts| counts.filling).saturating_sub(groups),
        begins_in_ms: out_in.min().filter(|_| in_use && !report.none_goes_out),
        held_back,
    }
}

/// What is wrong, each with what to do; nothing if all is well.
fn problems(seen: &Seen) -> Vec<String> {
    let Seen {
        report,
        metaservers,
        warnings,
        ..
    } = seen;
    let mut found = Vec::new();
    for one in metaservers {
        if one.votes && one.standing.is_none() {
            found.push(format!(
                "metaserver {} ({}) does not answer: start it, or look into its log",
                one.id, one.address
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
    for server in &report.servers {
        if server_state(server) == State::Down {
            found.push(format!(
                "dataserver {} is down, {}: start it, or look into its log",
                named(server),
                heard(server)
            ));
        }
    }
    // What is out was rebuilt elsewhere, or is being: that shows in the groups.
    for (server, disk) in disks(report).filter(|(_, disk)| !is_out(disk)) {
        let name = disk_named(server, disk);
        let is_up = disk.serves == Serves::Up;
        if let Some(why) = &disk.report.failed {
            found.push(format!("{name} does not serve: {why}"));
        } else if let Some(ms) = disk.returns_in_ms {
            found.push(format!(
                "{name} went down more than once lately and takes part again in {} s: look into the server's log",
                ms.div_ceil(1000)
            ));
        } else if disk.serves == Serves::Down && server.serves == Serves::Up {
            found.push(format!(
                "{name} is down although its server is up: look into the server's log"
            ));
        } else if let Some(room) = is_up.then(|| room(disk)).filter(|room| *room < chunk_len) {
            found.push(format!(
                "{name} is full: {} are free for files ({CLIENT_FREE_PERCENT} % of it are kept for repair), less than a chunk of {}: \
                 add disks, or remove files, whose room is free within about {} minutes",
                human(room),
                human(chunk_len),
                FREED_AFTER.as_secs() / 60
            ));
        } else if is_up && used(disk).1 >= NEARLY_FULL {
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
        let whole = pool.redundancy.members();
        let fewer: u32 = counts.copies.iter().take(whole).skip(2).sum();
        // Those for which there are too few disks are told below.
        if pool.in_use && fewer > counts.degraded {
            let what = format!("have chunks with fewer than {whole} copies up");
            found.push(groups(fewer, &what));
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

/// Dataservers of which this leader knows nothing yet.
fn not_heard_yet(report: &Report) -> usize {
    let states = report.servers.iter().map(server_state);
    states.filter(|state| *state == State::Unknown).count()
}

/// What is no danger, and worth knowing.
fn notices(report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    let unknown = not_heard_yet(report);
    if unknown > 0 {
        found.push(format!(
            "metaserver {} has led for {:.1} s: {unknown} of {} not heard yet",
            report.leader,
            report.leads_for_ms as f64 / 1000.0,
            counted(report.servers.len() as u64, "dataserver", "dataservers")
        ));
    }
    // A pool that is not in use has no chunks.
    let is_whole = report.pools.iter().all(|(_, pool, counts)| {
        let fewer = &counts.copies[..pool.redundancy.members()];
        !pool.in_use || fewer.iter().all(|groups| *groups == 0)
    });
    let held = match is_whole {
        true => "all copies of what it held are elsewhere",
        false => "what it held is rebuilt elsewhere as far as there is room",
    };
    for server in &report.servers {
        if server_state(server) == State::Out {
            found.push(format!(
                "dataserver {} is out: {held}; start it again, or replace it",
                named(server)
            ));
            continue;
        }
        // One that serves is about to come back.
        let is_away = |disk: &DiskStatus| disk.serves != Serves::Up && disk.returns_in_ms.is_none();
        let gone = server.disks.iter().filter(|disk| is_out(disk));
        for disk in gone.filter(|disk| is_away(disk) && !is_replaced(server, disk)) {
            let why = match &disk.report.failed {
                Some(why) => format!(" ({why})"),
                None => String::new(),
            };
            found.push(format!(
                "{} is out{why}: {held}; repair or replace it",
                disk_named(server, disk)
            ));
        }
    }
    found
}

fn named(server: &ServerStatus) -> String {
    format!("{} ({}, {})", server.server, server.host, server.address)
}

fn disk_named(server: &ServerStatus, disk: &DiskStatus) -> String {
    format!(
        "disk {} ({} on {})",
        disk.disk, disk.report.path, server.host
    )
}

fn heard(server: &ServerStatus) -> String {
    match server.heard_ms_ago {
        None => "not heard since the metaserver began to lead".to_owned(),
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
        let up = || disks(report).filter(|(_, disk)| disk.serves == Serves::Up);
        let pool = report.pools.first();
        let replicas = pool.map_or(1, |(_, pool, _)| pool.redundancy.members() as u64);
        Means {
            chunks: up().map(|(_, disk)| disk.report.chunks).sum(),
            bytes: report.bytes.saturating_mul(replicas),
            positions: up().map(|(_, disk)| u64::from(disk.groups)).sum(),
        }
    }

    /// `None` while no disk is up of which that could be known.
    fn share(&self, groups: u64, all: u64) -> Option<u64> {
        let product = u128::from(groups) * u128::from(all);
        let share = product.checked_div(u128::from(self.positions))?;
        Some(u64::try_from(share).unwrap_or(u64::MAX))
    }

    fn chunks_of(&self, groups: u64) -> Option<u64> {
        self.share(groups, self.chunks)
    }

    fn bytes_of(&self, groups: u64) -> Option<u64> {
        self.share(groups, self.bytes)
    }
}
