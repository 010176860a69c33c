//! Dataservers in one process over loopback, with a stand-in for the metaserver that answers from a
//! map made by hand.
#![allow(dead_code, missing_docs)]

pub mod client;
pub mod meta;

use client::Client;
use meta::Meta;
use quarry_common::Code;
use quarry_common::identity::{Authority, Identity, PeerName, SERVER_VALID, USER_VALID};
use quarry_common::ids::{ChunkId, ClusterId, DiskId, Epoch, KeyNumber, PoolId, ServerId};
use quarry_common::map::{ClusterMap, MemberState};
use quarry_common::token::{Access, Capability, CertificateHash, Key, Receipt};
use quarry_dataserver::disk::{Disk, Space};
use quarry_dataserver::{Dataserver, DataserverConfig, DiskConfig};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub const CLUSTER: ClusterId = ClusterId(*b"a test's cluster");
pub const POOL: PoolId = PoolId(1);

pub fn capability_key() -> Key {
    Key {
        number: KeyNumber(1),
        secret: [42; 32],
    }
}

pub fn receipt_key(server: ServerId) -> Key {
    Key {
        number: KeyNumber(100 + server.0),
        secret: [server.0 as u8; 32],
    }
}

/// `count` dataservers with a disk each: server 1 has disk 1, and so on.
pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub authority: Authority,
    pub meta: Meta,
    pub servers: BTreeMap<u32, Dataserver>,
}

impl Cluster {
    pub async fn start(count: u32) -> Cluster {
        Cluster::bare().await.with(count).await
    }

    /// With so many servers, which are the members of every group.
    pub async fn with(self, count: u32) -> Cluster {
        let mut cluster = self;
        for server in 1..=count {
            cluster.start_server(server).await;
        }
        let all: Vec<u32> = (1..=count).collect();
        cluster.place(&all).await;
        cluster
    }

    /// A metaserver alone, and memory for disks where there is some: a disk has hundreds of folders.
    pub async fn bare() -> Cluster {
        let memory = PathBuf::from("/dev/shm");
        let roomy = |path: &PathBuf| Space::of(path).is_ok_and(|space| space.free > 4 << 30);
        let folder = Some(memory).filter(roomy);
        Cluster::bare_in(folder.unwrap_or_else(build_folder)).await
    }

    /// A metaserver alone; the disks will be in `folder`.
    pub async fn bare_in(folder: PathBuf) -> Cluster {
        let authority = Authority::create(CLUSTER, SystemTime::now()).unwrap();
        let name = PeerName::metaserver(CLUSTER, ServerId(1));
        let identity = authority
            .issue(&name, SERVER_VALID, SystemTime::now())
            .unwrap();
        let dir = tempfile::tempdir_in(folder).unwrap();
        Cluster {
            dir,
            meta: Meta::start(Arc::new(identity)),
            authority,
            servers: BTreeMap::new(),
        }
    }

    pub fn disk_path(&self, server: u32) -> PathBuf {
        self.dir.path().join(format!("disk-{server}"))
    }

    pub fn config(&self, server: u32) -> DataserverConfig {
        DataserverConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            metaservers: vec![(ServerId(1), self.meta.address.to_string())],
            host: Some(format!("host-{server}")),
            rack: String::new(),
            zone: String::new(),
            disks: vec![DiskConfig {
                path: self.disk_path(server),
            }],
            direct_io: true,
            replace_disk: Vec::new(),
            collect_every_seconds: 3_600,
        }
    }

    pub fn identity_of(&self, server: u32) -> Arc<Identity> {
        let name = PeerName::dataserver(CLUSTER, ServerId(server));
        let issued = self.authority.issue(&name, SERVER_VALID, SystemTime::now());
        Arc::new(issued.unwrap())
    }

    pub async fn start_server(&mut self, server: u32) {
        let started = Dataserver::start(self.config(server), self.identity_of(server)).await;
        self.servers.insert(server, started.unwrap());
    }

    pub async fn stop_server(&mut self, server: u32) {
        self.servers.remove(&server).unwrap().stop().await.unwrap();
    }

    /// Makes these disks the complete members of every group, in that order; returns the epoch once all
    /// servers know it.
    pub async fn place(&self, disks: &[u32]) -> Epoch {
        let members: Vec<_> = disks
            .iter()
            .map(|disk| (*disk, MemberState::Complete))
            .collect();
        self.place_as(&members).await
    }

    pub async fn place_as(&self, disks: &[(u32, MemberState)]) -> Epoch {
        let epoch = self.meta.place(disks);
        for server in self.servers.values() {
            // Asks for a heartbeat now instead of within a second.
            let membership = &server.node().membership;
            let map = membership.map_of(POOL, ChunkId(0), epoch).await;
            assert!(map.unwrap().epoch >= epoch);
        }
        epoch
    }

    /// Exchanges members as a metaserver does; see [`Meta::exchange`].
    pub async fn exchange(&self, disks: &[u32]) -> Epoch {
        let epoch = self.meta.exchange(disks);
        for server in self.servers.values() {
            let membership = &server.node().membership;
            let map = membership.map_of(POOL, ChunkId(0), epoch).await;
            assert!(map.unwrap().epoch >= epoch);
        }
        epoch
    }

    /// The first disk of a server.
    pub fn disk(&self, server: u32) -> &Disk {
        let node = self.servers[&server].node();
        node.disks.get(DiskId(server)).unwrap()
    }

    /// Somebody with the certificate of a server.
    pub fn with_identity(&self, name: &PeerName) -> Client {
        let issued = self.authority.issue(name, SERVER_VALID, SystemTime::now());
        Client::new(Arc::new(issued.unwrap()), Arc::clone(&self.meta.map))
    }

    pub async fn wait_for(&self, epoch: Epoch) {
        for server in self.servers.values() {
            until(|| server.node().membership.map().epoch >= epoch).await;
        }
    }

    /// A client with its own certificate.
    pub fn client(&self, name: &str) -> Client {
        let name = PeerName::user(CLUSTER, name).unwrap();
        let issued = self.authority.issue(&name, USER_VALID, SystemTime::now());
        Client::new(Arc::new(issued.unwrap()), Arc::clone(&self.meta.map))
    }

    pub fn map(&self) -> ClusterMap {
        self.meta.map.lock().unwrap().clone()
    }

    pub fn epoch_of(&self, chunk: ChunkId) -> Epoch {
        self.map().locate(POOL, chunk).unwrap().1.epoch
    }

    /// Checks a receipt as a metaserver would.
    pub fn check(&self, receipt: &Receipt) {
        let map = self.map();
        let (_, row) = map.locate(POOL, receipt.chunk).unwrap();
        assert_eq!(row.epoch, receipt.epoch);
        let key_of = |disk: DiskId, number| {
            let key = receipt_key(map.disk(disk).ok()?.0.server);
            (key.number == number).then_some(key)
        };
        receipt.check(row.chain(), key_of).unwrap();
    }
}

/// A capability for every chunk.
pub fn capability(client: &CertificateHash, access: Access) -> Capability {
    let all = ChunkId(0)..=ChunkId(u64::MAX);
    Capability::issue(&capability_key(), client, access, POOL, all, u64::MAX)
}

pub async fn until(mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it did not happen within ten seconds");
}

/// Bytes that differ from chunk to chunk and place to place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub fn assert_code<T: std::fmt::Debug>(result: quarry_common::Result<T>, code: Code) -> String {
    let error = result.expect_err("it should have been refused");
    assert_eq!(error.code, code, "{error}");
    error.text
}

/// A folder on the file system of the build.
pub fn build_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.parent().unwrap().to_path_buf()
}
