//! The life of a metaserver on one screen.

use crate::config::{ClusterSeed, MetaserverConfig};
use crate::kv::{Kv, Rocks, RocksOptions, warning};
use crate::raft::{Consensus, Network, Raft, RaftOptions};
use crate::serve::{Founding, Lead, Serving, Settings, accept_loop, lead};
use crate::state::apply::Machine;
use crate::state::map_state;
use quarry_common::identity::{Authority, Identity, Role};
use quarry_common::ids::{Epoch, ServerId, ShardId};
use quarry_common::map::ClusterMap;
use quarry_common::net::Endpoint;
use quarry_common::task::Stop;
use quarry_common::{Code, Error, Result};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Replaying what a crash left in the log takes seconds; this is for a slow disk.
const LEADING_WITHIN: Duration = Duration::from_secs(120);

/// How often a metaserver that has moved tells the others.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);

/// How often the room on the disk is looked at: a disk fills in minutes.
const LOOK_AT_ROOM_EVERY: Duration = Duration::from_secs(5);

/// How often it is said that there is little room, or that this metaserver was removed.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A running metaserver.
pub struct Metaserver {
    endpoint: Endpoint,
    raft: Arc<Raft>,
    stop: Stop,
}

impl Metaserver {
    /// Starts a metaserver on its state, and returns when it serves: a group of one when it leads, others when they
    /// take part. A new cluster begins with `seed`.
    ///
    /// # Errors
    /// `Configuration` for what an operator can mend: the port, the directory, the identity.
    pub async fn start(
        config: MetaserverConfig,
        identity: Arc<Identity>,
        authority: Authority,
        seed: Option<ClusterSeed>,
    ) -> Result<Metaserver> {
        let server = check_identity(&identity, &authority, seed.as_ref())?;
        if let Some(seed) = &seed
            && !has_state(&config.dir)
        {
            seed.check().map_err(|error| error.context("the seed"))?;
        }
        create_directory(&config.dir)?;
        check_directory(&config.dir)?;
        // The port first: a second metaserver on the same directory must not come near the state.
        let endpoint = Endpoint::server(Arc::clone(&identity), config.listen, |_, _| true)?;
        let address = match &config.advertise {
            Some(address) => address.clone(),
            None if config.listen.ip().is_unspecified() => {
                let text = format!(
                    "the metaserver listens at {}, which is no address that others can dial: set 'advertise'",
                    config.listen
                );
                return Err(Error::new(Code::Configuration, text));
            }
            None => endpoint.local_addr()?.to_string(),
        };

        let options = RocksOptions {
            cache_len: (config.cache_mib as usize) << 20,
            ..RocksOptions::default()
        };
        let kv: Arc<dyn Kv> = Arc::new(Rocks::open(&config.dir.join("state"), options)?);
        check_cluster(&map_state::load(&*kv.view())?, &identity, &config.dir)?;
        let founders = seed.iter().flat_map(|seed| seed.metaservers.clone());
        let options = RaftOptions {
            network: Network::over(endpoint.clone()),
            told_of: founders.chain(config.metaservers).collect(),
            ..RaftOptions::new(&config.dir, server, ShardId::FIRST)
        };
        let told_of = options.told_of.len();
        let raft = Arc::new(Raft::start(options, Arc::clone(&kv), Arc::new(Machine::new())).await?);
        let settings = Settings {
            dataservers_wanted: seed.as_ref().map_or(0, |seed| seed.dataservers as usize),
            doom_grace: Duration::from_secs(config.doom_grace_seconds),
            out_after: Duration::from_secs(config.out_after_seconds),
            dir: config.dir.clone(),
        };
        if !raft.is_initialised().await? {
            match &seed {
                Some(seed) => found(&raft, server, &address, seed).await?,
                None if told_of > 0 => tracing::info!("waiting for the metaservers to call"),
                None => return Err(no_seed(&config.dir)),
            }
        }

        let consensus: Arc<dyn Consensus> = Arc::clone(&raft) as Arc<dyn Consensus>;
        let serving = Arc::new(Serving::new(
            Arc::clone(&consensus),
            kv,
            identity,
            authority,
            endpoint.clone(),
            settings,
        ));
        let stop = Stop::new();
        let (leads, mut led) = watch::channel(Lead::No);
        let founding = Founding {
            seed,
            address: address.clone(),
        };
        stop.spawn(
            "leading",
            lead(Arc::clone(&serving), founding, leads, stop.clone()),
        );
        stop.spawn_cancellable("announcing", announce(Arc::clone(&consensus), address));
        stop.spawn_cancellable("room", watch_room(config.dir));
        let accepting = accept_loop(serving, Arc::clone(&raft), endpoint.clone(), stop.clone());
        stop.spawn_cancellable("accept", accepting);
        let metaserver = Metaserver {
            endpoint,
            raft,
            stop,
        };
        if metaserver.raft.is_sole_voter().await?
            && let Err(error) = wait_until_leading(&mut led).await
        {
            metaserver.stop().await?;
            return Err(error);
        }
        Ok(metaserver)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Stops: no new requests, then those under way, then the log and the state.
    pub async fn stop(self) -> Result<()> {
        self.stop.stop().await;
        self.endpoint.close("the metaserver is stopping").await;
        self.raft.stop().await
    }
}

async fn wait_until_leading(led: &mut watch::Receiver<Lead>) -> Result<()> {
    let settled = led.wait_for(|lead| *lead != Lead::No);
    match tokio::time::timeout(LEADING_WITHIN, settled).await {
        Ok(Ok(lead)) => match &*lead {
            Lead::Failed(error) => Err(error.clone()),
            Lead::No | Lead::Yes => Ok(()),
        },
        Ok(Err(_)) | Err(_) => Err(Error::new(
            Code::Unreachable,
            format!("this metaserver does not lead after {LEADING_WITHIN:?}: look into its log"),
        )),
    }
}

/// Begins the group of a new cluster, if it is this metaserver that does: the first of the seed. The others wait to
/// be called.
async fn found(raft: &Raft, server: ServerId, address: &str, seed: &ClusterSeed) -> Result<()> {
    if seed.metaservers.iter().map(|(id, _)| *id).min() != Some(server) {
        tracing::info!("waiting for the first metaserver to call");
        return Ok(());
    }
    if let Some(other) = raft.find_group().await {
        let text = format!(
            "this metaserver's directory is empty, and metaserver {other} is in a group already: if this one lost its \
             state, remove it with 'quarry metaserver remove {server}' and make a new one with 'quarry metaserver add'"
        );
        return Err(Error::new(Code::Configuration, text));
    }
    let members = seed.metaservers.iter().map(|(id, at)| match *id == server {
        true => (*id, address.to_owned()),
        false => (*id, at.clone()),
    });
    raft.init(&members.collect::<Vec<_>>()).await
}

/// Says that the disk of the directory is nearly full, again and again.
async fn watch_room(dir: PathBuf) {
    loop {
        match warning(&dir) {
            Some(words) => {
                tracing::warn!("{words}");
                tokio::time::sleep(SAY_AGAIN_AFTER).await;
            }
            None => tokio::time::sleep(LOOK_AT_ROOM_EVERY).await,
        }
    }
}

/// Tells the other metaservers where this one is reached, until they know.
async fn announce(consensus: Arc<dyn Consensus>, address: String) {
    loop {
        match consensus.announce(&address).await {
            Ok(()) => tokio::time::sleep(10 * ANNOUNCE_EVERY).await,
            Err(error) if error.code == Code::WrongRole => {
                tracing::warn!("{error}");
                tokio::time::sleep(SAY_AGAIN_AFTER).await;
            }
            Err(error) => {
                tracing::info!(%error, "the other metaservers do not know this one's address yet");
                tokio::time::sleep(ANNOUNCE_EVERY).await;
            }
        }
    }
}

/// Checks that a metaserver's identity, authority and seed belong together; returns which one it is.
///
/// # Errors
/// `Configuration`, with what to change.
pub fn check_identity(
    identity: &Identity,
    authority: &Authority,
    seed: Option<&ClusterSeed>,
) -> Result<ServerId> {
    let wrong = |text: String| Err(Error::new(Code::Configuration, text));
    let name = identity.name();
    if name.role != Role::Metaserver || name.cluster != authority.cluster() {
        return wrong(format!(
            "{name} is no metaserver of cluster {}, whose authority it has: use the identity that 'quarry cluster init' made for it",
            authority.cluster()
        ));
    }
    let server = name.server_id()?;
    let Some(seed) = seed else {
        return Ok(server);
    };
    if seed.cluster != name.cluster {
        return wrong(format!(
            "the certificate is of cluster {}, the seed of cluster {}: they must come from one 'quarry cluster init'",
            name.cluster, seed.cluster
        ));
    }
    if !seed.metaservers.iter().any(|(id, _)| *id == server) {
        return wrong(format!(
            "metaserver {server} is not one of those that the seed names: use the folder that 'quarry cluster init' made for it"
        ));
    }
    Ok(server)
}

fn create_directory(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|error| {
        let text = format!(
            "the metaserver's directory '{}' can not be made: check its path and rights",
            dir.display()
        );
        Error::new(Code::Configuration, text).with_source(error)
    })
}

/// What a metaserver makes in its directory.
const OWN: [&str; 4] = ["log", "new", "snapshots", "state"];

/// Whether a directory holds the state of a metaserver, or a part of it.
pub fn has_state(dir: &Path) -> bool {
    let has_some = |part: &str| {
        let mut entries = std::fs::read_dir(dir.join(part)).into_iter().flatten();
        entries.next().is_some()
    };
    has_some("state") || has_some("log")
}

/// Refuses a directory with things in it that are none of a metaserver's: it is somebody else's. What people put beside a
/// state, keys and configuration, and what a file system makes by itself is nobody's.
fn check_directory(dir: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        let text = format!(
            "the metaserver's directory '{}' can not be listed",
            dir.display()
        );
        Error::new(Code::Configuration, text).with_source(error)
    };
    let mut foreign = None;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        if OWN.contains(&&*name) {
            return Ok(());
        }
        let is_nobodys = name == "lost+found" || name.ends_with(".pem") || name.ends_with(".toml");
        if !is_nobodys {
            foreign = Some(name.into_owned());
        }
    }
    let Some(foreign) = foreign else {
        return Ok(());
    };
    let text = format!(
        "'{}' holds '{foreign}' and nothing of a metaserver: name its own directory as 'dir', or an empty one for a new one",
        dir.display()
    );
    Err(Error::new(Code::Configuration, text))
}

/// Refuses the state of another cluster, before anything of it is changed.
fn check_cluster(map: &ClusterMap, identity: &Identity, dir: &Path) -> Result<()> {
    let (found, own) = (map.topology.cluster, identity.name().cluster);
    if map.epoch == Epoch::ZERO || found == own {
        return Ok(());
    }
    let text = format!(
        "'{}' holds the state of cluster {found}, and the certificate is of cluster {own}: name this metaserver's own directory as 'dir'",
        dir.display()
    );
    Err(Error::new(Code::Configuration, text))
}

fn no_seed(dir: &Path) -> Error {
    let text = format!(
        "'{}' holds no metaserver's state, and no seed of a new cluster was given: check 'dir', or begin with 'quarry cluster init'",
        dir.display()
    );
    Error::new(Code::Configuration, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::identity::{PeerName, SERVER_VALID};
    use quarry_common::ids::ClusterId;
    use std::time::SystemTime;

    /// Starts metaserver 1 of a cluster of its own on a directory, and stops it.
    async fn start(cluster: u8, dir: &Path) -> Result<()> {
        start_with(cluster, dir, 1).await
    }

    /// With a seed of so many copies.
    async fn start_with(cluster: u8, dir: &Path, replicas: u8) -> Result<()> {
        let cluster = ClusterId([cluster; 16]);
        let authority = Authority::create(cluster, SystemTime::now())?;
        let name = PeerName::metaserver(cluster, ServerId(1));
        let identity = authority.issue(&name, SERVER_VALID, SystemTime::now())?;
        let seed = ClusterSeed {
            cluster,
            replicas,
            min_members: 1,
            pg_count: 4,
            dataservers: 1,
            metaservers: vec![(ServerId(1), "127.0.0.1:1".into())],
            users: Vec::new(),
        };
        let config = MetaserverConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: None,
            dir: dir.to_owned(),
            metaservers: Vec::new(),
            cache_mib: 16,
            doom_grace_seconds: 300,
            out_after_seconds: 600,
        };
        let started = Metaserver::start(config, Arc::new(identity), authority, Some(seed));
        started.await?.stop().await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_state_of_another_cluster_is_refused_and_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        start(1, dir.path()).await.unwrap();
        let refused = start(2, dir.path()).await.unwrap_err();
        assert_eq!(refused.code, Code::Configuration, "{refused}");
        let both = [1, 2].map(|cluster| ClusterId([cluster; 16]).to_string());
        assert!(both.iter().all(|id| refused.text.contains(id)), "{refused}");
        start(1, dir.path()).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_seed_counts_only_where_there_is_no_state() {
        let dir = tempfile::tempdir().unwrap();
        let refused = start_with(1, dir.path(), 3).await.unwrap_err();
        assert_eq!(refused.code, Code::Configuration, "{refused}");
        for part in ["the seed: replicas = 3", "fewer copies"] {
            assert!(refused.text.contains(part), "{refused}");
        }
        start_with(1, dir.path(), 1).await.unwrap();
        start_with(1, dir.path(), 3).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_directory_of_somebody_else_is_refused_and_nothing_is_made_in_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("chunks")).unwrap();
        let refused = start(1, dir.path()).await.unwrap_err();
        assert_eq!(refused.code, Code::Configuration, "{refused}");
        assert!(refused.text.contains("'chunks'"), "{refused}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        // What is beside a state is nobody's.
        start(1, &dir.path().join("chunks")).await.unwrap();
        for beside in ["identity.pem", "metaserver.toml", "lost+found"] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(beside), "").unwrap();
            start(1, dir.path()).await.unwrap();
        }
    }
}
