//! What the leader does when dataservers die, leave and come back, and the law of publishing (DESIGN §4.1, §4.2.7).

mod fake;

use fake::{Cluster, Confirms, Dataserver, POOL, introduce, receipt};
use quarry_common::Code;
use quarry_common::ids::{DiskId, FileOffset, InodeId, PgId};
use quarry_common::map::{ClusterMap, DiskState, MemberState};
use quarry_common::token::Receipt;
use quarry_common::wire::meta::{Complete, MetaBody, MetaReply, NewExtent, Op, Source};
use std::time::{Duration, Instant};

/// So long a disk is down before it is out, where a test is not about that.
const LONG: u64 = 600;

async fn cluster(dataservers: u32, out_after_seconds: u64) -> (Cluster, Vec<Dataserver>) {
    let mut cluster = Cluster::start(1, dataservers, out_after_seconds).await;
    let mut all = Vec::new();
    for server in 1..=dataservers {
        all.push(Dataserver::start(&cluster, server).await);
    }
    cluster.open_session().await;
    cluster.until("placed", |map| whole(map, 3)).await;
    (cluster, all)
}

fn whole(map: &ClusterMap, members: usize) -> bool {
    map.rows
        .get(&POOL)
        .is_some_and(|rows| rows[0].present() == members)
}

fn has(map: &ClusterMap, disk: DiskId) -> bool {
    map.rows[&POOL][0].chain().any(|member| member == disk)
}

fn commit(inode: InodeId, receipt: Receipt) -> Op {
    let extent = NewExtent {
        offset: FileOffset(0),
        len: 5,
        source: Source::Chunk {
            receipt: 0,
            chunk_offset: 0,
        },
    };
    Op::CommitExtents {
        inode,
        extents: vec![extent],
        receipts: vec![receipt],
        size: None,
        mtime: None,
    }
}

/// The members of the one group, and the disk that is none.
fn split(map: &ClusterMap, all: Vec<Dataserver>) -> (Vec<Dataserver>, Vec<Dataserver>) {
    all.into_iter().partition(|one| has(map, one.disk))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_of_former_members_counts_once_the_present_ones_have_confirmed_it() {
    let (cluster, all) = cluster(4, LONG).await;
    let chunks = [
        cluster.chunk().await,
        cluster.chunk().await,
        cluster.chunk().await,
        cluster.chunk().await,
    ];
    let file = cluster.file("f").await;
    let before = cluster.map().await;
    let (mut members, spare) = split(&before, all);
    let epoch = before.rows[&POOL][0].epoch;
    let old = |chunk| receipt(chunk, epoch, &members);
    let [good, forged, slow, gone] = chunks.map(old);
    let mut forged = forged;
    forged.macs[0].mac[0] ^= 1;

    members[0].hush();
    members[0].link.ask(MetaBody::Goodbye).await.unwrap();
    let took = cluster
        .until("replaced", |map| has(map, spare[0].disk))
        .await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    let row = cluster.row(PgId(0)).await;
    assert!(row.epoch > epoch && row.present() == 3);
    let present = [&members[1], &members[2], &spare[0]];

    cluster.mutate(commit(file, good.clone())).await.unwrap();
    for one in present {
        assert_eq!(one.asked(), [(good.chunk, row.epoch)]);
    }
    assert_eq!(members[0].asked(), [], "a former member is not asked");

    // What dataservers never said is not looked for.
    let refused = cluster.mutate(commit(file, forged)).await.unwrap_err();
    assert_eq!(refused.code, Code::BadReceipt);
    assert!(present.iter().all(|one| one.asked().is_empty()));

    // A member that can not yet: the same request later.
    spare[0].confirms(Confirms::Refuses(Code::Overloaded));
    let request = cluster.mutation(commit(file, slow.clone()));
    for _ in 0..2 {
        let refused = cluster.client.ask(request.clone()).await.unwrap_err();
        assert_eq!(refused.code, Code::Overloaded, "{refused}");
    }
    spare[0].confirms(Confirms::Signs);
    let done = cluster.client.ask(request.clone()).await.unwrap();
    assert!(matches!(done, MetaReply::Done(_)));
    assert_eq!(cluster.client.ask(request).await.unwrap(), done);

    // A member that gets it from nobody: that is the answer for ever.
    spare[0].confirms(Confirms::Refuses(Code::ChunkMissing));
    let request = cluster.mutation(commit(file, gone));
    let refused = cluster.client.ask(request.clone()).await.unwrap_err();
    assert_eq!(refused.code, Code::BadReceipt, "{refused}");
    spare[0].confirms(Confirms::Signs);
    assert_eq!(cluster.client.ask(request).await.unwrap_err(), refused);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_change_while_they_confirm_are_asked_again() {
    let (cluster, all) = cluster(5, LONG).await;
    let chunk = cluster.chunk().await;
    let file = cluster.file("f").await;
    let before = cluster.map().await;
    let (mut members, mut spare) = split(&before, all);
    let old = receipt(chunk, before.rows[&POOL][0].epoch, &members);
    members[0].hush();
    members[0].link.ask(MetaBody::Goodbye).await.unwrap();
    cluster
        .until("replaced", |map| !has(map, members[0].disk))
        .await;
    let map = cluster.map().await;
    let first = spare.iter().position(|one| has(&map, one.disk)).unwrap();
    let substitute = spare.swap_remove(first);
    // It never answers, and goes: the next one is asked.
    substitute.confirms(Confirms::Never);
    let request = cluster.mutation(commit(file, old));
    let asking = {
        let (client, request) = (cluster.client.clone(), request.clone());
        tokio::spawn(async move { client.ask(request).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut substitute = substitute;
    substitute.hush();
    substitute.link.ask(MetaBody::Goodbye).await.unwrap();
    cluster
        .until("replaced again", |map| has(map, spare[0].disk))
        .await;
    let answer = asking.await.unwrap();
    if let Err(error) = &answer {
        assert!(
            matches!(error.code, Code::Overloaded | Code::Disconnected),
            "{error}"
        );
    }
    let done = cluster.client.ask(request).await.unwrap();
    assert!(matches!(done, MetaReply::Done(_)), "{done:?}");
    let epoch = cluster.row(PgId(0)).await.epoch;
    assert_eq!(spare[0].asked().last(), Some(&(chunk, epoch)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_dataserver_is_replaced_soon_after_it_was_reported_and_a_live_one_stays() {
    let (cluster, all) = cluster(5, LONG).await;
    cluster.chunk().await;
    let map = cluster.map().await;
    let (mut members, _spare) = split(&map, all);
    // Reported without reason, and silent for a moment: it answers the leader.
    members[1].hush();
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    let suspect = |one: &Dataserver| cluster.client.ask(MetaBody::Suspect(one.server));
    suspect(&members[1]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(members[1].pings() >= 1, "the leader has asked");
    assert!(has(&cluster.map().await, members[1].disk));
    members[1].beat();

    members[2].die().await;
    suspect(&members[2]).await.unwrap();
    let dead = members[2].disk;
    let took = cluster.until("replaced", |map| !has(map, dead)).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    // One that nobody reports takes the five seconds of silence.
    members[0].die().await;
    let dead = members[0].disk;
    let took = cluster.until("replaced", |map| !has(map, dead)).await;
    assert!(
        took > Duration::from_secs(3) && took < Duration::from_secs(8),
        "{took:?}"
    );
    cluster.stop().await;
}

/// Each leader counts on from what was noted for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_down_goes_out_though_the_leader_is_another_one_by_then() {
    const OUT_AFTER: u64 = 8;
    let (cluster, mut all) = cluster(4, OUT_AFTER).await;
    let gone = all[0].disk;
    let is_out = move |map: &ClusterMap| map.topology.disks[&gone].state == DiskState::Out;
    all[0].hush();
    tokio::time::sleep(Duration::from_millis(500)).await;
    all[0].link.ask(MetaBody::Goodbye).await.unwrap();
    tokio::time::sleep(Duration::from_secs(OUT_AFTER - 2)).await;
    assert!(!is_out(&cluster.map().await));
    for one in &mut all {
        one.hush();
    }
    let cluster = cluster.restart().await;
    all[1..].iter_mut().for_each(Dataserver::beat);
    let went = cluster.until("out", is_out).await;
    // It finds out by itself that the disk is down, which takes 5 s, and knows of most of the time before.
    assert!(went < Duration::from_secs(5 + OUT_AFTER - 2), "{went:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_goes_out_comes_back_and_its_group_is_clean_after_each_report() {
    let (cluster, all) = cluster(4, 1).await;
    cluster.chunk().await;
    let map = cluster.map().await;
    let (mut members, spare) = split(&map, all);
    let gone = members[0].disk;
    let state = move |map: &ClusterMap| map.topology.disks[&gone].state;
    members[0].hush();
    members[0].link.ask(MetaBody::Goodbye).await.unwrap();
    cluster
        .until("out", |map| state(map) == DiskState::Out)
        .await;
    let row = cluster.row(PgId(0)).await;
    assert_eq!(row.holders.len(), 1);
    let report = |one: &Dataserver, epoch| {
        MetaBody::ReportComplete(vec![Complete {
            disk: one.disk,
            pool: POOL,
            pg: PgId(0),
            epoch,
        }])
    };
    // Nobody speaks for another's disk.
    let other = members[1].link.ask(report(&spare[0], row.epoch)).await;
    assert_eq!(other.unwrap_err().code, Code::WrongRole);
    let noted = spare[0]
        .link
        .ask(report(&spare[0], row.epoch))
        .await
        .unwrap();
    assert_eq!(noted, MetaReply::Noted);
    let row = cluster.row(PgId(0)).await;
    assert!(row.holders.is_empty(), "clean");
    assert!(
        row.members
            .iter()
            .flatten()
            .all(|m| m.state == MemberState::Complete)
    );

    members[0].beat();
    cluster.until("in", |map| state(map) == DiskState::In).await;
    cluster.until("back", |map| has(map, gone)).await;
    let row = cluster.row(PgId(0)).await;
    let back = row
        .members
        .iter()
        .flatten()
        .find(|m| m.disk == gone)
        .unwrap();
    assert_eq!(back.state, MemberState::Filling);
    // A client has no business there.
    let client = cluster.client.ask(report(&members[0], row.epoch)).await;
    assert_eq!(client.unwrap_err().code, Code::WrongRole);
    members[0]
        .link
        .ask(report(&members[0], row.epoch))
        .await
        .unwrap();
    assert!(cluster.row(PgId(0)).await.holders.is_empty(), "clean again");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataserver_is_let_in_where_it_is_reached_and_only_one_process_of_it() {
    let (cluster, mut all) = cluster(3, LONG).await;
    let at = all[0].address();
    let began = Instant::now();
    assert_eq!(all[0].introduce(&at).await, Ok(MetaReply::Noted));
    assert!(began.elapsed() < Duration::from_secs(2));
    // Where nobody is, and where another dataserver is.
    for address in ["127.0.0.1:1", &all[1].address()] {
        let refused = all[0].introduce(address).await.unwrap_err();
        assert_eq!(refused.code, Code::NotReached, "{refused}");
        let parts = ["metaserver 1", address, "dataserver 1", "set 'advertise'"];
        for part in parts {
            assert!(refused.text.contains(part), "{part} in {refused}");
        }
        assert_eq!(cluster.warnings().await, [refused.text]);
    }
    // Nobody answers there, and meanwhile it is not asked for a second time.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().map(|at| (at.to_string(), silent));
    let (nowhere, _socket) = silent.unwrap();
    let both = tokio::join!(all[0].introduce(&nowhere), all[0].introduce(&nowhere));
    let codes = [both.0, both.1].map(|refused| refused.unwrap_err().code);
    assert!(
        codes.contains(&Code::Overloaded) && codes.contains(&Code::NotReached),
        "{codes:?}"
    );
    assert_eq!(all[0].introduce(&at).await, Ok(MetaReply::Noted));
    assert_eq!(cluster.warnings().await, [""; 0]);

    // Its identity was copied: the second process has another address, or claims the same one.
    let (second, link) = cluster.process_of(all[0].server);
    let elsewhere = second.local_addr().unwrap().to_string();
    for address in [&elsewhere, &at] {
        let refused = introduce(&second, &link, address).await.unwrap_err();
        assert_eq!(refused.code, Code::Configuration, "{refused}");
        for part in ["dataserver 1 runs already", &at, "stop that one"] {
            assert!(refused.text.contains(part), "{part} in {refused}");
        }
        assert_eq!(cluster.warnings().await, [refused.text]);
    }
    // It was moved.
    all[0].die().await;
    let let_in = introduce(&second, &link, &elsewhere).await;
    assert_eq!(let_in, Ok(MetaReply::Noted));
    cluster.stop().await;
}
