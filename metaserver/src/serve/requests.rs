//! One request: from bytes to bytes.

use super::caller::Peer;
use super::publishing::Mutation;
use super::{Serving, lookup};
use crate::state::command::Reply;
use crate::state::keys::SystemKey;
use crate::state::ops::grant_range;
use crate::state::read;
use bytes::Bytes;
use quarry_common::ids::{ChunkId, PoolId, ShardId, Version};
use quarry_common::limits::{CAPABILITY_LIFE, MUTATION_LEN_MAX};
use quarry_common::time::Nanos;
use quarry_common::token::{Access, Capability};
use quarry_common::wire::meta::{
    AdminOp, MetaAnswer, MetaBody, MetaReply, MetaRequest, Op, OpReply, RangeGrant, Read,
};
use quarry_common::{Code, Error, Result, codec};
use std::sync::Arc;

impl Serving {
    /// Answers one request of a peer.
    pub(super) async fn handle(self: &Arc<Self>, peer: &Peer, bytes: Bytes) -> Bytes {
        let result = match codec::decode::<MetaRequest>("a request", &bytes) {
            Ok(MetaRequest {
                body: MetaBody::Mutate { .. },
                ..
            }) if bytes.len() > MUTATION_LEN_MAX => {
                let text = format!(
                    "a request of {} bytes; {MUTATION_LEN_MAX} are the most that change something",
                    bytes.len()
                );
                Err(Error::new(Code::TooBig, text))
            }
            Ok(request) => self.answer(peer, request).await,
            Err(error) => Err(error),
        };
        // The version may be older than the reply's: it is read before the reply is sent, after it was made.
        let (version, result) = match lookup::number(&*self.kv, SystemKey::LastVersion) {
            Ok(version) => (Version(version), result),
            Err(error) => (Version::default(), Err(error)),
        };
        codec::encode(&MetaAnswer {
            version,
            epoch: self.map().epoch,
            result,
        })
        .into()
    }

    async fn answer(self: &Arc<Self>, peer: &Peer, request: MetaRequest) -> Result<MetaReply> {
        if request.shard != ShardId::FIRST {
            return Err(Error::new(
                Code::OldMap,
                format!("shard {} is not served here", request.shard),
            ));
        }
        // The one question that is not for the leader alone.
        if !matches!(request.body, MetaBody::Admin(AdminOp::Members)) {
            self.check_leading()?;
        }
        match request.body {
            MetaBody::Read(read) => {
                self.consensus.read_barrier().await?;
                let caller = self.caller(peer, request.act_as)?;
                self.read(peer, &caller, &read).map(MetaReply::Read)
            }
            MetaBody::Mutate {
                session,
                number,
                answered_below,
                op,
            } => {
                let caller = self.caller(peer, request.act_as)?;
                self.check_session(peer, session)?;
                let is_first_grant = match op {
                    Op::GrantRange { pool, .. } => self.check_grant(pool)?,
                    _ => false,
                };
                let mutation = Mutation {
                    seen: self.seen(request.seen)?,
                    session,
                    number,
                    answered_below,
                    caller,
                    op,
                };
                let reply = self.mutate(mutation).await;
                if is_first_grant {
                    // It puts the pool in use.
                    self.load_map()?;
                }
                let reply = reply?;
                match reply {
                    Reply::Op(reply) => Ok(MetaReply::Done(self.complete(peer, reply)?)),
                    other => Err(Error::bug(format!(
                        "a mutation was answered with {other:?}"
                    ))),
                }
            }
            MetaBody::OpenSession => self.open_session(peer).await,
            MetaBody::RenewSession(renewal) => self.renew_session(peer, renewal).await,
            MetaBody::CloseSession(session) => self.close_session(peer, session).await,
            MetaBody::Map { since, from } => {
                self.consensus.read_barrier().await?;
                Ok(MetaReply::Map(self.map().update_since(since, from)))
            }
            MetaBody::Admin(op) => self.admin(peer, op).await.map(MetaReply::Admin),
            MetaBody::Introduce { address, process } => {
                self.introduce(peer, address, process).await
            }
            MetaBody::Register(registration) => self.register(peer, registration).await,
            MetaBody::Heartbeat(heartbeat) => self.heartbeat(peer, heartbeat).await,
            MetaBody::Due { disk, from } => self.due(peer, disk, from).await,
            MetaBody::Gone { disk, chunks } => self.note_gone(peer, disk, chunks).await,
            MetaBody::Has { disk, chunks } => self.handle_has(peer, disk, chunks).await,
            MetaBody::Goodbye => self.goodbye(peer),
            MetaBody::Suspect(server) => self.suspect(peer, server),
            MetaBody::ReportComplete(reports) => self.report_complete(peer, reports).await,
            MetaBody::GroupChunks { pool, pg, from } => {
                self.group_chunks(peer, pool, pg, from).await
            }
        }
    }

    fn read(
        &self,
        peer: &Peer,
        caller: &quarry_common::wire::meta::Caller,
        read: &Read,
    ) -> Result<quarry_common::wire::meta::ReadReply> {
        let view = self.kv.view();
        let key = self.capability_key()?;
        let expires_at = expiry();
        let capability = |pool: PoolId, chunk: ChunkId| {
            Capability::issue(
                &key,
                &peer.certificate,
                Access::Read,
                pool,
                chunk..=chunk,
                expires_at,
            )
        };
        read::read(&*view, caller, read, &capability)
    }

    /// What an asker says that it has seen, as far as it can be: there is one shard, so all versions come from here, and what
    /// was answered is applied. A greater one would set the time of all that follows ahead.
    fn seen(&self, claimed: Version) -> Result<Version> {
        let last = lookup::number(&*self.kv, SystemKey::LastVersion)?;
        Ok(claimed.min(Version(last)))
    }

    /// Adds what the state machine leaves out of replies: the right to write a range.
    fn complete(&self, peer: &Peer, reply: OpReply) -> Result<OpReply> {
        Ok(match reply {
            OpReply::Range(RangeGrant { range, .. }) => {
                let key = self.capability_key()?;
                let last = ChunkId(range.first.0 + u64::from(range.count.max(1)) - 1);
                let chunks = range.first..=last;
                let capability = Capability::issue(
                    &key,
                    &peer.certificate,
                    Access::Write,
                    range.pool,
                    chunks,
                    expiry(),
                );
                OpReply::Range(RangeGrant { range, capability })
            }
            OpReply::List(replies) => {
                let replies = replies.into_iter().map(|reply| self.complete(peer, reply));
                OpReply::List(replies.collect::<Result<_>>()?)
            }
            other => other,
        })
    }

    /// Whether a pool can be written, and whether this is the first time. Before a pool is in use its members are placed
    /// anew with every dataserver that comes; afterwards they stay. So the first chunk waits until all that are expected
    /// have come.
    fn check_grant(&self, id: PoolId) -> Result<bool> {
        let map = self.map();
        let pool = map.pool(id)?;
        if pool.in_use {
            let least = pool.redundancy.min_members();
            let rows = map.rows.get(&id).map_or(&[][..], Vec::as_slice);
            return match rows.iter().any(|row| row.present() < least) {
                true => Err(grant_range::too_few(&map.topology, pool)),
                false => Ok(false),
            };
        }
        let here = map.topology.servers.len();
        if here >= self.settings.dataservers_wanted {
            return Ok(true);
        }
        let text = format!(
            "{here} of {} dataservers have registered: start the others, then the first file can be written",
            self.settings.dataservers_wanted
        );
        Err(Error::new(Code::TooFewDisks, text))
    }
}

fn expiry() -> u64 {
    Nanos::now().parts().0.max(0).unsigned_abs() + CAPABILITY_LIFE.as_secs()
}
