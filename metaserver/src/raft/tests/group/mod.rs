//! Promises of a group of several: over real connections, in one process.

mod forgers;
mod founders;
mod leaders;
mod lost_logs;
mod members;

use super::super::network::Network;
use super::wires::Wires;
use super::*;
use quarry_common::identity::{Authority, PeerName, SERVER_VALID};
use quarry_common::ids::ClusterId;
use quarry_common::net::{Endpoint, StreamType};
use quarry_common::task::Stop;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

/// Long enough for anything on a busy machine.
const LONG: Duration = Duration::from_secs(60);

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

    /// Members 1 to 3, of which one leads. All vote.
    async fn of_three(with: fn(RaftOptions) -> RaftOptions) -> Group {
        let mut group = Group {
            with,
            ..Group::new().await
        };
        for id in ids(1..=3) {
            group.invite(id).await;
        }
        let told_of = group.addresses.clone();
        for id in ids(1..=3) {
            group.start(id, told_of.clone()).await.unwrap();
        }
        let members: Vec<_> = told_of.into_iter().collect();
        group.raft(ServerId(1)).init(&members).await.unwrap();
        group.leader().await;
        group.settle().await;
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

/// Removes a member, and ends it. Those who come later do not hear of it.
async fn remove(group: &mut Group, id: ServerId) {
    let begun = Instant::now();
    loop {
        let leader = group.raft(group.leader().await);
        match leader.remove_member(id).await {
            Ok(()) => break,
            Err(error) => assert!(begun.elapsed() < LONG, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    group.kill(id).await;
    group.addresses.remove(&id);
}

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
