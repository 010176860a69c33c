//! The planner in a world of lists: no network, no disk, no clock.

mod filling;
mod histories;
mod traces;

use super::*;
use quarry_common::ids::{OpenNumber, ServerId};
use quarry_common::map::{
    Disk, DiskState, FailureDomain, Holder, Member, Pool, Redundancy, Server,
};

const POOL: PoolId = PoolId(1);
const PG: PgId = PgId(0);

/// Five disks, one a server, and a pool of one group, whose row is given by its members (disk, complete, since) and
/// holders (disk, first, last).
fn map(epoch: u64, members: &[(u32, bool, u64)], holders: &[(u32, u64, u64)]) -> ClusterMap {
    let mut map = ClusterMap {
        epoch: Epoch(epoch),
        ..ClusterMap::default()
    };
    for id in 0..5 {
        let server = Server {
            address: String::new(),
            host: format!("h{id}"),
            rack: String::new(),
            zone: String::new(),
        };
        map.topology.servers.insert(ServerId(id), server);
        let disk = Disk {
            server: ServerId(id),
            path: String::new(),
            weight: 1,
            state: DiskState::In,
            open_number: OpenNumber(1),
        };
        map.topology.disks.insert(DiskId(id), disk);
    }
    let mut exceptions = BTreeMap::new();
    let target = members.iter().map(|(disk, ..)| DiskId(*disk)).collect();
    exceptions.insert(0, target);
    let pool = Pool {
        name: "p".into(),
        redundancy: Redundancy::Replicated {
            replicas: 3,
            min_members: 2,
        },
        failure_domain: FailureDomain::Host,
        pg_count: 1,
        chunk_len_max: 64 << 20,
        in_use: true,
        exceptions,
    };
    map.topology.pools.insert(POOL, pool);
    let member = |(disk, complete, since): &(u32, bool, u64)| {
        let state = match complete {
            true => MemberState::Complete,
            false => MemberState::Filling,
        };
        Some(Member {
            disk: DiskId(*disk),
            state,
            since: Epoch(*since),
        })
    };
    let row = Row {
        epoch: Epoch(epoch),
        changed_at: Epoch(epoch),
        members: members.iter().map(member).collect(),
        holders: holders
            .iter()
            .map(|(disk, first, last)| Holder {
                disk: DiskId(*disk),
                covers: vec![EpochRange {
                    first: Epoch(*first),
                    last: Epoch(*last),
                }],
            })
            .collect(),
    };
    map.rows.insert(POOL, vec![row]);
    map
}

fn info(len: u32, state: ReplicaState) -> ReplicaInfo {
    ReplicaInfo {
        len,
        crc: Crc(len),
        state,
    }
}

fn wanted(chunk: u64, len: u32) -> Wanted {
    Wanted {
        pool: POOL,
        chunk: ChunkId(chunk),
        len,
        crc: Crc(len),
    }
}

/// What every disk has, and what the metaservers refer to (a length).
#[derive(Clone, Debug, Default)]
struct World {
    disks: BTreeMap<u32, BTreeMap<u64, ReplicaInfo>>,
    referenced: BTreeMap<u64, u32>,
    silent: BTreeSet<u32>,
    /// Of the silent ones, those that are out as well.
    out: BTreeSet<u32>,
    /// Chunks that are listed, and when they are asked for are not there or bad.
    gone: BTreeSet<u64>,
    now: Duration,
    listed: Vec<u32>,
    copied: Vec<(u64, u32)>,
    asked: u32,
    reports: Vec<Epoch>,
}

impl World {
    fn put(&mut self, disk: u32, chunk: u64, len: u32, state: ReplicaState) {
        let chunks = self.disks.entry(disk).or_default();
        chunks.insert(chunk, info(len, state));
    }

    fn get(&self, disk: u32, chunk: u64) -> Option<ReplicaInfo> {
        self.disks.get(&disk)?.get(&chunk).copied()
    }

    fn has(&self, disk: u32, chunk: u64, len: u32) -> bool {
        let found = self.get(disk, chunk);
        found.is_some_and(|found| found.state != ReplicaState::SetAside && found.len >= len)
    }

    /// Carries out what the planner of `own` wants for so many rounds of time.
    fn run(&mut self, core: &mut Core, own: u32, rounds: u32) {
        for _ in 0..rounds {
            let mut actions = core.next(self.now);
            while !actions.is_empty() {
                for action in actions {
                    self.carry_out(core, own, action);
                }
                actions = core.next(self.now);
            }
            self.now += Duration::from_secs(1);
        }
    }

    fn carry_out(&mut self, core: &mut Core, own: u32, action: Action) {
        let now = self.now;
        match action {
            Action::List(id, wanted) => {
                let source = wanted.disk.0;
                if self.silent.contains(&source) {
                    let error = Error::new(Code::Unreachable, "silent");
                    return core.handle_list_failure(id, &error, now);
                }
                self.listed.push(source);
                // Two chunks a page.
                let from = wanted.from.map_or(0, |(_, chunk)| chunk.0);
                let all = self.disks.entry(source).or_default().clone();
                let mut rest = all.range(from..);
                let page: Vec<_> = rest
                    .by_ref()
                    .take(2)
                    .map(|(chunk, info)| {
                        let listed = ListedChunk {
                            chunk: ChunkId(*chunk),
                            info: *info,
                        };
                        (PG, listed, self.get(own, *chunk))
                    })
                    .collect();
                let next = rest.next().map(|(chunk, _)| (PG, ChunkId(*chunk)));
                core.handle_page(id, &page, next);
            }
            Action::Copy {
                group,
                epoch,
                wanted,
                sources,
            } => {
                let mut later = None;
                let mut outcome = Outcome::Nobody;
                for source in sources {
                    if self.out.contains(&source.0) {
                        continue;
                    }
                    if self.silent.contains(&source.0) {
                        later = Some(Error::new(Code::Unreachable, "silent"));
                    } else if self.has(source.0, wanted.chunk.0, wanted.len)
                        && !self.gone.contains(&wanted.chunk.0)
                    {
                        self.put(own, wanted.chunk.0, wanted.len, ReplicaState::Sealed);
                        self.copied.push((wanted.chunk.0, source.0));
                        outcome = Outcome::Stored;
                        break;
                    }
                }
                if let (Outcome::Nobody, Some(error)) = (&outcome, later) {
                    outcome = Outcome::Later(error);
                }
                core.handle_copy(group, epoch, wanted, &outcome, now);
            }
            Action::Ask { group, epoch, from } => {
                self.asked += 1;
                let from = from.map_or(0, |chunk| chunk.0);
                let all = self.referenced.clone();
                let mut rest = all.range(from..);
                let page: Vec<_> = rest
                    .by_ref()
                    .take(2)
                    .map(|(chunk, len)| {
                        let committed = CommittedChunk {
                            chunk: ChunkId(*chunk),
                            len: *len,
                            crc: Crc(*len),
                        };
                        (committed, self.has(own, *chunk, *len))
                    })
                    .collect();
                let next = rest.next().map(|(chunk, _)| ChunkId(*chunk));
                core.handle_committed(group, epoch, &page, next);
            }
            Action::Report(complete) => {
                self.reports
                    .extend(complete.iter().map(|report| report.epoch));
            }
        }
    }
}

const SEALED: ReplicaState = ReplicaState::Sealed;
const OPEN: ReplicaState = ReplicaState::Open;
const SET_ASIDE: ReplicaState = ReplicaState::SetAside;

/// Disk 3 took the place of disk 0 at epoch 2.
fn after_a_crash() -> ClusterMap {
    let members = [(1, true, 1), (2, true, 1), (3, false, 2)];
    map(2, &members, &[(0, 0, 1)])
}
