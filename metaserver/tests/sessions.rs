//! What clients may ask of the leader, and how much of it.

mod fake;

use fake::{Cluster, Link};
use quarry_common::Code;
use quarry_common::ids::{InodeId, SessionId, Version};
use quarry_common::limits::{OPEN_INODES_MAX, SESSIONS_PER_CERTIFICATE_MAX};
use quarry_common::time::Nanos;
use quarry_common::wire::meta::{MetaBody, MetaReply, Op, OpReply, Renewal};
use tokio::task::JoinSet;

async fn open(client: Link) -> quarry_common::Result<SessionId> {
    match client.ask(MetaBody::OpenSession).await? {
        MetaReply::Session { session, .. } => Ok(session),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_does_not_set_the_time_ahead() {
    let mut cluster = Cluster::start(1, 3, 600).await;
    cluster.open_session().await;
    let made = async |name: &str, seen: Version| {
        let op = Op::Create {
            parent: InodeId::ROOT,
            name: name.as_bytes().to_vec(),
            mode: 0o644,
            exclusive: true,
        };
        let request = cluster.mutation(op);
        match cluster.client.ask_having_seen(seen, request).await {
            Ok(MetaReply::Done(OpReply::Attr(attr))) => attr,
            other => panic!("{other:?}"),
        }
    };
    let half_an_hour = Nanos::now().micros() + 1_800_000_000;
    for (name, seen) in [("a", half_an_hour), ("b", u64::MAX), ("c", 0)] {
        let attr = made(name, Version(seen)).await;
        let ahead = attr.mtime.0 - Nanos::now().0;
        assert!(ahead < 1_000_000_000, "{name} is {ahead} ns ahead");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_has_so_many_sessions_at_a_time() {
    let cluster = Cluster::start(1, 3, 600).await;
    let mut asked = JoinSet::new();
    let (mut opened, mut refused) = (Vec::new(), 0);
    for _ in 0..SESSIONS_PER_CERTIFICATE_MAX + 10 {
        asked.spawn(open(cluster.client.clone()));
        while asked.len() >= 500 {
            take(asked.join_next().await, &mut opened, &mut refused);
        }
    }
    while !asked.is_empty() {
        take(asked.join_next().await, &mut opened, &mut refused);
    }
    assert_eq!((opened.len(), refused), (SESSIONS_PER_CERTIFICATE_MAX, 10));
    let close = MetaBody::CloseSession(opened[7]);
    cluster.client.ask(close).await.unwrap();
    open(cluster.client.clone()).await.unwrap();
    let error = open(cluster.client.clone()).await.unwrap_err();
    assert_eq!(error.code, Code::Overloaded, "{error}");
    cluster.stop().await;
}

fn take(
    answer: Option<Result<quarry_common::Result<SessionId>, tokio::task::JoinError>>,
    opened: &mut Vec<SessionId>,
    refused: &mut usize,
) {
    match answer.unwrap().unwrap() {
        Ok(session) => opened.push(session),
        Err(error) => {
            assert_eq!(error.code, Code::Overloaded, "{error}");
            *refused += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_so_many_inodes_open() {
    let mut cluster = Cluster::start(1, 3, 600).await;
    cluster.open_session().await;
    let renew = |count: usize| {
        cluster.client.ask(MetaBody::RenewSession(Renewal {
            session: cluster.session,
            open: (0..count as u64).map(InodeId).collect(),
            marks: Vec::new(),
            open_chunks: Vec::new(),
        }))
    };
    renew(OPEN_INODES_MAX).await.unwrap();
    let error = renew(OPEN_INODES_MAX + 1).await.unwrap_err();
    assert_eq!(error.code, Code::TooBig, "{error}");
    cluster.stop().await;
}
