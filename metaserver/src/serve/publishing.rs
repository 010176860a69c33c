//! The law of publishing on the leader's side (DESIGN §4.2.7): whose receipt is of former members, is confirmed by the
//! present ones before the command is proposed. What decides is [`receipts`], where the command is applied.

use super::Serving;
use crate::state::command::{Action, Reply};
use crate::state::receipts;
use quarry_common::identity::PeerName;
use quarry_common::ids::{DiskId, RequestNumber, SessionId, Version};
use quarry_common::map::ClusterMap;
use quarry_common::token::receipt::Durable;
use quarry_common::token::{MemberMac, Receipt};
use quarry_common::wire::data::{DataReply, DataRequest};
use quarry_common::wire::meta::{Caller, Contents, Op, Publish};
use quarry_common::{Code, Error, Result, codec};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// A member may have to fetch chunks before it confirms them. What is not done by then goes on there, and the client, which
/// gives an attempt five seconds, sends the same request again.
const CONFIRM_WITHIN: Duration = Duration::from_secs(4);

/// Confirmations of one request under way at a time: half of what one dataserver copies at once for all of them.
const CONFIRMS_AT_ONCE: usize = 16;

/// The members may change while they confirm: so often it is begun again before the client is told to.
const ATTEMPTS: u32 = 4;

/// Between attempts the change is applied.
const PAUSE: Duration = Duration::from_millis(20);

/// A client's change, as it is proposed.
#[derive(Clone)]
pub(super) struct Mutation {
    pub seen: Version,
    pub session: SessionId,
    pub number: RequestNumber,
    pub answered_below: RequestNumber,
    pub caller: Caller,
    pub op: Op,
}

impl Serving {
    /// Proposes a change; first has the receipts in it confirmed that are of former members.
    ///
    /// # Errors
    /// The operation's own; `Overloaded` while present members do not answer: the same request again, later.
    pub(super) async fn mutate(self: &Arc<Self>, mutation: Mutation) -> Result<Reply> {
        if receipts_of(&mutation.op).next().is_none() {
            return self.propose(mutation.seen, mutation.action(None)).await;
        }
        let mut attempt = 1;
        loop {
            let map = self.map();
            let old = old_receipts(&mutation.op, &map);
            let confirmed = match old.is_empty() {
                true => None,
                false => Some(self.confirm_in_time(&map, old).await?),
            };
            let action = mutation.clone().action(confirmed);
            match self.propose(mutation.seen, action).await {
                // The members changed once more.
                Err(error) if error.code == Code::OldReceipt && attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(PAUSE).await;
                    self.load_map()?;
                }
                Err(error) if error.code == Code::OldReceipt => {
                    return Err(Error::new(Code::Overloaded, error.text));
                }
                other => return other,
            }
        }
    }

    /// What the members said, or why they can not, which is an answer too.
    ///
    /// # Errors
    /// `Overloaded` if that is not known yet.
    async fn confirm_in_time(
        self: &Arc<Self>,
        map: &Arc<ClusterMap>,
        old: Vec<Receipt>,
    ) -> Result<Result<Vec<Receipt>>> {
        match tokio::time::timeout(CONFIRM_WITHIN, self.confirm(map, old)).await {
            Ok(Err(error)) if error.code != Code::BadReceipt => {
                Err(Error::new(Code::Overloaded, error.text))
            }
            Ok(known) => Ok(known),
            Err(_) => {
                let text = "the members of the chunks' groups have changed and still fetch what they are to confirm: try again";
                Err(Error::new(Code::Overloaded, text))
            }
        }
    }

    /// The words of the present members for each chunk, as receipts of their own.
    ///
    /// # Errors
    /// `BadReceipt` if a chunk can not be confirmed however often it is asked for: the receipt is not what dataservers
    /// gave, or a member can get the chunk from nobody. Everything else passes.
    async fn confirm(
        self: &Arc<Self>,
        map: &Arc<ClusterMap>,
        old: Vec<Receipt>,
    ) -> Result<Vec<Receipt>> {
        let mut asked = Vec::new();
        let mut confirmed = Vec::with_capacity(old.len());
        for receipt in old {
            let (pg, row) = map.locate(receipt.pool, receipt.chunk)?;
            self.check_own_words(map, &receipt)?;
            tracing::debug!(pool = %receipt.pool, %pg, chunk = %receipt.chunk, "a receipt is of former members");
            let durable = Durable {
                epoch: row.epoch,
                ..receipt.durable()
            };
            asked.extend(row.chain().map(|disk| (confirmed.len(), disk, durable)));
            confirmed.push(durable.receipt(Vec::new()));
        }
        let (mut under_way, mut failed) = (JoinSet::new(), None);
        let mut rest = asked.into_iter();
        loop {
            while under_way.len() < CONFIRMS_AT_ONCE
                && let Some((at, disk, durable)) = rest.next()
            {
                let (serving, map) = (Arc::clone(self), Arc::clone(map));
                under_way.spawn(async move {
                    let word = serving.ask_member(&map, disk, durable).await;
                    (at, disk, word)
                });
            }
            match under_way.join_next().await {
                None => break,
                Some(Ok((at, _, Ok(word)))) => confirmed[at].macs.push(word),
                // The others go on: what they fetch now need not be fetched the next time.
                Some(Ok((at, disk, Err(error)))) => {
                    let error = refused(&confirmed[at], disk, error);
                    if error.code == Code::BadReceipt || failed.is_none() {
                        failed = Some(error);
                    }
                }
                Some(Err(error)) => return Err(Error::bug(format!("a task was lost: {error}"))),
            }
        }
        failed.map_or(Ok(confirmed), Err)
    }

    /// One member's word that it has a chunk; it fetches the chunk if it must.
    async fn ask_member(
        &self,
        map: &ClusterMap,
        disk: DiskId,
        durable: Durable,
    ) -> Result<MemberMac> {
        let (known, server) = map.disk(disk)?;
        let name = PeerName::dataserver(map.topology.cluster, known.server);
        let asked = async {
            let peer = self.dial.get(&name, &server.address).await?;
            let request = DataRequest::Confirm {
                disk,
                pool: durable.pool,
                chunk: durable.chunk,
                epoch: durable.epoch,
                len: durable.len,
                crc: durable.crc,
            };
            let answer = peer
                .requests
                .call(codec::encode(&request).into(), CONFIRM_WITHIN)
                .await?;
            codec::decode::<Result<DataReply>>("a dataserver's answer", &answer)?
        };
        let reply = asked.await.inspect_err(|error| {
            if matches!(
                error.code,
                Code::Unreachable | Code::OtherServer | Code::Disconnected
            ) {
                self.health().handle_suspect(map, known.server);
            }
        })?;
        let DataReply::Written { macs } = reply else {
            return Err(Error::malformed("the answer to another question"));
        };
        let word = macs.into_iter().find(|word| word.disk == disk);
        let word = word.ok_or_else(|| Error::malformed("no word of the disk that was asked"))?;
        let receipt = durable.receipt(vec![word.clone()]);
        receipts::check_words(&*self.kv.view(), &map.topology, &receipt, &[disk])?
            .map_err(|error| Error::malformed(error.text))?;
        Ok(word)
    }

    /// A receipt whose own words are wrong is nobody's: dataservers are not made to look for what a client invents.
    fn check_own_words(&self, map: &ClusterMap, receipt: &Receipt) -> Result<()> {
        let disks: BTreeSet<DiskId> = receipt.macs.iter().map(|word| word.disk).collect();
        let disks: Vec<DiskId> = disks.into_iter().collect();
        let min = map.pool(receipt.pool)?.redundancy.min_members();
        if disks.len() < min {
            let text = format!(
                "the receipt for chunk {} of pool {} has the words of {} disks, {min} are needed: write its bytes again to a new chunk",
                receipt.chunk,
                receipt.pool,
                disks.len()
            );
            return Err(Error::new(Code::BadReceipt, text));
        }
        let view = self.kv.view();
        receipts::check_words(&*view, &map.topology, receipt, &disks)?
    }
}

/// What a member's refusal means for the request.
fn refused(receipt: &Receipt, disk: DiskId, error: Error) -> Error {
    let (pool, chunk) = (receipt.pool, receipt.chunk);
    match error.code {
        Code::ChunkMissing | Code::ChecksumMismatch => {
            let text = format!(
                "the members of chunk {chunk} of pool {pool} have changed, and disk {disk} can get it from nobody ({error}): write its bytes again to a new chunk"
            );
            Error::new(Code::BadReceipt, text)
        }
        _ => {
            let text = format!(
                "the members of chunk {chunk} of pool {pool} have changed, and disk {disk} has not confirmed it yet: {error}"
            );
            Error::new(Code::Overloaded, text)
        }
    }
}

impl Mutation {
    fn action(self, confirmed: Option<Result<Vec<Receipt>>>) -> Action {
        let Mutation {
            session,
            number,
            answered_below,
            caller,
            op,
            ..
        } = self;
        match confirmed {
            None => Action::Mutate {
                session,
                number,
                answered_below,
                caller,
                op,
            },
            Some(confirmed) => Action::MutateConfirmed {
                session,
                number,
                answered_below,
                caller,
                op,
                confirmed,
            },
        }
    }
}

/// The receipts of an operation that are older than their group's members, each chunk and length once.
fn old_receipts(op: &Op, map: &ClusterMap) -> Vec<Receipt> {
    let mut old: Vec<Receipt> = Vec::new();
    let mut seen = BTreeSet::new();
    for receipt in receipts_of(op) {
        // What can not be located is refused where the command is applied.
        if let Ok((_, row)) = map.locate(receipt.pool, receipt.chunk)
            && receipt.epoch < row.epoch
            && seen.insert((receipt.pool, receipt.chunk, receipt.len, receipt.crc.0))
        {
            old.push(receipt.clone());
        }
    }
    old
}

/// All receipts of an operation.
fn receipts_of(op: &Op) -> Box<dyn Iterator<Item = &Receipt> + '_> {
    match op {
        Op::Publish(Publish {
            contents: Contents::Extents { receipts, .. },
            ..
        })
        | Op::CommitExtents { receipts, .. }
        | Op::Append { receipts, .. } => Box::new(receipts.iter()),
        Op::List { ops, .. } => Box::new(ops.iter().flat_map(|op| match op {
            Op::List { .. } => Box::new(std::iter::empty()),
            one => receipts_of(one),
        })),
        Op::Publish(Publish {
            contents: Contents::Unnamed(_),
            ..
        })
        | Op::Create { .. }
        | Op::Mkdir { .. }
        | Op::MakeNode { .. }
        | Op::Symlink { .. }
        | Op::Link { .. }
        | Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::RemoveTree { .. }
        | Op::Rename { .. }
        | Op::SetAttr { .. }
        | Op::SetXattr { .. }
        | Op::RemoveXattr { .. }
        | Op::CreateUnnamed { .. }
        | Op::Clone(_)
        | Op::GrantRange { .. } => Box::new(std::iter::empty()),
    }
}
