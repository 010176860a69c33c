//! What the leader does about metaservers: lets those vote who have caught up, and tells everybody where they are.

use super::Serving;
use crate::raft::GroupMember;
use crate::state::command::{Action, Reply};
use quarry_common::identity::{PeerName, SERVER_VALID};
use quarry_common::wire::meta::admin::{AdminReply, Members};
use quarry_common::wire::meta::{MetaserverStatus, NewMetaserver};
use quarry_common::{Code, Error, Result};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(500);

/// Looks after the members for ever.
pub async fn keep_members(serving: Arc<Serving>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let settled = async {
            serving.consensus.settle_members().await?;
            serving.follow_members().await
        };
        if let Err(error) = settled.await {
            tracing::debug!(%error, "the members are looked after later");
        }
    }
}

impl Serving {
    /// Makes what a new metaserver needs, and invites it.
    pub(super) async fn add_metaserver(&self, address: String) -> Result<AdminReply> {
        let members = self.consensus.members();
        if let Some(there) = members.iter().find(|member| member.address == address) {
            let text = format!(
                "metaserver {} is at {address} already: if it was not started yet, remove it first with 'quarry metaserver remove {}'",
                there.id, there.id
            );
            return Err(Error::new(Code::Exists, text));
        }
        let map = self.map();
        let mut servers = map.topology.servers.iter();
        if let Some((server, _)) = servers.find(|(_, server)| server.address == address) {
            let text = format!(
                "dataserver {server} is at {address}: a metaserver needs an address of its own"
            );
            return Err(Error::new(Code::Exists, text));
        }
        let numbered = self
            .propose(Default::default(), Action::NumberMetaserver)
            .await?;
        let Reply::Metaserver(id) = numbered else {
            return Err(Error::bug("a number for a metaserver was asked for"));
        };
        let name = PeerName::metaserver(self.authority.cluster(), id);
        let identity = self
            .authority
            .issue(&name, SERVER_VALID, SystemTime::now())?;
        self.consensus.add_member(id, address.clone()).await?;
        tracing::info!(metaserver = %id, %address, "a metaserver was invited");
        Ok(AdminReply::NewMetaserver(Box::new(NewMetaserver {
            id,
            identity: identity.to_pem().to_owned(),
            authority: self.authority.to_pem().to_owned(),
            metaservers: self.voters(),
        })))
    }

    /// Who the metaservers are, as far as this one knows, which may have been removed.
    pub(super) fn members_known(&self) -> AdminReply {
        AdminReply::Members(Members {
            at: self.consensus.members_at(),
            voters: self.voters(),
        })
    }

    /// All metaservers, and how far each is.
    pub(super) async fn metaservers(&self) -> Result<Vec<MetaserverStatus>> {
        let standings = self.consensus.standings().await?;
        let own = self.identity.name().server_id()?;
        let status = |member: GroupMember| MetaserverStatus {
            standing: standings
                .iter()
                .find(|(id, _)| *id == member.id)
                .map(|(_, standing)| standing.clone()),
            leads: member.id == own,
            id: member.id,
            address: member.address,
            votes: member.votes,
        };
        Ok(self.consensus.members().into_iter().map(status).collect())
    }

    /// Lets the map name those who vote.
    pub(super) async fn follow_members(&self) -> Result<()> {
        let voters = self.voters();
        let known = self.map().topology.metaservers.clone();
        if known.into_iter().eq(voters.iter().cloned()) {
            return Ok(());
        }
        self.change_map(Action::SetMetaservers(voters)).await?;
        Ok(())
    }
}
