//! Registration and heartbeats of dataservers.

use super::Serving;
use super::caller::Peer;
use crate::state::command::{Action, Reply};
use crate::state::map_state::keys::keys_of;
use quarry_common::wire::meta::{Heartbeat, HeartbeatReply, MetaReply, Registered, Registration};
use quarry_common::{Error, Result};
use std::time::Instant;

impl Serving {
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
        self.health()
            .handle_heartbeat(server, reports, Instant::now());
        tracing::info!(%server, ?disks, "a dataserver registered");
        let keys = keys_of(&*self.kv, server)?;
        Ok(MetaReply::Registered(Registered {
            cluster: self.map().topology.cluster,
            disks,
            keys,
        }))
    }

    pub(super) async fn heartbeat(&self, peer: &Peer, heartbeat: Heartbeat) -> Result<MetaReply> {
        let server = peer.dataserver()?;
        // The answer is a lease for writing: only a majority gives it (DESIGN §4.2.7).
        self.consensus.read_barrier().await?;
        self.health()
            .handle_heartbeat(server, heartbeat.disks, Instant::now());
        let keys = keys_of(&*self.kv, server)?;
        let map = self.map().update_since(heartbeat.epoch, None);
        Ok(MetaReply::Heartbeat(HeartbeatReply { map, keys }))
    }
}
