use super::*;
use quarry_common::ids::KeyNumber;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn key(disk: u32) -> Key {
    Key {
        number: KeyNumber(disk),
        secret: [disk as u8; 32],
    }
}

fn place(disk: u32, after: &[u32]) -> Place {
    Place {
        pool: PoolId(1),
        chunk: ChunkId(5),
        epoch: Epoch(3),
        disk: DiskId(disk),
        after: after.iter().copied().map(DiskId).collect(),
        capacity: 1 << 20,
    }
}

fn old_map() -> Error {
    Error::new(Code::OldMap, "the row has changed")
}

fn word(disk: u32, point: Point) -> MemberMac {
    let durable = Durable {
        pool: PoolId(1),
        chunk: ChunkId(5),
        epoch: Epoch(3),
        len: point.len,
        crc: point.crc,
    };
    durable.sign(&key(disk), DiskId(disk))
}

/// A hop that has received `len` bytes, and the point after them.
fn received(place: Place, len: u32, seal: bool) -> (Core, Point) {
    let mut core = Core::new(place);
    let crc = Crc::of(&vec![7; len as usize]);
    assert_eq!(core.handle_head(Head::Data { offset: 0, len }), []);
    assert_eq!(core.handle_data(&[crc]), [Action::Append]);
    (core, Point { len, crc, seal })
}

fn head(point: Point) -> Head {
    let Point { len, crc, seal } = point;
    match seal {
        true => Head::Seal { len, crc },
        false => Head::Flush { len, crc },
    }
}

fn ack(point: Point, macs: Vec<MemberMac>) -> WriteReply {
    WriteReply::Ack {
        len: point.len,
        crc: point.crc,
        sealed: point.seal,
        macs,
    }
}

fn failed(disk: u32, error: Error) -> Vec<Action> {
    vec![Action::Fail {
        disk: Some(DiskId(disk)),
        error,
    }]
}

#[test]
fn ack_waits_for_downstream_sync() {
    let (mut core, point) = received(place(1, &[2, 3]), 100, true);
    let own = Ok(key(1));
    assert_eq!(
        core.handle_head(head(point)),
        [Action::Forward(point), Action::Sync(point)]
    );
    assert_eq!(core.handle_durable(&own), []);
    assert_eq!((core.durable(), core.acknowledged()), (100, 0));
    let theirs = vec![word(2, point), word(3, point)];
    let macs = vec![word(1, point), word(2, point), word(3, point)];
    assert_eq!(
        core.handle_reply(ack(point, theirs), &own),
        [Action::Acknowledge { point, macs }, Action::Finish]
    );
}

#[test]
fn ack_waits_for_own_sync() {
    let (mut core, point) = received(place(1, &[2]), 100, false);
    let own = Ok(key(1));
    core.handle_head(head(point));
    let theirs = vec![word(2, point)];
    assert_eq!(core.handle_reply(ack(point, theirs), &own), []);
    assert_eq!(core.acknowledged(), 0);
    let macs = vec![word(1, point), word(2, point)];
    assert_eq!(
        core.handle_durable(&own),
        [Action::Acknowledge { point, macs }]
    );
    assert!(!core.is_over());
}

#[test]
fn the_next_members_end_after_the_seal_is_no_failure() {
    let (mut core, point) = received(place(1, &[2]), 100, true);
    let own = Ok(key(1));
    let end = || Error::new(Code::Disconnected, "it ended its stream");
    core.handle_head(head(point));
    let theirs = vec![word(2, point)];
    assert_eq!(core.handle_reply(ack(point, theirs), &own), []);
    assert_eq!(core.handle_next_lost(end()), []);
    let macs = vec![word(1, point), word(2, point)];
    assert_eq!(
        core.handle_durable(&own),
        [Action::Acknowledge { point, macs }, Action::Finish]
    );
    let (mut core, point) = received(place(1, &[2]), 100, true);
    core.handle_head(head(point));
    assert_eq!(core.handle_next_lost(end()), failed(2, end()));
}

#[test]
fn the_tail_acknowledges_by_itself() {
    let (mut core, point) = received(place(3, &[]), 100, true);
    assert_eq!(core.handle_head(head(point)), [Action::Sync(point)]);
    let macs = vec![word(3, point)];
    assert_eq!(
        core.handle_durable(&Ok(key(3))),
        [Action::Acknowledge { point, macs }, Action::Finish]
    );
}

#[test]
fn stale_epoch_seal_is_refused() {
    let (mut core, point) = received(place(1, &[2]), 100, true);
    core.handle_head(head(point));
    assert_eq!(core.handle_durable(&Err(old_map())), []);
    let reply = ack(point, vec![word(2, point)]);
    assert_eq!(
        core.handle_reply(reply, &Err(old_map())),
        failed(1, old_map())
    );
    assert_eq!(core.acknowledged(), 0);
}

#[test]
fn several_points_on_their_way_are_acknowledged_in_order() {
    let (mut core, first) = received(place(1, &[2]), 100, false);
    let own = Ok(key(1));
    core.handle_head(head(first));
    core.handle_head(Head::Data {
        offset: 100,
        len: 1,
    });
    core.handle_data(&[Crc::of(&[7])]);
    let second = Point {
        len: 101,
        crc: Crc::of(&[7; 101]),
        seal: true,
    };
    core.handle_head(head(second));
    assert_eq!(
        core.handle_reply(ack(first, vec![word(2, first)]), &own),
        []
    );
    assert_eq!(
        core.handle_reply(ack(second, vec![word(2, second)]), &own),
        []
    );
    let acknowledge = |point| Action::Acknowledge {
        point,
        macs: vec![word(1, point), word(2, point)],
    };
    assert_eq!(core.handle_durable(&own), [acknowledge(first)]);
    assert_eq!(
        core.handle_durable(&own),
        [acknowledge(second), Action::Finish]
    );
}

#[test]
fn a_point_that_is_not_what_was_received_is_refused() {
    let (mut core, point) = received(place(1, &[2]), 100, true);
    let other = Point {
        crc: Crc(1),
        ..point
    };
    let actions = core.handle_head(head(other));
    assert!(
        matches!(&actions[..], [Action::Fail { disk: Some(DiskId(1)), error }] if error.code == Code::DamagedOnTheWay)
    );
    assert_eq!(core.handle_durable(&Ok(key(1))), [], "it is over");
}

#[test]
fn frames_out_of_order_or_beyond_the_capacity_are_refused() {
    let heads = [
        Head::Data { offset: 1, len: 1 },
        Head::Data {
            offset: 0,
            len: (1 << 20) + 1,
        },
    ];
    for bad in heads {
        let mut core = Core::new(place(1, &[]));
        let actions = core.handle_head(bad);
        assert!(
            matches!(&actions[..], [Action::Fail { error, .. }] if error.code == Code::Malformed),
            "{bad:?}"
        );
    }
    let (mut core, point) = received(place(1, &[]), 9, true);
    core.handle_head(head(point));
    let actions = core.handle_head(Head::Data { offset: 9, len: 1 });
    assert!(
        matches!(&actions[..], [Action::Fail { error, .. }] if error.text.contains("after the seal"))
    );
}

#[test]
fn one_flush_more_than_the_disk_can_record_is_refused() {
    let (mut core, point) = received(place(1, &[]), 9, false);
    for _ in 0..FLUSHES_MAX {
        assert_eq!(core.handle_head(head(point)), [Action::Sync(point)]);
    }
    let actions = core.handle_head(head(point));
    assert!(
        matches!(&actions[..], [Action::Fail { error, .. }] if error.code == Code::FlushesUsedUp)
    );
}

#[test]
fn the_members_after_us_must_all_speak() {
    for macs in [vec![], vec![2], vec![3, 2], vec![2, 3, 4]] {
        let (mut core, point) = received(place(1, &[2, 3]), 100, true);
        core.handle_head(head(point));
        core.handle_durable(&Ok(key(1)));
        let macs = macs.into_iter().map(|disk| word(disk, point)).collect();
        let actions = core.handle_reply(ack(point, macs), &Ok(key(1)));
        assert!(
            matches!(&actions[..], [Action::Fail { disk: Some(DiskId(2)), error }] if error.code == Code::Malformed)
        );
    }
}

#[test]
fn a_failure_names_the_member_that_failed() {
    let error = || Error::new(Code::DiskFailed, "the disk is broken");
    let fresh = || received(place(1, &[2, 3]), 100, true).0;
    let reply = |disk| WriteReply::Failed {
        disk,
        error: error(),
    };
    let standing = Ok(key(1));
    assert_eq!(
        fresh().handle_reply(reply(Some(DiskId(3))), &standing),
        failed(3, error())
    );
    assert_eq!(
        fresh().handle_reply(reply(None), &standing),
        failed(2, error())
    );
    assert_eq!(fresh().handle_next_lost(error()), failed(2, error()));
    assert_eq!(fresh().handle_failure(error()), failed(1, error()));
}

/// A chain of three hops whose events happen in every order that a seed can think of.
struct Chain {
    hops: Vec<Core>,
    /// What is on its way to each hop.
    down: Vec<VecDeque<Head>>,
    /// Syncs that run in each hop.
    syncs: Vec<VecDeque<Point>>,
    /// Answers on their way from each hop.
    up: Vec<VecDeque<WriteReply>>,
    /// What really is on each disk.
    on_disk: Vec<u32>,
    stale: Vec<bool>,
}

impl Chain {
    fn carry_out(&mut self, hop: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Append => {}
                Action::Forward(point) => self.down[hop + 1].push_back(head(point)),
                Action::Sync(point) => self.syncs[hop].push_back(point),
                Action::Acknowledge { point, macs } => {
                    assert!(!self.stale[hop], "a hop acknowledged in an old epoch");
                    assert_eq!(macs.len(), 3 - hop);
                    for disk in hop..3 {
                        assert!(self.on_disk[disk] >= point.len, "disk {disk} lacks bytes");
                    }
                    self.up[hop].push_back(ack(point, macs));
                }
                Action::Fail { disk, error } => {
                    self.up[hop].push_back(WriteReply::Failed { disk, error });
                }
                Action::Finish => assert!(self.hops[hop].is_over()),
            }
        }
    }

    fn standing(&self, hop: usize) -> Standing {
        match self.stale[hop] {
            true => Err(old_map()),
            false => Ok(key(hop as u32 + 1)),
        }
    }

    fn step(&mut self, hop: usize, event: u32) {
        let standing = self.standing(hop);
        match event {
            0..4 => {
                let Some(head) = self.down[hop].pop_front() else {
                    return;
                };
                let mut actions = self.hops[hop].handle_head(head);
                if let (Head::Data { len, .. }, true) = (head, actions.is_empty()) {
                    let crc = Crc::of(&vec![7; len as usize]);
                    actions = self.hops[hop].handle_data(&[crc]);
                    if hop < 2 {
                        self.down[hop + 1].push_back(head);
                    }
                }
                self.carry_out(hop, actions);
            }
            4..7 => {
                let Some(point) = self.syncs[hop].pop_front() else {
                    return;
                };
                self.on_disk[hop] = point.len;
                let actions = self.hops[hop].handle_durable(&standing);
                self.carry_out(hop, actions);
            }
            7..10 if hop > 0 => {
                let Some(reply) = self.up[hop].pop_front() else {
                    return;
                };
                let before = self.standing(hop - 1);
                let actions = self.hops[hop - 1].handle_reply(reply, &before);
                self.carry_out(hop - 1, actions);
            }
            10 => self.stale[hop] = true,
            11 => {
                let error = Error::new(Code::DiskFailed, "broken");
                let actions = self.hops[hop].handle_failure(error);
                self.carry_out(hop, actions);
            }
            _ => {}
        }
    }

    fn check(&self) {
        for (at, hop) in self.hops.iter().enumerate() {
            assert!(hop.acknowledged() <= hop.durable() && hop.durable() <= hop.received());
            assert!(hop.durable() <= self.on_disk[at]);
            if let Some(next) = self.hops.get(at + 1) {
                assert!(hop.acknowledged() <= next.acknowledged());
            }
        }
    }
}

#[test]
fn nothing_is_acknowledged_that_is_not_durable_everywhere_whatever_the_order() {
    let (mut sealed, mut given_up) = (0, 0);
    for seed in 0..3_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let faults = random.random_ratio(1, 2);
        let mut frames = VecDeque::new();
        let mut len = 0u32;
        let mut crc = Crc::default();
        for _ in 0..random.random_range(1..6) {
            let more = random.random_range(1..50);
            frames.push_back(Head::Data {
                offset: len,
                len: more,
            });
            crc = crc.then(Crc::of(&vec![7; more as usize]), u64::from(more));
            len += more;
            if random.random_ratio(1, 2) {
                frames.push_back(Head::Flush { len, crc });
            }
        }
        frames.push_back(Head::Seal { len, crc });
        let mut chain = Chain {
            hops: vec![
                Core::new(place(1, &[2, 3])),
                Core::new(place(2, &[3])),
                Core::new(place(3, &[])),
            ],
            down: vec![frames, VecDeque::new(), VecDeque::new()],
            syncs: vec![VecDeque::new(); 3],
            up: vec![VecDeque::new(); 3],
            on_disk: vec![0; 3],
            stale: vec![false; 3],
        };
        for _ in 0..600 {
            let rare = faults && random.random_ratio(1, 60);
            let event = match rare {
                true => random.random_range(10..12),
                false => random.random_range(0..10),
            };
            chain.step(random.random_range(0..3), event);
            chain.check();
        }
        match chain.up[0].back() {
            Some(WriteReply::Ack { sealed: true, .. }) => sealed += 1,
            _ => {
                assert!(faults, "seed {seed}: a chain without faults did not seal");
                given_up += 1;
            }
        }
    }
    assert!(
        sealed > 1_000 && given_up > 500,
        "both ends happened: {sealed} {given_up}"
    );
}
