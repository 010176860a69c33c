//! What the leader concludes from heartbeats, goodbyes, reports and silence.

use super::*;
use crate::controller::counts::tests::cluster;
use quarry_common::ids::OpenNumber;

const OUT_AFTER: Duration = Duration::from_secs(600);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn report(disk: u32, failed: Option<&str>) -> DiskReport {
    DiskReport {
        disk: Some(DiskId(disk)),
        path: format!("/d{disk}"),
        replaces_lost: false,
        previous_open: OpenNumber(0),
        open_number: OpenNumber(1),
        total: 100,
        free: 50,
        chunks: 0,
        failed: failed.map(str::to_owned),
        trash: 0,
        lost: 0,
        copied: 0,
    }
}

/// A leader of `servers` servers with a disk each, and its clock.
struct Leader {
    map: ClusterMap,
    health: Health,
    now: Instant,
}

impl Leader {
    fn new(servers: u32) -> Leader {
        let now = Instant::now();
        Leader {
            map: cluster(servers),
            health: Health::new(OUT_AFTER, now),
            now,
        }
    }

    /// A second passes in which these are heard.
    fn second(&mut self, heard: impl IntoIterator<Item = u32>) {
        self.now += secs(1);
        for server in heard {
            let reports = vec![report(server, None)];
            self.health
                .handle_heartbeat(&self.map, ServerId(server), reports, self.now);
        }
        self.health.advance(&self.map, self.now);
    }

    fn lives(&self) -> Vec<Life> {
        let disks = self.map.topology.disks.keys();
        disks.map(|disk| self.health.life(*disk)).collect()
    }

    fn states(&self) -> Vec<(DiskId, DiskState)> {
        self.health.states(&self.map, self.now)
    }
}

use Life::{Down, Returning, Unheard, Up};

#[test]
fn a_disk_is_up_while_its_server_is_heard_and_says_it_is_well() {
    let mut leader = Leader::new(3);
    leader.second([1]);
    assert_eq!(leader.lives(), [Up, Unheard, Unheard]);
    assert_eq!(
        leader.health.servers(&leader.map, leader.now)[0].disks[0].groups,
        16
    );
    let failed = vec![report(1, Some("fsync: EIO"))];
    leader
        .health
        .handle_heartbeat(&leader.map, ServerId(1), failed, leader.now);
    assert_eq!(leader.lives()[0], Down);
    let other = vec![report(9, None), report(3, Some("not mine to say"))];
    leader.second([1, 2]);
    leader
        .health
        .handle_heartbeat(&leader.map, ServerId(2), other, leader.now);
    leader.health.advance(&leader.map, leader.now);
    let lives = leader.lives();
    assert_eq!(lives[1], Down, "its server does not name it");
    assert_eq!(lives[2], Unheard, "another's word does not count");
}

#[test]
fn silence_counts_from_the_leaders_own_start() {
    let mut leader = Leader::new(3);
    for _ in 0..4 {
        leader.second([1]);
    }
    assert_eq!(leader.lives(), [Up, Unheard, Unheard]);
    leader.second([1, 3]);
    assert_eq!(leader.lives(), [Up, Down, Up]);
    for _ in 0..4 {
        leader.second([1]);
    }
    assert_eq!(leader.lives(), [Up, Down, Up], "4 s since 3 was heard");
    leader.second([1]);
    assert_eq!(leader.lives(), [Up, Down, Down]);
    leader.health.reset([], leader.now);
    assert_eq!(
        leader.lives(),
        [Unheard; 3],
        "a new leader has heard nobody"
    );
    leader.second([2]);
    assert_eq!(leader.lives(), [Unheard, Up, Unheard]);
}

#[test]
fn who_says_goodbye_is_down_at_once() {
    let mut leader = Leader::new(3);
    leader.second([1, 2, 3]);
    leader
        .health
        .handle_goodbye(&leader.map, ServerId(2), leader.now);
    assert_eq!(leader.lives(), [Up, Down, Up]);
    leader.second([1, 2, 3]);
    assert_eq!(leader.lives(), [Up; 3], "the first time it need not wait");
}

#[test]
fn who_is_reported_is_asked_after_a_second_and_believed_if_it_answers_or_is_heard() {
    let mut leader = Leader::new(3);
    leader.second([1, 2, 3]);
    leader.health.handle_suspect(&leader.map, ServerId(2));
    leader.health.handle_suspect(&leader.map, ServerId(99));
    assert_eq!(leader.health.due_pings(leader.now), [], "heard just now");
    leader.second([1, 3]);
    assert_eq!(leader.health.due_pings(leader.now), [ServerId(2)]);
    assert_eq!(leader.health.due_pings(leader.now), [], "it is being asked");
    let (map, now) = (leader.map.clone(), leader.now);
    leader.health.handle_ping(&map, ServerId(2), true, now);
    assert_eq!(leader.lives(), [Up; 3]);
    // Reported again, no answer: down long before 5 s.
    leader.health.handle_suspect(&leader.map, ServerId(2));
    assert_eq!(leader.health.due_pings(leader.now), [ServerId(2)]);
    leader.health.handle_ping(&map, ServerId(2), false, now);
    assert_eq!(leader.lives(), [Up, Down, Up]);
    // No answer, but a heartbeat meanwhile.
    leader.health.handle_suspect(&leader.map, ServerId(3));
    leader.second([1]);
    assert_eq!(leader.health.due_pings(leader.now), [ServerId(3)]);
    leader.second([1, 3]);
    leader
        .health
        .handle_ping(&map, ServerId(3), false, leader.now);
    assert_eq!(leader.lives(), [Up, Down, Up]);
}

/// How servers and their disks are shown.
fn shown(leader: &Leader) -> Vec<(Serves, Serves)> {
    let servers = leader.health.servers(&leader.map, leader.now);
    let shown = |server: &ServerStatus| (server.serves, server.disks[0].serves);
    servers.iter().map(shown).collect()
}

#[test]
fn who_is_not_heard_yet_is_unknown_unless_a_leader_before_found_it_down() {
    const UP: (Serves, Serves) = (Serves::Up, Serves::Up);
    const UNKNOWN: (Serves, Serves) = (Serves::Unknown, Serves::Unknown);
    const DOWN: (Serves, Serves) = (Serves::Down, Serves::Down);
    let mut leader = Leader::new(4);
    leader.health.reset([(DiskId(3), secs(90))], leader.now);
    let out = leader.map.topology.disks.get_mut(&DiskId(4)).unwrap();
    out.state = DiskState::Out;
    leader.second([1]);
    assert_eq!(shown(&leader), [UP, UNKNOWN, DOWN, DOWN]);
    let is_read = |leader: &Leader| {
        let disks = leader.map.topology.disks.iter();
        let read = disks.filter(|(id, disk)| leader.health.is_read(**id, disk));
        read.map(|(id, _)| id.0).collect::<Vec<_>>()
    };
    assert_eq!(is_read(&leader), [1, 2]);
    let out_in = |leader: &Leader| {
        let servers = leader.health.servers(&leader.map, leader.now);
        let disks = servers.iter().map(|server| server.disks[0].out_in_ms);
        disks.collect::<Vec<_>>()
    };
    assert_eq!(out_in(&leader), [None, None, Some(510_000), None]);
    for _ in 0..4 {
        leader.second([1]);
    }
    assert_eq!(shown(&leader), [UP, DOWN, DOWN, DOWN]);
    assert_eq!(is_read(&leader), [1]);
    assert_eq!(out_in(&leader), [None, Some(600_000), Some(510_000), None]);
    leader.second([1, 2, 3, 4]);
    assert_eq!(shown(&leader), [UP; 4]);
}

#[test]
fn a_server_is_down_when_it_said_goodbye_or_did_not_answer_and_not_when_only_its_disk_is() {
    let mut leader = Leader::new(3);
    leader.second([1, 2, 3]);
    let (map, now) = (leader.map.clone(), leader.now);
    leader.health.handle_goodbye(&map, ServerId(1), now);
    leader.health.handle_suspect(&map, ServerId(2));
    leader.second([3]);
    assert_eq!(leader.health.due_pings(leader.now), [ServerId(2)]);
    leader
        .health
        .handle_ping(&map, ServerId(2), false, leader.now);
    let failed = vec![report(3, Some("fsync: EIO"))];
    leader
        .health
        .handle_heartbeat(&map, ServerId(3), failed, leader.now);
    let down = (Serves::Down, Serves::Down);
    assert_eq!(shown(&leader), [down, down, (Serves::Up, Serves::Down)]);
    leader.second([1, 2, 3]);
    assert!(
        shown(&leader)
            .iter()
            .all(|(server, _)| *server == Serves::Up)
    );
}

#[test]
fn a_disk_that_flaps_waits_longer_each_time_and_is_forgiven_in_the_end() {
    let mut leader = Leader::new(3);
    let mut waits = Vec::new();
    for _ in 0..8 {
        leader.second([1, 2, 3]);
        leader
            .health
            .handle_goodbye(&leader.map, ServerId(2), leader.now);
        let mut waited = 0;
        leader.second([1, 2, 3]);
        while leader.lives()[1] != Up {
            assert_eq!(leader.lives()[1], Returning);
            leader.second([1, 2, 3]);
            waited += 1;
        }
        waits.push(waited);
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    for _ in 0..3600 {
        leader.second([1, 2, 3]);
    }
    leader
        .health
        .handle_goodbye(&leader.map, ServerId(2), leader.now);
    leader.second([1, 2, 3]);
    assert_eq!(leader.lives()[1], Up);
}

#[test]
fn who_is_down_for_long_goes_out_and_comes_back_in_when_it_is_up() {
    let mut leader = Leader::new(3);
    leader.second([1, 2, 3]);
    for _ in 0..5 {
        leader.second([1, 3]);
    }
    assert_eq!(leader.lives()[1], Down);
    for _ in 0..599 {
        leader.second([1, 3]);
        assert_eq!(leader.states(), []);
    }
    leader.second([1, 3]);
    assert_eq!(leader.states(), [(DiskId(2), DiskState::Out)]);
    let disk = leader.map.topology.disks.get_mut(&DiskId(2)).unwrap();
    disk.state = DiskState::Out;
    assert_eq!(leader.states(), []);
    leader.second([1, 2, 3]);
    assert_eq!(leader.states(), [(DiskId(2), DiskState::In)]);
}

/// What a controller does beside: it notes what is to be noted in the state, of which the next leader reads it.
fn note(leader: &mut Leader, state: &mut BTreeMap<DiskId, Duration>) -> usize {
    let notes = leader.health.notes(&leader.map, leader.now);
    for (disk, down_for) in &notes {
        match down_for {
            Some(down_for) => state.insert(*disk, *down_for),
            None => state.remove(disk),
        };
    }
    leader.health.handle_noted(&notes);
    notes.len()
}

#[test]
fn who_is_down_for_long_goes_out_though_leaders_change_more_often() {
    let mut leader = Leader::new(6);
    let mut state = BTreeMap::new();
    let (mut went, mut written) = (None, 0);
    for second in 1..=2 * OUT_AFTER.as_secs() {
        leader.second(2..=6);
        written += note(&mut leader, &mut state);
        if leader.states() == [(DiskId(1), DiskState::Out)] {
            went = Some(second);
            break;
        }
        assert_eq!(leader.states(), []);
        if second % (OUT_AFTER.as_secs() / 2) == 0 {
            leader.health.reset(state.clone(), leader.now);
        }
    }
    // Each leader forgets the time since the last note, and its own first seconds.
    let went = went.expect("it never goes out");
    assert!((OUT_AFTER.as_secs()..750).contains(&went), "after {went} s");
    assert!(written <= 20, "it was noted {written} times");
}

#[test]
fn who_is_heard_again_begins_anew() {
    let mut leader = Leader::new(6);
    let mut state = BTreeMap::new();
    for _ in 0..500 {
        leader.second(2..=6);
        note(&mut leader, &mut state);
    }
    assert!(state[&DiskId(1)] > secs(400), "{state:?}");
    // One that is out is down for as long as it likes.
    let mut out = leader.map.clone();
    out.topology.disks.get_mut(&DiskId(1)).unwrap().state = DiskState::Out;
    let later = leader.now + OUT_AFTER;
    assert_ne!(leader.health.notes(&leader.map, later), []);
    assert_eq!(leader.health.notes(&out, later), []);
    // A leader that has not heard of it knows no better.
    leader.health.reset(state.clone(), leader.now);
    assert_eq!(note(&mut leader, &mut state), 0);
    leader.second(1..=6);
    note(&mut leader, &mut state);
    assert_eq!(state, BTreeMap::new());
    for _ in 0..500 {
        leader.second(2..=6);
        note(&mut leader, &mut state);
        assert_eq!(leader.states(), []);
    }
}

/// Who is out, of ten servers, when these are silent for ever.
fn out(racks: u32, silent: &[u32]) -> Vec<u32> {
    let mut leader = Leader::new(10);
    for (id, server) in &mut leader.map.topology.servers {
        server.rack = format!("r{}", id.0 % racks);
    }
    leader.second(1..=10);
    for _ in 0..606 {
        leader.second((1..=10).filter(|server| !silent.contains(server)));
    }
    let states = leader.states();
    assert!(states.iter().all(|(_, state)| *state == DiskState::Out));
    states.iter().map(|(disk, _)| disk.0).collect()
}

#[test]
fn nobody_goes_out_by_itself_while_many_or_a_whole_rack_are_down() {
    assert_eq!(out(1, &[3]), [3]);
    assert_eq!(out(1, &[3, 4]), [3, 4], "a fifth");
    assert_eq!(out(1, &[3, 4, 5]), [0u32; 0]);
    assert_eq!(out(5, &[3]), [3]);
    assert_eq!(out(5, &[3, 8]), [0u32; 0], "a rack of two hosts");
    assert_eq!(out(5, &[3, 4]), [3, 4], "of two racks one host each");
    assert_eq!(out(10, &[3]), [3], "a host that is alone in its rack");
}

#[test]
fn one_host_may_go_out_though_it_is_a_third_of_the_disks() {
    let mut leader = Leader::new(3);
    leader.second([1, 2, 3]);
    for _ in 0..606 {
        leader.second([1, 2]);
    }
    assert_eq!(leader.states(), [(DiskId(3), DiskState::Out)]);
}

#[test]
fn how_fast_repair_copies_follows_from_the_reports() {
    let mut leader = Leader::new(3);
    let mut copied = 0;
    let rate = |leader: &Leader| {
        let servers = leader.health.servers(&leader.map, leader.now);
        servers[0].disks[0].copies_per_second
    };
    for second in 0..20 {
        leader.now += secs(1);
        copied += 1_000_000;
        let mut one = report(1, None);
        one.copied = copied;
        leader
            .health
            .handle_heartbeat(&leader.map, ServerId(1), vec![one], leader.now);
        let expected = if second == 0 { 0 } else { 1_000_000 };
        assert_eq!(rate(&leader), expected, "from the first difference on");
    }
    let steady = rate(&leader);
    assert!((990_000..=1_000_000).contains(&steady), "{steady}");
    // Its server was started again, and nothing is copied.
    leader.second([1]);
    assert!(rate(&leader) < steady);
    for _ in 0..60 {
        leader.second([1]);
    }
    assert_eq!(rate(&leader), 0, "not slowly for ever");
}
