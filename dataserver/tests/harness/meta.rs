//! A stand-in for the metaserver: registers disks, answers heartbeats from a map made by hand.

use super::{CLUSTER, POOL, capability_key, receipt_key};
use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::identity::Identity;
use quarry_common::ids::{ChunkId, DiskId, Epoch, OpenNumber, ServerId, Version};
use quarry_common::map::{
    ClusterMap, Disk, DiskState, EpochRange, FailureDomain, Holder, Member, MemberState, Pool,
    Redundancy, Row, Server, hash_of, pg_of,
};
use quarry_common::net::{self, Connection, Endpoint, StreamType};
use quarry_common::wire::meta::admin::Keys;
use quarry_common::wire::meta::{
    CommittedChunk, Complete, DiskReport, HeartbeatReply, MetaAnswer, MetaBody, MetaReply,
    MetaRequest, Registered, Registration,
};
use quarry_common::{Code, Error, Result, codec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub struct Meta {
    pub address: SocketAddr,
    pub map: Arc<Mutex<ClusterMap>>,
    pub state: Arc<State>,
    pub endpoint: Endpoint,
}

#[derive(Default)]
pub struct State {
    map: Arc<Mutex<ClusterMap>>,
    /// Heartbeats get no answer.
    pub silent: AtomicBool,
    /// Registrations are refused.
    pub refuse: AtomicBool,
    /// So many introductions are not let in.
    pub unreached: AtomicUsize,
    /// Registrations of these are refused.
    pub rolled_back: Mutex<BTreeSet<DiskId>>,
    /// The last reports of each server.
    pub reports: Mutex<BTreeMap<ServerId, Vec<DiskReport>>>,
    pub registrations: Mutex<Vec<Registration>>,
    /// Every disk is to delete these, until it says that they are gone.
    pub due: Mutex<BTreeSet<ChunkId>>,
    pub gone: Mutex<BTreeSet<(DiskId, ChunkId)>>,
    /// What disks told that they have; of that they are to delete these.
    pub told: Mutex<BTreeSet<(DiskId, ChunkId)>>,
    pub unwanted: Mutex<BTreeSet<ChunkId>>,
    /// Who said goodbye.
    pub goodbyes: Mutex<Vec<ServerId>>,
    /// What the members are to become; they are the target themselves if it is empty.
    pub target: Mutex<Vec<u32>>,
    /// Chunks that are referenced.
    pub referenced: Mutex<BTreeMap<ChunkId, (u32, Crc)>>,
}

impl Meta {
    pub fn start(identity: Arc<Identity>) -> Meta {
        let mut map = ClusterMap {
            epoch: Epoch(1),
            ..ClusterMap::default()
        };
        map.topology.cluster = CLUSTER;
        map.topology.changed_at = Epoch(1);
        map.topology.pools.insert(
            POOL,
            Pool {
                name: "main".into(),
                redundancy: Redundancy::Replicated {
                    replicas: 3,
                    min_members: 1,
                },
                failure_domain: FailureDomain::Host,
                pg_count: 8,
                chunk_len_max: 64 << 20,
                in_use: true,
                exceptions: BTreeMap::new(),
            },
        );
        let map = Arc::new(Mutex::new(map));
        let state = Arc::new(State {
            map: Arc::clone(&map),
            ..State::default()
        });
        let listen = "127.0.0.1:0".parse().unwrap();
        let endpoint = Endpoint::server(identity, listen, |_, _| true).unwrap();
        let (accepting, served) = (endpoint.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            while let Some(connection) = accepting.accept().await {
                tokio::spawn(serve(connection, Arc::clone(&served)));
            }
        });
        Meta {
            address: endpoint.local_addr().unwrap(),
            map,
            state,
            endpoint,
        }
    }

    /// Makes these disks the members of every group.
    pub fn place(&self, disks: &[(u32, MemberState)]) -> Epoch {
        let mut map = self.map.lock().unwrap();
        let epoch = map.epoch.next();
        map.epoch = epoch;
        map.topology.changed_at = epoch;
        let mut target = self.state.target.lock().unwrap().clone();
        if target.is_empty() {
            target = disks.iter().map(|(disk, _)| *disk).collect();
        }
        let target: Vec<DiskId> = target.into_iter().map(DiskId).collect();
        let pool = map.topology.pools.get_mut(&POOL).unwrap();
        pool.exceptions = (0..8).map(|pg| (pg, target.clone())).collect();
        let row = Row {
            epoch,
            changed_at: epoch,
            members: disks
                .iter()
                .map(|(disk, state)| {
                    Some(Member {
                        disk: DiskId(*disk),
                        state: *state,
                        since: epoch,
                    })
                })
                .collect(),
            holders: Vec::new(),
        };
        map.rows.insert(POOL, vec![row; 8]);
        epoch
    }
}

impl Meta {
    /// Exchanges members of every group as a metaserver does: who is new fills, who leaves is a holder.
    pub fn exchange(&self, disks: &[u32]) -> Epoch {
        let before = self.map.lock().unwrap().rows[&POOL][0].clone();
        let state = |disk: &u32| {
            let mut members = before.members.iter().flatten();
            let known = members.find(|member| member.disk == DiskId(*disk));
            known.map_or(MemberState::Filling, |member| member.state)
        };
        let placed: Vec<_> = disks.iter().map(|disk| (*disk, state(disk))).collect();
        let epoch = self.place(&placed);
        let mut map = self.map.lock().unwrap();
        for row in map.rows.get_mut(&POOL).unwrap() {
            for member in row.members.iter_mut().flatten() {
                let mut known = before.members.iter().flatten();
                if let Some(known) = known.find(|known| known.disk == member.disk) {
                    *member = *known;
                }
            }
            row.holders = before.holders.clone();
            for left in before.members.iter().flatten() {
                if row.next_after(left.disk).is_ok() {
                    continue;
                }
                let first = match left.state {
                    MemberState::Complete => Epoch(0),
                    MemberState::Filling => left.since,
                };
                let last = Epoch(epoch.0 - 1);
                row.holders.retain(|holder| holder.disk != left.disk);
                row.holders.push(Holder {
                    disk: left.disk,
                    covers: vec![EpochRange { first, last }],
                });
            }
        }
        epoch
    }

    /// Whether every member of every group is complete and no holder is left.
    pub fn is_clean(&self) -> bool {
        let map = self.map.lock().unwrap();
        let is_complete = |member: &Member| member.state == MemberState::Complete;
        let is_clean =
            |row: &Row| row.holders.is_empty() && row.members.iter().flatten().all(is_complete);
        map.rows[&POOL].iter().all(is_clean)
    }
}

/// Believes a report as a metaserver does.
fn complete(map: &mut ClusterMap, report: &Complete) {
    let changed_at = map.epoch.next();
    let row = &mut map.rows.get_mut(&report.pool).unwrap()[report.pg.0 as usize];
    let mut members = row.members.iter_mut().flatten();
    let Some(member) = members.find(|member| member.disk == report.disk) else {
        return;
    };
    if report.epoch < member.since || member.state == MemberState::Complete {
        return;
    }
    member.state = MemberState::Complete;
    let is_complete = |member: &Member| member.state == MemberState::Complete;
    if row.members.iter().flatten().all(is_complete) {
        row.holders.clear();
    }
    row.changed_at = changed_at;
    map.epoch = changed_at;
}

async fn serve(connection: Connection, state: Arc<State>) {
    let server = connection.peer().server_id();
    while let Ok((kind, send, recv)) = connection.accept().await {
        assert_eq!(kind, StreamType::MetaRequests);
        let (state, server) = (Arc::clone(&state), server.clone());
        tokio::spawn(net::serve(send, recv, 64, move |payload: Bytes| {
            let (state, server) = (Arc::clone(&state), server.clone());
            async move {
                let request: MetaRequest = codec::decode("a request", &payload).unwrap();
                if state.silent.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                let result = server.and_then(|server| answer(&state, server, request.body));
                let answer = MetaAnswer {
                    version: Version(1),
                    epoch: state.map.lock().unwrap().epoch,
                    result,
                };
                Bytes::from(codec::encode(&answer))
            }
        }));
    }
}

fn answer(state: &State, server: ServerId, body: MetaBody) -> Result<MetaReply> {
    let keys = Keys {
        capability: vec![capability_key()],
        receipt: Some(receipt_key(server)),
    };
    let mut map = state.map.lock().unwrap();
    match body {
        MetaBody::Introduce { .. } => {
            let less = |left: usize| left.checked_sub(1);
            let order = Ordering::SeqCst;
            match state.unreached.fetch_update(order, order, less) {
                Ok(_) => Err(Error::new(Code::NotReached, "as the test says")),
                Err(_) => Ok(MetaReply::Noted),
            }
        }
        MetaBody::Register(registration) => {
            if state.refuse.load(Ordering::SeqCst) {
                let text = "this directory is empty, but disk 7 was there";
                return Err(Error::new(Code::Configuration, text));
            }
            let rolled_back = state.rolled_back.lock().unwrap();
            let mut ids = registration.disks.iter().filter_map(|disk| disk.disk);
            if let Some(disk) = ids.find(|disk| rolled_back.contains(disk)) {
                let text = format!("disk {disk} was rolled back to an older copy");
                return Err(Error::new(Code::Configuration, text));
            }
            let ids = registration.disks.iter().filter_map(|disk| disk.disk);
            if ids.clone().collect::<BTreeSet<_>>().len() < ids.count() {
                return Err(Error::new(Code::Configuration, "one of them is a copy"));
            }
            let disks = register(&mut map, server, &registration);
            state.registrations.lock().unwrap().push(registration);
            Ok(MetaReply::Registered(Registered {
                cluster: CLUSTER,
                disks,
                keys,
            }))
        }
        MetaBody::Heartbeat(heartbeat) => {
            let mut reports = state.reports.lock().unwrap();
            reports.insert(server, heartbeat.disks);
            Ok(MetaReply::Heartbeat(HeartbeatReply {
                map: map.update_since(heartbeat.epoch, None),
                keys,
            }))
        }
        MetaBody::Due { disk, from } => {
            assert_eq!(from, None);
            let gone = state.gone.lock().unwrap();
            let due = state.due.lock().unwrap();
            let due = due.iter().filter(|chunk| !gone.contains(&(disk, **chunk)));
            Ok(MetaReply::Due {
                chunks: due.map(|chunk| (POOL, *chunk)).collect(),
                next: None,
            })
        }
        MetaBody::Gone { disk, chunks } => {
            let chunks = chunks.into_iter().map(|(_, chunk)| (disk, chunk));
            state.gone.lock().unwrap().extend(chunks);
            Ok(MetaReply::Noted)
        }
        MetaBody::Has { disk, chunks } => {
            let told = chunks.iter().map(|(_, chunk)| (disk, *chunk));
            state.told.lock().unwrap().extend(told);
            let unwanted = state.unwanted.lock().unwrap();
            let chunks = chunks.into_iter();
            Ok(MetaReply::Due {
                chunks: chunks
                    .filter(|(_, chunk)| unwanted.contains(chunk))
                    .collect(),
                next: None,
            })
        }
        MetaBody::Goodbye => {
            state.goodbyes.lock().unwrap().push(server);
            Ok(MetaReply::Noted)
        }
        MetaBody::ReportComplete(reports) => {
            reports.iter().for_each(|report| complete(&mut map, report));
            Ok(MetaReply::Noted)
        }
        MetaBody::GroupChunks { pg, from, .. } => {
            let referenced = state.referenced.lock().unwrap();
            let of = |(chunk, (len, crc)): (&ChunkId, &(u32, Crc))| CommittedChunk {
                chunk: *chunk,
                len: *len,
                crc: *crc,
            };
            let order = |chunk: ChunkId| (hash_of(chunk).reverse_bits(), chunk);
            let mut chunks: Vec<CommittedChunk> = referenced.iter().map(of).collect();
            chunks.retain(|found| pg_of(found.chunk, 8) == pg);
            chunks.sort_by_key(|found| order(found.chunk));
            chunks.retain(|found| from.is_none_or(|from| order(found.chunk) >= order(from)));
            // Two a page.
            let next = chunks.get(2).map(|found| found.chunk);
            chunks.truncate(2);
            Ok(MetaReply::GroupChunks { chunks, next })
        }
        MetaBody::Map { since, from } => Ok(MetaReply::Map(map.update_since(since, from))),
        other => Err(Error::malformed(format!("{other:?}"))),
    }
}

/// The first disk of a server has the server's number, the others follow at a hundred times it.
fn register(map: &mut ClusterMap, server: ServerId, registration: &Registration) -> Vec<DiskId> {
    map.epoch = map.epoch.next();
    map.topology.changed_at = map.epoch;
    map.topology.servers.insert(
        server,
        Server {
            address: registration.address.clone(),
            host: registration.host.clone(),
            rack: String::new(),
            zone: String::new(),
        },
    );
    let mut ids = Vec::new();
    for (at, report) in registration.disks.iter().enumerate() {
        let fresh = match at {
            0 => DiskId(server.0),
            more => DiskId(server.0 * 100 + more as u32),
        };
        let id = report.disk.unwrap_or(fresh);
        let disk = Disk {
            server,
            path: report.path.clone(),
            weight: 1,
            state: DiskState::In,
            open_number: report.disk.map_or(OpenNumber(0), |_| report.open_number),
        };
        map.topology.disks.insert(id, disk);
        ids.push(id);
    }
    ids
}
