//! Promises of a group of several: over real connections, in one process.

use super::super::network::Network;
use super::super::transfer;
use super::super::types::{NodeId, SnapshotMeta, Types, node_id};
use super::super::wire::{RaftCall, RaftReply, RaftRequest};
use super::wires::Wires;
use super::*;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::{CommittedLeaderId, Vote};
use quarry_common::codec;
use quarry_common::identity::{Authority, PeerName, SERVER_VALID};
use quarry_common::ids::ClusterId;
use quarry_common::net::{Endpoint, Peers, StreamType};
use quarry_common::task::Stop;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

/// Long enough for anything on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// A failover takes less (DESIGN §8).
const FAILOVER: Duration = Duration::from_secs(3);

/// A running member.
struct Node {
    raft: Arc<Raft>,
    kv: Arc<dyn Kv>,
    endpoint: Endpoint,
    stop: Stop,
}

struct Group {
    dir: tempfile::TempDir,
    authority: Authority,
    wires: Wires,
    addresses: BTreeMap<ServerId, String>,
    nodes: BTreeMap<ServerId, Node>,
    /// What differs from the usual options.
    with: fn(RaftOptions) -> RaftOptions,
}

fn ids(range: std::ops::RangeInclusive<u32>) -> impl Iterator<Item = ServerId> {
    range.map(ServerId)
}

impl Group {
    async fn new() -> Group {
        Group {
            dir: tempfile::tempdir().unwrap(),
            authority: Authority::create(ClusterId([7; 16]), SystemTime::now()).unwrap(),
            wires: Wires::default(),
            addresses: BTreeMap::new(),
            nodes: BTreeMap::new(),
            with: |options| options,
        }
    }

    /// Members 1 to 3, of which one leads.
    async fn of_three(with: fn(RaftOptions) -> RaftOptions) -> Group {
        Group::of(3, with).await
    }

    /// So many members, of which one leads.
    async fn of(count: u32, with: fn(RaftOptions) -> RaftOptions) -> Group {
        let mut group = Group {
            with,
            ..Group::new().await
        };
        for id in ids(1..=count) {
            group.invite(id).await;
        }
        let told_of = group.addresses.clone();
        for id in ids(1..=count) {
            group.start(id, told_of.clone()).await.unwrap();
        }
        let members: Vec<_> = told_of.into_iter().collect();
        group.raft(ServerId(1)).init(&members).await.unwrap();
        group.leader().await;
        group
    }

    /// Gives a member an address.
    async fn invite(&mut self, id: ServerId) -> String {
        let address = self.wires.relay(id).await;
        self.addresses.insert(id, address.clone());
        address
    }

    fn dir(&self, id: ServerId) -> std::path::PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn endpoint(&self, name: &PeerName) -> Endpoint {
        let identity = self.authority.issue(name, SERVER_VALID, SystemTime::now());
        let listen = "127.0.0.1:0".parse().unwrap();
        Endpoint::server(Arc::new(identity.unwrap()), listen, |_, _| true).unwrap()
    }

    fn name(&self, id: ServerId) -> PeerName {
        PeerName::metaserver(self.authority.cluster(), id)
    }

    /// Starts a member on what its directory holds.
    async fn start(&mut self, id: ServerId, told_of: BTreeMap<ServerId, String>) -> Result<()> {
        let endpoint = self.endpoint(&self.name(id));
        self.wires.set(id, endpoint.local_addr().unwrap());
        let dir = self.dir(id);
        let kv = rocks(&dir.join("state"));
        let options = (self.with)(RaftOptions {
            server: id,
            network: Network::over(endpoint.clone()),
            told_of,
            ..options(&dir)
        });
        let apply = Arc::new(Counting::default());
        let raft = Arc::new(Raft::start(options, Arc::clone(&kv), apply).await?);
        let stop = Stop::new();
        stop.spawn_cancellable(
            "accept",
            accept(Arc::clone(&raft), endpoint.clone(), stop.clone()),
        );
        let node = Node {
            raft,
            kv,
            endpoint,
            stop,
        };
        self.nodes.insert(id, node);
        Ok(())
    }

    async fn restart(&mut self, id: ServerId) {
        self.start(id, self.addresses.clone()).await.unwrap();
    }

    /// Ends a member. What it says on its way out is not heard: as after a kill.
    async fn kill(&mut self, id: ServerId) {
        self.wires.cut_off(id);
        let node = self.nodes.remove(&id).unwrap();
        node.stop.stop().await;
        node.endpoint.close("killed").await;
        node.raft.stop().await.unwrap();
        self.wires.mend(id);
    }

    fn raft(&self, id: ServerId) -> Arc<Raft> {
        Arc::clone(&self.nodes[&id].raft)
    }

    fn kv(&self, id: ServerId) -> Arc<dyn Kv> {
        Arc::clone(&self.nodes[&id].kv)
    }

    /// Who leads of those that run, once somebody does.
    async fn leader(&self) -> ServerId {
        self.leader_of(&self.nodes.keys().copied().collect::<Vec<_>>())
            .await
    }

    /// Who of these leads, as a barrier shows.
    async fn leader_of(&self, ids: &[ServerId]) -> ServerId {
        let begun = Instant::now();
        loop {
            for id in ids {
                let raft = self.raft(*id);
                if raft.is_leader() && raft.read_barrier().await.is_ok() {
                    return *id;
                }
            }
            assert!(begun.elapsed() < LONG, "nobody leads: {}", self.report());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn followers(&self, leader: ServerId) -> Vec<ServerId> {
        let others = self.nodes.keys().copied();
        others.filter(|id| *id != leader).collect()
    }

    fn report(&self) -> String {
        let metrics = self
            .nodes
            .iter()
            .map(|(id, node)| (id, node.raft.metrics()));
        format!("{:#?}", metrics.collect::<Vec<_>>())
    }

    /// Waits until a member's state has a command so often.
    async fn wait_for(&self, id: ServerId, command: &str, times: u32) {
        let begun = Instant::now();
        let kv = self.kv(id);
        while count(kv.as_ref(), command) != times {
            assert!(begun.elapsed() < LONG, "{command}: {}", self.report());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until nobody's log is new any more: then all vote, and are heard to have forgotten what they forget.
    async fn settle(&self) {
        let begun = Instant::now();
        while self.nodes.values().any(|node| node.raft.fitness.is_new()) {
            assert!(begun.elapsed() < LONG, "{}", self.report());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Fails if one of those that run comes to lead within some seconds.
    async fn nobody_leads(&self) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            let leads = self.nodes.iter().find(|(_, node)| node.raft.is_leader());
            assert!(leads.is_none(), "{:?} leads", leads.map(|(id, _)| id));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        for (_, node) in self.nodes {
            node.stop.stop().await;
            node.endpoint.close("stopped").await;
            node.raft.stop().await.unwrap();
        }
    }
}

async fn accept(raft: Arc<Raft>, endpoint: Endpoint, stop: Stop) {
    while let Some(connection) = endpoint.accept().await {
        let (raft, streams) = (Arc::clone(&raft), stop.clone());
        stop.spawn_cancellable("connection", async move {
            while let Ok((kind, send, recv)) = connection.accept().await {
                let (raft, peer) = (Arc::clone(&raft), connection.peer().clone());
                streams.spawn_cancellable("stream", async move {
                    let _refused = match kind {
                        StreamType::RaftSnapshot => raft.serve_snapshot(&peer, send, recv).await,
                        _ => raft.serve(&peer, send, recv).await,
                    };
                });
            }
        });
    }
}

/// Commands that are proposed one after the other, to whoever leads, until it is stopped; each goes in only once.
struct Writer {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Writer {
    fn start(rafts: Vec<Arc<Raft>>, name: &'static str) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut answered = Vec::new();
            for number in 0.. {
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                let command = format!("{name}-{number}");
                let leader = rafts.iter().find(|raft| raft.is_leader());
                let Some(leader) = leader else {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                };
                let bytes = Bytes::copy_from_slice(command.as_bytes());
                if let Ok(Ok(_)) =
                    tokio::time::timeout(Duration::from_secs(5), leader.propose(bytes)).await
                {
                    answered.push(command);
                }
            }
            answered
        });
        Writer { stop, task }
    }

    /// What was answered.
    async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Release);
        self.task.await.unwrap()
    }
}

fn all_applied_once(kv: &dyn KvRead, commands: &[String]) {
    for command in commands {
        assert_eq!(count(kv, command), 1, "{command} was answered");
    }
}

// --- leaders die ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaders_death_is_overcome_within_three_seconds_and_loses_nothing_that_was_answered() {
    let mut group = Group::of_three(|options| options).await;
    let (mut answered, mut failovers) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let leader = group.leader().await;
        let rafts = group.nodes.values().map(|node| Arc::clone(&node.raft));
        let writer = Writer::start(rafts.collect(), ["a", "b", "c", "d"][round]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        // It dies while it writes.
        group.wires.cut_off(leader);
        let died = Instant::now();
        let rest = group.followers(leader);
        let next = group.leader_of(&rest).await;
        failovers.push(died.elapsed());
        assert_eq!(
            propose(&group.raft(next), &format!("after-{round}")).await,
            1
        );
        answered.extend(writer.stop().await);
        answered.push(format!("after-{round}"));
        group.raft(next).read_barrier().await.unwrap();
        all_applied_once(group.kv(next).as_ref(), &answered);
        group.kill(leader).await;
        group.restart(leader).await;
        // The one that came back has everything too.
        group.wait_for(leader, &format!("after-{round}"), 1).await;
        all_applied_once(group.kv(leader).as_ref(), &answered);
    }
    assert!(answered.len() > 40, "only {} were answered", answered.len());
    // One may meet a machine that does something else.
    failovers.sort();
    assert!(failovers[2] < FAILOVER, "failovers took {failovers:?}");
    group.stop().await;
}

/// By its silence alone nobody asks for votes within 700 ms of the leader's last word, which came up to 100 ms before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_machine_says_that_it_does_not_run_is_followed_sooner() {
    let mut failovers = Vec::new();
    for _ in 0..4 {
        let mut group = Group::of_three(|options| options).await;
        let leader = group.leader().await;
        assert_eq!(propose(&group.raft(leader), "x").await, 1);
        // Who has not caught up since the beginning does not vote.
        for id in group.followers(leader) {
            group.wait_for(id, "x", 1).await;
        }
        group.wires.cut_off(leader);
        group.wires.close(leader);
        let died = Instant::now();
        let next = group.leader_of(&group.followers(leader)).await;
        failovers.push(died.elapsed());
        assert_eq!(propose(&group.raft(next), "x").await, 2);
        group.kill(leader).await;
        group.stop().await;
    }
    // The others may meet a machine that does something else.
    let least = failovers.into_iter().min().unwrap();
    assert!(least < Duration::from_millis(600), "{least:?}");
}

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
async fn the_one_with_the_longer_log_succeeds() {
    let mut group = Group::of_three(|options| options).await;
    let leader = group.leader().await;
    let [ahead, behind] = group.followers(leader)[..] else {
        panic!("three members");
    };
    group.wires.cut_off(behind);
    assert_eq!(propose(&group.raft(leader), "x").await, 1);
    group.kill(leader).await;
    group.wires.mend(behind);
    assert_eq!(group.leader().await, ahead);
    assert_eq!(propose(&group.raft(ahead), "x").await, 2);
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_cut_off_and_comes_back_deposes_nobody() {
    let group = Group::of_three(|options| options).await;
    let leader = group.leader().await;
    let away = group.followers(leader)[0];
    let term = group.raft(leader).metrics().term;
    group.wires.cut_off(away);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(group.raft(away).metrics().term, term, "it asked for votes");
    group.wires.mend(away);
    propose(&group.raft(leader), "x").await;
    group.wait_for(away, "x", 1).await;
    assert_eq!(group.raft(leader).metrics().term, term);
    assert!(group.raft(leader).is_leader());
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_hears_a_leader_or_has_the_longer_log_would_vote_for_nobody() {
    let group = Group::of_three(|options| options).await;
    let leader = group.leader().await;
    let [asked, asks] = group.followers(leader)[..] else {
        panic!("three members");
    };
    assert_eq!(propose(&group.raft(leader), "x").await, 1);
    group.wait_for(asked, "x", 1).await;
    group.settle().await;
    let forger = Forger::new(&group, &group.name(asks));
    let end = group.raft(leader).succession.end.get();
    let would_vote = async |to, end, gone| {
        let call = RaftCall::WouldVote { end, gone };
        match forger.call(&group, to, call).await {
            Ok(RaftReply::WouldVote(would_vote)) => would_vote,
            other => panic!("{other:?}"),
        }
    };
    // Else nobody is voted for since an election runs.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!would_vote(asked, end, None).await);
    assert!(!would_vote(asked, end, Some(node_id(leader))).await);
    assert!(!would_vote(leader, end, None).await);
    for id in [asked, asks] {
        group.raft(id).succession.allow(false);
    }
    group.wires.cut_off(leader);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(would_vote(asked, end, None).await);
    assert!(!would_vote(asked, None, None).await, "its log is shorter");
    assert!(!would_vote(leader, end, None).await);
    // A leader of the past is not heard.
    let term = group.raft(asked).metrics().term;
    let past = AppendEntriesRequest {
        vote: Vote::new_committed(term - 1, node_id(asks)),
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    let answer = forger.call(&group, asked, RaftCall::Append(past)).await;
    let Ok(RaftReply::Append(AppendEntriesResponse::HigherVote(_))) = answer else {
        panic!("{answer:?}");
    };
    assert!(would_vote(asked, end, None).await);
    // Who has just voted waits for what comes of it.
    let vote = VoteRequest::new(Vote::new(term + 1, node_id(asks)), end);
    let answer = forger.call(&group, asked, RaftCall::Vote(vote)).await;
    let Ok(RaftReply::Vote(VoteResponse {
        vote_granted: true, ..
    })) = answer
    else {
        panic!("{answer:?}");
    };
    assert!(!would_vote(asked, end, None).await);
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_answers_no_read_and_confirms_no_command() {
    let group = Group::of_three(|options| options).await;
    let old = group.leader().await;
    let cut_off = group.raft(old);
    assert_eq!(propose(&cut_off, "x").await, 1);
    group.wires.cut_off(old);
    let asked = {
        let raft = Arc::clone(&cut_off);
        tokio::spawn(async move { raft.propose(Bytes::from("lost")).await })
    };
    // Whatever it believes of itself, it answers nothing; also once others go on.
    let rest = group.followers(old);
    let next = {
        let next = async {
            let next = group.leader_of(&rest).await;
            assert_eq!(propose(&group.raft(next), "x").await, 2);
            next
        };
        tokio::pin!(next);
        loop {
            tokio::select! {
                next = &mut next => break next,
                read = cut_off.read_barrier() => {
                    let error = read.expect_err("a read was answered");
                    assert!([Code::Unreachable, Code::NotLeader].contains(&error.code), "{error}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    };
    assert!(cut_off.read_barrier().await.is_err());
    assert_eq!(
        count(group.kv(old).as_ref(), "x"),
        1,
        "it knows nothing of it"
    );
    assert!(!cut_off.is_leader(), "it has noticed");
    assert!(cut_off.leader().is_none());
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::Disconnected, "{error}");

    group.wires.mend(old);
    group.wait_for(old, "x", 2).await;
    let error = cut_off.propose(Bytes::from("x")).await.unwrap_err();
    assert_eq!(error.code, Code::NotLeader, "{error}");
    assert_eq!(
        quarry_common::wire::meta::leader_named(&error).map(|(id, _)| id),
        Some(next)
    );
    assert_eq!(count(group.kv(next).as_ref(), "lost"), 0);
    group.stop().await;
}

/// What it says arrives, and keeps the others from standing: they must not hear it for as long as its connections live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hears_nobody_is_replaced_as_soon_as_one_that_died() {
    let group = Group::of_three(|options| options).await;
    let old = group.leader().await;
    assert_eq!(propose(&group.raft(old), "x").await, 1);
    group.wires.deafen(old);
    let begun = Instant::now();
    let next = group.leader_of(&group.followers(old)).await;
    let took = begun.elapsed();
    assert!(took < FAILOVER * 2, "another one leads after {took:?}");
    assert_eq!(propose(&group.raft(next), "x").await, 2);
    group.wires.mend(old);
    group.wait_for(old, "x", 2).await;
    group.stop().await;
}

/// Who hears it would not vote it out, and the others are too few to do so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_reaches_one_of_five_is_replaced_while_another_one_is_down() {
    let mut group = Group::of(5, |options| options).await;
    group.settle().await;
    let leader = group.leader().await;
    let others = group.followers(leader);
    let (hears, apart, down) = (others[0], [others[1], others[2]], others[3]);
    group.kill(down).await;
    for other in apart {
        group.wires.part(leader, other);
    }
    let rest = [hears, apart[0], apart[1]];
    let cut = Instant::now();
    let next = tokio::time::timeout(Duration::from_secs(10), group.leader_of(&rest)).await;
    let next = next.unwrap_or_else(|_| panic!("nobody else leads: {}", group.report()));
    println!(
        "{next} leads {:?} after {leader} was cut off",
        cut.elapsed()
    );
    assert_eq!(propose(&group.raft(next), "after").await, 1);
    // It follows when it reaches all again, with everything that was agreed on.
    group.wires.mend(leader);
    group.wait_for(leader, "after", 1).await;
    group.stop().await;
}

// --- members come and go ---

/// Adds a member and waits until it votes.
async fn add(group: &mut Group, id: ServerId) {
    let told_of = group.addresses.clone();
    let address = group.invite(id).await;
    let leader = group.leader().await;
    group.raft(leader).add_member(id, address).await.unwrap();
    group.start(id, told_of).await.unwrap();
    let begun = Instant::now();
    loop {
        let leader = group.raft(group.leader().await);
        if leader
            .members()
            .iter()
            .any(|member| member.id == id && member.votes)
        {
            return;
        }
        // A change may be under way, or its leader be gone.
        let _later = leader.settle_members().await;
        assert!(
            begun.elapsed() < LONG,
            "{id} does not vote: {}",
            group.report()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

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

// --- damage ---

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
    group.settle().await;
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
    group.settle().await;
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
    group.settle().await;
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

// --- forgeries ---

/// Somebody with a certificate of this cluster.
struct Forger {
    peers: Peers,
}

impl Forger {
    fn new(group: &Group, name: &PeerName) -> Forger {
        let endpoint = group.endpoint(name);
        Forger {
            peers: Peers::with_stream(endpoint, StreamType::Raft),
        }
    }

    async fn call(&self, group: &Group, to: ServerId, call: RaftCall) -> Result<RaftReply> {
        let at = group.nodes[&to].endpoint.local_addr().unwrap();
        let peer = self.peers.get(&group.name(to), at).await?;
        let request = codec::encode(&RaftRequest {
            shard: ShardId::FIRST,
            call,
        });
        let answer = peer.requests.call(request.into(), LONG).await?;
        codec::decode::<Result<RaftReply>>("an answer", &answer)?
    }

    async fn snapshot(
        &self,
        group: &Group,
        to: ServerId,
        vote: Vote<NodeId>,
        snapshot: &openraft::Snapshot<Types>,
    ) -> Result<Vote<NodeId>> {
        let at = group.nodes[&to].endpoint.local_addr().unwrap();
        let peer = self.peers.get(&group.name(to), at).await?;
        let streams = peer.connection.open(StreamType::RaftSnapshot).await?;
        transfer::send(streams, ShardId::FIRST, vote, snapshot).await
    }
}

fn asks_for_vote(term: u64, candidate: ServerId) -> RaftCall {
    let last = openraft::LogId::new(CommittedLeaderId::new(term - 1, 1), 1_000_000);
    RaftCall::Vote(VoteRequest::new(
        Vote::new(term, node_id(candidate)),
        Some(last),
    ))
}

fn appends(term: u64, leader: ServerId, prev: Option<(u64, u64)>, index: u64) -> RaftCall {
    let id = |term, index| openraft::LogId::new(CommittedLeaderId::new(term, 1), index);
    RaftCall::Append(AppendEntriesRequest {
        vote: Vote::new_committed(term, node_id(leader)),
        prev_log_id: prev.map(|(term, index)| id(term, index)),
        entries: vec![openraft::Entry {
            log_id: id(1, index),
            payload: openraft::EntryPayload::Blank,
        }],
        leader_commit: None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_the_removed_and_forgeries_are_refused_and_change_nothing() {
    let mut group = Group::of_three(|options| options).await;
    add(&mut group, ServerId(4)).await;
    let begun = Instant::now();
    while let Err(error) = group
        .raft(group.leader().await)
        .remove_member(ServerId(4))
        .await
    {
        assert!(begun.elapsed() < LONG, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rest: Vec<ServerId> = ids(1..=3).collect();
    let leader = group.leader_of(&rest).await;
    assert_eq!(propose(&group.raft(leader), "x").await, 1);
    let target = *rest.iter().find(|id| **id != leader).unwrap();
    group.wait_for(target, "x", 1).await;
    let term = group.raft(target).metrics().term;

    let cluster = group.authority.cluster();
    // Dataservers and users have no business here; their stream is closed.
    for name in [
        PeerName::dataserver(cluster, ServerId(1)),
        PeerName::user(cluster, "eve").unwrap(),
    ] {
        let forger = Forger::new(&group, &name);
        let refused = forger.call(&group, target, RaftCall::Members).await;
        assert_eq!(refused.unwrap_err().code, Code::Disconnected, "{name}");
    }
    // The removed one, and one that never was a member.
    for outsider in [ServerId(4), ServerId(9)] {
        let forger = Forger::new(&group, &group.name(outsider));
        for call in [
            asks_for_vote(term + 5, outsider),
            appends(term + 5, outsider, None, 0),
            RaftCall::Standing,
            RaftCall::WouldVote {
                end: None,
                gone: None,
            },
            RaftCall::Moved("127.0.0.1:9".into()),
        ] {
            let error = forger.call(&group, target, call).await.unwrap_err();
            assert_eq!(error.code, Code::WrongRole, "{error}");
        }
    }
    // A member that breaks the rules.
    let other = *rest
        .iter()
        .find(|id| **id != leader && **id != target)
        .unwrap();
    let forger = Forger::new(&group, &group.name(other));
    for call in [
        asks_for_vote(u64::MAX, other),
        asks_for_vote(term + 5, leader),
        appends(u64::MAX, other, None, 0),
        appends(term + 5, leader, None, 0),
        // A gap.
        appends(term + 5, other, None, 7),
        appends(term + 5, other, Some((1, 100)), 200),
    ] {
        let error = forger.call(&group, target, call).await.unwrap_err();
        assert_eq!(error.code, Code::Malformed, "{error}");
    }
    assert_eq!(group.raft(target).metrics().term, term);
    assert_eq!(
        propose(&group.raft(group.leader_of(&rest).await), "x").await,
        2
    );
    group.wait_for(target, "x", 2).await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_snapshot_is_refused_and_harms_nothing() {
    use openraft::RaftSnapshotBuilder;
    let group = Group::of_three(|options| options).await;
    let leader = group.leader().await;
    for _ in 0..20 {
        propose(&group.raft(leader), "x").await;
    }
    let [target, other] = group.followers(leader)[..] else {
        panic!("three members");
    };
    group.wait_for(target, "x", 20).await;
    let good = group
        .raft(leader)
        .machine()
        .unwrap()
        .build_snapshot()
        .await
        .unwrap();
    let forger = Forger::new(&group, &group.name(other));
    let term = group.raft(target).metrics().term;
    let vote = Vote::new_committed(term + 1, node_id(other));
    let ahead = |meta: &SnapshotMeta| {
        let mut meta = meta.clone();
        let last = meta.last_log_id.unwrap();
        meta.last_log_id = Some(openraft::LogId::new(last.leader_id, last.index + 1_000));
        meta
    };
    // A state that is not what is said of it.
    let false_meta = openraft::Snapshot {
        meta: ahead(&good.meta),
        snapshot: good.snapshot.clone(),
    };
    // Files that are no state, whose checksums are right.
    let spoilt = group.raft(other).machine().unwrap().receive().unwrap();
    for file in std::fs::read_dir(good.snapshot.copy_dir()).unwrap() {
        let file = file.unwrap();
        let mut bytes = std::fs::read(file.path()).unwrap();
        if file.path().extension().is_some_and(|end| end == "sst") {
            let middle = bytes.len() / 4;
            bytes[middle] ^= 0xff;
        }
        std::fs::write(spoilt.copy_dir().join(file.file_name()), bytes).unwrap();
    }
    let damaged = openraft::Snapshot {
        meta: ahead(&good.meta),
        snapshot: Box::new(spoilt),
    };
    let empty = openraft::Snapshot {
        meta: ahead(&good.meta),
        snapshot: Box::new(group.raft(other).machine().unwrap().receive().unwrap()),
    };
    for (what, snapshot) in [
        ("false", &false_meta),
        ("damaged", &damaged),
        ("empty", &empty),
    ] {
        let refused = forger.snapshot(&group, target, vote, snapshot).await;
        let error = refused.expect_err(what);
        assert_ne!(error.code, Code::Disconnected, "{what}: {error}");
    }
    let stranger = Forger::new(&group, &group.name(ServerId(9)));
    let strange = Vote::new_committed(term + 1, 9);
    let refused = stranger.snapshot(&group, target, strange, &good).await;
    assert_eq!(refused.unwrap_err().code, Code::WrongRole);
    let refused = forger.snapshot(&group, target, strange, &good).await;
    assert_eq!(refused.unwrap_err().code, Code::Malformed);

    let metrics = group.raft(target).metrics();
    assert_eq!((metrics.term, metrics.leader), (term, Some(leader)));
    assert_eq!(propose(&group.raft(leader), "x").await, 21);
    group.wait_for(target, "x", 21).await;
    let left = std::fs::read_dir(group.dir(target).join("snapshots"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "what was received is removed");
    group.stop().await;
}
