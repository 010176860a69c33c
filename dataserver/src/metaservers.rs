//! Requests to whichever metaserver leads.

use crate::dial::Dial;
use bytes::Bytes;
use quarry_common::identity::PeerName;
use quarry_common::ids::{ClusterId, ServerId, ShardId, Version};
use quarry_common::wire::meta::{MetaAnswer, MetaBody, MetaReply, MetaRequest};
use quarry_common::{Code, Error, Kind, Result, codec};
use std::collections::BTreeMap;
use std::time::Duration;

/// Requests to whichever metaserver leads: stays with the one that answered last.
#[derive(Clone)]
pub struct Metaservers {
    dial: Dial,
    cluster: ClusterId,
    addresses: BTreeMap<ServerId, String>,
    /// The one that is asked first.
    current: Option<ServerId>,
}

impl Metaservers {
    /// Those of the configuration.
    pub fn new(
        dial: Dial,
        cluster: ClusterId,
        addresses: impl IntoIterator<Item = (ServerId, String)>,
    ) -> Metaservers {
        Metaservers {
            dial,
            cluster,
            addresses: addresses.into_iter().collect(),
            current: None,
        }
    }

    /// Takes over the addresses that the map knows; those of the configuration stay where it knows none.
    pub fn learn(&mut self, known: &BTreeMap<ServerId, String>) {
        let known = known.iter().map(|(id, address)| (*id, address.clone()));
        self.addresses.extend(known);
    }

    /// Their names and addresses, for people.
    pub fn named(&self) -> String {
        let named = self
            .addresses
            .iter()
            .map(|(id, address)| format!("{id} at {address}"));
        named.collect::<Vec<_>>().join(", ")
    }

    /// Asks the one that answered last, and then each of the others until one leads.
    ///
    /// # Errors
    /// What the leader says; the last failure if none was reached: `Unreachable`, `Disconnected`, `NotLeader`.
    pub async fn call(&mut self, body: MetaBody, wait: Duration) -> Result<MetaReply> {
        let request = Bytes::from(codec::encode(&MetaRequest {
            shard: ShardId::FIRST,
            seen: Version(0),
            act_as: None,
            body,
        }));
        let mut order: Vec<ServerId> = self.addresses.keys().copied().collect();
        order.sort_by_key(|id| Some(*id) != self.current);
        let mut last = Error::new(Code::Unreachable, "no metaserver is known");
        for id in order {
            match self.ask(id, &request, wait).await {
                Err(error) if is_elsewhere(&error) => {
                    last = error.context(format_args!("metaserver {id}"));
                }
                settled => {
                    self.current = Some(id);
                    return settled;
                }
            }
        }
        self.current = None;
        Err(last)
    }

    async fn ask(&self, id: ServerId, request: &Bytes, wait: Duration) -> Result<MetaReply> {
        let name = PeerName::metaserver(self.cluster, id);
        let address = &self.addresses[&id];
        let asking = async {
            let peer = self.dial.get(&name, address).await?;
            peer.requests.call(request.clone(), wait).await
        };
        let late = |_| {
            Err(Error::new(
                Code::Unreachable,
                format!("no answer from {address} within {wait:?}"),
            ))
        };
        let answer = tokio::time::timeout(wait, asking)
            .await
            .unwrap_or_else(late)?;
        let answer: MetaAnswer = codec::decode("a metaserver's answer", &answer)?;
        answer.result
    }
}

/// Whether another metaserver may give a better answer.
fn is_elsewhere(error: &Error) -> bool {
    error.kind() == Kind::Unavailable
        || matches!(
            error.code,
            Code::NotLeader | Code::Disconnected | Code::Overloaded
        )
}
