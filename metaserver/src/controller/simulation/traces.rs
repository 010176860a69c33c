//! The shortest traces of weaker rules that lose data, each a test of the rule that we have instead. A step that our rules do not
//! allow is refused, and the test says so.

use super::Step::*;
use super::*;
use quarry_common::map::fill::{all_before, covers};

/// All rules, one chunk, four disks, three replicas.
const BOUNDS: Bounds = Bounds {
    disks: 4,
    replicas: 3,
    min_members: 2,
    chunks: 1,
    prewritten: 0,
    fences: true,
    crashes: 2,
    losses: 2,
    cuts: 1,
};

/// Two replicas on three disks.
const TWO: Bounds = Bounds {
    disks: 3,
    replicas: 2,
    ..BOUNDS
};

/// Five disks, with a chunk from before.
const OLD: Bounds = Bounds {
    disks: 5,
    prewritten: 1,
    ..BOUNDS
};

impl Group {
    /// Does these steps, each of which can be done.
    fn all(&mut self, steps: &[Step]) {
        for step in steps {
            assert!(
                self.step(*step),
                "{step:?} after\n{}",
                self.trace.join("\n")
            );
        }
    }

    fn refused(&mut self, step: Step) {
        assert!(!self.step(step), "{step:?} was done");
    }

    fn present(&self) -> Vec<usize> {
        let mut members: Vec<usize> = self.members().into_iter().flatten().collect();
        members.sort_unstable();
        members
    }
}

/// A late report of completeness is not believed: the member has joined anew since, and what was sealed while it was away
/// is not in what it listed. (Here without the fences, which refuse its listing already.)
#[test]
fn trace_r_late() {
    let mut group = Group::new(Bounds {
        fences: false,
        ..TWO
    });
    group.all(&[
        Crash(0),
        Down(0),
        Restart(0),
        Heartbeat(0),
        Heartbeat(2),
        Up(0),
    ]);
    assert_eq!(group.present(), [0, 1]);
    group.all(&[Refresh(0), Write(0), Seal(0), Receive(0, 0), Receive(0, 1)]);
    group.all(&[Acknowledge(0, 1), Crash(1), Down(1)]);
    assert_eq!(group.present(), [0, 2]);
    // It lists with the map of its first time as a member.
    group.all(&[List(2, 0), Acknowledge(0, 0)]);
    group.all(&[Report(2)]);
    let before = group.disks[2].durable[0];
    assert_eq!(
        before, 0,
        "the list was made before the chunk was durable there"
    );
    // The receipt is of the epoch before: the law makes d2 fetch it.
    group.all(&[Commit(0), TakeReport(2)]);
    assert!(!group.is_complete(2), "a report from before it joined anew");
    group.settle();
}

/// The same when the listing itself was in time: the report still is not.
#[test]
fn trace_two_late() {
    let mut group = Group::new(TWO);
    group.all(&[
        Crash(0),
        Down(0),
        Restart(0),
        Heartbeat(0),
        Heartbeat(2),
        Up(0),
    ]);
    group.all(&[
        Refresh(0),
        Write(0),
        Seal(0),
        Receive(0, 0),
        List(2, 1),
        Report(2),
    ]);
    group.all(&[
        Receive(0, 1),
        Acknowledge(0, 1),
        Acknowledge(0, 0),
        Commit(0),
    ]);
    assert_eq!(
        group.chunks[0].committed, FULL,
        "with a receipt of the present members"
    );
    group.all(&[Crash(0), Down(0)]);
    assert_eq!(group.present(), [1, 2]);
    group.all(&[TakeReport(2)]);
    assert!(
        !group.is_complete(2),
        "it does not have what was sealed meanwhile"
    );
    group.settle();
}

/// A disk that was complete when it left is not complete when it returns.
#[test]
fn trace_r_keep() {
    let mut group = Group::new(BOUNDS);
    group.all(&[Crash(0), Down(0), Refresh(0), Write(0)]);
    assert_eq!(group.present(), [1, 2, 3]);
    for hop in 0..3 {
        group.all(&[Receive(0, hop)]);
    }
    group.all(&[
        Acknowledge(0, 2),
        Acknowledge(0, 1),
        Acknowledge(0, 0),
        Commit(0),
    ]);
    group.all(&[Restart(0), Heartbeat(0), Up(0)]);
    assert_eq!(group.present(), [0, 1, 2]);
    assert!(!group.is_complete(0));
    let row = group.row();
    let own = covers(&row, id(0));
    assert!(
        !all_before(&own, row.epoch),
        "it lacks the epoch that it was away: {own:?}"
    );
    group.settle();
}

/// Not only complete members are sources: after two losses the disk that was away is the only one that has what was there before,
/// and it is a holder of those epochs.
#[test]
fn trace_r_strict() {
    let mut group = Group::new(OLD);
    group.all(&[Crash(0), Down(0), Lose(1), Lose(2)]);
    group.settle();
}

/// Nor is it enough that the last complete ones are: d0 covers the epochs until it left, whoever was complete later.
#[test]
fn trace_r_lastsrv() {
    let mut group = Group::new(OLD);
    group.all(&[Crash(0), Down(0), Lose(1), Lose(2), Down(1), Down(2)]);
    assert_eq!(group.present(), [3, 4], "neither has anything");
    let written = group.chunks[0].row.epoch;
    assert!(all_before(&covers(&group.row(), id(0)), written.next()));
    group.settle();
}

/// Members that have nothing do not agree among themselves that there is nothing: together they cover no epoch before they joined.
#[test]
fn trace_r_vacuous() {
    let mut group = Group::new(OLD);
    group.all(&[Crash(0), Down(0), Lose(1), Down(1), Lose(2)]);
    assert_eq!(group.present(), [2, 3, 4]);
    group.all(&[Heartbeat(3), Heartbeat(4), List(3, 4)]);
    group.refused(Report(3));
    // And the last complete member is gone for good: d0 alone can tell.
    group.refused(List(3, 0));
    group.all(&[Restart(0), Heartbeat(0), List(3, 0)]);
    group.refused(Report(3));
    group.all(&[Fetch(3, 0), Report(3), TakeReport(3)]);
    assert!(group.is_complete(3));
    group.settle();
}

/// A leaver's licence ends with the epoch for which it was given, and there is none while the disks that should be members are
/// only down: the group is not clean.
#[test]
fn trace_r_leaver() {
    let mut group = Group::new(Bounds {
        prewritten: 1,
        ..BOUNDS
    });
    group.all(&[Crash(0), Down(0), Restart(0), Crash(3), Down(3)]);
    assert_eq!(group.present(), [1, 2]);
    assert!(!group.is_clean(), "d0 is remembered as a holder");
    group.all(&[Out(0), Out(3)]);
    assert!(group.is_clean());
    group.all(&[Heartbeat(0)]);
    assert!(group.disks[0].licence.is_some());
    group.all(&[Up(0)]);
    assert_eq!(group.present(), [0, 1, 2]);
    group.all(&[Heartbeat(0)]);
    group.refused(Delete(0));
    group.all(&[List(0, 1), Report(0), TakeReport(0)]);
    assert!(group.is_complete(0));
    group.refused(Delete(0));
    group.settle();
}

/// Without any fence a member that was cut off acknowledges with its old map after the newcomer has listed. The law of publishing has
/// every present member confirm the chunk before it is committed; one that can not get it keeps it from being committed.
#[test]
fn trace_confirm() {
    let mut group = Group::new(Bounds {
        fences: false,
        ..BOUNDS
    });
    group.all(&[Write(0), Receive(0, 0), Receive(0, 1), Receive(0, 2)]);
    group.all(&[
        Acknowledge(0, 2),
        Acknowledge(0, 1),
        Cut(0),
        Down(0),
        Heartbeat(3),
    ]);
    assert_eq!(group.present(), [1, 2, 3]);
    group.all(&[List(3, 1), Fetch(3, 0), List(3, 2)]);
    // What it fetched from d1 and d2 is there; take the list of one that had nothing yet instead.
    group.disks[3].durable[0] = 0;
    group.disks[3].listing.as_mut().unwrap().need[0] = 0;
    group.all(&[Acknowledge(0, 0), Report(3)]);
    // d1, d2 and d0 do not answer: nobody can confirm, nothing is committed.
    group.all(&[Crash(1), Crash(2)]);
    group.refused(Commit(0));
    assert_eq!(group.chunks[0].committed, 0);
    group.all(&[Restart(1), Restart(2), Commit(0)]);
    assert_eq!(group.disks[3].durable[0], 1, "d3 fetched it");
    group.all(&[TakeReport(3)]);
    assert!(group.is_complete(3));
    group.settle();
}

/// The same with two replicas, where the old member is the newcomer's only source of what it lacks.
#[test]
fn trace_two_confirm() {
    let mut group = Group::new(Bounds {
        fences: false,
        ..TWO
    });
    group.all(&[
        Write(0),
        Seal(0),
        Receive(0, 0),
        Cut(0),
        Down(0),
        Heartbeat(2),
    ]);
    assert_eq!(group.present(), [1, 2]);
    group.all(&[List(2, 1), Report(2)]);
    // d1 has a map from before and takes the write all the same.
    group.all(&[Receive(0, 1), Acknowledge(0, 1), Acknowledge(0, 0)]);
    group.all(&[Commit(0)]);
    assert_eq!(
        group.disks[2].durable[0], FULL,
        "confirmed before it was committed"
    );
    group.all(&[TakeReport(2)]);
    assert!(group.is_complete(2));
    group.settle();
}
