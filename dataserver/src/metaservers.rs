//! Requests to whichever metaserver leads.

use crate::dial::Dial;
use bytes::Bytes;
use quarry_common::identity::PeerName;
use quarry_common::ids::{ClusterId, ServerId, ShardId, Version};
use quarry_common::wire::meta::{MetaAnswer, MetaBody, MetaReply, MetaRequest, leader_named};
use quarry_common::{Code, Error, Kind, Result, codec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Requests to whichever metaserver leads: stays with the one that answered last. Clones know the same.
#[derive(Clone)]
pub struct Metaservers {
    dial: Dial,
    cluster: ClusterId,
    known: Arc<Mutex<Known>>,
}

/// Where they are, and who answers.
struct Known {
    addresses: BTreeMap<ServerId, String>,
    /// The one that is asked first.
    current: Option<ServerId>,
    /// Those that did not answer when they were last asked: asked after the others, since each costs the wait.
    silent: BTreeSet<ServerId>,
}

impl Metaservers {
    /// Those of the configuration, and those that were known at an earlier time: of two addresses the later one counts.
    pub fn new(
        dial: Dial,
        cluster: ClusterId,
        addresses: impl IntoIterator<Item = (ServerId, String)>,
    ) -> Metaservers {
        Metaservers {
            dial,
            cluster,
            known: Arc::new(Mutex::new(Known {
                addresses: addresses.into_iter().collect(),
                current: None,
                silent: BTreeSet::new(),
            })),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the addresses that the map knows; those of the configuration stay where it knows none.
    pub fn learn(&self, named: &BTreeMap<ServerId, String>) {
        let named = named.iter().map(|(id, address)| (*id, address.clone()));
        self.known().addresses.extend(named);
    }

    /// Their names and addresses, for people.
    pub fn named(&self) -> String {
        let known = self.known();
        let named = known
            .addresses
            .iter()
            .map(|(id, address)| format!("{id} at {address}"));
        named.collect::<Vec<_>>().join(", ")
    }

    /// Asks the one that answered last, and then whom it names and each of the others until one leads.
    ///
    /// # Errors
    /// What the leader says; the last failure if none was reached: `Unreachable`, `Disconnected`, `NotLeader`, and
    /// `Configuration` or another refusal of a connection only if there is none of those.
    pub async fn call(&self, body: MetaBody, wait: Duration) -> Result<MetaReply> {
        let request = Bytes::from(codec::encode(&MetaRequest {
            shard: ShardId::FIRST,
            seen: Version(0),
            act_as: None,
            body,
        }));
        let mut order = self.order();
        let mut moved = BTreeSet::new();
        let mut failed: Option<Error> = None;
        while let Some(id) = order.pop() {
            let (answered, result) = match self.ask(id, &request, wait).await {
                Ok(answer) => (true, answer.result),
                Err(error) => (false, Err(error)),
            };
            match result {
                // Whom we do not talk to, or who does not talk to us, has not answered: another may lead.
                Err(error) if !answered || is_elsewhere(&error) => {
                    let mut known = self.known();
                    match error.code {
                        Code::NotLeader => known.silent.remove(&id),
                        _ => known.silent.insert(id),
                    };
                    if let Some((leader, address)) = leader_named(&error) {
                        let there = known.addresses.get(&leader);
                        if there.is_none_or(|there| there != address) && moved.insert(leader) {
                            // It became one, or moved; its certificate shows who it is.
                            known.addresses.insert(leader, address.to_owned());
                            known.silent.remove(&leader);
                            order.retain(|other| *other != leader);
                            order.push(leader);
                        } else if !known.silent.contains(&leader)
                            && let Some(at) = order.iter().position(|other| *other == leader)
                        {
                            // Not one that was silent: the others may not know yet that it is gone.
                            order.remove(at);
                            order.push(leader);
                        }
                    }
                    // One that will be back is waited for, whatever is wrong with the others.
                    if is_elsewhere(&error) || !failed.as_ref().is_some_and(is_elsewhere) {
                        failed = Some(error.context(format_args!("metaserver {id}")));
                    }
                }
                settled => {
                    let mut known = self.known();
                    known.current = Some(id);
                    known.silent.remove(&id);
                    return settled;
                }
            }
        }
        self.known().current = None;
        Err(failed.unwrap_or_else(|| Error::new(Code::Unreachable, "no metaserver is known")))
    }

    /// Whom to ask, the first one last.
    fn order(&self) -> Vec<ServerId> {
        let known = self.known();
        let mut order: Vec<ServerId> = known.addresses.keys().copied().collect();
        let rank = |id: &ServerId| {
            let is_current = Some(*id) == known.current;
            (is_current, !known.silent.contains(id))
        };
        order.sort_by_key(rank);
        order
    }

    /// # Errors
    /// There is no answer.
    async fn ask(&self, id: ServerId, request: &Bytes, wait: Duration) -> Result<MetaAnswer> {
        let name = PeerName::metaserver(self.cluster, id);
        let address = self.known().addresses[&id].clone();
        let asking = async {
            let peer = self.dial.get(&name, &address).await?;
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
        codec::decode("a metaserver's answer", &answer)
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

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::identity::{Authority, USER_VALID};
    use quarry_common::net::Endpoint;
    use std::time::SystemTime;

    #[tokio::test]
    async fn what_one_learns_of_who_answers_all_clones_know() {
        let cluster = ClusterId([1; 16]);
        let authority = Authority::create(cluster, SystemTime::now()).unwrap();
        let name = PeerName::dataserver(cluster, ServerId(1));
        let identity = authority.issue(&name, USER_VALID, SystemTime::now());
        let endpoint = Endpoint::client(Arc::new(identity.unwrap())).unwrap();
        let ids = [1, 2, 3].map(ServerId);
        // Nobody is there, which is known at once.
        let addresses = ids.map(|id| (id, "nowhere".to_owned()));
        let metaservers = Metaservers::new(Dial::new(endpoint), cluster, addresses);
        let asked = metaservers.clone();
        let wait = Duration::from_secs(60);
        let failed = asked.call(MetaBody::Goodbye, wait).await.unwrap_err();
        assert_eq!(failed.code, Code::Unreachable);
        assert_eq!(metaservers.known().silent, BTreeSet::from(ids));
        asked.known().silent.remove(&ServerId(1));
        assert_eq!(metaservers.order().pop(), Some(ServerId(1)));
        asked.known().current = Some(ServerId(2));
        assert_eq!(metaservers.order().pop(), Some(ServerId(2)));
        asked.learn(&BTreeMap::from([(ServerId(4), "there".to_owned())]));
        assert!(metaservers.named().contains("4 at there"));
    }
}
