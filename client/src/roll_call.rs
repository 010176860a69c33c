//! Asks each metaserver by itself: what can be known of a cluster that nobody leads.

use crate::client_file::ClientFile;
use crate::transport::{Peer, Transport, quic::Quic};
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::{Epoch, ServerId, ShardId, Version};
use quarry_common::wire::meta::{MetaBody, MetaRequest, leader_named};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Who is well answers within milliseconds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// What each metaserver says when it is asked by itself, by number.
#[derive(Debug)]
pub struct RollCall(pub Vec<Asked>);

/// A metaserver that was asked.
#[derive(Debug)]
pub struct Asked {
    /// Its number.
    pub server: ServerId,
    /// Where it was asked.
    pub address: String,
    /// What it says.
    pub says: Says,
}

/// What a metaserver says of itself.
#[derive(Debug)]
pub enum Says {
    /// It leads.
    Leads,
    /// It does not; whom it takes for the leader.
    Follows(Option<ServerId>),
    /// Nothing, and why.
    Nothing(Error),
}

impl Asked {
    /// Whether it answered at all.
    pub fn answers(&self) -> bool {
        !matches!(self.says, Says::Nothing(_))
    }
}

impl RollCall {
    /// Of those that a client file names, and whom they name as the leader.
    ///
    /// # Errors
    /// `Configuration` for an identity that can not be used.
    pub async fn of(file: &ClientFile) -> Result<RollCall> {
        let servers = file.metaservers.iter().map(|server| Peer {
            server: server.id,
            address: server.address.clone(),
        });
        Ok(RollCall::over(Arc::new(Quic::new(file)?), servers.collect()).await)
    }

    /// The same over any transport.
    pub async fn over(transport: Arc<dyn Transport>, servers: Vec<Peer>) -> RollCall {
        let mut asking = JoinSet::new();
        let mut known: Vec<ServerId> = servers.iter().map(|peer| peer.server).collect();
        let ask = |asking: &mut JoinSet<_>, peer: Peer| {
            let transport = Arc::clone(&transport);
            asking.spawn(async move { ask(&*transport, peer).await });
        };
        servers.into_iter().for_each(|peer| ask(&mut asking, peer));
        let mut found = Vec::new();
        while let Some(asked) = asking.join_next().await {
            // A panic ends the process.
            let Ok((asked, named)) = asked else { continue };
            found.push(asked);
            if let Some(named) = named.filter(|named| !known.contains(&named.server)) {
                known.push(named.server);
                ask(&mut asking, named);
            }
        }
        found.sort_by_key(|asked| asked.server);
        RollCall(found)
    }

    /// Whether one leads, or as many answer as a leader needs.
    pub fn has_majority(&self) -> bool {
        if self.0.iter().any(|asked| matches!(asked.says, Says::Leads)) {
            return true;
        }
        let answering = self.0.iter().filter(|asked| asked.answers());
        answering.count() >= majority(self.0.len())
    }

    /// How many answer, how many a leader needs, and what to do.
    pub fn verdict(&self) -> String {
        let servers = self.0.iter();
        verdict(servers.map(|asked| (asked.server, asked.answers())))
    }
}

/// What one says, and whom it names as the leader.
async fn ask(transport: &dyn Transport, peer: Peer) -> (Asked, Option<Peer>) {
    let request = MetaRequest {
        shard: ShardId::FIRST,
        seen: Version(0),
        act_as: None,
        // What only a leader answers, and shortly.
        body: MetaBody::Map {
            since: Epoch(u64::MAX),
            from: None,
        },
    };
    let answer = transport.meta(&peer, &request, ANSWERS_WITHIN);
    let answer = tokio::time::timeout(ANSWERS_WITHIN, answer).await;
    let late = || Error::new(Code::Disconnected, "it does not answer");
    let mut named = None;
    let says = match answer.unwrap_or_else(|_| Err(late())) {
        Err(error) => Says::Nothing(error),
        Ok(answer) => match answer.result {
            Ok(_) => Says::Leads,
            Err(error) => {
                named = leader_named(&error).map(|(server, address)| Peer {
                    server,
                    address: address.to_owned(),
                });
                Says::Follows(named.as_ref().map(|named| named.server))
            }
        },
    };
    let Peer { server, address } = peer;
    let asked = Asked {
        server,
        address,
        says,
    };
    (asked, named)
}

fn majority(servers: usize) -> usize {
    servers / 2 + 1
}

/// How many of these metaservers answer, how many a leader needs, and what to do.
pub fn verdict(servers: impl IntoIterator<Item = (ServerId, bool)>) -> String {
    let (answering, silent): (Vec<_>, Vec<_>) =
        servers.into_iter().partition(|(_, answers)| *answers);
    let all = answering.len() + silent.len();
    let needed = majority(all);
    let counted = match (answering.len(), all) {
        (0, 1) => "the only metaserver does not answer".to_owned(),
        (1, 1) => "the only metaserver answers".to_owned(),
        (1, all) => format!("1 of {all} metaservers answers"),
        (some, all) => format!("{some} of {all} metaservers answer"),
    };
    let Some(missing) = needed.checked_sub(answering.len()).filter(|more| *more > 0) else {
        return format!("{counted}, and none leads yet: if that stays so, look into their logs");
    };
    let names: Vec<String> = silent.iter().map(|(id, _)| id.to_string()).collect();
    let start = match missing {
        1 => format!("start metaserver {}", names.join(" or ")),
        more => format!("start {more} of the metaservers {}", names.join(", ")),
    };
    match all {
        1 => format!("{counted}: {start}"),
        _ => format!("{counted}, and a leader needs {needed}: {start}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_and_what_is_to_be_started_is_told() {
        let of = |answers: &[bool]| {
            let numbered = answers.iter().zip(1..);
            verdict(numbered.map(|(answers, id)| (ServerId(id), *answers)))
        };
        assert_eq!(
            of(&[false, false, true]),
            "1 of 3 metaservers answers, and a leader needs 2: start metaserver 1 or 2"
        );
        assert_eq!(
            of(&[false; 3]),
            "0 of 3 metaservers answer, and a leader needs 2: start 2 of the metaservers 1, 2, 3"
        );
        assert_eq!(
            of(&[false]),
            "the only metaserver does not answer: start metaserver 1"
        );
        let elects = of(&[false, true, true]);
        assert!(elects.contains("2 of 3") && elects.contains("none leads yet"));
        assert!(of(&[true]).contains("none leads yet"));
    }
}
