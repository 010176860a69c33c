//! What dataservers tell: registration, heartbeats, goodbyes, reports; and what they ask.

use super::caller::Peer;
use super::{Serving, lookup};
use crate::raft::blocking;
use crate::state::command::{Action, Reply};
use crate::state::map_state::keys::keys_of;
use quarry_common::config::values;
use quarry_common::ids::{ChunkId, DiskId, PgId, PoolId, ProcessNumber, ServerId};
use quarry_common::wire::meta::{
    Complete, Heartbeat, HeartbeatReply, MetaReply, Registered, Registration,
};
use quarry_common::{Code, Error, Result};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Groups in one report of completeness: one command of some 100 KiB.
const REPORTS_MAX: usize = 4_096;

/// Where a third of all packets is lost some handshakes take so long. Who asked waits for five seconds.
const DIAL_BACK_WITHIN: Duration = Duration::from_secs(3);

/// Those that are being introduced: one at a time for each, since a name may take a resolver's thread for a while.
pub(super) type BeingIntroduced = Mutex<BTreeSet<ServerId>>;

/// One of them, until it is dropped.
struct Introducing<'a> {
    all: &'a BeingIntroduced,
    server: ServerId,
}

impl<'a> Introducing<'a> {
    fn begin(all: &'a BeingIntroduced, server: ServerId) -> Result<Introducing<'a>> {
        let mut known = all.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.insert(server) {
            let text = format!("dataserver {server} is being introduced already");
            return Err(Error::new(Code::Overloaded, text));
        }
        Ok(Introducing { all, server })
    }
}

impl Drop for Introducing<'_> {
    fn drop(&mut self) {
        let mut known = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&self.server);
    }
}

impl Serving {
    /// A dataserver starts. It is let in if it is the one that answers where it says, and no other process with its identity
    /// does where it was before. Why it is not is told to people as well.
    pub(super) async fn introduce(
        &self,
        peer: &Peer,
        address: String,
        process: ProcessNumber,
    ) -> Result<MetaReply> {
        let server = peer.dataserver()?;
        let _one = Introducing::begin(&self.introducing, server)?;
        self.consensus.read_barrier().await?;
        let let_in = self.find_out(peer, server, &address, process).await;
        let refused = let_in.as_ref().err().map(|error| error.text.clone());
        self.health()
            .handle_introduced(server, refused, Instant::now());
        let_in.map(|()| MetaReply::Noted)
    }

    /// Who answers where it says, and where it was before.
    async fn find_out(
        &self,
        peer: &Peer,
        server: ServerId,
        address: &str,
        process: ProcessNumber,
    ) -> Result<()> {
        values::check_address("advertise", address)
            .map_err(|error| error.context(format_args!("dataserver {server}")))?;
        let map = self.map();
        let known = map.topology.servers.get(&server);
        let former = known.map(|known| known.address.as_str());
        let former = former.filter(|former| *former != address);
        let (here, there) = tokio::join!(self.who_is_at(peer, address), async {
            self.who_is_at(peer, former?).await.ok()
        });
        let own = self.identity.name().server_id()?;
        let is_other = |found: Option<ProcessNumber>| found.is_some_and(|found| found != process);
        let second = |at: &str| {
            let text = format!(
                "dataserver {server} runs already: another process with its identity answers at {at}; \
                 stop that one, or start this one with the identity of another dataserver"
            );
            Error::new(Code::Configuration, text)
        };
        match (here, former) {
            (_, Some(former)) if there.is_some_and(is_other) => Err(second(former)),
            (Ok(found), _) if is_other(found) => Err(second(address)),
            (Ok(_), _) => Ok(()),
            (Err(error), _) => {
                let text = format!(
                    "metaserver {own} can not reach {address}, which dataserver {server} advertises: set 'advertise' in its \
                     configuration to an address at which all others reach it, and let UDP through ({error})"
                );
                Err(Error::new(Code::NotReached, text))
            }
        }
    }

    /// Which process with the peer's certificate answers there now.
    async fn who_is_at(&self, peer: &Peer, address: &str) -> Result<Option<ProcessNumber>> {
        let dialling = tokio::time::timeout(DIAL_BACK_WITHIN, self.dial.anew(&peer.name, address));
        let late = |_| {
            let wait = DIAL_BACK_WITHIN.as_secs();
            let text = format!("no answer within {wait} s");
            Err(Error::new(Code::Unreachable, text))
        };
        Ok(dialling.await.unwrap_or_else(late)?.peer_process())
    }

    pub(super) async fn register(
        &self,
        peer: &Peer,
        registration: Registration,
    ) -> Result<MetaReply> {
        let server = peer.dataserver()?;
        let mut reports = registration.disks.clone();
        // The leader's randomness: what applies is in the command.
        let action = Action::Register {
            server,
            registration,
            secret: rand::random(),
        };
        let disks = match self.change_map(action).await? {
            Reply::Registered(disks) => disks,
            other => {
                return Err(Error::bug(format!(
                    "a registration was answered with {other:?}"
                )));
            }
        };
        for (report, disk) in reports.iter_mut().zip(&disks) {
            report.disk = Some(*disk);
        }
        let map = self.map();
        self.health()
            .handle_heartbeat(&map, server, reports, Instant::now());
        let named: Vec<String> = disks.iter().map(DiskId::to_string).collect();
        tracing::info!(
            "dataserver {server} registered, with disks {}",
            named.join(", ")
        );
        let keys = keys_of(&*self.kv, server)?;
        Ok(MetaReply::Registered(Registered {
            cluster: map.topology.cluster,
            disks,
            keys,
        }))
    }

    pub(super) async fn heartbeat(&self, peer: &Peer, heartbeat: Heartbeat) -> Result<MetaReply> {
        let server = peer.dataserver()?;
        let disks = heartbeat.disks;
        self.health()
            .handle_heartbeat(&self.map(), server, disks, Instant::now());
        // The answer is a lease for writing: only a majority gives it (DESIGN §4.2.7).
        self.consensus.read_barrier().await?;
        let map = self.map();
        let keys = keys_of(&*self.kv, server)?;
        let map = map.update_since(heartbeat.epoch, None);
        Ok(MetaReply::Heartbeat(HeartbeatReply { map, keys }))
    }

    /// A dataserver stops: what it was a member of gets substitutes at once.
    pub(super) fn goodbye(&self, peer: &Peer) -> Result<MetaReply> {
        let server = peer.dataserver()?;
        tracing::info!(%server, "a dataserver says goodbye");
        let now = Instant::now();
        self.health().handle_goodbye(&self.map(), server, now);
        self.map_changed.notify_one();
        Ok(MetaReply::Noted)
    }

    /// Somebody got no answer from a dataserver.
    pub(super) fn suspect(&self, peer: &Peer, server: ServerId) -> Result<MetaReply> {
        peer.user()
            .map(|_| ())
            .or_else(|_| peer.dataserver().map(|_| ()))?;
        tracing::debug!(%server, by = %peer.name, "a dataserver was reported");
        self.health().handle_suspect(&self.map(), server);
        Ok(MetaReply::Noted)
    }

    /// Filling members have everything. A dataserver speaks for its own disks alone.
    pub(super) async fn report_complete(
        &self,
        peer: &Peer,
        reports: Vec<Complete>,
    ) -> Result<MetaReply> {
        let server = peer.dataserver()?;
        if reports.len() > REPORTS_MAX {
            let count = reports.len();
            let text = format!("{count} groups in one report, {REPORTS_MAX} are the most");
            return Err(Error::malformed(text));
        }
        let map = self.map();
        let own = |report: &Complete| {
            let disk = map.topology.disks.get(&report.disk);
            disk.is_some_and(|disk| disk.server == server)
        };
        if let Some(other) = reports.iter().find(|report| !own(report)) {
            let text = format!("disk {} is not of dataserver {server}", other.disk);
            return Err(Error::new(Code::WrongRole, text));
        }
        let groups = reports.len();
        self.change_map(Action::Complete(reports)).await?;
        tracing::info!(%server, groups, "members have everything");
        Ok(MetaReply::Noted)
    }

    /// What is referenced in a group, as of now.
    pub(super) async fn group_chunks(
        &self,
        peer: &Peer,
        pool: PoolId,
        pg: PgId,
        from: Option<ChunkId>,
    ) -> Result<MetaReply> {
        peer.dataserver()?;
        self.consensus.read_barrier().await?;
        let map = self.map();
        let pg_count = map.pool(pool)?.pg_count;
        if pg.0 >= pg_count {
            return Err(Error::malformed(format!("there is no group {pool}.{pg}")));
        }
        let view = self.kv.view();
        let (chunks, next) = blocking(|| lookup::group_chunks(&*view, pool, (pg, pg_count), from))?;
        Ok(MetaReply::GroupChunks { chunks, next })
    }
}
