//! Which metaserver is asked, and the map that it gives.

use super::*;
use quarry_client::transport::Peer;
use quarry_client::{RollCall, Says};
use quarry_common::ids::Epoch;
use quarry_common::wire::meta::Members;

#[tokio::test]
async fn a_metaserver_that_is_refused_is_left_for_another_one() {
    let fake = Fake::new(3);
    let metaservers = [(ServerId(1), "one".into()), (ServerId(2), "two".into())];
    fake.state().map.topology.metaservers = metaservers.into();
    let client = fake.client().await;
    client.mkdir(b"/before", 0o755).await.unwrap();
    fake.state().faults.meta_refused = [ServerId(1)].into();
    client.mkdir(b"/dir", 0o755).await.unwrap();
    // All are: it is said at once.
    fake.state().faults.meta_refused = [ServerId(1), ServerId(2)].into();
    let error = client.mkdir(b"/none", 0o755).await.unwrap_err();
    assert_eq!(error.code, Code::Configuration, "{error}");
    // An earlier attempt may have been carried out.
    fake.state().faults.meta_refused.clear();
    fake.state().faults.requests_lost = 2;
    let asking = client.clone();
    let request = tokio::spawn(async move { asking.mkdir(b"/unknown", 0o755).await });
    while fake.state().faults.requests_lost > 0 {
        tokio::task::yield_now().await;
    }
    fake.state().faults.meta_refused = [ServerId(1), ServerId(2)].into();
    let error = request.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::UnknownOutcome, "{error}");
}

#[tokio::test]
async fn others_at_the_addresses_of_metaservers_are_told_at_once() {
    let fake = Fake::new(3);
    fake.state().faults.meta_others = [ServerId(1)].into();
    let begun = Instant::now();
    let error = fake.try_client(Options::default()).await.err().unwrap();
    assert_eq!(error.code, Code::OtherServer, "{error}");
    assert!(
        error
            .text
            .contains("another one answers; use a client file"),
        "{error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(1));
    // Where it was reached before, it may have moved.
    fake.state().faults.meta_others.clear();
    let client = fake.client().await;
    fake.state().faults.meta_others = [ServerId(1)].into();
    let asking = client.clone();
    let request = tokio::spawn(async move { asking.stat(b"/").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!request.is_finished());
    fake.state().faults.meta_others.clear();
    request.await.unwrap().unwrap();
}

#[tokio::test]
async fn metaservers_that_answer_and_do_not_lead_are_told_apart_from_silence() {
    let fake = Fake::new(3);
    fake.state().faults.followers = [ServerId(1)].into();
    let soon = || Options {
        meta_deadline: Duration::from_millis(200),
        ..Options::default()
    };
    let error = fake.try_client(soon()).await.err().unwrap();
    assert_eq!(error.code, Code::Unreachable, "{error}");
    assert!(error.text.contains("no metaserver has led"), "{error}");
    assert!(
        error.text.contains("the only metaserver answers"),
        "{error}"
    );
    fake.state().faults.followers.clear();
    fake.state().faults.meta_cut = true;
    let error = fake.try_client(soon()).await.err().unwrap();
    assert!(error.text.contains("no metaserver answered"), "{error}");
}

#[tokio::test]
async fn each_metaserver_is_asked_by_itself() {
    let fake = Fake::new(3);
    let peers = (1..=3).map(|id| Peer {
        server: ServerId(id),
        address: format!("meta-{id}"),
    });
    let peers: Vec<Peer> = peers.collect();
    fake.state().faults.followers = [ServerId(3)].into();
    fake.state().faults.meta_refused = [ServerId(1), ServerId(2)].into();
    let called = RollCall::over(Arc::new(fake.clone()), peers.clone()).await;
    assert!(!called.has_majority(), "{called:?}");
    assert!(called.verdict().contains("1 of 3 metaservers answers"));
    assert!(called.verdict().contains("start metaserver 1 or 2"));
    fake.state().faults.meta_refused = [ServerId(1)].into();
    let called = RollCall::over(Arc::new(fake.clone()), peers).await;
    assert!(called.has_majority(), "{called:?}");
    assert!(matches!(called.0[1].says, Says::Leads), "{called:?}");
    assert!(
        matches!(called.0[2].says, Says::Follows(None)),
        "{called:?}"
    );
}

#[tokio::test]
async fn who_knows_of_the_newest_change_says_which_metaservers_there_are() {
    let fake = Fake::new(3);
    let address = |id| (ServerId(id), format!("meta-{id}"));
    let of = |at, voters: [u32; 3]| Members {
        at: Some(at),
        voters: voters.map(address).into(),
    };
    // The file names the first three. Two of them were replaced since, and the second, which still runs, was not told.
    let peers = (1..=3).map(|id| Peer {
        server: ServerId(id),
        address: format!("meta-{id}"),
    });
    let peers: Vec<Peer> = peers.collect();
    fake.state().faults.followers = [ServerId(2), ServerId(3)].into();
    fake.state().faults.meta_refused = [ServerId(1), ServerId(6), ServerId(7)].into();
    let members = [
        (ServerId(2), of(9, [1, 2, 3])),
        (ServerId(3), of(20, [3, 6, 7])),
    ];
    fake.state().faults.members = members.into();
    let called = RollCall::over(Arc::new(fake.clone()), peers.clone()).await;
    let removed = called.0.iter().filter(|asked| asked.is_removed);
    let removed: Vec<ServerId> = removed.map(|asked| asked.server).collect();
    assert_eq!(removed, [ServerId(1), ServerId(2)]);
    assert!(!called.has_majority(), "{called:?}");
    assert_eq!(
        called.verdict(),
        "1 of 3 metaservers answers, and a leader needs 2: start metaserver 6 or 7"
    );
    fake.state().faults.meta_refused = [ServerId(1), ServerId(6)].into();
    fake.state().faults.followers.insert(ServerId(7));
    let called = RollCall::over(Arc::new(fake.clone()), peers).await;
    assert!(called.has_majority(), "{called:?}");
}

#[tokio::test]
async fn what_changes_while_the_map_comes_in_pages_comes_with_the_next_one() {
    let fake = Fake::new(3);
    fake.state().faults.map_in_pages = true;
    let client = fake.client().await;
    let map = client.refresh_map().await.unwrap();
    assert_eq!(map.rows[&fake::POOL][0].epoch, Epoch(2));
    assert_eq!(map.epoch, Epoch(2));
}

/// Two metaservers, of which the first one, that leads, has fallen silent.
async fn silent_leader() -> (Fake, Client) {
    let fake = Fake::new(3);
    let second = (ServerId(2), "meta-2".into());
    fake.state().map.topology.metaservers.extend([second]);
    let client = fake.client().await;
    client.stat(b"/").await.unwrap();
    let mut state = fake.state();
    state.faults.silent = [ServerId(1)].into();
    state.asked.clear();
    drop(state);
    (fake, client)
}

#[tokio::test]
async fn a_leader_that_is_silent_is_left_soon_for_the_one_that_leads_now() {
    let (_fake, client) = silent_leader().await;
    let begun = Instant::now();
    client.stat(b"/").await.unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn one_of_many_who_wait_asks_who_leads() {
    let (fake, client) = silent_leader().await;
    fake.state().faults.followers = [ServerId(2)].into();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let client = client.clone();
        waiting.spawn(async move { client.stat(b"/").await.map(drop) });
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let asked = fake.state().asked.clone();
    let of = |server| asked.get(&ServerId(server)).copied().unwrap_or(0);
    assert!((100..110).contains(&of(1)), "{asked:?}");
    assert!((1..30).contains(&of(2)), "{asked:?}");
    // All of them hear of it.
    fake.state().faults.followers.clear();
    let begun = Instant::now();
    while let Some(answered) = waiting.join_next().await {
        answered.unwrap().unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(2));
}
