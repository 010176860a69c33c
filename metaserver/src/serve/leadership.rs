//! Beginning and ceasing to lead. What a leader keeps in memory lives exactly as long as its lead: it begins with
//! the state, in which everything is that earlier leaders answered, and nothing of it survives.

use super::{Serving, collect, keep_house, keep_members, place};
use crate::config::ClusterSeed;
use crate::raft::{blocking, not_leader};
use crate::session::Leases;
use crate::state::command::{Action, Bootstrap};
use crate::state::map_state::downs;
use crate::state::session;
use quarry_common::ids::{KeyNumber, ServerId};
use quarry_common::task::Stop;
use quarry_common::token::Key;
use quarry_common::{Error, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How soon a lead that could not begin is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Whether this metaserver serves as the leader.
#[derive(Clone, Debug, PartialEq)]
pub enum Lead {
    /// Another one leads, or nobody.
    No,
    /// It should, and could not begin.
    Failed(Error),
    /// It does.
    Yes,
}

/// What a leader brings along.
pub struct Founding {
    /// What a new cluster begins with.
    pub seed: Option<ClusterSeed>,
    /// Where this metaserver is reached.
    pub address: String,
}

/// Serves as the leader whenever this metaserver leads, until all is to stop; `lead` follows.
pub async fn lead(
    serving: Arc<Serving>,
    founding: Founding,
    lead: watch::Sender<Lead>,
    stop: Stop,
) {
    let mut leading = serving.consensus.leading();
    while !stop.is_stopped() {
        let begun = tokio::select! {
            () = stop.stopped() => return,
            begun = leading.wait_for(Option::is_some) => begun.map(|term| *term),
        };
        // Raft has ended.
        let Ok(term) = begun else { return };
        if let Err(error) = serving.begin_leading(&founding).await {
            tracing::warn!(%error, "this metaserver leads and can not serve yet");
            lead.send_replace(Lead::Failed(error));
            if !stop.sleep(AGAIN_AFTER).await {
                return;
            }
            continue;
        }
        tracing::info!(term, "this metaserver leads");
        lead.send_replace(Lead::Yes);
        let part = stop.part();
        part.spawn_cancellable("housekeeping", keep_house(Arc::clone(&serving)));
        part.spawn_cancellable("placement", place(Arc::clone(&serving)));
        part.spawn_cancellable("collection", collect(Arc::clone(&serving)));
        part.spawn_cancellable("members", keep_members(Arc::clone(&serving)));
        tokio::select! {
            () = stop.stopped() => {}
            _ = leading.wait_for(|now| *now != term) => {}
        }
        serving.end_leading();
        lead.send_replace(Lead::No);
        part.stop().await;
        tracing::info!(term, "this metaserver does not lead any more");
    }
}

impl Serving {
    async fn begin_leading(&self, founding: &Founding) -> Result<()> {
        // Behind a barrier: the state holds what was agreed on.
        self.consensus.read_barrier().await?;
        self.consensus.announce(&founding.address).await?;
        self.load_map()?;
        let members = self.voters();
        if let (0, Some(seed)) = (self.map().topology.pools.len(), &founding.seed) {
            self.change_map(Action::Bootstrap(bootstrap(seed, members)))
                .await?;
        }
        self.follow_members().await?;
        self.load_map()?;
        let now = Instant::now();
        // A full lease for everybody; and the silence of dataservers counts from now, beside what was noted of it.
        let sessions = blocking(|| session::all(&*self.kv))?.into_iter();
        let sessions = sessions.map(|(session, record)| (session, record.certificate));
        *self.leases() = Leases::new(sessions, now);
        self.health().reset(downs::downs(&*self.kv)?, now);
        self.serves(true);
        Ok(())
    }

    fn end_leading(&self) {
        self.serves(false);
        let now = Instant::now();
        *self.leases() = Leases::new([], now);
        self.health().reset([], now);
    }

    /// Refuses what only the leader may answer.
    ///
    /// # Errors
    /// `NotLeader`, whose text names the leader.
    pub(super) fn check_leading(&self) -> Result<()> {
        if self.is_serving() && self.consensus.is_leader() {
            return Ok(());
        }
        let leader = self.consensus.leader();
        let own = self.identity.name().server_id()?;
        Err(not_leader(
            leader.filter(|leader| leader.id != own).as_ref(),
        ))
    }

    /// Those who vote, and where they are: the metaservers of the map.
    pub(super) fn voters(&self) -> Vec<(ServerId, String)> {
        let members = self.consensus.members().into_iter();
        members
            .filter(|member| member.votes)
            .map(|member| (member.id, member.address))
            .collect()
    }
}

fn bootstrap(seed: &ClusterSeed, metaservers: Vec<(ServerId, String)>) -> Bootstrap {
    Bootstrap {
        cluster: seed.cluster,
        metaservers,
        pool: seed.pool(),
        capability_key: Key {
            number: KeyNumber(1),
            secret: rand::random(),
        },
        users: seed.users.clone(),
    }
}
