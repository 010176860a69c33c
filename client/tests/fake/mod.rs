//! A cluster in memory, as far as the client library needs one, with faults. It keeps the wire's
//! promises (exactly once, receipts, whole blocks) and nothing else: permissions, quotas and links
//! are the metaserver's own tests.

mod data;
mod meta;

use quarry_client::transport::{Peer, Pending, ReadStream, Transport, WriteStream};
use quarry_client::{Client, ClientFile, MetaAddress, Options};
use quarry_common::Error;
use quarry_common::error::Code;
use quarry_common::ids::{
    ChunkId, ClusterId, DiskId, Epoch, InodeId, OpenNumber, PgId, PoolId, ServerId, Version,
};
use quarry_common::map::{
    ClusterMap, Disk, DiskState, FailureDomain, Member, MemberState, Pool, Redundancy, Row, Server,
};
use quarry_common::wire::data::ticket::FileTicket;
use quarry_common::wire::data::{DataReply, DataRequest, ReadChunk, WriteChunk};
use quarry_common::wire::meta::admin::AdminReply;
use quarry_common::wire::meta::{
    AdminOp, Members, MetaAnswer, MetaBody, MetaReply, MetaRequest, Op, not_leader,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub const POOL: PoolId = PoolId(1);

pub type Refuses = Box<dyn Fn(&Op) -> Option<Code> + Send>;

/// What goes wrong.
#[derive(Default)]
pub struct Faults {
    /// So many mutations are carried out, and their answers are lost.
    pub answers_lost: u32,
    /// So many mutations are lost on their way.
    pub requests_lost: u32,
    /// So many mutations are refused, since there is too much to do.
    pub overloaded: u32,
    /// The answer to the next mutation comes so late.
    pub answer_late: Duration,
    /// Answers are so long that of each session only the oldest request is carried out.
    pub long_answers: bool,
    /// No metaserver is reached.
    pub meta_cut: bool,
    /// The certificates of these metaservers are refused.
    pub meta_refused: BTreeSet<ServerId>,
    /// At the addresses of these metaservers others answer.
    pub meta_others: BTreeSet<ServerId>,
    /// The next map comes in two pages, and the first row changes between them.
    pub map_in_pages: bool,
    /// So many mutations with receipts are refused, as if the members had changed.
    pub old_receipts: u32,
    /// Files of these names can not be removed.
    pub denied: BTreeSet<Vec<u8>>,
    /// Mutations for which there is a code here are refused with it.
    pub refuses: Option<Refuses>,
    /// What has one of these names is gone just before it is removed, which is refused with that code.
    pub removed_first: BTreeMap<Vec<u8>, Code>,
    /// These directories can not be listed.
    pub closed: BTreeSet<InodeId>,
    /// Every session is unknown from now on.
    pub sessions_lost: bool,
    /// The next mutation that is one of these is carried out, and its session ends with the answer, which is lost.
    pub ends_session: Option<fn(&Op) -> bool>,
    /// The answers of reads of the metadata, as it was when they came, take so long.
    pub reads_late: Duration,
    /// These metaservers do not answer.
    pub silent: BTreeSet<ServerId>,
    /// These metaservers do not lead, and know nobody who does.
    pub followers: BTreeSet<ServerId>,
    /// Who the metaservers are, according to each that answers.
    pub members: BTreeMap<ServerId, Members>,
    /// A pipeline with this disk fails after so many bytes.
    pub fails_after: BTreeMap<DiskId, u64>,
    /// A pipeline with this head breaks after so many bytes, without a word.
    pub breaks_after: BTreeMap<DiskId, u64>,
    /// The refusal of a stream comes so long after the stream took no more.
    pub refusals_late: Duration,
    /// The next streams are given up after so long, since nothing came on them.
    pub given_up_after: VecDeque<Duration>,
    /// The certificates of these dataservers are refused.
    pub refused: BTreeSet<ServerId>,
    /// These disks are full.
    pub full: BTreeSet<DiskId>,
    /// These disks serve wrong bytes.
    pub corrupt: BTreeSet<DiskId>,
    /// These disks answer reads only after this long.
    pub slow: BTreeMap<DiskId, Duration>,
    /// These disks answer no reads.
    pub dead: BTreeSet<DiskId>,
    /// The files of these disks hold wrong bytes.
    pub bad_files: BTreeSet<DiskId>,
    /// The files of these disks are cut short.
    pub short_files: BTreeSet<DiskId>,
    /// So many bytes a second go through each stream.
    pub stream_rate: Option<u64>,
    /// An acknowledgement comes so long after it was asked for.
    pub acks_late: Duration,
    /// So many bytes a second go over the links meanwhile.
    pub link_rate: u64,
    /// After so many bytes a read gets no more.
    pub reads_hang_after: Option<u64>,
    /// No file is handed out for a ticket.
    pub no_files: bool,
    /// No dataserver is reached.
    pub cut: bool,
}

#[derive(Default)]
pub struct State {
    pub faults: Faults,
    pub map: ClusterMap,
    pub meta: meta::Meta,
    pub chunks: HashMap<(DiskId, ChunkId), Vec<u8>>,
    /// Streams that wrote chunks.
    pub write_streams: u32,
    /// Chunks that came in one message.
    pub small_writes: u32,
    /// Reads over the network, by disk.
    pub reads: BTreeMap<DiskId, u32>,
    /// Bytes that went over each link.
    pub link_moved: u64,
    /// Tickets for files, in the order in which they were asked for; a secret is a number in it.
    pub tickets: Vec<(DiskId, ChunkId)>,
    /// What each metaserver was asked.
    pub asked: BTreeMap<ServerId, u32>,
    /// Bad copies that readers told of.
    pub reported: BTreeSet<(DiskId, ChunkId)>,
}

#[derive(Clone)]
pub struct Fake(Arc<Mutex<State>>);

impl Fake {
    /// Disks 1 to `disks`, each on a server and host of its own; three replicas.
    pub fn new(disks: u32) -> Fake {
        let mut map = ClusterMap {
            epoch: Epoch(1),
            ..ClusterMap::default()
        };
        let topology = &mut map.topology;
        topology.changed_at = Epoch(1);
        topology.cluster = ClusterId([1; 16]);
        topology.metaservers = BTreeMap::from([(ServerId(1), "meta".into())]);
        for number in 1..=disks {
            let server = Server {
                address: format!("server-{number}"),
                host: format!("host-{number}"),
                rack: String::new(),
                zone: String::new(),
            };
            topology.servers.insert(ServerId(number), server);
            let disk = Disk {
                server: ServerId(number),
                path: String::new(),
                weight: 1,
                state: DiskState::In,
                open_number: OpenNumber(1),
            };
            topology.disks.insert(DiskId(number), disk);
        }
        let pool = Pool {
            name: "main".into(),
            redundancy: Redundancy::Replicated {
                replicas: 3,
                min_members: 2,
            },
            failure_domain: FailureDomain::Host,
            pg_count: 64,
            chunk_len_max: 64 << 20,
            in_use: true,
            exceptions: BTreeMap::new(),
        };
        let member = |disk: Option<DiskId>| {
            disk.map(|disk| Member {
                disk,
                state: MemberState::Complete,
                since: Epoch(1),
            })
        };
        let row = |pg| Row {
            epoch: Epoch(1),
            changed_at: Epoch(1),
            members: quarry_common::map::placement::target(topology, POOL, &pool, PgId(pg))
                .into_iter()
                .map(member)
                .collect(),
            holders: Vec::new(),
        };
        let rows = (0..64).map(row).collect();
        map.rows.insert(POOL, rows);
        map.topology.pools.insert(POOL, pool);
        let state = State {
            map,
            ..State::default()
        };
        Fake(Arc::new(Mutex::new(state)))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub async fn client(&self) -> Client {
        self.client_with(Options::default()).await
    }

    pub async fn client_with(&self, options: Options) -> Client {
        self.try_client(options).await.unwrap()
    }

    pub async fn try_client(&self, options: Options) -> quarry_common::Result<Client> {
        let metaservers = self.state().map.topology.metaservers.clone();
        let metaservers = metaservers
            .into_iter()
            .map(|(id, address)| MetaAddress { id, address })
            .collect();
        let file = ClientFile {
            cluster: ClusterId([1; 16]),
            metaservers,
            identity: String::new(),
            user: "tester".into(),
        };
        let options = Options {
            data_deadline: options.data_deadline.min(Duration::from_secs(20)),
            ..options
        };
        Client::connect_over(Arc::new(self.clone()), file, options).await
    }
}

fn refused() -> Error {
    Error::new(
        Code::Configuration,
        "the server was refused: it has expired",
    )
}

fn unreachable() -> Error {
    Error::new(Code::Unreachable, "the cable is cut")
}

impl Transport for Fake {
    fn meta(&self, to: &Peer, request: &MetaRequest, wait: Duration) -> Pending<'_, MetaAnswer> {
        let mut state = self.state();
        *state.asked.entry(to.server).or_default() += 1;
        if state.faults.silent.contains(&to.server) {
            return Box::pin(async move {
                tokio::time::sleep(wait).await;
                Err(Error::new(Code::Disconnected, "it did not answer"))
            });
        }
        let late = match request.body {
            MetaBody::Mutate { .. } => std::mem::take(&mut state.faults.answer_late),
            MetaBody::Read(_) => state.faults.reads_late,
            _ => Duration::ZERO,
        };
        let answer = if state.faults.meta_refused.contains(&to.server) {
            Err(refused())
        } else if state.faults.meta_others.contains(&to.server) {
            Err(Error::new(Code::OtherServer, "another one answers"))
        } else if state.faults.meta_cut {
            Err(unreachable())
        } else if request.body == MetaBody::Admin(AdminOp::Members) {
            let members = state.faults.members.get(&to.server).cloned();
            let members = AdminReply::Members(members.unwrap_or_default());
            Ok(MetaAnswer {
                version: Version(1),
                epoch: state.map.epoch,
                result: Ok(MetaReply::Admin(members)),
            })
        } else if state.faults.followers.contains(&to.server) {
            Ok(MetaAnswer {
                version: Version(1),
                epoch: state.map.epoch,
                result: Err(not_leader(None)),
            })
        } else {
            state.answer(request.clone())
        };
        Box::pin(async move {
            if !late.is_zero() {
                tokio::time::sleep(late).await;
            }
            answer
        })
    }

    fn data(&self, to: &Peer, request: &DataRequest, _: Duration) -> Pending<'_, DataReply> {
        if self.state().faults.refused.contains(&to.server) {
            return Box::pin(async { Err(refused()) });
        }
        Box::pin(data::ask(self.clone(), request.clone()))
    }

    fn write(&self, to: &Peer, header: WriteChunk) -> Pending<'_, WriteStream> {
        if self.state().faults.refused.contains(&to.server) {
            return Box::pin(async { Err(refused()) });
        }
        let opened = data::open_write(self, header);
        Box::pin(async move { opened })
    }

    fn read(&self, to: &Peer, header: ReadChunk) -> Pending<'_, ReadStream> {
        if self.state().faults.refused.contains(&to.server) {
            return Box::pin(async { Err(refused()) });
        }
        Box::pin(data::open_read(self.clone(), header))
    }

    fn redeem<'a>(&'a self, ticket: &'a FileTicket) -> Pending<'a, File> {
        let file = data::file(self, ticket);
        Box::pin(async move { file })
    }

    fn connected(&self, _: &Peer) -> bool {
        true
    }

    fn moved(&self, _: &Peer) -> u64 {
        self.state().link_moved
    }
}
