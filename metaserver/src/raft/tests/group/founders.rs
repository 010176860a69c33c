//! Groups begin: who founds them is restarted or asks for long, or somebody is away.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_is_restarted_before_the_others_come_still_founds_the_group() {
    let mut group = Group::new().await;
    for id in ids(1..=3) {
        group.invite(id).await;
    }
    let told_of = group.addresses.clone();
    group.start(ServerId(1), told_of.clone()).await.unwrap();
    let members: Vec<_> = told_of.clone().into_iter().collect();
    group.raft(ServerId(1)).init(&members).await.unwrap();
    group.kill(ServerId(1)).await;
    for id in ids(1..=3) {
        group.start(id, told_of.clone()).await.unwrap();
    }
    let leader = group.leader().await;
    assert_eq!(propose(&group.raft(leader), "x").await, 1);
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_asks_again_until_the_others_come() {
    let mut group = Group::new().await;
    for id in ids(1..=3) {
        group.invite(id).await;
    }
    let told_of = group.addresses.clone();
    group.start(ServerId(1), told_of.clone()).await.unwrap();
    let members: Vec<_> = told_of.clone().into_iter().collect();
    group.raft(ServerId(1)).init(&members).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for id in ids(2..=3) {
        group.start(id, told_of.clone()).await.unwrap();
    }
    assert_eq!(group.leader().await, ServerId(1));
    assert_eq!(propose(&group.raft(ServerId(1)), "x").await, 1);
    group.stop().await;
}

/// It was restarted when it led and had not agreed with others on anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_is_restarted_while_its_log_is_new_leads_and_succeeds_others_later() {
    let mut group = Group::of_three(|options| options).await;
    let founder = group.leader().await;
    assert_eq!(propose(&group.raft(founder), "x").await, 1);
    for id in group.followers(founder) {
        group.wait_for(id, "x", 1).await;
    }
    let others = group.followers(founder);
    for id in &others {
        group.kill(*id).await;
    }
    group.kill(founder).await;
    std::fs::write(group.dir(founder).join("new"), b"").unwrap();
    group.restart(founder).await;
    for id in &others {
        group.restart(*id).await;
    }
    assert_eq!(group.leader().await, founder);
    assert!(!group.raft(founder).fitness.is_new());

    group.wires.cut_off(founder);
    let next = group.leader_of(&others).await;
    assert_eq!(propose(&group.raft(next), "x").await, 2);
    group.wires.mend(founder);
    group.wait_for(founder, "x", 2).await;
    for id in &others {
        group.raft(*id).succession.allow(false);
    }
    group.wires.cut_off(next);
    assert_eq!(group.leader_of(&group.followers(next)).await, founder);
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_begins_and_grows_while_one_of_its_members_is_away() {
    let mut group = Group::new().await;
    for id in ids(1..=3) {
        group.invite(id).await;
    }
    let told_of = group.addresses.clone();
    for id in ids(1..=2) {
        group.start(id, told_of.clone()).await.unwrap();
    }
    let members: Vec<_> = told_of.into_iter().collect();
    group.raft(ServerId(1)).init(&members).await.unwrap();
    assert_eq!(propose(&group.raft(group.leader().await), "x").await, 1);
    for id in ids(1..=2) {
        group.wait_for(id, "x", 1).await;
    }
    add(&mut group, ServerId(4)).await;
    group.wait_for(ServerId(4), "x", 1).await;
    group.restart(ServerId(3)).await;
    group.wait_for(ServerId(3), "x", 1).await;
    group.stop().await;
}
