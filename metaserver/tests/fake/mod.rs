//! A metaserver in one process with dataservers that have no disks: they register, send heartbeats, answer pings and confirm
//! what they are told to.
#![allow(dead_code, missing_docs)]

use bytes::Bytes;
use quarry_common::checksum::Crc;
use quarry_common::identity::{Authority, Identity, PeerName, SERVER_VALID, USER_VALID};
use quarry_common::ids::{
    ChunkId, ClusterId, DiskId, Epoch, Gid, InodeId, OpenNumber, PgId, PoolId, RequestNumber,
    ServerId, SessionId, ShardId, Uid, Version,
};
use quarry_common::map::{ClusterMap, MapUpdate, Row};
use quarry_common::net::{self, Connection, Endpoint, Peer, Peers};
use quarry_common::token::receipt::Durable;
use quarry_common::token::{Key, Receipt};
use quarry_common::wire::data::{DataReply, DataRequest};
use quarry_common::wire::meta::admin::AdminReply;
use quarry_common::wire::meta::{
    AdminOp, DiskReport, Heartbeat, MetaAnswer, MetaBody, MetaReply, MetaRequest, Op, OpReply,
    Registration, User,
};
use quarry_common::{Code, Error, Result, codec};
use quarry_metaserver::{ClusterSeed, Metaserver, MetaserverConfig};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinHandle;

pub const CLUSTER: ClusterId = ClusterId(*b"a test's cluster");
pub const POOL: PoolId = PoolId(1);

const WAIT: Duration = Duration::from_secs(5);

/// A metaserver, and a client of it.
pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub authority: Authority,
    pub metaserver: Metaserver,
    config: MetaserverConfig,
    pub address: SocketAddr,
    pub client: Link,
    pub session: SessionId,
    number: AtomicU64,
}

/// The way to the metaserver of one who asks.
#[derive(Clone)]
pub struct Link {
    peers: Peers,
    address: SocketAddr,
}

impl Link {
    async fn peer(&self) -> Peer {
        let name = PeerName::metaserver(CLUSTER, ServerId(1));
        self.peers.get(&name, self.address).await.unwrap()
    }

    pub async fn ask(&self, body: MetaBody) -> Result<MetaReply> {
        self.ask_having_seen(Version(0), body).await
    }

    pub async fn ask_having_seen(&self, seen: Version, body: MetaBody) -> Result<MetaReply> {
        let request = MetaRequest {
            shard: ShardId::FIRST,
            seen,
            act_as: None,
            body,
        };
        let requests = self.peer().await.requests;
        let answer = requests.call(codec::encode(&request).into(), WAIT).await?;
        codec::decode::<MetaAnswer>("an answer", &answer)?.result
    }
}

impl Cluster {
    /// A pool of `pg_count` groups with three replicas, of which two are enough to write.
    pub async fn start(pg_count: u32, dataservers: u32, out_after_seconds: u64) -> Cluster {
        let authority = Authority::create(CLUSTER, SystemTime::now()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = MetaserverConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            dir: dir.path().to_path_buf(),
            metaservers: Vec::new(),
            cache_mib: 16,
            doom_grace_seconds: 300,
            out_after_seconds,
        };
        let seed = ClusterSeed {
            cluster: CLUSTER,
            replicas: 3,
            min_members: 2,
            pg_count,
            dataservers,
            metaservers: vec![(ServerId(1), "127.0.0.1:1".into())],
            users: vec![User {
                name: "ann".into(),
                uid: Uid(1000),
                gids: vec![Gid(1000)],
                admin: true,
            }],
        };
        let name = PeerName::metaserver(CLUSTER, ServerId(1));
        let identity = issue(&authority, &name, SERVER_VALID);
        let copy = Authority::from_pem(&authority.to_pem()).unwrap();
        let metaserver = Metaserver::start(config.clone(), identity, copy, Some(seed))
            .await
            .unwrap();
        let address = metaserver.local_addr().unwrap();
        let config = MetaserverConfig {
            listen: address,
            ..config
        };
        let user = PeerName::user(CLUSTER, "ann").unwrap();
        let endpoint = Endpoint::client(issue(&authority, &user, USER_VALID)).unwrap();
        let peers = Peers::new(endpoint);
        Cluster {
            dir,
            authority,
            metaserver,
            config,
            address,
            client: Link { peers, address },
            session: SessionId(0),
            number: AtomicU64::new(1),
        }
    }

    /// A process with the identity of a dataserver, which has said nothing yet.
    pub fn process_of(&self, server: ServerId) -> (Endpoint, Link) {
        let name = PeerName::dataserver(CLUSTER, server);
        let identity = issue(&self.authority, &name, SERVER_VALID);
        let listen = "127.0.0.1:0".parse().unwrap();
        let endpoint = Endpoint::server(identity, listen, |_, _| true).unwrap();
        let link = Link {
            peers: Peers::new(endpoint.clone()),
            address: self.address,
        };
        (endpoint, link)
    }

    /// What the leader says of dataservers; it may have to say more of this machine's disk.
    pub async fn warnings(&self) -> Vec<String> {
        let warnings = MetaBody::Admin(AdminOp::Warnings);
        let mut warnings = match self.client.ask(warnings).await.unwrap() {
            MetaReply::Admin(AdminReply::Warnings(warnings)) => warnings,
            other => panic!("{other:?}"),
        };
        warnings.retain(|warning| warning.contains("dataserver"));
        warnings
    }

    pub async fn open_session(&mut self) {
        let MetaReply::Session { session, .. } =
            self.client.ask(MetaBody::OpenSession).await.unwrap()
        else {
            panic!("no session");
        };
        self.session = session;
    }

    /// A request with a new number.
    pub fn mutation(&self, op: Op) -> MetaBody {
        MetaBody::Mutate {
            session: self.session,
            number: RequestNumber(self.number.fetch_add(1, Ordering::SeqCst)),
            answered_below: RequestNumber(1),
            op,
        }
    }

    pub async fn mutate(&self, op: Op) -> Result<OpReply> {
        match self.client.ask(self.mutation(op)).await? {
            MetaReply::Done(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    /// A chunk id of the session.
    pub async fn chunk(&self) -> ChunkId {
        match self
            .mutate(Op::GrantRange {
                pool: POOL,
                count: 1,
            })
            .await
        {
            Ok(OpReply::Range(grant)) => grant.range.first,
            other => panic!("{other:?}"),
        }
    }

    pub async fn file(&self, name: &str) -> InodeId {
        let op = Op::Create {
            parent: self.home().await,
            name: name.as_bytes().to_vec(),
            mode: 0o644,
            exclusive: true,
        };
        match self.mutate(op).await {
            Ok(OpReply::Attr(attr)) => attr.inode,
            other => panic!("{other:?}"),
        }
    }

    async fn home(&self) -> InodeId {
        // An admin may write anywhere.
        InodeId::ROOT
    }

    pub async fn map(&self) -> ClusterMap {
        let mut map = ClusterMap::default();
        let body = MetaBody::Map {
            since: Epoch::ZERO,
            from: None,
        };
        let MetaReply::Map(update) = self.client.ask(body).await.unwrap() else {
            panic!("no map");
        };
        let whole: MapUpdate = update;
        map.apply(whole).unwrap();
        map
    }

    pub async fn row(&self, pg: PgId) -> Row {
        self.map().await.rows[&POOL][pg.0 as usize].clone()
    }

    /// Waits until the map is as wanted; how long it took.
    pub async fn until(&self, what: &str, holds: impl Fn(&ClusterMap) -> bool) -> Duration {
        let began = Instant::now();
        loop {
            let map = self.map().await;
            if holds(&map) {
                return began.elapsed();
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{what}: {map:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The same metaserver again, at the same address.
    pub async fn restart(self) -> Cluster {
        self.metaserver.stop().await.unwrap();
        let name = PeerName::metaserver(CLUSTER, ServerId(1));
        let identity = issue(&self.authority, &name, SERVER_VALID);
        let began = Instant::now();
        // Requests that were under way may hold its port for a moment.
        let metaserver = loop {
            let copy = Authority::from_pem(&self.authority.to_pem()).unwrap();
            let (config, identity) = (self.config.clone(), Arc::clone(&identity));
            match Metaserver::start(config, identity, copy, None).await {
                Ok(metaserver) => break metaserver,
                Err(error) => assert!(began.elapsed() < WAIT, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Cluster { metaserver, ..self }
    }

    pub async fn stop(self) {
        self.metaserver.stop().await.unwrap();
    }
}

fn issue(authority: &Authority, name: &PeerName, valid: Duration) -> Arc<Identity> {
    Arc::new(authority.issue(name, valid, SystemTime::now()).unwrap())
}

/// How a dataserver answers `Confirm`.
#[derive(Clone, Debug, PartialEq)]
pub enum Confirms {
    /// It signs.
    Signs,
    /// With this error.
    Refuses(Code),
    /// Not at all.
    Never,
}

/// A dataserver with one disk.
pub struct Dataserver {
    pub server: ServerId,
    pub disk: DiskId,
    pub key: Key,
    pub link: Link,
    endpoint: Endpoint,
    state: Arc<State>,
    beating: Option<JoinHandle<()>>,
}

struct State {
    disk: Mutex<Option<(DiskId, Key)>>,
    confirms: Mutex<Confirms>,
    asked: Mutex<Vec<(ChunkId, Epoch)>>,
    pings: AtomicU64,
}

impl Dataserver {
    pub async fn start(cluster: &Cluster, server: u32) -> Dataserver {
        let server = ServerId(server);
        let (endpoint, link) = cluster.process_of(server);
        let state = Arc::new(State {
            disk: Mutex::default(),
            confirms: Mutex::new(Confirms::Signs),
            asked: Mutex::default(),
            pings: AtomicU64::new(0),
        });
        let (accepting, served) = (endpoint.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            while let Some(connection) = accepting.accept().await {
                tokio::spawn(serve(connection, Arc::clone(&served)));
            }
        });
        let registration = Registration {
            address: endpoint.local_addr().unwrap().to_string(),
            host: format!("host-{server}"),
            rack: String::new(),
            zone: String::new(),
            disks: vec![report(None)],
        };
        let body = MetaBody::Register(registration);
        let MetaReply::Registered(registered) = link.ask(body).await.unwrap() else {
            panic!("not registered");
        };
        let (disk, key) = (registered.disks[0], registered.keys.receipt.unwrap());
        *state.disk.lock().unwrap() = Some((disk, key.clone()));
        let mut dataserver = Dataserver {
            server,
            disk,
            key,
            link,
            endpoint,
            state,
            beating: None,
        };
        dataserver.beat();
        dataserver
    }

    /// Sends heartbeats from now on.
    pub fn beat(&mut self) {
        let (link, disk) = (self.link.clone(), self.disk);
        self.beating = Some(tokio::spawn(async move {
            loop {
                let heartbeat = Heartbeat {
                    epoch: Epoch::ZERO,
                    disks: vec![report(Some(disk))],
                };
                let _ = link.ask(MetaBody::Heartbeat(heartbeat)).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }));
    }

    /// Sends none any more; it still answers.
    pub fn hush(&mut self) {
        if let Some(beating) = self.beating.take() {
            beating.abort();
        }
    }

    /// Introduces itself at an address.
    pub async fn introduce(&self, address: &str) -> Result<MetaReply> {
        introduce(&self.endpoint, &self.link, address).await
    }

    pub fn address(&self) -> String {
        self.endpoint.local_addr().unwrap().to_string()
    }

    /// Is gone without a word.
    pub async fn die(&mut self) {
        self.hush();
        self.endpoint.close("killed").await;
    }

    pub fn confirms(&self, how: Confirms) {
        *self.state.confirms.lock().unwrap() = how;
    }

    /// The confirmations that it was asked for since this was last called.
    pub fn asked(&self) -> Vec<(ChunkId, Epoch)> {
        std::mem::take(&mut self.state.asked.lock().unwrap())
    }

    pub fn pings(&self) -> u64 {
        self.state.pings.load(Ordering::SeqCst)
    }
}

pub async fn introduce(endpoint: &Endpoint, link: &Link, address: &str) -> Result<MetaReply> {
    let body = MetaBody::Introduce {
        address: address.to_owned(),
        process: endpoint.process(),
    };
    link.ask(body).await
}

fn report(disk: Option<DiskId>) -> DiskReport {
    DiskReport {
        disk,
        path: "/disk".into(),
        replaces_lost: false,
        previous_open: OpenNumber(0),
        open_number: OpenNumber(1),
        total: 1 << 40,
        free: 1 << 40,
        chunks: 0,
        failed: None,
        trash: 0,
        lost: 0,
        copied: 0,
    }
}

async fn serve(connection: Connection, state: Arc<State>) {
    while let Ok((_, send, recv)) = connection.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(net::serve(send, recv, 64, move |payload: Bytes| {
            let state = Arc::clone(&state);
            async move {
                let answer = answer(&state, &payload).await;
                Bytes::from(codec::encode(&answer))
            }
        }));
    }
}

async fn answer(state: &State, payload: &[u8]) -> Result<DataReply> {
    match codec::decode::<DataRequest>("a request", payload)? {
        DataRequest::Ping => {
            state.pings.fetch_add(1, Ordering::SeqCst);
            Ok(DataReply::Pong)
        }
        DataRequest::Confirm {
            disk,
            pool,
            chunk,
            epoch,
            len,
            crc,
        } => {
            state.asked.lock().unwrap().push((chunk, epoch));
            let how = state.confirms.lock().unwrap().clone();
            match how {
                Confirms::Signs => {}
                Confirms::Refuses(code) => return Err(Error::new(code, "as the test says")),
                Confirms::Never => std::future::pending().await,
            }
            let (own, key) = state.disk.lock().unwrap().clone().unwrap();
            assert_eq!(own, disk);
            let durable = Durable {
                pool,
                chunk,
                epoch,
                len,
                crc,
            };
            Ok(DataReply::Written {
                macs: vec![durable.sign(&key, disk)],
            })
        }
        other => Err(Error::malformed(format!("{other:?}"))),
    }
}

/// The words of these dataservers that a chunk of five bytes is durable.
pub fn receipt<'a>(
    chunk: ChunkId,
    epoch: Epoch,
    members: impl IntoIterator<Item = &'a Dataserver>,
) -> Receipt {
    let durable = Durable {
        pool: POOL,
        chunk,
        epoch,
        len: 5,
        crc: Crc(7),
    };
    let words = members
        .into_iter()
        .map(|one| durable.sign(&one.key, one.disk));
    durable.receipt(words.collect())
}
