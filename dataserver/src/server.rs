//! The life of a dataserver: look, open, register, serve, stop.

use crate::collect;
use crate::config::DataserverConfig;
use crate::dial::Dial;
use crate::disk::{Disk, contacts};
use crate::heartbeat;
use crate::membership::Membership;
use crate::metaservers::Metaservers;
use crate::node::Node;
use crate::opening::Directories;
use crate::read::files::{self, Files};
use crate::repair;
use crate::serve;
use quarry_common::identity::{Identity, PeerName, Role};
use quarry_common::ids::{DiskId, ProcessNumber};
use quarry_common::net::Endpoint;
use quarry_common::wire::meta::{DiskReport, MetaBody, MetaReply, Registered, Registration};
use quarry_common::{Code, Error, Kind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often a registration is tried again.
const REGISTER_EVERY: Duration = Duration::from_millis(300);

/// How long a registration may take: it is a command of the metaservers' log.
const REGISTER_WAIT: Duration = Duration::from_secs(5);

/// How often a dataserver that waits for the metaservers says so.
const LOG_EVERY: Duration = Duration::from_secs(3);

/// How long a start waits for the first heartbeat's answer, without which no write is taken.
const FIRST_BEAT_WAIT: Duration = Duration::from_secs(2);

/// How long a stop waits for streams to end.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// A dataserver that serves.
pub struct Dataserver {
    node: Arc<Node>,
    endpoint: Endpoint,
    address: SocketAddr,
    cancel: CancellationToken,
    tasks: TaskTracker,
    beats: JoinHandle<()>,
}

impl Dataserver {
    /// Opens the disks, registers with the metaservers (waiting for them as long as it takes), makes disks
    /// of new directories, and serves. Needs a tokio runtime with several threads. If this is dropped
    /// before it is done, the disks are closed.
    ///
    /// # Errors
    /// `Configuration` and others whose text says what to settle: an address in use, another cluster's or
    /// a foreign directory, two copies of a disk, a second process with this identity; disks that the metaservers refuse, if they refuse all.
    pub async fn start(config: DataserverConfig, identity: Arc<Identity>) -> Result<Dataserver> {
        config.check()?;
        let name = identity.name().clone();
        if name.role != Role::Dataserver {
            let text = format!(
                "{name} is the identity of a {}, not of a dataserver",
                name.role
            );
            return Err(Error::new(Code::Configuration, text));
        }
        let endpoint = Endpoint::server(identity, config.listen, may_connect)?;
        let address = endpoint.local_addr()?;
        let dial = Dial::new(endpoint.clone());
        // What the operator says of one counts, whatever was noted of it.
        let noted = config
            .disks
            .iter()
            .flat_map(|disk| contacts::read(&disk.path));
        let known = noted.chain(config.metaservers.iter().cloned());
        let metaservers = Metaservers::new(dial.clone(), name.cluster, known);

        let (directories, registered) =
            disks(&config, &name, (address, endpoint.process()), &metaservers).await?;
        let membership = Membership::new(registered.keys);
        let disks = directories.into_disks();
        if disks.all().next().is_none() {
            tracing::error!(
                "no disk of this dataserver serves: it holds nothing until that is mended and it is started again"
            );
        }
        let (files, callers) = match Files::listen() {
            Ok((files, listener)) => (Some(files), Some(listener)),
            Err(error) => {
                tracing::warn!(
                    "clients on this host read over the network: no Unix socket can be had: {error}"
                );
                (None, None)
            }
        };
        let node = Arc::new(Node::new(name.cluster, membership, disks, dial, files));

        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let every = Duration::from_secs(config.collect_every_seconds);
        for disk in node.disks.all() {
            let (node, disk) = (Arc::clone(&node), disk.clone());
            let repair = repair::run(Arc::clone(&node), disk.clone(), metaservers.clone());
            let ends = cancel.clone();
            tasks.spawn(async move { Box::pin(ends.run_until_cancelled(repair)).await });
            let asked = metaservers.clone();
            tasks.spawn(collect::run(node, disk, asked, every, cancel.clone()));
        }
        let beats = heartbeat::run(Arc::clone(&node), metaservers, cancel.clone());
        let beats = tasks.spawn(beats);
        if !node.membership.wait_for_lease(FIRST_BEAT_WAIT).await {
            tracing::warn!("no heartbeat was answered yet: writes are refused until one is");
        }
        let accepting = accept(Arc::clone(&node), endpoint.clone(), tasks.clone());
        let ends = cancel.clone();
        tasks.spawn(async move { ends.run_until_cancelled(accepting).await });
        if let Some(callers) = callers {
            let handing_out = files::hand_out(Arc::clone(&node), callers, tasks.clone());
            let ends = cancel.clone();
            tasks.spawn(async move { ends.run_until_cancelled(handing_out).await });
        }
        tracing::info!("{name} serves at {address}");
        Ok(Dataserver {
            node,
            endpoint,
            address,
            cancel,
            tasks,
            beats,
        })
    }

    /// The address that it serves at.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What its parts share; for status and tests.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Stops: no new connections and heartbeats, a goodbye to the metaservers, then the end of all streams, then the disks. What was
    /// acknowledged is durable whether this runs or not.
    ///
    /// # Errors
    /// Those of the disks; all of them are stopped anyway.
    pub async fn stop(self) -> Result<()> {
        self.cancel.cancel();
        // The goodbye takes a moment; no task of ours panics.
        let _ = self.beats.await;
        self.endpoint.close("the dataserver is stopping").await;
        self.tasks.close();
        if tokio::time::timeout(STOP_WAIT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some streams have not ended: stopping without them");
        }
        let disks: Vec<Disk> = self.node.disks.all().cloned().collect();
        blocking(move || {
            let results: Vec<Result<()>> = disks.iter().map(Disk::stop).collect();
            results.into_iter().collect()
        })
        .await
    }
}

/// Users come with capabilities, dataservers with those of users; metaservers may ask what there is.
fn may_connect(name: &PeerName, _hash: &[u8; 32]) -> bool {
    match name.role {
        Role::User | Role::Dataserver | Role::Metaserver => true,
        Role::Join => false,
    }
}

async fn accept(node: Arc<Node>, endpoint: Endpoint, tasks: TaskTracker) {
    while let Some(connection) = endpoint.accept().await {
        let served = serve::connection(Arc::clone(&node), connection, tasks.clone());
        tasks.spawn(served);
    }
}

/// Opens, registers and formats.
async fn disks(
    config: &DataserverConfig,
    name: &PeerName,
    (address, process): (SocketAddr, ProcessNumber),
    metaservers: &Metaservers,
) -> Result<(Directories, Registered)> {
    // Before a disk is opened: each start writes its number, and the metaservers are to hear of each one.
    let introduction = MetaBody::Introduce {
        address: config.advertised(address),
        process,
    };
    insist(metaservers, introduction).await?;
    let (cluster, opening) = (name.cluster, config.clone());
    let mut directories = blocking(move || Directories::open(&opening, cluster)).await?;
    let registration = |disks: Vec<DiskReport>| Registration {
        address: config.advertised(address),
        host: config.host_label(),
        rack: config.rack.clone(),
        zone: config.zone.clone(),
        disks,
    };
    loop {
        let (with_reports, reports) = blocking(move || {
            let reports = directories.reports();
            Ok((directories, reports))
        })
        .await?;
        directories = with_reports;
        let registered = match register(metaservers, registration(reports.clone())).await {
            Err(error) if error.code == Code::Configuration && !directories.has_copies() => {
                let refused = refused(metaservers, &registration, reports, error).await?;
                directories = blocking(move || {
                    directories.leave_out(refused);
                    Ok(directories)
                })
                .await?;
                continue;
            }
            registered => registered?,
        };
        if registered.cluster != cluster {
            return Err(Error::new(
                Code::Configuration,
                format!(
                    "the metaservers are of cluster {}, this dataserver's identity is of {cluster}",
                    registered.cluster
                ),
            ));
        }
        if !directories.has_new() {
            let confirming = move || {
                directories.confirm();
                Ok(directories)
            };
            return Ok((blocking(confirming).await?, registered));
        }
        // And once more: the new disks' first start is to be known as well.
        let ids: Vec<DiskId> = registered.disks;
        directories = blocking(move || {
            directories.format_new(&ids)?;
            Ok(directories)
        })
        .await?;
    }
}

/// Finds out which of the disks the metaservers refuse, by their place in `reports`: they are registered one after the other,
/// and all of those again that were not refused. What is known comes first: an empty directory may be where one of them was.
///
/// # Errors
/// `why` the metaservers refused all of them together, if they refuse each.
async fn refused(
    metaservers: &Metaservers,
    registration: impl Fn(Vec<DiskReport>) -> Registration,
    reports: Vec<DiskReport>,
    why: Error,
) -> Result<BTreeMap<usize, Error>> {
    let (known, empty): (Vec<usize>, Vec<usize>) =
        (0..reports.len()).partition(|at| reports[*at].disk.is_some());
    let (mut accepted, mut refused) = (BTreeSet::new(), BTreeMap::new());
    for at in known.into_iter().chain(empty) {
        accepted.insert(at);
        let disks = accepted.iter().map(|at| reports[*at].clone()).collect();
        match register(metaservers, registration(disks)).await {
            Ok(_) => {}
            Err(error) if error.code == Code::Configuration => {
                accepted.remove(&at);
                refused.insert(at, error);
            }
            Err(error) => return Err(error),
        }
    }
    match accepted.is_empty() {
        true => Err(why),
        false => Ok(refused),
    }
}

async fn register(metaservers: &Metaservers, registration: Registration) -> Result<Registered> {
    match insist(metaservers, MetaBody::Register(registration)).await? {
        MetaReply::Registered(registered) => Ok(registered),
        _ => Err(Error::malformed("an answer to another question")),
    }
}

/// Asks until there is an answer that waiting does not change.
async fn insist(metaservers: &Metaservers, body: MetaBody) -> Result<MetaReply> {
    let began = Instant::now();
    let mut said_at: Option<Instant> = None;
    loop {
        let error = match metaservers.call(body.clone(), REGISTER_WAIT).await {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        if !matches!(error.kind(), Kind::Retry | Kind::Unavailable) {
            return Err(error);
        }
        let due = said_at.map_or(began, |at| at).elapsed() >= LOG_EVERY;
        if due || said_at.is_none() {
            match error.code {
                Code::NotReached => tracing::warn!("{error}"),
                _ => {
                    let named = metaservers.named();
                    tracing::warn!("waiting for a metaserver ({named}): {error}");
                }
            }
            said_at = Some(Instant::now());
        }
        tokio::time::sleep(REGISTER_EVERY).await;
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::bug(format!("work on the disks was lost: {error}"))))
}
