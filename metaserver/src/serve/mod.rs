//! Answers requests of clients, dataservers and admins.
//!
//! [`Serving`] is what all of them share. A request goes through `requests`, which knows who
//! asks; changes go through Raft, reads through a barrier and a view of the state.

mod admin;
mod caller;
mod collect;
mod connection;
mod dataservers;
mod housekeeping;
mod leadership;
mod lookup;
mod members;
mod publishing;
mod requests;
mod sessions;

pub use collect::collect;
pub use connection::accept_loop;
pub use housekeeping::{keep_house, place};
pub use leadership::{Founding, Lead, lead};
pub use members::keep_members;

use crate::controller::Health;
use crate::kv::Kv;
use crate::raft::Consensus;
use crate::session::Leases;
use crate::state::command::{Action, Answer, Command, Reply};
use crate::state::map_state;
use quarry_common::identity::{Authority, Identity};
use quarry_common::ids::Version;
use quarry_common::map::ClusterMap;
use quarry_common::net::{Dial, Endpoint};
use quarry_common::token::Key;
use quarry_common::{Error, Result, codec};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What the admin decides about a leader.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The first chunk ids are given out after so many dataservers have registered.
    pub dataservers_wanted: usize,
    /// Disks delete a doomed chunk after this long.
    pub doom_grace: Duration,
    /// A disk that was down for this long is out.
    pub out_after: Duration,
    /// The directory of the state.
    pub dir: PathBuf,
}

/// What all requests of a metaserver share.
pub struct Serving {
    consensus: Arc<dyn Consensus>,
    kv: Arc<dyn Kv>,
    identity: Arc<Identity>,
    authority: Authority,
    settings: Settings,
    /// Whether what follows is there: only while this metaserver leads.
    serving: AtomicBool,
    /// The map in the state, and the newest key of capabilities; loaded after each change.
    map: RwLock<Arc<ClusterMap>>,
    capability_key: RwLock<Option<Key>>,
    leases: Mutex<Leases>,
    health: Mutex<Health>,
    /// The way to dataservers, for the leader's own questions.
    dial: Dial,
    introducing: dataservers::BeingIntroduced,
    /// Wakes the placement controller.
    map_changed: Notify,
}

impl Serving {
    /// Serves nothing but who leads until it leads itself.
    pub fn new(
        consensus: Arc<dyn Consensus>,
        kv: Arc<dyn Kv>,
        identity: Arc<Identity>,
        authority: Authority,
        endpoint: Endpoint,
        settings: Settings,
    ) -> Serving {
        let now = Instant::now();
        Serving {
            consensus,
            kv,
            identity,
            authority,
            health: Mutex::new(Health::new(settings.out_after, now)),
            settings,
            serving: AtomicBool::new(false),
            map: RwLock::default(),
            capability_key: RwLock::default(),
            leases: Mutex::new(Leases::new([], now)),
            dial: Dial::new(endpoint),
            introducing: Mutex::default(),
            map_changed: Notify::new(),
        }
    }

    /// Begins or ceases to serve as the leader.
    fn serves(&self, serves: bool) {
        self.serving.store(serves, Ordering::Release);
    }

    fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    /// Proposes a command and returns its reply.
    pub(crate) async fn propose(&self, seen: Version, action: Action) -> Result<Reply> {
        let bytes = codec::encode(&Command { seen, action });
        let answer = self.consensus.propose(bytes.into()).await?;
        codec::decode::<Answer>("the answer of a command", &answer)?
    }

    /// Proposes a command that changes the map, and takes the new map over.
    pub(crate) async fn change_map(&self, action: Action) -> Result<Reply> {
        let reply = self.propose(Version::default(), action).await;
        self.load_map()?;
        reply
    }

    /// Takes the map over from the state.
    pub(crate) fn load_map(&self) -> Result<()> {
        let view = self.kv.view();
        let map = map_state::load(&*view)?;
        *write(&self.capability_key) = map_state::keys::capability_keys(&*view)?.pop();
        let mut current = write(&self.map);
        if map.epoch >= current.epoch {
            *current = Arc::new(map);
        }
        drop(current);
        self.map_changed.notify_one();
        Ok(())
    }

    /// The map as of the last change that this metaserver has seen.
    pub(crate) fn map(&self) -> Arc<ClusterMap> {
        Arc::clone(&self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn capability_key(&self) -> Result<Key> {
        let key = self
            .capability_key
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        key.ok_or_else(|| Error::bug("the state has no key for capabilities"))
    }

    pub(crate) fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
