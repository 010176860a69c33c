//! Damage: logs that are damaged, lost or left in part, and what was agreed on with their members.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_does_not_vote_and_its_member_is_replaced() {
    let mut group = Group::of_three(|options| options).await;
    let damaged = group.followers(group.leader().await)[0];
    let leader = group.leader().await;
    for i in 0..50 {
        propose(&group.raft(leader), &format!("payload {i}")).await;
    }
    group.wait_for(damaged, "payload 49", 1).await;
    group.kill(damaged).await;
    flip(&group.dir(damaged).join("log"), b"payload 20");
    let error = group
        .start(damaged, group.addresses.clone())
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::ChecksumMismatch, "{error}");
    for remedy in ["must not vote", "metaserver remove", "metaserver add"] {
        assert!(error.text.contains(remedy), "{error}");
    }
    // The others go on, and it is replaced.
    let leader = group.raft(group.leader().await);
    leader.remove_member(damaged).await.unwrap();
    add(&mut group, ServerId(4)).await;
    group.wait_for(ServerId(4), "payload 20", 1).await;
    group.stop().await;
}

/// Flips a bit after a text in some file of a directory.
fn flip(dir: &Path, text: &[u8]) {
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let Some(at) = bytes.windows(text.len()).position(|part| part == text) else {
            continue;
        };
        bytes[at + text.len() - 1] ^= 1;
        std::fs::write(path, bytes).unwrap();
        return;
    }
    panic!("nothing to damage");
}

/// What a member that lost its directory has of it.
#[derive(PartialEq)]
enum Left {
    Nothing,
    /// What somebody sent it again before it was restarted.
    Part,
}

async fn a_member_does_not_vote_what_was_agreed_with_it_away(left: Left) {
    let mut group = Group::of_three(|options| options).await;
    let leader = group.leader().await;
    let [witness, lagging] = group.followers(leader)[..] else {
        panic!("three members");
    };
    assert_eq!(propose(&group.raft(leader), "w").await, 1);
    for id in [witness, lagging] {
        group.wait_for(id, "w", 1).await;
    }
    let part = group.dir.path().join("part");
    if left == Left::Part {
        group.kill(witness).await;
        copy(&group.dir(witness), &part);
        std::fs::write(part.join("new"), b"").unwrap();
        group.restart(witness).await;
    }
    group.wires.cut_off(lagging);
    // Agreed on by the leader and the witness, once they have found each other again.
    let begun = Instant::now();
    let mut names = (0..).map(|number| format!("x{number}"));
    let agreed = loop {
        let name = names.next().unwrap();
        let raft = group.raft(leader);
        match raft.propose(Bytes::from(name.clone())).await {
            Ok(_) => break name,
            Err(error) => assert!(begun.elapsed() < LONG, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    group.kill(witness).await;
    group.kill(leader).await;
    std::fs::remove_dir_all(group.dir(witness)).unwrap();
    if left == Left::Part {
        std::fs::rename(&part, group.dir(witness)).unwrap();
    }
    let term = group.raft(lagging).metrics().term;
    group.wires.mend(lagging);
    group.restart(witness).await;
    // The two are a majority; together they would forget it.
    group.nobody_leads().await;
    let after = group.raft(lagging).metrics().term;
    assert_eq!(after, term, "it asked for votes though it was to get none");
    group.restart(leader).await;
    let leader = group.leader().await;
    assert_eq!(propose(&group.raft(leader), &agreed).await, 2);
    group.wait_for(witness, &agreed, 2).await;
    // It has caught up and counts again.
    let gone = if leader == lagging { witness } else { lagging };
    group.kill(gone).await;
    assert_eq!(propose(&group.raft(group.leader().await), &agreed).await, 3);
    group.stop().await;
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_directory_does_not_vote_what_was_agreed_with_it_away() {
    a_member_does_not_vote_what_was_agreed_with_it_away(Left::Nothing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_has_caught_up_in_part_does_not_stand_without_what_was_agreed_with_it() {
    a_member_does_not_vote_what_was_agreed_with_it_away(Left::Part).await;
}

/// How a leader sends what it has.
#[derive(PartialEq)]
enum Sends {
    Entries,
    Snapshot,
}

async fn a_member_does_not_follow_a_leader_of_the_past(sends: Sends) {
    let mut group = Group::of_three(|options| RaftOptions {
        kept_entries: 0,
        ..options
    })
    .await;
    let first = group.leader().await;
    assert_eq!(propose(&group.raft(first), "w").await, 1);
    if sends == Sends::Snapshot {
        let raft = group.raft(first);
        for number in 0..100 {
            propose(&raft, &format!("{number}")).await;
        }
        raft.snapshot().await.unwrap();
        raft.is_initialised().await.unwrap();
        assert!(raft.metrics().purged > Some(90), "{:?}", raft.metrics());
    }
    group.raft(first).read_barrier().await.unwrap();
    let last = group.raft(first).metrics().applied;
    for id in group.followers(first) {
        let begun = Instant::now();
        while group.raft(id).metrics().applied < last {
            assert!(begun.elapsed() < LONG, "{}", group.report());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    group.kill(first).await;
    let second = group.leader().await;
    let [third] = group.followers(second)[..] else {
        panic!("two members");
    };
    // Agreed on by the second and the third.
    assert_eq!(propose(&group.raft(second), "x").await, 1);
    group.kill(second).await;
    group.kill(third).await;
    std::fs::remove_dir_all(group.dir(third)).unwrap();
    // It leads at once, in a term that the third has forgotten is over.
    group.restart(first).await;
    group.restart(third).await;
    group.nobody_leads().await;
    group.restart(second).await;
    let leader = group.leader().await;
    assert_eq!(propose(&group.raft(leader), "y").await, 1);
    for id in ids(1..=3) {
        group.wait_for(id, "y", 1).await;
        for before in ["w", "x"] {
            assert_eq!(count(group.kv(id).as_ref(), before), 1, "{id} {before}");
        }
    }
    // It has caught up and counts again.
    group.kill(first).await;
    assert_eq!(propose(&group.raft(group.leader().await), "z").await, 1);
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_directory_does_not_follow_a_leader_of_the_past() {
    a_member_does_not_follow_a_leader_of_the_past(Sends::Entries).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_directory_takes_no_snapshot_of_a_leader_of_the_past() {
    a_member_does_not_follow_a_leader_of_the_past(Sends::Snapshot).await;
}

/// The first leads in the first term; the second led in the next one, which the third knows; all is killed, and the second
/// loses its directory.
async fn second_leader_lost() -> (Group, [ServerId; 3]) {
    let mut group = Group::of_three(|options| options).await;
    let first = group.leader().await;
    assert_eq!(propose(&group.raft(first), "w").await, 1);
    for id in group.followers(first) {
        group.wait_for(id, "w", 1).await;
    }
    group.kill(first).await;
    let second = group.leader().await;
    let [third] = group.followers(second)[..] else {
        panic!("two members");
    };
    assert_eq!(propose(&group.raft(second), "x").await, 1);
    group.kill(second).await;
    group.kill(third).await;
    std::fs::remove_dir_all(group.dir(second)).unwrap();
    (group, [first, second, third])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_those_say_who_lost_their_directories_too_does_not_count() {
    let (mut group, [first, second, third]) = second_leader_lost().await;
    std::fs::remove_dir_all(group.dir(third)).unwrap();
    for id in [first, second, third] {
        group.restart(id).await;
    }
    group.nobody_leads().await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_directory_believes_those_who_know_a_later_leader() {
    let (mut group, [first, second, third]) = second_leader_lost().await;
    // Else the first would know it too.
    group.wires.part(first, third);
    for id in [first, second, third] {
        group.restart(id).await;
    }
    group.nobody_leads().await;
    group.wires.mend(first);
    let leader = group.leader().await;
    assert_eq!(propose(&group.raft(leader), "x").await, 2);
    group.wait_for(second, "x", 2).await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_directory_while_somebody_leads_catches_up() {
    let mut group = Group::of_three(|options| options).await;
    let leader = group.leader().await;
    let [lost, other] = group.followers(leader)[..] else {
        panic!("three members");
    };
    for i in 0..50 {
        propose(&group.raft(leader), &format!("payload {i}")).await;
    }
    for id in [lost, other] {
        group.wait_for(id, "payload 49", 1).await;
    }
    group.kill(lost).await;
    std::fs::remove_dir_all(group.dir(lost)).unwrap();
    let term = group.raft(leader).metrics().term;
    group.restart(lost).await;
    group.wait_for(lost, "payload 49", 1).await;
    assert_eq!(count(group.kv(lost).as_ref(), "payload 20"), 1);
    let next = group.raft(group.leader().await);
    assert!(
        next.metrics().term > term,
        "no acknowledgement counts that is lost"
    );
    assert_eq!(propose(&next, "x").await, 1);
    group.wait_for(lost, "x", 1).await;
    drop(next);
    // It may succeed from now on.
    group.settle().await;
    let next = group.leader().await;
    for id in group.followers(lost) {
        group.raft(id).succession.allow(false);
    }
    group.wires.cut_off(next);
    assert_eq!(group.leader_of(&group.followers(next)).await, lost);
    group.stop().await;
}
