//! Requests of admins, and status.

use super::Serving;
use super::caller::Peer;
use crate::controller::count;
use crate::kv;
use crate::raft::blocking;
use crate::state::command::Action;
use crate::state::map_state::place::is_clean;
use crate::state::map_state::users;
use crate::state::read::usage::totals;
use quarry_common::identity::{PeerName, USER_VALID};
use quarry_common::ids::{DiskId, PgId, PoolId};
use quarry_common::limits::PAGE_ENTRIES_MAX;
use quarry_common::wire::meta::User;
use quarry_common::wire::meta::admin::{AdminOp, AdminReply, PgStatus, Settings, Status};
use quarry_common::{Code, Error, Result};
use std::collections::HashSet;
use std::time::{Instant, SystemTime};

impl Serving {
    pub(super) async fn admin(&self, peer: &Peer, op: AdminOp) -> Result<AdminReply> {
        peer.user()?;
        match op {
            AdminOp::Status => {
                self.consensus.read_barrier().await?;
                Ok(AdminReply::Status(Box::new(self.status()?)))
            }
            AdminOp::Warnings => {
                self.consensus.read_barrier().await?;
                let mut warnings = self.health().refused(Instant::now());
                warnings.extend(kv::warning(&self.settings.dir));
                Ok(AdminReply::Warnings(warnings))
            }
            AdminOp::Settings => {
                self.consensus.read_barrier().await?;
                Ok(AdminReply::Settings(Settings {
                    doom_grace_seconds: self.settings.doom_grace.as_secs(),
                    out_after_seconds: self.settings.out_after.as_secs(),
                }))
            }
            AdminOp::Pgs { pool, from } => {
                self.consensus.read_barrier().await?;
                Ok(AdminReply::Pgs(self.pgs(pool, from)?))
            }
            AdminOp::AddUser(user) => {
                self.check_admin(peer)?;
                self.add_user(user).await
            }
            AdminOp::RenewUser(name) => {
                self.check_admin(peer)?;
                self.consensus.read_barrier().await?;
                self.renew_user(&name)
            }
            AdminOp::Users => {
                self.consensus.read_barrier().await?;
                Ok(AdminReply::Users(users::users(&*self.kv)?))
            }
            AdminOp::AddMetaserver(address) => {
                self.check_admin(peer)?;
                self.add_metaserver(address).await
            }
            AdminOp::RemoveMetaserver(id) => {
                self.check_admin(peer)?;
                self.consensus.remove_member(id).await?;
                tracing::info!(metaserver = %id, "a metaserver was removed");
                Ok(AdminReply::Done)
            }
            AdminOp::Members => Ok(self.members_known()),
            AdminOp::Metaservers => {
                self.consensus.read_barrier().await?;
                Ok(AdminReply::Metaservers(self.metaservers().await?))
            }
        }
    }

    async fn add_user(&self, user: User) -> Result<AdminReply> {
        let name = PeerName::user(self.map().topology.cluster, &user.name)?;
        self.propose(Default::default(), Action::AddUser(user))
            .await?;
        self.issue(&name)
    }

    /// The certificates that the user has stay good: nothing is stored.
    fn renew_user(&self, name: &str) -> Result<AdminReply> {
        let Some(user) = users::user(&*self.kv, name)? else {
            let text = format!(
                "there is no user '{}': 'quarry user list' lists them, 'quarry user add' adds one",
                name.escape_debug()
            );
            return Err(Error::new(Code::NotFound, text));
        };
        let name = PeerName::user(self.map().topology.cluster, &user.name)?;
        tracing::info!(%name, "a user gets a new certificate");
        self.issue(&name)
    }

    fn issue(&self, name: &PeerName) -> Result<AdminReply> {
        let identity = self.authority.issue(name, USER_VALID, SystemTime::now())?;
        let metaservers = self
            .map()
            .topology
            .metaservers
            .iter()
            .map(|(id, at)| (*id, at.clone()))
            .collect();
        Ok(AdminReply::Identity {
            pem: identity.to_pem().to_owned(),
            metaservers,
        })
    }

    fn status(&self) -> Result<Status> {
        let map = self.map();
        let now = Instant::now();
        let view = self.kv.view();
        // Every session is visited.
        let totals = blocking(|| totals(&*view))?;
        let (servers, up, leads_for, none_goes_out) = {
            let health = self.health();
            let disks = map.topology.disks.iter();
            let up = disks.filter(|(id, disk)| health.is_read(**id, disk));
            let up: HashSet<DiskId> = up.map(|(id, _)| *id).collect();
            let (leads_for, many) = (health.listens_for(now), health.many_are_down(&map));
            (health.servers(&map, now), up, leads_for, many)
        };
        // It takes seconds with a thousand disks.
        let pools = blocking(|| {
            let pools = map.topology.pools.iter();
            let counted = pools.map(|(id, pool)| {
                let counts = count(&map, *id, pool, |disk| up.contains(&disk));
                (*id, pool.clone(), counts)
            });
            counted.collect()
        });
        Ok(Status {
            cluster: map.topology.cluster,
            epoch: map.epoch,
            leader: self.identity.name().server_id()?,
            leads_for_ms: u64::try_from(leads_for.as_millis()).unwrap_or(u64::MAX),
            none_goes_out,
            metaservers: map
                .topology
                .metaservers
                .iter()
                .map(|(id, at)| (*id, at.clone()))
                .collect(),
            servers,
            pools,
            bytes: totals.bytes,
            files: totals.files,
            directories: totals.directories,
            sessions: totals.sessions,
            orphans: totals.orphans,
            unreferenced_chunks: totals.unreferenced_chunks,
            doomed_chunks: self.doomed_chunks()?,
        })
    }

    fn pgs(&self, id: PoolId, from: PgId) -> Result<Vec<PgStatus>> {
        let map = self.map();
        let pool = map.topology.pools.get(&id).ok_or_else(|| {
            let text = format!("there is no pool {id}: 'quarry status' lists the pools");
            Error::new(Code::NotFound, text)
        })?;
        let Some(table) = map.rows.get(&id) else {
            return Ok(Vec::new());
        };
        let status = |(at, row): (usize, &quarry_common::map::Row)| {
            let pg = PgId(at as u32);
            PgStatus {
                pg,
                epoch: row.epoch,
                members: row
                    .members
                    .iter()
                    .map(|m| m.map(|m| (m.disk, m.state)))
                    .collect(),
                clean: is_clean(&map.topology, id, pool, pg, row),
                holders: row.holders.clone(),
            }
        };
        Ok(table
            .iter()
            .enumerate()
            .skip(from.0 as usize)
            .take(PAGE_ENTRIES_MAX)
            .map(status)
            .collect())
    }
}
