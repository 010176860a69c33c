//! The life of a metaserver on one screen.

use crate::config::{ClusterSeed, MetaserverConfig};
use crate::kv::{Kv, Rocks, RocksOptions};
use crate::raft::{Consensus, Raft, RaftOptions};
use crate::serve::{Serving, accept_loop, keep_house, place};
use crate::state::apply::Machine;
use crate::state::command::{Action, Bootstrap};
use quarry_common::identity::{Authority, Identity, Role};
use quarry_common::ids::{KeyNumber, ServerId, ShardId};
use quarry_common::net::Endpoint;
use quarry_common::task::Stop;
use quarry_common::token::Key;
use quarry_common::{Code, Error, Result};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Replaying what a crash left in the log takes seconds; this is for a slow disk.
const LEADING_WITHIN: Duration = Duration::from_secs(120);

/// A running metaserver.
pub struct Metaserver {
    endpoint: Endpoint,
    raft: Arc<Raft>,
    stop: Stop,
}

impl Metaserver {
    /// Starts a metaserver on its state. A new one begins with `seed`.
    ///
    /// # Errors
    /// `Configuration` for what an operator can mend: the port, the directory, the identity.
    pub async fn start(
        config: MetaserverConfig,
        identity: Arc<Identity>,
        authority: Authority,
        seed: Option<ClusterSeed>,
    ) -> Result<Metaserver> {
        let server = check_identity(&identity, &authority)?;
        create_directory(&config.dir)?;
        // The port first: a second metaserver on the same directory must not come near the state.
        let endpoint = Endpoint::server(Arc::clone(&identity), config.listen, |_, _| true)?;
        let address = match &config.advertise {
            Some(address) => address.clone(),
            None => endpoint.local_addr()?.to_string(),
        };

        let options = RocksOptions {
            cache_len: (config.cache_mib as usize) << 20,
            ..RocksOptions::default()
        };
        let kv: Arc<dyn Kv> = Arc::new(Rocks::open(&config.dir.join("state"), options)?);
        let options = RaftOptions::new(&config.dir, server, ShardId::FIRST);
        let raft = Arc::new(Raft::start(options, Arc::clone(&kv), Arc::new(Machine::new())).await?);
        let dataservers_wanted = seed.as_ref().map_or(0, |seed| seed.dataservers as usize);
        if !raft.is_initialised().await? {
            let Some(seed) = &seed else {
                return Err(no_seed(&config.dir));
            };
            if seed.cluster != identity.name().cluster {
                let text = format!(
                    "the certificate is of cluster {}, the seed of cluster {}: they must come from one 'quarry cluster init'",
                    identity.name().cluster,
                    seed.cluster
                );
                return Err(Error::new(Code::Configuration, text));
            }
            raft.init(&address).await?;
        }
        raft.wait_until_leading(LEADING_WITHIN).await?;

        let consensus: Arc<dyn Consensus> = Arc::clone(&raft) as Arc<dyn Consensus>;
        let serving = Arc::new(Serving::new(
            consensus,
            kv,
            identity,
            authority,
            dataservers_wanted,
            Duration::from_secs(config.out_after_s),
            endpoint.clone(),
        )?);
        begin(&serving, seed, server, address).await?;

        let stop = Stop::new();
        stop.spawn_cancellable("housekeeping", keep_house(Arc::clone(&serving)));
        stop.spawn_cancellable("placement", place(Arc::clone(&serving)));
        stop.spawn_cancellable(
            "accept",
            accept_loop(serving, endpoint.clone(), stop.clone()),
        );
        Ok(Metaserver {
            endpoint,
            raft,
            stop,
        })
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

/// The first command of a new cluster; a known one is told where its metaserver is now.
async fn begin(
    serving: &Serving,
    seed: Option<ClusterSeed>,
    server: ServerId,
    address: String,
) -> Result<()> {
    let map = serving.map();
    if let (0, Some(seed)) = (map.topology.pools.len(), seed) {
        let bootstrap = Bootstrap {
            cluster: seed.cluster,
            metaservers: vec![(server, address)],
            pool: seed.pool(),
            capability_key: Key {
                number: KeyNumber(1),
                secret: rand::random(),
            },
            users: seed.users,
        };
        serving.change_map(Action::Bootstrap(bootstrap)).await?;
    } else if map.topology.metaservers.get(&server) != Some(&address) {
        serving
            .change_map(Action::SetMetaservers(vec![(server, address)]))
            .await?;
    }
    Ok(())
}

fn check_identity(identity: &Identity, authority: &Authority) -> Result<ServerId> {
    let name = identity.name();
    if name.role != Role::Metaserver || name.cluster != authority.cluster() {
        let text = format!(
            "{name} is no metaserver of cluster {}: use the identity that 'quarry cluster init' made for it",
            authority.cluster()
        );
        return Err(Error::new(Code::Configuration, text));
    }
    name.server_id()
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

fn no_seed(dir: &Path) -> Error {
    let text = format!(
        "'{}' holds no metaserver's state, and no seed of a new cluster was given: check 'dir', or begin with 'quarry cluster init'",
        dir.display()
    );
    Error::new(Code::Configuration, text)
}
