//! What the screen and `--json` say of clusters in trouble.

use super::summary::Rebuild;
use super::*;
use quarry_common::ids::{ClusterId, DiskId, Epoch, OpenNumber, PoolId, ServerId};
use quarry_common::map::{DiskState, Redundancy};
use quarry_common::map::{FailureDomain, Pool};
use quarry_common::wire::meta::DiskReport;
use quarry_common::wire::meta::admin::PgCounts;
use quarry_common::wire::meta::{DiskStatus, ServerStatus, Serves, Standing};
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
        serves: Serves::Up,
        heard_ms_ago: Some(300),
        disks: vec![DiskStatus {
            disk: DiskId(1),
            serves: Serves::Up,
            groups: 64,
            report,
            state: DiskState::In,
            returns_in_ms: None,
            out_in_ms: None,
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
        leads_for_ms: 60_000,
        none_goes_out: false,
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
        metaservers: vec![metaserver(1, true)],
        warnings: Vec::new(),
        doom_grace: Duration::from_secs(300),
    }
}

fn metaserver(id: u32, answers: bool) -> MetaserverStatus {
    MetaserverStatus {
        id: ServerId(id),
        address: format!("127.0.0.1:{}", id + 1),
        votes: true,
        leads: id == 1,
        standing: answers.then(Standing::default),
    }
}

/// Of several servers, all well, with three copies of everything.
fn several(servers: u32) -> Seen {
    let mut seen = healthy();
    let report = &mut seen.report;
    for id in 2..=servers {
        let mut server = report.servers[0].clone();
        server.server = ServerId(id);
        server.host = format!("dev-{id}");
        server.disks[0].disk = DiskId(id);
        report.servers.push(server);
    }
    let (_, pool, counts) = &mut report.pools[0];
    pool.redundancy = Redundancy::Replicated {
        replicas: 3,
        min_members: 2,
    };
    counts.copies = [0; 9];
    counts.copies[3] = 64;
    seen
}

fn problems(seen: &Seen) -> Vec<String> {
    Summary::of(seen).problems
}

fn json(seen: &Seen) -> Value {
    super::json(seen).unwrap()
}

/// A server is down since so long ago.
fn fall(server: &mut ServerStatus, heard_ms_ago: u64) {
    server.heard_ms_ago = Some(heard_ms_ago);
    server.serves = Serves::Down;
    server.disks[0].serves = Serves::Down;
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
    fall(&mut report.servers[0], 60_000);
    report.servers[0].disks[0].report.failed = Some("an fsync failed".into());
    report.pools[0].2.unwritable = 64;
    report.pools[0].2.degraded = 64;
    seen.metaservers.push(metaserver(2, false));
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
fn a_rebuild_shows_what_is_left() {
    let mut seen = healthy();
    let words = |seen: &Seen| text(seen);
    assert!(!words(&seen).contains("rebuil") && !words(&seen).contains("copies up"));
    let counts = &mut seen.report.pools[0].2;
    (counts.filling, counts.rebuilding, counts.clean) = (16, 16, 48);
    counts.copies = [0; 9];
    (counts.copies[0], counts.copies[1]) = (8, 56);
    let few = "pool 1: about 1 chunk with 0 of 1 copies up, in 8 groups";
    let shown = words(&seen);
    assert!(shown.contains("no copy is on a disk that is up"), "{shown}");
    assert!(shown.contains(few), "{shown}");
    let begun = "rebuilding: 16 groups, about 3 chunks to check or copy\n";
    assert!(shown.contains(begun), "nothing is copied yet: {shown}");
    assert!(!shown.contains("at most"), "{shown}");
    seen.report.servers[0].disks[0].copies_per_second = 1 << 20;
    let copies = |seen: &mut Seen, none, one| {
        let counts = &mut seen.report.pools[0].2;
        (counts.copies[0], counts.copies[1]) = (none, one);
    };
    copies(&mut seen, 0, 64);
    // A quarter of a gibibyte.
    let shown = words(&seen);
    assert!(
        shown.contains("at 1.0M/s, at most 4 minutes more"),
        "{shown}"
    );
    copies(&mut seen, 8, 56);
    let counts = &mut seen.report.pools[0].2;
    (counts.filling, counts.rebuilding) = (0, 0);
    let shown = words(&seen);
    assert!(
        !shown.contains("rebuilding:") && shown.contains(few),
        "{shown}"
    );
}

#[test]
fn what_is_down_is_rebuilt_only_when_it_is_out() {
    let mut seen = several(5);
    let report = &mut seen.report;
    fall(&mut report.servers[4], 6_000);
    report.servers[4].disks[0].out_in_ms = Some(13_400);
    let counts = &mut report.pools[0].2;
    (counts.clean, counts.filling) = (24, 40);
    let shown = text(&seen);
    let later =
        "what is down is rebuilt elsewhere in 14 s; 40 groups write to substitutes until then";
    assert!(
        shown.contains(later) && !shown.contains("rebuilding:"),
        "{shown}"
    );
    seen.report.none_goes_out = true;
    let shown = text(&seen);
    assert!(shown.contains("more than a fifth of the disks"), "{shown}");
    assert!(!shown.contains("elsewhere in"), "{shown}");
    assert_eq!(json(&seen)["rebuild"]["held_back"], true);
}

#[test]
fn groups_are_clean_or_unclean_and_it_is_said_that_other_columns_count_them_too() {
    let mut seen = healthy();
    assert!(!text(&seen).contains("may count it too"));
    let counts = &mut seen.report.pools[0].2;
    (counts.clean, counts.filling, counts.crowded) = (40, 24, 24);
    assert!(text(&seen).contains("may count it too"));
    let pool = &json(&seen)["pools"][0];
    assert_eq!(
        pool["clean"].as_u64().unwrap() + pool["unclean"].as_u64().unwrap(),
        pool["pg_count"].as_u64().unwrap()
    );
}

#[test]
fn who_was_not_heard_by_a_new_leader_is_unknown_and_no_problem() {
    let mut seen = several(5);
    let report = &mut seen.report;
    report.leads_for_ms = 400;
    for server in &mut report.servers[1..] {
        (server.heard_ms_ago, server.serves) = (None, Serves::Unknown);
        server.disks[0].serves = Serves::Unknown;
        let report = &mut server.disks[0].report;
        (report.total, report.free, report.chunks) = (0, 0, 0);
    }
    assert_eq!(problems(&seen), Vec::<String>::new());
    let shown = text(&seen);
    for part in [
        "metaserver 1 has led for 0.4 s: 4 of 5 dataservers not heard yet",
        "health: no problems, 1 notice",
        "unknown",
        "?/1",
        "in the trash of the disks that were heard",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(
        !shown.contains("down") && !shown.contains("never"),
        "{shown}"
    );
    let json = json(&seen);
    assert_eq!(json["healthy"], false, "that is not known yet");
    assert_eq!(json["servers"][4]["state"], "unknown");
    assert_eq!(json["servers"][4]["total"], Value::Null);
    assert_eq!(json["servers"][4]["disks"][0]["state"], "unknown");
}

#[test]
fn who_is_out_is_shown_and_its_data_told_safe_only_when_it_is() {
    let mut seen = several(5);
    let gone = &mut seen.report.servers[3];
    fall(gone, 60_000);
    gone.disks[0].state = DiskState::Out;
    assert_eq!(problems(&seen), Vec::<String>::new());
    let shown = text(&seen);
    for part in [
        "health: no problems, 1 notice",
        "dataserver 4 (dev-4, 127.0.0.1:1) is out: all copies of what it held are elsewhere",
        "replace it",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let server = &json(&seen)["servers"][3];
    assert_eq!(
        (&server["state"], &server["disks"][0]["state"]),
        (&"out".into(), &"out".into())
    );
    assert!(
        json(&seen)["notices"][0]
            .as_str()
            .unwrap()
            .contains("is out")
    );
    // A leader that has not heard of it knows that it is out.
    let gone = &mut seen.report.servers[3];
    (gone.heard_ms_ago, gone.serves) = (None, Serves::Unknown);
    assert_eq!(json(&seen)["servers"][3]["state"], "out");
    let copies = &mut seen.report.pools[0].2.copies;
    (copies[2], copies[3]) = (30, 34);
    let shown = text(&seen);
    assert!(
        shown.contains("is rebuilt elsewhere") && !shown.contains("all copies"),
        "{shown}"
    );
    // One disk of a server that is up.
    let server = &mut seen.report.servers[3];
    (server.heard_ms_ago, server.serves) = (Some(300), Serves::Up);
    let disk: DiskStatus = DiskStatus {
        serves: Serves::Up,
        state: DiskState::In,
        ..server.disks[0].clone()
    };
    server.disks.push(disk);
    server.disks[0].report.failed = Some("an fsync failed".into());
    let shown = text(&seen);
    assert!(
        shown.contains("disk 4 (/d on dev-4) is out (an fsync failed)"),
        "{shown}"
    );
}

#[test]
fn a_cluster_that_lacks_copies_is_not_healthy() {
    let mut seen = several(5);
    assert_eq!(json(&seen)["healthy"], true);
    let copies = &mut seen.report.pools[0].2.copies;
    (copies[2], copies[3]) = (30, 34);
    let found = problems(&seen);
    assert_eq!(
        found,
        ["pool 1 'main': 30 of 64 groups have chunks with fewer than 3 copies up"]
    );
    assert_eq!(json(&seen)["healthy"], false);
    seen.report.pools[0].2.degraded = 30;
    let found = problems(&seen);
    assert!(
        found.len() == 1 && found[0].contains("too few disks"),
        "{found:?}"
    );
}

#[test]
fn until_when_is_not_told_while_nobody_knows() {
    let mut seen = several(5);
    seen.report.servers[0].disks[0].copies_per_second = 1 << 20;
    let counts = &mut seen.report.pools[0].2;
    (counts.rebuilding, counts.filling) = (16, 16);
    assert!(text(&seen).contains("at most"));
    seen.report.none_goes_out = true;
    assert!(!text(&seen).contains("at most"), "it is held back");
    seen.report.none_goes_out = false;
    let copies = &mut seen.report.pools[0].2.copies;
    (copies[0], copies[3]) = (1, 63);
    assert!(
        !text(&seen).contains("at most"),
        "of one there is no copy up"
    );
}

#[test]
fn a_disk_that_was_replaced_or_is_coming_back_is_not_told_to_be_repaired() {
    let mut seen = several(5);
    let server = &mut seen.report.servers[3];
    let mut old = server.disks[0].clone();
    (old.state, old.serves) = (DiskState::Out, Serves::Down);
    server.disks[0].disk = DiskId(9);
    server.disks[0].report.path = "/elsewhere".into();
    server.disks.push(old);
    let notices = |seen: &Seen| Summary::of(seen).notices;
    let told = notices(&seen);
    assert!(
        told.len() == 1 && told[0].contains("repair or replace it"),
        "{told:?}"
    );
    let returning = &mut seen.report.servers[3].disks[1];
    returning.returns_in_ms = Some(9_000);
    assert_eq!(notices(&seen), [""; 0]);
    let server = &mut seen.report.servers[3];
    server.disks[1].returns_in_ms = None;
    server.disks[1].report.path = "/elsewhere".into();
    assert_eq!(notices(&seen), [""; 0]);
    assert_eq!(json(&seen)["servers"][3]["disks"][1]["state"], "replaced");
    assert!(!text(&seen).contains("1/2"), "it is not counted");
}

#[test]
fn the_disks_of_a_server_that_does_not_answer_are_not_blamed() {
    let mut seen = several(5);
    // Reported by a client, and it did not answer the leader either.
    fall(&mut seen.report.servers[1], 1_700);
    let found = problems(&seen);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("dataserver 2 (dev-2, 127.0.0.1:1) is down, last heard 1.7 s ago"));
    assert_eq!(json(&seen)["servers"][1]["state"], "down");
    seen.report.servers[1].serves = Serves::Up;
    let found = problems(&seen);
    assert!(
        found[0].contains("is down although its server is up"),
        "{found:?}"
    );
    seen.report.servers[1].disks[0].returns_in_ms = Some(9_500);
    assert!(problems(&seen)[0].contains("in 10 s"));
}

#[test]
fn the_object_has_what_the_screen_has() {
    let mut seen = several(5);
    let invited = MetaserverStatus {
        votes: false,
        ..metaserver(4, false)
    };
    seen.metaservers.push(invited);
    let counts = &mut seen.report.pools[0].2;
    (counts.rebuilding, counts.filling) = (16, 16);
    (counts.copies[2], counts.copies[3]) = (32, 32);
    seen.report.servers[0].disks[0].copies_per_second = 1 << 20;
    let object = json(&seen);
    assert_eq!(object["metaservers"][1]["role"], "invited, does not answer");
    assert!(text(&seen).contains("metaserver 4 at 127.0.0.1:5, invited, does not answer"));
    let pool = &object["pools"][0];
    assert_eq!(pool["groups_by_copies"], json!([0, 0, 32, 32]));
    assert_eq!(pool["chunks_by_copies"], json!([0, 0, 6, 6]));
    let rebuild = Summary::of(&seen).rebuild;
    let expected = Rebuild {
        groups: 16,
        chunks: Some(3),
        bytes_per_second: 1 << 20,
        seconds_left: Some(153),
        waiting_groups: 0,
        begins_in_ms: None,
        held_back: false,
    };
    assert_eq!(rebuild, expected);
    assert_eq!(object["rebuild"]["seconds_left"], 153);
}

#[test]
fn what_waits_for_its_deletion_is_told_once() {
    let shown = text(&healthy());
    assert!(
        shown.contains("3 unreferenced chunks to be deleted"),
        "{shown}"
    );
    assert!(
        shown.contains("deleting: 2 more chunks, by the disks 5 minutes after that was decided"),
        "{shown}"
    );
}
