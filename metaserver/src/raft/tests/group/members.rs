//! Members come and go.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_gets_a_snapshot_where_the_log_is_purged_and_then_votes_while_others_write() {
    let mut group = Group::of_three(|options| RaftOptions {
        kept_entries: 0,
        ..options
    })
    .await;
    let leader = group.raft(group.leader().await);
    for i in 0..200 {
        propose(&leader, &format!("f{}", i % 50)).await;
    }
    leader.snapshot().await.unwrap();
    leader.is_initialised().await.unwrap();
    assert!(
        leader.metrics().purged > Some(100),
        "{:?}",
        leader.metrics()
    );
    let rafts = group.nodes.values().map(|node| Arc::clone(&node.raft));
    let writer = Writer::start(rafts.collect(), "meanwhile");
    add(&mut group, ServerId(4)).await;
    let answered = writer.stop().await;
    assert!(!answered.is_empty(), "the group did not serve meanwhile");

    let last = answered.last().unwrap().clone();
    group.wait_for(ServerId(4), &last, 1).await;
    let kv = group.kv(ServerId(4));
    all_applied_once(kv.as_ref(), &answered);
    assert_eq!(count(kv.as_ref(), "f7"), 4);
    drop(kv);
    assert!(
        group.raft(ServerId(4)).metrics().snapshot > Some(100),
        "it came by a snapshot"
    );
    // It counts: with it two of the others are enough to lose.
    for id in ids(1..=3) {
        group
            .raft(group.leader().await)
            .read_barrier()
            .await
            .unwrap();
        if id != group.leader().await {
            group.kill(id).await;
            break;
        }
    }
    let leader = group.raft(group.leader().await);
    assert_eq!(propose(&leader, "f7").await, 5);
    // And it starts again on what it was given.
    group.kill(ServerId(4)).await;
    group.restart(ServerId(4)).await;
    group.wait_for(ServerId(4), "f7", 5).await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_replaced_one_after_the_other_under_load_the_leader_included() {
    let mut group = Group::of_three(|options| options).await;
    let mut all = Vec::new();
    for (gone, new) in [(1u32, 4u32), (2, 5), (3, 6)] {
        let (gone, new) = (ServerId(gone), ServerId(new));
        let rafts = group.nodes.values().map(|node| Arc::clone(&node.raft));
        let writer = Writer::start(
            rafts.collect(),
            ["one", "two", "three"][gone.0 as usize - 1],
        );
        add(&mut group, new).await;
        let begun = Instant::now();
        loop {
            let leader = group.raft(group.leader().await);
            match leader.remove_member(gone).await {
                Ok(()) => break,
                Err(error) => assert!(begun.elapsed() < LONG, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let rest = group.followers(gone);
        group.leader_of(&rest).await;
        all.extend(writer.stop().await);
        // Whether it led or not: it does not now, and the others do not hear it.
        assert!(!group.raft(gone).is_leader());
        let members = group.raft(group.leader_of(&rest).await).members();
        assert!(
            members.iter().all(|member| member.id != gone),
            "{members:?}"
        );
        group.kill(gone).await;
    }
    let leader = group.leader().await;
    group.raft(leader).read_barrier().await.unwrap();
    all_applied_once(group.kv(leader).as_ref(), &all);
    assert!(all.len() > 100, "only {} were answered", all.len());
    group.stop().await;
}

/// Those who are in the newest snapshot are all gone: nobody of them can say who leads, nor which terms there were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_joins_after_all_those_of_the_snapshot_were_replaced() {
    let mut group = Group::of_three(|options| RaftOptions {
        kept_entries: 0,
        ..options
    })
    .await;
    for i in 0..100 {
        propose(&group.raft(group.leader().await), &format!("f{i}")).await;
    }
    for (gone, new) in [(1, 4), (2, 5)] {
        add(&mut group, ServerId(new)).await;
        if gone == 1 {
            // The last snapshot: it names 1 to 4.
            for node in group.nodes.values() {
                node.raft.snapshot().await.unwrap();
            }
        }
        remove(&mut group, ServerId(gone)).await;
    }
    remove(&mut group, ServerId(3)).await;
    add(&mut group, ServerId(6)).await;
    remove(&mut group, ServerId(4)).await;
    remove(&mut group, ServerId(5)).await;
    // Another snapshot would name those who are there.
    add(&mut group, ServerId(7)).await;
    let raft = group.raft(group.leader().await);
    propose(&raft, "x").await;
    group.wait_for(ServerId(7), "x", 1).await;
    group.wait_for(ServerId(7), "f99", 1).await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_removed_knows_it_and_names_another_one() {
    let mut group = Group::of_three(|options| options).await;
    let removed = group.leader().await;
    let rest = group.followers(removed);
    assert_eq!(group.raft(removed).left_to(), []);
    group.raft(removed).remove_member(removed).await.unwrap();
    group.leader_of(&rest).await;
    let knows = |group: &Group| {
        let raft = group.raft(removed);
        let leader = raft.leader();
        leader.is_some_and(|other| rest.contains(&other.id) && raft.left_to().contains(&other))
    };
    let begun = Instant::now();
    while !knows(&group) {
        assert!(begun.elapsed() < LONG, "{}", group.report());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The others may not have heard yet that it is agreed on.
    let error = loop {
        match group.raft(removed).announce("there:1").await {
            Err(error) if error.code == Code::WrongRole => break error,
            other => assert!(begun.elapsed() < LONG, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(error.text.contains("was removed"), "{error}");
    // Also when it comes back.
    group.kill(removed).await;
    group.restart(removed).await;
    assert!(knows(&group), "{}", group.report());
    group.stop().await;
}

/// Between the two steps of its own removal a leader is no member of what comes: it leads all the same, and finishes that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_removal_was_interrupted_leads_and_finishes_it() {
    let group = Group::of_three(|options| options).await;
    let leaving = group.leader().await;
    let rest = group.followers(leaving);
    let raft = group.raft(leaving);
    rest.iter().for_each(|id| group.wires.cut_off(*id));
    let changed = Arc::clone(&raft);
    let step = tokio::spawn(async move {
        let ids = std::collections::BTreeSet::from([u64::from(leaving.0)]);
        let change = openraft::ChangeMembers::RemoveVoters(ids);
        changed.inner.change_membership(change, false).await
    });
    let begun = Instant::now();
    while raft.left_to().is_empty() {
        assert!(begun.elapsed() < LONG, "{}", group.report());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The second step is not made by this one.
    step.abort();
    rest.iter().for_each(|id| group.wires.mend(*id));
    while group.leader().await == leaving {
        assert!(begun.elapsed() < LONG, "{}", group.report());
        if raft.is_leader() {
            let said = raft.announce("there:1").await;
            let is_told = said
                .as_ref()
                .is_err_and(|error| error.code == Code::WrongRole);
            assert!(!is_told, "a leader is told to go: {said:?}");
            // It may cease to lead meanwhile, as it is to.
            let _ended = raft.settle().await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let left = group.raft(group.leader().await).members();
    assert!(left.iter().all(|member| member.id != leaving), "{left:?}");
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_absence_would_stop_the_group_is_not_removed() {
    let mut group = Group::of_three(|options| options).await;
    let leader = group.leader().await;
    let rest = group.followers(leader);
    group.kill(rest[0]).await;
    let raft = group.raft(leader);
    let error = raft.remove_member(rest[1]).await.unwrap_err();
    assert_eq!(error.code, Code::Busy, "{error}");
    assert!(error.text.contains("no majority"), "{error}");
    // The dead one can go.
    raft.remove_member(rest[0]).await.unwrap();
    let error = raft.remove_member(ServerId(99)).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound, "{error}");
    assert_eq!(propose(&raft, "x").await, 1);
    raft.remove_member(rest[1]).await.unwrap();
    let error = raft.remove_member(leader).await.unwrap_err();
    assert_eq!(error.code, Code::Busy, "{error}");
    assert!(error.text.contains("the last metaserver"), "{error}");
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_away_hears_a_leader_that_became_a_member_meanwhile() {
    let mut group = Group::of_three(|options| options).await;
    let away = group.followers(group.leader().await)[0];
    group.kill(away).await;
    let earlier: Vec<ServerId> = group.nodes.keys().copied().collect();
    for id in ids(4..=5) {
        add(&mut group, id).await;
    }
    // One of the new ones leads.
    for id in &earlier {
        group.raft(*id).succession.allow(false);
    }
    let old = group.leader().await;
    group.wires.cut_off(old);
    let new = group.leader_of(&group.followers(old)).await;
    assert!(!earlier.contains(&new));
    group.wires.mend(old);
    propose(&group.raft(new), "x").await;
    group.restart(away).await;
    group.wait_for(away, "x", 1).await;
    group.stop().await;
}
