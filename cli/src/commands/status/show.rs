//! A [`Summary`] as a screen.

use super::summary::{InPool, Rebuild, Server, State, Summary};
use crate::size::{counted, human};
use crate::table::Table;
use indicatif::HumanDuration;
use std::fmt::Write;
use std::time::Duration;

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Unknown => "unknown",
            State::Down => "down",
            State::Out => "out",
            State::Replaced => "replaced",
        }
    }
}

/// The screen.
pub fn text(summary: &Summary) -> String {
    let mut text = String::new();
    // Writing to a String can not fail.
    let mut line = |words: String| writeln!(text, "{words}").unwrap_or_default();
    line(format!(
        "cluster {}, map epoch {}",
        summary.cluster, summary.epoch
    ));
    line(health(summary));
    let problems = summary.problems.iter();
    problems.for_each(|problem| line(format!("  ! {problem}")));
    let notices = summary.notices.iter();
    notices.for_each(|notice| line(format!("  - {notice}")));
    line(String::new());
    for one in &summary.metaservers {
        line(format!(
            "metaserver {} at {}, {}",
            one.server, one.address, one.role
        ));
    }
    line(servers(&summary.servers));
    line(pools(&summary.pools));
    summary
        .pools
        .iter()
        .flat_map(few_copies)
        .for_each(&mut line);
    rebuild(&summary.rebuild).into_iter().for_each(&mut line);
    line(format!(
        "holds {} in {} and {}; {} open",
        human(summary.bytes),
        counted(summary.files, "file", "files"),
        counted(summary.directories, "directory", "directories"),
        counted(summary.sessions, "session", "sessions")
    ));
    line(format!(
        "waiting: {} to be emptied, {} to be deleted",
        counted(summary.orphans, "unnamed file", "unnamed files"),
        counted(
            summary.unreferenced_chunks,
            "unreferenced chunk",
            "unreferenced chunks"
        )
    ));
    line(format!(
        "deleting: {}, by the disks {} after that was decided; {} in the trash of the disks{}",
        counted(summary.doomed_chunks, "more chunk", "more chunks"),
        HumanDuration(Duration::from_secs(summary.doom_grace_seconds)),
        human(summary.trash_bytes),
        match summary.servers.iter().all(|server| server.used.is_some()) {
            true => "",
            false => " that were heard",
        }
    ));
    text
}

fn health(summary: &Summary) -> String {
    let notices = counted(summary.notices.len() as u64, "notice", "notices");
    match (summary.problems.len(), summary.notices.len()) {
        (0, 0) => "health: all is well".to_owned(),
        (0, _) => format!("health: no problems, {notices}"),
        (problems, _) => format!(
            "health: {}",
            counted(problems as u64, "problem", "problems")
        ),
    }
}

fn servers(servers: &[Server]) -> String {
    let head = [
        "dataserver",
        "state",
        "heard",
        "host",
        "address",
        "disks",
        "used",
        "of",
    ];
    let mut table = Table::new(&head, &[0, 5, 6, 7]);
    for server in servers {
        let ago = match server.heard_ms_ago {
            None => "not yet".to_owned(),
            Some(ms) => format!("{:.1} s ago", ms as f64 / 1000.0),
        };
        let of = |is: fn(State) -> bool| server.disks.iter().filter(|disk| is(disk.state)).count();
        let up = match server.state {
            State::Unknown => "?".to_owned(),
            _ => of(|state| state == State::Up).to_string(),
        };
        let all = of(|state| state != State::Replaced);
        let shown = |bytes: Option<u64>| bytes.map_or("-".to_owned(), human);
        table.row(vec![
            server.server.to_string(),
            server.state.word().to_owned(),
            ago,
            server.host.clone(),
            server.address.clone(),
            format!("{up}/{all}"),
            shown(server.used),
            shown(server.total),
        ]);
    }
    table.text()
}

fn pools(pools: &[InPool]) -> String {
    let head = [
        "pool",
        "name",
        "copies",
        "groups",
        "clean",
        "unclean",
        "filling",
        "crowded",
        "lacking",
        "unwritable",
    ];
    let mut table = Table::new(&head, &[0, 3, 4, 5, 6, 7, 8, 9]);
    let mut besides = 0;
    for pool in pools {
        let counts = [pool.filling, pool.crowded, pool.degraded, pool.unwritable];
        besides += counts.iter().sum::<u32>();
        let mut row = vec![
            pool.pool.to_string(),
            pool.name.clone(),
            format!("{} (writes with {})", pool.replicas, pool.min_members),
            pool.pg_count.to_string(),
            pool.clean.to_string(),
            pool.unclean.to_string(),
        ];
        row.extend(counts.map(|count| count.to_string()));
        table.row(row);
    }
    let mut text = table.text();
    if besides > 0 {
        text.push_str(
            "  (each group is clean or unclean; the columns after that may count it too)\n",
        );
    }
    text
}

/// Which chunks have fewer copies than they should, a line for each number of copies.
fn few_copies(pool: &InPool) -> Vec<String> {
    let mut found = Vec::new();
    // A pool that is not in use has no chunks.
    let fewer = 0..if pool.in_use { pool.replicas } else { 0 };
    for copies in fewer.filter(|copies| pool.groups_by_copies[*copies] > 0) {
        let chunks = match &pool.chunks_by_copies {
            Some(chunks) => format!("about {}", counted(chunks[copies], "chunk", "chunks")),
            None => "chunks".to_owned(),
        };
        found.push(format!(
            "pool {}: {chunks} with {copies} of {} copies up, in {}",
            pool.pool,
            pool.replicas,
            counted(pool.groups_by_copies[copies].into(), "group", "groups"),
        ));
    }
    found
}

/// What is copied, and what will be.
fn rebuild(rebuild: &Rebuild) -> Vec<String> {
    let mut lines = Vec::new();
    if rebuild.groups > 0 {
        let mut words = format!("rebuilding: {}", counted(rebuild.groups, "group", "groups"));
        if let Some(chunks) = rebuild.chunks {
            let chunks = counted(chunks, "chunk", "chunks");
            words.push_str(&format!(", about {chunks} to check or copy"));
        }
        if let Some(left) = rebuild.seconds_left {
            words.push_str(&format!(
                "\n            at {}/s, at most {} more",
                human(rebuild.bytes_per_second),
                HumanDuration(Duration::from_secs(left))
            ));
        }
        lines.push(words);
    }
    let until_then = match rebuild.waiting_groups {
        0 => String::new(),
        groups => format!(
            "; {} to substitutes until then",
            counted(groups, "group writes", "groups write")
        ),
    };
    if rebuild.held_back {
        lines.push(
            "not rebuilt: more than a fifth of the disks in several hosts, or a whole rack, are down.\n             \
             Nothing of that is rebuilt by itself: start what is down"
                .to_owned(),
        );
    } else if let Some(ms) = rebuild.begins_in_ms {
        lines.push(format!(
            "not rebuilt yet: what is down is rebuilt elsewhere in {} s{until_then}",
            ms.div_ceil(1000)
        ));
    }
    lines
}
