//! A client: the one object that a program opens.

use crate::budget::Budget;
use crate::client_file::ClientFile;
use crate::data::{DataLink, DataOptions};
use crate::file::SharedFiles;
use crate::map_cache::MapCache;
use crate::meta::{MetaLink, unexpected};
use crate::session::Sessions;
use crate::transport::{Peer, Transport, quic::Quic};
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{Epoch, PoolId};
use quarry_common::map::ClusterMap;
use quarry_common::wire::meta::{
    AdminOp, Caller, MetaBody, MetaReply, Op, OpReply, Read, ReadReply, admin::AdminReply,
};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// How long to try, and where to write.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a metadata operation is retried.
    pub meta_deadline: Duration,
    /// How long a transfer may make no progress at all before it fails.
    pub data_deadline: Duration,
    /// The pool of new chunks; the cluster's first if left out.
    pub pool: Option<PoolId>,
    /// The failure domain of this machine: its replicas are read first. The host's name if left out.
    pub host: Option<String>,
    /// Bytes of open files that are written and not committed: with more, writers wait.
    pub dirty_max: u64,
    /// Whether chunks of dataservers on this host are read from their files, past the network. The
    /// bytes are checked either way; off is for measuring the network.
    pub same_host_reads: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            meta_deadline: Duration::from_secs(60),
            data_deadline: Duration::from_secs(300),
            pool: None,
            host: None,
            dirty_max: 256 << 20,
            same_host_reads: true,
        }
    }
}

/// A connection to a cluster as one user. Cheap to clone; clones share session and connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    act_as: Option<Arc<Caller>>,
}

pub(crate) struct Shared {
    pub(crate) file: ClientFile,
    pub(crate) options: Options,
    pub(crate) meta: Arc<MetaLink>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) data: Arc<DataLink>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) shared_files: SharedFiles,
}

impl Client {
    /// Connects with the usual options: finds the leader and fetches the cluster map.
    ///
    /// # Errors
    /// `Configuration` for an identity that can not be used, `Unreachable` if no metaserver
    /// answers within a minute, `WrongRole` if the cluster does not accept the certificate.
    pub async fn connect(file: ClientFile) -> Result<Client> {
        Client::connect_with(file, Options::default()).await
    }

    /// Connects.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(file: ClientFile, options: Options) -> Result<Client> {
        let transport = Arc::new(Quic::new(&file)?);
        Client::connect_over(transport, file, options).await
    }

    /// Connects over any transport.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_over(
        transport: Arc<dyn Transport>,
        file: ClientFile,
        options: Options,
    ) -> Result<Client> {
        let servers = file.metaservers.iter().map(|server| Peer {
            server: server.id,
            address: server.address.clone(),
        });
        let meta = Arc::new(MetaLink::new(transport.clone(), servers.collect()));
        let map = Arc::new(MapCache::default());
        let deadline = Instant::now() + options.meta_deadline;
        let found = map.fetch(&meta, None, deadline).await;
        let found = found.map_err(|error| match error.code {
            Code::Configuration => file.unfit_at(SystemTime::now()).unwrap_or(error),
            _ => error,
        })?;
        if found.topology.cluster != file.cluster {
            let text = format!(
                "the metaservers are of cluster {}, the client file is for {}: get a new client file",
                found.topology.cluster, file.cluster
            );
            return Err(Error::new(Code::Configuration, text));
        }
        learn(&meta, &found);
        spawn_follower(Arc::downgrade(&map), &meta);
        let sessions = Arc::new(Sessions::new(meta.clone()));
        let data_options = DataOptions {
            deadline: options.data_deadline,
            pool: options.pool,
            host: options.host.clone(),
            same_host_reads: options.same_host_reads,
        };
        let data = DataLink::new(transport, meta.clone(), map, sessions.clone(), data_options);
        let budget = Arc::new(Budget::new(options.dirty_max));
        Ok(Client {
            shared: Arc::new(Shared {
                file,
                options,
                meta,
                sessions,
                data: Arc::new(data),
                budget,
                shared_files: SharedFiles::default(),
            }),
            act_as: None,
        })
    }

    /// The same client, whose requests are checked and owned as `caller`'s. For admins.
    pub fn act_as(&self, caller: Caller) -> Client {
        Client {
            shared: self.shared.clone(),
            act_as: Some(Arc::new(caller)),
        }
    }

    /// The same client, as its own user.
    pub(crate) fn itself(&self) -> Client {
        Client {
            shared: self.shared.clone(),
            act_as: None,
        }
    }

    /// Ends the session, so that nothing waits for its lease. Other clones may go on; their next
    /// mutation opens a new one.
    ///
    /// # Errors
    /// None today.
    pub async fn close(&self) -> Result<()> {
        self.shared.sessions.close().await;
        Ok(())
    }

    /// The file that this client was made from.
    pub fn file(&self) -> &ClientFile {
        &self.shared.file
    }

    /// What to do about the file that this client was made from, if half of the metaservers that it names are no more.
    pub fn outdated(&self) -> Option<String> {
        let map = self.map();
        self.file().outdated(&map.topology.metaservers)
    }

    /// The cluster map as far as this client knows it.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.shared.data.map.get()
    }

    /// Fetches what changed in the cluster map.
    ///
    /// # Errors
    /// As any call to the metaservers.
    pub async fn refresh_map(&self) -> Result<Arc<ClusterMap>> {
        let deadline = self.meta_deadline();
        let map = &self.shared.data.map;
        let map = map.fetch(&self.shared.meta, None, deadline).await?;
        learn(&self.shared.meta, &map);
        Ok(map)
    }

    /// Bytes that this client and its clones have read past the network, from dataservers on this host.
    pub fn same_host_len(&self) -> u64 {
        self.shared.data.same_host.read_len()
    }

    pub(crate) fn meta_deadline(&self) -> Instant {
        Instant::now() + self.shared.options.meta_deadline
    }

    /// Reads some state of the namespace.
    ///
    /// # Errors
    /// The metaserver's own; `Unreachable` after the deadline.
    pub async fn read(&self, read: Read) -> Result<ReadReply> {
        let body = MetaBody::Read(read);
        let caller = self.act_as.as_deref();
        match self
            .shared
            .meta
            .call(caller, body, self.meta_deadline())
            .await?
        {
            MetaReply::Read(reply) => Ok(reply),
            _ => Err(unexpected("what was read")),
        }
    }

    /// Changes the namespace exactly once.
    ///
    /// # Errors
    /// The operation's own; `UnknownOutcome` if the session was lost or the deadline passed first.
    pub async fn mutate(&self, op: Op) -> Result<OpReply> {
        let caller = self.act_as.as_deref();
        self.shared
            .sessions
            .mutate(caller, op, self.meta_deadline())
            .await
    }

    /// An admin's request.
    ///
    /// # Errors
    /// The metaserver's own; `Unreachable` after the deadline.
    pub async fn admin(&self, op: AdminOp) -> Result<AdminReply> {
        let body = MetaBody::Admin(op);
        let caller = self.act_as.as_deref();
        match self
            .shared
            .meta
            .call(caller, body, self.meta_deadline())
            .await?
        {
            MetaReply::Admin(reply) => Ok(reply),
            _ => Err(unexpected("an admin's reply")),
        }
    }
}

fn learn(meta: &MetaLink, map: &ClusterMap) {
    let servers = map.topology.metaservers.iter();
    meta.learn(servers.map(|(id, address)| (*id, address.clone())));
}

/// Fetches the map whenever an answer named a newer epoch; ends with the client.
fn spawn_follower(map: std::sync::Weak<MapCache>, meta: &Arc<MetaLink>) {
    let mut newest: watch::Receiver<Epoch> = meta.newest_epoch();
    let meta = Arc::downgrade(meta);
    tokio::spawn(async move {
        while newest.changed().await.is_ok() {
            let wanted = *newest.borrow_and_update();
            let (Some(map), Some(meta)) = (map.upgrade(), meta.upgrade()) else {
                return;
            };
            let deadline = Instant::now() + Duration::from_secs(60);
            match map.fetch(&meta, Some(wanted), deadline).await {
                Ok(map) => learn(&meta, &map),
                Err(error) => tracing::warn!(%error, "the cluster map could not be fetched"),
            }
        }
    });
}
